"""Ensemble-MIX: each component against its formula, all switched off is DOP, and the usual contracts."""

import dataclasses

import pytest
import torch
from common import check_company, check_gradients_flow, check_resume, trained
from test_dop import SMALL, TARGETS

from inconcert import ensemble, envs, offpolicy
from inconcert.algorithms import dop, ensemble_mix
from inconcert.config import InputError

OWN = {**SMALL, "network": "mlp", "members": 8, "bonus": 0.5, "weight_slope": 0.1, "diversity": 0.01}
ALONE = {"weight_slope": 0.1, "bonus": 2.0, "diversity": 0.01, "off_actor": 0.5}


def config(**changes):
    return ensemble_mix.Config(**{**OWN, **changes})


def begun(cfg):
    """A learner, the environment and where it stands."""
    env = envs.make(cfg.task, cfg.num_envs, cfg.seeds, **cfg.env_options)
    learner = ensemble_mix.Learner(cfg, env.spec, "cpu")
    start = torch.ones(len(cfg.seeds), cfg.num_envs, dtype=torch.bool)
    return learner, env, {"step": env.reset(), "start": start, **learner.memories(cfg.num_envs)}


def test_contracts():
    check_company(ensemble_mix, config())
    check_resume(ensemble_mix, config(bonus_gate="corrected", weight_signal="excess"))
    still = tuple(name for name in TARGETS if "bias.0" not in name and "bias.2" not in name)
    check_gradients_flow(ensemble_mix, config(), still)


def test_all_switched_off_with_one_member_is_dop_number_for_number():
    ours = trained(ensemble_mix, config(members=1, **ensemble_mix.OFF))
    theirs = trained(dop, dop.Config(**{**SMALL, "network": "mlp"}))
    assert len(ours) == len(theirs) == 5
    for (one, state), (two, other) in zip(ours, theirs, strict=True):
        assert state.keys() == other.keys()
        assert all(torch.equal(state[name], other[name]) for name in state)
        for mode in ("sampled", "greedy"):
            assert torch.equal(one.outcomes[mode]["episode_return"], two.outcomes[mode]["episode_return"])


@pytest.mark.parametrize("component", ALONE)
def test_every_component_alone_changes_the_run_and_only_its_part(component):
    """The critics' first step knows nothing of the actors' second term, and so on."""
    plain = trained(ensemble_mix, config(**ensemble_mix.OFF), 2)[1][1]
    state = trained(ensemble_mix, config(**{**ensemble_mix.OFF, component: ALONE[component]}), 2)[1][1]
    moved = {name.split(".")[0] for name in plain if not torch.equal(plain[name], state[name])} - {"optimiser"}
    assert "network-actor" in moved
    assert ("network-critics" in moved) == (component != "off_actor")
    assert ("network-replay" in moved) == (component == "bonus")


@pytest.mark.parametrize("signal", ["kurtosis", "excess", "variance"])
def test_weights_stand_on_the_bootstrap_alone(signal):
    """Targets of one step are r + gamma sum_i lambda_i E k_i Q_i; what is subtracted from them is not weighted."""
    cfg = config(weight_signal=signal, depth=1, td_lambda=0.0, gamma=0.9)
    learner, env, now = begun(cfg)
    learner.replay.store(offpolicy.collect(learner, env, now, 1), 1)
    b = learner.replay.latest(1, 4)
    b = offpolicy.join(b, b)
    b = {name: x[:, :8] if name == "memory" else x[:, :, :8] for name, x in b.items()}
    target, signs = learner.aims(b, 0.2)
    judged = learner.judge(learner.targets, b["obs"], b["state"])
    values = judged.members.movedim(1, 0).movedim(2, -1)  # [M, S, T, B, N, A]
    k = ensemble.uncertainty_weight(values, 0.1, signal)
    q = k * values.mean(0)
    mean = (judged.weight * (learner.policy(b, 0.2).exp() * q).sum(-1)).sum(-1)
    played = (judged.weight * q.gather(-1, b["action"].unsqueeze(-1)).squeeze(-1)).sum(-1)
    follow = torch.where(b["filled"], played, mean)
    on, off = slice(0, cfg.on_batch), slice(cfg.on_batch, None)
    for part, after in ((on, follow), (off, mean)):
        right = b["reward"][:, :-1] + 0.9 * ~b["done"][:, :-1] * after[:, 1:]
        filled = b["filled"][:, :-1, part]
        torch.testing.assert_close(target[:, :-1, part][filled], right[:, :, part][filled])
    assert (signs["k_low"] < signs["k_high"]).all()


