"""MAGPO and CTDS: losses by hand and by finite differences, and what makes one the other."""

import dataclasses
import math

import pytest
import torch
from common import EASY, TINY, check_company, check_gradients_flow, check_it_learns, check_resume, trained

from inconcert import envs, onpolicy, published
from inconcert.algorithms import ctds, magpo
from inconcert.config import InputError
from inconcert.onpolicy import clipped_surrogate

LOG = torch.tensor([[0.0]], dtype=torch.float64)


def log(probability):
    return torch.tensor([[math.log(probability)]], dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------ losses


@pytest.mark.parametrize(
    ("guider", "learner", "old", "delta", "clip", "expected"),
    [
        (0.30, 0.30, 0.30, 1.2, 0.2, 1.0),
        (0.33, 0.30, 0.30, 1.2, 0.2, 1.1),  # neither clip binds
        (0.39, 0.30, 0.30, 1.2, 0.5, 1.2),  # the inner clip: at most 1.2 times the learner
        (0.20, 0.30, 0.25, 1.2, 0.5, 1.0),  # the inner clip from below: 0.25, over 0.25
        (0.39, 0.30, 0.30, 2.0, 0.2, 1.2),  # the outer clip
        (0.39, 0.30, 0.20, 1.2, 0.5, 1.5),  # the inner gives 0.36 / 0.2 = 1.8, the outer 1.5
        (0.39, 0.30, 0.30, math.inf, 0.5, 1.3),  # PPO's ratio
    ],
)
def test_double_clip_by_hand(guider, learner, old, delta, clip, expected):
    assert magpo.double_clip(log(guider), log(learner), log(old), delta, clip).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("guider", "advantage", "expected"),
    # learner 0.3, old 0.3, delta 1.2, clip 0.5: the minimum of the plain and the doubly clipped ratio
    [(0.45, 1.0, -1.2), (0.45, -1.0, 1.5), (0.15, 1.0, -0.5), (0.15, -2.0, 2 / 1.2)],
)
def test_guider_surrogate_by_hand(guider, advantage, expected):
    one = torch.tensor([[advantage]], dtype=torch.float64)
    loss = magpo.guider_surrogate(log(guider), log(0.3), log(0.3), one, 1.2, 0.5)
    assert loss.item() == pytest.approx(expected)


def test_without_delta_the_surrogate_is_ppo():
    torch.manual_seed(0)
    new, learner, old, advantage = torch.randn(4, 2, 50, dtype=torch.float64)
    torch.testing.assert_close(
        magpo.guider_surrogate(new, learner, old, advantage, math.inf, 0.1),
        clipped_surrogate(new, old, advantage, 0.1),
    )
    assert not magpo.outside(new, learner, math.inf).any()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_inner_clip_stops_only_the_gradient_away_from_the_learner(sign):
    """Eq 10 as the paper explains it: no push beyond delta; the way back is open."""
    guider = log(0.3 * 1.5**sign).requires_grad_()  # beyond delta = 1.2 on one side, old = itself
    for advantage, moves in ((sign, False), (-sign, True)):
        weight = torch.tensor([[advantage]], dtype=torch.float64)
        loss = magpo.guider_surrogate(guider, log(0.3), guider.detach(), weight, 1.2, 0.9)
        (gradient,) = torch.autograd.grad(loss.sum(), guider)
        assert (gradient.abs() > 0.5).item() is moves


def test_the_mask_marks_what_lies_outside():
    guider = torch.tensor([0.30, 0.35, 0.37, 0.26, 0.24], dtype=torch.float64).log()
    learner = torch.full((5,), 0.3, dtype=torch.float64).log()
    assert magpo.outside(guider, learner, 1.2).tolist() == [False, False, True, False, True]


