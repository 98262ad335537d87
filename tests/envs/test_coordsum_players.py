"""Scripted players: what each is said to do, and what each earns."""

import itertools

import pytest
import torch

from inconcert.config import InputError
from inconcert.envs import make
from inconcert.envs.coordsum import TASKS, sizes
from inconcert.envs.coordsum_players import PLAYERS, complete, feasible, play

EPISODES = 2000

# Mean returns measured once with an independent restatement of the authors' code, 60 episodes each, rounded.
AUTHORS_CODE = {
    "3x10-30": {"random": 6.0, "fixed map": 129, "uniform first": 168, "cycling": 167, "avoiding": 182},
    "3x30-50": {"random": 2.6, "fixed map": 125, "uniform first": 191, "cycling": 191, "avoiding": 198},
    "5x20-80": {"random": 2.3, "fixed map": 116, "uniform first": 192, "cycling": 194, "avoiding": 199},
    "8x15-100": {"random": 1.8, "fixed map": 110, "uniform first": 192, "cycling": 195, "avoiding": 199},
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("player", AUTHORS_CODE["3x10-30"])
def test_returns_under_the_authors_reading(task, player):
    """Within 4 standard errors of the two means together, plus 1 for rounding and unknown detail of the scripts."""
    returns = play(player, f"coordsum/{task}", EPISODES, guess="clamped")
    error = float(returns.std()) * (1 / EPISODES + 1 / 60) ** 0.5
    assert abs(float(returns.mean()) - AUTHORS_CODE[task][player]) < 4 * error + 1


@pytest.mark.parametrize("task", TASKS)
def test_fixed_map_under_the_papers_reading_by_formula(task):
    """A repeated action is guessed from its second showing on, so a target that is shown k > 0 times earns 1 + k.

    Where only action 0 is feasible (target 0) it is guessed at once: k. Expected values over the uniform targets.
    """
    agents, actions, max_target = sizes(task)
    reachable = min(max_target, agents * (actions - 1) + 1)
    seen = 1 - (1 - 1 / max_target) ** 100
    expected = 100 * reachable / max_target + (reachable - 1) * seen
    returns = play("fixed map", f"coordsum/{task}", EPISODES)
    assert abs(float(returns.mean()) - expected) < 4 * float(returns.std()) / EPISODES**0.5


@pytest.mark.parametrize("task", TASKS)
def test_random_hits_as_often_as_it_should(task):
    """The chance that N uniform actions sum to a uniform target, by counting all sums."""
    agents, actions, max_target = sizes(task)
    ways = [1]
    for _ in range(agents):
        ways = [sum(ways[max(0, s - actions + 1) : s + 1]) for s in range(len(ways) + actions - 1)]
    chance = sum(ways[:max_target]) / actions**agents / max_target
    assert_hit_rate("random", task, chance)


@pytest.mark.parametrize("task", TASKS)
def test_independent_hits_as_often_as_the_product_of_marginals(task):
    """For every target, the distribution of the sum of independent agents with the marginals of "uniform first"."""
    agents, actions, max_target = sizes(task)
    chance = 0.0
    for target in range(min(max_target, agents * (actions - 1) + 1)):
        firsts = [first for first in range(actions) if 0 <= target - first <= (agents - 1) * (actions - 1)]
        joint = complete(torch.tensor(firsts), torch.full((len(firsts),), target), agents, actions)
        sums = {0: 1.0}
        for agent in range(agents):
            marginal = joint[:, agent].tolist()
            grown: dict[int, float] = {}
            for total, weight in sums.items():
                for action in marginal:
                    grown[total + action] = grown.get(total + action, 0.0) + weight / len(marginal)
            sums = grown
        chance += sums[target] / max_target
    assert_hit_rate("independent", task, chance)


def assert_hit_rate(player, task, chance):
    env = make(f"coordsum/{task}", num_envs=EPISODES, seed=3)
    generator = torch.Generator().manual_seed(3)
    hits = torch.stack([env.step(PLAYERS[player](env, generator)).info["hit"] for _ in range(100)]).double()
    assert abs(float(hits.mean()) - chance) < 4 * (chance / hits.numel()) ** 0.5


@pytest.mark.parametrize("task", [*TASKS, "2x2-1", "1x5-9", "4x1-3"])
@pytest.mark.parametrize("player", ["fixed map", "uniform first", "cycling", "avoiding"])
def test_those_who_know_hit_whatever_can_be_hit(task, player):
    agents, actions, _ = sizes(task)
    env = make(f"coordsum/{task}", num_envs=50, seed=1, debug=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        reachable = env.target <= agents * (actions - 1)
        step = env.step(PLAYERS[player](env, generator))
        assert torch.equal(step.info["hit"], reachable)


def test_avoiding_is_guessed_only_when_it_must_be():
    env = make("coordsum/3x10-30", num_envs=200, seed=1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        lowest, highest = feasible(env.target, 3, 10)
        guessed = env.step(PLAYERS["avoiding"](env, generator)).info["guessed"]
        assert not guessed[lowest < highest].any()


def test_avoiding_needs_no_telling():
    """From the targets alone, each agent can work out its own action: agent 0's past, the guess, agent 0's choice."""
    env = make("coordsum/3x10-12", num_envs=20, seed=1)
    past = [[] for _ in range(20)]
    for _ in range(100):
        actions = PLAYERS["avoiding"](env, torch.Generator())
        for row, target in enumerate(env.target.tolist()):
            played = [first for seen, first in past[row] if seen == target]
            guess = min(range(10), key=lambda action: (-played.count(action), action))
            options = [first for first in range(10) if 0 <= target - first <= 18]
            first = next((first for first in options if first != guess), options[0])
            assert actions[row].tolist() == complete(torch.tensor([first]), torch.tensor([target]), 3, 10)[0].tolist()
            past[row].append((target, first))
        env.step(actions)


def test_uniform_first_covers_all_feasible_actions_evenly():
    env = make("coordsum/3x10-22", num_envs=40_000, seed=1)
    first = PLAYERS["uniform first"](env, torch.Generator().manual_seed(0))[:, 0]
    for target, allowed in ((21, range(3, 10)), (5, range(0, 6))):
        seen = first[env.target == target]
        counts = torch.bincount(seen, minlength=10).double()
        assert set(seen.tolist()) == set(allowed)
        expected = len(seen) / len(allowed)
        assert ((counts[list(allowed)] - expected).abs() < 5 * expected**0.5).all()


def test_feasible_by_enumeration():
    for agents, actions in ((1, 4), (2, 3), (3, 4)):
        for target in range(agents * (actions - 1) + 1):
            joint = itertools.product(range(actions), repeat=agents)
            firsts = {one[0] for one in joint if sum(one) == target}
            lowest, highest = feasible(torch.tensor([target]), agents, actions)
            assert firsts == set(range(int(lowest), int(highest) + 1))


def test_complete():
    joint = complete(torch.tensor([1, 4, 0]), torch.tensor([9, 4, 14]), 4, 5)
    assert joint.tolist() == [[1, 4, 4, 0], [4, 0, 0, 0], [0, 4, 4, 4]]  # 14 is out of reach: as close as it gets


def test_play_is_repeatable_and_checks_its_input():
    first, again = (play("uniform first", "coordsum/3x10-30", 5, seed=1) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, play("uniform first", "coordsum/3x10-30", 5, seed=2))
    with pytest.raises(InputError, match="unknown player 'uniform'; nearest: uniform first"):
        play("uniform", "coordsum/3x10-30", 5)
