"""Any PettingZoo `ParallelEnv` as a batch: copies in worker processes, padded to one shape.

A task `pettingzoo/<module>` names a Python module with a function `parallel_env`, as PettingZoo, mpe2 and others have
them, for instance `pettingzoo/mpe2.simple_spread_v3`. Arguments of that function are written behind a colon:
`pettingzoo/mpe2.simple_spread_v3:N=5,max_cycles=50`. So the task's name, and with it a run record's place, says all.

Supported: discrete actions; observations that gymnasium can flatten to numbers; agents of different sizes (padded with
zeros and with actions that are never legal); agents who leave early or join late (see `ParallelGame`). Anything else is
refused when the environment is made.
"""

from __future__ import annotations

import ast
import functools
import importlib
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from inconcert.config import InputError
from inconcert.envs import Spec, unknown_task
from inconcert.envs.batched import check_flag, check_number
from inconcert.envs.workers import Moment, Outcome, WorkerEnv

TASKS = ("mpe2.simple_spread_v3", "mpe2.simple_reference_v3", "mpe2.simple_speaker_listener_v4")
"""Those that the papers play; any other module is made in the same way."""
PATTERN = "<module>[:<argument>=<value>,...]"

PROBE = 30
"""Steps of the episode that is played twice to see whether its seed decides it."""


def make(
    name: str,
    *,
    num_envs: int,
    seeds: tuple[int, ...],
    device: torch.device,
    workers: int | None = None,
    episode_limit: int = 0,
    repeatable: bool = True,
) -> WorkerEnv:
    """A batch of `len(seeds) * num_envs` copies of the task `name`, for instance "mpe2.simple_spread_v3:N=5".

    A saved state holds the seeds of the running episodes and what has been played in them, and loading it plays that
    again. This takes an environment whose `reset(seed=...)` decides the whole episode; whether it does is tried out.

    Args:
        workers: processes to play in; 0 plays in this one. By default one a core.
        episode_limit: steps after which an episode is cut off; 0 leaves that to the environment, whose attribute
            `max_cycles` must then say when.
        repeatable: False also takes an environment that its seed does not decide. Runs of it cannot be repeated, and
            loading a state begins new episodes.

    Raises:
        InputError: no such module, arguments that it refuses, or an environment that cannot be played here; says why.
    """
    module, arguments = parse(name)
    check_number("episode_limit", episode_limit, 0, whole=True)
    check_flag("repeatable", repeatable)
    build = functools.partial(ParallelGame, module, arguments, episode_limit)
    try:
        game = build()
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise InputError(f"pettingzoo/{module} needs the package {error.name!r}; install it first") from None
        raise unknown_task("pettingzoo", name) from None
    try:
        if repeatable and not repeats(game):
            raise InputError(
                f"pettingzoo/{name}: reset(seed=...) does not decide the episode, so no run could be repeated or "
                "continued; use it with repeatable=False"
            )
    finally:
        game.close()
    return WorkerEnv(
        f"pettingzoo/{name}", game.spec, build, num_envs=num_envs, seeds=seeds, device=device, workers=workers,
        exact=repeatable,
    )  # fmt: skip


def parse(name: str) -> tuple[str, dict[str, Any]]:
    """Module and arguments of a task name: "m.env_v1:N=5,mode='a'" -> ("m.env_v1", {"N": 5, "mode": "a"}).

    Values are Python literals; what is none is text.

    Raises:
        InputError: the name does not follow the pattern.
    """
    module, colon, rest = name.partition(":")
    arguments = [part.partition("=") for part in rest.split(",")] if colon else []
    if not all(re.fullmatch(r"[A-Za-z_]\w*", part) for part in (*module.split("."), *(one[0] for one in arguments))):
        raise unknown_task("pettingzoo", name)
    if any(not value for _, _, value in arguments):
        raise unknown_task("pettingzoo", name)
    return module, {key: _literal(value) for key, _, value in arguments}


def repeats(game: ParallelGame) -> bool:
    """Whether two episodes of one seed, played alike, are the same for `PROBE` steps."""
    return _diary(game) == _diary(game)


