"""The suites written in JAX, through the bridge: names, contract, masks, and step by step against the original package.

Compiling is what takes time here, so most tests share two numbers of rows per task: 3 seeds of 8, and one seed of 8.
"""

import csv
import functools
import importlib.util
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from inconcert import envs
from inconcert.config import InputError

MISSING = [package for package in ("jax", "jumanji", "jaxmarl") if importlib.util.find_spec(package) is None]
if MISSING:
    pytest.skip(f"not installed: {', '.join(MISSING)} (see inconcert/envs/jax_bridge.py)", allow_module_level=True)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from inconcert.envs import connector, jax_bridge, jaxmpe, lbf, rware, smax  # noqa: E402
from inconcert.envs.jax_players import gather  # noqa: E402
from inconcert.envs.jax_reference import HASTY, difference, for_all, legal_actions, side_by_side  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SUITES = ("lbf", "rware", "connector", "smax", "jaxmpe")
PLAYED = (
    "lbf/2s-8x8-2p-2f-coop",
    "rware/tiny-4ag-hard",
    "connector/con-5x5x3a",
    "smax/2s3z",
    "jaxmpe/spread_3ag",
    "jaxmpe/spread_3ag continuous",
)
"""What is played; all other tasks of a suite run the same code with other sizes."""
SEEDS, COPIES = (3, 1, 4), 8
ROWS = len(SEEDS) * COPIES
EPISODES = 200
"""How many are played beside the package."""

# agents, actions, observation, longest episode; MAGPO's code gives these (JaxMARL's limits are one step late)
SIZES = {
    "lbf/2s-8x8-2p-2f-coop": (2, 6, 12, 100),
    "lbf/8x8-2p-2f-coop": (2, 6, 12, 100),
    "lbf/2s-10x10-3p-3f": (3, 6, 18, 100),
    "lbf/10x10-3p-3f": (3, 6, 18, 100),
    "lbf/15x15-3p-5f": (3, 6, 24, 100),
    "lbf/15x15-4p-3f": (4, 6, 21, 100),
    "lbf/15x15-4p-5f": (4, 6, 27, 100),
    **{f"rware/{name}": (rware.sizes(name)[2], 5, 66, 500) for name in rware.TASKS},
    "connector/con-5x5x3a": (3, 5, 54, 25),
    "connector/con-7x7x5a": (5, 5, 54, 49),
    "connector/con-10x10x10a": (10, 5, 54, 100),
    "connector/con-15x15x23a": (23, 5, 54, 225),
    "jaxmpe/spread_3ag": (3, 5, 18, 26),
    "jaxmpe/spread_5ag": (5, 5, 30, 26),
    "jaxmpe/spread_10ag": (10, 5, 60, 26),
    "smax/2s3z": (5, 10, 127, 101),
    "smax/3s5z": (8, 13, 205, 101),
    "smax/3s5z_vs_3s6z": (8, 14, 218, 101),
    "smax/3s_vs_5z": (3, 10, 101, 101),
    "smax/6h_vs_8z": (6, 13, 179, 101),
    "smax/10m_vs_11m": (10, 16, 270, 101),
    "smax/5m_vs_6m": (5, 11, 140, 101),
    "smax/smacv2_5_units": (5, 10, 127, 101),
    "smax/smacv2_10_units": (10, 15, 257, 101),
    "smax/27m_vs_30m": (27, 35, 738, 101),
    "smax/3m": (3, 8, 75, 101),
    "smax/8m": (8, 13, 205, 101),
    "smax/25m": (25, 30, 647, 101),
    "smax/smacv2_20_units": (20, 25, 517, 101),
    "smax/8m_vs_9m": (8, 14, 218, 101),
    "smax/7sz": (14, 19, 361, 101),
    "smax/6z_vs_24zl": (6, 29, 387, 101),
    "smax/smacv2_10_vs_11": (10, 16, 270, 101),
    "smax/7m2M_vs_8m3M": (9, 16, 257, 101),
}


def make(task, seed=SEEDS, num_envs=COPIES, **options):
    name, _, kind = task.partition(" ")
    return envs.make(name, num_envs, seed, **options | ({"actions": kind} if kind else {}))


@pytest.fixture(params=PLAYED[:-1])
def task(request):
    return request.param


def flat(step):
    return [tensor.clone() for tensor in (*step[:-1], *step.info.values())]


