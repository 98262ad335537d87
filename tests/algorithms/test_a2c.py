"""A2C with shared parameters: the update against a plain one, every scheme's contracts, re-sharing, the record."""

import dataclasses

import pytest
import torch
from common import EASY, TINY, check_company, check_gradients_flow, check_it_learns, check_resume, trained
from torch import nn

from inconcert import distance, envs, onpolicy, records, replay, runs, stacked, tables
from inconcert.algorithms import a2c
from inconcert.config import InputError

SMALL = {
    **TINY, "task": "spread/naive_6a_3c", "rollout": 5, "epochs": 1, "minibatches": 1, "hidden": 8, "every": 1,
    "window": 1, "vae_epochs": 1, "gather": 1, "seps_epochs": 1, "clusters": 3,
}  # fmt: skip
SCHEMES = {
    "nps": {"scheme": "nps"}, "fps": {}, "fps-id": {"scheme": "fps-id"}, "oracle": {"scheme": "oracle"},
    "seps": {"scheme": "seps"}, "mdps": {"scheme": "mdps", "epsilon": 0.5}, "mdps-tv": {
        "scheme": "mdps", "measures": ("total-variation", "wasserstein"), "epsilon": 0.1, "moments": "copy",
        "start": "own", "window": 2, "every": 2, "gather": 2,
    },
    "same": {"scheme": "nps", "initial": "same", "measures": ("wasserstein", "total-variation")},
}  # fmt: skip


def config(**changes):
    return a2c.Config(**{**SMALL, **changes})


def played(cfg, rollouts=1):
    """A learner, and the last of `rollouts` rollouts."""
    env = envs.make(cfg.task, cfg.num_envs, cfg.seeds, "cpu", **cfg.env_options)
    learner = a2c.Learner(cfg, env.spec, "cpu")
    for group in learner.optimiser.param_groups:
        group["lr"] = cfg.lr
    now = {"step": env.reset(), "start": torch.ones(len(cfg.seeds), cfg.num_envs, dtype=torch.bool)}
    for number in range(1, rollouts + 1):
        data = onpolicy.collect(learner, env, now, number)
    return learner, data, env


# ---------------------------------------------------------------------------------------------------------- contracts


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_seed_in_company_is_the_seed_alone(scheme):
    check_company(a2c, config(**SCHEMES[scheme]))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_resuming_is_bit_for_bit(scheme):
    """Also in the middle of a window of observations, and with networks that have changed hands."""
    check_resume(a2c, config(**SCHEMES[scheme], updates=3))


@pytest.mark.parametrize("scheme", ["nps", "fps", "fps-id", "oracle"])
def test_all_gradients_flow(scheme):
    check_gradients_flow(a2c, config(**SCHEMES[scheme]), still=("front_index", "back_index"))


def test_it_learns():
    change = {"scheme": "nps", "epochs": 1, "minibatches": 1, "gae_lambda": 1.0, "gamma": 0.5, "hidden": 32}
    check_it_learns(a2c, a2c.Config(**{**EASY, **change, "rollout": 5, "updates": 400, "eval_every": 400, "lr": 3e-3}))


# ------------------------------------------------------------------------------------------------------------- update


def test_losses_by_hand():
    """One seed, two agents, two rows: means over rows, summed over agents."""
    log_prob = torch.tensor([[[-1.0, -2.0], [-0.5, -0.25]]])
    advantage = torch.tensor([[[2.0, -1.0], [4.0, 8.0]]])
    assert a2c.actor_loss(log_prob, advantage).item() == pytest.approx(-((-2 + 2) / 2 + (-2 - 2) / 2))
    value, returns = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]), torch.tensor([[[0.0, 4.0], [3.0, 1.0]]])
    assert a2c.critic_loss(value, returns).item() == pytest.approx((1 + 4) / 2 + (9 + 1) / 2)


