"""Pieces of trajectories and the replay that they lie in."""

import dataclasses

import pytest
import torch

from inconcert import envs, evaluate, offpolicy
from inconcert.algorithms import dop, qmix
from inconcert.config import InputError

SMALL = {
    "task": "coordsum/3x4-7", "seeds": (3, 5), "num_envs": 4, "rollout": 20, "updates": 2, "capacity": 8,
    "on_capacity": 8, "on_batch": 3, "off_batch": 5, "network": "mlp", "hidden": 8, "critic_hidden": 8,
}  # fmt: skip


def config(**changes):
    return dop.Config(**{**SMALL, **changes})


@pytest.mark.parametrize("last_action", [False, True])
def test_a_piece_holds_what_happened(last_action):
    """Against the environment played again: cut episodes, their last situation, and where the next one begins."""
    cfg = config(task="predator_prey/4x1-3", env_options={"episode_limit": 7}, rollout=6, last_action=last_action)
    env, again = (envs.make(cfg.task, cfg.num_envs, cfg.seeds, **cfg.env_options) for _ in range(2))
    learner = dop.Learner(cfg, env.spec, "cpu")
    start = torch.ones(2, cfg.num_envs, dtype=torch.bool)
    now = {"step": env.reset(), "start": start, **learner.memories(cfg.num_envs)}
    step, cuts, ends = again.reset(), 0, 0
    last = torch.full((8, env.spec.num_agents), -1)
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
            if last_action:
                assert torch.equal(data["last"][rows, slot], last)
            last = data["action"][rows, slot]
            step = again.step(data["action"][rows, slot])
            assert torch.equal(data["reward"][rows, slot], step.reward.mean(1))
            assert torch.equal(data["done"][rows, slot], step.terminated)
            slot += 1
            for row in step.truncated.nonzero().flatten().tolist():
                assert not data["filled"][row, slot[row]]
                assert torch.equal(data["obs"][row, slot[row]], step.final_obs[row])
                assert torch.equal(data["state"][row, slot[row]], step.final_state[row])
                if last_action:
                    assert torch.equal(data["last"][row, slot[row]], last[row])
                slot[row] += 1
                cuts += 1
            last = last.masked_fill((step.terminated | step.truncated).unsqueeze(1), -1)
            ends += int(step.terminated.sum())
            assert torch.equal(data["start"][rows, slot], step.terminated | step.truncated)
        assert torch.equal(data["obs"][rows, slot], step.obs)
    assert cuts
    assert ends


@pytest.mark.parametrize("network", ["gru", "mlp"])
@pytest.mark.parametrize("module", [dop, qmix])
def test_agents_that_see_their_last_action_learn_from_what_they_saw(module, network):
    """The policy of the stored pieces is the one that played them; evaluated, it remembers as it did in training."""
    own = {} if module is dop else {"epsilon_start": 0.3}
    kept = {name: value for name, value in SMALL.items() if module is dop or name in qmix.Config.__dataclass_fields__}
    cfg = module.Config(**{**kept, **own, "network": network, "last_action": True, "seeds": (3,)})
    env = envs.make(cfg.task, cfg.num_envs, cfg.seeds)
    learner = module.Learner(cfg, env.spec, "cpu")
    assert learner.networks[learner.deployed].inner.weight.shape[1] == 3 + env.spec.obs_size + env.spec.num_actions
    with torch.no_grad():
        for p in learner.networks[learner.deployed].parameters():
            p.add_(0.5 * torch.randn(p.shape))
    now = {
        "step": env.reset(),
        "start": torch.ones(1, cfg.num_envs, dtype=torch.bool),
        **learner.memories(cfg.num_envs),
    }
    for update in (1, 2):  # the second piece begins within an episode
        learner.replay.store(offpolicy.collect(learner, env, now, update), update)
        b = learner.replay.latest(update, 4)
        epsilon = cfg.epsilon(update)
        if module is dop:
            log_probs = learner.policy(b, epsilon)
        else:
            best = learner.values(learner.agents.network, b).argmax(-1, keepdim=True)
            log_probs = torch.full(b["available"].shape, -torch.inf).scatter(-1, best, 0.0)
            log_probs = offpolicy.keep_floor(log_probs, b["available"], epsilon)
        again = log_probs.gather(-1, b["action"].unsqueeze(-1)).squeeze(-1)[b["filled"]]
        torch.testing.assert_close(again, b["log_prob"][b["filled"]])
    # the player, given the memory that training had, does what the network does without exploration
    step, start = now["step"], now["start"]
    action, memory = learner(step, start, (now["memory"], now["last"]), None)
    last = now["last"].masked_fill(start.unsqueeze(-1), -1)
    seen = offpolicy.sight(cfg, env.spec, step.obs, last)
    actors = learner.actors if module is dop else learner.agents
    outputs, _ = actors.network.step(
        actors.stack(actors.observe(seen)), actors.stack(now["memory"]), actors.spread(start)
    )
    legal = step.available.unflatten(0, start.shape)
    assert torch.equal(action, actors.unstack(outputs).masked_fill(~legal, -torch.inf).argmax(-1))
    assert torch.equal(memory[1], action)


def test_policies_are_also_judged_where_the_short_corridor_is_closed(monkeypatch):
    asked = []

    def play(player, task, options, seeds, episodes, phase, index, mode, device):
        shut = envs.make(task, 2, seeds, device, **options).closed
        asked.append((phase, index, mode, bool(shut.all())))
        return evaluate.play(player, task, options, seeds, episodes, phase, index, mode, device)

    monkeypatch.setattr(offpolicy, "play", play)
    changes = {"seeds": (0,), "updates": 2, "eval_every": 1, "eval_episodes": 3, "final_episodes": 4}
    cfg = dop.configure("two_corridors/3-7", "smoke", **changes)
    assert cfg.env_options == {"closes_after": cfg.steps_per_update * dop.SMOKE["updates"] // 2}
    run = list(dop.train(cfg))
    assert [tuple(one.outcomes["closed"]["won"].shape) for one in run] == [(1, 3)] * 3 + [(1, 4)] * 2
    assert [one[:2] for one in asked] == [(one.phase, one.update) for one in run]
    assert all(one[2:] == ("sampled", True) for one in asked)
    with pytest.raises(InputError, match="eval_point"):
        dataclasses.replace(cfg, eval_point="before")


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