def same(one, other):
    return all(
        torch.equal(a, b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)
    )


@functools.cache
def long_run(task):
    """The first 140 steps of `task` with random actions: the actions, and what each moment looked like."""
    env = make(task)
    generator = torch.Generator().manual_seed(0)
    actions, moments = [], [flat(step := env.reset())]
    for _ in range(140):
        actions.append(legal_actions(env, step.available, generator))
        moments.append(flat(step := env.step(actions[-1])))
    return actions, moments


# ------------------------------------------------------------------------------------------------------ names and sizes


def test_the_tasks_are_those_of_magpo():
    names = {"LevelBasedForaging": "lbf", "MacConnector": "connector", "MPE": "jaxmpe", "RobotWarehouse": "rware"}
    names |= {"CoordSum": "coordsum", "Smax": "smax"}
    with (ROOT / "data/published/magpo_table_1.csv").open() as file:
        paper = {f"{names[row['suite']]}/{row['row']}" for row in csv.DictReader(file)}
    assert len(paper) == 43
    ours = {task for suite in names.values() for task in envs.tasks(suite)}
    assert paper <= ours
    assert {task.partition("/")[0] for task in ours - paper} == {"smax"}, "only SMAX has more"
    assert {f"smax/{name}" for name in smax.PAPER} == {task for task in paper if task.startswith("smax/")}
    assert ours - {f"coordsum/{name}" for name in ("3x10-30", "3x30-50", "5x20-80", "8x15-100")} == SIZES.keys()


@pytest.mark.parametrize("task", SIZES)
def test_sizes_of_every_task(task):
    """Asking for sizes compiles nothing. SMAX has a state of its own, elsewhere it is all agents' observations."""
    spec, original = make(task).spec, make(task).world.original
    assert (spec.num_agents, spec.num_actions, spec.obs_size, spec.episode_limit) == SIZES[task]
    units = original.num_allies + original.num_enemies if task.startswith("smax") else 0
    assert spec.state_size == (12 * units or spec.num_agents * spec.obs_size)
    assert spec.metric == ("won" if task.startswith(("smax", "connector")) else "episode_return")
    assert all(type(size) is int for size in (*SIZES[task], spec.state_size))


@pytest.mark.parametrize("name", [*smax.EXTRA, *smax.EXTRA_RANDOM])
def test_added_battles_have_the_units_they_are_named_for(name):
    """Of JaxMARL's state at the start of an episode; nobody is dead or outside the field."""
    units = {
        "8m_vs_9m": ("m" * 8, "m" * 9),
        "7sz": ("s" * 7 + "Z" * 7, "s" * 7 + "Z" * 7),
        "6z_vs_24zl": ("Z" * 6, "z" * 24),
        "7m2M_vs_8m3M": ("m" * 7 + "M" * 2, "m" * 8 + "M" * 3),
        "smacv2_10_vs_11": ("?" * 10, "?" * 11),
    }
    allies, enemies = units[name]
    original = smax._world(name).original
    assert (original.num_allies, original.num_enemies) == (len(allies), len(enemies))
    _, state = jax.jit(original.reset, compiler_options=HASTY)(jax.random.PRNGKey(5))
    short = [original.unit_type_shorthands[index] for index in np.asarray(state.state.unit_types)]
    if "?" in allies:
        assert len(set(short)) > 2, "random types"
    else:
        assert "".join(short) == allies + enemies
    places = np.asarray(state.state.unit_positions)
    assert state.state.unit_alive.all()
    assert ((places > 0) & (places < 32)).all()


def test_versions_agree_with_the_lock_and_the_set_up():
    lock = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines())
    for package, version in jax_bridge.VERSIONS.items():
        if package == "jaxmarl":  # its metadata asks for old versions, so it is no part of the lock
            assert f"--no-deps jaxmarl=={version}" in (ROOT / "workflow/setup.sh").read_text()
        else:
            assert lock[package] == version
        assert f"{package}=={version}" in jax_bridge.INSTALL


# ------------------------------------------------------------------------------------------------------------- contract


