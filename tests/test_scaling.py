"""What an update costs as agents are added: the fit, the measuring of single points, the record and its command."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats as reference

from inconcert import envs, measurements, records, scaling, stats
from inconcert.__main__ import main
from inconcert.config import InputError
from inconcert.scaling import Point

SIZES = np.array(scaling.AGENTS, dtype=float)
QUICK = Point("laptop", "mappo", 2)


# -------------------------------------------------------------------------------------------------------------- the fit


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_an_exact_power_law_is_found_exactly(exponent: float) -> None:
    fit = stats.power_law(SIZES, 3.0 * SIZES**exponent)
    assert fit.estimate == pytest.approx(exponent, abs=1e-12)
    assert fit.high - fit.low == pytest.approx(0, abs=1e-9)


def test_the_interval_is_that_of_the_least_squares_slope() -> None:
    noise = np.array([0.1, -0.2, 0.15, 0.05, -0.15, 0.1])
    y = 1.3 * np.log(SIZES) + noise
    line = reference.linregress(np.log(SIZES), y)
    half = reference.t.ppf(0.975, 4) * line.stderr  # six points, two parameters
    fit = stats.power_law(SIZES, np.exp(y))
    assert (fit.estimate, fit.low, fit.high) == pytest.approx((line.slope, line.slope - half, line.slope + half))
    assert stats.power_law(SIZES, np.exp(y), level=0.5).high < fit.high


def test_the_interval_covers_the_exponent_as_often_as_it_says() -> None:
    noise = np.random.default_rng(0).normal(0, 0.3, size=(1000, len(SIZES)))
    fits = [stats.power_law(SIZES, SIZES**1.2 * np.exp(one)) for one in noise]
    assert np.mean([fit.contains(1.2) for fit in fits]) == pytest.approx(0.95, abs=0.02)


def test_a_cost_that_bends_has_a_wide_interval() -> None:
    straight, bent = stats.power_law(SIZES, SIZES), stats.power_law(SIZES, SIZES + SIZES**2 / 20)
    assert 1 < bent.estimate < 2
    assert bent.high - bent.low > 0.2 > straight.high - straight.low


@pytest.mark.parametrize(
    ("sizes", "costs", "message"),
    [
        ([1, 2], [1, 2], "at least 3"),
        ([1, 2, 4], [1, 2], "at least 3"),
        ([1, 2, 4], [1, 2, 3, 4], "as many costs as sizes"),
        ([1, 2, 2], [1, 2, 3], "three different positive sizes"),
        ([1, 2, 4], [1, 0, 3], "positive costs"),
        ([0, 2, 4], [1, 2, 3], "three different positive sizes"),
        ([1, 2, 4], [1, np.nan, 3], "not finite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(sizes: list[float], costs: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        stats.power_law(sizes, costs)


# ------------------------------------------------------------------------------------------------------------ measuring


def test_peak_memory_sees_what_is_already_gone() -> None:
    before = scaling._reset_peak("cpu")
    torch.ones(2**24)  # 64 MiB, freed at once
    assert scaling._peak("cpu") - before == pytest.approx(2**26, rel=0.1)
    assert scaling._reset_peak("cpu") - before < 2**25


def test_a_point_has_a_process_of_its_own() -> None:
    few, many = scaling.isolated([QUICK, QUICK._replace(agents=16)], repeats=2)
    for frame, agents in ((few, 2), (many, 16)):
        assert list(frame["agents"]) == [agents, agents]
        assert list(frame["repeat"]) == [0, 1]
        assert frame["memory_mb"][0] == frame["memory_mb"][1]
        assert (frame[["collect_s", "learn_s"]] > 0).to_numpy().all()
        assert (frame["cpu_s"] >= (frame["collect_s"] + frame["learn_s"]).sum()).all()
    assert 0.5 < few["memory_mb"][0] < many["memory_mb"][0] < 200
    config = scaling.configure(QUICK)
    learner, _, _ = scaling.start("mappo", config)
    assert few["parameters"][0] == sum(x.numel() for net in learner.networks.values() for x in net.parameters())


@pytest.mark.parametrize("algorithm", scaling.ALGORITHMS)
def test_every_algorithm_can_be_measured(algorithm: str) -> None:
    config = replace(scaling.configure(Point("laptop", algorithm, 3)), num_envs=2, rollout=4)
    learner, env, now = scaling.start(algorithm, config)
    times = scaling._time_updates(learner, env, now, 2, "cpu")
    assert len(times) == 2
    assert min(map(min, times)) > 0
    assert env.spec.num_agents == 3


def test_points_differ_in_what_they_name_only() -> None:
    configs = {point: scaling.configure(point) for point in scaling.points()}
    assert len(configs) == len(scaling.AGENTS) * (2 * len(scaling.ALGORITHMS) + 1)
    for point, config in configs.items():
        assert config.task == f"coordsum/{point.agents}x10-{10 * point.agents}"
        assert (config.num_envs, config.rollout, config.epochs, config.minibatches) == (16, 32, 1, 1)
        assert len(config.seeds) == 1
    assert configs[Point("laptop", "mappo", 2)].network == "mlp"
    assert configs[Point("paper", "mappo", 2)].network == "gru"
    assert configs[Point("paper", "sable", 2)].memory == "recurrent"
    chunks = [configs[Point("paper-chunked", "magpo", agents)].timestep_chunk for agents in scaling.AGENTS]
    assert chunks == [32, 16, 8, 4, 2, 1]


def test_the_observation_does_not_grow_with_the_targets() -> None:
    for agents in (2, 64):
        config = scaling.configure(QUICK._replace(agents=agents))
        assert envs.make(config.task, 1, 0, **config.env_options).spec.obs_size == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": ["laptob"]}, "unknown setting 'laptob'; nearest: laptop"),
        ({"algorithms": ["mapo"]}, "unknown algorithm 'mapo'; nearest: mappo, magpo"),
        ({"agents": [0]}, "positive integer, not 0"),
        ({"agents": [True]}, "positive integer, not True"),
        ({"agents": [2.0]}, r"positive integer, not 2\.0"),
        ({"agents": []}, "nothing to measure"),
        ({"settings": ["paper-chunked"], "algorithms": ["mat"]}, "nothing to measure"),
    ],
)
def test_unknown_points_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scaling.points(**arguments)


def test_a_point_is_measured_once_at_least() -> None:
    with pytest.raises(InputError, match="repeats must be at least 1, not 0"):
        next(scaling.isolated([QUICK], repeats=0))


# ----------------------------------------------------------------------------------------------------------- the record


def rows(point: Point, repeats: int = 3, exponent: float = 1.0) -> pd.DataFrame:
    """What a measurement would give whose costs grow with this exponent."""
    cost = point.agents**exponent
    return pd.DataFrame(
        {
            **point._asdict(), "repeat": repeat, "memory_mb": cost, "collect_s": cost * (1 + repeat),
            "learn_s": 3 * cost, "parameters": 100, "config": scaling._hash(scaling.configure(point)), "cpu_s": 1.0,
            "wall_s": 2.0,
        }
        for repeat in range(repeats)
    )  # fmt: skip


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Point]:
    """Stands in for the measuring, and keeps the points that were asked for."""
    asked: list[Point] = []

    def isolated(points: Iterable[Point], repeats: int, device: str) -> Iterator[pd.DataFrame]:
        for point in points:
            asked.append(point)
            yield rows(point, repeats)

    monkeypatch.setattr(scaling, "isolated", isolated)
    return asked


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for this machine's records and for those of the book."""
    monkeypatch.setenv("INCONCERT_RUNS", str(tmp_path / "runs"))
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("INCONCERT_DATA", str(tmp_path / "data"))
    return tmp_path


