"""What an update costs as agents are added (MAGPO paper, Figure 8): memory and time, measured point by point.

    python -m inconcert measure              # what the record lacks; may be stopped and started again
    python -m inconcert measure --archive    # and copy the whole record to data/measurements, which ships with the book

An update is one rollout and one pass of learning over it, in one piece. Every point (networks, algorithm, number of
agents) has a process of its own, so that no memory of another point can be taken for its own.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import itertools
import json
import multiprocessing
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from inconcert import envs, onpolicy, provenance, records, runs, stats
from inconcert.config import InputError, unknown
from inconcert.measurements import Measurements

ALGORITHMS: tuple[str, ...] = ("magpo", "ctds", "happo", "mappo", "mat", "sable")
AGENTS: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
ENVS, STEPS = 16, 32
"""Parallel environments, and steps in each of them, of a rollout."""
REPEATS = 3
"""Updates that are timed, after one that is not."""


class Setting(NamedTuple):
    """Which networks are measured, for which algorithms."""

    tier: str
    """Whose networks an algorithm's `configure` gives."""
    what: str
    algorithms: tuple[str, ...] = ALGORITHMS
    tokens: int = 0
    """Tokens (agents times steps) that Sable weighs pair by pair; 0 leaves the number of steps as it is."""


SETTINGS: dict[str, Setting] = {
    "laptop": Setting("laptop", "this book's small networks, without memory in time"),
    "paper": Setting("paper", "the authors' networks, with memory in time"),
    "paper-chunked": Setting("paper", "the same, Sable's chunks cut to 64 tokens", ("magpo",), tokens=64),
}

Quantity = Literal["memory", "update", "collect", "learn"]
QUANTITIES: dict[Quantity, str] = {
    "memory": "memory_mb", "update": "update_s", "collect": "collect_s", "learn": "learn_s",
}  # fmt: skip
"""What is measured, and its column in `table`. An update collects and learns."""
WORDS: dict[Quantity, str] = {
    "memory": "memory", "update": "the time of an update", "collect": "the time of collecting",
    "learn": "the time of learning",
}  # fmt: skip
"""How evidence speaks of it."""

Line: TypeAlias = pd.Series
"""A cost for each number of agents, which is the index."""


class Point(NamedTuple):
    """One measurement."""

    setting: str
    algorithm: str
    agents: int

    @property
    def task(self) -> str:
        """CoordSum with 10 actions for each agent, and targets up to 10 for each agent."""
        return f"coordsum/{self.agents}x10-{10 * self.agents}"


def points(
    settings: Iterable[str] = tuple(SETTINGS),
    algorithms: Iterable[str] = ALGORITHMS,
    agents: Iterable[int] = AGENTS,
) -> list[Point]:
    """The measurements of these settings, algorithms and numbers of agents; all of the record by default.

    Raises:
        InputError: an unknown setting or algorithm, a number of agents that is no positive integer, or no point at all.
    """
    settings, algorithms, agents = tuple(settings), tuple(algorithms), tuple(agents)
    for kind, names, valid in (("setting", settings, tuple(SETTINGS)), ("algorithm", algorithms, ALGORITHMS)):
        for name in names:
            if name not in valid:
                raise unknown(kind, name, valid)
    for count in agents:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"a number of agents must be a positive integer, not {count!r}")
    product = itertools.product(dict.fromkeys(settings), dict.fromkeys(algorithms), sorted(set(agents)))
    found = [Point(*entry) for entry in product if entry[1] in SETTINGS[entry[0]].algorithms]
    if not found:
        raise InputError("nothing to measure: name at least one setting, one algorithm that it has and one size")
    return found


