"""SMAC and SMACv2, against a stand-in for their packages and for the game (`fake_smac.py`): no StarCraft II here."""

import importlib
import random
import subprocess
import sys

import fake_smac
import numpy as np
import pytest
import torch

from inconcert import envs
from inconcert.config import InputError
from inconcert.envs import smac, smacv2, starcraft

MAP_FILES = [*smac.MAPS, *(file for _, _, file, _ in smac.EXTRA.values()), smacv2.MAP_FILE]
PACKAGES = ("smac", "smacv2", "pysc2")


def forget():
    for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def nothing(monkeypatch, tmp_path):
    """Neither package nor game."""
    if any(importlib.util.find_spec(name) for name in PACKAGES):
        pytest.skip("the real packages are installed here")
    monkeypatch.setenv("SC2PATH", str(tmp_path / "game"))
    yield tmp_path
    forget()


@pytest.fixture
def packages(nothing, monkeypatch):
    """The packages, but no game."""
    monkeypatch.syspath_prepend(str(fake_smac.install(nothing / "packages")))
    forget()
    return nothing


@pytest.fixture
def game(packages, monkeypatch):
    """Everything."""
    fake_smac.install_game(packages / "game", MAP_FILES)
    monkeypatch.setattr(fake_smac, "LAUNCHED", [])
    monkeypatch.setattr(fake_smac.GeneratedEnv, "refuses", 0)
    return packages


def make(task="smac/3s5z", num_envs=2, seed=0, workers=0, **options):
    return envs.make(task, num_envs=num_envs, seed=seed, workers=workers, **options)


def inner(env, row=0):
    """The package's environment of a row."""
    return env._crew._host._games[row].game


def act(env, generator):
    weights = env.observe().available.flatten(0, 1).float()
    return torch.multinomial(weights, 1, generator=generator).view(env.num_envs, env.spec.num_agents)


def hold(env):
    """Nobody moves or shoots; the dead do nothing."""
    return (~env.observe().available[..., 0]).long()


def flat(step):
    return [tensor.clone() for tensor in (*step[:-1], *(step.info[name] for name in sorted(step.info)))]