def test_a_record_comes_back_as_it_was_written(tmp_path: Path, measured: list[Point]) -> None:
    path = tmp_path / "a.parquet"
    asked = scaling.points(["laptop"], ["mappo", "mat"], [2, 4])
    record = scaling.extend(path, asked)
    pd.testing.assert_frame_equal(record.frame, pd.concat([rows(point) for point in asked], ignore_index=True))
    again = scaling.UpdateCosts.read(path)
    pd.testing.assert_frame_equal(again.frame, record.frame)
    assert again.meta == record.meta
    assert (record.meta["device"], record.meta["repeats"]) == ("cpu", 3)
    assert set(record.meta["code"]) == {"mappo", "mat"}
    assert record.meta["versions"]["torch"] == torch.__version__
    assert record.freshness() == "FRESH"
    assert len(record.missing) == len(scaling.points()) - 4


def test_what_is_measured_is_not_measured_again(tmp_path: Path, measured: list[Point]) -> None:
    path = tmp_path / "a.parquet"
    scaling.extend(path, scaling.points(["laptop"], ["mappo"], [2, 8]))
    scaling.extend(path, scaling.points(["laptop"], ["mappo"], [2, 4, 8]))
    assert measured == [Point("laptop", "mappo", agents) for agents in (2, 8, 4)]
    scaling.extend(path, scaling.points(["laptop"], ["mappo"], [4]), restart=True)
    assert list(scaling.UpdateCosts.read(path).frame["agents"].unique()) == [4]


