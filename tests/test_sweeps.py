"""Comparisons of records: nothing that is asked for is lost, whether it is there, missing or damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import scores_of, write

from inconcert import records, stats, sweeps
from inconcert.config import InputError
from inconcert.sweeps import Cell

TASK, OTHER = "coordsum/5x20-80", "coordsum/3x10-30"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of records, empty."""
    monkeypatch.setattr(records, "folders", lambda: (tmp_path / "runs", tmp_path / "archive"))
    return tmp_path / "runs"


def test_a_sweep_names_its_variants() -> None:
    cells = sweeps.sweep("magpo", "delta", (1.1, 2.0), TASK, "never")
    assert cells == [Cell(TASK, "magpo", "never-delta-1.1", 1.1), Cell(TASK, "magpo", "never-delta-2", 2.0)]
    assert sweeps.sweep("magpo", "guider", ["mat"], TASK, "clamped")[0].variant == "clamped-guider-mat"


def test_without_any_record_everything_is_missing_and_every_frame_is_there(own: Path) -> None:
    cells = [Cell(TASK, "mappo", "clamped"), Cell(OTHER, "nobody", "clamped")]
    found = sweeps.collect(cells)
    assert found.missing == cells
    assert found.scores().empty
    assert found.curves().empty
    assert found.summary().empty
    assert found.provenance().empty
    absent = found.absent().set_index("algorithm")
    assert absent.loc["mappo", "command"] == f"python -m inconcert train mappo {TASK} --tier laptop --variant clamped"
    assert absent["why"].to_dict() == {"mappo": "not run yet", "nobody": "algorithm not written yet"}


def test_any_subset_is_read_and_the_rest_is_listed(own: Path) -> None:
    cells = sweeps.sweep("mappo", "hidden", (8, 16, 32), TASK, "clamped")
    path = write(own, TASK, "mappo", "clamped-hidden-16", level=120.0)
    found = sweeps.collect(cells)
    assert [cell.value for cell in found.records] == [16]
    assert [cell.value for cell in found.missing] == [8, 32]
    scores = found.scores()
    assert scores["score"].to_numpy() == pytest.approx(scores_of(path))
    assert scores[["task", "algorithm", "variant", "value", "tier"]].drop_duplicates().to_numpy().tolist() == [
        [TASK, "mappo", "clamped-hidden-16", 16, "laptop"]
    ]
    (summary,) = found.summary().to_dict("records")
    interval = stats.mean_ci(scores_of(path), method="t")
    assert (summary["mean"], summary["low"], summary["seeds"]) == (interval.estimate, interval.low, 5)
    assert found.absent()["variant"].tolist() == ["clamped-hidden-8", "clamped-hidden-32"]
    assert found.curves().groupby("seed").size().tolist() == [4] * 5
    pd.testing.assert_frame_equal(
        found.curves()[["seed", "update", "env_steps", "mean_return"]], records.curve(records.read(path))
    )


def test_phase_and_mode_reach_the_records(own: Path) -> None:
    path = write(own, TASK, "mappo", "clamped")
    found = sweeps.collect([Cell(TASK, "mappo", "clamped")])
    assert found.scores("last", "greedy")["score"].to_numpy() == pytest.approx(
        records.final(records.read(path), "last", "greedy").to_numpy()
    )


def test_a_guider_s_curve_is_drawn_where_there_is_one(own: Path) -> None:
    write(own, TASK, "mappo", "clamped")
    write(own, TASK, "magpo", "clamped")
    found = sweeps.collect([Cell(TASK, "mappo", "clamped"), Cell(TASK, "magpo", "clamped")])
    assert set(found.curves("guider")["algorithm"]) == {"magpo"}
    assert set(found.curves()["algorithm"]) == {"mappo", "magpo"}


