"""What on-policy algorithms share: losses by hand, rollouts, minibatches, evaluation, settings; run through MAPPO."""

import dataclasses
import math

import pytest
import torch
from common import TINY, trained

from inconcert import envs, onpolicy, stacked
from inconcert.algorithms import mappo
from inconcert.config import InputError
from inconcert.evaluate import Diverged, check_finite, choose, masked_log_softmax, play
from inconcert.records import algorithm_module


def config(**changes):
    return mappo.Config(**{**TINY, "hidden": 16, "critic_hidden": 16, "network": "mlp", **changes})


# -------------------------------------------------------------------------------------------------------------- losses


def test_advantages_against_the_definition():
    """Sum of discounted errors up to the end of the episode, written as the double sum of the paper's Eq 16."""
    torch.manual_seed(0)
    shape, gamma, lam = (2, 7, 3), 0.9, 0.8
    reward, value, next_value = torch.randn(*shape, 2), torch.randn(shape), torch.randn(shape)
    ended = torch.rand(shape) < 0.3
    terminated = ended & (torch.rand(shape) < 0.5)
    assert terminated.any()
    assert (ended & ~terminated).any()
    result = onpolicy.advantages(reward, value.unsqueeze(-1), next_value.unsqueeze(-1), terminated, ended, gamma, lam)
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
    loss = onpolicy.clipped_surrogate(
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
    assert onpolicy.clipped_value_error(*one, 0.1).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "old", "target", "expected"),
    [(3.0, 3.0, 5.0, 2.0), (3.0, 3.0, 9.0, 16.0), (9.0, 3.0, 4.0, 12.0), (3.0, 9.0, 4.0, 8.8)],
)
def test_large_value_errors_count_in_proportion(value, old, target, expected):
    """Half the square up to 4, then 4 x (size - 2), whichever of plain and clipped is larger."""
    one = [torch.tensor([[x]]) for x in (value, old, target)]

    def huber(error):
        return 0.5 * error**2 if abs(error) <= 4 else 4 * (abs(error) - 2)

    clipped = old + max(-0.8, min(0.8, value - old))
    assert expected == pytest.approx(max(huber(value - target), huber(clipped - target)), rel=1e-6)
    assert onpolicy.clipped_value_error(*one, 0.8, 4.0).item() == pytest.approx(expected)
    plain = onpolicy.clipped_value_error(*one, 0.8).item()
    assert onpolicy.clipped_value_error(*one, 0.8, 100.0).item() == pytest.approx(plain)


