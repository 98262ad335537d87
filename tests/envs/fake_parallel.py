"""PettingZoo environments for the tests of the suite `pettingzoo`, in a module that the workers can import.

`parallel_env(kind=...)` is a relay: three agents of different sizes, each with its own way of saying what is legal. A
step's reward is the action played, as its space counts it. Agents leave one after the other.
"""

import os
import signal

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

DEPARTS = {"dict": 3, "info": 5, "plain": 7}
"""After how many steps each agent leaves; the last one is cut off."""


class Relay(ParallelEnv):
    """`kind` is what is odd about it."""

    metadata = {"name": "relay"}  # noqa: RUF012
    possible_agents = list(DEPARTS)  # noqa: RUF012

    def __init__(self, kind="", length=7):
        if kind == "picky":
            raise ValueError("kind must not\nbe picky")
        self.kind = kind
        if kind != "endless":
            self.max_cycles = length
        if kind == "nobody":
            self.possible_agents = []
        self.random = np.random.default_rng()

    def observation_space(self, agent):
        if agent == "dict":
            mask = spaces.Box(0, 1, (4,), np.int8)
            return spaces.Dict({"observation": spaces.Box(-9, 9, (2, 2)), "action_mask": mask})
        if agent == "info":
            return spaces.Sequence(spaces.Discrete(3)) if self.kind == "shapeless" else spaces.Discrete(3)
        return spaces.Box(-9, 9, (5,))

    def action_space(self, agent):
        if agent == "plain":
            return spaces.Box(0, 1) if self.kind == "continuous" else spaces.Discrete(2)
        return spaces.Discrete(4) if agent == "dict" else spaces.Discrete(3, start=-1)

    def reset(self, seed=None, options=None):
        if self.kind != "forgetful":
            self.random = np.random.default_rng(seed)
        self.time = 0
        self.agents = [agent for agent in self.possible_agents if self.kind != "late" or agent != "dict"]
        self.drawn = self.random.random()
        return self.look(), self.infos()

    def look(self):
        seen = {
            "dict": {"observation": np.full((2, 2), self.drawn, np.float32), "action_mask": self.mask()},
            "info": self.time % 3,
            "plain": np.array([self.time, self.drawn, 0, 0, 1], np.float32),
        }
        return {agent: seen[agent] for agent in self.agents}

    def mask(self):
        mask = np.ones(4, np.int8)
        mask[self.time % 4] = 0
        return mask * (self.kind != "stuck" or self.time < 2)

    def infos(self):
        return {agent: {"action_mask": [1, 0, 1]} if agent == "info" else {} for agent in self.agents}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        assert all(self.action_space(agent).contains(action) for agent, action in actions.items())
        self.time += 1
        if self.kind == "raises" and self.time == 3:
            raise RuntimeError("the baton is lost")
        if self.kind == "dies" and self.time == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        self.drawn = self.random.random()
        played = self.agents
        seen, infos = self.look(), self.infos()
        rewards = {agent: float(actions[agent]) for agent in played}
        gone = {agent: self.time >= DEPARTS[agent] for agent in played}
        cut = {agent: gone[agent] and agent == "plain" and self.kind != "finishes" for agent in played}
        ended = {agent: gone[agent] and not cut[agent] for agent in played}
        self.agents = [agent for agent in played if not gone[agent]]
        if self.kind == "late" and self.time == 2:
            self.agents = ["dict", *self.agents]
            seen["dict"] = {"observation": np.zeros((2, 2), np.float32), "action_mask": np.ones(4, np.int8)}
        return seen, rewards, ended, cut, infos


def parallel_env(kind="", length=7):
    return Relay(kind, length)
