"""The batched stag hunt against the slow literal one, and what that leaves open: chance, masks, scripted returns."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inconcert.config import InputError
from inconcert.envs import make
from inconcert.envs.batched import distinct
from inconcert.envs.predator_prey import ACTIONS, CATCH, STAY, TASKS, sizes
from inconcert.envs.predator_prey_players import PLAYERS, play
from inconcert.envs.predator_prey_reference import Hunt


def keen(step, generator):
    """Random legal actions; an agent who may catch mostly does, or few catches would ever be seen."""
    rows, agents, actions = step.available.shape
    weight = step.available.float()
    weight[:, :, CATCH] *= 12
    return torch.multinomial(weight.view(-1, actions), 1, generator=generator).view(rows, agents)


def careless(step, generator):
    """Any action, legal or not."""
    return torch.randint(step.available.shape[2], step.available.shape[:2], generator=generator)


def differences(task, steps, copies, seed, player=keen, **options):
    """Play both worlds; returns (row steps compared, differences, how often each reward and each ending was seen)."""
    agents, stags, side = sizes(task)
    hares = options.get("hares", 0)
    env = make(f"predator_prey/{task}", num_envs=copies, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    starts = 2 * (stags + hares) + agents
    rules = {name: value for name, value in options.items() if name != "hares"}
    # the first episodes start with numbers that are gone: abandon them, and know those of the next
    noise = env.noise.tolist()
    step = env.reset()
    hunts = [Hunt(row[starts:], agents, stags, hares, side, **rules) for row in noise]
    wrong, seen = [], Counter()
    for time in range(steps):
        actions, noise = player(step, generator), env.noise.tolist()
        step = env.step(actions)
        for row, hunt in enumerate(hunts):
            reward = hunt.step(actions[row].tolist(), noise[row])
            seen[reward] += 1
            ended = hunt.terminated or hunt.truncated
            seen["terminated" if hunt.terminated else "truncated" if hunt.truncated else "going on"] += 1
            sights = [hunt.observe(agent) for agent in range(agents)], hunt.state()
            due = (
                [reward] * agents,
                hunt.terminated,
                hunt.truncated,
                hunt.total,
                hunt.steps,
                sum(cell is None for cell in hunt.prey),
                *sights,
            )
            got = (
                step.reward[row].tolist(),
                bool(step.terminated[row]),
                bool(step.truncated[row]),
                pytest.approx(float(step.info["episode_return"][row])),
                int(step.info["episode_length"][row]),
                int(step.info["captured"][row]),
                step.final_obs[row].tolist(),
                step.final_state[row].tolist(),
            )
            if ended:
                hunts[row] = hunt = Hunt(noise[row][starts:], agents, stags, hares, side, **rules)
                sights = [hunt.observe(agent) for agent in range(agents)], hunt.state()
            due += (
                *sights,
                [hunt.legal(agent) for agent in range(agents)],
                [list(cell or (-1, -1)) for cell in hunt.agents],
                [list(cell or (-1, -1)) for cell in hunt.prey],
            )
            got += (
                step.obs[row].tolist(),
                step.state[row].tolist(),
                step.available[row].tolist(),
                env.agents[row].tolist(),
                env.prey[row].tolist(),
            )
            if got != due:
                wrong.append((time, row, got, due))
    return steps * copies, wrong, seen


@pytest.mark.parametrize("player", [keen, careless])
@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("8x8-10", {}),
        ("8x8-10", {"punishment": 2.0, "observe_walls": True}),
        ("4x4-10", {"hares": 3, "view": 1}),
        ("4x4-5", {"punishment": 1.5, "episode_limit": 50}),
        ("6x3-4", {"hares": 2, "view": 3, "observe_walls": True, "episode_limit": 30}),
    ],
)
def test_equals_the_literal_reference(task, options, player):
    compared, wrong, seen = differences(task, steps=120, copies=6, seed=3, player=player, **options)
    assert wrong == []
    assert compared == 720
    assert seen[10.0] > 0
    if player is keen:
        assert seen[-options.get("punishment", 0.0)] > 0
        assert seen["terminated"] > 0 or task.endswith("-10"), "small grids are cleared"


def test_the_time_limit_cuts():
    _, wrong, seen = differences("8x8-10", steps=201, copies=6, seed=4, player=careless)
    assert wrong == []
    assert seen["truncated"] == 6


@settings(max_examples=25, deadline=None)
@given(
    agents=st.integers(1, 6),
    stags=st.integers(1, 5),
    hares=st.integers(0, 3),
    side=st.integers(4, 7),
    view=st.integers(1, 3),
    walls=st.booleans(),
    punishment=st.sampled_from([0.0, 1.0, 2.0]),
    limit=st.integers(1, 30),
    seed=st.integers(0, 2**32),
    player=st.sampled_from([keen, careless]),
)
def test_other_sizes_equal_the_literal_reference(
    agents, stags, hares, side, view, walls, punishment, limit, seed, player
):
    options = {"hares": hares, "view": view, "observe_walls": walls, "punishment": punishment, "episode_limit": limit}
    _, wrong, _ = differences(f"{agents}x{stags}-{side}", 40, 2, seed, player, **options)
    assert wrong == []


@settings(max_examples=25, deadline=None)
@given(task=st.sampled_from([*TASKS, "2x3-3"]), seed=st.integers(0, 2**32))
def test_masks_say_what_can_be_done(task, seed):
    """Legal walks never leave the grid, catch is legal exactly beside an animal, who has left can only stay."""
    env = make(f"predator_prey/{task}", num_envs=6, seed=seed, debug=True)
    generator = torch.Generator().manual_seed(seed)
    side, step = sizes(task)[2], env.observe()
    for _ in range(60):
        agents, prey = env.agents, env.prey
        gone = (agents < 0).all(2)
        assert step.available[..., STAY].all()
        assert (step.available[gone].sum(1) == 1).all()
        steps = torch.tensor([[0, 1], [1, 0], [0, -1], [-1, 0]])
        target = agents.unsqueeze(2) + steps
        inside = ((target >= 0) & (target < side)).all(3)
        assert torch.equal(step.available[..., :STAY], inside & ~gone.unsqueeze(2))
        distance = (agents.unsqueeze(2) - prey.unsqueeze(1)).abs().sum(3)
        beside = ((distance == 1) & (prey >= 0).all(2).unsqueeze(1)).any(2)
        assert torch.equal(step.available[..., CATCH], beside & ~gone)
        step = env.step(keen(step, generator))


def test_nobody_shares_a_cell_and_animals_walk_one_cell():
    env = make("predator_prey/8x8-10", num_envs=64, seed=5)
    generator = torch.Generator().manual_seed(5)
    step, before = env.observe(), env.prey
    for _ in range(150):
        step = env.step(keen(step, generator))
        everybody = torch.cat([env.agents, env.prey], 1)
        cells = everybody[..., 0] * 10 + everybody[..., 1]
        for row in cells.tolist():
            there = [cell for cell in row if cell >= 0]
            assert len(there) == len(set(there))
        moved = (env.prey - before).abs().sum(2)
        both = (env.prey >= 0).all(2) & (before >= 0).all(2) & ~(step.terminated | step.truncated)[:, None]
        assert moved[both].max() <= 1
        before = env.prey


def test_starts_and_walks_are_uniform():
    """Frequencies of starting cells and of the steps of a lone animal (chi-square at 5 sigma)."""
    env = make("predator_prey/1x1-5", num_envs=2000, seed=6)
    starts = torch.cat([env.agents, env.prey], 1)
    for entity in range(2):
        counts = torch.bincount(starts[:, entity, 0] * 5 + starts[:, entity, 1], minlength=25).double()
        assert abs(float(((counts - 80) ** 2 / 80).sum()) - 24) < 5 * (2 * 24) ** 0.5
    before = env.prey[:, 0]
    away = torch.full((2000, 1), STAY)
    env.step(away)
    free = ((before > 0) & (before < 4)).all(1) & ((env.agents[:, 0] - before).abs().sum(1) > 1)
    step = (env.prey[:, 0] - before)[free]
    counts = torch.bincount((step[:, 0] * 3 + step[:, 1] + 3).long(), minlength=7)[[0, 2, 4, 6]].double()
    assert int(counts.sum()) == len(step), "an animal with room always walks"
    expected = len(step) / 4
    assert abs(float(((counts - expected) ** 2 / expected).sum()) - 3) < 5 * 6**0.5


@pytest.mark.parametrize(("count", "choices"), [(1, 1), (3, 3), (2, 5), (4, 4)])
def test_distinct_choices_are_equally_likely(count, choices):
    uniform = torch.rand(count, 60_000, generator=torch.Generator().manual_seed(7))
    chosen = distinct(uniform, choices)
    assert chosen.dtype == torch.int64
    assert all(len(set(column)) == count for column in chosen[:, :500].t().tolist())
    found = Counter(map(tuple, chosen.t().tolist()))
    kinds = 1
    for left in range(choices, choices - count, -1):
        kinds *= left
    assert len(found) == kinds
    expected = 60_000 / kinds
    assert abs(sum((n - expected) ** 2 / expected for n in found.values()) - (kinds - 1)) < 5 * (2 * kinds) ** 0.5


def test_actions_by_name():
    assert ACTIONS[STAY] == "stay"
    assert ACTIONS[CATCH] == "catch"
    assert [sizes(task) for task in TASKS] == [(8, 8, 10), (4, 4, 10), (4, 4, 5)]
    env = make("predator_prey/8x8-10", num_envs=1)
    assert (env.spec.num_agents, env.spec.num_actions, env.spec.obs_size) == (8, 6, 75)
    assert (env.spec.state_size, env.spec.episode_limit) == (300, 200)


def test_illegal_action_is_named():
    env = make("predator_prey/4x4-10", num_envs=5, seed=1, debug=True)
    legal = env.observe().available
    row, agent = (~legal[..., CATCH]).nonzero()[0].tolist()
    actions = torch.full((5, 4), STAY)
    actions[row, agent] = CATCH
    with pytest.raises(InputError, match=f"illegal action 5 of agent {agent} in row {row}; valid: .*4"):
        env.step(actions)
    actions[row, agent] = 6
    with pytest.raises(InputError, match=f"illegal action 6 of agent {agent} in row {row}"):
        env.step(actions)
    assert torch.equal(env.observe().available, legal)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "predator_prey/8x8"}, r"unknown task 'predator_prey/8x8'; nearest: predator_prey/8x8-10.*any pred"),
        ({"task": "predator_prey/0x8-10"}, "unknown task"),
        ({"task": "predator_prey/8x8-3"}, "8 agents and 8 animals do not fit on 3 x 3 cells"),
        ({"task": "predator_prey/1x251-20"}, "at most 250 animals, not 251"),
        ({"hares": 90}, "8 agents and 98 animals do not fit"),
        ({"hares": 1.5}, "'hares' must be an integer of at least 0, not 1.5"),
        ({"punishment": -1}, "'punishment' must be a number of at least 0, not -1"),
        ({"punishment": "much"}, "'punishment' must be a number"),
        ({"view": 0}, "'view' must be an integer of at least 1, not 0"),
        ({"episode_limit": 0}, "'episode_limit' must be an integer of at least 1"),
        ({"observe_walls": 1}, "'observe_walls' must be True or False, not 1"),
        ({"debug": None}, "'debug' must be True or False"),
        ({"punish": 1}, "unknown option 'punish'; nearest: punishment"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(InputError, match=message):
        make(**({"task": "predator_prey/8x8-10", "num_envs": 2} | arguments))


def test_impossible_states_are_refused():
    env = make("predator_prey/4x4-10", num_envs=2)
    good = env.state_dict()
    for name, value in (("agents", 0), ("prey", 10**6), ("time", 200), ("used", 64), ("generators", 1)):
        with pytest.raises(InputError, match="no state of this environment"):
            env.load_state_dict(good | {name: torch.full_like(good[name], value)})


@pytest.mark.parametrize("task", TASKS)
def test_scripted_returns(task):
    """Pairs clear the grid, hunters on their own pay for it where it costs, random players do little."""
    pairs = sizes(task)[0] // 2
    free, dear = (
        {name: play(name, f"predator_prey/{task}", 60, seed=2, debug=True, punishment=fine) for name in PLAYERS}
        for fine in (0.0, 2.0)
    )
    mean = {name: outcome["episode_return"].mean().item() for name, outcome in free.items()}
    paid = {name: outcome["episode_return"].mean().item() for name, outcome in dear.items()}
    assert 8 * pairs < mean["in pairs"] <= 10 * pairs
    assert 7 * pairs < mean["alone"] <= mean["in pairs"]
    assert 0 < mean["random"] < 4 * pairs
    for name in PLAYERS:
        assert torch.equal(free[name]["captured"] * 10, free[name]["episode_return"].long())
        assert torch.equal(free[name]["captured"], dear[name]["captured"]), "the fine changes no episode"
        assert (free[name]["captured"] <= pairs).all()
    assert paid["in pairs"] > 0.9 * mean["in pairs"]
    assert paid["alone"] < 0
    assert paid["random"] < 0


def test_bad_input_of_players():
    with pytest.raises(InputError, match="unknown player 'pairs'; nearest: in pairs"):
        play("pairs", "predator_prey/4x4-5", 1)
    with pytest.raises(InputError, match=r"play predator_prey/\.\.\., not 'macf/2cars'"):
        play("random", "macf/2cars", 1)
