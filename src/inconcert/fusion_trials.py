"""The fusion experiments of the KPF chapter: teams, rules, and the records of what they earn.

    python -m inconcert fuse                    # on particle worlds: what the record lacks; may be stopped and go on
    python -m inconcert fuse --world battles    # on SMAX
    python -m inconcert fuse --archive          # and copy the whole record to data/measurements, with the book
    python -m inconcert fuse --replay           # after a change of the code: play a part again; the same? then FRESH

Team s is seed s of one algorithm with seed s of each other. Which of them is primary, and every setting that is chosen,
is decided on validation episodes; what is reported was played on test episodes, the same for all rules.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from inconcert import fused, policies, pools, provenance, records, runs
from inconcert.config import InputError
from inconcert.fusion import KalmanFusion
from inconcert.measurements import Measurements
from inconcert.policies import Policy

VARIANT, TIER = "harl", "laptop"
"""Of the policies that are fused."""
EPISODES: dict[fused.Split, int] = {"validation": 500, "test": 2000}
"""Of each team of policies, for each rule."""
BATTLE_EPISODES: dict[fused.Split, int] = {"validation": 200, "test": 600}
"""The same on SMAX, where a step costs a hundred times as much."""
HEARD = 200
"""Test episodes over which the members of a pair are compared, decision by decision."""

PAIRS: dict[str, tuple[str, str]] = {
    "mpe/simple_spread": ("mappo", "hatrpo"),
    "mpe/simple_reference": ("mappo", "happo"),
    "mpe/simple_speaker_listener": ("happo", "hatrpo"),
}
"""The algorithms that the paper's Table 2 fuses on each task: its other columns are dashes."""


OTHERS: dict[str, tuple[tuple[str, str], ...]] = {
    "mpe/simple_spread": (("mappo", "happo"), ("happo", "hatrpo")),
    "mpe/simple_reference": (("mappo", "hatrpo"), ("happo", "hatrpo")),
    "mpe/simple_speaker_listener": (("mappo", "happo"), ("mappo", "hatrpo")),
}
"""The other pairs of the three algorithms (Table 5)."""

BATTLES: dict[str, tuple[str, str]] = dict.fromkeys(
    ("smax/2s3z", "smax/3s5z", "smax/5m_vs_6m", "smax/smacv2_5_units"), ("happo", "hatrpo")
)
"""Tasks of SMAX that stand in for Table 1, and the algorithms that its KPF rows fuse (Table 5 says so)."""
OTHER_BATTLES: dict[str, tuple[tuple[str, str], ...]] = dict.fromkeys(
    ("smax/2s3z", "smax/3s5z"), (("mappo", "happo"), ("mappo", "hatrpo"))
)
"""The other pairs of Table 5, on two of them."""

KEYS = ["task", "team", "checkpoint"]
"""Columns that tell cases apart."""


class Case(NamedTuple):
    """Algorithms on a task, at one moment of their training."""

    task: str
    team: tuple[str, ...]
    """Two or more. Different ones: team s has seed s of each. One several times: its first seeds are one team."""
    checkpoint: Literal["best", "early"] = "best"
    """early: see `fused.early`."""
    sweeps: bool = False
    """Whether every rule is tested, or only those that the tables need."""

    @property
    def lone(self) -> bool:
        """Whether all members are seeds of one algorithm."""
        return len(set(self.team)) == 1

    @property
    def members(self) -> list[str]:
        """What the members are called."""
        return [f"{name} {seed}" for seed, name in enumerate(self.team)] if self.lone else list(self.team)

    @property
    def key(self) -> tuple[str, str, str]:
        """Its `KEYS` in the record."""
        name = f"{len(self.team)} x {self.team[0]}" if self.lone else "+".join(self.team)
        return self.task, name, self.checkpoint


CASES: tuple[Case, ...] = (
    *(Case(task, pair, sweeps=True) for task, pair in PAIRS.items()),
    *(Case(task, pair, "early") for task, pair in PAIRS.items()),
    *(Case(task, pair) for task, pairs in OTHERS.items() for pair in pairs),
    *(Case(task, pair, "early") for task, pairs in OTHERS.items() for pair in pairs),
    *(Case(task, ("mappo", "happo", "hatrpo")) for task in OTHERS),
    *(Case(task, (name,) * 5) for task in OTHERS for name in ("mappo", "happo", "hatrpo")),
)