def trace(env, steps=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [flat(env.observe()), *(flat(env.step(act(env, generator))) for _ in range(steps))]


def same(one, other):
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


# --------------------------------------------------------------------------------------------------- names and sizes


def test_tasks_are_listed_without_anything_installed(nothing):
    """The maps of the papers among them."""
    kpf = ["8m_vs_9m", "5m_vs_6m", "3s5z", "10m_vs_11m", "MMM2", "3s5z_vs_3s6z", "27m_vs_30m", "corridor", "6h_vs_8z"]
    ensemble_mix = ["2_corridors", "MMM2", "MMM3", "27m_vs_30m", "3s_vs_5z", "1c3s5z_vs_1c3s6z", "7sz"]
    kpf_v2 = ["terran_5_vs_5", "protoss_5_vs_5", "zerg_5_vs_5", "zerg_10_vs_10", "zerg_10_vs_11"]
    assert {f"smac/{name}" for name in (*kpf, *ensemble_mix)} <= set(envs.tasks("smac"))
    assert {f"smacv2/{name}" for name in kpf_v2} <= set(envs.tasks("smacv2"))
    assert not set(sys.modules) & set(PACKAGES)
    code = "import sys; from inconcert.__main__ import main; sys.argv = ['inconcert', 'list', 'tasks']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"smac/MMM2", "smacv2/zerg_10_vs_11", "football/academy_counterattack_hard"} <= set(done.stdout.split())


def sizes_of(spec):
    enemies = spec.num_actions - starcraft.NO_ATTACK
    return spec.num_agents, enemies, spec.num_actions, spec.obs_size, spec.state_size, spec.episode_limit


@pytest.mark.parametrize("name", smac.MAPS)
def test_sizes_are_those_measured_with_the_package(name):
    spec = starcraft.spec(smac.MAPS[name])
    assert sizes_of(spec) == fake_smac.MEASURED[name]
    assert spec.metric == "won"


@pytest.mark.parametrize("name", smacv2.TASKS)
def test_sizes_of_v2_are_those_measured_with_the_package(name):
    spec = starcraft.spec(smacv2.battle(name), own_position=True)
    assert sizes_of(spec) == fake_smac.MEASURED_V2[name]


def test_a_package_with_other_sizes_is_noticed(game, monkeypatch):
    monkeypatch.setitem(fake_smac.MEASURED, "3m", (3, 3, 9, 33, 48, 60))
    with pytest.raises(InputError, match="has other sizes than expected here: obs_shape 33 instead of 30"):
        make("smac/3m")


# -------------------------------------------------------------------------------------------------- what is missing


def test_no_package(nothing):
    for task in ("smac/3m", "smacv2/terran_5_vs_5"):
        suite = task.split("/")[0]
        with pytest.raises(InputError, match=f"suite '{suite}' is not installed; .*: make starcraft"):
            make(task)


def test_the_optimiser_of_the_same_name(nothing, monkeypatch):
    """PyPI's smac is an AutoML library: importable, and of no use here."""
    (nothing / "packages" / "smac" / "main").mkdir(parents=True)
    (nothing / "packages" / "smac" / "__init__.py").write_text("from ConfigSpace import Configuration\n")
    monkeypatch.syspath_prepend(str(nothing / "packages"))
    forget()
    with pytest.raises(InputError, match=r"an optimiser .* from PyPI; .*: pip uninstall --yes smac; make starcraft"):
        make("smac/3m")
    assert "smac" not in sys.modules, "finding out does not import it"


def test_no_pysc2(packages):
    (packages / "packages" / "pysc2" / "__init__.py").unlink()
    (packages / "packages" / "pysc2").rmdir()
    forget()
    with pytest.raises(InputError, match=r"needs pysc2, which is not installed; .*: make starcraft"):
        make("smac/3m")


def test_a_package_that_does_not_load(game):
    (game / "packages" / "smac" / "env" / "__init__.py").write_text(
        "raise TypeError('Descriptors cannot be created directly.\\nMore lines.')\n"
    )
    with pytest.raises(InputError, match=r"does not load \(TypeError: Descriptors .*\); .*: make starcraft") as error:
        make("smac/3m")
    assert "\n" not in str(error.value)


def test_no_game(packages):
    with pytest.raises(InputError, match=r"StarCraft II is not in .*game: download it from https://.*SC2PATH") as error:
        make("smac/3m")
    assert "\n" not in str(error.value)


def test_a_game_without_program(packages):
    (packages / "game" / "Versions" / "Base75689").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no program Versions/Base\*/SC2_x64: unpack it again from https://"):
        make("smac/3m")


@pytest.mark.parametrize(
    ("task", "file", "source"),
    [
        ("smac/MMM2", "MMM2", "oxwhirl/smac/releases"),
        ("smac/MMM3", "MMM2_7m2M1M_vs_9m3M1M", "https://github.com/j3soon/dfac-extended"),
        ("smacv2/zerg_5_vs_5", "32x32_flat", "oxwhirl/smacv2/releases"),
    ],
)
def test_no_map(packages, task, file, source):
    fake_smac.install_game(packages / "game", ["3m"])
    with pytest.raises(InputError, match=rf"map {file}.SC2Map is not in .*SMAC_Maps: put it there, from .*{source}"):
        make(task)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_game_that_does_not_start(game, workers):
    with pytest.raises(
        InputError, match=r"does not start \(Unknown game version: 9\.9.*\); look at .*game, or see http"
    ):
        make("smac/3m", workers=workers, game_version="9.9")


def test_workers_see_variables_set_after_the_first_workers(game, monkeypatch):
    """Workers are forked from a server that keeps the variables of its own start."""
    make("smac/3m", workers=1).close()
    elsewhere = game / "moved"
    (game / "game").rename(elsewhere)
    monkeypatch.setenv("SC2PATH", str(elsewhere))
    make("smac/3m", workers=1).close()


def test_the_error_of_the_launcher_is_no_os_error(game):
    with pytest.raises(InputError, match=r"does not start \(No SC2 Versions found"), starcraft.launching():
        raise fake_smac.SC2LaunchError("No SC2 Versions found in: nowhere")
    with pytest.raises(ZeroDivisionError), starcraft.launching():
        raise ZeroDivisionError


def test_both_suites_need_processes(game):
    class DuplicateMapError(Exception):
        pass

    with pytest.raises(InputError, match="SMAC and SMACv2 cannot be in one process"), starcraft.launching():
        raise DuplicateMapError("Duplicate map found: 3m")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "smac/3s5"}, "unknown task 'smac/3s5'; nearest: smac/3s5z"),
        ({"task": "smacv2/terran_5v5"}, "unknown task 'smacv2/terran_5v5'; nearest: smacv2/terran_5_vs_5"),
        ({"difficulty": 7}, "unknown difficulty 7; .*valid: 1, 2"),
        ({"rewards": "dense"}, "unknown rewards 'dense'; .*shaped, sparse"),
        ({"task": "smacv2/zerg_5_vs_5", "rewards": "dense"}, "unknown rewards 'dense'"),
        ({"last_action": 1}, "'last_action' must be True or False, not 1"),
        ({"dificulty": "7"}, "unknown option 'dificulty'; nearest: difficulty"),
    ],
)
def test_bad_input(game, arguments, message):
    with pytest.raises(InputError, match=message):
        make(**arguments)


