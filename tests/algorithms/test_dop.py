"""DOP: its returns by hand, its networks, and the contracts that every algorithm keeps."""

import pytest
import torch
from common import EASY, TINY, check_company, check_gradients_flow, check_it_learns, check_resume

from inconcert import envs, offpolicy, stacked
from inconcert.algorithms import dop
from inconcert.config import InputError

OWN = {
    "epochs": 2, "minibatches": 1, "capacity": 8, "on_capacity": 8, "on_batch": 3, "off_batch": 5, "target_every": 3,
    "epsilon_steps": 100, "hidden": 8, "critic_hidden": 8, "mixer_hidden": 4,
}  # fmt: skip
SMALL = {**TINY, **OWN}
KINDS = {
    "gru": {},
    "options": {
        "network": "mlp", "schedule": "steps", "off_target": "retrace", "mixing": "free", "mixer_bias": True,
        "rollout": 6, "epochs": 1, "bootstrap_time_limit": False,
    },
}  # fmt: skip


def config(**changes):
    return dop.Config(**{**SMALL, **changes})


# ---------------------------------------------------------------------------------------------------------- contracts


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_in_company_is_the_seed_alone(kind):
    check_company(dop, config(**KINDS[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_is_bit_for_bit(kind):
    """With a replay that overwrites its oldest pieces, and target networks that lag behind."""
    check_resume(dop, config(**KINDS[kind], updates=3, eval_modes=("sampled",)))


@pytest.mark.parametrize("kind", KINDS)
def test_all_gradients_flow(kind):
    """Target networks are copies, and the replay is data."""
    check_gradients_flow(dop, config(**KINDS[kind]), still=TARGETS)


TARGETS = tuple(
    f"network-targets.{name}"
    for name in dop.Learner(config(mixer_bias=True), envs.make("coordsum/3x4-7").spec, "cpu").targets.state_dict()
) + tuple(f"network-replay.{name}" for name in ("memory", "done", "start", "available"))


def test_it_learns():
    """From random to nearly one fixed answer for each target."""
    own = {
        "minibatches": 1, "network": "mlp", "hidden": 32, "critic_hidden": 32, "rollout": 20, "updates": 60,
        "epochs": 2, "eval_every": 60, "capacity": 160, "on_capacity": 16, "epsilon_steps": 10_000, "actor_lr": 3e-3,
        "critic_lr": 3e-3, "target_every": 20, "gamma": 0.9,
    }  # fmt: skip
    easy = {name: value for name, value in EASY.items() if name not in ("gae_lambda", "clip", "max_grad_norm")}
    check_it_learns(dop, dop.Config(**{**easy, **own}))


# ------------------------------------------------------------------------------------------------------------ returns


def series(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1)


def flags(*values):
    return torch.tensor(values, dtype=torch.bool).view(1, -1, 1)


REWARD, PLAYED, MEAN = series(1, 2, 3, 9, 9), series(10, 20, 30, 40, 90), series(11, 21, 31, 41, 91)


def test_lambda_return_by_hand():
    """Three steps and what follows them; gamma 0.5, lambda 0.8; after the last step the policy's mean stands."""
    filled, go = flags(1, 1, 1, 0, 0), flags(0, 0, 0, 0, 0)
    found = dop.lambda_return(REWARD, go, filled, PLAYED, MEAN, gamma=0.5, lam=0.8)[0, :3, 0].tolist()
    third = 3 + 0.5 * 41
    second = 2 + 0.5 * (0.2 * 30 + 0.8 * third)
    assert found == pytest.approx([1 + 0.5 * (0.2 * 20 + 0.8 * second), second, third])
    ended = dop.lambda_return(REWARD, flags(0, 1, 0, 0, 0), filled, PLAYED, MEAN, gamma=0.5, lam=0.8)[0, :3, 0].tolist()
    assert ended == pytest.approx([1 + 0.5 * (0.2 * 20 + 0.8 * 2), 2, third])
    # cut off after the first step: slot 1 is what it led to, and the next episode begins in slot 2
    cut = dop.lambda_return(REWARD, go, flags(1, 0, 1, 0, 0), PLAYED, MEAN, gamma=0.5, lam=0.8)[0, :3, 0].tolist()
    assert cut == pytest.approx([1 + 0.5 * 21, 21, third])


def test_tree_backup_by_hand():
    """Two errors deep, with traces of 0.1, 0.2 and 0.3."""
    trace, filled = series(0.1, 0.2, 0.3, 0.4, 0.5), flags(1, 1, 1, 0, 0)

    def found(done, filled=filled, depth=2):
        return dop.expected_return(REWARD, done, filled, PLAYED, MEAN, trace, gamma=0.5, depth=depth)[0, :3, 0].tolist()

    first, second, third = 1 + 0.5 * 21 - 10, 2 + 0.5 * 31 - 20, 3 + 0.5 * 41 - 30
    go = flags(0, 0, 0, 0, 0)
    both = [10 + first + 0.5 * 0.2 * second, 20 + second + 0.5 * 0.3 * third, 30 + third]
    assert found(go) == pytest.approx(both)
    assert found(go, depth=1) == pytest.approx([10 + first, 20 + second, 30 + third])
    deep = 10 + first + 0.5 * 0.2 * (second + 0.5 * 0.3 * third)
    assert found(go, depth=5) == pytest.approx([deep, *both[1:]])
    ended = [10 + first + 0.5 * 0.2 * (2 - 20), 2, 30 + third]
    assert found(flags(0, 1, 0, 0, 0)) == pytest.approx(ended)
    assert found(go, flags(1, 0, 1, 0, 0))[::2] == pytest.approx([10 + first, 30 + third])


def test_on_policy_gain_has_the_gradient_of_equation_4():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 3, 2, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    share, q = torch.rand(1, 2, 3, 2, generator=generator), torch.randn(1, 2, 3, 2, 4, generator=generator)
    action = torch.randint(4, (1, 2, 3, 2), generator=generator)
    dop.on_policy_gain(logits.log_softmax(-1), action, share, q).sum().backward()
    p = logits.detach().softmax(-1)
    one_hot = torch.nn.functional.one_hot(action, 4)
    advantage = share * ((one_hot - p) * q).sum(-1)
    torch.testing.assert_close(logits.grad, advantage.unsqueeze(-1) * (one_hot - p) / 2)  # mean over two agents


# ----------------------------------------------------------------------------------------------------------- networks


def test_critics_are_the_plain_perceptrons():
    """One product for all members and agents against each member on its own, on state, observation and id."""
    spec = envs.Spec(3, 4, 5, 6, 10, "episode_return")
    critics = dop.Critics(spec, 8, 2, stacked.generators([1, 2], 2))
    torch.nn.init.normal_(critics.inner_bias)
    obs, state = torch.randn(2, 7, 9, 3, 5), torch.randn(2, 7, 9, 6)
    found = critics(obs, state)
    assert found.shape == (2, 2, 4, 7, 9, 3)
    x = torch.cat([state.unsqueeze(-2).expand(2, 7, 9, 3, 6), obs, torch.eye(3).expand(2, 7, 9, 3, 3)], -1)
    for g in range(4):
        h = (x[g // 2] @ critics.inner[g].t() + critics.inner_bias[g]).relu()
        h = (h @ critics.outer.weight[g] + critics.outer.bias[g]).relu()
        out = h @ critics.head.weight[g] + critics.head.bias[g]
        torch.testing.assert_close(found[g // 2, g % 2], (out[..., :1] + out[..., 1:]).movedim(-1, 0))


def test_the_mean_of_the_mixed_critic_is_that_over_all_joint_actions():
    """Linear mixing: a sum over single actions is the sum over joint ones."""
    cfg = config(network="mlp", mixer_bias=True)
    learner = dop.Learner(cfg, envs.make(cfg.task).spec, "cpu")
    obs, state = torch.rand(2, 1, 1, 3, learner.spec.obs_size), torch.rand(2, 1, 1, learner.spec.state_size)
    judged = learner.judge(learner.judges, obs, state)
    q = judged.members.mean(1)[:, :, 0, 0]  # [S, A, N]
    p = torch.rand(2, 4, 3).softmax(1)
    weight, bias = judged.weight[:, 0, 0], judged.bias[:, 0, 0]
    assert (weight > 0).all()
    torch.testing.assert_close(weight.sum(-1), torch.ones(2))
    total = 0
    for joint in torch.cartesian_prod(*[torch.arange(4)] * 3):
        agents = torch.arange(3)
        total += p[:, joint, agents].prod(-1) * ((weight * q[:, joint, agents]).sum(-1) + bias)
    torch.testing.assert_close(total, (weight * (p * q).sum(1)).sum(-1) + bias)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on_batch": 9}, "on_batch, on_capacity and capacity must not fall"),
        ({"on_weight": 1.1}, "on_weight must be from 0 to 1"),
        ({"depth": 0}, "depth must be at least 1"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        config(**changes)


def test_the_steps_schedule_learns_in_every_slot(monkeypatch):
    cfg = config(schedule="steps", network="mlp", rollout=6, epochs=1)
    env = envs.make(cfg.task, cfg.num_envs, cfg.seeds)
    learner = dop.Learner(cfg, env.spec, "cpu")
    slots = []
    original = learner.critic_step
    monkeypatch.setattr(
        learner, "critic_step", lambda b, target: slots.append(b["obs"].shape[1]) or original(b, target)
    )
    now = {"step": env.reset(), "start": torch.ones(2, 4, dtype=torch.bool), **learner.memories(4)}
    signs = learner.learn(offpolicy.collect(learner, env, now, 1), 1)
    assert slots == [1] * 6
    assert all(torch.isfinite(value).all() for value in signs.values())