def test_shapes_types_and_devices(task):
    env = make(task)
    spec = env.spec
    assert (env.num_envs, env.seeds) == (ROWS, SEEDS)
    expected = {
        "obs": ((ROWS, spec.num_agents, spec.obs_size), torch.float32),
        "state": ((ROWS, spec.state_size), torch.float32),
        "available": ((ROWS, spec.num_agents, spec.num_actions), torch.bool),
        "reward": ((ROWS, spec.num_agents), torch.float32),
        "terminated": ((ROWS,), torch.bool),
        "truncated": ((ROWS,), torch.bool),
        "final_obs": ((ROWS, spec.num_agents, spec.obs_size), torch.float32),
        "final_state": ((ROWS, spec.state_size), torch.float32),
    }
    first = env.reset()
    for step in (first, env.observe(), env.step(legal_actions(env, first.available, torch.Generator().manual_seed(0)))):
        for name, (shape, dtype) in expected.items():
            tensor = getattr(step, name)
            assert (name, tuple(tensor.shape), tensor.dtype, tensor.device) == (name, shape, dtype, env.device)
        assert {"episode_return", "episode_length", spec.metric} <= set(step.info)
        assert all(tensor.shape == (ROWS,) for tensor in step.info.values())
        assert step.info["episode_length"].dtype == torch.int64
        assert step.available.any(-1).all()
    assert not first.reward.any()
    assert not (first.terminated | first.truncated).any()


def test_episodes_end_restart_and_add_up(task):
    """Rewards summed by the caller are what the environment reports; what ended restarts at once, the rest goes on."""
    env = make(task)
    generator = torch.Generator().manual_seed(1)
    step = env.reset()
    total, length, ends = torch.zeros(ROWS), torch.zeros(ROWS, dtype=torch.long), 0
    for _ in range(min(env.spec.episode_limit + 30, 140)):
        step = env.step(legal_actions(env, step.available, generator))
        total += step.reward.mean(1)
        length += 1
        ended = step.terminated | step.truncated
        assert not (step.terminated & step.truncated).any()
        torch.testing.assert_close(step.info["episode_return"], total, rtol=1e-5, atol=1e-5)
        assert torch.equal(step.info["episode_length"], length)
        assert (length <= env.spec.episode_limit).all()
        assert torch.equal(step.final_obs[~ended], step.obs[~ended])
        assert torch.equal(step.final_state[~ended], step.state[~ended])
        assert not ended.any() or not torch.equal(step.final_obs[ended], step.obs[ended])
        total[ended], length[ended] = 0, 0
        now = env.observe()
        assert torch.equal(now.obs, step.obs)
        assert torch.equal(now.state, step.state)
        assert torch.equal(now.available, step.available)
        assert torch.equal(now.info["episode_length"], length)
        torch.testing.assert_close(now.info["episode_return"], total, rtol=1e-5, atol=1e-5)
        ends += int(ended.sum())
    assert ends >= ROWS


def test_steps_stay_valid(task):
    """What a step returned is not overwritten by later steps and restarts."""
    env = make(task)
    generator = torch.Generator().manual_seed(2)
    kept = [env.reset()]
    copies = [flat(kept[0])]
    for _ in range(env.spec.episode_limit + 3 if env.spec.episode_limit < 100 else 60):
        kept.append(env.step(legal_actions(env, kept[-1].available, generator)))
        copies.append(flat(kept[-1]))
    assert same([[*step[:-1], *step.info.values()] for step in kept], copies)


def test_same_seed_same_episodes(task):
    actions, moments = long_run(task)
    env = make(task)
    assert same([flat(env.reset()), *(flat(env.step(one)) for one in actions)], moments)


def test_a_seeds_block_is_that_seed_alone(task):
    actions, moments = long_run(task)
    for index, seed in enumerate(SEEDS):
        block = slice(index * COPIES, (index + 1) * COPIES)
        env = make(task, seed=seed)
        alone = [flat(env.reset()), *(flat(env.step(one[block])) for one in actions)]
        assert same([[tensor[block] for tensor in moment] for moment in moments], alone)


def test_rows_seeds_and_episodes_differ(task):
    env = make(task)
    starts = torch.cat([env.reset().obs.flatten(1) for _ in range(2)])
    assert len(starts.unique(dim=0)) >= 2 * ROWS - 4, "agents with short sight may see the same"


