"""The batched coloured spread against a slow and literal one, in float64, one world at a time."""

import numpy as np
import pytest
import torch

from inconcert.config import InputError
from inconcert.envs import make
from inconcert.envs.spread import TASKS, groups
from inconcert.envs.spread_players import PLAYERS, play
from inconcert.envs.spread_reference import LiteralSpread

CASES = [(task, {}) for task in TASKS] + [
    ("30a_3c_shuffle", {"grouping": "fork"}),
    ("15a_3c", {"own_distance": True}),
    ("15a_3c_shuffle", {"own_distance": True}),
    ("4a_4c", {}),
    ("3a_1c_shuffle", {}),
]
SIZES = {
    "15a_3c": (5, 5, 5), "30a_3c": (10, 10, 10), "30a_5c": (6, 6, 6, 6, 6), "30a_5c_super": (3, 3, 3, 12, 9),
    "15a_3c_shuffle": (5, 5, 5), "30a_3c_shuffle": (10, 10, 10), "naive_15a_3c": (5, 5, 5), "naive_6a_3c": (2, 2, 2),
    "4a_4c": (1, 1, 1, 1), "3a_1c_shuffle": (3,),
}  # fmt: skip


@pytest.mark.parametrize(("task", "options"), CASES)
def test_step_by_step_like_the_literal_one(task, options):
    """Whole episodes of all that is seen and earned, played so that colours gather, fall apart and gather again."""
    rows = 4
    env = make(f"spread/{task}", num_envs=rows, seed=3, **options)
    sizes = (6,) * 5 if options.get("grouping") == "fork" else SIZES[task]
    lines, columns = env.scenario.lines, env.world.double().numpy()
    literal = []
    for row in range(rows):
        x = {part: columns[where.start : where.stop, row].reshape(2, -1).T for part, where in lines.parts.items()}
        literal.append(
            LiteralSpread(
                sizes,
                x["position"],
                x["landmarks"],
                bonus=not task.startswith("naive"),
                shuffled=task.endswith("shuffle"),
                own_distance=options.get("own_distance", False),
            )
        )
    generator = torch.Generator().manual_seed(3)
    formed, total = 0, np.zeros(rows)
    for time in range(50):
        actions = PLAYERS["oracle"](env, generator)
        restless = torch.rand(actions.shape, generator=generator) < (0.1 if 20 < time < 30 else 0)
        actions = torch.where(restless, torch.randint(5, actions.shape, generator=generator), actions)
        step = env.step(actions)
        if time < 49:
            formed += int(env.scenario.formed(env.world).sum())
        for row, world in enumerate(literal):
            due = world.step(actions[row].tolist())
            total[row] += sum(due)
            np.testing.assert_allclose(step.reward[row].numpy(), due, atol=1e-4)
            seen = [world.observation(agent) for agent in range(len(due))]
            np.testing.assert_allclose(step.final_obs[row].numpy(), seen, atol=1e-4)
            np.testing.assert_allclose(step.final_state[row].numpy(), world.state(), atol=1e-4)
            distances = [world.distance(agent) for agent in range(len(due))]
            if time < 49:
                np.testing.assert_allclose(env.scenario.own_distance(env.world)[:, row].numpy(), distances, atol=1e-4)
        assert step.truncated.tolist() == [time == 49] * rows
        assert not step.terminated.any()
        assert step.available.all()
    np.testing.assert_allclose(step.info["team_return"].numpy(), total, rtol=1e-5, atol=1e-2)
    assert formed > 10 * rows, "the colours did not gather: the bonus was not tested"


def test_sizes_of_the_tasks():
    assert {task: groups(task) for task in TASKS} == {task: SIZES[task] for task in TASKS}
    assert groups("30a_3c_shuffle", "fork") == groups("naive_30a_3c_shuffle", "fork") == (6, 6, 6, 6, 6)
    assert groups("naive_30a_5c_super") == (3, 3, 3, 12, 9)
    assert all(groups(task, "fork") == groups(task) for task in TASKS if task != "30a_3c_shuffle")
    for task in TASKS:
        colours = len(SIZES[task])
        spec = make(f"spread/{task}", num_envs=1).spec
        assert (spec.num_agents, spec.num_actions) == (sum(SIZES[task]), 5)
        assert (spec.obs_size, spec.state_size) == (4 + 2 * colours, 4 * spec.num_agents + 2 * colours)
        assert (spec.episode_limit, spec.metric) == (50, "team_return")