BATTLE_CASES: tuple[Case, ...] = (
    *(Case(task, pair) for task, pair in BATTLES.items()),
    *(Case(task, pair) for task, pairs in OTHER_BATTLES.items() for pair in pairs),
)

# --------------------------------------------------------------------------------------------------------------- rules

WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
BUDGETS = (0, 1, 2, 5, 10, 20, 50, 100, math.inf)
ALPHAS, NOISES, FACTORS = (0.0, 0.1, 0.3, 1.0), (0.0, 0.001, 0.005, 0.01), (0.95, 1.0, 1.05)
"""The grid that KPF is tuned over: the values of the paper's Tables 4 and 7, and its search around r2 (4.3.1)."""

KPF, CONSTANT = ("kpf", "budget"), ("weight",)
"""Families that a tuned filter and a tuned constant weight are chosen from."""


class Trial(NamedTuple):
    """A rule, and how the record calls it."""

    family: str
    name: str
    rule: fused.Rule
    value: float = math.nan
    """What its family varies: a weight, or a budget of updates (inf: no limit)."""
    options: tuple[tuple[str, float], ...] = ()
    """alpha, noise and r2 of a filter."""


def weights() -> list[Trial]:
    """Constant weights of the auxiliaries."""
    return [Trial("weight", f"weight {weight:g}", fused.constant(weight), weight) for weight in WEIGHTS]


def kpf(actions: int, r2: Sequence[float]) -> list[Trial]:
    """The grid of alpha, noise and r2. The first is the paper's plainest: no noise, no forgetting."""
    found = []
    for factor, alpha, noise in itertools.product(sorted(FACTORS, key=lambda one: one != 1), ALPHAS, NOISES):
        rule = KalmanFusion(actions, r2=[factor * one for one in r2], alpha=alpha, process_noise=noise)
        name = f"alpha {alpha:g}, noise {noise:g}, r2 x{factor:g}"
        options = (("alpha", alpha), ("noise", noise), ("r2", factor * r2[0]))
        found.append(Trial("kpf", name, rule, options=options))
    return found


def budgets(actions: int, r2: Sequence[float]) -> list[Trial]:
    """k of Figures 2 and 3 in the reading "freeze": k steps of the whole evaluation update the filter."""
    return [_budget("budget", "k", k, KalmanFusion(actions, r2=r2, update_budget=_whole(k))) for k in BUDGETS]


def readings(actions: int, r2: Sequence[float]) -> list[Trial]:
    """k in other readings; see `KalmanFusion`."""
    found = [
        _budget("budget, every episode", "k of every episode", k,
                KalmanFusion(actions, r2=r2, update_budget=_whole(k), budget_scope="episode", alpha=1.0))
        for k in (0, 1, 2, 5, 10, math.inf)
    ]  # fmt: skip
    found += [
        _budget("budget, episodes", "k episodes", k,
                KalmanFusion(actions, r2=r2, update_budget=int(k), budget_reading="episodes"))
        for k in (1, 2, 5)
    ]  # fmt: skip
    found += [
        _budget(f"budget, {reading}", reading, k,
                KalmanFusion(actions, r2=r2, update_budget=int(k), budget_reading=reading))
        for reading in ("inner", "period") for k in (1, 2, 5)
    ]  # fmt: skip
    return found


def rivals(actions: int, auxiliaries: int = 1) -> list[Trial]:
    """Pools without a parameter, and filters whose covariance listens to the policies."""
    names = ["average", "log-linear", "max-confidence", "entropy-weighted", "rank voting"]
    if auxiliaries > 1:
        names.append("majority")  # two voices have none
    found = [Trial("pool", name, pools.POOLS[name]) for name in names]
    equal = [1.0] * auxiliaries
    for covariance in ("multinomial", "trace", "entropy", "disagreement"):
        found.append(Trial("listening", f"filter, {covariance}", KalmanFusion(actions, equal, covariance=covariance)))
    return [*found, Trial("listening", "filter on logits", KalmanFusion(actions, equal, space="logit"))]


