"""Searches suggest from the paper's spaces, survive whatever kills them, and end as if nothing had happened."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import tyro

from inconcert import __main__ as cli
from inconcert import records, runs, search
from inconcert.algorithms import magpo
from inconcert.config import InputError
from inconcert.evaluate import Diverged
from inconcert.published import data_folder
from inconcert.search import Search

TASK = "coordsum/3x4-7"
TINY: dict[str, Any] = {
    "updates": 2, "eval_every": 1, "num_envs": 4, "rollout": 20, "eval_episodes": 2, "final_episodes": 4,
    "eval_modes": ("sampled",), "hidden": 8, "critic_hidden": 8,
}  # fmt: skip


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INCONCERT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def tiny(**options: Any) -> Search:
    changes = {**TINY, **options.pop("changes", {})}
    return Search("mappo", TASK, "smoke", "", "tiny", changes, **{"startup": 2, **options})


def measured(one: Search) -> pd.DataFrame:
    return search.load(one).frame.drop(columns="wall_s")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the records that were really trained."""
    names: list[str] = []
    real = runs.train

    def counting(plan: runs.Plan, *arguments: Any, **options: Any) -> Path:
        names.append(plan.path.stem)
        return real(plan, *arguments, **options)

    monkeypatch.setattr(runs, "train", counting)
    return names


# ------------------------------------------------------------------------------------------------------------- spaces

RATES = (1e-3, 5e-4, 2.5e-4, 1e-4, 1e-5)
JOINT = {
    "epochs": (2, 5, 10, 15), "minibatches": (1, 2, 4, 8), "ent_coef": (0.1, 0.01, 0.001, 1),
    "clip": (0.05, 0.1, 0.2), "max_grad_norm": (0.5, 5, 10), "lr": RATES, "embed": (32, 64, 128),
    "heads": (1, 2, 4), "blocks": (1, 2, 3),
}  # fmt: skip
RETENTION = {**JOINT, "decay": (0.3, 0.5, 0.8, 1)}
OWN = {"delta": (1.1, 1.2, 1.3, 1.5, 2, 3), "rl_lambda": (0, 1, 2, 4, 8)}
RECURRENT = {
    "epochs": (2, 4, 8), "minibatches": (2, 4, 8), "ent_coef": (0, 0.01, 0.00001), "clip": (0.05, 0.1, 0.2),
    "max_grad_norm": (0.5, 5, 10), "critic_lr": (1e-4, 2.5e-4, 5e-4), "actor_lr": (1e-4, 2.5e-4, 5e-4),
    "chunk": (8, 16, 32, 64, 128),
}  # fmt: skip
SPACES = {
    "mat": JOINT, "sable": RETENTION, "ctds": RETENTION, "magpo": {**RETENTION, **OWN}, "mappo": RECURRENT,
    "happo": RECURRENT,
}  # fmt: skip
"""Read from the paper's Tables 4 to 7, apart from the typed-in files."""


@pytest.mark.parametrize("algorithm", SPACES)
def test_at_the_paper_tier_the_space_is_the_printed_one(algorithm: str) -> None:
    assert search.printed_space(algorithm) == SPACES[algorithm]
    found = search.space(Search(algorithm, "coordsum/8x15-100", "paper", "clamped"))
    assert found == (SPACES[algorithm], {})
    hints = {name: {type(value) for value in values} for name, values in found.choices.items()}
    whole = {"epochs", "minibatches", "embed", "heads", "blocks", "chunk"}
    assert hints == {name: {int} if name in whole else {float} for name in hints}


def test_every_algorithm_has_a_space() -> None:
    assert set(search.TABLES) == {"ctds", "happo", "magpo", "mappo", "mat", "sable"} == set(SPACES)


def test_the_guider_decides_which_table_holds() -> None:
    found = search.space(Search("magpo", TASK, "paper", "clamped-guider-mat"))
    assert found == ({**JOINT, **OWN}, {})


def test_what_cannot_be_or_is_held_is_left_out_and_named() -> None:
    assert set(search.space(tiny()).left_out) == {"chunk"}
    held = search.space(tiny(changes={"clip": 0.1}))
    assert held.left_out["clip"] == "held at 0.1"
    assert "clip" not in held.choices
    recurrent = search.space(tiny(changes={"network": "gru", "num_envs": 8, "rollout": 16}))
    assert recurrent.choices["chunk"] == (8, 16)
    assert recurrent.left_out["chunk = 32"] == "chunk must divide the rollout of 16 steps, not 32"
    assert set(recurrent.left_out) == {"chunk = 32", "chunk = 64", "chunk = 128"}
    assert "chunk" not in search.space(tiny(changes={"network": "gru", "num_envs": 8})).choices