# ------------------------------------------------------------------------------------------------------------ playing


@pytest.mark.parametrize("task", ["smac/3s5z", "smac/MMM3", "smac/7sz", "smacv2/terran_10_vs_11"])
def test_a_row_is_what_the_package_says(game, task):
    """Observations, state, mask, reward, ends and who won, step by step, beside the package's own methods."""
    env = make(task, num_envs=2, rewards="shaped")
    generator = torch.Generator().manual_seed(1)
    seen = {"won": 0, "terminated": 0, "steps": 0}
    for _ in range(200):
        actions, games = act(env, generator), [inner(env, row) for row in range(2)]
        before = [(one.battles_won, one.battles_game, one.timeouts) for one in games]
        step = env.step(actions)
        for row, one in enumerate(games):
            after = (one.battles_won, one.battles_game, one.timeouts)
            won, fought, timed_out = (now - then for now, then in zip(after, before[row], strict=True))
            assert step.terminated[row] == (fought == 1)
            assert step.truncated[row] == (timed_out == 1)
            assert step.info["won"][row] == (won == 1)
            assert np.array_equal(step.obs[row].numpy(), np.array(one.get_obs(), np.float32))
            assert np.array_equal(step.state[row].numpy(), one.get_state())
            assert step.available[row].tolist() == np.array(one.get_avail_actions(), bool).tolist()
            assert (step.reward[row] == step.reward[row, 0]).all()
            if fought:
                assert step.final_obs[row].any(-1).sum() == env.spec.num_agents - step.info["dead_allies"][row]
                assert bool(won) == (step.info["dead_enemies"][row] == env.spec.num_actions - starcraft.NO_ATTACK)
            seen["won"] += won
            seen["terminated"] += fought
    assert step.info["won"].dtype == torch.bool
    assert seen["terminated"] > 3
    assert [env._seed_of(row, -int(env._episode[row])) for row in range(2)] == fake_smac.LAUNCHED


def test_a_perfect_battle_earns_twenty_and_more_than_damage(game):
    env = make("smac/3m", num_envs=8)
    generator = torch.Generator().manual_seed(0)
    returns = {True: [], False: []}
    for _ in range(300):
        step = env.step(act(env, generator))
        for row in (step.terminated | step.truncated).nonzero().flatten().tolist():
            returns[bool(step.info["won"][row])].append(step.info["episode_return"][row].item())
    assert len(returns[True]) > 5
    assert len(returns[False]) > 0
    assert max(returns[True]) <= 20.5
    assert min(returns[True]) > max(returns[False])


def test_sparse_rewards(game):
    env = make("smac/3m", num_envs=8, rewards="sparse")
    generator = torch.Generator().manual_seed(0)
    paid = set()
    for _ in range(200):
        step = env.step(act(env, generator))
        assert not step.reward[~step.terminated].any()
        paid |= set(
            zip(step.info["won"][step.terminated].tolist(), step.reward[step.terminated, 0].tolist(), strict=True)
        )
    assert paid == {(True, 1.0), (False, -1.0)}


def test_a_time_limit_truncates(game, monkeypatch):
    monkeypatch.setattr(fake_smac.StarCraft2Env, "own_limit", 3)
    env = make("smac/27m_vs_30m")
    for time in range(1, 7):
        step = env.step(hold(env))
        assert step.truncated.tolist() == [time % 3 == 0] * 2
        assert not step.terminated.any()
        assert not step.info["won"].any()
        assert step.info["episode_length"].tolist() == [(time - 1) % 3 + 1] * 2
    assert inner(env).timeouts == 2


def test_a_broken_connection_truncates(game, monkeypatch):
    """The package reports (0, True, {}) then: no defeat, and nothing to learn from as one."""
    monkeypatch.setattr(fake_smac.StarCraft2Env, "breaks", 2)
    env = make("smac/27m_vs_30m")
    assert not env.step(hold(env)).truncated.any()
    step = env.step(hold(env))
    assert step.truncated.all()
    assert not step.terminated.any()
    assert not step.reward.any()
    assert not step.info["won"].any()
    assert not env.step(hold(env)).truncated.any()


