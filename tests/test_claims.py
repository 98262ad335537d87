"""Claims and verdicts: every rule decided each way on made-up records, the schema, and that pages tell the truth."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from inconcert import claims, fusion_results, fusion_trials, published, records, scaling, stats
from inconcert.config import InputError
from inconcert.criteria import RECOUNT, AboveBaseline, ExactValue, PublishedInPredictionInterval
from inconcert.rules import CRITERIA

ROOT = Path(__file__).resolve().parents[1]
A, B = "coordsum/3x10-30", "coordsum/3x30-50"  # published for MAPPO: 156.37 and 158.05
SPREAD = (-2.0, -1.0, 0.0, 1.0, 2.0)  # five seeds: s = 1.58


class FakeRecord(records.Record):
    """A record that need not be made by the sources of today."""

    def freshness(self) -> str:
        return self.meta["freshness"]


def fake(task: str, algorithm: str, tier: str, variant: str, scores: Any, freshness: str = "FRESH") -> FakeRecord:
    """Two episodes a seed around each score in phase "best"; phase "last" and mode "greedy" are 100 and 50 lower."""
    rows = [
        {"seed": seed, "env_steps": 3_000_000, "phase": phase, "mode": mode, "episode_return": score - less + offset}
        for seed, score in enumerate(scores)
        for phase, mode, less in (("best", "sampled", 0), ("last", "sampled", 100), ("best", "greedy", 50))
        for offset in (-7.0, 7.0)
    ]
    meta = {"task": task, "algorithm": algorithm, "variant": variant, "tier": tier, "freshness": freshness}
    path = ROOT / "data" / "runs" / records.relative_path(task, algorithm, tier, variant)
    return FakeRecord(pd.DataFrame(rows), meta, path)


Put = Callable[..., None]


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Put:
    """Replaces the records of this machine by those that a test puts in."""
    store: dict[tuple[str, ...], records.Record | Exception] = {}

    def add(
        task: str, algorithm: str, scores: Any, tier: str = "laptop", variant: str = "", freshness: str = "FRESH"
    ) -> None:
        ready = isinstance(scores, Exception | records.Record)
        found = scores if ready else fake(task, algorithm, tier, variant, scores, freshness)
        store[task, algorithm, tier, variant] = found

    def load(task: str, algorithm: str, tier: str = "recorded", variant: str = "") -> records.Record:
        assert tier != "recorded", "a verdict must ask for the tier it wants"
        found = store.get((task, algorithm, tier, variant))
        if found is None:
            raise records.MissingRecord(f"no record of {algorithm}")
        if isinstance(found, Exception):
            raise found
        return found

    def nothing() -> scaling.UpdateCosts:
        raise records.MissingRecord(f"nothing is measured yet; measure with: {scaling.UpdateCosts.command}")

    monkeypatch.setattr(records, "load", load)
    monkeypatch.setattr(records, "same_setting", lambda task, algorithm, tier, variant: variant)

    def unfused() -> fusion_trials.Trials:
        raise records.MissingRecord(f"nothing is fused yet; do it with: {fusion_trials.Trials.command}")

    monkeypatch.setattr(scaling.UpdateCosts, "recorded", nothing)
    monkeypatch.setattr(fusion_trials.Trials, "recorded", unfused)
    return add


class FakeCosts(scaling.UpdateCosts):
    """Measurements that need not be of the sources of today."""

    def freshness(self) -> str:
        return self.meta["freshness"]


@pytest.fixture
def measure(put: Put, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Replaces the measurements by costs that grow with the given exponent of each algorithm, 1 by default."""

    def made(freshness: str = "FRESH", settings: Any = tuple(scaling.SETTINGS), **exponents: float) -> None:
        rows = []
        for point in scaling.points(settings):
            cost = point.agents ** exponents.get(point.algorithm, 1)
            rows.append({**point._asdict(), "memory_mb": cost, "collect_s": cost, "learn_s": cost, "parameters": 1})
        path = ROOT / "data" / "measurements" / scaling.UpdateCosts.file
        record = FakeCosts(pd.DataFrame(rows), {"freshness": freshness}, path)
        monkeypatch.setattr(scaling.UpdateCosts, "recorded", lambda: record)

    return made