@pytest.mark.parametrize(("memory", "same"), [("none", True), ("recurrent", False)])
def test_the_decay_is_left_out_where_it_changes_nothing(memory: str, same: bool) -> None:
    small: dict[str, Any] = {
        "num_envs": 2, "rollout": 10, "updates": 1, "epochs": 1, "minibatches": 1, "eval_episodes": 2,
        "final_episodes": 2, "eval_modes": ("sampled",), "hidden": 8, "memory": memory, "seeds": (0,),
    }  # fmt: skip
    assert ("decay" in search.space(Search("magpo", TASK, name="x", changes=small)).choices) is not same
    states = []
    for decay in (0.3, 1.0):
        *_, last = magpo.train(magpo.configure(TASK, "smoke", decay=decay, **small))
        states.append(last.state())
    assert all(states[0][name].equal(states[1][name]) for name in states[0]) is same


# --------------------------------------------------------------------------------------------------------- suggestions


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Trials whose score is a function of their settings; nothing is trained."""
    told = SimpleNamespace(score=lambda plan: 0.0, along=lambda plan: [])

    def made(plan: runs.Plan, jobs: int, device: str, report: Any = lambda sign: None) -> Any:
        config = plan.config
        for update, score in told.along(plan):
            report(runs.Progress(config.seeds, update, config.updates, "curve", score, 1.0))
        score = told.score(plan)
        return SimpleNamespace(score=score, seeds=config.seeds, meta={"wall_s": 1.0}, config=vars(config))

    monkeypatch.setattr(search, "_made", made)
    monkeypatch.setattr(search, "_scores", lambda record: {seed: record.score + seed for seed in record.seeds})
    return told


def suggested(one: Search) -> list[dict[str, Any]]:
    return [outcome.params for outcome in search.run(one, 3)]


def test_suggestions_depend_on_the_seed_alone(
    pretend: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = suggested(tiny())
    np.random.seed(1)  # noqa: NPY002  (the global generator must not matter)
    monkeypatch.setenv("INCONCERT_RUNS", str(tmp_path / "again"))
    assert suggested(tiny()) == first
    monkeypatch.setenv("INCONCERT_RUNS", str(tmp_path / "other"))
    assert suggested(tiny(seed=1))[0] != first[0]
    assert all(set(params) == set(search.space(tiny()).choices) for params in first)


def test_after_the_random_trials_tpe_prefers_what_has_scored(pretend: SimpleNamespace) -> None:
    pretend.score = lambda plan: 10.0 * (plan.changes["clip"] == 0.2) + (plan.changes["epochs"] == 2)
    outcomes = list(search.run(tiny(startup=8), 48))
    share = [np.mean([one.params["clip"] == 0.2 for one in part]) for part in (outcomes[:8], outcomes[8:])]
    assert share[1] > 0.6 > share[0]
    assert outcomes[0].scores.keys() == {0, 1}
    assert outcomes[0].score == pytest.approx(np.mean(list(outcomes[0].scores.values())))


def test_the_same_settings_are_not_trained_twice(trained: list[str]) -> None:
    held = {name: values[0] for name, values in search.space(tiny()).choices.items() if name != "clip"}
    outcomes = list(search.run(tiny(changes=held), 5))
    assert [one.params.keys() for one in outcomes] == [{"clip"}] * 5
    assert len(trained) == len({one.params["clip"] for one in outcomes}) < 5
    twins = [one for one in outcomes if one.reason]
    assert len(twins) == 5 - len(trained)
    for twin in twins:
        original = outcomes[int(twin.reason.removeprefix("the settings of trial "))]
        assert (twin.params, twin.scores, twin.wall_s) == (original.params, original.scores, 0.0)


# -------------------------------------------------------------------------------------------------------------- resume


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The table of three trials made at one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INCONCERT_RUNS", str(tmp_path_factory.mktemp("whole")))
        assert [one.number for one in search.run(tiny(), 3)] == [0, 1, 2]
        return measured(tiny())


def test_a_continued_search_is_the_uninterrupted_one(whole: pd.DataFrame, trained: list[str]) -> None:
    assert [one.number for one in search.run(tiny(), 1)] == [0]
    assert [one.number for one in search.run(tiny(), 3)] == [1, 2]
    assert list(search.run(tiny(), 3)) == []
    assert list(search.run(tiny(), 2)) == []
    assert trained == ["0000", "0001", "0002"]
    pd.testing.assert_frame_equal(measured(tiny()), whole)


def test_an_interrupted_trial_goes_on_from_its_checkpoint(whole: pd.DataFrame, trained: list[str]) -> None:
    def stop(number: int, sign: runs.Progress) -> None:
        if (number, sign.update) == (1, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(search.run(tiny(), 3, report=stop))
    assert measured(tiny())["trial"].unique().tolist() == [0]
    signs: list[tuple[int, int]] = []
    rest = search.run(tiny(), 3, report=lambda number, sign: signs.append((number, sign.update)))
    assert [one.number for one in rest] == [1, 2]
    assert signs[0] == (1, 2), "update 1 is not trained again"
    assert trained == ["0000", "0001", "0001", "0002"]
    pd.testing.assert_frame_equal(measured(tiny()), whole)


def test_a_trial_that_was_trained_but_not_entered_is_only_entered(
    whole: pd.DataFrame, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, trial: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "add_trial", full)
        with pytest.raises(OSError, match="No space"):
            list(search.run(tiny(), 3))
    list(search.run(tiny(), 3))
    assert trained == ["0000", "0001", "0002"]
    pd.testing.assert_frame_equal(measured(tiny()), whole)


def test_kill_9_in_the_middle_and_the_same_command_again(whole: pd.DataFrame) -> None:
    changes = [f"{name}={json.dumps(value)}" for name, value in TINY.items()]
    command = [
        sys.executable, "-m", "inconcert", "search", "mappo", TASK, "--name", "tiny", "--startup", "2",
        "--trials", "3", "--set", *changes,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    second = tiny().folder / "trials" / "0001.json"
    deadline = time.monotonic() + 240
    while not second.exists():
        assert time.monotonic() < deadline, "no second trial appeared"
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "trial 0:" not in done.stdout
    assert done.stdout.splitlines()[-1] == str(tiny().table)
    pd.testing.assert_frame_equal(measured(tiny()), whole)


def test_a_search_of_other_settings_is_refused_and_can_be_restarted(pretend: SimpleNamespace) -> None:
    list(search.run(tiny(), 2))
    with pytest.raises(InputError, match=r"holds a search of other seed; add --restart .*--name NAME"):
        list(search.run(tiny(seed=1), 2))
    with pytest.raises(InputError, match="holds a search of other settings, space;"):
        list(search.run(tiny(changes={"clip": 0.1}), 2))
    assert len(list(search.run(tiny(seed=1), 2, restart=True))) == 2


def test_a_damaged_storage_is_named_and_refused(pretend: SimpleNamespace) -> None:
    list(search.run(tiny(), 1))
    path = tiny().folder / "study.db"
    path.write_bytes(b"no database" * 400)
    with pytest.raises(records.CorruptRecord, match=rf"{path} is damaged.*--restart"):
        list(search.run(tiny(), 2))
    assert len(list(search.run(tiny(), 2, restart=True))) == 2


def test_two_processes_do_not_work_on_one_search(pretend: SimpleNamespace) -> None:
    list(search.run(tiny(), 1))
    lock = tiny().folder.with_name(f".{tiny().folder.name}.lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process works on"):
            list(search.run(tiny(), 2))
    assert len(list(search.run(tiny(), 2))) == 1


# -------------------------------------------------------------------------------------------------------------- trouble


def test_a_diverged_trial_does_not_lose_the_others(monkeypatch: pytest.MonkeyPatch, own: Path) -> None:
    real = runs.train

    def train(plan: runs.Plan, *arguments: Any, **options: Any) -> Path:
        if plan.path.stem == "0001":
            plan.checkpoints.mkdir(parents=True)
            raise Diverged("seed 1, update 2: value_loss is nan")
        return real(plan, *arguments, **options)

    monkeypatch.setattr(runs, "train", train)
    outcomes = list(search.run(tiny(), 3))
    assert [one.state for one in outcomes] == ["complete", "diverged", "complete"]
    assert outcomes[1].reason == "seed 1, update 2: value_loss is nan"
    assert (outcomes[1].score, outcomes[1].scores) == (None, {})
    assert not list(own.rglob("*.ckpt"))
    rows = search.load(tiny()).frame.query("trial == 1")
    assert rows["score"].isna().all()
    assert set(rows["reason"]) == {outcomes[1].reason}
    assert search.trials_of(search.load(tiny()))["score"].notna().tolist() == [True, False, True]
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tiny().folder / 'study.db'}")
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "PRUNED", "COMPLETE"], "TPE has to see that the second was bad"
    assert study.best_trial.number in (0, 2)


def test_settings_that_exclude_each_other_are_refused_and_the_search_goes_on(pretend: SimpleNamespace) -> None:
    """With 4 environments, chunks of 128 steps are 4 columns of a rollout, too few for 8 minibatches."""
    outcomes = list(search.run(Search("happo", "coordsum/8x15-100", "paper", "clamped", "x", {"num_envs": 4}), 40))
    excluded = [(one.params["chunk"], one.params["minibatches"]) == (128, 8) for one in outcomes]
    assert [one.state == "refused" for one in outcomes] == excluded
    assert any(excluded)
    assert {one.reason for one in outcomes if one.state == "refused"} == {
        "minibatches must divide the 4 columns of a rollout, not 8"
    }


def test_other_errors_stop_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> Path:
        raise OSError("No space left on device")

    monkeypatch.setattr(runs, "train", broken)
    with pytest.raises(OSError, match="No space"):
        list(search.run(tiny(), 2))
    assert len(search.load(tiny()).frame) == 0


def test_a_trial_below_the_median_is_pruned(pretend: SimpleNamespace) -> None:
    pretend.score = lambda plan: 5.0
    good = [(1, 3.0), (2, 4.0)]
    pretend.along = lambda plan: good if plan.path.stem < "0005" else [(1, 2.0), (2, 9.0)]
    outcomes = list(search.run(tiny(prune=True), 6))
    assert [one.state for one in outcomes] == ["complete"] * 5 + ["pruned"]
    assert outcomes[5].reason == "below the median at update 1"
    assert outcomes[5].score is None
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tiny().folder / 'study.db'}")
    assert study.trials[0].intermediate_values == dict(good)
    assert study.trials[5].intermediate_values == {1: 2.0}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"algorithm": "magpi"}, "unknown algorithm 'magpi'; nearest: magpo"),
        ({"tier": "laptp"}, "unknown tier 'laptp'; nearest: laptop"),
        ({"variant": "clampd"}, "unknown variant 'clampd'; nearest: clamped"),
        ({"name": "a/b"}, "a search's name has letters"),
        ({"startup": 0}, "startup must be at least 1, not 0"),
    ],
)
def test_wrong_input_names_what_is_valid(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Search(**{"algorithm": "mappo", "task": TASK, **wrong})


def test_wrong_calls() -> None:
    with pytest.raises(InputError, match="trials must be at least 1, not 0"):
        list(search.run(tiny(), 0))
    with pytest.raises(InputError, match="jobs = 1"):
        list(search.run(tiny(prune=True), 1, jobs=2))
    held = {name: values[0] for name, values in search.space(tiny()).choices.items()}
    with pytest.raises(InputError, match="nothing is left to search: epochs; minibatches"):
        list(search.run(tiny(changes=held), 1))
    with pytest.raises(records.MissingRecord, match="make it with: python -m inconcert search mappo"):
        search.load(tiny())
    with pytest.raises(InputError, match="at least 2 seeds"):
        search.check(tiny(), 1)
    with pytest.raises(InputError, match=r"no trial of .* is complete"):
        search.check(tiny(), 2)


# ------------------------------------------------------------------------------------------------------- check, tables


def test_the_check_uses_seeds_that_the_search_has_not_seen(trained: list[str]) -> None:
    list(search.run(tiny(), 2))
    scores = search.check(tiny(), 2)
    assert {role: set(seeds) for role, seeds in scores.items()} == {"best": {2, 3}, "own": {2, 3}}
    frame = search.load(tiny()).frame
    assert frame["role"].value_counts().to_dict() == {"trial": 4, "best": 2, "own": 2}
    means = search.trials_of(search.load(tiny()))["score"]
    assert frame.query("role == 'best'")["trial"].unique().tolist() == [means.idxmax()]
    own = frame.query("role == 'own'").iloc[0]
    config = tiny().config
    assert all(own[name] == getattr(config, name) for name in search.space(tiny()).choices)
    count = len(trained)
    assert search.check(tiny(), 2) == scores
    list(search.run(tiny(), 2))
    assert len(trained) == count
    assert search.load(tiny()).frame.equals(frame), "a later call keeps the check in the table"


def test_the_table_says_how_it_came_about() -> None:
    list(search.run(tiny(), 1))
    table = search.load(tiny())
    assert table.freshness() == "FRESH"
    assert (table.algorithm, table.task, table.tier, table.meta["name"]) == ("mappo", TASK, "smoke", "tiny")
    assert table.meta["startup"] == 2
    assert table.meta["space"]["left_out"] == {"chunk": "no recurrent layer at this tier"}
    assert table.meta["changes"]["hidden"] == 8
    path = tiny().table
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(records.CorruptRecord, match=str(path)):
        search.load(tiny())


def test_records_of_trials_are_not_run_records(own: Path) -> None:
    list(search.run(tiny(), 1))
    assert [path.stem for path in own.rglob("*.parquet")].count("0000") == 1
    assert not [key for key in records.find() if key.path.is_relative_to(own)]
    assert tiny().table in search.find()


def test_the_command_makes_this_search() -> None:
    one = tiny(seed=3, prune=True, changes={"actor_lr": 1e-5, "network": "gru", "num_envs": 8, "seeds": (4, 5)})
    command = tyro.cli(cli.Command, args=shlex.split(search.command(one, 7))[3:])  # type: ignore[arg-type, call-overload]
    assert command.plan() == one
    assert command.trials == 7


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "published").symlink_to(data_folder() / "published")
    monkeypatch.setenv("INCONCERT_DATA", str(folder))
    return folder


def test_command_line(own: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [f"{name}={json.dumps(value)}" for name, value in TINY.items()]
    words = ["search", "mappo", TASK, "--set", *changes, "--trials", "2", "--check", "2"]
    assert cli.main(words) == 2
    assert "needs a name: add --name NAME" in capsys.readouterr().err
    assert cli.main([*words, "--name", "tiny", "--jobs", "0"]) == 2
    assert cli.main([*words, "--name", "tiny"]) == 0
    shown = capsys.readouterr().out
    assert "trial 1:" in shown
    assert "own on 2 fresh seeds:" in shown
    assert cli.main(["list", "searches"]) == 0
    table = dataclasses.replace(tiny(), startup=10).table
    assert capsys.readouterr().out == f"{TASK}\tmappo\t\tsmoke\ttiny\tFRESH\t{table}\n"
    assert cli.main(["archive", "tiny"]) == 0
    archived = data / "searches" / tiny().file
    assert capsys.readouterr().out == f"{archived}\n"
    assert archived.read_bytes() == table.read_bytes()
    table.unlink()
    assert search.load(tiny()).path == archived


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mappo", "coordsum/3x4"], "unknown"),
        (["mapo", TASK], "unknown algorithm 'mapo'; nearest: mappo"),
        (["mappo", TASK, "--set", "clp=0.1", "--name", "x"], "unknown parameter 'clp'; nearest: clip"),
        (["mappo", TASK, "--set", "clip", "--name", "x"], "--set takes NAME=VALUE"),
        (["mappo", TASK, "--seed", "2"], "needs a name"),
    ],
)
def test_wrong_commands(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["search", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def synthetic(trials: int, rng: np.random.Generator) -> Any:
    """A table in which `clip` decides the score and nothing else matters."""
    choices = {name: list(values) for name, values in search.space(tiny()).choices.items()}
    frame = pd.DataFrame({name: rng.choice(values, trials) for name, values in choices.items()})
    score = 10.0 * (frame["clip"] == 0.2) + rng.normal(size=trials)
    frame = frame.assign(role="trial", trial=range(trials), state="complete", reason="", seed=0, score=score, wall_s=1)
    return SimpleNamespace(frame=frame, meta={"space": {"choices": choices}})


def test_importance_stands_out_from_chance_where_a_setting_decides() -> None:
    table = synthetic(40, np.random.default_rng(0))
    found = search.importance(table, shuffles=50)
    assert found["setting"][0] == "clip"
    assert found["importance"][0] > found["by_chance"][0]
    assert (found["importance"][1:] < found["importance"][0] / 2).all()
    assert found["importance"].sum() == pytest.approx(1)
    assert set(found["setting"]) == set(table.meta["space"]["choices"])
    with pytest.raises(InputError, match="at least 4 complete trials, not 3"):
        search.importance(synthetic(3, np.random.default_rng(0)))


@pytest.mark.parametrize("path", sorted((data_folder() / "searches").glob("*/*/*/*.parquet")), ids=str)
def test_archived_searches_are_whole_and_within_the_paper_s_spaces(path: Path) -> None:
    table = records.read(path)
    assert path.stat().st_size < 100_000
    assert table.algorithm in search.TABLES
    printed = search.printed_space(table.algorithm)
    tried = search.trials_of(table)
    assert set(tried["state"]) <= {"complete", "pruned", "diverged", "refused"}
    assert tried.index.tolist() == list(range(len(tried)))
    for name, choices in table.meta["space"]["choices"].items():
        assert set(choices) <= set(printed[name])
        assert set(tried[name]) <= set(choices)
    assert set(printed) == {*table.meta["space"]["choices"], *(name for name in table.meta["space"]["left_out"])}


def test_there_is_an_archived_search() -> None:
    assert list((data_folder() / "searches").glob("*/*/*/*.parquet"))
