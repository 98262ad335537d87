"""Which run records a comparison needs, which of them are there, and what they say, as tidy frames.

A page names the cells of its comparison, collects their records and draws what there is; what is missing or damaged is
listed with the command that makes it, and never left out in silence.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from inconcert import records, stats
from inconcert.config import TIERS, InputError, unknown
from inconcert.records import Record

RESULTS: tuple[str, ...] = ("paper", "laptop")
"""The tiers whose numbers are results, best first; a smoke run only shows that the code works."""


class Cell(NamedTuple):
    """One entry of a comparison: a record that is wanted."""

    task: str
    algorithm: str
    variant: str = ""
    value: float | str | None = None
    """Of the setting that a sweep varies."""


def sweep(algorithm: str, parameter: str, values: Iterable[float | str], task: str, reading: str) -> list[Cell]:
    """The cells of one setting of one algorithm, varied: variant `<reading>-<parameter>-<value>` for each value."""
    return [Cell(task, algorithm, records.swept(reading, parameter, value), value) for value in values]


@dataclass(frozen=True)
class Found:
    """The records of a comparison, and what is wrong with the others."""

    asked: tuple[Cell, ...]
    tiers: dict[str, str]
    """Task -> the tier that was read."""
    records: dict[Cell, Record]
    damaged: dict[Cell, str]
    """Cell -> why its record cannot be read."""

    @property
    def missing(self) -> list[Cell]:
        """The cells without a readable record."""
        return [cell for cell in self.asked if cell not in self.records]

    def of(self, **fields: object) -> dict[Cell, Record]:
        """The records whose cells have these fields, such as `of(task="coordsum/3x10-30", algorithm="mat")`."""
        return {
            cell: record
            for cell, record in self.records.items()
            if all(getattr(cell, name) == value for name, value in fields.items())
        }

    def scores(self, phase: str = "best", mode: str = "sampled") -> pd.DataFrame:
        """Closing scores: columns task, algorithm, variant, value, tier, seed, score. See `records.final`."""
        parts = [
            _tidy(cell, record, records.final(record, phase, mode).rename("score").reset_index())
            for cell, record in self.records.items()
        ]
        return _joined(parts, ["seed", "score"])

    def curves(self, mode: str = "sampled", convention: str = "after") -> pd.DataFrame:
        """Learning curves: columns task, algorithm, variant, value, tier, seed, update, env_steps, mean_return.

        Records without that mode have no rows ("guider" stands only in records of algorithms that have one).
        """
        parts = [
            _tidy(cell, record, records.curve(record, mode, convention))
            for cell, record in self.records.items()
            if mode in set(record.frame.loc[record.frame["phase"] == "curve", "mode"])
        ]
        return _joined(parts, ["seed", "update", "env_steps", "mean_return"])

    def summary(self, phase: str = "best", mode: str = "sampled") -> pd.DataFrame:
        """A row per record: task, algorithm, variant, value, tier, mean, low, high (95 % t interval), seeds."""
        scores = self.scores(phase, mode)
        rows = []
        for cell in self.records:
            mine = _rows(scores, cell)
            sample = mine["score"].to_numpy(dtype=float)
            interval = stats.mean_ci(sample, method="t" if len(sample) > 1 else "bootstrap")
            rows.append(
                {
                    **cell._asdict(),
                    "tier": mine["tier"].iloc[0],
                    "mean": interval.estimate,
                    "low": interval.low,
                    "high": interval.high,
                    "seeds": len(sample),
                }
            )
        return pd.DataFrame(rows, columns=[*Cell._fields, "tier", "mean", "low", "high", "seeds"])

    def provenance(self) -> pd.DataFrame:
        """A row per record: what it cost, how fast it was, where it comes from and whether it is FRESH or STALE."""
        rows = []
        seen: set[str] = set()
        for record in self.records.values():
            name = records.relative_path(record.task, record.algorithm, record.tier, record.variant)
            if name.as_posix() in seen:  # two sweeps may share the record of the reading itself
                continue
            seen.add(name.as_posix())
            steps, seeds = int(record.frame["env_steps"].max()), len(record.seeds)
            cpu = float(record.meta["cpu_s"])
            rows.append(
                {
                    "record": name.with_suffix("").as_posix(),
                    "state": record.freshness(),
                    "seeds": seeds,
                    "million steps per seed": steps / 1e6,
                    "CPU hours": cpu / 3600,
                    "steps per CPU second": steps * seeds / cpu if cpu else float("nan"),
                    "hardware": record.meta["hardware"],
                    "date": record.meta["date"],
                    "commit": record.meta["commit"],
                }
            )
        columns = ["record", "state", "seeds", "million steps per seed", "CPU hours", "steps per CPU second"]
        return pd.DataFrame(rows, columns=[*columns, "hardware", "date", "commit"])

    def absent(self) -> pd.DataFrame:
        """A row per missing record: what it is of, why it is not here, and the command that makes it."""
        rows: dict[str, dict[str, str]] = {}
        written = records.algorithms()
        for cell in self.missing:
            tier = self.tiers[cell.task]
            variant = records.same_setting(cell.task, cell.algorithm, tier, cell.variant)
            command = records.command(cell.task, cell.algorithm, tier, variant)
            why = self.damaged.get(cell, "not run yet" if cell.algorithm in written else "algorithm not written yet")
            rows[command] = {
                "task": cell.task, "algorithm": cell.algorithm, "variant": variant, "why": why, "command": command,
            }  # fmt: skip
        return pd.DataFrame(list(rows.values()), columns=["task", "algorithm", "variant", "why", "command"])


def collect(cells: Iterable[Cell], tier: str = "recorded") -> Found:
    """The records of `cells`.

    Args:
        tier: one tier exactly; or "recorded": for each task the one result tier (paper or laptop) at which most of its
            cells have a record, so that what is compared on a task was trained on one budget. Of equals the better.

    Raises:
        InputError: an unknown tier.
    """
    if tier not in (*TIERS, "recorded"):
        raise unknown("tier", tier, [*TIERS, "recorded"])
    asked = tuple(dict.fromkeys(cells))
    tiers: dict[str, str] = {}
    found: dict[Cell, Record] = {}
    damaged: dict[Cell, str] = {}
    for task in dict.fromkeys(cell.task for cell in asked):
        own = [cell for cell in asked if cell.task == task]
        tries = {one: _read(own, one) for one in ((tier,) if tier != "recorded" else RESULTS)}
        chosen = max(tries, key=lambda one: len(tries[one][0]))  # of equals the first
        if not tries[chosen][0] and tier == "recorded":
            chosen = RESULTS[-1]  # nothing here: the tier that is made first
        tiers[task] = chosen
        found |= tries[chosen][0]
        damaged |= tries[chosen][1]
    return Found(asked, tiers, {cell: found[cell] for cell in asked if cell in found}, damaged)


def complete_block(have: Collection[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """The largest set of (algorithm, task) pairs in which every algorithm has every task: its algorithms and its tasks.

    Aggregates over tasks need the same tasks from every algorithm. Of equally large sets the one with more algorithms.

    >>> complete_block([("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "x")])
    (['a', 'b'], ['x', 'y'])
    """
    algorithms = sorted({algorithm for algorithm, _ in have})
    tasks = sorted({task for _, task in have})
    best: tuple[list[str], list[str]] = ([], [])
    for size in range(len(algorithms), 0, -1):
        for chosen in itertools.combinations(algorithms, size):
            common = [task for task in tasks if all((algorithm, task) in have for algorithm in chosen)]
            if len(common) * size > len(best[0]) * len(best[1]):
                best = list(chosen), common
    return best


def _read(cells: Sequence[Cell], tier: str) -> tuple[dict[Cell, Record], dict[Cell, str]]:
    found: dict[Cell, Record] = {}
    damaged: dict[Cell, str] = {}
    for cell in cells:
        own = records.same_setting(cell.task, cell.algorithm, tier, cell.variant)
        for variant in dict.fromkeys((own, cell.variant)):
            try:
                found[cell] = records.load(cell.task, cell.algorithm, tier, variant)
                break
            except records.MissingRecord:
                pass
            except InputError as error:
                damaged[cell] = str(error)
    return found, {cell: why for cell, why in damaged.items() if cell not in found}


def _tidy(cell: Cell, record: Record, frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` behind columns that say what it is of."""
    return frame.assign(**cell._asdict(), tier=record.tier)[[*Cell._fields, "tier", *frame.columns]]


def _joined(parts: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    if not parts:
        return pd.DataFrame(columns=[*Cell._fields, "tier", *columns])
    whole = [part.astype({"value": "object"}) for part in parts]  # numbers, names, or nothing at all
    return pd.concat(whole, ignore_index=True)


def _rows(frame: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    mine = (frame["task"] == cell.task) & (frame["algorithm"] == cell.algorithm) & (frame["variant"] == cell.variant)
    return frame[mine]