@pytest.mark.parametrize("before", [0, 77])
def test_state_round_trip(task, before, tmp_path):
    """A saved state, in any environment made the same way, continues to the same future; saving does not disturb."""
    safetensors = pytest.importorskip("safetensors.torch")
    actions, moments = long_run(task)
    env = make(task)
    env.reset()
    for one in actions[:before]:
        env.step(one)
    safetensors.save_file(env.state_dict(), tmp_path / "state")
    assert same([flat(env.step(one)) for one in actions[before:]], moments[before + 1 :])

    other = make(task, seed=(8, 9, 10))
    other.reset()
    state = safetensors.load_file(tmp_path / "state")
    other.load_state_dict(state)
    for tensor in state.values():  # whoever loaded it has its own copy
        tensor.zero_()
    now = other.observe()
    assert torch.equal(now.obs, moments[before][0])
    assert torch.equal(now.available, moments[before][2])
    assert same([flat(other.step(one)) for one in actions[before:]], moments[before + 1 :])


def test_foreign_state_is_refused(task):
    env = make(task)
    before = flat(env.observe())
    state = make(task).state_dict()
    with pytest.raises(InputError, match="no state of this environment: 'time' is missing"):
        env.load_state_dict({name: tensor for name, tensor in state.items() if name != "time"})
    with pytest.raises(InputError, match="no state of this environment: 'keys' is"):
        env.load_state_dict({name: tensor[:COPIES] for name, tensor in state.items()})
    with pytest.raises(InputError, match="'time' is out of range"):
        env.load_state_dict(state | {"time": torch.full_like(state["time"], env.spec.episode_limit)})
    with pytest.raises(InputError, match="'episode' is out of range"):
        env.load_state_dict(state | {"episode": torch.full_like(state["episode"], -1)})
    assert same([flat(env.observe())], [before])


