"""HAPPO: the sequential update against a literal one, who is stepped when, and the contracts of every algorithm."""

import math

import pytest
import torch
from common import EASY, TINY, check_company, check_gradients_flow, check_it_learns, check_resume

from inconcert import envs, onpolicy, published, stacked
from inconcert.algorithms import happo

KINDS = [(network, order) for network in ("mlp", "gru") for order in ("minibatch", "original")]


def config(**changes):
    return happo.Config(**{**TINY, "hidden": 16, "critic_hidden": 16, **changes})


def played(cfg, rollouts=1):
    """A learner, and the last of `rollouts` rollouts."""
    env = envs.make(cfg.task, cfg.num_envs, cfg.seeds, "cpu", **cfg.env_options)
    learner = happo.Learner(cfg, env.spec, "cpu")
    for group, rate in zip(learner.optimiser.param_groups, learner.rates, strict=True):
        group["lr"] = rate
    start = torch.ones(len(cfg.seeds), cfg.num_envs, dtype=torch.bool)
    now = {"step": env.reset(), "start": start, **learner.memories(cfg.num_envs)}
    for number in range(rollouts):
        data = onpolicy.collect(learner, env, now, number)
    return learner, data


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# ------------------------------------------------------------------------------------------------------------ losses


def test_sequential_surrogate_by_hand():
    """Normalised advantages 1 and -1, factors 1.5 and 0.5, ratios 1.3 and 0.7 clipped at 0.2."""
    old = torch.tensor([[-1.0, -2.0]])
    new = old + torch.tensor([[1.3, 0.7]]).log()
    advantage, factor = torch.tensor([[5.0, 3.0]]), torch.tensor([[1.5, 0.5]])
    loss = happo.sequential_surrogate(new, old, advantage, factor, 0.2)
    first, second = min(1.3 * 1.5, 1.2 * 1.5), min(0.7 * -0.5, 0.8 * -0.5)
    assert loss.item() == pytest.approx(-(first + second) / 2)
    assert loss.item() == pytest.approx(-0.7)


def test_sequential_surrogate_has_the_right_gradient(double):
    torch.manual_seed(0)
    new, old, advantage = (0.3 * torch.randn(2, 20) for _ in range(3))
    factor = torch.rand(2, 20) + 0.5
    new.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: happo.sequential_surrogate(x, old, advantage, factor, 0.1), (new,))


# ------------------------------------------------------------------------------------------------ the sequential update


