"""Pieces of trajectories and the replay that they lie in."""

import dataclasses

import pytest
import torch

from inconcert import envs, offpolicy
from inconcert.algorithms import dop
from inconcert.config import InputError

SMALL = {
    "task": "coordsum/3x4-7", "seeds": (3, 5), "num_envs": 4, "rollout": 20, "updates": 2, "capacity": 8,
    "on_capacity": 8, "on_batch": 3, "off_batch": 5, "network": "mlp", "hidden": 8, "critic_hidden": 8,
}  # fmt: skip


def config(**changes):
    return dop.Config(**{**SMALL, **changes})


def test_a_piece_holds_what_happened():
    """Against the environment played again: cut episodes, their last situation, and where the next one begins."""
    cfg = config(task="predator_prey/4x1-3", env_options={"episode_limit": 7}, rollout=6)
    env, again = (envs.make(cfg.task, cfg.num_envs, cfg.seeds, **cfg.env_options) for _ in range(2))
    learner = dop.Learner(cfg, env.spec, "cpu")
    start = torch.ones(2, cfg.num_envs, dtype=torch.bool)
    now = {"step": env.reset(), "start": start, **learner.memories(cfg.num_envs)}
    step, cuts, ends = again.reset(), 0, 0
    for update in (1, 2, 3):
        data = offpolicy.collect(learner, env, now, update)
        data = {
            name: x.flatten(0, 1) if name == "memory" else x.transpose(1, 2).flatten(0, 1) for name, x in data.items()
        }
        assert data["filled"].sum(1).tolist() == [6] * 8
        slot = torch.zeros(8, dtype=torch.long)
        rows = torch.arange(8)
        for _ in range(cfg.rollout):
            assert data["filled"][rows, slot].all()
            for name, value in (("obs", step.obs), ("state", step.state), ("available", step.available)):
                assert torch.equal(data[name][rows, slot], value)
            step = again.step(data["action"][rows, slot])
            assert torch.equal(data["reward"][rows, slot], step.reward.mean(1))
            assert torch.equal(data["done"][rows, slot], step.terminated)
            slot += 1
            for row in step.truncated.nonzero().flatten().tolist():
                assert not data["filled"][row, slot[row]]
                assert torch.equal(data["obs"][row, slot[row]], step.final_obs[row])
                assert torch.equal(data["state"][row, slot[row]], step.final_state[row])
                slot[row] += 1
                cuts += 1
            ends += int(step.terminated.sum())
            assert torch.equal(data["start"][rows, slot], step.terminated | step.truncated)
        assert torch.equal(data["obs"][rows, slot], step.obs)
    assert cuts
    assert ends


def test_the_replay_keeps_the_newest():
    cfg = config(num_envs=2, capacity=6, on_capacity=3, on_batch=2)
    spec = envs.make(cfg.task).spec
    replay = offpolicy.Replay(cfg, spec)
    for update in range(1, 6):  # piece number p has reward p everywhere
        data = {
            name: torch.zeros(2, *(cfg.num_envs, *shape) if name == "memory" else (shape[0], cfg.num_envs, *shape[1:]))
            for name, (shape, _) in offpolicy.layout(cfg, spec).items()
        }
        data["reward"] += torch.tensor([2 * update - 1, 2 * update])
        replay.store(data, update)
        newest = replay.latest(update, 5)["reward"][:, 0].tolist()
        assert newest == [[float(p) for p in range(2 * update, max(0, 2 * update - 5), -1)]] * 2
        for among in (3, 6):
            drawn = replay.sample(update, "test", 1, 400, among)["reward"]
            assert drawn.shape == (2, cfg.rollout + 2, 400)
            assert {int(p) for p in drawn.unique()} == set(range(max(1, 2 * update - among + 1), 2 * update + 1))
            assert not torch.equal(drawn[0], drawn[1])


def test_a_replay_that_does_not_fit_is_refused_before_training():
    cfg = config(capacity=4_000_000)
    spec = envs.make(cfg.task).spec
    small = config(num_envs=1, capacity=8)
    one = offpolicy.replay_bytes(small, spec) / 16
    replay = offpolicy.Replay(small, spec)
    held = sum(x.element_size() * x.numel() for x in replay.state_dict().values())
    assert held == pytest.approx(16 * one)
    with pytest.raises(InputError, match=rf"takes {4e6 * 2 * one / 1e9:.1f} GB, and .* capacity \d+ fits"):
        next(dop.train(dataclasses.replace(cfg, memory_gb=1.0)))
    fits = int(1e9 / (2 * one)) // 4 * 4
    assert offpolicy.check_memory(config(capacity=fits, memory_gb=1.0), spec) <= 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capacity": 10}, "capacity must be a multiple of num_envs = 4"),
        ({"clip": 0.3}, "clip has no use"),
        ({"rollout": 101, "task": "coordsum/3x4-7"}, "at most the 100 steps of an episode"),
        ({"epsilon_end": 0.9}, "exploration must fall"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        next(dop.train(config(**changes)))


def test_the_floor_keeps_every_legal_action():
    available = torch.tensor([True, True, False, True])
    log_probs = torch.tensor([0.7, 0.3, 0.0, 0.0]).log()
    found = offpolicy.keep_floor(log_probs, available, 0.3).exp()
    torch.testing.assert_close(found, torch.tensor([0.59, 0.31, 0.0, 0.1]))


def test_exploration_falls_linearly():
    cfg = config(num_envs=4, rollout=20, epsilon_steps=160, epsilon_start=0.5, epsilon_end=0.1)
    assert [cfg.epsilon(update) for update in (1, 2, 3, 9)] == pytest.approx([0.5, 0.3, 0.1, 0.1])
