"""Google Research Football: the adaptor against a stand-in for the package, and, where `make football` was called, the
package itself."""

import importlib.util
import random
import re
import subprocess
import sys
from pathlib import Path

import fake_football
import numpy as np
import pytest
import test_contract as contract
import torch
from test_contract import flat, same, trace

from inconcert import envs
from inconcert.config import InputError
from inconcert.envs import football

ROOT = Path(__file__).resolve().parents[2]
SMALL, MIDDLE, EASY, HARD = (
    "academy_run_pass_and_shoot_with_keeper",
    *list(football.AGENTS)[:1],
    *list(football.AGENTS)[2:],
)
INSTALLED = importlib.util.find_spec("gfootball") is not None
real = pytest.mark.skipif(not INSTALLED, reason="Google Research Football is not installed; `make football` does it")


@pytest.fixture
def engine(monkeypatch):
    """The stand-in."""
    fake_football.install(monkeypatch)
    return fake_football.Engine


def make(name=MIDDLE, num_envs=2, seed=0, workers=0, **options):
    return envs.make(f"football/{name}", num_envs=num_envs, seed=seed, workers=workers, **options)


def act(env, generator, sprint=0.0):
    shape = (env.num_envs, env.spec.num_agents)
    actions = torch.randint(19, shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < sprint, 13, actions)


# ------------------------------------------------------------------------------------------------ without the package


def test_tasks_and_sizes_are_known_without_the_package():
    assert envs.tasks("football") == [f"football/{name}" for name in football.AGENTS]
    sizes = {name: football.spec(name) for name in football.TASKS}
    assert {name: (one.num_agents, one.state_size) for name, one in sizes.items()} == {
        "academy_3_vs_1_with_keeper": (3, 137),
        "academy_run_pass_and_shoot_with_keeper": (2, 126),
        "academy_counterattack_easy": (4, 148),
        "academy_counterattack_hard": (4, 148),
    }
    assert {(one.num_actions, one.obs_size, one.episode_limit, one.metric) for one in sizes.values()} == {
        (19, 115, 401, "goal")
    }
    covered = sorted(index for field in football.FIELDS.values() for index in range(115)[field])
    assert covered == list(range(115))


@pytest.mark.skipif(INSTALLED, reason="Google Research Football is installed")
def test_a_missing_package_names_the_command():
    with pytest.raises(InputError, match=r"suite 'football' is not installed \(no gfootball, .*: make football$"):
        envs.make(f"football/{SMALL}")


def test_pins_agree_with_the_lock_and_the_recipe():
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "workflow/football.txt").read_text(), re.MULTILINE))
    lock = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert {"gym", "six", "absl-py", "opencv-python-headless"} <= set(pins)
    assert {name: lock.get(name, version) for name, version in pins.items()} == pins
    script = (ROOT / "workflow/football.sh").read_text()
    assert f"gym=={pins['gym']}" in script
    assert "release=2.10.2" in script


def test_the_recipe_needs_an_environment(tmp_path):
    command = [ROOT / "workflow/football.sh", tmp_path / "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "There is no virtual environment at" in done.stderr


# ---------------------------------------------------------------------------------------------- against the stand-in


@pytest.mark.parametrize("release", ["0.21.0", "0.26.2", "1.0.0"])
def test_another_gym_is_refused(monkeypatch, release):
    fake_football.install(monkeypatch, gym=release)
    with pytest.raises(InputError, match=f"needs gym 0.22 to 0.25, not {release}; repair it with: make football"):
        make()


def test_an_engine_that_does_not_load(engine, monkeypatch):
    monkeypatch.delitem(sys.modules, "gfootball.env")
    with pytest.raises(InputError, match=r"the football engine does not load \(.*\); repair it with: make football"):
        make()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "academy_3_vs_1"}, "unknown task 'football/academy_3_vs_1'; nearest: football/academy_3_vs_1_with_k"),
        ({"rewards": "checkpoints"}, "unknown rewards 'checkpoints'; .*scoring, scoring,checkpoints"),
        ({"share": "sum"}, "unknown share 'sum'; .*each, first"),
        ({"players": "four"}, "unknown players 'four'; .*fixed, switching"),
        ({"reward": "scoring"}, "unknown option 'reward'; nearest: rewards"),
        ({"workers": -1}, "workers must be an integer of at least 0"),
    ],
)
def test_bad_input(engine, arguments, message):
    with pytest.raises(InputError, match=message):
        make(**arguments)