def _budget(family: str, word: str, k: float, rule: KalmanFusion) -> Trial:
    return Trial(family, f"{word} {k:g}", rule, k)


def _whole(k: float) -> int | None:
    return None if math.isinf(k) else int(k)


# --------------------------------------------------------------------------------------------------------- experiments


def load(case: Case) -> list[Policy]:
    """The policies of a case.

    Raises:
        MissingRecord: one is not there; the text gives the command that makes it.
    """
    seeds = [(seed,) if case.lone else None for seed in range(len(case.team))]
    return [
        policies.load(case.task, name, TIER, VARIANT, seeds=own, checkpoint=_moment(case, name))
        for name, own in zip(case.team, seeds, strict=True)
    ]


def _moment(case: Case, name: str) -> str | int:
    """The checkpoint of an algorithm that a case is about."""
    return "best" if case.checkpoint == "best" else fused.early(case.task, name, VARIANT, TIER)


class Bench:
    """A case being played: its policies, their roles and the returns that all rules are compared with."""

    def __init__(self, case: Case, team: list[Policy], episodes: dict[fused.Split, int]) -> None:
        self.case, self.team, self.episodes = case, team, episodes
        self.actions = team[0].spec.num_actions
        self.singles = {
            split: torch.stack([fused.play(team, fused.alone(index), count, split) for index in range(len(team))])
            for split, count in episodes.items()
        }  # [M, S, episodes] each
        scores = self.singles["validation"].mean(2)
        self.order = fused.stronger_first(scores)  # [S, M]
        self.length = fused.mean_length(team, min(HEARD, episodes["validation"]), self.order)
        self.r2 = self._ratios(scores)

    def _ratios(self, scores: Tensor) -> list[float]:
        """r2 = primary / auxiliary (`fusion.roles`, reading "ratio"), of mean scores from random play, 0, to 1."""
        low, high = fused.scale(self.case.task, **self.team[0].options)
        ranked = scores.t().gather(1, self.order).mean(0)
        primary, *others = ((ranked - low) / (high - low)).clamp(min=0.01).tolist()
        return [primary / one for one in others]

    def own(self, split: fused.Split) -> Tensor:
        """`[M, S, episodes]` returns of the members on their own, the primary's first."""
        returns = self.singles[split]
        return returns[self.order.t(), torch.arange(returns.shape[1])]

    def rows(self, trial: Trial, split: fused.Split, returns: Tensor | None = None) -> pd.DataFrame:
        """Play a trial (or take its `returns`): a row for each seed, with the gain over the primary, paired."""
        begun = time.perf_counter()
        if returns is None:
            returns = fused.play(self.team, trial.rule, self.episodes[split], split, self.order, length=self.length)
        gains = (returns - self.own(split)[0]).double()
        count = returns.shape[1]
        columns = {
            "value": trial.value, **{"alpha": math.nan, "noise": math.nan, "r2": math.nan}, **dict(trial.options),
            "episodes": count,
            "mean": returns.double().mean(1).numpy(), "se": returns.double().std(1).numpy() / count**0.5,
            "gain": gains.mean(1).numpy(), "gain_se": gains.std(1).numpy() / count**0.5,
            "wall_s": time.perf_counter() - begun,
        }  # fmt: skip
        return self._frame(trial.family, trial.name, split, columns)

    def differences(self) -> pd.DataFrame:
        """How much the two members of a pair differ: a row for each number and seed, the number as its mean."""
        count = min(HEARD, self.episodes["test"])
        said = fused.listen(self.team, count, "test", self.order)
        primary, auxiliary = self.own("test")
        numbers = {
            "disagreement": said.disagreement,
            "divergence": said.divergence,
            "peak of the primary": said.peak[0],
            **{
                f"critical gain below {bound:g}": torch.stack([(one < bound).float().mean() for one in said.critical])
                for bound in (0.1, 0.5)
            },
            "auxiliary better": (auxiliary > primary).float().mean(1),
        }
        rows = [
            self._frame("difference", name, "test", {"episodes": count, "mean": value.double().numpy()})
            for name, value in numbers.items()
        ]
        return pd.concat(rows)

    def _frame(self, family: str, name: str, split: str, columns: dict[str, Any]) -> pd.DataFrame:
        members = self.case.members
        return pd.DataFrame({
            **dict(zip(KEYS, self.case.key, strict=True)), "split": split, "family": family, "name": name,
            "seed": list(self.team[0].seeds),
            "primary": [members[index] for index in self.order[:, 0].tolist()], **columns,
        })  # fmt: skip