def test_make_starts_nothing_that_reset_does_not():
    """The first episodes are the same whether or not somebody looked at them; `reset` goes on to the next ones."""
    one, other = make("jaxmpe/spread_3ag"), make("jaxmpe/spread_3ag")
    first = other.observe()
    assert torch.equal(one.reset().obs, other.reset().obs)
    assert not torch.equal(other.observe().obs, first.obs)
    assert torch.equal(make("jaxmpe/spread_3ag").observe().obs, first.obs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same(task):
    """The same episodes with tensors on a GPU; where JAX computes there too, fractions may differ in the last bits."""
    actions, moments = long_run(task)
    env = make(task, device="cuda")
    steps = [env.reset(), *(env.step(one.cuda()) for one in actions[:30])]
    assert all(tensor.device.type == "cuda" for step in steps for tensor in (*step[:-1], *step.info.values()))
    moved = [[tensor.cpu() for tensor in flat(step)] for step in steps]
    torch.testing.assert_close(moved, moments[:31], rtol=1e-4, atol=1e-4)


def test_streams_are_apart():
    """No two rows, episodes or steps share a key, and a suite's stream is its own."""
    keys = jax_bridge.row_keys("lbf", (0, 1), 50)
    assert len(np.unique(keys, axis=0)) == 100
    assert not np.array_equal(keys, jax_bridge.row_keys("rware", (0, 1), 50))
    assert np.array_equal(keys[50:], jax_bridge.row_keys("lbf", (1,), 50))
    episode, time = np.meshgrid(np.arange(20), np.arange(-1, 20))
    drawn = jax.vmap(jax_bridge.key_at, (None, 0, 0))(jnp.asarray(keys[0]), episode.ravel(), time.ravel())
    assert len(np.unique(np.asarray(drawn), axis=0)) == episode.size


# ------------------------------------------------------------------------------------------------- the original package


@pytest.mark.parametrize("task", SIZES if os.environ.get("INCONCERT_ALL_TASKS") else PLAYED)
def test_steps_are_those_of_the_original_package(task):
    """From the same states, with the same keys, the package's own step gives the same numbers; so does its restart.

    Some tasks of every suite; all of them where INCONCERT_ALL_TASKS is set to anything (an hour).
    """
    env = make(task)
    suite, limit, ends, cuts = task.partition("/")[0], env.spec.episode_limit, 0, 0
    for step, shown in side_by_side(env, math.ceil(EPISODES / ROWS) * limit, seed=4):
        assert difference(env, step, shown) < 1e-4
        ended, length = (step.terminated | step.truncated).numpy(), step.info["episode_length"].numpy()
        ends, cuts = ends + ended.sum(), cuts + step.truncated.numpy().sum()
        if suite == "lbf":
            eaten = np.asarray(shown.before_restart.food_items.eaten).all(1)
            assert np.array_equal(step.terminated, eaten)
            assert np.array_equal(step.truncated, (length == limit) & ~eaten)
        else:
            assert not step.truncated.any()
        if suite == "rware":
            assert np.array_equal(step.info["collided"], ended & (length < limit))
        if suite == "connector":
            connected = np.asarray(shown.before_restart.agents.connected)
            assert np.array_equal(step.info["won"], connected.all(1))
            np.testing.assert_allclose(step.info["connected"], connected.mean(1), rtol=1e-6)
        if suite == "smax":
            alive, allies = np.asarray(shown.before_restart.state.unit_alive), env.spec.num_agents
            assert np.array_equal(step.info["won"], ~alive[:, allies:].any(1) & alive[:, :allies].any(1))
            assert np.array_equal(step.info["won"], ended & (step.reward[:, 0].numpy() >= 1)), "as MAGPO's code asks"
        if suite == "jaxmpe":
            assert np.array_equal(ended, length == limit)
        if ends >= EPISODES:
            break
    assert ends >= EPISODES
    assert (cuts > 0) == (suite == "lbf")


def test_a_difference_to_the_package_is_noticed():
    env = make("jaxmpe/spread_3ag")
    ((step, shown),) = side_by_side(env, 1, seed=0)
    assert difference(env, step, shown) < 1e-4
    assert difference(env, step._replace(reward=step.reward + 0.5), shown) == pytest.approx(0.5, abs=1e-4)
    assert difference(env, step._replace(terminated=~step.terminated), shown) == float("inf")
    env.step(torch.zeros(ROWS, 3, dtype=torch.long))
    assert difference(env, step, shown) > 1e-4, "the states went on"


# ---------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize(
    ("task", "moves"), [("lbf/2s-8x8-2p-2f-coop", 4), ("rware/tiny-4ag-hard", 1), ("connector/con-5x5x3a", 4)]
)
def test_moves_are_legal_exactly_where_they_move(task, moves):
    """With everybody else standing still, a legal move changes the world, and a masked one is standing still.

    The warehouse lets robots drive against the border, where they stay.
    """
    env = make(task)
    step_all = for_all(env.world.original.step)
    generator = torch.Generator().manual_seed(5)
    step, masked, legal = env.reset(), 0, 0
    for _ in range(60):
        state = env.original_states()
        still = np.zeros((ROWS, env.spec.num_agents), np.int32)
        stayed, _ = step_all(state, still)
        for agent in range(env.spec.num_agents):
            for move in range(1, moves + 1):
                actions = still.copy()
                actions[:, agent] = move
                moved, _ = step_all(state, actions)
                differs = np.zeros(ROWS, bool)
                for one, other in zip(*map(jax.tree_util.tree_leaves, (moved, stayed)), strict=True):
                    differs |= (np.asarray(one) != np.asarray(other)).reshape(ROWS, -1).any(1)
                allowed = step.available[:, agent, move].numpy()
                if task.startswith("rware"):
                    allowed = allowed & ~at_the_border(env, state, agent)
                assert np.array_equal(differs, allowed)
                masked, legal = masked + (~step.available[:, agent, move]).sum(), legal + allowed.sum()
        step = env.step(legal_actions(env, step.available, generator))
    assert masked > 100
    assert legal > 100


def at_the_border(env, state, agent):
    """Whether a robot [E] stands before the border: facing up, right, down or left."""
    rows, columns = env.world.original.grid_size
    row, column = state.agents.position.x[:, agent], state.agents.position.y[:, agent]
    edges = np.stack([row == 0, column == columns - 1, row == rows - 1, column == 0], 1)
    return np.take_along_axis(edges, state.agents.direction[:, agent, None], 1)[:, 0]


def test_food_can_be_loaded_exactly_where_it_is_near():
    env = make("lbf/2s-8x8-2p-2f-coop")
    generator = torch.Generator().manual_seed(6)
    step, near = env.reset(), 0
    for _ in range(60):
        states = env.original_states()
        for row in range(ROWS):
            state = jax.tree_util.tree_map(lambda leaf, row=row: leaf[row], states)
            there = state.food_items.position[~state.food_items.eaten]
            distance = np.abs(state.agents.position[:, None] - there).sum(-1)
            assert np.array_equal(step.available[row, :, lbf.ACTIONS.index("load")], (distance == 1).any(1))
            near += int((distance == 1).any())
        step = env.step(legal_actions(env, step.available, generator))
    assert near > 50