def test_divergence_against_torch_and_with_masked_actions():
    torch.manual_seed(1)
    p, q = torch.randn(2, 3, 5, dtype=torch.float64).log_softmax(-1)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q)
    )
    torch.testing.assert_close(magpo.divergence(p, q), expected)
    available = torch.tensor([True, False, True, True, False])
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    masked = logits.masked_fill(~available, -torch.inf).log_softmax(-1)
    other = p.masked_fill(~available, -torch.inf).log_softmax(-1)
    value = magpo.divergence(other, masked)
    torch.testing.assert_close(
        value, magpo.divergence(other[:, available].log_softmax(-1), masked[:, available].log_softmax(-1))
    )
    value.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, ~available] == 0).all()


def whole_losses(logits_guider, logits_learner, stop):
    """Eqs 9 and 11 written once more, with numbers `stop` in place of what carries no gradient."""
    action = torch.tensor([[0, 2, 1, 3, 1, 0]])
    advantage = torch.tensor([[1.0, -0.5, 2.0, -1.0, 0.3, -0.2]], dtype=torch.float64)
    guider, learner = logits_guider.log_softmax(-1), logits_learner.log_softmax(-1)
    fixed_guider, fixed_learner, old = stop
    log_g, log_l = (x.gather(-1, action.unsqueeze(-1)).squeeze(-1) for x in (guider, learner))
    stop_l = fixed_learner.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    policy = magpo.guider_surrogate(log_g, stop_l, old, advantage, 1.3, 0.2)
    pull = (magpo.outside(log_g, stop_l, 1.3) * magpo.divergence(guider, fixed_learner)).mean(1)
    imitation = magpo.divergence(fixed_guider, learner).mean(1)
    return policy + pull + imitation + 4.0 * clipped_surrogate(log_l, old, advantage, 0.2)