@pytest.mark.parametrize("name", football.TASKS)
def test_only_the_attackers_may_be_controlled(engine, name):
    env = make(name, num_envs=1)
    (game,) = engine.made
    assert tuple(game.controllable) == football.AGENTS[name]
    assert 0 not in game.controllable, "the goalkeeper"
    left, right = fake_football.COUNTS[name]
    assert (len(game.builder.left), len(game.builder.right)) == (left, right)
    assert all(player[3] for player in game.builder.right)
    assert game.builder.settings.game_duration == 400
    step = env.observe()
    actives = step.obs[0, :, football.FIELDS["active player"]].argmax(-1).tolist()
    assert actives == list(football.AGENTS[name])
    rest = step.state[0, 115:].view(-1, 11).argmax(-1).tolist()
    assert torch.equal(step.state[0, :115], step.obs[0, 0])
    assert rest == actives[1:]


def test_the_switching_trap_is_an_option(engine):
    """Left to itself the engine gives the agents other players within an episode, the goalkeeper first."""
    env = make(players="switching", num_envs=1)
    seen = set()
    for _ in range(30):
        step = env.step(torch.zeros(1, 3, dtype=torch.long))
        seen.add(tuple(step.final_obs[0, :, football.FIELDS["active player"]].argmax(-1).tolist()))
    assert len(seen) > 1
    assert any(0 in players for players in seen)


def test_episodes_vary_and_follow_from_the_seed_alone(engine):
    """Neither the one episode of a fixed seed, nor Python's generator."""
    runs = []
    for state in (1, 2):
        random.seed(state)
        before = random.getstate()
        make(seed=4, num_envs=2)
        assert random.getstate() == before
        runs.append([game.history for game in engine.made[-2:]])
        env = make(seed=4, num_envs=2)
        generator = torch.Generator().manual_seed(0)
        for _ in range(900):
            env.step(act(env, generator, sprint=0.5))
        runs.append([game.history for game in engine.made[-2:]])
    assert runs[0] == runs[2]
    assert runs[1] == runs[3]
    episodes = [episode for history in runs[1] for episode in history]
    assert len(episodes) > 20
    assert len({seed for seed, _ in episodes}) == len(episodes)
    assert all(turn == seed % 2 for seed, turn in episodes)
    assert {turn for _, turn in episodes} == {True, False}


def test_a_goal_is_the_metric_and_time_out_truncates(engine, monkeypatch):
    monkeypatch.setattr(fake_football, "GAME_DURATION", 60)
    env = make(num_envs=8, rewards="scoring")
    generator = torch.Generator().manual_seed(0)
    seen = {"goal": 0, "conceded": 0, "lost": 0, "time": 0}
    for _ in range(900):
        step = env.step(act(env, generator, sprint=0.3))
        for row in range(8):
            reward, goal = step.reward[row, 0].item(), bool(step.info["goal"][row])
            length = int(step.info["episode_length"][row])
            assert goal == (reward == 1)
            if step.truncated[row]:
                assert (length, reward) == (61, 0)
                seen["time"] += 1
            elif step.terminated[row]:
                seen[{1: "goal", -1: "conceded", 0: "lost"}[int(reward)]] += 1
            else:
                assert reward == 0
                assert length < 61
    assert min(seen.values()) > 0, seen


def test_a_goal_in_the_last_step_is_no_time_out(engine, monkeypatch):
    monkeypatch.setattr(fake_football, "GAME_DURATION", 0)
    env = make(num_envs=1)
    engine.made[0].ball = 1.5
    step = env.step(torch.zeros(1, 3, dtype=torch.long))
    assert step.info["goal"]
    assert step.terminated
    assert not step.truncated


def test_whose_reward(engine):
    """Checkpoints go to who carries the ball; "first" gives everybody what the first agent gets."""
    each, first = make(seed=1), make(seed=1, share="first")
    generator = torch.Generator().manual_seed(0)
    uneven = 0
    for _ in range(200):
        actions = act(each, generator, sprint=0.5)
        one, other = each.step(actions), first.step(actions)
        assert torch.equal(other.reward, one.reward[:, :1].expand(-1, 3))
        uneven += int((one.reward != one.reward[:, :1]).any())
    assert uneven > 5


def test_the_engine_gets_plain_integers_and_is_closed(engine):
    env = make()
    env.step(torch.full((2, 3), 18, dtype=torch.int32))  # the stand-in refuses anything else
    games = list(engine.made)
    env.close()
    assert all(game.closed for game in games)


# ------------------------------------------------------------------------------------------------------- the real one


@real
@pytest.mark.parametrize("name", football.TASKS)
def test_contract(name):
    task = f"football/{name}"
    contract.test_shapes_types_and_devices(task)
    contract.test_first_step_has_no_reward_and_no_end(task)