@pytest.mark.parametrize("scheme", ["nps", "fps-id"])
def test_returns_are_bootstrapped_and_end_with_the_episode(scheme):
    """50 steps to an episode and 7 to a rollout: the time limit falls into the eighth rollout, after its first step."""
    cfg = config(rollout=7, scheme=scheme)
    learner, _, env = played(cfg, 7)
    now = {"step": env.observe(), "start": torch.zeros(2, 4, dtype=torch.bool)}
    data = onpolicy.collect(learner, env, now, 8)
    assert data["truncated"].nonzero()[:, 1].unique().tolist() == [0]
    with torch.no_grad():
        last = learner.value(now["step"].obs, now["step"].state, now["start"], now)
        running, expected = last, torch.empty_like(data["reward"])
        for t in reversed(range(7)):
            if t == 0:  # the situation before the restart is where the episode goes on
                again = envs.make(cfg.task, cfg.num_envs, cfg.seeds, "cpu")
                again.load_state_dict(before_the_limit(cfg, learner))
                running = learner.value(
                    again.step(data["action"][:, 0].flatten(0, 1)).final_obs, None, now["start"], now
                )
            expected[:, t] = running = data["reward"][:, t] + cfg.gamma * running
    torch.testing.assert_close(data["target"], expected)


def before_the_limit(cfg, learner):
    """The environment's state 49 steps into its first episode."""
    env = envs.make(cfg.task, cfg.num_envs, cfg.seeds, "cpu")
    now = {"step": env.reset(), "start": torch.ones(2, 4, dtype=torch.bool)}
    for number in range(1, 8):
        onpolicy.collect(learner, env, now, number)
    return env.state_dict()


class Plain(nn.Module):
    """One actor and one critic, as anybody would write them."""

    def __init__(self, learner, seed):
        super().__init__()

        def network(*parts):
            """`parts`: tables one after the other, ReLU in between."""
            layers = []
            for table in parts:
                for i, (weight, bias) in enumerate(tables.layers(table.weight[seed : seed + 1].detach(), table.sizes)):
                    linear = nn.Linear(table.sizes[i], table.sizes[i + 1])
                    linear.load_state_dict({"weight": weight[0].T.clone(), "bias": bias[0, 0].clone()})
                    layers += [linear, nn.ReLU()]
            return nn.Sequential(*layers[:-1])

        self.actor, self.critic = network(learner.front, learner.back), network(learner.critic)


def test_full_sharing_is_plain_a2c():
    """Two updates of one network on all agents' steps, with torch's own layers, clipping and Adam."""
    cfg = config(lr=0.01, ent_coef=0.05)
    learner, data, env = played(cfg)
    plain = [Plain(learner, seed) for seed in range(2)]
    optimisers = [torch.optim.Adam(one.parameters(), lr=cfg.lr, eps=cfg.adam_eps) for one in plain]
    now = {"step": env.observe(), "start": torch.zeros(2, 4, dtype=torch.bool)}
    for index in (1, 2):
        for seed, (one, optimiser) in enumerate(zip(plain, optimisers, strict=True)):
            obs, action, returns = (
                data[name][seed].flatten(0, 1) for name in ("obs", "action", "target")
            )  # [B, N, ..]
            policy = torch.distributions.Categorical(logits=one.actor(obs))
            value = one.critic(obs).squeeze(-1)
            gain = policy.log_prob(action) * (returns - value.detach()) + cfg.ent_coef * policy.entropy()
            loss = cfg.vf_coef * (value - returns).square() - gain
            optimiser.zero_grad()
            loss.sum(1).mean(0).backward()
            nn.utils.clip_grad_norm_(one.parameters(), cfg.max_grad_norm)
            optimiser.step()
        signs = learner.learn(data, index)
        assert signs["grad_norm"].min() > cfg.max_grad_norm  # the clipping is at work
        data = onpolicy.collect(learner, env, now, index + 1)
    for seed, one in enumerate(plain):
        found = Plain(learner, seed).state_dict()
        for name, expected in one.state_dict().items():
            torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)


