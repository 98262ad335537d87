"""MAPPO: losses against hand computations, and the contracts every algorithm file keeps."""

import dataclasses
import math

import pytest
import torch

from inconcert import envs, published, stacked
from inconcert.algorithms import mappo
from inconcert.config import InputError
from inconcert.evaluate import Diverged, check_finite, choose, masked_log_softmax, play

TINY = {
    "seeds": (3, 5), "num_envs": 4, "rollout": 20, "updates": 2, "epochs": 2, "minibatches": 2, "hidden": 16,
    "eval_every": 1, "eval_episodes": 3, "final_episodes": 4, "max_grad_norm": 0.5,
}  # fmt: skip
KINDS = [(network, parameters) for network in ("mlp", "gru") for parameters in ("shared", "separate")]


def config(task="coordsum/3x4-7", **changes):
    return mappo.Config(task=task, **{**TINY, **changes})


# ------------------------------------------------------------------------------------------------------------ losses


def test_advantages_against_the_definition():
    """Sum of discounted errors up to the end of the episode, written as the double sum of the paper's Eq 16."""
    torch.manual_seed(0)
    shape, gamma, lam = (2, 7, 3), 0.9, 0.8
    reward, value, next_value = torch.randn(*shape, 2), torch.randn(shape), torch.randn(shape)
    ended = torch.rand(shape) < 0.3
    terminated = ended & (torch.rand(shape) < 0.5)
    assert terminated.any()
    assert (ended & ~terminated).any()
    result = mappo.advantages(reward, value, next_value, terminated, ended, gamma, lam)
    for s in range(2):
        for e in range(3):
            for n in range(2):
                for t in range(7):
                    total, weight = 0.0, 1.0
                    for k in range(t, 7):
                        bootstrap = 0.0 if terminated[s, k, e] else gamma * next_value[s, k, e]
                        total += weight * (reward[s, k, e, n] + bootstrap - value[s, k, e])
                        weight *= gamma * lam
                        if ended[s, k, e]:
                            break
                    assert result[s, t, e, n] == pytest.approx(float(total), abs=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.5, 2.0, -2.4), (0.5, 2.0, -1.0), (1.5, -2.0, 3.0), (0.5, -2.0, 1.6), (1.1, 1.0, -1.1)],
)
def test_clipped_surrogate_by_hand(ratio, advantage, expected):
    loss = mappo.clipped_surrogate(
        torch.tensor([[math.log(ratio)]]), torch.zeros(1, 1), torch.tensor([[advantage]]), 0.2
    )
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "old", "target", "expected"),
    [(3.0, 1.0, 2.0, 0.5), (3.0, 1.0, 5.0, 7.605), (1.05, 1.0, 2.0, 0.45125), (0.0, 1.0, 0.0, 0.405)],
)
def test_clipped_value_error_by_hand(value, old, target, expected):
    one = [torch.tensor([[x]]) for x in (value, old, target)]
    clipped = old + max(-0.1, min(0.1, value - old))
    assert expected == pytest.approx(0.5 * max((value - target) ** 2, (clipped - target) ** 2))
    assert mappo.clipped_value_error(*one, 0.1).item() == pytest.approx(expected)


