"""One copy of CoordSum as a PettingZoo `ParallelEnv`: the batched environment of `coordsum.py` with a single row."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

from inconcert.config import InputError
from inconcert.envs import make
from inconcert.envs.coordsum import EPISODE_LENGTH, CoordSum, sizes


def parallel(
    name: str,
    *,
    guess: Literal["per_target", "clamped"] = "per_target",
    target_bound: Literal["exclusive", "inclusive"] = "exclusive",
    observe_step: bool = True,
) -> CoordSumParallel:
    """The task `name` ("3x10-30") as a `ParallelEnv`; options as in `inconcert.envs.coordsum.make`."""
    return CoordSumParallel(name, guess=guess, target_bound=target_bound, observe_step=observe_step)


class CoordSumParallel(ParallelEnv[str, np.ndarray, int]):
    """Agents "agent_0", "agent_1", ...; the opponent guesses "agent_0".

    Observation: float32 [2], the current target and the number of steps played ([1] without the step). Action: an
    integer 0..A-1. After 100 steps all agents are terminated; none is ever truncated. `infos[agent]` has `action_mask`
    (int8 [A], all ones) and, after a step, `hit` and `guessed` (bool).

    From `reset(seed=s)` on, the episodes are those of `inconcert.make(task, num_envs=1, seed=s)`, in the same order;
    `reset()` goes on along the stream, which has a random seed of its own if none was ever given.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "coordsum_v0", "render_modes": [], "is_parallelizable": True}
    render_mode = None

    def __init__(self, name: str, **options: Any) -> None:
        num_agents, self._num_actions, _ = sizes(name)
        self._name = name
        self._options = options
        self.possible_agents = [f"agent_{index}" for index in range(num_agents)]
        self.agents: list[str] = []
        self._seed(int(np.random.default_rng().integers(2**32)))
        largest = [self._env.num_targets - 1, EPISODE_LENGTH][: self._env.spec.obs_size]
        low, high = np.zeros(len(largest), np.float32), np.array(largest, np.float32)
        self._observation_spaces = {agent: Box(low, high, dtype=np.float32) for agent in self.possible_agents}
        self._action_spaces = {agent: Discrete(self._num_actions) for agent in self.possible_agents}
        self.state_space = Box(low, high, dtype=np.float32)

    def observation_space(self, agent: str) -> Box:
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> Discrete:
        return self._action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        if seed is not None:
            self._seed(seed)
        elif self.agents:  # in the middle of an episode; an ended one has already been followed by the next
            self._env.reset()
        self.agents = self.possible_agents[:]
        self._last = self._env.observe()
        return self._observations(), {agent: {"action_mask": self._mask()} for agent in self.agents}

    def step(
        self, actions: dict[str, int]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Play one action for each agent.

        Raises:
            InputError: no episode is running, an agent's action is missing, or an action is illegal.
        """
        if not self.agents:
            raise InputError("no episode is running; call reset first")
        if set(actions) != set(self.agents):
            raise InputError(f"step needs one action for each of {', '.join(self.agents)}; got {', '.join(actions)}")
        for agent, action in actions.items():
            if not self._action_spaces[agent].contains(action):
                raise InputError(f"illegal action {action!r} of {agent}; valid: 0..{self._num_actions - 1}")
        step = self._last = self._env.step(torch.tensor([[int(actions[agent]) for agent in self.agents]]))
        played, ended = self.agents, bool(step.terminated[0])
        observations = self._observations()
        event = {"hit": bool(step.info["hit"][0]), "guessed": bool(step.info["guessed"][0])}
        if ended:
            self.agents = []
        return (
            observations,
            {agent: float(step.reward[0, index]) for index, agent in enumerate(played)},
            dict.fromkeys(played, ended),
            dict.fromkeys(played, False),
            {agent: {"action_mask": self._mask(), **event} for agent in played},
        )

    def state(self) -> np.ndarray:
        """float32, the same features as an observation."""
        return self._last.final_state[0].numpy().copy()

    def render(self) -> None:
        return None

    def close(self) -> None:
        return None

    def _seed(self, seed: int) -> None:
        env = make(f"coordsum/{self._name}", num_envs=1, seed=seed, **self._options)
        assert isinstance(env, CoordSum)
        self._env = env
        self._last = self._env.observe()

    def _observations(self) -> dict[str, np.ndarray]:
        rows = self._last.final_obs[0].numpy()
        return {agent: rows[index].copy() for index, agent in enumerate(self.agents)}

    def _mask(self) -> np.ndarray:
        return np.ones(self._num_actions, np.int8)