def put(env, places, landmarks):
    """Give the first row these places of agents and landmarks, at rest."""
    state, lines = env.state_dict(), env.scenario.lines
    state["world"][list(lines.parts["velocity"]), 0] = 0.0
    state["world"][list(lines.parts["position"]), 0] = torch.tensor(places).t().flatten()
    state["world"][list(lines.parts["landmarks"]), 0] = torch.tensor(landmarks).t().flatten()
    env.load_state_dict(state)


def test_reward_by_hand():
    """Two colours of three: one gathered, a pair of it touching exactly, the other with one agent just outside."""
    env = make("spread/6a_2c", num_envs=2)
    gathered, nearly = [[0.0, 0.0], [0.0, 0.0], [0.1, 0.0]], [[2.0, 2.0], [2.0, 2.1], [2.0, 2.16]]
    put(env, gathered + nearly, [[0.0, 0.0], [2.0, 2.0]])
    step = env.step(torch.zeros(2, 6, dtype=torch.long))
    bonus = (2 * 0.1 / 0.05 + 4 * 0.1 / 0.15) / 3
    due = [bonus / 2, bonus / 2, (bonus - 0.1) / 2, 0.0, -0.05, -0.08]
    assert step.reward[0].tolist() == pytest.approx(due, abs=1e-6)
    assert step.info["team_return"][0].item() == pytest.approx(sum(due), abs=1e-6)
    assert step.info["episode_return"][0].item() == pytest.approx(sum(due) / 6, abs=1e-6)
    assert env.scenario.formed(env.world)[:, 0].tolist() == [True, False]
    # all in one place: each pair is worth 0.1 / 0.05 either way, so each agent gets 2 (n - 1), and is paid half
    put(env, [[1.0, 1.0]] * 6, [[1.0, 1.0], [1.0, 1.0]])
    assert env.step(torch.zeros(2, 6, dtype=torch.long)).reward[0].tolist() == pytest.approx([2.0] * 6, abs=1e-5)


def test_physics_by_hand():
    """Pushed right once, an agent at rest moves 0.05 and keeps three quarters of its speed; nothing is in its way."""
    env = make("spread/naive_2a_1c", num_envs=1)
    put(env, [[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0]])
    for move, place in ((2, 0.05), (0, 0.0875), (0, 0.115625)):
        step = env.step(torch.tensor([[move, 0]]))
        assert step.obs[0, 0, 2:4].tolist() == pytest.approx([place, 0])
        assert step.obs[0, 1].tolist() == pytest.approx([0, 0, 0, 0, 1, 0])


def test_colours_hide_in_the_observation():
    """Agents of two colours in one place see the same; in a shuffle task each colour has an order of its own."""
    plain, shuffled = (make(f"spread/{task}", num_envs=1) for task in ("15a_3c", "15a_3c_shuffle"))
    landmarks = [[1.0, 2.0], [-2.0, 0.5], [3.0, -1.0]]
    for env in (plain, shuffled):
        put(env, [[0.25, 0.75]] * 15, landmarks)
    seen = plain.observe().obs[0]
    assert (seen == seen[0]).all()
    by_colour = shuffled.observe().obs[0].view(3, 5, -1)
    assert (by_colour == by_colour[:, :1]).all()
    assert all(not torch.equal(by_colour[one, 0], by_colour[other, 0]) for one in range(3) for other in range(one))
    assert all(torch.equal(one[0].sort().values, seen[0].sort().values) for one in by_colour)


def test_own_distance_gives_the_colour_away():
    env = make("spread/15a_3c", num_envs=50, seed=2, own_distance=True)
    obs = env.observe().obs
    assert env.spec.obs_size == 11
    guessed = (obs[..., 4:10].unflatten(-1, (3, 2)).norm(dim=-1) - obs[..., 10:]).abs().argmin(-1)
    assert torch.equal(guessed, env.scenario.colour.expand(50, -1))