def test_the_mask_and_illegal_actions(game):
    env = make("smac/3m")
    available = env.observe().available
    assert not available[..., 0].any(), "the living may not do nothing"
    assert available[..., 1].all()
    generator = torch.Generator().manual_seed(0)
    while not env.observe().available[..., 0].any():
        env.step(act(env, generator))
    now = env.observe()
    dead = now.available[..., 0]
    assert (now.available[dead].sum(-1) == 1).all()
    assert not now.obs[dead].any()
    actions = act(env, generator)
    row, agent = dead.nonzero()[0].tolist()
    actions[row, agent] = 1
    with pytest.raises(InputError, match=f"illegal action 1 of agent {agent} in row {row}; legal now: 0$"):
        env.step(actions)


def test_options_reach_the_package(game):
    plain = make("smac/3s5z")
    env = make("smac/3s5z", difficulty="A", last_action=True, rewards="sparse", game_version="4.10")
    assert env.spec.obs_size == plain.spec.obs_size + 7 * 14
    assert (inner(env).difficulty, inner(env).reward_sparse, inner(env).game_version) == ("A", True, "4.10")
    assert (inner(plain).difficulty, inner(plain).reward_sparse, inner(plain).game_version) == ("7", False, None)
    assert inner(plain).continuing_episode


@pytest.mark.parametrize("task", ["smac/2s3z", "smacv2/protoss_5_vs_5"])
def test_seeds(game, task):
    """The same seed plays the same battles, another seed others; a seed's block is that seed alone."""
    first, again, other = (trace(make(task, num_envs=2, seed=seed)) for seed in (3, 3, 4))
    assert same(first, again)
    assert not same(first, other)
    both = make(task, num_envs=2, seed=[9, 3])
    generator = torch.Generator().manual_seed(0)
    alone = make(task, num_envs=2, seed=3)
    for _ in range(40):
        actions = act(both, generator)
        assert all(
            torch.equal(a[2:], b) for a, b in zip(flat(both.step(actions)), flat(alone.step(actions[2:])), strict=True)
        )


def test_draws_of_v2_follow_from_the_seed_and_leave_pythons_generator_alone(game):
    def drawn(seed):
        env = make("smacv2/terran_5_vs_5", num_envs=1, seed=seed)
        for _ in range(3):
            env.reset()
        return [
            (one["team_gen"]["ally_team"], one["ally_start_positions"]["item"].tolist()) for one in inner(env).drawn
        ]

    random.seed(1)
    expected = random.random()
    random.seed(1)
    first = drawn(7)
    assert random.random() == expected
    assert len(first) == 4
    assert len({str(one) for one in first}) == 4, "every episode has a draw of its own"
    assert drawn(7) == first
    assert drawn(8) != first


def test_v2_asks_for_what_its_paper_plays(game):
    for name in smacv2.TASKS:
        race, agents, _, enemies = name.split("_")
        config = smacv2.capabilities(name)
        assert (config["n_units"], config["n_enemies"]) == (int(agents), int(enemies))
        weights = dict(zip(config["team_gen"]["unit_types"], config["team_gen"]["weights"], strict=True))
        rare = {"terran": "medivac", "protoss": "colossus", "zerg": "baneling"}[race]
        assert len(weights) == 3
        assert weights.pop(rare) == 0.1
        assert set(weights.values()) == {0.45}
        assert config["team_gen"]["exception_unit_types"] == ([] if race == "protoss" else [rare])
        assert config["start_positions"] == {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32}


def test_a_draw_that_cannot_be_used_is_drawn_again(game):
    """The package's reset returns nothing then."""
    fake_smac.GeneratedEnv.refuses = 2
    env = make("smacv2/zerg_5_vs_5", num_envs=1)
    assert env.observe().obs.shape == (1, 5, 82)
    assert len(inner(env).drawn) == 1


def test_a_loaded_state_begins_the_next_episodes(game):
    env = make("smac/3m", seed=1)
    trace(env, 30)
    state = env.state_dict()
    other = make("smac/3m", seed=5)
    other.load_state_dict(state)
    assert not other.observe().info["episode_length"].any()
    assert torch.equal(other.state_dict()["episode"], state["episode"] + 1)


def test_games_run_in_processes(game):
    """Several workers, seen through the same contract; both suites beside each other."""
    v1, v2 = make("smac/2s3z", workers=2), make("smacv2/terran_5_vs_5", workers=1)
    assert same(trace(v1), trace(make("smac/2s3z")))
    assert same(trace(v2), trace(make("smacv2/terran_5_vs_5")))
    v1.close()
    v2.close()
