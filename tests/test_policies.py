"""Policies that runs leave: what is kept, that it is what was evaluated, and how it is asked, chosen and archived."""

import dataclasses

import numpy as np
import pytest
import torch

from inconcert import envs, policies, records, runs
from inconcert.__main__ import main
from inconcert.config import InputError
from inconcert.evaluate import choose, play

TASK = "mpe/simple_speaker_listener"
SMALL = {"updates": 4, "eval_every": 2, "num_envs": 8, "rollout": 25, "eval_episodes": 4, "final_episodes": 8,
         "hidden": 16, "actor_lr": 0.01, "keep": (50, 100)}  # fmt: skip


@pytest.fixture
def own(tmp_path, monkeypatch):
    """An empty folder for runs and another for the archive."""
    (tmp_path / "data" / "published").mkdir(parents=True)
    monkeypatch.setenv("INCONCERT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(records, "folders", lambda: (tmp_path / "runs", tmp_path / "data" / "runs"))
    return tmp_path


def trained(algorithm="happo", **changes):
    return records.read(runs.train(runs.Plan(algorithm, TASK, "smoke", "test", {**SMALL, **changes})))


def loaded(algorithm="happo", **arguments):
    return policies.load(TASK, algorithm, variant="test", **arguments)


class Asked:
    """A policy as a player."""

    def __init__(self, policy):
        self.policy = policy

    def __call__(self, step, start, memory, uniform):
        p, memory = self.policy.step(step.obs, step.available, start.flatten(), memory)
        return choose(p.log().unflatten(0, start.shape), uniform), memory


@pytest.mark.parametrize(("algorithm", "changes"), [("happo", {}), ("mappo", {"network": "gru"})])
def test_it_plays_what_the_record_holds(own, algorithm, changes):
    """The closing evaluations, episode for episode: of the best parameters and, kept at 100 %, of the last."""
    record = trained(algorithm, **changes)
    rows = record.frame[record.frame["mode"] == "greedy"]
    for phase, checkpoint in (("best", "best"), ("last", 100)):
        policy = loaded(algorithm, checkpoint=checkpoint)
        assert policy.seeds == (0, 1)
        assert policy.meta["checkpoint"] == str(checkpoint)
        assert policy.meta["digest"] == record.meta["digest"]
        update = SMALL["updates"]
        outcomes = play(Asked(policy), TASK, policy.options, (0, 1), 8, phase, update, "greedy")
        expected = rows[rows["phase"] == phase].sort_values(["seed", "episode"])["team_return"].to_numpy()
        np.testing.assert_array_equal(outcomes["team_return"].flatten().numpy(), expected)


def test_checkpoints_are_those_of_their_moment(own):
    """After half the training: the last parameters of a run of half the length with the same rates."""
    trained(decay_lr=False)
    obs = torch.rand(6, 2, 11)
    available = torch.ones(6, 2, 5, dtype=torch.bool)
    half = loaded(checkpoint=50).probabilities(obs, available)
    assert not torch.equal(half, loaded(checkpoint=100).probabilities(obs, available))
    runs.train(runs.Plan("happo", TASK, "smoke", "short", {**SMALL, "decay_lr": False, "updates": 2, "keep": (100,)}))
    short = policies.load(TASK, "happo", variant="short", checkpoint=100)
    assert torch.equal(short.probabilities(obs, available), half)


def test_probabilities_of_chosen_seeds(own):
    trained(seeds=(4, 0, 7))
    env = envs.make(TASK, 5, (4, 0, 7))
    step = env.observe()
    policy = loaded()
    p = policy.probabilities(step.obs, step.available)
    assert p.shape == (15, 2, 5)
    assert p.dtype == torch.float32
    torch.testing.assert_close(p.sum(-1), torch.ones(15, 2))
    assert (p[:, 0, 3:] == 0).all()  # the speaker has three words
    two = loaded(seeds=[7, 4])
    assert two.seeds == (7, 4)
    rows = torch.cat([torch.arange(10, 15), torch.arange(5)])
    torch.testing.assert_close(two.probabilities(step.obs[rows], step.available[rows]), p[rows])
    with pytest.raises(InputError, match=r"unknown seed 3; .*valid: 4, 0, 7"):
        loaded(seeds=[3])
    with pytest.raises(InputError, match="rows of 2 seeds cannot be 3"):
        two.probabilities(step.obs[:3], step.available[:3])


def test_a_policy_that_remembers_is_asked_step_by_step(own):
    trained("mappo", network="gru")
    policy, step = loaded("mappo"), envs.make(TASK, 3, (0, 1)).observe()
    with pytest.raises(InputError, match="remembers"):
        policy.probabilities(step.obs, step.available)
    fresh, going = torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)
    first, memory = policy.step(step.obs, step.available, fresh)
    second, _ = policy.step(step.obs, step.available, going, memory)
    again, _ = policy.step(step.obs, step.available, fresh, memory)
    assert not torch.allclose(first, second)
    assert torch.equal(first, again)


def test_what_is_not_there_is_named_with_its_command(own):
    with pytest.raises(records.MissingRecord, match=r"no policy of happo@test on .* train happo .* --tier laptop"):
        loaded()
    trained(keep=())
    with pytest.raises(records.MissingRecord, match="after 30% of training"):
        loaded(checkpoint=30)
    with pytest.raises(InputError, match="unknown tier 'smok'"):
        loaded(tier="smok")


def test_a_joint_policy_is_refused(own):
    changes = {name: value for name, value in SMALL.items() if name not in ("hidden", "actor_lr")}
    runs.train(runs.Plan("mat", TASK, "smoke", "test", {**changes, "embed": 8}))
    with pytest.raises(InputError, match="mat learns a joint policy"):
        loaded("mat")


def test_policies_are_archived_with_their_record(own, capsys, monkeypatch):
    trained()
    assert main(["archive", "happo", "--policies", "best", "50"]) == 0
    capsys.readouterr()
    folder = own / "data" / "policies" / TASK / "happo@test"
    assert sorted(file.name for file in folder.iterdir()) == [
        "smoke.policy-50.safetensors", "smoke.policy.safetensors",
    ]  # fmt: skip
    for file in (own / "runs").rglob("*.policy*"):
        file.unlink()
    assert loaded(checkpoint=50).seeds == (0, 1)
    words = ["evaluate", "happo", TASK, "--tier", "smoke", "--variant", "test", "--checkpoint", "50"]
    assert main(words) == 0
    assert main(["archive", "happo", "--policies", "best"]) == 2
    assert "has no policy 'best'" in capsys.readouterr().err


def test_large_policies_are_not_archived(own, capsys):
    trained(hidden=256, keep=(50,))
    assert main(["archive", "happo", "--policies", "best", "50"]) == 2
    assert "archived ones stay under 2 MB" in capsys.readouterr().err
    assert not (own / "data" / "policies").exists()


@pytest.mark.parametrize("keep", [(0,), (101,), (50, -1)])
def test_senseless_percentages_are_refused(keep):
    config = records.algorithm_module("happo").configure(TASK, "smoke")
    with pytest.raises(InputError, match="percentages from 1 to 100"):
        dataclasses.replace(config, keep=keep)