def test_gradients_of_double_clip_and_mask_by_finite_differences():
    """Central differences in float64 at a point where no sample lies on the edge of a clip or of the mask."""
    torch.manual_seed(3)
    logits = [torch.randn(1, 6, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    action = torch.tensor([[0, 2, 1, 3, 1, 0]]).unsqueeze(-1)
    fixed = [x.detach().log_softmax(-1) for x in logits]
    old = fixed[0].gather(-1, action).squeeze(-1) + torch.tensor([[0.05, -0.3, 0.3, 0.1, 0.0, -0.1]])
    stop = (*fixed, old)
    ratio = (fixed[0] - fixed[1]).gather(-1, action).squeeze(-1).exp()
    assert ((ratio > 1.3) | (ratio < 1 / 1.3)).any()
    loss = whole_losses(*logits, stop).sum()
    gradients = torch.autograd.grad(loss, logits)
    step = 1e-6
    for which, gradient in enumerate(gradients):
        for index in range(gradient.numel()):
            value = []
            for sign in (1, -1):
                moved = [x.detach().clone() for x in logits]
                moved[which].view(-1)[index] += sign * step
                value.append(whole_losses(*moved, stop).sum().item())
            assert gradient.reshape(-1)[index].item() == pytest.approx((value[0] - value[1]) / (2 * step), abs=1e-6)


# ------------------------------------------------------------------------------------------------- learners, guider


GUIDERS = [
    {"network": "mlp", "memory": "none"},
    {"network": "gru", "memory": "recurrent"},
    {"network": "mlp", "guider": "mat"},
    {"network": "mlp", "memory": "none", "parameters": "separate", "agent_order": "shuffled"},
]


def config(base=TINY, **changes):
    sizes = {"embed": 8, "heads": 1, "blocks": 1, "hidden": 16, "lr": 1e-3}
    return magpo.Config(**{**base, **sizes, **changes})


@pytest.mark.parametrize("changes", GUIDERS)
def test_a_seed_in_company_is_the_seed_alone(changes):
    check_company(magpo, config(**changes))


@pytest.mark.parametrize("changes", GUIDERS[:3])
def test_resuming_is_bit_for_bit(changes):
    check_resume(magpo, config(updates=3, **changes))


@pytest.mark.parametrize("changes", GUIDERS)
def test_all_gradients_flow(changes):
    check_gradients_flow(magpo, config(delta=1.0001, **changes))


def rollout(cfg, count=1):
    env = envs.make(cfg.task, cfg.num_envs, cfg.seeds, **cfg.env_options)
    learner = magpo.Learner(cfg, env.spec, "cpu")
    now = {
        "step": env.reset(), "start": torch.ones(len(cfg.seeds), cfg.num_envs, dtype=torch.bool),
        **learner.memories(cfg.num_envs),
    }  # fmt: skip
    for index in range(count):
        data = onpolicy.collect(learner, env, now, index)
    return learner, data


def batch(cfg, learner, data):
    names = ("memory", "learner_memory")
    return next(onpolicy.minibatches(dataclasses.replace(cfg, minibatches=1), data, 0, names))


@pytest.mark.parametrize("changes", GUIDERS[:3])
def test_only_the_guider_plays_and_its_rollout_replays(changes):
    """Before the first step guider and old guider agree, so the plain ratio is 1 and the value is the stored one."""
    cfg = config(rollout=120, **changes)
    learner, data = rollout(cfg, 2)  # the second rollout begins in mid-episode
    b = batch(cfg, learner, data)
    assert learner.gradients(b)["kl"].abs().max() < 1e-6
    _, value = learner.guider(b["obs"], b["available"], b["action"], b["memory"], b["start"])
    torch.testing.assert_close(value, b["value"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("carried", [True, False])
def test_the_learners_memory_runs_along_with_the_guider(carried):
    """What a recurrent learner thinks of a replayed rollout is what it would have thought while acting."""
    cfg = config(network="gru", rollout=30, learner_memory="carried" if carried else "zero")
    learner, data = rollout(cfg, 2)
    memory = data["learner_memory"][:, 0]
    assert (memory != 0).any().item() is carried
    columns = onpolicy.columns
    replayed = learner.actors.log_probs(
        *(columns(data[name], cfg.rollout) for name in ("obs", "available")),
        memory,
        columns(data["start"], cfg.rollout),
    )
    h = memory
    for t in range(cfg.rollout):
        step, h = learner.actors.step(data["obs"][:, t], data["available"][:, t], data["start"][:, t], h)
        torch.testing.assert_close(replayed[:, t], step, rtol=1e-4, atol=1e-5)


def gradient(cfg, learner, b):
    learner.gradients(b)
    return {
        name: {key: p.grad.clone() for key, p in network.named_parameters()}
        for name, network in learner.networks.items()
    }


def test_ctds_is_magpo_without_its_three_parts():
    """The teacher's gradient is plain PPO's: it does not change when the students do; the students' is imitation."""
    cfg = dataclasses.replace(config(network="mlp", memory="none"), delta=math.inf, rl_lambda=0.0)
    assert cfg.delta == ctds.configure(cfg.task, "laptop").delta
    assert cfg.rl_lambda == ctds.configure(cfg.task, "laptop").rl_lambda
    learner, data = rollout(cfg)
    b = batch(cfg, learner, data)
    before = gradient(cfg, learner, b)
    with torch.no_grad():
        for p in learner.actors.network.parameters():
            p.add_(torch.randn_like(p))
    after = gradient(cfg, learner, b)
    torch.testing.assert_close(after["guider"], before["guider"], rtol=1e-3, atol=1e-6)
    b["advantage"] = torch.randn_like(b["advantage"])
    torch.testing.assert_close(gradient(cfg, learner, b)["learner"], after["learner"])
    guided = magpo.Learner(dataclasses.replace(cfg, delta=1.05, rl_lambda=1.0), learner.actors.spec, "cpu")
    for name, network in learner.networks.items():
        guided.networks[name].load_state_dict(network.state_dict())
    pulled = gradient(cfg, guided, b)
    for name in ("guider", "learner"):
        assert any(not torch.equal(pulled[name][key], value) for key, value in after[name].items())


@pytest.mark.parametrize("direction", ["guider_learner", "learner_guider"])
def test_imitation_alone_brings_the_learner_to_a_guider_that_it_can_express(direction):
    cfg = config(network="mlp", memory="none", learner_kl=direction, rl_lambda=0.0, delta=math.inf)
    learner, data = rollout(cfg)
    b = batch(cfg, learner, data)
    with torch.no_grad():  # the same distribution whatever the others do
        learner.guider.action_head.outer.weight.zero_()
        learner.guider.action_head.outer.bias.copy_(torch.tensor([[2.0, 0.0, -1.0, 1.0]]).expand(2, -1))
    optimiser = torch.optim.Adam(learner.actors.network.parameters(), lr=1e-2)
    first = learner.gradients(b)["imitation"]
    for _ in range(200):
        last = learner.gradients(b)["imitation"]
        optimiser.step()
    assert (first > 0.1).all()
    assert (last < 1e-3).all()


SMALL = {"network": "mlp", "memory": "none", "embed": 16, "hidden": 32, "lr": 3e-3}


def test_magpo_learns():
    check_it_learns(magpo, config(EASY, rl_lambda=2.0, delta=1.3, **SMALL))


def test_a_ctds_teacher_learns_what_its_students_cannot_follow():
    result = trained(ctds, config(EASY, rl_lambda=0.0, delta=math.inf, **SMALL))
    curve = [e.outcomes for e, _ in result if e.phase == "curve"]
    teacher, students = (curve[-1][mode]["episode_return"].mean(1) for mode in ("guider", "sampled"))
    assert (teacher > 95).all()
    assert (students > 75).all()
    assert (students < teacher).all()


# ------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("task", sorted(magpo.PAPER))
def test_paper_settings_are_the_authors_rows(task):
    table = published.magpo_params()
    row = table[(table["system_name"] == "magpo") & ("coordsum/" + table["table_1_row"].astype(str) == task)].iloc[0]
    cfg = magpo.configure(task, "paper")
    expected = {
        "minibatches": row["num_minibatches"], "max_grad_norm": row["max_grad_norm"], "epochs": row["ppo_epochs"],
        "clip": row["clip_eps"], "ent_coef": row["ent_coef"], "lr": row["actor_lr"], "embed": row["n_embd"],
        "heads": row["n_head"], "blocks": row["n_block"], "decay": row["decay_scaling_factor"],
        "rl_lambda": row["alpha"], "delta": row["delta"], "updates": row["num_updates"],
        "num_envs": 2 * float(row["num_envs"]),
    }  # fmt: skip
    for name, value in expected.items():
        assert getattr(cfg, name) == pytest.approx(float(value)), name
    assert cfg.updates * cfg.steps_per_update == 19_988_480
    teacher = ctds.configure(task, "paper")
    assert dataclasses.replace(teacher, delta=cfg.delta, rl_lambda=cfg.rl_lambda) == cfg


def test_variants_change_what_their_name_says():
    assert magpo.configure("coordsum/5x20-80", "laptop", "never-delta-1.5").delta == 1.5
    assert magpo.configure("coordsum/5x20-80", "laptop", "never-delta-1.5").env_options["guess"] == "never"
    assert magpo.configure("coordsum/5x20-80", "laptop", "clamped-guider-mat").guider == "mat"
    assert ctds.configure("coordsum/5x20-80", "laptop", "clamped-lambda-4").rl_lambda == 4.0
    assert ctds.configure("coordsum/5x20-80", "laptop", "clamped-hidden-16").hidden == 16
    assert "clamped-lambda-0" not in ctds.VARIANTS  # that is CTDS itself


@pytest.mark.parametrize("changes", [{"delta": 1.0}, {"delta": 0.5}, {"rl_lambda": -1.0}])
def test_impossible_settings_are_refused(changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        config(**changes)