def test_with_one_network_for_all_looking_up_and_sharing_agree():
    """fps, and the oracle with a single group, are the same program in two forms."""
    one, two = (config(**change) for change in ({}, {"scheme": "oracle", "groups": (6,)}))
    for (first, state), (second, other) in zip(trained(a2c, one), trained(a2c, two), strict=True):
        torch.testing.assert_close(first.outcomes["sampled"]["team_return"], second.outcomes["sampled"]["team_return"])
        for name in ("network-actor.front.weight", "network-actor.back.weight", "network-critic.weight"):
            torch.testing.assert_close(state[name], other[name], rtol=1e-4, atol=1e-6)


def test_networks_stepped_one_by_one_are_stepped_as_one_table():
    """Dynamic sharing that never changes anything is no sharing."""
    one = config(scheme="nps", updates=4)
    two = config(scheme="mdps", updates=4, start="own", every=100, gather=100)
    states = [trained(a2c, cfg)[-1][1] for cfg in (one, two)]
    for name in ("network-actor.front.weight", "network-actor.back.weight", "network-critic.weight"):
        torch.testing.assert_close(states[1][name], states[0][name], rtol=1e-5, atol=1e-7)


def test_without_sharing_agents_only_meet_in_the_clipping():
    cfg = config(scheme="nps", max_grad_norm=1e9)
    learner, data, _ = played(cfg)
    other, _, _ = played(cfg)
    changed = {name: value.clone() for name, value in data.items()}
    changed["target"][..., 0] += 5.0
    for one, seen in ((learner, data), (other, changed)):
        one.learn(seen, 1)
    for table, twin in zip(learner.all.parameters(), other.all.parameters(), strict=True):
        same = (table == twin).all(1).view(2, 6)
        assert same.tolist() == [[False] + [True] * 5] * 2


def test_the_networks_start_as_described():
    noisy, _, _ = played(config(scheme="nps", seeds=(0, 1, 2), hidden=64))
    for table in (noisy.front, noisy.back):
        for weight, bias in tables.layers(table.weight.detach(), table.sizes):
            inputs, outputs = weight.shape[1:]
            expected = (
                0.25 * min(inputs, outputs) / (inputs * outputs) + 0.04
            )  # orthogonal with gain 0.5, and the noise
            assert weight.square().mean().item() == pytest.approx(expected, rel=0.1)
            assert bias.std().item() == pytest.approx(0.2, rel=0.15)
    same, _, _ = played(config(scheme="nps", initial="same"))
    for table in (same.front, same.back, same.critic):
        rows = table.weight.detach().view(2, 6, -1)
        assert (rows == rows[:, :1]).all()
        assert not torch.equal(rows[0], rows[1])
    head = tables.layers(same.back.weight.detach(), same.back.sizes)[-1][0]
    torch.testing.assert_close(head.mT @ head, 1e-4 * torch.eye(5).expand(12, -1, -1), atol=1e-8, rtol=1e-3)


def test_an_id_tells_the_agents_apart():
    learner, data, _ = played(config(scheme="fps-id"))
    seen = learner.told(a2c.by_agent(data["obs"]))
    assert seen.shape[-1] == data["obs"].shape[-1] + 6
    for n in range(6):
        assert (seen[:, n, :, -6:] == torch.eye(6)[n]).all()


# ------------------------------------------------------------------------------------------------------------ sharing


def shared(moments="reset", **changes):
    """A learner of dynamic sharing after two updates, and its last rollout. One seed, six agents, all on front 0."""
    cfg = config(**{"scheme": "mdps", "seeds": (3,), "every": 100, "gather": 100, "moments": moments, **changes})
    learner, data, env = played(cfg)
    now = {"step": env.observe(), "start": torch.zeros(1, 4, dtype=torch.bool)}
    for index in (1, 2):
        learner.learn(data, index)
        data = onpolicy.collect(learner, env, now, index + 1)
    return learner, data