def test_losses_do_not_mix_seeds():
    logs, advantage = torch.randn(2, 5), torch.randn(2, 5)
    both = mappo.clipped_surrogate(logs, torch.zeros(2, 5), advantage, 0.2)
    for s in range(2):
        alone = mappo.clipped_surrogate(logs[s : s + 1], torch.zeros(1, 5), advantage[s : s + 1], 0.2)
        torch.testing.assert_close(both[s : s + 1], alone)
    normal = mappo.normalise(advantage)
    torch.testing.assert_close(normal.mean(1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(normal.std(1, correction=0), torch.ones(2))


def test_entropy_counts_only_available_actions():
    logits = torch.zeros(1, 2, 4, requires_grad=True)
    available = torch.tensor([[[True] * 4, [True, False, True, False]]])
    value = mappo.entropy(masked_log_softmax(logits, available))
    assert value.item() == pytest.approx((math.log(4) + math.log(2)) / 2)
    value.backward()
    assert torch.isfinite(logits.grad).all()


# ------------------------------------------------------------------------------------------------------- choosing


def test_a_masked_action_has_probability_exactly_zero():
    torch.manual_seed(0)
    logits, available = 5 * torch.randn(1000, 6), torch.rand(1000, 6) < 0.4
    available[torch.arange(1000), torch.randint(6, (1000,))] = True
    log_probs = masked_log_softmax(logits, available)
    assert (log_probs.exp()[~available] == 0).all()
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(1000))
    top = torch.full((1000,), 1 - 2**-24)
    for uniform in (torch.zeros(1000), top, torch.rand(1000), None):
        action = choose(log_probs, uniform)
        assert available[torch.arange(1000), action].all()


def test_choose_follows_the_distribution():
    log_probs = masked_log_softmax(torch.tensor([1.0, 0.0, 9.0, -1.0]), torch.tensor([True, True, False, True]))
    generator = torch.Generator().manual_seed(0)
    draws = choose(log_probs.expand(100_000, 4), torch.rand(100_000, generator=generator))
    frequency = torch.bincount(draws, minlength=4) / 100_000
    assert (frequency - log_probs.exp()).abs().max() < 4 * math.sqrt(0.25 / 100_000)
    assert frequency[2] == 0


# ------------------------------------------------------------------------------------------------------- contracts


def trained(cfg, count=10**9, state=None):
    result = []
    for evaluation in mappo.train(cfg, state=state):
        result.append((evaluation, evaluation.state()))
        if len(result) == count:
            break
    return result


@pytest.mark.parametrize(("network", "parameters"), KINDS)
def test_a_seed_in_company_is_the_seed_alone(network, parameters):
    together = trained(config(network=network, parameters=parameters))
    alone = trained(config(network=network, parameters=parameters, seeds=(5,)))
    assert [e.phase for e, _ in together] == ["curve"] * 3 + ["best", "last"]
    for (both, state), (one, single) in zip(together, alone, strict=True):
        torch.testing.assert_close(
            both.outcomes["sampled"]["episode_return"][1:], one.outcomes["sampled"]["episode_return"]
        )
        for name, value in single.items():
            if name.startswith(("actor", "critic")):
                torch.testing.assert_close(state[name][-value.shape[0] :], value, rtol=1e-4, atol=1e-6)
    assert not torch.equal(together[0][1]["actor.inner.weight"][0], together[0][1]["actor.inner.weight"][-1])


@pytest.mark.parametrize(("network", "parameters"), KINDS)
def test_resuming_is_bit_for_bit(network, parameters):
    cfg = config(network=network, parameters=parameters, updates=3)
    whole = trained(cfg)
    _, middle = trained(cfg, 2)[-1]
    rest = trained(cfg, state=middle)
    assert len(rest) == len(whole) - 2
    for (one, state), (two, resumed) in zip(whole[2:], rest, strict=True):
        assert (one.update, one.phase) == (two.update, two.phase)
        for mode in one.outcomes:
            assert torch.equal(one.outcomes[mode]["episode_return"], two.outcomes[mode]["episode_return"])
        assert state.keys() == resumed.keys()
        assert all(torch.equal(state[name], resumed[name]) for name in state)
        assert all(torch.equal(one.metrics[name], two.metrics[name]) for name in one.metrics)


def test_evaluation_point_before_shows_the_untrained_policy_one_interval_late():
    after = trained(config(eval_point="after"))
    before = trained(config(eval_point="before"))
    curve_after = [e for e, _ in after if e.phase == "curve"]
    curve_before = [e for e, _ in before if e.phase == "curve"]
    assert [e.update for e in curve_after] == [0, 1, 2]
    assert [e.update for e in curve_before] == [1, 2]
    # training itself is the same: only what is shown differs
    final = after[-1][1], before[-1][1]
    assert torch.equal(final[0]["critic.head.weight"], final[1]["critic.head.weight"])
    # the parameters shown first are the untrained ones
    torch.testing.assert_close(before[0][1]["best.inner.weight"], after[0][1]["actor.inner.weight"])


def test_best_keeps_the_parameters_of_the_best_evaluation():
    result = trained(config(updates=4))
    curve = [(e.outcomes["sampled"]["episode_return"].mean(1), state) for e, state in result if e.phase == "curve"]
    scores = torch.stack([score for score, _ in curve])
    best = result[-1][1]
    for s in range(2):
        winner = max(range(len(curve)), key=lambda i: (scores[i, s].item(), i))
        assert best["run.best_update"][s] == winner
        expected = curve[winner][1]["actor.head.weight"][s]
        assert torch.equal(best["best.head.weight"][s], expected)


def test_all_gradients_flow():
    for network, parameters in KINDS:
        cfg = config(network=network, parameters=parameters, updates=1, ent_coef=0.01)
        (_, start), (_, end) = trained(cfg, 2)
        for name, value in start.items():
            if name.startswith(("actor", "critic")):
                assert not torch.equal(value, end[name]), f"{network} {parameters} {name}"


def test_chunks_keep_the_order_of_time():
    x = torch.arange(12).view(1, 6, 2)  # [S, T, E], numbered by time and environment
    assert mappo.columns(x, 3)[0].T.tolist() == [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11]]
    assert mappo.columns(x, 6)[0].T.tolist() == [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]