@real
def test_contract_of_rows_and_seeds(tmp_path):
    task = f"football/{SMALL}"
    contract.test_rows_and_seeds_differ(task)
    contract.test_a_seeds_block_is_that_seed_alone(task)
    contract.test_state_survives_a_file(task, tmp_path)


@real
@pytest.mark.timeout(600)
def test_contract_of_kept_steps():
    contract.test_steps_stay_valid(f"football/{SMALL}")


@real
@pytest.mark.parametrize("name", football.TASKS)
def test_agents_keep_their_players(name):
    """The real engine, through two episodes at least."""
    env = make(name, num_envs=1)
    generator = torch.Generator().manual_seed(0)
    ends = 0
    for _ in range(250):
        step = env.step(act(env, generator))
        for obs in (step.obs, step.final_obs):
            actives = obs[0, :, football.FIELDS["active player"]]
            assert actives.sum(-1).eq(1).all()
            assert actives.argmax(-1).tolist() == list(football.AGENTS[name])
        ends += int(step.terminated | step.truncated)
    assert ends > 0


@real
def test_without_the_cure_they_do_not():
    env = make(players="switching", num_envs=2)
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(150):
        step = env.step(act(env, generator))
        for obs in (step.obs, step.final_obs):
            seen |= {tuple(row) for row in obs[..., football.FIELDS["active player"]].argmax(-1).tolist()}
    assert len(seen) > 1
    assert any(0 in players for players in seen)


@real
@pytest.mark.parametrize("rewards", ["scoring", "scoring,checkpoints"])
def test_a_row_is_what_the_package_plays(rewards):
    """Step by step against gfootball itself, set up by hand: several episodes, their seeds included."""
    from gfootball.env import create_environment

    env = make(MIDDLE, num_envs=1, seed=3, rewards=rewards, players="switching")
    plain = create_environment(
        env_name=MIDDLE,
        representation="simple115v2",
        rewards=rewards,
        number_of_left_players_agent_controls=3,
        other_config_options={"game_engine_random_seed": 0, "reverse_team_processing": False},
    )
    generator = torch.Generator().manual_seed(0)
    episodes = 0

    def begin():
        seed = env._seed_of(0)
        plain.unwrapped._config["game_engine_random_seed"] = seed
        plain.unwrapped._config["reverse_team_processing"] = bool(seed % 2)
        return plain.reset()

    obs = begin()
    assert np.array_equal(env.observe().obs[0].numpy(), obs)
    while episodes < 3:
        actions = act(env, generator)
        step = env.step(actions)
        obs, reward, done, info = plain.step(actions[0].tolist())
        assert np.array_equal(step.final_obs[0].numpy(), obs)
        assert np.array_equal(step.reward[0].numpy(), reward)
        assert bool(step.terminated | step.truncated) == done
        assert bool(step.info["goal"]) == (info["score_reward"] > 0)
        if done:
            episodes += 1
            assert np.array_equal(step.obs[0].numpy(), begin())
    plain.close()


@real
def test_processes_play_what_one_process_plays():
    """Also that matches in one process do not disturb each other."""
    runs = [trace(make(SMALL, num_envs=2, seed=[1, 2], workers=workers), steps=60) for workers in (0, 2, 4)]
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])


@real
def test_a_saved_state_continues_exactly():
    env = make(SMALL, num_envs=2, seed=1)
    generator = torch.Generator().manual_seed(2)
    for _ in range(45):
        env.step(act(env, generator))
    state = env.state_dict()
    actions = [act(env, generator) for _ in range(60)]
    future = [flat(env.step(one)) for one in actions]
    other = make(SMALL, num_envs=2, seed=9, workers=2)
    other.load_state_dict(state)
    assert same([flat(other.step(one)) for one in actions], future)


@real
@pytest.mark.timeout(600)
def test_a_time_out_truncates():
    """Nobody touches the ball: the keeper's team may come and take it, or the clock runs out."""
    env = make(MIDDLE, num_envs=4, seed=0)
    generator = torch.Generator().manual_seed(0)
    ends = []
    while not any(step_truncated for step_truncated, _ in ends) and len(ends) < 40:
        step = env.step(torch.randint(9, (4, 3), generator=generator))  # run about
        for row in (step.terminated | step.truncated).nonzero().flatten().tolist():
            ends.append((bool(step.truncated[row]), int(step.info["episode_length"][row])))
    assert all(length <= football.EPISODE_LIMIT for _, length in ends), ends
    assert all(length == football.EPISODE_LIMIT for truncated, length in ends if truncated), ends
