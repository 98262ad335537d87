"""Making one run record: training with checkpoints, resuming, and seeds split over processes.

A run may be stopped at any moment (Ctrl-C, kill -9, a full disk, a dead machine): the same command continues from the
last checkpoint and ends with the same record, bit for bit on a CPU. Checkpoints lie beside the record, in
`<tier>.ckpt/`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from inconcert import exhibits, policies, provenance, records
from inconcert.config import InputError
from inconcert.evaluate import Evaluation


class Progress(NamedTuple):
    """A sign of life from one part of a run."""

    seeds: tuple[int, ...]
    update: int
    updates: int
    phase: str
    score: float  # mean over the part's seeds, first evaluation mode
    wall_s: float


class Plan(NamedTuple):
    """One record to be made. `changes` are single settings on top of the tier and the variant."""

    algorithm: str
    task: str
    tier: str
    variant: str
    changes: dict[str, Any]
    place: Path | None = None  # of the record, where it is not one of those that `records.find` lists

    @property
    def config(self) -> Any:
        """The whole setting, the algorithm's `Config`."""
        module = records.algorithm_module(self.algorithm)
        return module.configure(self.task, self.tier, self.variant, **self.changes)

    @property
    def path(self) -> Path:
        """Where the record goes."""
        if self.place is not None:
            return self.place
        name = records.relative_path(self.task, self.algorithm, self.tier, self.variant)
        return records.folders()[0] / name

    @property
    def checkpoints(self) -> Path:
        return self.path.with_suffix(".ckpt")

    def part(self, seeds: Sequence[int], suffix: str) -> Path:
        """A file of the part of the run that trains `seeds`."""
        return self.checkpoints / f"seeds-{'-'.join(map(str, seeds))}{suffix}"

    def policy(self, checkpoint: str) -> Path:
        """Where a policy of every seed goes, the "best" or that after a percentage of training; see `policies`."""
        return self.path.with_name(policies.file_name(self.path.stem, checkpoint))


def prepare(plan: Plan, jobs: int, restart: bool) -> list[tuple[int, ...]]:
    """Decide how seeds are split, or read how the half-finished run split them; the groups of seeds, in order.

    Raises:
        InputError: there is a half-finished run of other settings or sources.
    """
    now = records.fingerprint(plan.algorithm, plan.task, plan.tier, plan.variant, plan.changes)
    file = plan.checkpoints / "plan.json"
    if restart:
        records.discard(plan.checkpoints)
    if file.exists():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
            begun, groups = before["fingerprint"], [tuple(group) for group in before["groups"]]
        except (ValueError, KeyError, TypeError) as error:
            raise records.CorruptRecord(f"{file} is damaged; add --restart to begin again") from error
        if begun != now:
            raise InputError(
                f"{plan.checkpoints} holds a half-finished run of other settings or sources; "
                "add --restart to begin again, or --variant NAME to keep both"
            )
        return groups
    seeds = tuple(plan.config.seeds)
    groups = [tuple(part) for part in _split(seeds, min(jobs, len(seeds)))]
    records.write_atomic(file, json.dumps({"fingerprint": now, "groups": groups}).encode())
    return groups


def _split(seeds: Sequence[int], parts: int) -> list[Sequence[int]]:
    cuts = [round(i * len(seeds) / parts) for i in range(parts + 1)]
    return [seeds[a:b] for a, b in itertools.pairwise(cuts)]