@pytest.mark.parametrize("chunk", [0, 5])
def test_a_replayed_rollout_gives_the_probabilities_it_was_played_with(chunk):
    """Before the first gradient step every ratio is 1: hidden states, resets and chunk starts are all in place."""
    cfg = config(network="gru", rollout=120, chunk=chunk, seeds=(0, 1))  # longer than an episode: a reset inside
    env = envs.make(cfg.task, cfg.num_envs, cfg.seeds)
    agents = mappo.Agents(cfg, env.spec, "cpu")
    now = {
        "step": env.reset(),
        "start": torch.ones(2, cfg.num_envs, dtype=torch.bool),
        "actor_memory": agents.blank(cfg.num_envs),
        "critic_memory": torch.zeros(2, cfg.num_envs, agents.critic.memory),
    }
    for update in (1, 2):  # the second rollout begins in mid-episode
        data = mappo.collect(cfg, agents, env, now, update)
        mappo.appraise(cfg, agents, data, now)
    assert data["start"].any()
    assert not data["start"][:, 0].any()
    cut = {name: mappo.columns(x, cfg.steps_per_column) for name, x in data.items()}
    cut["actor_memory"], cut["critic_memory"] = cut["actor_memory"][:, 0], cut["critic_memory"][:, 0]
    metrics = mappo.gradients(cfg, agents, cut)
    assert metrics["kl"].abs().max() < 1e-6
    value, _ = agents.critic(cut["state"], cut["critic_memory"], cut["start"])
    torch.testing.assert_close(value.squeeze(-1), cut["value"], rtol=1e-4, atol=1e-5)


class Countdown:
    """A stub environment: reward 1 a step, cut off after three steps; the state is the step within the episode."""

    def __init__(self, rows):
        self.spec = envs.Spec(1, 2, 1, 1, 3, "episode_return")
        self.rows, self.time = rows, 0

    def reset(self):
        return self.report(ended=False)

    def report(self, ended):
        now = torch.full((self.rows, 1), float(self.time))
        final = torch.full((self.rows, 1), 3.0 if ended else float(self.time))
        flag = torch.full((self.rows,), ended)
        no = torch.zeros(self.rows, dtype=torch.bool)
        return envs.Step(
            obs=now.unsqueeze(1), state=now, available=torch.ones(self.rows, 1, 2, dtype=torch.bool),
            reward=torch.ones(self.rows, 1), terminated=no, truncated=flag, final_obs=final.unsqueeze(1),
            final_state=final, info={"episode_return": torch.full((self.rows,), 3.0)},
        )  # fmt: skip

    def step(self, actions):
        self.time += 1
        ended = self.time == 3
        if ended:
            self.time = 0
        return self.report(ended)


@pytest.mark.parametrize("network", ["mlp", "gru"])
def test_a_time_limit_bootstraps_from_the_final_state(network):
    cfg = config(network=network, rollout=8, num_envs=2)
    env = Countdown(2 * cfg.num_envs)
    agents = mappo.Agents(cfg, env.spec, "cpu")
    now = {
        "step": env.reset(),
        "start": torch.ones(2, cfg.num_envs, dtype=torch.bool),
        "actor_memory": agents.blank(cfg.num_envs),
        "critic_memory": torch.zeros(2, cfg.num_envs, agents.critic.memory),
    }
    data = mappo.collect(cfg, agents, env, now, 1)
    mappo.appraise(cfg, agents, data, dict(now))
    value, target = data["value"], data["target"].squeeze(-1)
    # the critic on the uncut sequence 0, 1, 2, 3 knows what the state after the third step is worth
    line = torch.arange(4.0).view(1, 4, 1, 1).expand(2, 4, cfg.num_envs, 1)
    start = torch.zeros(2, 4, cfg.num_envs, dtype=torch.bool)
    uncut = agents.critic(line, torch.zeros(2, cfg.num_envs, agents.critic.memory), start)[0].squeeze(-1)
    torch.testing.assert_close(value[:, :3], uncut[:, :3])
    torch.testing.assert_close(target[:, 2], 1 + cfg.gamma * uncut[:, 3])
    torch.testing.assert_close(target[:, 5], 1 + cfg.gamma * uncut[:, 3])
    terminal = dataclasses.replace(cfg, bootstrap_time_limit=False)
    mappo.appraise(terminal, agents, data, dict(now))
    torch.testing.assert_close(data["target"][:, 2], torch.ones(2, cfg.num_envs, 1))