def test_worlds_start_as_the_fork_has_them():
    env = make("spread/30a_5c", num_envs=2000, seed=4)
    lines = env.scenario.lines
    for part, reach in (("position", 1.0), ("landmarks", 3.0)):
        places = lines.cut(env.world, part)
        assert 0.99 * reach < places.abs().max() <= reach
        assert places.mean(2).abs().max() < 5 * reach * (1 / 3 / 2000) ** 0.5
        assert (places.var(2) / reach**2 - 1 / 3).abs().max() < 0.04
    assert not lines.cut(env.world, "velocity").any()


def test_worlds_do_not_depend_on_the_reading():
    """Tasks of one size have the same worlds, so that what a bonus or an order changes can be compared in pairs."""
    makers = [("15a_3c", {}), ("15a_3c_shuffle", {}), ("naive_15a_3c", {}), ("15a_3c", {"own_distance": True})]
    made = [make(f"spread/{task}", num_envs=3, seed=5, **options) for task, options in makers]
    for _ in range(2):
        assert all(torch.equal(env.world, made[0].world) for env in made)
        for env in made:
            for _ in range(50):
                env.step(torch.zeros(3, 15, dtype=torch.long))


@pytest.mark.parametrize("rows", [1, 3, 7, 16, 33])
def test_a_row_does_not_depend_on_its_place(rows):
    """The first seed's worlds, alone and in front of others, for batches that fill vector registers differently."""
    alone, among = (make("spread/30a_5c_super", num_envs=rows, seed=seed) for seed in (1, [1, 2, 3]))
    for _ in range(50):
        actions = PLAYERS["oracle"](among, torch.Generator())
        step, part = among.step(actions), alone.step(actions[:rows])
        assert torch.equal(step.obs[:rows], part.obs)
        assert torch.equal(step.reward[:rows], part.reward)
        for name, values in part.info.items():
            assert torch.equal(step.info[name][:rows], values)


MEASURED = {  # by independent code, 256 episodes: random, idle, middle of the landmarks, oracle, its distance part
    "15a_3c": (-933, -893, -705, 359, -217), "30a_3c": (-1842, -1768, -1380, 2032, -425),
    "30a_5c": (-1838, -1770, -1508, 990, -428), "30a_5c_super": (-1854, -1779, -1521, 1585, -432),
}  # fmt: skip


@pytest.mark.parametrize("task", MEASURED)
def test_returns_are_on_the_known_scale(task):
    """Within four standard errors of both measurements."""
    found = [play(player, f"spread/{task}", 256) for player in ("random", "idle", "centroid", "coasting oracle")]
    found.append(play("coasting oracle", f"spread/naive_{task}", 256))
    for returns, known in zip(found, MEASURED[task], strict=True):
        error = float(returns.std()) * (2 / 256) ** 0.5
        assert abs(returns.mean() - known) < 4 * error


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: make("spread/15a_3"),
            r"unknown task 'spread/15a_3'; nearest: spread/15a_3c.*or any spread/\[naive_\]",
        ),
        (lambda: make("spread/0a_3c"), "unknown task"),
        (lambda: make("spread/16a_3c"), "16 agents cannot be shared out evenly among 3 colours"),
        (lambda: make("spread/15a_5c_super"), "unknown task"),
        (lambda: make("spread/15a_3c", grouping="frok"), "unknown grouping 'frok'; nearest: fork;"),
        (lambda: make("spread/15a_3c", own_distance=1), "'own_distance' must be True or False"),
        (lambda: make("spread/15a_3c", debug="no"), "'debug' must be True or False"),
        (lambda: make("spread/15a_3c", groups="fork"), "unknown option 'groups'; nearest: grouping"),
        (lambda: play("orcale", "spread/15a_3c", 2), "unknown player 'orcale'; nearest: oracle"),
        (lambda: play("oracle", "coordsum/3x10-30", 2), "play spread/"),
        (lambda: play("oracle", "mpe/simple_spread", 2), "play spread/"),
    ],
)
def test_bad_input_is_one_helpful_line(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_illegal_action_is_named():
    env = make("spread/naive_6a_3c", num_envs=3, debug=True)
    actions = torch.zeros(3, 6, dtype=torch.long)
    actions[1, 4] = 5
    with pytest.raises(InputError, match=r"illegal action 5 of agent 4 in row 1; valid: 0, 1, 2, 3, 4"):
        env.step(actions)
    assert env.time == 0