def test_a_division_changes_no_policy_and_no_value():
    learner, data = shared()
    learner.actor.back_index[0] = torch.tensor([2, 2, 2, 3, 4, 4])
    obs = a2c.by_agent(data["obs"])
    before = learner.actor(obs), learner.critic(obs, learner.actor.back_index)
    learner.share(3.0 * (1 - torch.eye(6))[None])
    assert learner.actor.front_index[0].unique().tolist() == list(range(6))
    assert len(learner.actor.back_index[0].unique()) == 6
    after = learner.actor(obs), learner.critic(obs, learner.actor.back_index)
    for one, two in zip(before, after, strict=True):
        torch.testing.assert_close(one, two)


def test_divided_agents_go_separate_ways():
    learner, data = shared()
    learner.share(3.0 * (1 - torch.eye(6))[None])
    fronts = learner.front.weight.detach()
    assert (fronts == fronts[:1]).all()
    learner.learn(data, 3)
    assert (learner.front.weight[1:] != learner.front.weight[:-1]).any(1).all()


@pytest.mark.parametrize("moments", ["reset", "copy", "keep"])
def test_what_the_optimiser_knows_of_a_copy(moments):
    learner, data = shared(moments, start="own")
    learner.actor.front_index[0] = torch.tensor([0, 0, 2, 3, 4, 5])
    front = learner.rows[0]
    before = {name: value.clone() for name, value in learner.optimiser.state[front[1]].items()}
    d = torch.full((6, 6), 1.5)
    d[0, 1] = d[1, 0] = 3.0
    learner.share(d[None])
    assert torch.equal(front[1], front[0])
    state, source = learner.optimiser.state.get(front[1]), learner.optimiser.state[front[0]]
    if moments == "reset":
        assert not state
    else:
        expected = source if moments == "copy" else before
        assert all(torch.equal(state[name], expected[name]) for name in expected)
        assert state["exp_avg"] is not source["exp_avg"]
    learner.learn(data, 3)
    assert learner.optimiser.state[front[1]]["step"] == (1 if moments == "reset" else 3)


def test_a_network_that_nobody_uses_stays_as_it_is():
    learner, data = shared(start="own")
    learner.actor.front_index[0] = torch.tensor([0, 0, 2, 3, 4, 5])
    before = learner.front.weight.detach().clone()
    learner.learn(data, 3)
    moved = (learner.front.weight != before).any(1)
    assert moved.tolist() == [True, False, True, True, True, True]


def test_each_seed_shares_by_its_own_distances():
    learner, _, _ = played(config(scheme="mdps", start="own"))
    near, far = (1 - torch.eye(6)) * 0.1, (1 - torch.eye(6)) * 5.0
    learner.share(torch.stack([near, far]))
    assert learner.actor.front_index.tolist() == [[0] * 6, list(range(6))]


def test_distances_are_measured_on_the_last_window():
    """With windows of 2 updates every 4, a measurement sees the observations of updates 3 and 4."""
    cfg = config(scheme="nps", measures=("total-variation", "wasserstein"), every=4, window=2, gather=4)
    learner, data, env = played(cfg)
    now = {"step": env.observe(), "start": torch.zeros(2, 4, dtype=torch.bool)}
    seen = []
    for index in range(1, 5):
        assert not learner.measurement
        learner.learn(data, index)
        seen.append(data["obs"])
        data = onpolicy.collect(learner, env, now, index + 1)
    obs = torch.cat([a2c.by_agent(x) for x in seen[2:]], 2)
    expected = distance.policy_distances(
        lambda o: learner.actor(o).softmax(-1), obs, cfg.measures, settings=distance.Settings(epochs=1),
        seed=[stacked.derive(seed, "distance", 4) for seed in cfg.seeds],
    )  # fmt: skip
    for name in cfg.measures:
        torch.testing.assert_close(learner.measurement[name], expected[name])


def test_a_customised_distance_is_about_the_reward():
    cfg = config(scheme="nps", measures=("wasserstein",), feature="reward")
    learner, data, _ = played(cfg)
    learner.learn(data, 1)
    plain, data, _ = played(dataclasses.replace(cfg, feature="actions"))
    plain.learn(data, 1)
    assert torch.equal(learner.memory.of_agents("reward"), a2c.by_agent(data["reward"]))
    assert not torch.allclose(learner.measurement["wasserstein"], plain.measurement["wasserstein"])


