"""Fused policies at play: the parallel form against the paper's protocol, rules that must agree, and what they say."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from inconcert import envs, evaluate, fused, policies, pools, records, stacked
from inconcert.config import InputError
from inconcert.fusion import KalmanFusion, choose

SPREAD, SPEAKER = "mpe/simple_spread", "mpe/simple_speaker_listener"


def untrained(algorithm, task=SPREAD, sharpness=1.0, seeds=(0, 1), **changes):
    """Random policies that are sure enough of themselves to differ; `sharpness` scales their logits."""
    module = records.algorithm_module(algorithm)
    config = module.configure(task, "laptop", "harl", seeds=seeds, hidden=8, critic_hidden=8, **changes)
    actors = module.Learner(config, envs.make(task, 1).spec, "cpu").actors
    torch.manual_seed(len(algorithm))
    torch.nn.init.normal_(actors.network.head.weight, std=sharpness)
    meta = {"task": task, "algorithm": algorithm, "config": dataclasses.asdict(config)}
    return policies.Policy(actors, meta, config.seeds)


def pair(task=SPREAD):
    return [untrained("mappo", task), untrained("hatrpo", task)]


@pytest.mark.parametrize("options", [{}, {"alpha": 0.3, "process_noise": 0.01}, {"update_budget": 30}, {"full": True}])
def test_episodes_side_by_side_are_those_of_the_papers_protocol(options):
    """One slot, the filter carried from step to step and from episode to episode, for each evaluation of 3 episodes."""
    two, rule, episodes, consecutive = pair(), KalmanFusion(5, r2=1.2, **options), 5, 3
    returns = fused.play(two, rule, episodes, consecutive=consecutive)
    streams = [stacked.derive(seed, "fusion test environment") for seed in two[0].seeds]
    for seed in range(2):
        for episode in range(episodes):
            if episode % consecutive == 0:
                state = rule.init(1, 3)
            env = envs.make(SPREAD, episodes, streams, rules="legacy")
            row, step = slice(seed * episodes + episode, seed * episodes + episode + 1), env.reset()
            for _ in range(25):
                said = [one.probabilities(step.obs, step.available)[row] for one in two]
                mixed, state = rule(said[0], said[1], state)
                actions = torch.zeros(2 * episodes, 3, dtype=torch.int64)
                actions[row] = choose(mixed)
                step = env.step(actions)
            state = rule.end_episode(state, torch.tensor([True]))
            assert step.info["team_return"][row].item() == pytest.approx(returns[seed, episode].item(), rel=1e-5)


@pytest.mark.parametrize("task", [SPREAD, SPEAKER])
def test_a_policy_alone_is_the_policy(task):
    """Also where the roles change from seed to seed."""
    two = pair(task)
    singles = [fused.play(two, fused.alone(index), 6) for index in range(2)]
    for index, policy in enumerate(two):
        streams = [stacked.derive(seed, "fusion test environment") for seed in policy.seeds]
        env = envs.make(task, 6, streams, rules="legacy")
        step = env.reset()
        for _ in range(25):
            step = env.step(evaluate.choose(policy.probabilities(step.obs, step.available).log(), None))
        assert torch.equal(step.info["team_return"].view(2, 6), singles[index])
    mixed = fused.play(two, fused.alone(0), 6, order=torch.tensor([[1, 0], [0, 1]]))
    assert torch.equal(mixed, torch.stack([singles[1][0], singles[0][1]]))


def test_a_filter_that_is_never_updated_is_a_constant_weight():
    two = pair()
    returns = fused.play(two, fused.constant(0.4), 8)
    assert torch.equal(returns, fused.play(two, KalmanFusion(5, r2=1.5, update_budget=0, ridge=0.0, clip=0.0), 8))
    assert torch.equal(returns, fused.play(two[::-1], fused.constant(0.6), 8))
    assert not torch.equal(returns, fused.play(two, fused.constant(0.0), 8))
    assert torch.equal(fused.play(two, fused.constant(0.0), 8), fused.play(two, fused.alone(0), 8))


def test_rules_meet_the_same_situations_and_splits_do_not():
    two = pair()

    def first(rule, split):
        return next(fused.moments(two, rule, 4, split)).policies

    assert torch.equal(first(fused.alone(0), "test"), first(pools.max_confidence, "test"))
    assert not torch.equal(first(fused.alone(0), "test"), first(fused.alone(0), "validation"))


def test_filters_that_listen_begin_every_episode_afresh():
    rule = KalmanFusion(5, covariance="innovation")
    state, fresh = fused.begun(rule, torch.tensor([0, 7]), 3, 25), rule.init(2, 3)
    assert all(torch.equal(one, other) for one, other in zip(state, fresh, strict=True))


def test_more_than_two_policies():
    three = [*pair(), untrained("happo")]
    rule = KalmanFusion(5, r2=(1.2, 1.2), update_budget=0)
    assert fused.play(three, rule, 4).shape == (2, 4)
    assert torch.equal(fused.play(three, fused.alone(2), 4), fused.play(three[2:], fused.alone(0), 4))


def test_policies_that_do_not_belong_together_are_refused():
    for other in (untrained("happo", SPEAKER), untrained("happo", seeds=(0, 1, 2))):
        with pytest.raises(InputError, match="the same task, the same rules and equally many seeds"):
            fused.play([untrained("mappo"), other], fused.alone(0), 2)


def test_episodes_of_different_length_count_once_and_whole():
    """Where some end early, against the environment played again until all have ended."""
    task, episodes = "predator_prey/4x1-3", 6
    two = [untrained(name, task, sharpness=3.0) for name in ("mappo", "hatrpo")]
    rule = fused.constant(0.5)
    heard = list(fused.moments(two, rule, episodes))
    env = envs.make(task, episodes, [stacked.derive(seed, "fusion test environment") for seed in two[0].seeds])
    step, lengths, earned = env.reset(), torch.zeros(2 * episodes), torch.zeros(2 * episodes)
    for t, moment in enumerate(heard, start=1):
        torch.testing.assert_close(moment.running, lengths == 0)
        mixed = rule(torch.stack([one.probabilities(step.obs, step.available) for one in two]))
        step = env.step(choose(mixed))
        ended = (step.terminated | step.truncated) & (lengths == 0)
        earned = torch.where(ended, step.info[env.spec.metric].float(), earned)
        lengths = torch.where(ended, float(t), lengths)
    assert len(heard) == lengths.max()
    assert lengths.min() < lengths.max()
    assert torch.equal(fused.play(two, rule, episodes).flatten(), earned)
    assert (earned > 0).any()
    first = list(fused.moments(two, fused.alone(0), episodes, "validation"))
    mean = float(torch.stack([moment.running for moment in first]).float().sum(0).mean())
    assert fused.mean_length(two, episodes) == round(mean)
    said = fused.listen(two, episodes)
    alone = list(fused.moments(two, fused.alone(0), episodes))
    running = torch.stack([moment.running for moment in alone]).unflatten(1, (2, episodes)).movedim(1, 0)
    voices = (
        torch.stack([moment.policies for moment in alone]).unflatten(2, (2, episodes)).movedim(2, 0)
    )  # [S, T, M, E]
    for seed in range(2):
        own = voices[seed].movedim(1, 0)[:, running[seed]]  # [M, moments, N, A]
        torch.testing.assert_close(said.peak[:, seed], own.amax(-1).flatten(1).mean(1))
        assert (own.argmax(-1)[0] != own.argmax(-1)[1]).float().mean() == pytest.approx(
            float(said.disagreement[seed]) * len(said.critical[seed]) / own[0, ..., 0].numel(), abs=1e-6
        )


def test_a_filter_has_seen_earlier_episodes_of_the_given_length():
    two, rule = pair(), KalmanFusion(5, r2=1.2)
    moment = next(fused.moments(two, rule, 4, consecutive=3, length=7))
    state = rule.init(1, 3)
    for _ in range(2 * 7):
        _, state = rule(moment.policies[0][:1], moment.policies[1][:1], state)
    expected, _ = rule(moment.policies[0][2:3], moment.policies[1][2:3], state)
    torch.testing.assert_close(moment.fused[2:3], expected, atol=1e-5, rtol=0)
    assert not torch.allclose(moment.fused[:1], rule(*[one[:1] for one in moment.policies], state)[0], atol=1e-3)


def test_the_stronger_comes_first_for_each_seed():
    scores = torch.tensor([[1.0, 5.0, 2.0], [2.0, 4.0, 2.0]])
    assert fused.stronger_first(scores).tolist() == [[1, 0], [0, 1], [0, 1]]


def test_what_policies_say():
    sharp, flat = untrained("mappo", sharpness=3.0), untrained("mappo", sharpness=0.3)
    same, other = fused.listen([sharp, sharp], 5), fused.listen([sharp, flat], 5)
    assert same.disagreement.tolist() == [0, 0]
    assert same.divergence.tolist() == pytest.approx([0, 0], abs=1e-6)
    assert all(one.isinf().all() for one in same.critical)
    assert (other.peak[0] > other.peak[1]).all()
    assert (other.entropy[0] < other.entropy[1]).all()
    torch.testing.assert_close(other.ranked.sum(2), torch.ones(2, 2))
    torch.testing.assert_close(other.ranked[..., 0], other.peak)
    assert ((other.divergence > 0) & (other.divergence < np.log(2))).all()
    assert [one.shape for one in other.critical] == [(25 * 5 * 3,)] * 2


def test_what_a_seed_says_is_its_own():
    sharp, flat = untrained("mappo", sharpness=3.0), untrained("mappo", sharpness=0.3)
    first = fused.listen([sharp, flat], 4, order=torch.tensor([[0, 1], [1, 0]]))
    assert first.peak[0, 0] > first.peak[1, 0]  # the sharp one is the primary of the first seed only
    assert first.peak[0, 1] < first.peak[1, 1]


def test_a_speaker_who_may_choose_counts_and_a_silent_action_does_not():
    said = fused.listen(pair(SPEAKER), 3)
    assert [one.shape for one in said.critical] == [(25 * 3 * 2,)] * 2
    assert (said.ranked[..., 3:].sum(-1) < said.ranked[..., :3].sum(-1)).all()


def curve(values, keep):
    """A record whose greedy curve has these values, an evaluation every 10 updates."""
    rows = [
        {"seed": seed, "update": 10 * i, "env_steps": i, "phase": "curve", "mode": "greedy", "team_return": one + sign}
        for i, one in enumerate(values) for seed, sign in enumerate((-1.0, 1.0))
    ]  # fmt: skip
    meta = {"config": {"keep": keep, "updates": 10 * (len(values) - 1)}, "algorithm": "mappo"}
    return records.Record(pd.DataFrame(rows), meta, None)


def test_halted_early(monkeypatch):
    """Progress from -100 to -60; smoothed over three evaluations, nine tenths of it are first there after the sixth."""
    values = [-100, -90, -80, -70, -63, -61, -60, -60, -60, -60, -60]
    monkeypatch.setattr(records, "load", lambda *arguments: curve(values, list(range(10, 101, 10))))
    assert fused.early(SPREAD, "mappo", "harl") == 50
    assert fused.early(SPREAD, "mappo", "harl", share=0.5) == 20
    assert fused.early(SPREAD, "mappo", "harl", share=1.0) == 70
    monkeypatch.setattr(records, "load", lambda *arguments: curve(values, [10, 30]))
    assert fused.early(SPREAD, "mappo", "harl") == 30
    with pytest.raises(InputError, match="share must be in"):
        fused.early(SPREAD, "mappo", "harl", share=0.0)
    monkeypatch.setattr(records, "load", lambda *arguments: curve(values, []))
    with pytest.raises(InputError, match="kept no policy"):
        fused.early(SPREAD, "mappo", "harl")