def test_value_norm_is_the_mean_and_deviation_of_all_targets():
    """HARL's averages decay so slowly that ten updates are as good as one average over their targets, seed by seed."""
    torch.manual_seed(0)
    scale = onpolicy.ValueNorm(2, on=True)
    scales, shifts = torch.tensor([3.0, 50.0]).view(2, 1, 1, 1), torch.tensor([-7.0, 900.0]).view(2, 1, 1, 1)
    targets = [scales * torch.randn(2, 20, 4, 3) + shifts + i for i in range(10)]
    for target in targets:
        data = {"value": torch.zeros(2, 20, 4, 1), "target": target}
        scale.fit(data, steps=5)
    together = torch.stack(targets, 1).flatten(1)
    value = torch.tensor([[[[1.0]]], [[[-2.0]]]])
    expected = together.mean(1).view(2, 1, 1, 1) + together.std(1).view(2, 1, 1, 1) * value
    torch.testing.assert_close(scale.real(value), expected, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(scale.normal(scale.real(value)), value, rtol=1e-4, atol=1e-4)


def test_value_norm_turns_old_values_by_the_old_scale_and_targets_by_the_new():
    """The critic's own prediction comes back as it was; the targets are seen after they have been counted."""
    scale = onpolicy.ValueNorm(1, on=True)
    scale.fit({"value": torch.zeros(1, 2), "target": torch.tensor([[10.0, 30.0]])}, 1)
    predicted = torch.tensor([[0.5, -1.0]])
    data = {"value": scale.real(predicted), "target": torch.tensor([[50.0, 70.0]])}
    scale.fit(data, 1)
    torch.testing.assert_close(data["value"], predicted)
    mean, deviation = 40.0, 500**0.5  # of 10, 30, 50, 70
    expected = (torch.tensor([[50.0, 70.0]]) - mean) / deviation
    torch.testing.assert_close(data["target"], expected, rtol=1e-3, atol=1e-3)


def test_value_norm_switched_off_changes_nothing():
    scale, data = onpolicy.ValueNorm(2, on=False), {"value": torch.randn(2, 3), "target": torch.randn(2, 3)}
    before = dict(data)
    scale.fit(data, 5)
    assert all(data[name] is before[name] for name in data)
    assert scale.real(data["value"]) is data["value"]


def test_losses_do_not_mix_seeds():
    logs, advantage = torch.randn(2, 5), torch.randn(2, 5)
    both = onpolicy.clipped_surrogate(logs, torch.zeros(2, 5), advantage, 0.2)
    for s in range(2):
        alone = onpolicy.clipped_surrogate(logs[s : s + 1], torch.zeros(1, 5), advantage[s : s + 1], 0.2)
        torch.testing.assert_close(both[s : s + 1], alone)
    normal = onpolicy.normalise(advantage)
    torch.testing.assert_close(normal.mean(1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(normal.std(1, correction=0), torch.ones(2))


def test_entropy_counts_only_available_actions():
    logits = torch.zeros(1, 2, 4, requires_grad=True)
    available = torch.tensor([[[True] * 4, [True, False, True, False]]])
    value = onpolicy.entropy(masked_log_softmax(logits, available))
    assert value.item() == pytest.approx((math.log(4) + math.log(2)) / 2)
    value.backward()
    assert torch.isfinite(logits.grad).all()


# ------------------------------------------------------------------------------------------------------------ choosing


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


# --------------------------------------------------------------------------------------------------------- evaluations


def test_evaluation_point_before_shows_the_untrained_policy_one_interval_late():
    after = trained(mappo, config(eval_point="after"))
    before = trained(mappo, config(eval_point="before"))
    curve_after = [e for e, _ in after if e.phase == "curve"]
    curve_before = [e for e, _ in before if e.phase == "curve"]
    assert [e.update for e in curve_after] == [0, 1, 2]
    assert [e.update for e in curve_before] == [1, 2]
    # training itself is the same: only what is shown differs
    final = after[-1][1], before[-1][1]
    assert torch.equal(final[0]["network-critic.head.weight"], final[1]["network-critic.head.weight"])
    # the parameters shown first are the untrained ones
    torch.testing.assert_close(before[0][1]["best.inner.weight"], after[0][1]["network-actor.inner.weight"])


def test_best_keeps_the_parameters_of_the_best_evaluation():
    result = trained(mappo, config(updates=4))
    curve = [(e.outcomes["sampled"]["episode_return"].mean(1), state) for e, state in result if e.phase == "curve"]
    scores = torch.stack([score for score, _ in curve])
    best = result[-1][1]
    for s in range(2):
        winner = max(range(len(curve)), key=lambda i: (scores[i, s].item(), i))
        assert best["run.best_update"][s] == winner
        expected = curve[winner][1]["network-actor.head.weight"][s]
        assert torch.equal(best["best.head.weight"][s], expected)


def test_play_counts_first_episodes_and_repeats_exactly():
    cfg = config()
    player = mappo.Learner(cfg, envs.make(cfg.task).spec, "cpu")
    arguments = (player, cfg.task, {}, cfg.seeds, 6, "test")
    one, two, other = play(*arguments, 0), play(*arguments, 0), play(*arguments, 1)
    assert one["episode_return"].shape == (2, 6)
    assert torch.equal(one["episode_return"], two["episode_return"])
    assert not torch.equal(one["episode_return"], other["episode_return"])


def test_restored_policy_is_the_trained_one():
    cfg = config()
    last, state = trained(mappo, cfg)[-2]  # "best"
    best = {name.removeprefix("best."): value for name, value in state.items() if name.startswith("best.")}
    again = play(mappo.restore(cfg, best), cfg.task, {}, cfg.seeds, cfg.final_episodes, "best", last.update)
    assert torch.equal(again["episode_return"], last.outcomes["sampled"]["episode_return"])


# ------------------------------------------------------------------------------------------------------------ rollouts


def test_chunks_keep_the_order_of_time():
    x = torch.arange(12).view(1, 6, 2)  # [S, T, E], numbered by time and environment
    assert onpolicy.columns(x, 3)[0].T.tolist() == [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11]]
    assert onpolicy.columns(x, 6)[0].T.tolist() == [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]


def test_minibatches_are_a_partition_and_keep_what_belongs_together():
    cfg = config(network="gru", chunk=5, minibatches=4, epochs=3)
    steps = torch.arange(20).view(1, 20, 1).expand(2, 20, 4) + 100 * torch.arange(4)  # environment and time
    data = {"step": steps, "memory": steps[:, ::5]}
    seen = list(onpolicy.minibatches(cfg, data, 1, ("memory",)))
    assert len(seen) == 12
    for epoch in range(3):
        batches = seen[4 * epoch : 4 * epoch + 4]
        drawn = torch.cat([b["step"] for b in batches], dim=2)  # [S, c, C]
        for s in range(2):
            assert sorted(drawn[s].flatten().tolist()) == sorted(steps[s].flatten().tolist())
        for b in batches:
            assert (b["step"][:, 1:] - b["step"][:, :-1] == 1).all()
            assert torch.equal(b["step"][:, 0], b["memory"])
    assert not torch.equal(seen[0]["step"], seen[4]["step"])


class Countdown:
    """A stub environment: reward 1 a step, cut off after three steps; the state is the step within the episode."""

    def __init__(self, rows):
        self.spec = envs.Spec(1, 2, 1, 1, 3, "episode_return")
        self.rows, self.time, self.device = rows, 0, torch.device("cpu")

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
    for bootstrap in (True, False):
        cfg = dataclasses.replace(cfg, bootstrap_time_limit=bootstrap)
        env = Countdown(2 * cfg.num_envs)
        learner = mappo.Learner(cfg, env.spec, "cpu")
        now = {"step": env.reset(), "start": torch.ones(2, 2, dtype=torch.bool), **learner.memories(2)}
        data = onpolicy.collect(learner, env, now, 1)
        value, target = data["value"].squeeze(-1), data["target"].squeeze(-1)
        # the critic on the uncut sequence 0, 1, 2, 3 knows what the state after the third step is worth
        line = torch.arange(4.0).view(1, 4, 1, 1).expand(2, 4, cfg.num_envs, 1)
        start = torch.zeros(2, 4, cfg.num_envs, dtype=torch.bool)
        blank = torch.zeros(2, cfg.num_envs, learner.critic.memory)
        uncut = learner.critic(line, blank, start).squeeze(-1)
        torch.testing.assert_close(value[:, :3], uncut[:, :3])
        for last in (2, 5):
            expected = 1 + cfg.gamma * uncut[:, 3] if bootstrap else torch.ones(2, cfg.num_envs)
            torch.testing.assert_close(target[:, last], expected)


def test_nothing_is_learnt_from_a_step_that_was_cut_off():
    """Its advantage is 0 and its target its value; the step before it is judged by that value, and by nothing later."""
    cfg = config(rollout=8, num_envs=2, judge_time_limit=False, bootstrap_time_limit=False)
    env = Countdown(2 * cfg.num_envs)
    learner = mappo.Learner(cfg, env.spec, "cpu")
    now = {"step": env.reset(), "start": torch.ones(2, 2, dtype=torch.bool), **learner.memories(2)}
    data = onpolicy.collect(learner, env, now, 1)
    value, target, advantage = (data[name].squeeze(-1) for name in ("value", "target", "advantage"))
    for last in (2, 5):
        assert torch.equal(advantage[:, last], torch.zeros(2, 2))
        assert torch.equal(target[:, last], value[:, last])
        torch.testing.assert_close(target[:, last - 1], 1 + cfg.gamma * value[:, last])
    assert (advantage[:, :2] != 0).all()


# ------------------------------------------------------------------------------------------------------------ settings


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
        trained(mappo, config(actor_lr=float("inf")))


def test_environment_options_of_tier_variant_and_changes_are_merged():
    small = mappo.configure("coordsum/3x10-30", "laptop", "clamped", env_options={"target_bound": "inclusive"})
    assert small.env_options == {
        "code": "ordinal", "guess": "clamped", "observe_step": False, "target_bound": "inclusive",
    }  # fmt: skip
    assert mappo.configure("coordsum/3x10-30", "laptop", "clamped-integer").env_options["code"] == "integer"
    assert mappo.configure("coordsum/3x10-30", "paper").env_options == {}


@pytest.mark.parametrize("name", ["mappo", "happo", "hatrpo"])
def test_the_base_policies_of_fusion_have_harls_settings(name):
    """Variant `harl`: whatever the tier and task, HARL's networks and targets; on particle worlds its budget too."""
    module = algorithm_module(name)
    for tier in ("smoke", "laptop", "paper"):
        own = module.configure("mpe/simple_spread", tier, "harl")
        assert (own.gae_lambda, own.clip, own.max_grad_norm, own.huber) == (0.95, 0.2, 10.0, 10.0)
        assert own.layer_norm
        assert own.value_norm
        assert (own.one_hot_id, own.judge_time_limit, own.bootstrap_time_limit) == (False, False, False)
        assert own.eval_modes[0] == "greedy"
    paper = module.configure("mpe/simple_spread", "paper", "harl")
    assert (paper.updates * paper.steps_per_update, paper.gamma, paper.hidden) == (10_000_000, 0.99, 128)
    assert paper.env_options == {"rules": "legacy"}
    assert paper.keep == tuple(range(10, 101, 10))
    assert "rules" not in module.configure("coordsum/3x10-30", "laptop", "harl").env_options
    parts = module.configure("mpe/simple_speaker_listener", "laptop", "harl")
    assert getattr(parts, "parameters", "separate") == "separate"
    assert getattr(module.configure("mpe/simple_spread", "laptop", "harl"), "parameters", "shared") == "shared"
    for task in ("mpe/simple_speaker_listener", "smax/3s5z"):  # a reader's own begins there
        own = module.configure(task, "laptop", "harl-longer", updates=7)
        assert own == module.configure(task, "laptop", "harl", updates=7)


@pytest.mark.parametrize(
    ("scenario", "steps", "decays"),
    [("3_vs_1_with_keeper", 25, True), ("run_pass_and_shoot_with_keeper", 25, False), ("counterattack_hard", 50, True)],
)
@pytest.mark.parametrize("name", ["mappo", "happo"])
def test_footballs_parents_have_harls_budget(name, scenario, steps, decays):
    """Million steps of each seed, and whether the learning rate falls, by HARL's tuned configurations."""
    paper, laptop = (
        algorithm_module(name).configure(f"football/academy_{scenario}", tier, "harl") for tier in ("paper", "laptop")
    )
    assert paper.updates * paper.steps_per_update == steps * 1_000_000
    assert (paper.num_envs, paper.epochs, paper.minibatches, paper.hidden) == (50, 15, 2, 64)
    assert paper.decay_lr == decays
    for own in (paper, laptop):
        assert (own.env_options, own.gamma, own.ent_coef) == ({"share": "first"}, 0.99, 0.01)
        assert own.updates % own.eval_every == 0  # the last point of the curve is the last policy
    assert laptop.updates * laptop.steps_per_update < 0.01 * paper.updates * paper.steps_per_update


def test_streams_of_seeds_are_stable():
    """Guards the archive: if this changes, every record is stale although no setting changed."""
    assert stacked.derive(0, "actor") == stacked.derive(0, "actor", 0)
    assert len({stacked.derive(seed, purpose, i) for seed in range(5) for purpose in "ab" for i in range(5)}) == 50