def entry(criterion: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A complete row of claims.yml."""
    row = {
        "id": "a-claim",
        "paper": "magpo",
        "exhibit": "magpo-table-1",
        "claim": "Something holds.",
        "criterion": criterion,
        "seeds": 5,
        "date": pd.Timestamp("2026-11-21").date(),
        "tasks": [A],
    }
    return {**row, **fields}


def read(tmp_path: Path, *rows: Any) -> list[claims.Claim]:
    path = tmp_path / "claims.yml"
    path.write_text(yaml.safe_dump(list(rows)), encoding="utf-8")
    return claims.load(path)


@pytest.fixture
def judge(tmp_path: Path) -> Callable[..., claims.Verdict]:
    def judged(criterion: dict[str, Any], **fields: Any) -> claims.Verdict:
        return claims.judge(read(tmp_path, entry(criterion, **fields))[0])

    return judged


def around(centre: float, seeds: int = 5) -> np.ndarray:
    return centre + np.resize(SPREAD, seeds)


PREDICTION = {
    "type": "published_in_prediction_interval",
    "algorithm": "mappo",
    "table": "1",
    "column": "MAPPO",
    "published_seeds": 10,
}

# ------------------------------------------------------------------------------------------------- every rule, each way


def test_published_value_in_the_prediction_interval(put: Put, judge) -> None:
    # half width: t(4) s sqrt(1/5 + 1/10) = 2.7764 x 1.5811 x 0.5477 = 2.404
    put(A, "mappo", around(156.37 - 2.39))
    put(B, "mappo", around(158.05 + 2.42))
    inside, outside = judge(PREDICTION), judge(PREDICTION, tasks=[B])
    assert inside.status == "replicated"
    assert outside.status == "not replicated"
    assert judge(PREDICTION, tasks=[A, B]).status == "partly replicated"
    numbers = inside.numbers[A]
    assert numbers["prediction_low"] == pytest.approx(153.98 - 2.404, abs=1e-3)
    assert numbers["mean"] == pytest.approx(153.98)
    assert numbers["published"] == 156.37
    assert numbers["relative"] == pytest.approx(-2.39 / 156.37)
    assert inside.evidence == (
        "MAPPO on coordsum/3x10-30 153.98 (95 % CI 152.02 to 155.94, 5 seeds, laptop tier, 3.0 M steps); the published "
        "156.37 lies inside our 95 % prediction interval for 10 seeds, 151.58 to 156.38."
    )
    assert inside.records == (claims.Source("data/runs/coordsum/3x10-30/mappo/laptop.parquet", "laptop", 5, "FRESH"),)


def test_phase_mode_and_variant_choose_what_is_judged(put: Put, judge) -> None:
    put(A, "mappo", around(156.37))
    put(A, "mappo", around(10.0), variant="clamped")
    assert judge(PREDICTION).status == "replicated"
    assert judge({**PREDICTION, "phase": "last"}).numbers[A]["mean"] == pytest.approx(56.37)
    assert judge({**PREDICTION, "mode": "greedy"}).numbers[A]["mean"] == pytest.approx(106.37)
    clamped = judge({**PREDICTION, "variant": "clamped"})
    assert clamped.numbers[A]["mean"] == pytest.approx(10.0)
    assert "MAPPO@clamped on" in clamped.evidence


def test_within_relative(put: Put, judge) -> None:
    criterion = {"type": "within_relative", "algorithm": "mappo", "table": "1", "column": "MAPPO"}
    put(A, "mappo", around(156.37 * 0.91))
    assert judge(criterion, threshold=0.1).status == "replicated"
    assert judge(criterion, threshold=0.08).status == "not replicated"
    assert "-9.0% from the published 156.37, within 10%" in judge(criterion, threshold=0.1).evidence


def test_greater(put: Put, judge) -> None:
    criterion = {"type": "greater", "algorithm": "magpo", "than": ["ctds"]}
    put(A, "magpo", around(150.0))
    put(A, "ctds", around(140.0))
    assert judge(criterion).status == "replicated"
    assert judge(criterion, threshold=20.0).status == "not replicated"
    reverse = judge({**criterion, "algorithm": "ctds", "than": ["magpo"]})
    assert reverse.status == "not replicated"
    assert reverse.numbers[f"{A}: magpo"]["difference"] == pytest.approx(-10.0)
    # Welch with equal spreads, 8 degrees of freedom: the half width is 2.306 x sqrt(2 x 0.5) = 2.306
    put(A, "ctds", around(147.6))
    assert judge(criterion).status == "replicated"
    put(A, "ctds", around(147.8))
    noisy = judge(criterion)
    assert noisy.status == "partly replicated"
    assert "not clearly above 0" in noisy.evidence


def test_greater_than_several_on_several_tasks(put: Put, judge) -> None:
    criterion = {"type": "greater", "algorithm": "magpo", "than": ["sable", "mat"]}
    for task in (A, B):
        put(task, "magpo", around(150.0))
        put(task, "sable", around(100.0))
        put(task, "mat", around(90.0))
    assert judge(criterion, tasks=[A, B]).status == "replicated"
    put(B, "mat", around(200.0))
    verdict = judge(criterion, tasks=[A, B])
    assert verdict.status == "partly replicated"
    assert list(verdict.numbers) == [f"{A}: sable", f"{A}: mat", f"{B}: sable", f"{B}: mat"]
    assert len(verdict.records) == 6


def test_best_of(put: Put, judge) -> None:
    criterion = {"type": "best_of", "algorithm": "mappo", "among": ["mappo", "happo", "mat"]}
    put(A, "mappo", around(150.0))
    put(A, "happo", around(149.9))
    put(A, "mat", around(50.0))
    assert judge(criterion).status == "replicated"  # the highest mean, as a bold cell says, however narrowly
    put(A, "happo", around(150.1))
    assert judge(criterion).status == "partly replicated"
    put(A, "happo", around(160.0))
    lost = judge(criterion)
    assert lost.status == "not replicated"
    assert "the best other is HAPPO 160.00" in lost.evidence


def test_rank_order(put: Put, judge) -> None:
    criterion = {"type": "rank_order", "order": ["magpo", "mappo", "ctds"]}
    put(A, "magpo", around(3.0))
    put(A, "mappo", around(2.0))
    put(A, "ctds", around(1.0))
    assert judge(criterion, threshold=0.3).status == "replicated"
    swapped = {**criterion, "order": ["magpo", "ctds", "mappo"]}  # one of three pairs is wrong: tau = 1/3
    assert judge(swapped, threshold=0.3).status == "partly replicated"
    assert judge(swapped, threshold=0.4).status == "not replicated"
    assert judge(swapped, threshold=0.4).numbers[A]["tau"] == pytest.approx(1 / 3)
    put(A, "ctds", around(2.0))  # a tie is not the claimed order
    assert judge(criterion, threshold=1.0).status == "not replicated"


def test_above_baseline(put: Put, judge) -> None:
    criterion = {
        "type": "above_baseline",
        "algorithm": "mappo",
        "baseline": f"{__name__}:scripted",
        "baseline_name": "a script",
        "options": {"bonus": 20.0},
    }
    put(A, "mappo", around(121.97))  # half width of the t interval: 2.7764 x 1.5811 / sqrt(5) = 1.963; baseline 120
    assert judge(criterion).status == "replicated"
    put(A, "mappo", around(121.95))
    assert judge(criterion).status == "partly replicated"
    put(A, "mappo", around(119.0))
    below = judge(criterion)
    assert below.status == "not replicated"
    assert below.numbers[A]["baseline"] == 120.0
    assert below.evidence.endswith("not above a script, 120.00.")


def scripted(task: str, bonus: float) -> np.ndarray:
    return np.array([99.0, 101.0]) + bonus + (0.0 if task == A else 1e9)


def one_half() -> float:
    return 0.5 + 1e-12


def test_exact_value(judge) -> None:
    criterion = {"type": "exact_value", "function": f"{__name__}:one_half"}
    assert judge(criterion, threshold=0.5, tasks=[], seeds=0).status == "replicated"
    assert judge({**criterion, "tolerance": 1e-13}, threshold=0.5, tasks=[], seeds=0).status == "not replicated"
    with pytest.raises(InputError, match="unknown function of test_claims 'one_hal'; nearest: one_half"):
        judge({**criterion, "function": f"{__name__}:one_hal"}, threshold=0.5)
    with pytest.raises(InputError, match="'no_such_module:f' must be module:function"):
        judge({**criterion, "function": "no_such_module:f"}, threshold=0.5)


def test_probability_of_improvement(put: Put, judge) -> None:
    criterion = {"type": "probability_of_improvement", "algorithm": "magpo", "over": ["ctds", "mat"]}
    for task in (A, B):
        put(task, "magpo", around(150.0))
        put(task, "ctds", around(140.0))
        put(task, "mat", around(150.0))
    verdict = judge(criterion, tasks=[A, B])
    assert verdict.status == "partly replicated"
    assert {rival: numbers["probability"] for rival, numbers in verdict.numbers.items()} == {"ctds": 1.0, "mat": 0.5}
    assert "MAGPO over MAT on 2 task(s): probability of improvement 0.50" in verdict.evidence
    assert judge({**criterion, "over": ["ctds"]}, tasks=[A, B]).status == "replicated"
    assert judge({**criterion, "over": ["ctds"]}, tasks=[A, B], threshold=1.0).status == "not replicated"
    put(B, "ctds", around(160.0))  # always better on one task, always worse on the other
    assert judge({**criterion, "over": ["ctds"]}, tasks=[A, B]).numbers["ctds"]["probability"] == 0.5
    put(B, "ctds", around(150.2))  # 10 of 25 pairs are won on B: (1 + 0.4) / 2
    assert judge({**criterion, "over": ["ctds"]}, tasks=[A, B]).numbers["ctds"]["probability"] == pytest.approx(0.7)


def test_follows_guider(put: Put, judge) -> None:
    criterion = {"type": "follows_guider", "algorithm": "magpo", "guiders": ["sable", "mat"], "variant": "clamped"}
    for name, variant, centre in [
        ("sable", "clamped", 100.0), ("mat", "clamped", 80.0),
        ("magpo", "clamped-guider-sable", 150.0), ("magpo", "clamped-guider-mat", 140.0),
    ]:  # fmt: skip
        put(A, name, around(centre), variant=variant)
    verdict = judge(criterion)
    assert verdict.status == "replicated"
    assert verdict.numbers[A] == {"alone": 20.0, "guided": 10.0}
    put(A, "magpo", around(149.0), variant="clamped-guider-mat")  # a difference of 1 is within noise
    assert judge(criterion).status == "partly replicated"
    put(A, "magpo", around(160.0), variant="clamped-guider-mat")
    assert judge(criterion).status == "not replicated"
    put(A, "sable", around(60.0), variant="clamped")  # MAT is now the better one, alone and as a guider
    assert judge(criterion).status == "replicated"


DELTAS = [1.1, 1.5, 3.0]


def put_sweep(put: Put, algorithm: str, parameter: str, centres: dict[float, float]) -> None:
    for value, centre in centres.items():
        put(A, algorithm, around(centre), variant=f"clamped-{parameter}-{value:g}")


def test_monotone_trend(put: Put, judge) -> None:
    criterion = {
        "type": "monotone_trend", "algorithm": "magpo", "variant": "clamped", "parameter": "delta", "values": DELTAS,
        "direction": "falling",
    }  # fmt: skip
    put_sweep(put, "magpo", "delta", {1.1: 150.0, 1.5: 140.0, 3.0: 130.0})
    verdict = judge(criterion)
    assert verdict.status == "replicated"
    assert verdict.numbers[A]["trend"] == -1.0
    assert (
        "MAGPO@clamped on coordsum/3x10-30 by delta: 1.1: 150.00, 1.5: 140.00, 3: 130.00 (5 seeds" in verdict.evidence
    )
    assert judge({**criterion, "direction": "rising"}).status == "not replicated"
    put_sweep(put, "magpo", "delta", {1.5: 150.0, 3.0: 149.8})  # two ties, and 15 of 25 pairs fall
    assert judge(criterion).status == "partly replicated"
    put_sweep(put, "magpo", "delta", {3.0: 160.0})
    assert judge(criterion).status == "not replicated"
    missing = judge({**criterion, "values": [1.1, 2.0]})
    assert missing.commands == (f"python -m inconcert train magpo {A} --tier laptop --variant clamped-delta-2",)


def test_greater_in_sweep(put: Put, judge) -> None:
    criterion = {
        "type": "greater_in_sweep", "algorithm": "magpo", "than": ["ctds"], "variant": "clamped",
        "parameter": "hidden", "values": [8, 16],
    }  # fmt: skip
    put_sweep(put, "magpo", "hidden", {8: 150.0, 16: 150.0})
    put_sweep(put, "ctds", "hidden", {8: 100.0, 16: 140.0})
    verdict = judge(criterion)
    assert verdict.status == "replicated"
    assert list(verdict.numbers) == [f"{A}: ctds at 8", f"{A}: ctds at 16"]
    put_sweep(put, "ctds", "hidden", {16: 160.0})
    assert judge(criterion).status == "partly replicated"
    assert judge(criterion, threshold=60.0).status == "not replicated"


def test_gap_grows(put: Put, judge) -> None:
    criterion = {
        "type": "gap_grows", "algorithm": "magpo", "than": "ctds", "variant": "clamped", "parameter": "hidden",
        "values": [8, 16, 32], "towards": "small",
    }  # fmt: skip
    put_sweep(put, "magpo", "hidden", {8: 150.0, 16: 150.0, 32: 150.0})
    put_sweep(put, "ctds", "hidden", {8: 110.0, 16: 120.0, 32: 130.0})
    verdict = judge(criterion)
    assert verdict.status == "replicated"
    assert verdict.numbers[A]["slope"] == pytest.approx(-10.0)  # ten points less with each doubling
    assert "8: +40.00, 16: +30.00, 32: +20.00" in verdict.evidence
    assert judge({**criterion, "towards": "large"}).status == "not replicated"
    put_sweep(put, "ctds", "hidden", {8: 110.0, 16: 110.0, 32: 110.5})
    assert judge(criterion).status == "partly replicated"


def test_best_of_sweep_beats_reference(put: Put, judge) -> None:
    criterion = {
        "type": "best_of_sweep_beats_reference", "algorithm": "magpo", "variant": "clamped", "parameter": "lambda",
        "values": [1, 4], "reference": 0,
    }  # fmt: skip
    put_sweep(put, "magpo", "lambda", {0: 140.0, 1: 100.0, 4: 150.0})
    verdict = judge(criterion)
    assert verdict.status == "replicated"
    assert verdict.numbers[A]["gain"] == pytest.approx(10.0)
    assert "by lambda: 0: 140.00, 1: 100.00, 4: 150.00" in verdict.evidence
    assert judge(criterion, threshold=20.0).status == "not replicated"
    put_sweep(put, "magpo", "lambda", {4: 141.0})
    assert judge(criterion).status == "partly replicated"
    put_sweep(put, "magpo", "lambda", {4: 139.0})
    assert judge(criterion).status == "not replicated"


def test_gains_less(put: Put, judge) -> None:
    criterion = {
        "type": "gains_less", "algorithm": "ctds", "than": "magpo", "variant": "clamped", "parameter": "lambda",
        "values": [1, 4], "reference": 0,
    }  # fmt: skip
    put_sweep(put, "magpo", "lambda", {0: 140.0, 1: 145.0, 4: 150.0})
    put_sweep(put, "ctds", "lambda", {0: 40.0, 1: 41.0, 4: 30.0})
    verdict = judge(criterion)
    assert verdict.status == "replicated"
    assert verdict.numbers[A]["gain"] == pytest.approx(1.0)
    assert verdict.numbers[A]["other_gain"] == pytest.approx(10.0)
    put_sweep(put, "ctds", "lambda", {1: 49.0})
    assert judge(criterion).status == "partly replicated"
    put_sweep(put, "ctds", "lambda", {1: 60.0})
    assert judge(criterion).status == "not replicated"


def test_a_sweep_takes_the_main_record_where_it_passes_through_it(put: Put, judge, monkeypatch) -> None:
    criterion = {
        "type": "monotone_trend", "algorithm": "magpo", "variant": "clamped", "parameter": "delta",
        "values": [1.2, 3.0], "direction": "falling",
    }  # fmt: skip
    own = {"clamped-delta-1.2": "clamped"}
    monkeypatch.setattr(records, "same_setting", lambda task, algorithm, tier, variant: own.get(variant, variant))
    assert judge(criterion).commands == tuple(
        f"python -m inconcert train magpo {A} --tier laptop --variant {name}" for name in ("clamped", "clamped-delta-3")
    )
    put(A, "magpo", around(150.0), variant="clamped")
    put(A, "magpo", around(100.0), variant="clamped-delta-3")
    verdict = judge(criterion)
    assert verdict.status == "replicated"
    assert [source.path.split("/")[-2] for source in verdict.records] == ["magpo@clamped", "magpo@clamped-delta-3"]


def printed(monkeypatch: pytest.MonkeyPatch) -> None:
    # x beats y in row a, ties in b (bold) and c (not bold), loses in d; z is never in the way
    cells = {"a": (2, 1, 0), "b": (1, 1, 0), "c": (1, 1, 0), "d": (0, 1, 0)}
    rows = [
        {"row": row, "column": column, "value": value, "bold": row in "ab" and column == "x"}
        for row, values in cells.items()
        for column, value in zip("xyz", values, strict=True)
    ]
    monkeypatch.setattr(published, "load", lambda paper, table: pd.DataFrame(rows))


def test_published_count(judge, monkeypatch: pytest.MonkeyPatch) -> None:
    printed(monkeypatch)
    some = {"type": "published_count", "table": "1", "column": "x", "rivals": ["y"]}
    status = {count: judge(some, threshold=count, tasks=[]).status for count in range(5)}
    assert status == {
        0: "not replicated",
        1: "replicated",
        2: "partly replicated",  # could be so if a tie at the printed digits is none
        3: "partly replicated",
        4: "not replicated",
    }
    every = {**some, "rivals": ["y", "z"]}  # bold print then decides the ties: a and b
    status = {count: judge(every, threshold=count, tasks=[]).status for count in range(5)}
    assert [count for count in status if status[count] == "replicated"] == [2]
    assert set(status.values()) == {"replicated", "not replicated"}
    verdict = judge(every, threshold=2, tasks=[])
    assert verdict.claim.label == RECOUNT
    assert verdict.evidence.startswith("Recount of the printed table: x is above y, z in 1 of 4 rows")
    with pytest.raises(InputError, match="unknown column of magpo table 1 'w'"):
        judge({**some, "rivals": ["w"]}, threshold=1, tasks=[])


GROWTH = {"type": "grows_slower", "algorithm": "magpo", "quantity": "memory", "settings": ["laptop", "paper"]}


def growth(**changes: Any) -> dict[str, Any]:
    """A row of claims.yml on what is measured as agents are added."""
    threshold = 0 if "than" in changes else 1.5
    return entry({**GROWTH, **changes}, exhibit="magpo-figure-8", seeds=0, tasks=[], threshold=threshold)


def test_grows_slower(measure: Put, tmp_path: Path) -> None:
    (claim,) = read(tmp_path, growth())
    measure(magpo=1.2)
    slow = claims.judge(claim)
    assert slow.status == "replicated"
    assert slow.numbers["paper"]["exponent"] == pytest.approx(1.2)
    assert slow.evidence.startswith(
        "Laptop networks, 2 to 64 agents: memory grows with the exponent +1.20 (95 % CI +1.20 to +1.20) for MAGPO, "
        "below 1.5; paper networks, 2 to 64 agents:"
    )
    assert slow.records == tuple(
        claims.Source("data/measurements/magpo_figure_8.parquet", tier, 1, "FRESH") for tier in ("laptop", "paper")
    )
    assert "Caution" not in slow.evidence
    measure(magpo=1.8)
    assert claims.judge(claim).status == "not replicated"
    measure("STALE(code)")
    (one,) = read(tmp_path, growth(settings=["paper"]))
    assert claims.judge(one).evidence.endswith("Caution: the record of MAGPO on paper is STALE(code).")


def test_grows_slower_within_noise(measure: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure()
    monkeypatch.setattr(stats, "power_law", lambda sizes, costs: stats.Interval(1.4, 1.2, 1.6, 0.95, "made up"))
    verdict = claims.judge(read(tmp_path, growth())[0])
    assert verdict.status == "partly replicated"
    assert "not clearly below 1.5" in verdict.evidence


def test_grows_slower_than_another(measure: Put, tmp_path: Path) -> None:
    (claim,) = read(tmp_path, growth(than="happo"))
    measure(magpo=1.1, happo=1.3)
    verdict = claims.judge(claim)
    assert verdict.status == "replicated"
    assert verdict.numbers["laptop"]["exponent"] == pytest.approx(-0.2)
    assert "for HAPPO, a difference of -0.20" in verdict.evidence
    assert len(verdict.records) == 2
    measure(magpo=1.4, happo=1.3)
    assert claims.judge(claim).status == "not replicated"


def test_growth_is_not_judged_from_a_part_of_the_points(measure: Put, tmp_path: Path) -> None:
    (claim,) = read(tmp_path, growth())
    nothing = claims.judge(claim)
    assert (nothing.status, nothing.commands) == ("not testable here", (scaling.UpdateCosts.command,))
    assert nothing.evidence == "Nothing is measured yet; measure with: python -m inconcert measure."
    measure(settings=["laptop"])
    part, whole = len(scaling.points()) - 36, len(scaling.points())
    assert claims.judge(claim).evidence.startswith(f"{part} of {whole} points are not measured")
    assert claims.judge(claim).status == "not testable here"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "mapgo"}, "unknown algorithm of setting laptop 'mapgo'; nearest: mappo, magpo"),
        ({"than": "qmix"}, "unknown algorithm of setting laptop 'qmix'"),
        ({"settings": ["paper-chunked"], "than": "happo"}, "unknown algorithm of setting paper-chunked 'happo'"),
        ({"settings": ["papers"]}, "unknown setting 'papers'; nearest: paper"),
        ({"settings": []}, "needs at least one setting"),
        ({"quantity": "cost"}, "criterion field 'quantity' must be one of 'memory'"),
    ],
)
def test_growth_of_what_is_not_measured_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, growth(**changes))


def test_late_growth(put: Put, judge) -> None:
    """Three seeds, eight measurements: from the third quarter to the fourth a distance grows to `late` times itself."""
    criterion = {"type": "late_growth", "algorithm": "mappo", "measure": "hellinger", "expected": "levels off"}
    growing = {**criterion, "expected": "keeps growing"}

    def record(late: list[float]) -> None:
        made = fake(A, "mappo", "laptop", "", (1.0,) * len(late))
        rows = [
            {"seed": seed, "update": 10 * k, "env_steps": 10, "phase": "curve", "mode": "distance", "episode": pair,
             "hellinger": (1 + pair) * (factor if k > 6 else 1.0 if k > 4 else 0.1)}
            for seed, factor in enumerate(late) for k in range(1, 9) for pair in range(3)
        ]  # fmt: skip
        frame = pd.concat([made.frame.assign(update=0), pd.DataFrame(rows)], ignore_index=True)
        put(A, "mappo", dataclasses.replace(made, frame=frame))

    for late, level, grows in (
        ([1.01, 1.02, 1.0], "replicated", "not replicated"),
        ([1.5, 1.52, 1.51], "not replicated", "replicated"),
        ([1.3, 1.0, 1.2], "not replicated", "partly replicated"),
        ([0.9, 0.7, 1.3], "partly replicated", "not replicated"),
    ):
        record(late)
        verdict = judge(criterion, threshold=0.1)
        assert verdict.status == level
        assert verdict.numbers[A]["growth"] == pytest.approx(np.mean(late) - 1)
        assert judge(growing, threshold=0.1).status == grows
    assert "has no distance 'wasserstein'" in judge({**criterion, "measure": "wasserstein"}, threshold=0.1).evidence


def fuse(monkeypatch: pytest.MonkeyPatch, freshness: str = "FRESH", **gains: list[float]) -> None:
    """Puts a record of fusions in place: gains of "a player" over "a rival" for three pairs, by checkpoint."""
    rows = [
        {"task": COVERING, "team": "mappo+hatrpo", "checkpoint": checkpoint, "split": "test", "family": "alone",
         "name": name, "seed": seed, "gain": 5 + gain * (name == "a player")}
        for checkpoint, values in gains.items() for seed, gain in enumerate(values) for name in ("a player", "a rival")
    ]  # fmt: skip
    path = ROOT / "data" / "measurements" / fusion_trials.Trials.file
    monkeypatch.setattr(fusion_trials.Trials, "freshness", lambda self: freshness)
    record = fusion_trials.Trials(pd.DataFrame(rows), {}, path)
    monkeypatch.setattr(fusion_trials.Trials, "recorded", lambda: record)


FUSION = {"type": "fusion_gain", "player": "a player", "than": ["a rival"]}
COVERING = "mpe/simple_spread"


def test_fusion_gain(put: Put, judge, monkeypatch: pytest.MonkeyPatch) -> None:
    def verdict(**changes: Any) -> claims.Verdict:
        return judge({**FUSION, **changes}, tasks=[COVERING], seeds=3)

    assert verdict().status == "not testable here"
    assert verdict().commands == ("python -m inconcert fuse",)
    for values, status in (
        ([1.0, 1.1, 1.2], "replicated"), ([-1.0, 2.0, 2.0], "partly replicated"), ([-1, -2, 0], "not replicated"),
    ):  # fmt: skip
        fuse(monkeypatch, best=values)
        assert verdict().status == status
        assert verdict().numbers[f"{COVERING}: a rival"]["difference"] == pytest.approx(np.mean(values))
    assert verdict().records == (claims.Source("data/measurements/kpf_fusion.parquet", "laptop", 3, "FRESH"),)
    assert verdict(checkpoint="early", over="best").status == "not testable here"
    fuse(monkeypatch, "STALE(code)", best=[1.0, 2.0, 3.0], early=[2.0, 3.1, 4.2])
    grown = verdict(checkpoint="early", over="best")
    assert grown.status == "replicated"
    assert grown.numbers[f"{COVERING}: a rival"]["difference"] == pytest.approx(1.1)
    assert "MAPPO+HATRPO" in grown.evidence
    assert grown.evidence.endswith("Caution: the record of MAPPO+HATRPO on mpe/simple_spread is STALE(code).")


@pytest.mark.parametrize(
    ("changes", "tasks", "message"),
    [
        ({"than": []}, [COVERING], "needs the field 'tasks' and at least one rival"),
        ({}, [], "needs the field 'tasks' and at least one rival"),
        ({}, [A], "unknown task of the fusions"),
        ({"team": ["mappo", "qmix"]}, [COVERING], r"unknown team on mpe/simple_spread 'mappo\+qmix'"),
    ],
)
def test_fusions_that_there_are_not_are_refused(
    tmp_path: Path, changes: dict[str, Any], tasks: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, entry({**FUSION, **changes}, tasks=tasks))


def test_fusion_association(put: Put, judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    criterion = {"type": "fusion_association", "measure": "disagreement", "player": "a player"}
    assert judge(criterion).status == "not testable here"
    for low, high, status in (
        (0.2, 0.8, "replicated"),
        (-0.2, 0.6, "partly replicated"),
        (-0.6, -0.1, "not replicated"),
    ):
        found = stats.Interval((low + high) / 2, low, high, 0.95, "", {A: 5, COVERING: 5})
        fuse(monkeypatch, best=[1.0])
        monkeypatch.setattr(fusion_results, "association", lambda frame, measure, player, found=found: found)
        verdict = judge(criterion)
        assert verdict.status == status
        assert verdict.numbers["disagreement"] == {"correlation": found.estimate, "low": low, "high": high}
        assert "10 of them" in verdict.evidence
    with pytest.raises(InputError, match="unknown difference of two policies 'distance'"):
        read(tmp_path, entry({**criterion, "measure": "distance"}))


def test_what_is_scored_can_be_named(put: Put, judge) -> None:
    criterion = {"type": "greater", "algorithm": "mappo", "than": ["happo"]}
    for name, score in (("mappo", 1.0), ("happo", 2.0)):
        made = fake(A, name, "laptop", "", around(score))
        frame = made.frame.assign(team_return=-made.frame["episode_return"])
        put(A, name, dataclasses.replace(made, frame=frame))
    assert judge(criterion).numbers[f"{A}: happo"]["difference"] == pytest.approx(-1.0)
    assert judge({**criterion, "metric": "team_return"}).numbers[f"{A}: happo"]["difference"] == pytest.approx(1.0)


def test_every_criterion_type_is_tried_here() -> None:
    tried = set(re.findall(r'"type": "(\w+)"', Path(__file__).read_text(encoding="utf-8")))
    assert tried >= set(CRITERIA)


# ----------------------------------------------------------------------------------------- what records may and may not


def test_a_missing_record_is_not_testable_and_names_the_command(put: Put, judge) -> None:
    verdict = judge({**PREDICTION, "variant": "clamped"})
    assert verdict.status == "not testable here"
    assert verdict.commands == ("python -m inconcert train mappo coordsum/3x10-30 --tier laptop --variant clamped",)
    assert verdict.commands[0] in verdict.evidence
    assert judge({**PREDICTION, "minimum_tier": "paper"}).commands[0].endswith("--tier paper")
    assert verdict.numbers == {}


def test_one_missing_record_of_many_is_enough(put: Put, judge) -> None:
    put(A, "magpo", around(150.0))
    verdict = judge({"type": "greater", "algorithm": "magpo", "than": ["ctds", "mat"]})
    assert verdict.status == "not testable here"
    assert len(verdict.commands) == 2
    assert "2 of 3 records are missing" in verdict.evidence


def test_an_algorithm_without_implementation_is_named(put: Put, judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "algorithms", lambda: ["mappo"])
    assert "Not implemented here yet: HAPPO." in judge({**PREDICTION, "algorithm": "happo"}).evidence
    assert "implemented" not in judge(PREDICTION).evidence


def test_a_smoke_record_never_supports_a_verdict(put: Put, judge) -> None:
    put(A, "mappo", around(156.37), tier="smoke")
    assert judge(PREDICTION).status == "not testable here"
    put(A, "mappo", around(156.37), tier="laptop")
    assert judge(PREDICTION).tier == "laptop"
    assert judge({**PREDICTION, "minimum_tier": "paper"}).status == "not testable here"


def test_the_best_tier_counts(put: Put, judge) -> None:
    put(A, "mappo", around(10.0), tier="laptop")
    put(A, "mappo", around(156.37), tier="paper")
    verdict = judge(PREDICTION)
    assert verdict.status == "replicated"
    assert verdict.tier == "paper"


def test_algorithms_are_compared_at_one_tier(put: Put, judge) -> None:
    criterion = {"type": "greater", "algorithm": "magpo", "than": ["ctds"]}
    put(A, "magpo", around(150.0), tier="paper")
    put(A, "ctds", around(100.0), tier="laptop")
    apart = judge(criterion)
    assert apart.status == "not testable here"
    assert apart.commands == ("python -m inconcert train magpo coordsum/3x10-30 --tier laptop",)
    put(A, "magpo", around(90.0), tier="laptop")
    together = judge(criterion)
    assert together.status == "not replicated"
    assert {source.tier for source in together.records} == {"laptop"}


def test_too_few_seeds_and_stale_records_are_said(put: Put, judge) -> None:
    put(A, "mappo", around(156.37, seeds=3), freshness="STALE(code)")
    verdict = judge(PREDICTION)
    assert verdict.status == "replicated"
    assert "Caution: MAPPO on coordsum/3x10-30 has 3 of the 5 seeds asked for" in verdict.evidence
    assert "is STALE(code)" in verdict.evidence
    assert verdict.records[0].freshness == "STALE(code)"
    for name in ("mappo", "happo", "mat"):
        put(A, name, around(156.37), freshness="STALE(code)")
    several = judge({"type": "best_of", "algorithm": "mappo", "among": ["happo", "mat"]})
    assert several.evidence.endswith("Caution: 3 of the 3 records are STALE(code).")
    put(A, "mappo", [156.37])
    assert judge(PREDICTION).status == "not testable here"
    assert "A single seed has no spread: MAPPO on coordsum/3x10-30" in judge(PREDICTION).evidence


def test_a_damaged_record_is_named_and_not_used(put: Put, judge) -> None:
    put(A, "mappo", records.CorruptRecord("runs/x.parquet is damaged"), tier="laptop")
    verdict = judge(PREDICTION)
    assert verdict.status == "not testable here"
    assert "runs/x.parquet is damaged" in verdict.evidence
    put(A, "mappo", around(156.37), tier="laptop")
    put(A, "mappo", records.CorruptRecord("runs/y.parquet is damaged"), tier="paper")
    verdict = judge(PREDICTION)
    assert verdict.status == "replicated"
    assert "Caution: runs/y.parquet is damaged" in verdict.evidence


def test_a_record_without_the_phase_asked_for_is_not_testable(put: Put, judge, tmp_path: Path) -> None:
    put(A, "mappo", around(156.37))
    record = records.load(A, "mappo", tier="laptop")
    record.frame.drop(record.frame.index[record.frame["phase"] == "best"], inplace=True)  # noqa: PD002 - frozen record
    verdict = judge(PREDICTION)
    assert verdict.status == "not testable here"
    assert "unknown phase 'best'" in verdict.evidence


def test_a_real_record_file_is_read(judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INCONCERT_RUNS", str(tmp_path))
    monkeypatch.setattr(records.Record, "freshness", lambda self: "FRESH")
    made = fake(B, "mappo", "paper", "never-archived", around(158.05))
    target = tmp_path / records.relative_path(B, "mappo", "paper", "never-archived")
    records.write_atomic(target, records.to_bytes(made.frame.assign(wall_s=0.0), made.meta))
    criterion = {**PREDICTION, "variant": "never-archived"}
    verdict = judge(criterion, tasks=[B])
    assert verdict.status == "replicated"
    assert verdict.records[0].path == str(target)
    target.write_bytes(target.read_bytes()[:-100])
    assert judge(criterion, tasks=[B]).status == "not testable here"


def test_verdicts_are_deterministic_and_read_each_record_once(
    put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(A, "mappo", around(156.37))
    counted, load = [], records.load
    monkeypatch.setattr(records, "load", lambda *args, **kwargs: counted.append(args) or load(*args, **kwargs))
    rows = [entry(PREDICTION, id=f"claim-{number}") for number in range(4)]
    first = claims.verdicts(read(tmp_path, *rows))
    assert len(counted) == 2  # tier paper, which is missing, and tier laptop
    second = claims.verdicts(read(tmp_path, *rows))
    assert first == second
    assert len({verdict.evidence for verdict in first}) == 1


# --------------------------------------------------------------------------------------------------------------- schema


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [entry({**PREDICTION, "type": "best"})],
            r"unknown criterion type 'best'; nearest: best_of; valid: published_in",
        ),
        ([entry({"algorithm": "mappo"})], "unknown criterion type ''"),
        ([entry({k: v for k, v in PREDICTION.items() if k != "column"})], "criterion field 'column' has no value"),
        ([entry({**PREDICTION, "colum": "MAPPO"})], "unknown criterion field 'colum'; nearest: column"),
        ([entry({**PREDICTION, "table": 1})], "criterion field 'table' must be str, not 1"),
        ([entry({**PREDICTION, "minimum_tier": "smoke"})], "must be one of 'laptop', 'paper', not 'smoke'"),
        ([entry({**PREDICTION, "algorithm": "mapo"})], "unknown algorithm 'mapo'; nearest: mappo, magpo"),
        ([entry(PREDICTION, tasks=["coordsum/3x10-3"])], "unknown task 'coordsum/3x10-3'; nearest: coordsum/3x10-30"),
        ([entry(PREDICTION, tasks=[])], "needs the field 'tasks'"),
        ([entry(PREDICTION, seeds=1)], "at least 2 seeds, not 1"),
        ([entry(PREDICTION, seeds="five")], "field 'seeds' must be int, not 'five'"),
        ([entry(PREDICTION, date="yesterday")], "field 'date' must be date, not 'yesterday'"),
        ([entry(PREDICTION, exhibit="magpo-table-11")], "unknown exhibit 'magpo-table-11'; nearest: magpo-table-1"),
        ([entry(PREDICTION, paper="kpf")], "exhibit magpo-table-1 belongs to paper 'magpo', not 'kpf'"),
        ([entry(PREDICTION, id="A claim")], "only small letters, digits and hyphens"),
        ([entry(PREDICTION, verdict="replicated")], "unknown field 'verdict'"),
        ([entry(PREDICTION, type="greater")], "field 'type' belongs inside 'criterion'"),
        ([{k: v for k, v in entry(PREDICTION).items() if k != "claim"}], "field 'claim' has no value"),
        ([entry({"type": "exact_value", "function": "a:b"})], "needs the field 'threshold'"),
        ([entry({"type": "greater", "algorithm": "magpo", "than": []})], "compares at least 2 algorithms"),
        ([entry({"type": "greater", "algorithm": "magpo", "than": ["magpo"]})], "named twice: magpo, magpo"),
        (
            [entry({"type": "follows_guider", "algorithm": "magpo", "guiders": ["sable"]})],
            "'guiders' names two algorithms, not 1",
        ),
        (
            [
                entry(
                    {
                        "type": "monotone_trend",
                        "algorithm": "magpo",
                        "parameter": "delta",
                        "values": [2.0],
                        "direction": "falling",
                    }
                )
            ],
            "compares at least 2 algorithms",
        ),
        (
            [
                entry(
                    {
                        "type": "gap_grows",
                        "algorithm": "magpo",
                        "than": "ctds",
                        "parameter": "hidden",
                        "values": [8],
                        "towards": "small",
                    }
                )
            ],
            "needs at least 2 values",
        ),
        (
            [
                entry(
                    {
                        "type": "monotone_trend",
                        "algorithm": "magpo",
                        "parameter": "delta",
                        "values": [2.0, 2.0],
                        "direction": "falling",
                    }
                )
            ],
            "an algorithm or a value is named twice: magpo@delta-2, magpo@delta-2",
        ),
        (
            [entry({"type": "published_count", "table": "1", "column": "MAGPO", "rivals": []}, threshold=1)],
            "'rivals' must name at least one column",
        ),
        ([entry(PREDICTION), entry(PREDICTION)], r"claim 2 \(a-claim\): the id 'a-claim' is used twice"),
        ([entry("greater")], "'criterion' must be {type: ..., further fields}"),  # type: ignore[arg-type]
        (["replicated"], "claim 1 must have named fields"),
    ],
)
def test_a_bad_claim_is_refused_in_one_line(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, *rows)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("claims.yml, claim ")
    if isinstance(rows[0], dict):
        assert f"({rows[0]['id']})" in text


def test_a_bad_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "claims.yml"
    with pytest.raises(InputError, match=r"claims.yml is missing"):
        claims.load(path)
    path.write_text("a: [", encoding="utf-8")
    with pytest.raises(InputError, match=r"claims.yml is not YAML"):
        claims.load(path)
    path.write_text("a: 1", encoding="utf-8")
    with pytest.raises(InputError, match="must be a list of claims"):
        claims.load(path)


def test_find_names_the_nearest_claim() -> None:
    assert claims.find("magpo-figure-1-distilled").threshold == 0.5
    with pytest.raises(InputError, match="unknown claim 'magpo-figure-1-distiled'; nearest: magpo-figure-1-distilled"):
        claims.find("magpo-figure-1-distiled")


# ------------------------------------------------------------------------------------------------------ the real claims


def test_the_claims_of_the_book_can_all_be_judged_without_any_record(put: Put) -> None:
    judged = claims.verdicts()
    for verdict in judged:
        record_based = bool(verdict.claim.tasks) or verdict.claim.type in ("grows_slower", "fusion_association")
        assert (verdict.status == "not testable here") == record_based, verdict.claim.id
        assert bool(verdict.commands) == record_based


def test_figure_1_holds_exactly(put: Put) -> None:
    judged = {v.claim.id: v for v in claims.verdicts() if v.claim.exhibit == "magpo-figure-1"}
    assert {name: v.status for name, v in judged.items()} == {
        "magpo-figure-1-simultaneous": "replicated",
        "magpo-figure-1-sequential": "replicated",
        "magpo-figure-1-distilled": "replicated",
    }


def test_recount_of_table_1(put: Put) -> None:
    ctde, every = (claims.judge(claims.find(f"magpo-table-1-count-{name}")) for name in ("ctde", "all"))
    assert (ctde.numbers["table"]["wins"], ctde.numbers["table"]["ties"]) == (27, 11)
    assert ctde.status == "partly replicated"
    assert every.numbers["table"]["wins_with_bold_ties"] == 20
    assert every.status == "replicated"


def test_claims_name_only_what_exists() -> None:
    for claim in claims.load():
        criterion = claim.criterion
        for name in (getattr(criterion, "function", ""), getattr(criterion, "baseline", "")):
            if name:
                module, _, function = name.partition(":")
                assert callable(getattr(importlib.import_module(module), function)), claim.id
        if hasattr(criterion, "column"):
            frame = published.load(claim.paper, criterion.table)
            assert criterion.column in set(frame["column"]), claim.id
            assert {task.partition("/")[2] for task in claim.tasks} <= set(frame["row"]), claim.id


def test_numbers_in_the_claims_are_the_published_ones() -> None:
    frame = published.load("magpo", "1").set_index(["row", "column"])["value"]
    quoted = 0
    for claim in claims.load():
        match = re.search(r"earns ([\d.]+) on CoordSum-(\S+)", claim.claim)
        if match:
            assert isinstance(claim.criterion, PublishedInPredictionInterval)
            assert float(match[1]) == frame[match[2], claim.criterion.column]
            assert claim.tasks == (f"coordsum/{match[2]}",)
            quoted += 1
    assert quoted == 8


def test_a_claim_in_the_clamped_reading_uses_that_reading_throughout() -> None:
    for claim in claims.load():
        if isinstance(claim.criterion, ExactValue):
            continue
        clamped = getattr(claim.criterion, "variant", "") == "clamped"
        assert clamped == ("authors' reading" in claim.claim), claim.id
        if isinstance(claim.criterion, AboveBaseline):
            assert (claim.criterion.options.get("guess") == "clamped") == clamped


def test_the_scripted_baseline_of_the_claims_can_be_played(put: Put) -> None:
    claim = claims.find("magpo-table-1-mappo-learns-clamped")
    for task in claim.tasks:
        put(task, "mappo", around(129.0), variant="clamped")
    baselines = [numbers["baseline"] for numbers in claims.judge(claim).numbers.values()]
    # the scripted returns of the clamped reading; the spread of an episode is about 7, of a mean of 1,000 about 0.25
    assert baselines == pytest.approx([129, 125, 116, 110], abs=1.5)


# ---------------------------------------------------------------------------------------------------------------- pages


def test_tables_for_the_command_line_and_the_book(put: Put, tmp_path: Path) -> None:
    put(A, "mappo", around(156.37))
    judged = claims.verdicts(read(tmp_path, entry(PREDICTION, id="one"), entry(PREDICTION, id="two", tasks=[B])))
    assert [row[:2] for row in claims.rows(judged)] == [("replicated", "one"), ("not testable here", "two")]
    frame = claims.table(judged)
    assert frame.loc[0, ["tier", "seeds", "records", "paper"]].tolist() == ["laptop", 5, 1, "magpo"]
    board = claims.scoreboard(judged)
    assert board.index.tolist() == list(published.PAPERS)
    assert board.loc["magpo", "replicated"] == 1
    assert board.loc["magpo", "claims"] == 2
    assert board.loc["kpf"].sum() == 0
    assert claims.table([]).empty
    assert claims.scoreboard([])["claims"].sum() == 0
    markdown = claims.to_markdown(judged).splitlines()
    assert len(markdown) == 4
    assert all(line.count(" | ") == 3 for line in markdown[2:])


def test_a_badge_passes_the_check_and_a_wrong_one_does_not(put: Put, tmp_path: Path) -> None:
    put(A, "mappo", around(156.37))
    (verdict,) = judged = claims.verdicts(read(tmp_path, entry(PREDICTION)))
    page = f"# Table 1\n\nThe claim is {claims.badge(verdict)}.\n"
    assert 'class="verdict replicated"' in page
    assert claims.check_page(page, judged) == []
    assert claims.check_page("nothing", judged) == []
    wrong = page.replace("a-claim:replicated", "a-claim:not replicated")
    assert claims.check_page(wrong, judged) == ["a-claim: the page says 'not replicated', computed is 'replicated'"]
    assert "unknown claim 'a-clam'" in claims.check_page("<!-- verdict:a-clam:replicated -->", judged)[0]
    assert "unknown status 'maybe'" in claims.check_page("<!--verdict:a-claim:maybe-->", judged)[0]
    assert len(claims.check_page("<!-- verdict:a-claim -->", judged)) == 1
    assert len(claims.check_page(wrong + wrong, judged)) == 2


def test_a_badge_is_safe_html_and_labels_a_recount(judge, monkeypatch: pytest.MonkeyPatch) -> None:
    printed(monkeypatch)
    criterion = {"type": "published_count", "table": "1", "column": "x", "rivals": ["y"]}
    badge = claims.badge(judge(criterion, threshold=3, tasks=[]))
    assert f'<span class="label published">{RECOUNT}</span>' in badge
    assert 'class="verdict partly"' in badge
    attribute = re.search(r'title="([^"]*)"', badge)
    assert attribute is not None
    assert not set(attribute[1]) & set("<>")


def test_a_stand_in_says_what_it_stands_for(put: Put, judge) -> None:
    put(A, "mappo", around(156.37))
    verdict = judge(PREDICTION, stand_in="smacv2_5_units")
    assert verdict.claim.label == "stand-in for smacv2_5_units"
    assert '<span class="label standin">stand-in for smacv2_5_units</span>' in claims.badge(verdict)
    assert judge(PREDICTION).claim.label == ""


def test_the_pages_in_the_repository_tell_the_truth() -> None:
    judged = claims.verdicts()
    pages = [*(ROOT / "book").glob("*.md"), *(ROOT / "book").glob("[!_]*/**/*.md"), ROOT / "README.md"]
    pages += (ROOT / "notebooks").rglob("*.ipynb")
    problems = {str(page): claims.check_page(page.read_text(encoding="utf-8"), judged) for page in pages}
    assert {page: found for page, found in problems.items() if found} == {}


def test_the_built_book_tells_the_truth() -> None:
    html = ROOT / "book" / "_build" / "html"
    # below _static lie the theme's own files, with the dates of its package
    pages = sorted(page for page in html.rglob("*.html") if "_static" not in page.relative_to(html).parts)
    if not pages:
        pytest.skip("the book is not built (make book)")
    newest = max((key.path.stat().st_mtime for key in records.find()), default=0.0)
    if newest > min(page.stat().st_mtime for page in pages):
        pytest.skip("there are records newer than the built book (make book)")
    judged = claims.verdicts()
    problems = {str(page): claims.check_page(page.read_text(encoding="utf-8"), judged) for page in pages}
    assert {page: found for page, found in problems.items() if found} == {}