def train(
    plan: Plan,
    jobs: int = 1,
    device: str = "cpu",
    restart: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Make the record of `plan`, or finish it, and return its path.

    Args:
        jobs: one-thread processes that the seeds are split over. An unfinished run keeps the split it began with.
        restart: forget an unfinished run first.
        report: called with every sign of life.

    Raises:
        InputError: see `prepare`.
        Diverged: a loss became NaN or infinite; the other parts of the run stop too and keep their checkpoints.
    """
    groups = prepare(plan, jobs, restart)
    if jobs == 1 or len(groups) == 1 or device != "cpu":
        for group in groups:
            train_part(plan, group, device, report)
    else:
        _train_in_processes(plan, groups, jobs, report)
    return join(plan, groups)


def _train_in_processes(
    plan: Plan, groups: Iterable[tuple[int, ...]], jobs: int, report: Callable[[Progress], None]
) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        queue = manager.Queue()
        with context.Pool(jobs) as pool:
            waiting = [pool.apply_async(train_part, (plan, group, "cpu", queue.put)) for group in groups]
            while waiting:
                for result in [result for result in waiting if result.ready()]:
                    result.get()  # raises what the part raised; leaving the pool stops the others
                    waiting.remove(result)
                while not queue.empty():
                    report(queue.get())
                time.sleep(0.1)
        while not queue.empty():
            report(queue.get())


def train_part(plan: Plan, seeds: tuple[int, ...], device: str, report: Callable[[Progress], None]) -> None:
    """Train `seeds` of the run, from their checkpoint if there is one, until their part of the record is written."""
    checkpoint, part = plan.part(seeds, ".safetensors"), plan.part(seeds, ".parquet")
    if part.exists():
        records.read(part)
        return
    if device == "cpu":
        torch.set_num_threads(1)  # the result must not depend on how many cores the machine has
    module = records.algorithm_module(plan.algorithm)
    config = dataclasses.replace(plan.config, seeds=seeds)
    frames: list[pd.DataFrame] = []
    state, wall_before, cpu_before = None, 0.0, 0.0
    if checkpoint.exists():
        state, meta = records.load_tensors(checkpoint)
        frames = [_rows(state)]
        wall_before, cpu_before = meta["wall_s"], meta["cpu_s"]
    wall, cpu = time.perf_counter(), time.process_time()
    parent = multiprocessing.parent_process()
    for evaluation in module.train(config, device, state):
        if parent is not None and not parent.is_alive():
            raise SystemExit("the process that started this one is gone; it may already run again")
        spent = {
            "wall_s": wall_before + time.perf_counter() - wall,
            "cpu_s": cpu_before + time.process_time() - cpu,
        }
        frames.append(records.tabulate(evaluation, seeds, spent["wall_s"]))
        last = evaluation
        if evaluation.phase == "curve":
            _checkpoint(checkpoint, evaluation, frames, spent)
        report(_progress(config, evaluation, spent["wall_s"]))
    wanted = {key: value for key, value in last.state().items() if key.startswith(("best.", "kept."))}
    records.save_tensors(plan.part(seeds, ".policy"), wanted, {})
    rows = pd.concat(frames, ignore_index=True)
    records.write_atomic(part, records.to_bytes(rows, {**spent, "device": device_name(device)}))
    checkpoint.unlink(missing_ok=True)


def so_far(plan: Plan) -> list[tuple[int, float]]:
    """Updates and scores, as `Progress` has them, that an unfinished run of one group of seeds has reported."""
    mode, seeds = plan.config.eval_modes[0], tuple(plan.config.seeds)
    checkpoint = plan.part(seeds, ".safetensors")
    if not checkpoint.exists():
        return []
    rows = _rows(records.load_tensors(checkpoint)[0])
    means = rows[rows["mode"] == mode].groupby("update")["episode_return"].mean()
    return [(int(update), float(score)) for update, score in means.items()]


def _rows(state: dict[str, Tensor]) -> pd.DataFrame:
    """Take the rows of the record out of a checkpoint."""
    return pd.read_parquet(BytesIO(state.pop("rows").numpy().tobytes()))


def _checkpoint(path: Path, evaluation: Evaluation, frames: list[pd.DataFrame], spent: dict[str, float]) -> None:
    buffer = BytesIO()
    pd.concat(frames, ignore_index=True).to_parquet(buffer, compression="zstd")
    rows = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    records.save_tensors(path, {**evaluation.state(), "rows": rows}, spent)


def _progress(config: Any, evaluation: Evaluation, wall_s: float) -> Progress:
    outcomes = evaluation.outcomes[config.eval_modes[0]]
    score = outcomes["episode_return"].mean().item()
    return Progress(config.seeds, evaluation.update, config.updates, evaluation.phase, score, wall_s)


def join(plan: Plan, groups: list[tuple[int, ...]]) -> Path:
    """Join the finished parts into the record, write it and the policies, and drop the checkpoints."""
    parts = [records.read(plan.part(group, ".parquet")) for group in groups]
    pieces = [records.load_tensors(plan.part(group, ".policy"))[0] for group in groups]
    tensors = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    frame = pd.concat([part.frame for part in parts], ignore_index=True)
    config = records.plain(dataclasses.asdict(plan.config))
    meta = {
        "task": plan.task,
        "algorithm": plan.algorithm,
        "variant": plan.variant,
        "tier": plan.tier,
        "changes": records.plain(plan.changes),
        "config": config,
        "fingerprint": records.fingerprint(plan.algorithm, plan.task, plan.tier, plan.variant, plan.changes),
        "digest": records.digest(frame),
        "groups": groups,
        "commit": commit(),
        "versions": versions(),
        "hardware": f"{parts[0].meta['device']}, {len(groups)} process(es)",
        "date": datetime.now(UTC).date().isoformat(),
        "wall_s": max(part.meta["wall_s"] for part in parts),
        "cpu_s": sum(part.meta["cpu_s"] for part in parts),
    }
    about = {name: meta[name] for name in ("task", "algorithm", "variant", "tier", "config", "digest")}
    for checkpoint in ("best", *map(str, plan.config.keep)):
        prefix = "best." if checkpoint == "best" else f"kept.{checkpoint}."
        policy = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        records.save_tensors(plan.policy(checkpoint), policy, {**about, "checkpoint": checkpoint})
    records.write_atomic(plan.path, records.to_bytes(frame, meta))
    records.discard(plan.checkpoints)
    return plan.path


def commit() -> str:
    """The repository's commit, with "+" where files differ from it; "unknown" outside a repository."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):

        def git(*arguments: str) -> str:
            return subprocess.check_output(["git", *arguments], cwd=exhibits.ROOT, text=True, stderr=subprocess.DEVNULL)

        return git("rev-parse", "--short=12", "HEAD").strip() + (
            "+" if git("status", "--porcelain", "src").strip() else ""
        )
    return "unknown"


def versions() -> dict[str, str]:
    """What a result was made with."""
    return {name: version(name) for name in ("torch", "numpy", "inconcert")} | {"python": platform.python_version()}


def device_name(device: str) -> str:
    """The machine, as a record names it."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    return f"{provenance.processor()}, 1 thread of {os.cpu_count()} cores"