def configure(point: Point) -> Any:
    """The setting of a point, the algorithm's `Config`.

    One seed, one pass in one piece. The target is shown as a number: coded as features it would take as many as there
    are targets, and the environment's input itself would grow with the square of the agents.
    """
    setting = SETTINGS[point.setting]
    changes: dict[str, Any] = {
        "seeds": (0,), "num_envs": ENVS, "rollout": STEPS, "epochs": 1, "minibatches": 1,
        "env_options": {"code": "integer"},
    }  # fmt: skip
    if setting.tokens:
        changes["timestep_chunk"] = max(1, setting.tokens // point.agents)
    return records.algorithm_module(point.algorithm).configure(point.task, setting.tier, "clamped", **changes)


# ----------------------------------------------------------------------------------------------------------- measuring


def start(algorithm: str, config: Any, device: str = "cpu") -> tuple[onpolicy.Learner, envs.VectorEnv, dict[str, Any]]:
    """A learner, its environment and the situation that its first rollout begins in; see `onpolicy.collect`."""
    module = records.algorithm_module(algorithm)
    build = module.Learner if hasattr(module, "Learner") else module.learner
    env = envs.make(config.task, config.num_envs, config.seeds, device, **config.env_options)
    learner: onpolicy.Learner = build(config, env.spec, device)
    begun = torch.ones(len(config.seeds), config.num_envs, dtype=torch.bool, device=device)
    return learner, env, {"step": env.reset(), "start": begun, **learner.memories(config.num_envs)}


def measure(point: Point, repeats: int = REPEATS, device: str = "cpu") -> pd.DataFrame:
    """Measure a point in this process: `isolated` gives each a process of its own.

    Memory is the largest resident set (on a GPU: the largest sum of live tensors) from before the learner is built,
    less what is resident then. A tiny learner of the same kind has run by that time, so that code that is loaded when
    it is first needed does not count.

    Returns:
        A row per timed update: setting, algorithm, agents, repeat, memory_mb, collect_s and learn_s (on a CPU seconds
        of one thread, else of the clock), parameters, config (hash of the setting), cpu_s and wall_s (of the point).

    Raises:
        InputError: fewer than one repeat, or a system that does not tell the largest resident set.
    """
    if repeats < 1:
        raise InputError(f"repeats must be at least 1, not {repeats}")
    began, used = time.perf_counter(), time.process_time()
    torch.set_num_threads(1)
    config = configure(point)
    small = dataclasses.replace(config, task=point._replace(agents=2).task, num_envs=1, rollout=2)
    _time_updates(*start(point.algorithm, small, device), 1, device)
    gc.collect()
    before = _reset_peak(device)
    learner, env, now = start(point.algorithm, config, device)
    times = _time_updates(learner, env, now, 1 + repeats, device)[1:]
    memory = (_peak(device) - before) / 2**20
    spent = {"cpu_s": time.process_time() - used, "wall_s": time.perf_counter() - began}
    parameters = sum(x.numel() for network in learner.networks.values() for x in network.parameters())
    rows = [
        {
            **point._asdict(), "repeat": repeat, "memory_mb": memory, "collect_s": collect, "learn_s": learn,
            "parameters": parameters, "config": _hash(config), **spent,
        }
        for repeat, (collect, learn) in enumerate(times)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _time_updates(
    learner: onpolicy.Learner, env: envs.VectorEnv, now: dict[str, Any], updates: int, device: str
) -> list[tuple[float, float]]:
    """Seconds of collecting and of learning, for each of `updates` updates."""

    def clock() -> float:
        if device == "cpu":
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    times = []
    for index in range(updates):
        first = clock()
        data = onpolicy.collect(learner, env, now, index)
        second = clock()
        learner.learn(data, index)
        times.append((second - first, clock() - second))
        del data  # as in training, a rollout is gone before the next one begins
    return times


def _reset_peak(device: str) -> int:
    """Forget how much memory was in use at most until now; returns the bytes in use."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # see proc(5): resets VmHWM
        except OSError as error:
            raise InputError(f"memory on a CPU is measured through Linux's /proc/self/clear_refs ({error})") from None
    return _peak(device)


def _peak(device: str) -> int:
    """The most bytes that were in use since `_reset_peak`."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def isolated(asked: Iterable[Point], repeats: int = REPEATS, device: str = "cpu") -> Iterator[pd.DataFrame]:
    """`measure` of one point after another, each in a fresh process.

    The processes are forked from one that has only imported what all need, and differ in nothing else.

    Raises:
        InputError: as `measure`.
        BrokenProcessPool: a process was killed, for want of memory say.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["inconcert.scaling", "torch._dynamo"])  # the optimiser imports the second
    for point in asked:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            yield pool.submit(measure, point, repeats, device).result()


# ---------------------------------------------------------------------------------------------------------- the record


@dataclass(frozen=True)
class UpdateCosts(Measurements):
    """What all points cost: the rows of `measure`.

    Its meta: device, repeats, code (hash of the sources of each algorithm), commit, versions, hardware, date (of the
    last point).
    """

    file = "magpo_figure_8.parquet"
    command = "python -m inconcert measure"

    @property
    def missing(self) -> list[Point]:
        """The points that are not measured yet."""
        there = set(self.frame[list(Point._fields)].itertuples(index=False, name=None))
        return [point for point in points() if tuple(point) not in there]

    def changed(self) -> dict[str, bool]:
        """The sources of the algorithms, and the settings of the points."""
        rows = self.frame.drop_duplicates(list(Point._fields))
        asked = [Point(*row) for row in rows[list(Point._fields)].itertuples(index=False, name=None)]
        return {
            "code": self.meta["code"] != code(point.algorithm for point in asked),
            "config": list(rows["config"]) != [_hash(configure(point)) for point in asked],
        }


def code(algorithms: Iterable[str]) -> dict[str, str]:
    """For each algorithm a hash of the sources that its updates on CoordSum run."""
    return {
        name: provenance.fingerprint(provenance.closure([f"inconcert.algorithms.{name}", envs.SUITES["coordsum"]]))
        for name in sorted(set(algorithms))
    }


def _hash(config: Any) -> str:
    text = json.dumps(dataclasses.asdict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def extend(
    path: Path, asked: Iterable[Point], repeats: int = REPEATS, device: str = "cpu", restart: bool = False
) -> UpdateCosts:
    """Measure those of the points `asked` that the record at `path` lacks, and write it after each of them.

    Raises:
        InputError: the record was made under other conditions, so that its numbers would not compare; or as `measure`.
        BrokenProcessPool: as `isolated`.
    """
    asked = list(asked)
    envs.make(asked[0].task, num_envs=1, device=device)  # refuses a device that is not there
    conditions = {
        "device": device, "repeats": repeats, "hardware": runs.device_name(device), "versions": runs.versions(),
    }  # fmt: skip
    frame = pd.DataFrame()
    if path.is_file() and not restart:
        old = UpdateCosts.read(path)
        differs = [name for name, value in conditions.items() if old.meta[name] != value]
        if differs or old.freshness() != "FRESH":
            why = f"another {', another '.join(differs)}" if differs else "other sources or settings"
            raise InputError(f"{path} was measured with {why}; --restart begins again")
        frame = old.frame
    done = set() if frame.empty else set(frame[list(Point._fields)].itertuples(index=False, name=None))
    todo = [point for point in asked if tuple(point) not in done]
    with tqdm(todo, unit="point", disable=not todo) as bar:
        for point, rows in zip(bar, isolated(todo, repeats, device), strict=True):
            bar.set_postfix_str(" ".join(map(str, point)))
            frame = pd.concat([frame, rows], ignore_index=True)
            meta = {
                **conditions, "code": code(frame["algorithm"]), "commit": runs.commit(),
                "date": datetime.now(UTC).date().isoformat(),
            }  # fmt: skip
            records.write_atomic(path, records.to_bytes(frame, meta))
    return UpdateCosts.read(path)


# ------------------------------------------------------------------------------------------------------------- reading


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per point: setting, algorithm, agents, and the medians of memory_mb, update_s, collect_s, learn_s."""
    whole = frame.assign(update_s=frame["collect_s"] + frame["learn_s"])
    columns = [*QUANTITIES.values(), "parameters"]
    return whole.groupby(list(Point._fields), sort=False)[columns].median().reset_index()


def line(costs: pd.DataFrame, setting: str, algorithm: str, quantity: Quantity) -> Line:
    """One line of the figure, from the rows of `table`."""
    rows = costs[(costs["setting"] == setting) & (costs["algorithm"] == algorithm)]
    return rows.set_index("agents")[QUANTITIES[quantity]].sort_index()


def growth(cost: Line, than: Line | None = None) -> stats.Interval:
    """The exponent by which a cost grows with the agents, with its interval; see `stats.power_law`.

    Args:
        than: another algorithm's; then the difference of the two exponents, which is that of the ratio of the costs.
    """
    values = cost if than is None else cost / than
    return stats.power_law(values.index.to_numpy(float), values.to_numpy(float))


def exponents(costs: pd.DataFrame) -> pd.DataFrame:
    """A row per setting, algorithm and quantity: exponent, low, high (95 %), and last, that of the last two sizes."""
    rows = []
    for setting, algorithm in costs[["setting", "algorithm"]].drop_duplicates().itertuples(index=False, name=None):
        for quantity in QUANTITIES:
            cost = line(costs, setting, algorithm, quantity)
            fit = growth(cost)
            last = np.diff(np.log(cost.to_numpy(float)))[-1] / np.diff(np.log(cost.index.to_numpy(float)))[-1]
            rows.append([setting, algorithm, quantity, fit.estimate, fit.low, fit.high, last])
    return pd.DataFrame(rows, columns=["setting", "algorithm", "quantity", "exponent", "low", "high", "last"])