def test_play_counts_first_episodes_and_repeats_exactly():
    cfg = config()
    agents = mappo.Agents(cfg, envs.make(cfg.task).spec, "cpu")
    arguments = (agents, cfg.task, {}, cfg.seeds, 6, "test")
    one, two, other = play(*arguments, 0), play(*arguments, 0), play(*arguments, 1)
    assert one["episode_return"].shape == (2, 6)
    assert torch.equal(one["episode_return"], two["episode_return"])
    assert not torch.equal(one["episode_return"], other["episode_return"])


def test_it_learns():
    """Two agents, two actions, targets 0..2: a random player earns about 50, one answer per target about 101."""
    cfg = mappo.Config(
        task="coordsum/2x2-2", env_options={"target_bound": "inclusive", "observe_step": False}, seeds=(0, 1, 2, 3),
        network="mlp", num_envs=16, rollout=50, updates=30, epochs=4, minibatches=2, hidden=32, actor_lr=3e-3,
        critic_lr=3e-3, gae_lambda=0.5, eval_every=30, eval_episodes=32, final_episodes=64,
    )  # fmt: skip
    result = trained(cfg)
    first = result[0][0].outcomes["sampled"]["episode_return"].mean(1)
    last = result[-1][0].outcomes["sampled"]["episode_return"].mean(1)
    assert (first < 75).all()
    assert (last > 95).all()


# ------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("task", sorted(mappo.PAPER))
def test_paper_settings_are_the_authors_rows(task):
    table = published.magpo_params()
    row = table[(table["system_name"] == "mappo") & ("coordsum/" + table["table_1_row"].astype(str) == task)].iloc[0]
    cfg = mappo.configure(task, "paper")
    expected = {
        "minibatches": row["num_minibatches"], "max_grad_norm": row["max_grad_norm"], "epochs": row["ppo_epochs"],
        "clip": row["clip_eps"], "ent_coef": row["ent_coef"], "actor_lr": row["actor_lr"],
        "critic_lr": row["critic_lr"], "updates": row["num_updates"], "num_envs": 2 * float(row["num_envs"]),
    }  # fmt: skip
    for name, value in expected.items():
        assert getattr(cfg, name) == pytest.approx(float(value)), name
    assert (cfg.chunk or cfg.rollout) == int(row["recurrent_chunk_size"])
    assert len(cfg.seeds) == 10
    assert cfg.updates * cfg.steps_per_update == 19_988_480


def test_one_laptop_setting_for_all_tasks():
    settings = [dataclasses.replace(mappo.configure(task, "laptop"), task="") for task in mappo.PAPER]
    assert all(setting == settings[0] for setting in settings)
    assert len(settings[0].seeds) == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "distinct"),
        ({"network": "gru", "chunk": 7}, "chunk"),
        ({"minibatches": 7}, "minibatches"),
        ({"eval_modes": ()}, "eval_modes"),
    ],
)
def test_impossible_settings_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        config(**changes)


def test_unknown_tier():
    with pytest.raises(InputError, match="nearest: laptop"):
        mappo.configure("coordsum/3x10-30", "laptp")


def test_a_loss_that_is_not_finite_stops_with_seed_update_and_term():
    with pytest.raises(Diverged, match=r"seed 5, update 12: value_loss is nan"):
        check_finite({"value_loss": torch.tensor([0.0, float("nan")])}, (3, 5), 12)
    with pytest.raises(Diverged, match="seed 3, update 1"):
        trained(config(actor_lr=float("inf")))


def test_restored_policy_is_the_trained_one():
    cfg = config()
    last, state = trained(cfg)[-2]  # "best"
    best = {name.removeprefix("best."): value for name, value in state.items() if name.startswith("best.")}
    again = play(mappo.restore(cfg, best), cfg.task, {}, cfg.seeds, cfg.final_episodes, "best", last.update)
    assert torch.equal(again["episode_return"], last.outcomes["sampled"]["episode_return"])


def test_streams_of_seeds_are_stable():
    """Guards the archive: if this changes, every record is stale although no setting changed."""
    assert stacked.derive(0, "actor") == stacked.derive(0, "actor", 0)
    assert len({stacked.derive(seed, purpose, i) for seed in range(5) for purpose in "ab" for i in range(5)}) == 50
