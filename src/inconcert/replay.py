"""Does a change of the sources move a record's numbers? Play the beginning of the run again and compare.

A record is STALE as soon as a line of the code behind it changes, also where the change only makes it faster or adds an
option. Every update runs the same code, so a change that moves numbers shows within the first few, bit for bit on a
processor of the same kind. A record that passes takes today's fingerprint, and keeps a note of the replay.
"""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from inconcert import records, runs
from inconcert.config import InputError, check_fields
from inconcert.records import Record


class Replay(NamedTuple):
    """What playing the beginning of a run again gave."""

    updates: int
    """The last update that was compared."""
    episodes: int
    """Evaluation episodes that were compared."""
    difference: str
    """The first difference, or "" if there is none."""


def replay(record: Record, evaluations: int = 3, device: str = "cpu") -> Replay:
    """Train anew up to the record's evaluation number `evaluations`, and compare all their episodes.

    Args:
        evaluations: counted from the untrained one.

    Raises:
        InputError: fewer than 2 evaluations, or a record of other settings than today's. A setting that has been
            added since may stand at its default.
    """
    if evaluations < 2:
        raise InputError(f"evaluations must be at least 2 (the first is untrained), not {evaluations}")
    module = records.algorithm_module(record.algorithm)
    stored = check_fields(module.Config, record.config)
    plan = runs.Plan(record.algorithm, record.task, record.tier, record.variant, record.meta["changes"])
    settings = records.plain(dataclasses.asdict(plan.config))
    moved = [name for name, value in records.plain(dataclasses.asdict(stored)).items() if settings[name] != value]
    if moved:
        raise InputError(f"{record.path} has other settings than today's ({', '.join(moved)}): run it again")
    updates = episodes = 0
    for group in record.meta["groups"]:
        config = dataclasses.replace(stored, seeds=tuple(group))
        for number, evaluation in enumerate(module.train(config, device, None), start=1):
            fresh = records.tabulate(evaluation, config.seeds, 0.0)
            then = record.frame[
                record.frame["seed"].isin(group)
                & (record.frame["update"] == evaluation.update)
                & (record.frame["phase"] == evaluation.phase)
            ]
            updates, episodes = evaluation.update, episodes + len(fresh)
            difference = _difference(then, fresh)
            if difference:
                return Replay(updates, episodes, f"update {evaluation.update}: {difference}")
            if number == evaluations:
                break
    return Replay(updates, episodes, "")


def _difference(then: pd.DataFrame, now: pd.DataFrame) -> str:
    keys = ["seed", "mode", "episode"]
    then, now = (frame.dropna(axis="columns", how="all") for frame in (then, now))  # columns of other evaluations
    if set(then.columns) != set(now.columns):
        return f"the record has other columns: {', '.join(sorted(set(then.columns) ^ set(now.columns)))}"
    both = [frame.drop(columns="wall_s").set_index(keys).sort_index() for frame in (then, now)]
    if not both[0].index.equals(both[1].index):
        return "the record has other episodes"
    for name in both[0].columns:
        old, new = (frame[name].to_numpy() for frame in both)
        missing = pd.isna(old) & pd.isna(new)  # a column of other modes' rows
        unequal = ((old != new) & ~missing).nonzero()[0]
        if len(unequal):
            which = dict(zip(keys, both[0].index[unequal[0]], strict=True))
            return f"{name} of {which} was {old[unequal[0]]}, is {new[unequal[0]]}"
    return ""


def accept(record: Record, result: Replay) -> Path:
    """Give `record` today's fingerprint, because `result` shows no difference, and note the replay in it.

    Raises:
        InputError: there is a difference.
    """
    if result.difference:
        raise InputError(f"{record.path} does not replay, run it again: {result.difference}")
    meta: dict[str, Any] = json.loads(json.dumps(record.meta))
    changes = record.meta["changes"]
    meta["fingerprint"] = records.fingerprint(record.algorithm, record.task, record.tier, record.variant, changes)
    note = {"date": datetime.now(UTC).date().isoformat(), "commit": runs.commit(), **result._asdict()}
    meta["replays"] = [*meta.get("replays", []), note]
    records.write_atomic(record.path, records.to_bytes(record.frame, meta))
    return record.path