def literal_log_prob(actor, obs, action):
    """Log-probability of the actions taken, by a feed-forward actor given as a plain dictionary of matrices."""
    x = (obs @ actor["inner.weight"] + actor["inner.bias"]).relu()
    x = (x @ actor["outer.weight"] + actor["outer.bias"]).relu()
    log_probs = (x @ actor["head.weight"] + actor["head.bias"]).log_softmax(-1)
    return log_probs, log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def literal_step(cfg, actor, optimiser, batch, agent, factor):
    """One gradient step of one agent, written out; all tensors `[rows, N, ...]`."""
    obs, action, old, advantage = (batch[name][:, agent] for name in ("obs", "action", "log_prob", "advantage"))
    log_probs, new = literal_log_prob(actor, obs, action)
    ratio = (new - old).exp()
    weighted = factor * (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
    surrogate = torch.minimum(ratio * weighted, ratio.clamp(1 - cfg.clip, 1 + cfg.clip) * weighted).mean()
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    optimiser.zero_grad()
    (-surrogate - cfg.ent_coef * entropy).backward()
    torch.nn.utils.clip_grad_norm_(actor.values(), cfg.max_grad_norm)
    optimiser.step()


def literal_ratio(actor, batch, agent):
    with torch.no_grad():
        return (
            literal_log_prob(actor, batch["obs"][:, agent], batch["action"][:, agent])[1] - batch["log_prob"][:, agent]
        ).exp()


def literal_update(cfg, actors, data, index):
    """The whole update of one seed's agents, in the words of the two texts."""
    agents = len(actors)
    optimisers = [torch.optim.Adam(actor.values(), cfg.actor_lr, eps=cfg.adam_eps) for actor in actors]
    numbers = torch.arange(cfg.rollout * cfg.num_envs).view(1, cfg.rollout, cfg.num_envs)
    flat = {name: data[name][0].flatten(0, 1) for name in ("obs", "action", "log_prob", "advantage")}
    batches = [b["number"][0, 0] for b in onpolicy.minibatches(cfg, {"number": numbers}, index)]
    draws = cfg.epochs if cfg.order == "minibatch" else 1
    orders = stacked.permutations(cfg.seeds, "agents", index, draws, agents)[0].tolist()
    if cfg.order == "minibatch":
        for number, rows in enumerate(batches):
            batch = {name: x[rows] for name, x in flat.items()}
            factor = torch.ones(len(rows))
            for agent in orders[number // cfg.minibatches]:
                literal_step(cfg, actors[agent], optimisers[agent], batch, agent, factor)
                factor = factor * literal_ratio(actors[agent], batch, agent)
    else:
        factor = torch.ones(numbers.numel())
        for agent in orders[0]:
            for rows in batches:
                batch = {name: x[rows] for name, x in flat.items()}
                literal_step(cfg, actors[agent], optimisers[agent], batch, agent, factor[rows])
            factor = factor * literal_ratio(actors[agent], flat, agent)


@pytest.mark.parametrize("order", ["minibatch", "original"])
def test_the_update_is_the_literal_one(double, order):
    """Three agents, two epochs of two minibatches; clipping binds, and each factor comes from the new policies."""
    cfg = config(
        order=order, network="mlp", seeds=(4,), task="coordsum/3x4-7", actor_lr=0.05, clip=0.2, ent_coef=0.01,
        max_grad_norm=0.05,
    )  # fmt: skip
    learner, data = played(cfg)
    stack = {name: value.clone() for name, value in learner.actors.network.state_dict().items()}
    actors = [{name: value[i].clone().requires_grad_() for name, value in stack.items()} for i in range(3)]
    signs = learner.learn(data, 7)
    literal_update(cfg, actors, data, 7)
    for name, value in learner.actors.network.state_dict().items():
        for agent in range(3):
            torch.testing.assert_close(value[agent], actors[agent][name].detach(), rtol=1e-7, atol=1e-9)
            assert not torch.equal(value[agent], stack[name][agent])
    assert (signs["actor_grad_norm"] > cfg.max_grad_norm).all()
    assert (signs["factor_spread"] > 0.01).all()


@pytest.mark.parametrize("order", ["minibatch", "original"])
def test_each_agent_sees_what_the_agents_before_it_have_become(monkeypatch, order):
    """The factor in each loss is the product of the earlier agents' ratios after their steps, and 1 for the first."""
    cfg = config(order=order, network="mlp", seeds=(4,), task="coordsum/2x3-4", epochs=1, minibatches=1, actor_lr=0.05)
    learner, data = played(cfg)
    seen, surrogate = [], happo.sequential_surrogate

    def spy(log_prob, old_log_prob, advantage, factor, clip):
        seen.append((log_prob.detach(), old_log_prob, factor))
        return surrogate(log_prob, old_log_prob, advantage, factor, clip)

    monkeypatch.setattr(happo, "sequential_surrogate", spy)
    learner.learn(data, 3)
    (first_new, first_old, first_factor), (_, _, factor) = seen
    assert torch.equal(first_factor, torch.ones_like(first_factor))
    torch.testing.assert_close(first_new, first_old)  # nothing had been updated when the first agent's loss was taken
    first = stacked.permutations(cfg.seeds, "agents", 3, 1, 2)[0, 0, 0]
    used = {name: data[name] for name in ("obs", "available", "action", "log_prob", "advantage", "actor_memory")}
    ratio = learner.rollout_ratio(used | {"start": data["start"]}, first.view(1))
    order_of_rows = next(onpolicy.minibatches(cfg, {"ratio": ratio}, 3))["ratio"]
    torch.testing.assert_close(factor, order_of_rows)
    assert (factor - 1).abs().max() > 0.01


@pytest.mark.parametrize("network", ["mlp", "gru"])
def test_the_ratio_of_a_rollout_lies_where_its_steps_lie(network):
    cfg = config(network=network, rollout=120, chunk=5 if network == "gru" else 0)
    learner, data = played(cfg, rollouts=2)  # the second begins in mid-episode
    names = ("obs", "available", "action", "log_prob", "advantage", "actor_memory", "start")
    turn = torch.tensor([2, 0])
    used = {name: data[name] for name in names}
    assert data["start"].any()
    torch.testing.assert_close(learner.rollout_ratio(used, turn), torch.ones(2, 120, 4))
    if network == "mlp":
        torch.nn.init.normal_(learner.actors.network.head.weight)
        whole = learner.actors.log_probs(data["obs"], data["available"], data["actor_memory"][:, 0], data["start"])
        ratio = (whole.gather(-1, data["action"].unsqueeze(-1)).squeeze(-1) - data["log_prob"]).exp()
        torch.testing.assert_close(learner.rollout_ratio(used, turn), torch.stack([ratio[0, ..., 2], ratio[1, ..., 0]]))


@pytest.mark.parametrize("network", ["mlp", "gru"])
def test_only_the_agents_in_turn_are_stepped(network):
    """Everybody else's parameters and Adam state stay, bit for bit; each seed has a turn of its own."""
    cfg = config(network=network, ent_coef=0.01)
    learner, data = played(cfg)
    learner.learn(data, 1)

    def everything():
        adam = [[learner.optimiser.state[leaf] for leaf in leaves] for leaves in learner.leaves]
        return [
            [
                {"parameter": leaf.detach().clone(), **{name: value.clone() for name, value in state.items()}}
                for leaf, state in zip(leaves, states, strict=True)
            ]
            for leaves, states in zip(learner.leaves, adam, strict=True)
        ], [(p.detach().clone(), learner.optimiser.state[p]["step"].clone()) for p in learner.critic.parameters()]

    before, critics = everything()
    names = ("obs", "available", "action", "log_prob", "advantage", "actor_memory", "start")
    batch = next(onpolicy.minibatches(cfg, {name: data[name] for name in names}, 1, ("actor_memory",)))
    turn = torch.tensor([2, 0])
    factor = torch.ones_like(batch["log_prob"][..., 0])
    learner.learn_actors(learner.select(batch, turn), factor, turn)
    after, critics_after = everything()
    for earlier, later in zip(before, after, strict=True):
        for member in range(6):
            same = [torch.equal(value, later[member][name]) for name, value in earlier[member].items()]
            assert not any(same) if member in (2, 3) else all(same)
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(critics, critics_after, strict=True))


def test_clipping_is_for_each_agent():
    """The norm that one agent's gradient is scaled by knows nothing of the other agents."""
    cfg = config(network="mlp", seeds=(4,), epochs=1, minibatches=1, max_grad_norm=1e-3)
    learner, data = played(cfg)
    learner.learn(data, 1)
    for leaves in zip(*learner.leaves, strict=True):  # the leaves of one agent
        first_moment = torch.stack([learner.optimiser.state[leaf]["exp_avg"].norm() for leaf in leaves]).norm()
        assert first_moment.item() == pytest.approx(0.1 * 1e-3, rel=1e-2)
    critic = [learner.optimiser.state[p]["exp_avg"] for p in learner.critic.parameters()]
    norms = torch.stack([moment.flatten(1).norm(dim=1) for moment in critic]).norm(dim=0)
    torch.testing.assert_close(norms, torch.full((3,), 0.1 * 1e-3), rtol=1e-2, atol=0)


def test_turns_are_drawn_for_each_epoch_and_seed(monkeypatch):
    cfg = config(network="mlp", epochs=6, minibatches=2)
    learner, data = played(cfg)
    turns = []
    monkeypatch.setattr(
        happo.Learner, "learn_actors", lambda self, own, factor, turn: turns.append(turn.tolist()) or {}
    )
    learner.learn(data, 1)
    epochs = torch.tensor(turns).view(6, 2, 3, 2)  # epochs, minibatches, turns, seeds
    assert torch.equal(epochs[:, 0], epochs[:, 1])
    assert torch.equal(epochs.sort(2).values, torch.arange(3).view(1, 1, 3, 1).expand_as(epochs))
    for seed in range(2):
        assert len({tuple(order) for order in epochs[:, 0, :, seed].tolist()}) > 1
    assert not torch.equal(epochs[..., 0], epochs[..., 1])


def test_each_agent_has_a_critic_of_its_own():
    """Changing one agent's critic changes the values of that agent alone."""
    learner, _ = played(config(network="gru"))
    memories = learner.memories(4)
    state, start = torch.rand(2, 4, 2), torch.ones(2, 4, dtype=torch.bool)
    before, _ = learner.appraise(state, start, memories["critic_memory"])
    with torch.no_grad():
        learner.critic.head.bias[4] += 1.0  # second seed, agent 1
    after, _ = learner.appraise(state, start, memories["critic_memory"])
    expected = torch.zeros(2, 4, 3)
    expected[1, :, 1] = 1.0
    torch.testing.assert_close(after - before, expected)
    assert before.std(-1).min() > 0


def test_a_critic_for_the_team_learns_from_all_agents():
    """One value a state; its loss is the mean over agents of what each agent's own target makes of it."""
    learner, data = played(config(network="mlp", critics="shared", seeds=(4,)))
    assert data["value"].shape == (1, 20, 4, 1)
    assert learner.critic.head.weight.shape[0] == 1
    data["target"] = data["target"] + torch.tensor([0.0, 1.0, 5.0])
    batch = {name: onpolicy.columns(data[name], 1) for name in ("state", "start", "value", "target")}
    batch["critic_memory"] = data["critic_memory"].flatten(1, 2)
    value, target = data["value"][0], data["target"][0]
    loss = learner.learn_critics(batch)["value_loss"]
    torch.testing.assert_close(loss, 0.5 * (value - target).square().mean().view(1))


# ------------------------------------------------------------------------------------------------------- contracts


HARL = {"order": "original", "critics": "shared", "layer_norm": True, "one_hot_id": False, "value_norm": True,
        "huber": 10.0, "judge_time_limit": False, "bootstrap_time_limit": False, "keep": (50, 100)}  # fmt: skip


@pytest.mark.parametrize("network", ["mlp", "gru"])
def test_harls_options_keep_the_contracts(network):
    check_company(happo, config(network=network, **HARL))
    check_resume(happo, config(network=network, updates=3, **HARL))
    check_gradients_flow(happo, config(network=network, ent_coef=0.01, **HARL))


@pytest.mark.parametrize(("network", "order"), KINDS)
def test_a_seed_in_company_is_the_seed_alone(network, order):
    check_company(happo, config(network=network, order=order))


@pytest.mark.parametrize(("network", "order"), KINDS)
def test_resuming_is_bit_for_bit(network, order):
    check_resume(happo, config(network=network, order=order, updates=3))


@pytest.mark.parametrize("network", ["mlp", "gru"])
def test_all_gradients_flow(network):
    check_gradients_flow(happo, config(network=network, ent_coef=0.01))


@pytest.mark.parametrize("order", ["minibatch", "original"])
def test_it_learns(order):
    check_it_learns(
        happo,
        config(
            **EASY | {"updates": 45, "eval_every": 45},
            order=order,
            network="mlp",
            hidden=32,
            critic_hidden=32,
            actor_lr=3e-3,
            critic_lr=3e-3,
        ),
    )


@pytest.mark.parametrize("task", sorted(happo.PAPER))
def test_paper_settings_are_the_authors_rows(task):
    table = published.magpo_params()
    row = table[(table["system_name"] == "happo") & ("coordsum/" + table["table_1_row"].astype(str) == task)].iloc[0]
    cfg = happo.configure(task, "paper")
    expected = {
        "minibatches": row["num_minibatches"], "max_grad_norm": row["max_grad_norm"], "epochs": row["ppo_epochs"],
        "clip": row["clip_eps"], "ent_coef": row["ent_coef"], "actor_lr": row["actor_lr"],
        "critic_lr": row["critic_lr"], "updates": row["num_updates"], "num_envs": 2 * float(row["num_envs"]),
    }  # fmt: skip
    for name, value in expected.items():
        assert getattr(cfg, name) == pytest.approx(float(value)), name
    assert (cfg.chunk or cfg.rollout) == int(row["recurrent_chunk_size"])
    assert cfg.order == "minibatch"
    assert len(cfg.seeds) == 10
    assert math.prod((cfg.updates, cfg.steps_per_update)) == 19_988_480


def test_variants():
    assert happo.configure("coordsum/5x20-80", "laptop", "clamped-order-original").order == "original"
    assert happo.configure("coordsum/5x20-80", "laptop", "clamped").order == "minibatch"