class ParallelGame:
    """One copy of a `ParallelEnv` (the contract is `inconcert.envs.workers.Game`).

    Agents keep the order of `possible_agents`. One who is not there (has left, or not yet joined) observes zeros, earns
    nothing and has the single legal action 0, which is not played. The episode ends when nobody is left or after
    `episode_limit` steps: a truncation if the limit cut it off, or if an agent who was there to the last was truncated
    and not terminated; otherwise a termination.

    Observations are flattened by gymnasium (numbers as they are, choices one-hot). Legal actions are taken from an
    `action_mask` beside the `observation` or in the agent's info; without one all are legal. The state is that of the
    environment or, if it has none, all observations in a row.

    Raises:
        InputError: an environment that cannot be played here.
        ModuleNotFoundError: the module, or one that it imports, is not there.
    """

    def __init__(self, module: str, arguments: Mapping[str, Any], episode_limit: int) -> None:
        self.name = f"pettingzoo/{module}"
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            build = importlib.import_module(module).parallel_env
        except ModuleNotFoundError:
            raise
        except (ImportError, AttributeError) as error:
            raise self._refusal(f"has no usable parallel_env ({_line(error)})") from None
        try:
            self.env = build(**arguments)
        except (TypeError, ValueError, AssertionError) as error:
            raise self._refusal(f"refuses the arguments {dict(arguments)} ({_line(error)})") from None
        self.agents: list[str] = list(getattr(self.env, "possible_agents", []))
        if not self.agents:
            raise self._refusal("does not say who its possible_agents are")
        self._spaces = {agent: self._observed(agent) for agent in self.agents}
        self._choices = {agent: self._chosen(agent) for agent in self.agents}
        limit = episode_limit or getattr(getattr(self.env, "unwrapped", self.env), "max_cycles", None)
        if not isinstance(limit, int):
            raise self._refusal("has no max_cycles: say episode_limit, the steps after which an episode is cut off")
        self._limit = limit
        self._obs_size = max(self._flat_size(agent) for agent in self.agents)
        self._num_actions = max(int(space.n) for space in self._choices.values())
        self._has_state = True
        self.spec = Spec(
            len(self.agents), self._num_actions, self._obs_size, len(self.reset(0).state), limit, "episode_return"
        )

    def reset(self, seed: int) -> Moment:
        """Begin the episode of `seed`."""
        observations, infos = self.env.reset(seed=seed)
        self._time = 0
        return self._show(observations, infos)

    def step(self, actions: np.ndarray) -> Outcome:
        """Play the legal `actions` [N] of those who are there."""
        played = list(self.env.agents)
        chosen = {
            agent: int(self._choices[agent].start + action)
            for agent, action in zip(self.agents, actions, strict=True)
            if agent in played
        }
        observations, rewards, terminations, truncations, infos = self.env.step(chosen)
        self._time += 1
        over = not self.env.agents
        cut = any(truncations.get(agent) and not terminations.get(agent) for agent in played)
        reward = np.array([rewards.get(agent, 0.0) for agent in self.agents], np.float32)
        truncated = cut if over else self._time >= self._limit
        return Outcome(self._show(observations, infos), reward, over and not cut, truncated, {})

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _show(self, observations: Mapping[str, Any], infos: Mapping[str, Any]) -> Moment:
        obs = np.zeros((len(self.agents), self._obs_size), np.float32)
        available = np.zeros((len(self.agents), self._num_actions), bool)
        over = not self.env.agents
        for row, agent in enumerate(self.agents):
            if agent in self.env.agents or (over and agent in observations):  # the last look when all have left
                self._write(obs[row], agent, observations[agent])
            if agent not in self.env.agents:
                available[row, 0] = True
                continue
            mask = (infos.get(agent) or {}).get("action_mask")
            if self._is_masked(agent):
                mask = observations[agent]["action_mask"]
            available[row, : self._choices[agent].n] = True if mask is None else np.asarray(mask, bool)
            if not available[row].any():
                raise ValueError(f"{self.name}: {agent} has no legal action")
        return Moment(obs, self._state(obs), available)

    def _state(self, obs: np.ndarray) -> np.ndarray:
        if self._has_state:
            try:
                return np.asarray(self.env.state(), np.float32).ravel()
            except (NotImplementedError, AttributeError):
                self._has_state = False
        return obs.ravel()

    def _write(self, row: np.ndarray, agent: str, seen: Any) -> None:
        part = seen["observation"] if self._is_masked(agent) else seen
        flat = np.asarray(spaces.flatten(self._spaces[agent], part), np.float32)
        row[: len(flat)] = flat

    def _is_masked(self, agent: str) -> bool:
        """Whether the agent's observation is a dict of the observation proper and its legal actions."""
        space = self.env.observation_space(agent)
        return isinstance(space, spaces.Dict) and set(space) == {"observation", "action_mask"}

    def _observed(self, agent: str) -> spaces.Space[Any]:
        space = self.env.observation_space(agent)
        return space["observation"] if self._is_masked(agent) else space

    def _flat_size(self, agent: str) -> int:
        try:
            return int(spaces.flatdim(self._spaces[agent]))
        except (NotImplementedError, ValueError):
            raise self._refusal(f"shows {agent} {self._spaces[agent]}, which has no fixed size") from None

    def _chosen(self, agent: str) -> spaces.Discrete:
        space = self.env.action_space(agent)
        if not isinstance(space, spaces.Discrete):
            raise self._refusal(f"lets {agent} act in {space}; only Discrete actions can be played here")
        return space

    def _refusal(self, reason: str) -> InputError:
        return InputError(f"{self.name} {reason}")


def _diary(game: ParallelGame) -> list[Any]:
    """All that happens in an episode, played with legal actions that depend on nothing but the masks."""
    moment, chance = game.reset(1), np.random.default_rng(1)
    diary: list[Any] = []
    for _ in range(PROBE):
        diary.append([part.tolist() for part in moment if isinstance(part, np.ndarray)])
        available = np.broadcast_to(moment.available, (len(game.agents), game.spec.num_actions))
        outcome = game.step(np.array([chance.choice(np.flatnonzero(row)) for row in available]))
        diary.append((np.asarray(outcome.reward).tolist(), outcome.terminated, outcome.truncated))
        if outcome.terminated or outcome.truncated:
            break
        moment = outcome.moment
    return diary


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