def test_what_seps_gathers_belongs_together():
    """Observation, action and reward of a step with the next observation, none across a restart."""
    cfg = config(scheme="seps", rollout=15, gather=8, window=4, every=8)
    learner, _, env = played(cfg)
    now = {"step": env.reset(), "start": torch.ones(2, 4, dtype=torch.bool)}
    kept = []
    for index in range(1, 8):
        data = onpolicy.collect(learner, env, now, index)
        learner.learn(data, index)
        kept += [data] if index % 2 == 0 else []
    obs, action, reward, next_obs, within = learner.gathered.transitions()
    assert obs.shape == (2, 6, 4 * 14 * 4, env.spec.obs_size)
    for slot, data in enumerate(kept):
        for s, t, e, n in ((0, 0, 0, 0), (1, 9, 3, 5), (0, 13, 2, 1)):
            row = (slot * 14 + t) * 4 + e
            assert torch.equal(obs[s, n, row], data["obs"][s, t, e, n])
            assert torch.equal(next_obs[s, n, row], data["obs"][s, t + 1, e, n])
            assert action[s, n, row] == data["action"][s, t, e, n]
            assert reward[s, n, row] == data["reward"][s, t, e, n]
            assert within[s, n, row] == ~data["start"][s, t + 1, e]
    assert (~within).any()


def test_seps_waits_clusters_and_then_trains():
    cfg = config(scheme="seps", gather=2, window=2, every=2, updates=4)
    start, *later = (state for _, state in trained(a2c, cfg)[:5])
    for name in ("network-actor.front.weight", "network-critic.weight"):
        same = [torch.equal(state[name], start[name]) for state in later]
        assert same == [True, True, False, False]
    fronts = [state["network-actor.front_index"] for state in (start, *later)]
    assert (fronts[1] == 0).all()
    assert all(row.unique().tolist() == [0, 1, 2] for row in fronts[2])
    assert torch.equal(fronts[2], fronts[4])
    eager = [state["network-critic.weight"] for _, state in trained(a2c, dataclasses.replace(cfg, delay=False))[:2]]
    assert not torch.equal(*eager)


def test_seps_finds_the_colours():
    """From what an untrained policy meets in 60 rollouts, with the default number of passes."""
    cfg = a2c.Config(
        task="spread/naive_6a_3c", seeds=(0,), scheme="seps", gather=60, window=60, every=60, updates=60, clusters=3,
        eval_every=60, eval_episodes=1, final_episodes=1,
    )  # fmt: skip
    index = trained(a2c, cfg, 2)[-1][1]["network-actor.front_index"]
    assert index.tolist() == [[0, 0, 1, 1, 2, 2]]


def test_the_oracle_knows_the_colours():
    learner, _, _ = played(config(scheme="oracle", task="spread/30a_5c_super"))
    expected = [0] * 3 + [1] * 3 + [2] * 3 + [3] * 12 + [4] * 9
    assert learner.actor.front_index.tolist() == learner.actor.back_index.tolist() == [expected] * 2
    assert learner.front.count == learner.critic.count == 5


# ------------------------------------------------------------------------------------------------ settings and record


def test_the_papers_settings():
    """Facts of the policy-distance paper (section 3.2) and of the authors' code."""
    cfg = a2c.configure("spread/15a_3c", "paper", "mdps")
    expected = {
        "num_envs": 8, "rollout": 5, "updates": 40_000, "lr": 3e-4, "adam_eps": 1e-5, "max_grad_norm": 0.5,
        "gamma": 0.99, "ent_coef": 0.01, "vf_coef": 0.5, "hidden": 64, "critic_layers": 4, "every": 2000,
        "window": 100, "epsilon": 1.0, "latent": 10, "vae_epochs": 10, "kl_weight": 0.01, "distance_rows": 0,
    }  # fmt: skip
    assert {name: getattr(cfg, name) for name in expected} == expected
    assert cfg.measured[0] == "wasserstein"
    settings = distance.Settings(latent=cfg.latent, epochs=cfg.vae_epochs, kl_weight=cfg.kl_weight)
    assert (settings.lr, settings.batch, settings.hidden) == (3e-4, 128, 32)
    assert a2c.configure("spread/30a_5c_super", "paper").updates == 50_000


