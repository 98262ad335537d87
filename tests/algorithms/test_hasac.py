"""HASAC: its targets, its turns, and the contracts that every algorithm keeps."""

import dataclasses
import math

import pytest
import torch
from common import EASY, TINY, check_company, check_gradients_flow, check_resume

from inconcert import envs, offpolicy
from inconcert.algorithms import hasac
from inconcert.config import InputError

OWN = {
    "epochs": 2, "minibatches": 1, "capacity": 8, "off_batch": 5, "hidden": 8, "critic_hidden": 8, "warmup": 80,
    "n_step": 3,
}  # fmt: skip


def config(**changes):
    return hasac.Config(**{**TINY, **OWN, **changes})


@pytest.mark.parametrize("last_action", [False, True])
def test_contracts(last_action):
    own = config(last_action=last_action)
    check_company(hasac, own)
    check_resume(hasac, dataclasses.replace(own, updates=3))
    still = [f"network-replay.{name}" for name in ("memory", "done", "start", "available")]
    check_gradients_flow(hasac, own, still)


def test_it_learns():
    """As the others on the easy task, judged as HASAC is, by its most probable actions; a temperature is left."""
    own = {
        "minibatches": 1, "hidden": 32, "critic_hidden": 32, "rollout": 20, "updates": 100, "epochs": 4,
        "eval_every": 100, "capacity": 320, "off_batch": 16, "warmup": 600, "gamma": 0.5, "n_step": 1, "polyak": 0.05,
        "alpha": 0.1, "alpha_lr": 1e-3, "actor_lr": 1e-3, "critic_lr": 1e-2,
    }  # fmt: skip
    easy = {name: value for name, value in EASY.items() if name not in ("gae_lambda", "clip", "max_grad_norm")}
    result = [one.outcomes for one in hasac.train(hasac.Config(**{**easy, **own}))]
    assert (result[0]["sampled"]["episode_return"].mean(1) < 75).all()
    assert (result[-1]["greedy"]["episode_return"].mean(1) > 95).all()
    assert (result[-1]["sampled"]["episode_return"].mean(1) > 88).all()


def test_n_step_return_by_hand():
    """One piece of six slots: a cut after slot 1 (slot 2 is the situation it led to), an end at slot 4, then slot 5."""
    reward = torch.tensor([1.0, 2.0, 0.0, 4.0, 8.0, 0.0]).view(1, 6, 1)
    done = torch.tensor([False, False, False, False, True, False]).view(1, 6, 1)
    filled = torch.tensor([True, True, False, True, True, False]).view(1, 6, 1)
    soft = torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0, 60.0]).view(1, 6, 1)
    g = 0.5
    for steps, expected in (
        (1, {0: 1 + g * 20, 1: 2 + g * 30, 3: 4 + g * 50, 4: 8}),
        (2, {0: 1 + g * (2 + g * 30), 1: 2 + g * 30, 3: 4 + g * 8, 4: 8}),
        (9, {0: 1 + g * (2 + g * 30), 1: 2 + g * 30, 3: 4 + g * 8, 4: 8}),
    ):
        found = hasac.n_step_return(reward, done, filled, soft, gamma=g, steps=steps)
        assert {slot: found[0, slot, 0].item() for slot in expected} == expected


def batch(cfg, updates=2):
    env = envs.make(cfg.task, cfg.num_envs, cfg.seeds)
    learner = hasac.Learner(cfg, env.spec, "cpu")
    start = torch.ones(len(cfg.seeds), cfg.num_envs, dtype=torch.bool)
    now = {"step": env.reset(), "start": start, **learner.memories(cfg.num_envs)}
    for update in range(1, updates + 1):
        learner.replay.store(offpolicy.collect(learner, env, now, update), update)
    b = learner.replay.latest(updates, 5)
    b["available"] = b["available"] | ~b["available"].any(-1, keepdim=True)
    return learner, b | {"seen": b["obs"]}


def so_far(learner, b):
    return torch.stack([learner.log_probs(b, agent).detach() for agent in range(learner.spec.num_agents)], 3)


