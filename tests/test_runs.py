"""Training runs end with the same record, however often they are killed on the way."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from inconcert import records, runs
from inconcert.__main__ import main
from inconcert.config import InputError
from inconcert.evaluate import Diverged

TASK = "coordsum/3x4-7"
SMALL = {"updates": 8, "eval_every": 1, "num_envs": 8, "eval_episodes": 4, "final_episodes": 8, "hidden": 16}


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("INCONCERT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def plan(**changes):
    return runs.Plan("mappo", TASK, "smoke", "test", {**SMALL, **changes})


def same(one, two):
    pd.testing.assert_frame_equal(one.frame.drop(columns="wall_s"), two.frame.drop(columns="wall_s"))
    assert one.meta["digest"] == two.meta["digest"]


def test_a_run_leaves_a_record_a_policy_and_nothing_else(own):
    signs = []
    path = runs.train(plan(), report=signs.append)
    record = records.read(path)
    assert record.seeds == [0, 1]
    assert record.freshness() == "FRESH"
    assert record.frame["phase"].unique().tolist() == ["curve", "best", "last"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["smoke.parquet", "smoke.policy.safetensors"]
    assert [sign.update for sign in signs] == [*range(9), 8, 8]
    assert record.meta["cpu_s"] > 0
    assert record.config["updates"] == 8


@pytest.mark.parametrize("stop_after", [1, 5, 9])
def test_interrupted_and_resumed_is_bit_for_bit_the_same(own, tmp_path, monkeypatch, stop_after):
    whole = records.read(runs.train(plan()))
    monkeypatch.setenv("INCONCERT_RUNS", str(tmp_path / "again"))
    seen = 0

    def stop(sign):
        nonlocal seen
        seen += 1
        if seen == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.train(plan(), report=stop)
    assert not plan().path.exists()
    signs = []
    again = records.read(runs.train(plan(), report=signs.append))
    assert signs[0].update == min(stop_after, 8)
    same(whole, again)


def arguments(jobs):
    settings = [f"{name}={value}" for name, value in SMALL.items()]
    return [
        sys.executable, "-m", "inconcert", "train", "mappo", TASK, "--tier", "smoke", "--variant", "test",
        "--jobs", str(jobs), "--set", *settings,
    ]  # fmt: skip


@pytest.mark.parametrize(("jobs", "victims"), [(1, "all"), (2, "all"), (2, "parent")])
def test_kill_9_in_the_middle_and_the_same_command_again(tmp_path, jobs, victims):
    """Really kill the process once a checkpoint is there, with or without its workers, and run the command again."""

    def environment(name):
        return {**os.environ, "INCONCERT_RUNS": str(tmp_path / name), "OMP_NUM_THREADS": "1"}

    def path(name):
        return tmp_path / name / records.relative_path(TASK, "mappo", "smoke", "test")

    subprocess.run(arguments(jobs), env=environment("whole"), check=True, capture_output=True)
    process = subprocess.Popen(
        arguments(jobs), env=environment("killed"), stdout=subprocess.DEVNULL, start_new_session=True
    )
    folder = path("killed").with_suffix(".ckpt")
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.safetensors")):
        assert time.monotonic() < deadline, "no checkpoint appeared"
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.005)
    (os.killpg if victims == "all" else os.kill)(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not path("killed").exists()
    for checkpoint in folder.glob("*.safetensors"):
        records.load_tensors(checkpoint)  # whole
    subprocess.run(arguments(jobs), env=environment("killed"), check=True, capture_output=True)
    same(records.read(path("whole")), records.read(path("killed")))
    assert not folder.exists()


def test_seeds_split_over_processes_are_joined_into_one_record(own, tmp_path, monkeypatch):
    together = records.read(runs.train(plan(), jobs=1))
    monkeypatch.setenv("INCONCERT_RUNS", str(tmp_path / "split"))
    split = records.read(runs.train(plan(), jobs=2))
    assert split.seeds == together.seeds
    assert split.meta["groups"] == [[0], [1]]
    assert len(split.frame) == len(together.frame)
    start = [record.frame.query("update == 0 and phase == 'curve'") for record in (together, split)]
    order = list(records.KEYS)
    pd.testing.assert_frame_equal(
        *(part.sort_values(order, ignore_index=True).drop(columns="wall_s") for part in start)
    )


def test_a_half_finished_run_of_other_settings_is_refused_and_can_be_restarted(own):
    def stop(sign):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.train(plan(), report=stop)
    with pytest.raises(InputError, match=r"half-finished run of other settings or sources.*--restart"):
        runs.train(plan(clip=0.3))
    assert records.read(runs.train(plan(clip=0.3), restart=True)).config["clip"] == 0.3


def test_a_damaged_checkpoint_is_named_and_refused(own):
    def stop(sign):
        if sign.update == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.train(plan(), report=stop)
    [checkpoint] = plan().checkpoints.glob("*.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(records.CorruptRecord, match=str(checkpoint)):
        runs.train(plan())
    (plan().checkpoints / "plan.json").write_text("{")
    with pytest.raises(records.CorruptRecord, match="--restart"):
        runs.train(plan())


def test_a_full_disk_stops_the_run_and_the_same_command_continues(own, monkeypatch):
    whole_write, count = records.write_atomic, 0

    def full(path, content):
        nonlocal count
        count += 1
        if count == 5:
            raise OSError(28, "No space left on device")
        whole_write(path, content)

    monkeypatch.setattr(records, "write_atomic", full)
    with pytest.raises(OSError, match="No space"):
        runs.train(plan())
    monkeypatch.setattr(records, "write_atomic", whole_write)
    resumed = records.read(runs.train(plan()))
    same(resumed, records.read(runs.train(plan(), restart=True)))


def test_a_diverged_run_says_which_seed_and_leaves_no_record(own):
    with pytest.raises(Diverged, match="seed 0, update 1"):
        runs.train(plan(actor_lr=float("inf")))
    assert not plan().path.exists()


# -------------------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "mapo", TASK], "nearest: mappo"),
        (["train", "mappo", "coordsum/3x10-3O"], "nearest: coordsum/3x10-30"),
        (["train", "mappo", "corodsum/3x10-30"], "nearest: coordsum/3x10-30"),
        (["train", "mappo", TASK, "--tier", "laptp"], "nearest: laptop"),
        (["train", "mappo", TASK, "--variant", "clampd"], "nearest: clamped"),
        (["train", "mappo", TASK, "--variant", "x", "--set", "clp=0.2"], "nearest: clip"),
        (["train", "mappo", TASK, "--variant", "x", "--set", "clip=high"], "must be float"),
        (["train", "mappo", TASK, "--variant", "x", "--set", "clip"], "NAME=VALUE"),
        (["train", "mappo", TASK, "--set", "clip=0.2"], "--variant NAME"),
        (["train", "mappo", TASK, "--variant", "clamped", "--set", "clip=0.2"], "--variant NAME"),
        (["train", "mappo", TASK, "--jobs", "0"], "at least 1"),
        (["train", "mappo", TASK, "--device", "cdua"], "valid: cpu, cuda"),
        (["evaluate", "mappo", TASK, "--mode", "gredy"], "nearest: greedy"),
        (["evaluate", "mappo", TASK], "inconcert train mappo"),
        (["archive", "nothing-like-it"], "no record"),
        (["list", "task"], "nearest: tasks"),
    ],
)
def test_bad_input_is_one_line_with_the_nearest_choices_and_exit_code_2(own, capsys, words, says):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not any(own.rglob("*.parquet"))


def test_the_program_passes_on_the_exit_code(own):
    process = subprocess.run([sys.executable, "-m", "inconcert", "list", "task"], capture_output=True, check=False)
    assert process.returncode == 2


def test_train_evaluate_and_list(own, capsys):
    words = ["mappo", "coordsum/3x10-30", "--tier", "smoke"]

    def output(*more):
        assert main(list(more)) == 0
        return " ".join(capsys.readouterr().out.split())

    assert "update 6/6, last return" in output("train", *words)
    assert "there and fresh" in output("train", *words)
    assert "coordsum/3x10-30 mappo smoke FRESH" in output("list", "records")
    assert "16 episodes, sampled actions" in output("evaluate", *words, "--episodes", "16")
    assert "magpo-figure-1" in output("list", "exhibits")
    assert "coordsum/8x15-100" in output("list", "tasks")
    assert "mappo clamped" in output("list", "algorithms")
    assert "magpo-figure-1-distilled" in output("verdicts")


def test_stale_records_are_not_archived(own, monkeypatch, capsys):
    runs.train(plan())
    monkeypatch.setattr(records.Record, "freshness", lambda record: "STALE(code)")
    assert main(["archive"]) == 2
    assert "stale" in capsys.readouterr().err


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(word in text for word in ("list", "train", "evaluate", "archive", "verdicts"))