def test_the_full_size_is_the_main_run(own: Path) -> None:
    write(own, TASK, "mappo", "clamped", level=150.0)
    found = sweeps.collect(
        [*sweeps.sweep("mappo", "hidden", (64, 128), TASK, "clamped"), Cell(TASK, "mappo", "clamped")]
    )
    assert [(cell.variant, cell.value) for cell in found.records] == [("clamped-hidden-128", 128), ("clamped", None)]
    assert found.provenance()["record"].tolist() == [f"{TASK}/mappo@clamped/laptop"]  # one record, in two comparisons
    assert found.absent()["variant"].tolist() == ["clamped-hidden-64"]
    write(own, TASK, "mappo", "clamped-hidden-128", level=90.0)  # somebody's own, though it is the same setting
    assert sweeps.collect([Cell(TASK, "mappo", "clamped-hidden-128")]).summary()["mean"].iloc[0] > 140


def test_a_damaged_record_is_named(own: Path) -> None:
    path = write(own, TASK, "mappo", "clamped")
    path.write_bytes(path.read_bytes()[:-50])
    found = sweeps.collect([Cell(TASK, "mappo", "clamped")])
    assert len(found.missing) == 1
    assert "is damaged" in found.absent()["why"].iloc[0]


def test_one_tier_for_each_task(own: Path) -> None:
    cells = [Cell(task, name, "clamped") for task in (TASK, OTHER) for name in ("mappo", "happo", "mat")]
    for name in ("mappo", "happo"):
        write(own, TASK, name, "clamped", "laptop")
    write(own, TASK, "mappo", "clamped", "paper")
    write(own, OTHER, "mat", "clamped", "laptop")
    write(own, OTHER, "mat", "clamped", "paper")
    for name in ("mappo", "happo", "mat"):
        write(own, OTHER, name, "clamped", "smoke")
    found = sweeps.collect(cells)
    assert found.tiers == {TASK: "laptop", OTHER: "paper"}  # where most is; of equals the better; smoke is no result
    assert sorted((cell.task, cell.algorithm) for cell in found.records) == [
        (OTHER, "mat"), (TASK, "happo"), (TASK, "mappo"),
    ]  # fmt: skip
    assert set(found.absent()["command"].str.extract(r"--tier (\w+)")[0]) == {"laptop", "paper"}
    assert len(sweeps.collect(cells, "smoke").records) == 3
    assert len(sweeps.collect(cells, "paper").records) == 2
    with pytest.raises(InputError, match="unknown tier 'laptp'; nearest: laptop"):
        sweeps.collect(cells, "laptp")


def test_of_selects_by_fields(own: Path) -> None:
    for name in ("mappo", "mat"):
        write(own, TASK, name, "clamped")
    found = sweeps.collect([Cell(TASK, name, "clamped") for name in ("mappo", "mat")])
    assert [cell.algorithm for cell in found.of(algorithm="mat")] == ["mat"]
    assert len(found.of(task=TASK)) == 2


def test_costs(own: Path) -> None:
    write(own, TASK, "mappo", "clamped")
    (row,) = sweeps.collect([Cell(TASK, "mappo", "clamped")]).provenance().to_dict("records")
    assert row["CPU hours"] == pytest.approx(1 / 3)
    assert row["million steps per seed"] == pytest.approx(36 * 3200 / 1e6)
    assert row["steps per CPU second"] == pytest.approx(36 * 3200 * 5 / 1200)
    assert row["state"].startswith("STALE")


def test_a_single_seed_has_a_mean_and_no_spread(own: Path) -> None:
    write(own, TASK, "mappo", "clamped", seeds=1)
    (row,) = sweeps.collect([Cell(TASK, "mappo", "clamped")]).summary().to_dict("records")
    assert row["low"] == row["mean"] == row["high"]
    assert np.isfinite(row["mean"])


def test_complete_block() -> None:
    have = {(name, task) for name in "ab" for task in "xyz"} | {("c", "x"), ("c", "y")}
    assert sweeps.complete_block(have) == (["a", "b", "c"], ["x", "y"])  # of two sixes the one with more algorithms
    assert sweeps.complete_block(have | {("a", "w"), ("b", "w")}) == (["a", "b"], ["w", "x", "y", "z"])
    assert sweeps.complete_block({("a", "x"), ("b", "y")}) == (["a"], ["x"])
    assert sweeps.complete_block(set()) == ([], [])
