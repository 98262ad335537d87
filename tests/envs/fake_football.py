"""A stand-in for `gfootball`, faithful in its interface and its two traps; the football is ten lines.

As in gfootball 2.10.2: what `create_environment` takes, how a scenario is built and found, observations and the raw
ones behind them, rewards, `info`, the configuration that decides an episode's seed, and that an engine which controls
fewer players than it may hands over others.
"""

import importlib
import random
import sys
import types
from enum import Enum
from typing import ClassVar

import numpy as np

GAME_DURATION = 400  # the engine plays one step more
Team = Enum("Team", ["e_Left", "e_Right"])
COUNTS = {
    "academy_3_vs_1_with_keeper": (4, 2),
    "academy_run_pass_and_shoot_with_keeper": (3, 2),
    "academy_counterattack_easy": (11, 11),
    "academy_counterattack_hard": (11, 11),
}


class Builder:
    """Collects what a scenario says."""

    def __init__(self):
        self.left, self.right, self.team, self.settings = [], [], None, types.SimpleNamespace()

    def config(self):
        return self.settings

    def SetBallPosition(self, x, y):
        self.ball = (x, y)

    def SetTeam(self, team):
        self.team = team

    def AddPlayer(self, x, y, role, lazy=False, controllable=True):
        (self.left if self.team == Team.e_Left else self.right).append(((x, y), role, lazy, controllable))


def scenario(name):
    """The module of a scenario: everybody may be controlled."""
    left, right = COUNTS[name]

    def build_scenario(builder):
        builder.config().game_duration = GAME_DURATION
        builder.SetBallPosition(0.6, 0.0)
        for team, count in ((Team.e_Left, left), (Team.e_Right, right)):
            builder.SetTeam(team)
            for index in range(count):
                builder.AddPlayer(-1.0 if index == 0 else 0.5 + 0.01 * index, 0.0, "GK" if index == 0 else "CM")

    module = types.ModuleType(f"gfootball.scenarios.{name}")
    module.build_scenario = build_scenario
    return module


class Engine:
    """An episode: the ball goes forward when somebody sprints, and is lost or leaves the field by chance."""

    made: ClassVar[list] = []

    def __init__(self, level, rewards, agents, settings):
        self.builder = Builder()
        importlib.import_module(f"gfootball.scenarios.{level}").build_scenario(self.builder)
        self.controllable = [index for index, player in enumerate(self.builder.left) if player[3]]
        if agents > len(self.controllable):
            raise IndexError("Index out of range")
        self.agents, self.rewards = agents, rewards.split(",")
        assert "scoring" in self.rewards
        self._config = dict(settings)
        self.unwrapped, self.closed, self.history = self, False, []
        Engine.made.append(self)

    def reset(self):
        seed = self._config.get("game_engine_random_seed")
        seed = random.randint(0, 2000000000) if seed is None else seed
        turn = self._config.get("reverse_team_processing", bool(seed % 2))
        self.history.append((seed, turn))
        self.random = np.random.default_rng([seed, turn])
        self.ball, self.time, self.collected = 0.6 + 0.1 * self.random.random(), 0, [0] * self.agents
        return self.convert()

    def active(self):
        """The players that the agents have now."""
        if self.agents == len(self.controllable):
            return self.controllable
        return list(np.roll(self.controllable, -(self.time // 10))[: self.agents])

    def step(self, action):
        assert isinstance(action, list)
        assert all(type(one) is int and 0 <= one < 19 for one in action)
        self.time += 1
        holder = int(self.random.integers(self.agents))
        self.ball += 0.03 * (action[holder] == 13) + 0.002 * self.random.normal()
        scored = 1 if self.ball > 1 else -1 if self.random.random() < 0.002 else 0
        lost = self.random.random() < 0.004
        reward = np.full(self.agents, scored, np.float32)
        if "checkpoints" in self.rewards:
            while self.collected[holder] < 10 and self.ball > 0.6 + 0.04 * (self.collected[holder] + 1):
                reward[holder] += 0.1
                self.collected[holder] += 1
        done = bool(scored or lost or self.time > GAME_DURATION)
        return self.convert(), reward, done, {"score_reward": scored}

    def observation(self):
        return [{"steps_left": GAME_DURATION + 1 - self.time, "active": active} for active in self.active()]

    def convert(self):
        obs = np.zeros((self.agents, 115), np.float32)
        obs[:, 88], obs[:, 0] = self.ball, self.time
        obs[np.arange(self.agents), 97 + np.array(self.active())] = 1
        return obs

    def close(self):
        self.closed = True


def create_environment(
    env_name="",
    representation="extracted",
    rewards="scoring",
    number_of_left_players_agent_controls=1,
    other_config_options={},  # noqa: B006  as in the package
):
    assert representation == "simple115v2"
    return Engine(env_name, rewards, number_of_left_players_agent_controls, other_config_options)


def install(monkeypatch, gym="0.23.1"):
    """Put the package, and what it needs, among the imported modules."""
    modules = {name: types.ModuleType(name) for name in ("gfootball", "gfootball.env", "gym", "six", "cv2")}
    modules["gfootball"].__path__ = []
    modules["gfootball.env"].create_environment = create_environment
    modules["gym"].__version__ = gym
    modules["gfootball.scenarios"] = types.ModuleType("gfootball.scenarios")
    modules["gfootball.scenarios"].__path__ = []
    modules["gfootball.scenarios"].Team = Team
    modules |= {f"gfootball.scenarios.{name}": scenario(name) for name in COUNTS}
    for name in [name for name in sys.modules if name.startswith("gfootball")]:
        monkeypatch.delitem(sys.modules, name)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(Engine, "made", [])