def test_the_critics_learn_the_return_and_the_bonus():
    """Loss by hand, from the plain formula with actions enumerated; every agent has its own temperature."""
    learner, b = batch(config(seeds=(3,)))
    with torch.no_grad():
        for agent, one in enumerate(learner.log_alphas):
            one.fill_(0.3 * agent - 0.5)
    noise = learner.noise("target actions", 7, b)
    log_probs = torch.stack([learner.log_probs(b, agent) for agent in range(3)], 3)
    actions = (log_probs + noise).argmax(-1)
    said = log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    alphas = torch.tensor([math.exp(0.3 * agent - 0.5) for agent in range(3)])
    one_hot = torch.nn.functional.one_hot(actions, learner.spec.num_actions).float()
    both = learner.values(learner.targets, b["state"], one_hot)
    assert both.shape == (1, 2, *b["reward"].shape[1:])
    soft = both.amin(1) - (alphas * said).sum(-1)
    aim = hasac.n_step_return(b["reward"], b["done"], b["filled"], soft, gamma=0.99, steps=3)
    played = torch.nn.functional.one_hot(b["action"], learner.spec.num_actions).float()
    error = (learner.values(learner.critics, b["state"], played) - aim.unsqueeze(1)).square().sum(1)
    torch.testing.assert_close(
        learner.critic_step(b, log_probs.detach(), 7)["old_loss"][0], error[b["filled"]].mean().detach()
    )


def test_a_turn_is_a_step_of_one_agent_of_the_stack():
    learner, b = batch(config())
    stack = learner.actors.network.head.weight
    for agent, own in enumerate(learner.turns):
        assert own.head.weight.data_ptr() == stack[agent].data_ptr()
        expected = learner.actors.log_probs(b["seen"], b["available"], b["memory"], b["start"])[..., agent, :]
        torch.testing.assert_close(learner.log_probs(b, agent), expected)
    before, critics = stack.detach().clone(), learner.critics.head.weight.detach().clone()
    learner.actor_steps(b, so_far(learner, b), 3)
    assert all((stack[member] != before[member]).any() for member in range(6))
    assert torch.equal(learner.critics.head.weight, critics)
    assert all(parameter.requires_grad for parameter in learner.critics.parameters())


def test_temperatures_steer_the_entropy_to_its_target():
    for name, target in (("harl", 0.0), ("scaled", 0.98 * math.log(5))):
        learner, b = batch(config(task="mpe/simple_spread", seeds=(3,), alpha_lr=0.1, target_entropy=name))
        assert learner.target_entropy == pytest.approx(target)
        entropy = learner.actor_steps(b, so_far(learner, b), 1)["entropy"].item()
        moved = [one.item() for one in learner.log_alphas]
        assert all((one < 0) == (entropy > target) for one in moved)


def test_the_bonus_pushes_towards_entropy():
    """With critics that say 0 and a large temperature, turns bring every agent's entropy close to ln A."""
    learner, b = batch(config(task="mpe/simple_spread", seeds=(3,), alpha=100.0))
    learner.optimiser.param_groups[0]["lr"] = 0.01
    with torch.no_grad():
        for parameter in learner.critics.parameters():
            parameter.zero_()
        learner.actors.network.head.bias[:, 0] += 3.0

    def entropies():
        log_probs = so_far(learner, b)
        return -(log_probs.exp() * log_probs).sum(-1).mean((0, 1, 2))

    before = entropies()
    for step in range(40):
        learner.actor_steps(b, so_far(learner, b), step)
    assert (before < 1.0).all()
    assert (entropies() > 0.95 * math.log(5)).all()


def test_a_normed_state_has_no_scale():
    learner, b = batch(config(state_rms=1.0))
    actions = torch.nn.functional.one_hot(b["action"], learner.spec.num_actions).float()
    values = learner.values(learner.critics, b["state"], actions)
    torch.testing.assert_close(learner.values(learner.critics, 30 * b["state"], actions), values, rtol=1e-3, atol=1e-3)
    assert hasac.configure("smax/3s5z", "smoke").state_rms == 1.0
    assert hasac.configure("mpe/simple_spread", "smoke").state_rms == 0.0


def test_while_it_warms_up_all_legal_actions_are_equally_likely():
    cfg = config()
    assert [cfg.epsilon(update) for update in (1, 2)] == [1.0, 0.0]
    _, b = batch(cfg, 1)
    legal = b["available"].sum(-1)[b["filled"]].float()
    torch.testing.assert_close(b["log_prob"][b["filled"]], -legal.log())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "gru"}, "no memory"),
        ({"epsilon_end": 0.1}, "epsilon_end has no use"),
        ({"n_step": 0}, "n_step"),
        ({"polyak": 0.0}, "polyak"),
        ({"alpha": 0.0}, "alpha must be positive"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        config(**changes)
