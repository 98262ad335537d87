"""Games for the tests of the worker pool, in a module that the workers can import."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from inconcert.config import InputError
from inconcert.envs import Spec
from inconcert.envs.workers import Moment, Outcome

SPEC = Spec(num_agents=2, num_actions=6, obs_size=3, state_size=4, episode_limit=9, metric="won")
RAISE, DIE, SLEEP = 3, 4, 5  # actions of agent 0 with which a worker comes to grief


class Dice:
    """Episodes of 3 to 9 steps that draw a number at each step; the last action of agent 1 decides whether it is won.

    An agent may not repeat its action. Episodes that reach 9 steps are cut off.
    """

    def __init__(self, closed: str = "", broken: bool = False):
        if broken:
            raise InputError("this game is not installed; call make dice")
        self.closed = closed

    def reset(self, seed):
        self.seed, self.time = seed, 0
        self.random = np.random.default_rng(seed)
        self.length = int(self.random.integers(3, 12))
        self.last = [None, None]
        return self.look()

    def look(self):
        self.drawn = self.random.random(2)
        available = np.ones((2, 6), bool)
        for agent, action in enumerate(self.last):
            if action is not None:
                available[agent, action] = False
        obs = np.array([[self.time, drawn, agent] for agent, drawn in enumerate(self.drawn)], np.float32)
        return Moment(obs, np.array([self.time, *self.drawn, self.seed % 1000], np.float32), available)

    def step(self, actions):
        if actions[0] == RAISE and self.time == 1:
            raise ZeroDivisionError("three at the second step")
        if actions[0] == DIE and self.time == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if actions[0] == SLEEP and self.time == 1:
            time.sleep(60)
        self.time += 1
        self.last = actions.tolist()
        reward = self.drawn * (actions == 1)
        terminated, truncated = self.time >= self.length, self.time >= SPEC.episode_limit
        return Outcome(
            self.look(), reward, terminated, truncated, {"won": float(actions[1] == 2), "drawn": self.drawn[0]}
        )

    def close(self):
        if self.closed:
            Path(self.closed, str(os.getpid())).touch()


class Forgetful(Dice):
    """Episodes that depend on more than their seed."""

    played = 0

    def reset(self, seed):
        Forgetful.played += 1
        return super().reset(seed + Forgetful.played)
