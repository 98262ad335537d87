"""The batched CoordSum against the slow literal one, and what that does not cover: targets and observations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inconcert.config import InputError
from inconcert.envs import make
from inconcert.envs.coordsum import GUESSES, TASKS, sizes
from inconcert.envs.coordsum_players import complete, feasible
from inconcert.envs.coordsum_reference import Referee

READINGS = [(guess, bound) for guess in GUESSES for bound in ("exclusive", "inclusive")]


def mixed_actions(env, generator):
    """Joint actions that make every case common: a third random; the others hit, agent 0 preferring low actions."""
    rows, num_agents, num_actions = env.num_envs, env.spec.num_agents, env.spec.num_actions
    lowest, highest = feasible(env.target, num_agents, num_actions)
    skewed = torch.rand(rows, generator=generator) ** 3
    hits = complete(lowest + (skewed * (highest - lowest + 1)).long(), env.target, num_agents, num_actions)
    misses = torch.randint(num_actions, (rows, num_agents), generator=generator)
    return torch.where(torch.rand(rows, 1, generator=generator) < 1 / 3, misses, hits)


def mismatches(env, guess, episodes_in_turn, seed):
    """Play and return (row steps compared, differences found, step rewards seen)."""
    generator = torch.Generator().manual_seed(seed)
    rewards, compared, wrong = set(), 0, []
    step = env.reset()
    for _ in range(episodes_in_turn):
        referees = [Referee(env.spec.num_actions, guess) for _ in range(env.num_envs)]
        totals = [0.0] * env.num_envs
        for time in range(100):
            targets, guesses, actions = env.target.tolist(), env.guess.tolist(), mixed_actions(env, generator)
            obs = step.obs.tolist()
            step = env.step(actions)
            for row, referee in enumerate(referees):
                verdict = referee.judge(targets[row], actions[row].tolist())
                totals[row] += verdict.reward
                got = (
                    step.reward[row].tolist(),
                    bool(step.info["hit"][row]),
                    guesses[row],
                    bool(step.info["guessed"][row]),
                    float(step.info["episode_return"][row]),
                    bool(step.terminated[row]),
                    obs[row],
                )
                due = (
                    [verdict.reward] * env.spec.num_agents,
                    verdict.hit,
                    verdict.guess,
                    guess != "never" and verdict.guess == int(actions[row, 0]),
                    totals[row],
                    time == 99,
                    [[targets[row], time]] * env.spec.num_agents,
                )
                rewards.add(verdict.reward)
                compared += 1
                if got != due:
                    wrong.append((time, row, got, due))
    return compared, wrong, rewards


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("guess", "bound"), READINGS)
def test_equals_the_literal_reference(task, guess, bound):
    """24 tasks and readings x 24 episodes, every step: reward, hit, guess, running return, end, observation."""
    env = make(f"coordsum/{task}", num_envs=12, seed=11, guess=guess, target_bound=bound)
    compared, wrong, rewards = mismatches(env, guess, episodes_in_turn=2, seed=5)
    assert wrong == []
    assert compared == 2400
    assert rewards == ({0.0, 2.0} if guess == "never" else {0.0, 1.0, 2.0})


@settings(max_examples=40, deadline=None)
@given(
    agents=st.integers(1, 6),
    actions=st.integers(1, 12),
    max_target=st.integers(1, 40),
    reading=st.sampled_from(READINGS),
    seed=st.integers(0, 2**32),
)
def test_other_sizes_equal_the_literal_reference(agents, actions, max_target, reading, seed):
    guess, bound = reading
    task = f"coordsum/{agents}x{actions}-{max_target}"
    env = make(task, num_envs=2, seed=seed, guess=guess, target_bound=bound)
    assert mismatches(env, guess, episodes_in_turn=2, seed=seed)[1] == []


@pytest.mark.parametrize("actions", [256, 257, 1024])
def test_many_actions_equal_the_literal_reference(actions):
    """Beyond 256 actions the record needs wider integers."""
    env = make(f"coordsum/2x{actions}-3", num_envs=2, seed=1)
    assert mismatches(env, "per_target", episodes_in_turn=1, seed=1)[1] == []


@pytest.mark.parametrize("actions", [2, 256, 257, 1024])
def test_record_counts_up_to_the_whole_episode(actions):
    """One target; the last action 51 times, then the first one: the guess must not change, so counts are exact."""
    env = make(f"coordsum/2x{actions}-1", num_envs=1, debug=True)
    for time in range(100):
        assert env.guess.item() == (actions - 1 if time > 0 else 0)
        env.step(torch.tensor([[actions - 1 if time < 51 else 0, 0]]))


def test_by_hand():
    """Target 0 in a two-agent game with the paper's rules, worked out on paper."""
    env = make("coordsum/2x3-1", num_envs=1, debug=True)
    env.reset()
    played = [(0, 0), (1, 0), (1, 0), (0, 0), (0, 0), (0, 0)]
    # guess:    0       0       0       1       0       0      (two each before the fifth: the lower one)
    rewards = [float(env.step(torch.tensor([pair])).reward[0, 0]) for pair in played]
    assert rewards == [1.0, 0.0, 0.0, 2.0, 1.0, 1.0]