def play(case: Case, episodes: dict[fused.Split, int] | None = None) -> Iterator[pd.DataFrame]:
    """All rows of a case, trial by trial; see `Bench.rows` for the columns.

    Families: "alone" (named by member; "primary" and the next best, "auxiliary", by role), "oracle" (the best of all
    in every episode, known afterwards), "weight", "kpf", "budget", "budget, ..." (other readings), "pool",
    "listening"; and of pairs "difference" (`Bench.differences`).
    """
    if episodes is None:
        episodes = BATTLE_EPISODES if case.task in BATTLES else EPISODES
    bench = Bench(case, load(case), episodes)
    grid = kpf(bench.actions, bench.r2)
    tuned = [*grid, *budgets(bench.actions, bench.r2), *weights()]
    split: fused.Split
    for split in ("validation", "test"):
        for index, name in enumerate(case.members):
            yield bench.rows(Trial("alone", name, fused.alone(index)), split, bench.singles[split][index])
        for index, name in enumerate(("primary", "auxiliary")):
            yield bench.rows(Trial("alone", name, fused.alone(index)), split, bench.own(split)[index])
    yield bench.rows(Trial("oracle", "best of each episode", fused.alone(0)), "test", bench.own("test").amax(0))
    if len(case.team) == 2:
        yield bench.differences()
    found = []
    for trial in tuned:
        found.append(bench.rows(trial, "validation"))
        yield found[-1]
    frame = pd.concat(found)
    chosen = {best(frame, families) for families in (KPF, CONSTANT)}
    listening = rivals(bench.actions, len(case.team) - 1)
    tables = {"k 0", "k 1", "k 2", grid[0].name, "average"} | chosen
    if len(case.team) > 2:
        tables |= {trial.name for trial in listening}
    off = {trial.name for trial in grid if dict(trial.options)["r2"] != bench.r2[0]}
    everything = [*tuned, *listening, *(readings(bench.actions, bench.r2) if case.sweeps else ())]
    wanted = {trial.name for trial in everything} - off | chosen
    for trial in everything:
        if trial.name in (wanted if case.sweeps else tables):
            yield bench.rows(trial, "test")


def best(rows: pd.DataFrame, families: tuple[str, ...]) -> str:
    """The name with the largest mean gain over the seeds, among rows of one case's validation (the first of equals)."""
    own = rows[rows["family"].isin(families)]
    return str(own.groupby("name", sort=False)["gain"].mean().idxmax())


# -------------------------------------------------------------------------------------------------------------- record