def test_a_run_that_breaks_off_keeps_its_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(points: list[Point], repeats: int, device: str) -> Iterator[pd.DataFrame]:
        yield rows(points[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(scaling, "isolated", broken)
    path = tmp_path / "a.parquet"
    with pytest.raises(KeyboardInterrupt):
        scaling.extend(path, scaling.points(["laptop"], ["mappo"]))
    assert list(scaling.UpdateCosts.read(path).frame["agents"].unique()) == [2]


@pytest.mark.parametrize("name", ["hardware", "versions", "repeats", "device"])
def test_points_of_other_conditions_are_not_mixed(tmp_path: Path, measured: list[Point], name: str) -> None:
    path = tmp_path / "a.parquet"
    record = scaling.extend(path, [QUICK])
    records.write_atomic(path, records.to_bytes(record.frame, {**record.meta, name: "another"}))
    with pytest.raises(InputError, match=f"another {name}; --restart begins again"):
        scaling.extend(path, [QUICK._replace(agents=4)])
    assert measured == [QUICK]


def test_changed_sources_and_settings_make_a_record_stale(tmp_path: Path, measured: list[Point]) -> None:
    path = tmp_path / "a.parquet"
    record = scaling.extend(path, [QUICK])
    other_code = replace(record, meta={**record.meta, "code": {"mappo": "0"}})
    other_config = replace(record, frame=record.frame.assign(config="0"))
    assert other_code.freshness() == "STALE(code)"
    assert other_config.freshness() == "STALE(config)"
    assert replace(other_code, frame=other_config.frame).freshness() == "STALE(code, config)"
    records.write_atomic(path, records.to_bytes(record.frame, other_code.meta))
    with pytest.raises(InputError, match="other sources or settings; --restart begins again"):
        scaling.extend(path, [QUICK._replace(agents=4)])


def test_a_damaged_record_is_refused(tmp_path: Path, measured: list[Point]) -> None:
    path = tmp_path / "a.parquet"
    scaling.extend(path, [QUICK])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(records.CorruptRecord, match=str(path)):
        scaling.extend(path, [QUICK])


def test_a_whole_record_of_this_machine_comes_before_the_archived_one(folder: Path, measured: list[Point]) -> None:
    with pytest.raises(records.MissingRecord, match="python -m inconcert measure"):
        scaling.UpdateCosts.recorded()
    own, shipped = (place / scaling.UpdateCosts.file for place in measurements.folders())
    with pytest.raises(records.MissingRecord, match="python -m inconcert measure"):
        scaling.UpdateCosts.archive()
    scaling.extend(own, scaling.points(["laptop"]))
    assert scaling.UpdateCosts.recorded().path == own
    with pytest.raises(InputError, match=f"lacks {len(scaling.points()) - 36} pieces"):
        scaling.UpdateCosts.archive()
    scaling.extend(shipped, scaling.points())
    assert scaling.UpdateCosts.recorded().path == shipped
    scaling.extend(own, scaling.points())
    assert scaling.UpdateCosts.recorded().path == own
    shipped.unlink()
    assert scaling.UpdateCosts.archive() == shipped
    assert shipped.read_bytes() == own.read_bytes()


def test_a_stale_record_is_not_archived(folder: Path, measured: list[Point], monkeypatch: pytest.MonkeyPatch) -> None:
    scaling.extend(scaling.UpdateCosts.own(), scaling.points())
    monkeypatch.setattr(scaling, "code", lambda algorithms: {})
    with pytest.raises(InputError, match=r"STALE\(code\); begin again with: python -m inconcert measure --restart"):
        scaling.UpdateCosts.archive()


# -------------------------------------------------------------------------------------------------------------- reading


def test_the_table_has_medians() -> None:
    frame = pd.concat([rows(Point("laptop", "mat", agents)) for agents in (2, 4)], ignore_index=True)
    costs = scaling.table(frame)
    assert list(costs["agents"]) == [2, 4]
    assert list(costs["collect_s"]) == [4, 8]  # the second of three repeats
    assert list(costs["update_s"]) == [10, 20]
    assert list(costs["memory_mb"]) == [2, 4]


def test_exponents_of_known_growth() -> None:
    grown = {"magpo": 1.5, "happo": 1.0}
    frame = pd.concat([rows(Point("paper", name, n), exponent=b) for name, b in grown.items() for n in (2, 4, 8, 32)])
    costs = scaling.table(frame)
    fits = scaling.exponents(costs).set_index(["algorithm", "quantity"])
    assert len(fits) == 8
    for name, exponent in grown.items():
        for column in ("exponent", "low", "high", "last"):
            assert fits.loc[name, column].to_numpy() == pytest.approx(exponent)
    magpo, happo = (scaling.line(costs, "paper", name, "memory") for name in ("magpo", "happo"))
    assert scaling.growth(magpo, happo).estimate == pytest.approx(0.5)


def test_the_last_exponent_is_that_of_the_two_largest_sizes() -> None:
    frame = pd.concat([rows(Point("paper", "mat", n), exponent=2.0 if n == 32 else 1.0) for n in (32, 2, 8)])
    (last,) = scaling.exponents(scaling.table(frame)).query("quantity == 'memory'")["last"]
    assert last == pytest.approx(np.log(32**2 / 8) / np.log(4))


# --------------------------------------------------------------------------------------------------------- command line


def test_the_command_measures_and_archives(folder: Path, measured: list[Point], capsys: pytest.CaptureFixture) -> None:
    own, shipped = (place / scaling.UpdateCosts.file for place in measurements.folders())
    assert main(["measure", "--settings", "paper", "--algorithms", "sable", "mat", "--agents", "4", "2"]) == 0
    assert capsys.readouterr().out == f"{own}\n"
    assert measured == scaling.points(["paper"], ["sable", "mat"], [2, 4])
    assert main(["measure", "--archive"]) == 0
    assert capsys.readouterr().out == f"{shipped}\n"
    assert len(measured) == len(set(measured)) == len(scaling.points())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--settings", "papr"], "unknown setting 'papr'; nearest: paper"),
        (["--algorithms", "qmix"], "unknown algorithm 'qmix'; valid: magpo"),
        (["--agents", "3"], "unknown number of agents 3; nearest: 32; valid: 2, 4, 8, 16, 32, 64"),
        (["--device", "cpux"], "unknown device 'cpux'; valid: cpu, cuda"),
    ],
)
def test_bad_options_are_one_line(
    folder: Path, measured: list[Point], arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["measure", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert not measured