@pytest.mark.parametrize(("bound", "largest"), [("exclusive", 29), ("inclusive", 30)])
def test_targets_are_uniform(bound, largest):
    """Range, frequencies (chi-square at 5 sigma) and independence of consecutive targets."""
    env = make("coordsum/3x10-30", num_envs=500, seed=2, target_bound=bound)
    actions = torch.zeros(500, 3, dtype=torch.long)
    targets = []
    env.reset()
    for _ in range(300):
        targets.append(env.target)
        env.step(actions)
    drawn = torch.stack(targets)
    counts = torch.bincount(drawn.flatten()).double()
    assert len(counts) == largest + 1
    assert counts.min() > 0
    expected = drawn.numel() / (largest + 1)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - largest) < 5 * (2 * largest) ** 0.5
    for lag in (1, 100):
        pair = torch.stack([drawn[:-lag].flatten(), drawn[lag:].flatten()]).double()
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 5 / pair.shape[1] ** 0.5


def test_observation_state_and_target():
    env = make("coordsum/5x20-80", num_envs=3, seed=4)
    actions = torch.zeros(3, 5, dtype=torch.long)
    step = env.reset()
    assert (env.spec.obs_size, env.spec.state_size, env.spec.episode_limit) == (2, 2, 100)
    for time in range(250):
        assert env.time == time % 100
        assert env.target.dtype == torch.int64
        assert torch.equal(step.state[:, 0], env.target.float())
        assert (step.state[:, 1] == time % 100).all()
        assert torch.equal(step.obs, step.state[:, None].expand(-1, 5, -1))
        assert step.available.all()
        step = env.step(actions)
        assert bool(step.terminated.all()) == bool(step.terminated.any()) == (time % 100 == 99)
        assert not step.truncated.any()
        assert (step.final_state[:, 1] == time % 100 + 1).all()
        assert torch.equal(step.final_obs, step.final_state[:, None].expand(-1, 5, -1))


def test_the_target_after_the_last_step_is_drawn_too():
    """The final observation's target is a draw of its own: not the last one, not the first of the next episode."""
    env = make("coordsum/3x10-1000", num_envs=200, seed=4)
    env.reset()
    for _ in range(100):
        last = env.target
        step = env.step(torch.zeros(200, 3, dtype=torch.long))
    assert (step.final_state[:, 0] == last).float().mean() < 0.1
    assert (step.final_state[:, 0] == env.target).float().mean() < 0.1
    assert step.final_state[:, 0].max() < 1000


def test_without_the_step_count():
    with_step, without = (make("coordsum/3x10-30", num_envs=4, seed=3, observe_step=flag) for flag in (True, False))
    assert (without.spec.obs_size, without.spec.state_size) == (1, 1)
    assert torch.equal(without.reset().obs, with_step.reset().obs[..., :1])


@pytest.mark.parametrize("bound", ["exclusive", "inclusive"])
@pytest.mark.parametrize("observe_step", [True, False])
def test_ordinal_code(bound, observe_step):
    """One-hot, thermometer and the share of the episode played, by hand from the integer observation."""
    options = {"target_bound": bound, "num_envs": 3, "seed": 7}
    plain = make("coordsum/3x10-30", **options)
    coded = make("coordsum/3x10-30", **options, code="ordinal", observe_step=observe_step)
    levels = 31 if bound == "inclusive" else 30
    assert coded.spec.obs_size == coded.spec.state_size == 2 * levels + observe_step
    for _ in range(150):
        seen, got = plain.observe().state.tolist(), coded.observe()
        for row, (target, played) in enumerate(seen):
            due = [float(level == target) for level in range(levels)]
            due += [0.3 if level <= target else 0.0 for level in range(levels)]
            due += [played / 100] if observe_step else []
            assert got.state[row].tolist() == pytest.approx(due)
            assert all(torch.equal(got.obs[row, agent], got.state[row]) for agent in range(3))
        actions = torch.randint(10, (3, 3))
        plain.step(actions)
        coded.step(actions)


def test_options_do_not_change_the_targets():
    """So that readings can be compared on the same episodes."""
    variants = [
        {}, {"guess": "clamped"}, {"guess": "never"}, {"code": "ordinal"}, {"observe_step": False}, {"debug": True}
    ]  # fmt: skip
    made = [make("coordsum/3x10-30", num_envs=4, seed=3, **options) for options in variants]
    for _ in range(120):
        assert all(torch.equal(env.target, made[0].target) for env in made)
        for env in made:
            env.step(torch.zeros(4, 3, dtype=torch.long))


@pytest.mark.parametrize(("action", "name"), [(10, "10"), (-1, "-1")])
def test_illegal_action_is_named(action, name):
    env = make("coordsum/3x10-30", num_envs=4, debug=True)
    actions = torch.zeros(4, 3, dtype=torch.long)
    actions[2, 1] = action
    with pytest.raises(InputError, match=rf"illegal action {name} of agent 1 in row 2; valid: 0\.\.9"):
        env.step(actions)
    assert env.time == 0


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_narrow_integer_actions(dtype):
    wide, narrow = (make("coordsum/8x15-100", num_envs=16, seed=5) for _ in range(2))
    generator = torch.Generator().manual_seed(5)
    for _ in range(100):
        actions = mixed_actions(wide, generator)
        assert torch.equal(wide.step(actions).reward, narrow.step(actions.to(dtype)).reward)


def test_sizes_of_the_papers_tasks():
    assert [sizes(task) for task in TASKS] == [(3, 10, 30), (3, 30, 50), (5, 20, 80), (8, 15, 100)]
