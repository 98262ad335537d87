"""The scripted football players and their matches as tables, on situations made by hand and on the stand-in."""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fake_football
import pytest
import torch

from inconcert.config import InputError
from inconcert.envs import football
from inconcert.envs import football_players as players
from inconcert.envs.football import ACTIONS, FIELDS

ROOT = Path(__file__).resolve().parents[2]
FIRST = football.TASKS[0]


@pytest.fixture
def engine(monkeypatch):
    fake_football.install(monkeypatch)
    return fake_football.Engine


def situation(ours, ball, theirs, owner):
    """A step of one row: agents are players 1, 2, ... at `ours`; the ball, and who has it (0 nobody, 1 we, 2 they)."""
    obs = torch.zeros(1, len(ours), football.FEATURES)
    left, right = obs[..., FIELDS["left positions"]], obs[..., FIELDS["right positions"]]
    left[:], right[:] = -1, -1
    for number, place in enumerate([(-1.0, 0.0), *ours]):
        left[0, :, 2 * number : 2 * number + 2] = torch.tensor(place)
    for number, place in enumerate(theirs):
        right[0, :, 2 * number : 2 * number + 2] = torch.tensor(place)
    obs[..., FIELDS["ball position"]] = torch.tensor([*ball, 0.1])
    obs[..., FIELDS["ball owner"].start + owner] = 1
    for agent in range(len(ours)):
        obs[0, agent, FIELDS["active player"].start + agent + 1] = 1
    return SimpleNamespace(obs=obs)


ENV = SimpleNamespace(device=torch.device("cpu"))


def choices(*arguments):
    return [ACTIONS[action] for action in players.attack(ENV, situation(*arguments), torch.Generator())[0].tolist()]


def test_running_goes_the_nearest_way():
    for eighth, way in enumerate(
        ["right", "bottom_right", "bottom", "bottom_left", "left", "top_left", "top", "top_right"]
    ):
        for off in (-0.3, 0.0, 0.3):
            angle = math.pi / 4 * eighth + off
            assert ACTIONS[players.run(torch.tensor([math.cos(angle), math.sin(angle)]))] == way


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # who has the ball runs to the goal, the others too
        (([(0.5, 0.0), (0.4, 0.3)], (0.5, 0.0), [(1.0, 0.0)], 1), ["right", "top_right"]),
        # in range it shoots, and only who has the ball does
        (([(0.8, 0.0), (0.85, 0.1)], (0.8, 0.0), [(1.0, 0.0)], 1), ["shot", "top_right"]),
        # a loose ball is fetched by the nearest, nobody shoots
        (([(0.8, 0.0), (0.5, 0.1)], (0.8, 0.2), [(1.0, 0.0)], 0), ["bottom", "right"]),
        # an opponent in the way is passed on the other side
        (([(0.5, 0.0)], (0.5, 0.0), [(0.6, 0.05)], 1), ["top_right"]),
        (([(0.5, 0.0)], (0.5, 0.0), [(0.6, -0.05)], 1), ["bottom_right"]),
        # one behind, or far off, is not
        (([(0.5, 0.0)], (0.5, 0.0), [(0.45, 0.05)], 1), ["right"]),
        (([(0.5, 0.0)], (0.5, 0.0), [(0.7, 0.05)], 1), ["right"]),
        (([(0.5, 0.0)], (0.5, 0.0), [], 1), ["right"]),
    ],
)
def test_the_attack(arguments, expected):
    assert choices(*arguments) == expected


def test_matches_as_a_table(engine):
    table = players.play(FIRST, "random", 12, seed=1, workers=0)
    assert table["episode"].tolist() == list(range(12))
    assert table["steps"].between(1, football.EPISODE_LIMIT).all()
    assert not (table["goal"] & table["conceded"]).any()
    assert table.equals(players.play(FIRST, "random", 12, seed=1, workers=0))
    assert not table.equals(players.play(FIRST, "random", 12, seed=2, workers=0))
    with pytest.raises(InputError, match="unknown player 'atack'; nearest: attack"):
        players.play(FIRST, "atack", 1)
    with pytest.raises(InputError, match="episodes must be at least 1, not 0"):
        players.play(FIRST, "idle", 0)


def test_a_track_follows_the_match(engine):
    table = players.track(FIRST, "idle", seed=1, workers=0)
    assert table["step"].unique().tolist() == list(range(table["step"].max() + 1))
    assert set(table.loc[table["agent"] >= 0, "who"]) == {"left 1", "left 2", "left 3"}
    assert (table.groupby("step")["who"].nunique() == table["who"].nunique()).all()
    assert set(table["who"]) >= {"ball", "left 0"}


def test_repeats_tell_one_seed_from_many(engine):
    table = players.repeats(FIRST, 5)
    assert table.groupby("seeding")["print"].nunique().to_dict() == {
        "one engine seed": 1,
        "a seed for each episode": 5,
    }


@pytest.mark.skipif(importlib.util.find_spec("gfootball") is not None, reason="Google Research Football is installed")
def test_measuring_without_the_engine_says_what_to_do():
    command = [sys.executable, ROOT / "workflow" / "measure_football.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "install it with: make football" in done.stderr
    assert done.stderr.count("\n") == 1