@pytest.mark.parametrize("variant", a2c.VARIANTS)
def test_every_variant_makes_a_learner(variant):
    cfg = a2c.configure("spread/15a_3c", "smoke", variant)
    learner = a2c.Learner(cfg, envs.make(cfg.task, 1).spec, "cpu")
    assert learner.config.scheme == a2c.VARIANTS[variant].get("scheme", "fps")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 2}, "one pass"),
        ({"gae_lambda": 0.95}, "one pass"),
        ({"judge_time_limit": False}, "one pass"),
        ({"scheme": "msdp"}, "nearest: mdps"),
        ({"measures": ("total-variance",)}, "nearest: total-variation"),
        ({"window": 2}, "window must be from 1 to 1"),
        ({"critic_layers": 1}, "critic_layers"),
    ],
)
def test_settings_that_make_no_sense(change, message):
    with pytest.raises(InputError, match=message):
        config(**change)


@pytest.mark.parametrize(
    ("task", "groups"), [("coordsum/3x4-7", ()), ("spread/naive_6a_3c", (2, 2)), ("spread/15a_3c", (16, -1))]
)
def test_an_oracle_needs_groups_of_all_agents(task, groups):
    cfg = config(scheme="oracle", task=task, groups=groups)
    with pytest.raises(InputError, match="groups must be sizes that add up to"):
        a2c.Learner(cfg, envs.make(task, 1).spec, "cpu")


def test_a_record_says_who_shared_with_whom_and_can_be_replayed(tmp_path, monkeypatch):
    monkeypatch.setenv("INCONCERT_RUNS", str(tmp_path))
    changes = {"updates": 40, "eval_episodes": 3, "final_episodes": 3, "hidden": 8, "start": "own", "epsilon": 0.2,
               "scheme": "mdps", "measures": ("total-variation", "wasserstein")}  # fmt: skip
    plan = runs.Plan("a2c", "spread/naive_6a_3c", "smoke", "own-try", changes)
    record = records.read(runs.train(plan))
    sharing = record.frame[record.frame["mode"] == "sharing"]
    assert sorted(sharing["update"].unique()) == [0, 20, 40]
    first = sharing[sharing["update"] == 0].pivot_table(index="seed", columns="episode", values="front")
    assert first.to_numpy().tolist() == [[0, 1, 2, 3, 4, 5]] * 2
    pairs = record.frame[record.frame["mode"] == "distance"]
    assert sorted(pairs["update"].unique()) == [20, 40]
    assert len(pairs) == 2 * 2 * 15
    assert pairs[["total-variation", "wasserstein"]].notna().all(axis=None)
    assert pairs["front"].isna().all()
    episodes = record.frame[record.frame["mode"].isin(["sampled", "greedy"])]
    assert episodes["team_return"].notna().all()
    assert len(records.final(record, "last", metric="team_return")) == 2
    assert replay.replay(record, 3).difference == ""


def test_a_saved_policy_plays_as_its_learner_did():
    cfg = config(scheme="mdps", epsilon=0.3, updates=2)
    *_, (last, state) = trained(a2c, cfg)
    policy = {
        name.removeprefix("network-actor."): value for name, value in state.items() if name.startswith("network-actor.")
    }
    player = a2c.restore(cfg, policy)
    learner = onpolicy.restore(a2c.Learner, cfg, policy, "cpu")
    assert torch.equal(player.actor.front_index, state["network-actor.front_index"])
    step = envs.make(cfg.task, 4, cfg.seeds).reset()
    start = torch.ones(2, 4, dtype=torch.bool)
    assert torch.equal(player(step, start, None, None)[0], learner(step, start, None, None)[0])
    assert last.phase == "last"