def test_attacks_are_legal_exactly_in_range():
    env = make("smax/2s3z")
    original = env.world.original
    generator = torch.Generator().manual_seed(7)
    step, attacks, dead = env.reset(), 0, 0
    for _ in range(70):
        states = env.original_states().state
        for row in range(0, ROWS, 3):
            state = jax.tree_util.tree_map(lambda leaf, row=row: leaf[row], states)
            allies = original.num_allies
            gap = np.linalg.norm(state.unit_positions[:allies, None] - state.unit_positions[allies:], axis=-1)
            reach = np.asarray(original.unit_type_attack_ranges)[state.unit_types[:allies], None]
            alive = state.unit_alive[:allies, None]
            expected = (gap < reach) & alive & state.unit_alive[allies:]
            assert np.array_equal(step.available[row, :, 5:], expected)
            assert np.array_equal(step.available[row, :, :5], alive | (np.arange(5) == 4)), "the dead can only stop"
            attacks, dead = attacks + expected.sum(), dead + (~alive).sum()
        step = env.step(legal_actions(env, step.available, generator))
    assert attacks > 100
    assert dead > 100


@pytest.mark.parametrize("task", PLAYED)
def test_legal_play_passes_the_check_and_illegal_play_is_named(task):
    env = make(task, debug=True)
    generator = torch.Generator().manual_seed(8)
    step = env.reset()
    for _ in range(30):
        step = env.step(legal_actions(env, step.available, generator))
    before = flat(env.observe())
    actions = legal_actions(env, step.available, generator)
    if env.world.components:
        actions[5, 1, 2] = 1.5
        message = "illegal action 1.5 of agent 1 in row 5; valid: 0..1"
    elif step.available.all():
        actions[5, 1] = 5
        message = "illegal action 5 of agent 1 in row 5; valid: 0, 1, 2, 3, 4"
    else:
        row, agent, action = (~step.available).nonzero()[-1].tolist()
        actions[row, agent] = action
        message = f"illegal action {action} of agent {agent} in row {row}; valid: "
    with pytest.raises(InputError, match=message):
        env.step(actions)
    assert same([flat(env.observe())], [before]), "nothing was played"
    with pytest.raises(InputError, match=r"illegal action -1(\.0)? of agent 0 in row 0"):
        env.step(torch.full_like(actions, -1))


@pytest.mark.parametrize("shape", [(ROWS, 3), (ROWS, 2, 5), (ROWS - 1, 3, 5), (ROWS,)])
def test_wrong_actions_are_refused(shape):
    with pytest.raises(InputError, match=r"actions must be integers of shape \(24, 3\), not torch.float32"):
        make("jaxmpe/spread_3ag").step(torch.zeros(shape))
    with pytest.raises(InputError, match=r"actions must be numbers of 0..1 of shape \(24, 3, 5\), not torch."):
        make("jaxmpe/spread_3ag continuous").step(torch.zeros(shape))
    with pytest.raises(InputError, match=r"numbers of 0..1 of shape \(24, 3, 5\), not torch.int64"):
        make("jaxmpe/spread_3ag continuous").step(torch.zeros(ROWS, 3, 5, dtype=torch.long))


# ------------------------------------------------------------------------------------------------------------ rewards


def test_forces_of_the_two_kinds_of_action_agree():
    """A discrete action is the unit force of the continuous one with a 1 in its place."""
    discrete, continuous = make("jaxmpe/spread_3ag"), make("jaxmpe/spread_3ag continuous")
    generator = torch.Generator().manual_seed(9)
    assert torch.equal(discrete.reset().obs, continuous.reset().obs)
    for _ in range(40):
        actions = torch.randint(5, (ROWS, 3), generator=generator)
        one = discrete.step(actions)
        other = continuous.step(torch.nn.functional.one_hot(actions, 5).float())
        for ours, theirs in zip(flat(one), flat(other), strict=True):
            torch.testing.assert_close(ours.float(), theirs.float(), rtol=1e-4, atol=1e-4)