def test_the_bonus_stands_where_the_gate_is_open_and_only_in_training():
    cfg = config(bonus=3.0, members=12, num_envs=32, capacity=32)
    learner, _, now = begun(cfg)
    step, available = now["step"], now["step"].available.unflatten(0, (2, 32))
    more = learner.bonus(step, available)
    members = learner.critics(step.obs.unflatten(0, (2, 32)), step.state.unflatten(0, (2, 32)))
    values = members.movedim(1, 0).movedim(2, -1)
    opened = ensemble.excess_kurtosis(values).mean(-1) > 0
    assert opened.any()
    assert not opened.all()
    torch.testing.assert_close(more, torch.where(opened.unsqueeze(-1), 3.0 * ensemble.kurtosis(values), 0.0))
    uniform = torch.rand(2, 32, 3)
    played, _ = learner.act(dict(now), uniform, 0.0)
    deployed, _ = learner(step, now["start"], None, uniform)
    assert not torch.equal(played, deployed)


def test_the_gradient_of_the_diversity_term_is_that_of_finite_differences():
    """Through the members, with the mean held still; slots without a step and illegal actions do not count."""
    cfg = config(diversity=0.7, diversity_clip=100.0)
    learner, env, _ = begun(cfg)
    generator = torch.Generator().manual_seed(0)
    members = torch.randn(2, 8, 5, 2, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    available = torch.rand(2, 2, 3, 3, 5, generator=generator) < 0.8
    available[..., 0] = True
    filled = torch.tensor([True, False, True]).expand(2, 2, 3)
    term, signs = learner.diversity(members, available, filled)
    (gradient,) = torch.autograd.grad(term.sum(), members)
    torch.testing.assert_close(signs["diversity"], term.detach())
    fixed = members.detach().movedim(1, 0).movedim(2, -1)
    mean = fixed.mean(0).masked_fill(~available, -torch.inf).softmax(-1)

    def value(x):
        p = x.movedim(1, 0).movedim(2, -1).masked_fill(~available, -torch.inf).softmax(-1)
        apart = -(p * mean).sqrt().sum(-1).log()  # [M, S, T, B, N]
        return (0.7 * apart.sum(0).sum(-1) * filled).sum() / filled[0].sum()

    torch.testing.assert_close(term.sum(), value(members.detach()))
    for place in [(0, 0, 0, 0, 0, 0), (1, 3, 4, 1, 2, 2), (0, 2, 1, 0, 2, 1), (1, 1, 2, 1, 0, 0)]:
        step = torch.zeros_like(members)
        step[place] = 1e-6
        slope = (value(members.detach() + step) - value(members.detach() - step)) / 2e-6
        assert gradient[place].item() == pytest.approx(slope.item(), abs=1e-7)
    assert gradient.abs().max() > 1e-3
    clipped, _ = ensemble_mix.Learner(config(diversity=0.7, diversity_clip=0.0), env.spec, "cpu").diversity(
        members, available, filled
    )
    assert clipped.tolist() == [0.0, 0.0]


def test_the_off_policy_actor_ascends_the_mixed_value():
    """nu = 1: a small step along its gradient raises sum_i lambda_i E Q_i on the old pieces."""
    cfg = config(off_actor=1.0, epsilon_start=0.1, epsilon_end=0.1)
    learner, env, now = begun(cfg)
    for group in learner.optimiser.param_groups:
        group["lr"] = 1e-4
    learner.replay.store(offpolicy.collect(learner, env, now, 1), 1)
    b = learner.replay.latest(1, 4)

    def worth():
        with torch.no_grad():
            share, q = learner.shares(b)
            value = (share * (learner.policy(b, 0.1).exp() * q).sum(-1)).sum(-1)
            return offpolicy.filled_mean(value, b["filled"])

    before = worth()
    signs = learner.actor_step(b, b, 0.1)
    assert (worth() > before).all()
    torch.testing.assert_close(signs["actor_loss"], -before / learner.spec.num_agents)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": 0}, "members must be at least 1"),
        ({"bonus": -1.0}, "bonus must not be negative"),
        ({"off_actor": 1.5}, "off_actor must be from 0 to 1"),
        ({"members": 3, "bonus_gate": "corrected"}, "at least 4 members"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        config(**changes)


def test_a_record_keeps_the_signs_of_training():
    last = trained(ensemble_mix, dataclasses.replace(config(), updates=1), 2)[-1][0].outcomes["training"]
    wanted = {"gate_open", "bonus_range", "k_low", "k_mean", "k_high", "spread", "diversity", "critic_grad_norm"}
    assert wanted <= last.keys()
    assert all(value.shape == (2, 1) for value in last.values())
