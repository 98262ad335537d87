"""The package `mpe2`, one world at a time, as the reference that `mpe` is held to in the tests and live in the book.

The package has the current rules only. What it had before 2023, when it was `pettingzoo.mpe` (release 1.22.2), is made
from it by changing back the two things that were changed since: the order of motion, and who collides with whom.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inconcert.envs import Step
from inconcert.envs.particles import ParticleEnv

MODULES = {
    "simple_spread": "mpe2.simple_spread_v3",
    "simple_reference": "mpe2.simple_reference_v3",
    "simple_speaker_listener": "mpe2.simple_speaker_listener_v4",
}


class Shown(NamedTuple):
    """What a step of the package leads to."""

    rewards: NDArray[np.float64]
    """[N]: each agent's own."""
    observations: list[NDArray[np.float32]]
    """Of each agent, without padding."""
    state: NDArray[np.float32]
    truncated: bool


class PackageWorld:
    """One world of the package, without its wrappers.

    Args:
        task: "simple_spread", "simple_reference" or "simple_speaker_listener".
        rules: "current" leaves the package as it is, "legacy" changes it back.
    """

    def __init__(self, task: str, rules: str = "current") -> None:
        self.env: Any = importlib.import_module(MODULES[task]).raw_env(max_cycles=25)
        self.env.reset(seed=0)
        self.has_goals = task != "simple_spread"
        if rules == "legacy":
            self._change_back(touches_itself=task == "simple_spread")

    def put(self, env: ParticleEnv, row: int) -> None:
        """Take over the places, velocities and goals of one row of ours."""
        lines, column, world = env.scenario.lines, env.world[:, row : row + 1].cpu(), self.env.world
        movers = [agent for agent in world.agents if agent.movable]
        for points, part, entry in (
            (movers, "position", "p_pos"),
            (movers, "velocity", "p_vel"),
            (world.landmarks, "landmarks", "p_pos"),
        ):
            values = lines.cut(column, part)[..., 0].double().numpy().T
            for point, value in zip(points, values, strict=True):
                setattr(point.state, entry, value.copy())
        if self.has_goals:
            colours = lines.cut(column, "colour", 3)[..., 0].numpy().T
            for agent, colour in zip(world.agents, colours, strict=False):
                agent.goal_b = world.landmarks[int(colour.argmax())]

    def step(self, actions: list[int]) -> Shown:
        """Play the actions of all agents."""
        env = self.env
        for action in actions:
            env.step(action)
        return Shown(
            np.array([env.rewards[name] for name in env.possible_agents]),
            [env.observe(name) for name in env.possible_agents],
            env.state(),
            all(env.truncations.values()),
        )

    def _change_back(self, touches_itself: bool) -> None:
        world, scenario = self.env.world, self.env.scenario

        def integrate(forces: list[Any]) -> None:
            for agent, force in zip(world.agents, forces, strict=False):  # landmarks have forces too: none
                if agent.movable:
                    agent.state.p_vel = 0.75 * agent.state.p_vel + 0.1 * force
                    agent.state.p_pos = agent.state.p_pos + 0.1 * agent.state.p_vel

        world.integrate_state = integrate
        if touches_itself:
            rewarded = scenario.reward
            scenario.reward = lambda agent, world: rewarded(agent, world) - 1


def difference(step: Step, row: int, shown: Shown, reward: str = "team") -> float:
    """Largest difference between a row of our step and the package's: reward, observations, state.

    A time limit that only one of the two sees, or padding that is not 0, is an infinite difference.
    """
    obs, own = step.final_obs[row].cpu().numpy(), shown.rewards
    due = np.full(len(own), own.sum()) if reward == "team" else own
    pairs = [(step.reward[row].cpu().numpy(), due), (step.final_state[row].cpu().numpy(), shown.state)]
    pairs += [(ours[: len(theirs)], theirs) for ours, theirs in zip(obs, shown.observations, strict=True)]
    padding = any(ours[len(theirs) :].any() for ours, theirs in zip(obs, shown.observations, strict=True))
    if padding or bool(step.terminated[row]) or bool(step.truncated[row]) != shown.truncated:
        return float("inf")
    return max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)