def test_all_food_is_worth_one():
    """An episode of foraging that ends because nothing is left has earned 1, and nobody can earn more."""
    env = make("lbf/2s-8x8-2p-2f-coop")
    generator = torch.Generator().manual_seed(10)
    step, finished = env.reset(), 0
    for _ in range(100):
        step = env.step(gather(env, step, generator))
        torch.testing.assert_close(step.info["episode_return"][step.terminated], torch.ones(int(step.terminated.sum())))
        assert (step.info["episode_return"] < 1 + 1e-5).all()
        finished += int(step.terminated.sum())
    assert finished > 10


def test_a_connected_board_is_won():
    """The return of an episode of the connector is 1 per connected agent, less 0.03 per agent and unconnected step."""
    env = make("connector/con-5x5x3a")
    generator = torch.Generator().manual_seed(11)
    step = env.reset()
    won = 0
    for _ in range(200):
        before = torch.tensor(np.asarray(env.original_states().agents.connected).sum(1))
        step = env.step(legal_actions(env, step.available, generator))
        gained = (3 * step.info["connected"]).round() - before
        expected = gained - 0.03 * (3 - before)
        torch.testing.assert_close(step.reward, expected[:, None].expand(-1, 3).float(), rtol=1e-5, atol=1e-5)
        won += int(step.info["won"].sum())
    assert won > 3


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("lbf/8x8-2p-2f-cop", {}, r"unknown task 'lbf/8x8-2p-2f-cop'; nearest: .*; or any lbf/\[<sight>s-\]<side>x<"),
        ("lbf/8x9-2p-2f", {}, "unknown task"),
        ("lbf/4x4-2p-2f", {}, "'lbf/4x4-2p-2f' does not fit"),
        ("lbf/9s-8x8-2p-2f", {}, "does not fit"),
        ("lbf/8x8-2p-8f", {}, "does not fit"),
        ("rware/tny-2ag", {}, "unknown task 'rware/tny-2ag'; nearest: rware/tiny-2ag"),
        ("rware/tiny-2ag-easy", {}, "unknown task"),
        ("rware/tiny-21ag", {}, "agents must be 1..20"),
        ("rware/tiny-1ag-hard", {}, "at least 2 in a hard task"),
        ("connector/con-5x5x3", {}, "unknown task 'connector/con-5x5x3'; nearest: connector/con-5x5x3a"),
        ("connector/con-5x6x3a", {}, "unknown task"),
        ("connector/con-5x5x9a", {}, "does not fit"),
        ("smax/2s3", {}, "unknown task 'smax/2s3'; nearest: smax/2s3z"),
        ("smax/MMM2", {}, "unknown task 'smax/MMM2'"),
        ("jaxmpe/spread_3", {}, "unknown task 'jaxmpe/spread_3'; nearest: .*; or any jaxmpe/spread_<agents>ag"),
        ("jaxmpe/spread_101ag", {}, "agents must be 1..100"),
        ("jaxmpe/spread_3ag", {"actions": "continous"}, "unknown actions 'continous'; nearest: continuous"),
        ("jaxmpe/spread_3ag", {"debug": 1}, "'debug' must be True or False, not 1"),
        ("smax/2s3z", {"actions": "discrete"}, "unknown option 'actions'"),
        ("smax/2s3z", {"num_envs": 0}, "num_envs must be an integer of at least 1"),
    ],
)
def test_bad_input_is_one_helpful_line(task, options, message):
    with pytest.raises(InputError, match=message) as error:
        envs.make(task, **options)
    assert "\n" not in str(error.value)


def test_another_version_of_a_suite_is_refused(monkeypatch):
    monkeypatch.setitem(jax_bridge.VERSIONS, "jumanji", "1.1.2")
    with pytest.raises(InputError, match=r"jumanji 1\.1\.1 is installed, but .* 1\.1\.2 is needed; install .*pip inst"):
        jax_bridge.load("jumanji.environments.routing.lbf.env")


def test_other_sizes_follow_the_pattern():
    assert lbf.sizes("3s-9x9-4p-1f-coop") == (9, 3, 4, 1, True)
    assert rware.sizes("xlarge-6ag-hard") == (4, 5, 6, 3)
    assert connector.sizes("con-6x6x4a") == (6, 4)
    assert envs.make("jaxmpe/spread_4ag").spec.obs_size == 24
    assert jaxmpe.PATTERN in str(envs.unknown_task("jaxmpe", "spread"))
