"""QMIX: its mixer, its target, and the contracts that every algorithm keeps."""

import pytest
import torch
from common import EASY, TINY, check_company, check_gradients_flow, check_it_learns, check_resume

from inconcert import envs, offpolicy, stacked
from inconcert.algorithms import qmix

OWN = {
    "epochs": 2, "minibatches": 1, "capacity": 8, "off_batch": 5, "target_every": 3, "epsilon_steps": 100, "hidden": 8,
    "mixer_hidden": 4,
}  # fmt: skip


def config(**changes):
    return qmix.Config(**{**TINY, **OWN, **changes})


def test_contracts():
    check_company(qmix, config())
    check_resume(qmix, config(updates=3))
    spec = envs.make("coordsum/3x4-7").spec
    targets = qmix.Learner(config(), spec, "cpu").targets.state_dict()
    still = [f"network-targets.{name}" for name in targets]
    still += [f"network-replay.{name}" for name in ("memory", "done", "start", "available")]
    check_gradients_flow(qmix, config(), still)


def test_it_learns():
    own = {
        "minibatches": 1, "network": "mlp", "hidden": 32, "rollout": 20, "updates": 60, "epochs": 4, "eval_every": 60,
        "capacity": 320, "epsilon_steps": 10_000, "lr": 3e-3, "target_every": 20, "gamma": 0.5,
    }  # fmt: skip
    easy = {name: value for name, value in EASY.items() if name not in ("gae_lambda", "clip", "max_grad_norm")}
    check_it_learns(qmix, qmix.Config(**{**easy, **own}))


def test_the_team_value_grows_with_every_agents_value():
    assert (slopes(torch.randn(2, 50, 6)) > 0).all()


def test_a_normed_state_has_no_scale():
    state = 3 * torch.randn(2, 50, 6)
    torch.testing.assert_close(slopes(state, state_rms=0.2), slopes(30 * state, state_rms=0.2), rtol=1e-4, atol=0)
    assert slopes(30 * state).mean() > 100 * slopes(state, state_rms=0.2).mean()


def slopes(state: torch.Tensor, **changes) -> torch.Tensor:
    """How fast the team's value grows with each agent's, `[S, rows, N]`."""
    spec = envs.Spec(3, 4, 5, 6, 10, "episode_return")
    mixer = qmix.Mixer(spec, config(mixer_hidden=8, **changes), stacked.generators([1, 2]))
    q = torch.zeros(2, 50, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(mixer(q, state).sum(), q)
    return slope


@pytest.mark.parametrize("double", [True, False])
def test_the_target_is_the_best_legal_action_of_the_next_slot(double, monkeypatch):
    """One slot by hand, with networks and targets that differ: who chooses, who judges, and where an episode ends."""
    cfg = config(double=double, network="mlp", seeds=(3,), off_batch=4)
    env = envs.make(cfg.task, cfg.num_envs, cfg.seeds)
    learner = qmix.Learner(cfg, env.spec, "cpu")
    with torch.no_grad():
        for p in learner.targets.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    now = {"step": env.reset(), "start": torch.ones(1, 4, dtype=torch.bool), **learner.memories(4)}
    data = offpolicy.collect(learner, env, now, 1)
    learner.replay.store(data, 1)
    b = learner.replay.latest(1, 4)
    b["available"][..., 0] = False
    b["available"][..., 1:] = True
    b["action"].clamp_(min=1)
    b["done"][:, 4] = True
    own, other = learner.values(learner.agents.network, b), learner.values(learner.targets["agents"], b)
    chosen = (own if double else other).argmax(-1, keepdim=True)
    assert (chosen > 0).all()
    total = learner.targets["mixer"](other.gather(-1, chosen).squeeze(-1), b["state"])
    aim = b["reward"][:, :-1] + cfg.gamma * (~b["done"][:, :-1]) * total[:, 1:]
    value = learner.mixer(own.gather(-1, b["action"].unsqueeze(-1)).squeeze(-1), b["state"])[:, :-1]
    expected = (value - aim).square()[b["filled"][:, :-1]].mean()
    torch.testing.assert_close(learner.critic_step(b)["old_loss"][0], expected.detach())