@dataclass(frozen=True)
class Trials(Measurements):
    """What all cases on particle worlds earn: the rows of `play`.

    Its meta: code (hash of the sources that decide the returns), policies (hash of each file), commit, versions,
    hardware, date, cpu_s, replays.
    """

    file = "kpf_fusion.parquet"
    command = "python -m inconcert fuse"
    worlds: ClassVar[tuple[str, ...]] = ("envs.mpe", "envs.particles", "envs.mpe_players")
    """Modules of the environments."""

    @classmethod
    def cases(cls) -> tuple[Case, ...]:
        """All that it should have."""
        return CASES

    @property
    def missing(self) -> list[Case]:
        """The cases that are not played yet."""
        there = set(self.frame[KEYS].itertuples(index=False, name=None))
        return [case for case in self.cases() if case.key not in there]

    def changed(self) -> dict[str, bool]:
        """The sources and the policies that were played."""
        return {"code": self.meta["code"] != code(self.worlds), "policies": not self._same_policies()}

    def _same_policies(self) -> bool:
        folders = policies.folders()
        return all(
            any((folder / name).is_file() and _digest(folder / name) == digest for folder in folders)
            for name, digest in self.meta["policies"].items()
        )

    @classmethod
    def extend(cls, cases: Iterable[Case] | None = None, restart: bool = False) -> Self:
        """Play those of `cases` (default: all) that this machine's record lacks, and write it after each of them.

        Raises:
            InputError: the record was made with other sources or policies, so that its numbers would not compare.
            MissingRecord: a policy is not there.
        """
        path = cls.own()
        frame = pd.DataFrame()
        meta: dict[str, Any] = {"policies": {}, "cpu_s": 0.0}
        if path.is_file() and not restart:
            old = cls.read(path)
            if old.freshness() != "FRESH":
                raise InputError(f"{path} is {old.freshness()}; --restart begins again")
            frame, meta = old.frame, old.meta
        done = set() if frame.empty else set(frame[KEYS].itertuples(index=False, name=None))
        todo = [case for case in (cls.cases() if cases is None else cases) if case.key not in done]
        with tqdm(todo, unit="case", disable=not todo) as bar:
            for case in bar:
                bar.set_postfix_str(" ".join(case.key))
                used = time.process_time()
                frame = pd.concat([frame, *play(case)], ignore_index=True)
                meta = {
                    **meta, "policies": {**meta["policies"], **_files(case)}, "code": code(cls.worlds),
                    "commit": runs.commit(), "hardware": runs.device_name("cpu"), "versions": runs.versions(),
                    "date": datetime.now(UTC).date().isoformat(),
                    "cpu_s": float(meta["cpu_s"]) + time.process_time() - used,
                }  # fmt: skip
                records.write_atomic(path, records.to_bytes(frame, meta))
        return cls.read(path)

    def replay(self, cases: Sequence[Case] | None = None) -> Self:
        """Play `cases` (default: the first and the last) again; the same numbers give the record today's code.

        A record is STALE as soon as a line of the code behind it changes, also where the change moves nothing.

        Raises:
            InputError: the policies are others, or a number differs; the text says which.
        """
        if self.changed()["policies"]:
            raise InputError(f"{self.path} was made with other policies; --restart begins again")
        cases = [self.cases()[0], self.cases()[-1]] if cases is None else cases
        for case in cases:
            then = self.frame[(self.frame[KEYS] == list(case.key)).all(axis=1)].drop(columns="wall_s")
            now = pd.concat(list(play(case)), ignore_index=True).drop(columns="wall_s")
            try:
                pd.testing.assert_frame_equal(then.reset_index(drop=True), now, check_exact=True)
            except AssertionError as error:
                what = " ".join(str(error).split())
                raise InputError(f"{self.path} does not replay ({' '.join(case.key)}: {what})") from None
        note = {
            "date": datetime.now(UTC).date().isoformat(), "commit": runs.commit(), "cases": [case.key for case in cases]
        }  # fmt: skip
        meta = self.meta | {"code": code(self.worlds), "replays": [*self.meta.get("replays", []), note]}
        records.write_atomic(self.path, records.to_bytes(self.frame, meta))
        return self.read(self.path)


@dataclass(frozen=True)
class Battles(Trials):
    """What the cases on SMAX earn, in battles won."""

    file = "kpf_fusion_battles.parquet"
    command = "python -m inconcert fuse --world battles"
    whole = False
    worlds = ("envs.smax", "envs.jax_bridge")

    @classmethod
    def cases(cls) -> tuple[Case, ...]:
        return BATTLE_CASES


def kind(task: str) -> type[Trials]:
    """The record that has the fusions on a task."""
    return Battles if task in BATTLES else Trials


def code(worlds: Iterable[str] = Trials.worlds) -> str:
    """Hash of the sources that decide the returns."""
    names = ("fused", "fusion_trials", "fusion", "pools", "evaluate", "actors", "stacked", *worlds)
    paths = [provenance.source_of(f"inconcert.{name}") for name in names]
    return provenance.fingerprint(path for path in paths if path is not None)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _files(case: Case) -> dict[str, str]:
    """Policy file below its folder -> hash."""
    found = {}
    for name in case.team:
        moment = _moment(case, name)
        path = policies.find(case.task, name, TIER, VARIANT, moment)
        relative = policies.place(Path(), case.task, name, TIER, VARIANT, moment)
        found[relative.as_posix()] = _digest(path)
    return found
