"""Google Research Football (Kurach et al. 2020), as KPF uses it: four academy scenarios, each one a single attack.

An attack `football/<scenario>` ends with a goal, when the ball leaves the field, when the other team takes it, or after
401 steps of a tenth of a second. Each agent plays one attacker; the engine plays everybody else. `make football`
compiles the package `gfootball` from its source distribution.

Two of its properties change results and are settled here (see the page `environments/football`). If agents are fewer
than the players that may be controlled, the engine hands them other players during an episode, their own goalkeeper
among them; here exactly the attackers may be controlled. And an engine with a fixed seed repeats one single episode;
here each episode has a seed of its own.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from typing import Any, Literal, get_args

import numpy as np
import torch

from inconcert.config import InputError, unknown
from inconcert.envs import Spec, unknown_task
from inconcert.envs.workers import Moment, Outcome, WorkerEnv

AGENTS: dict[str, tuple[int, ...]] = {
    "academy_3_vs_1_with_keeper": (1, 2, 3),
    "academy_run_pass_and_shoot_with_keeper": (1, 2),
    "academy_counterattack_easy": (7, 8, 9, 10),
    "academy_counterattack_hard": (7, 8, 9, 10),
}
"""Scenario -> which players of the left team the agents are (0 is the goalkeeper): the attackers near the ball."""
TASKS = tuple(AGENTS)
PATTERN = ""

ACTIONS = (
    "idle", "left", "top_left", "top", "top_right", "right", "bottom_right", "bottom", "bottom_left", "long_pass",
    "high_pass", "short_pass", "shot", "sprint", "release_direction", "release_sprint", "sliding", "dribble",
    "release_dribble",
)  # fmt: skip
"""What the actions 0..18 of an agent mean. Directions, sprint and dribble stay on until they are released."""
FEATURES = 115
"""Of an observation in the package's `simple115v2`; see `FIELDS`."""
FIELDS: dict[str, slice] = {
    "left positions": slice(0, 22),
    "left directions": slice(22, 44),
    "right positions": slice(44, 66),
    "right directions": slice(66, 88),
    "ball position": slice(88, 91),
    "ball direction": slice(91, 94),
    "ball owner": slice(94, 97),
    "active player": slice(97, 108),
    "game mode": slice(108, 115),
}
"""Where the features are. Positions: x from -1 (own goal) to 1, y from -0.42 to 0.42; who is not there has -1."""
EPISODE_LIMIT = 401
"""The scenarios say 400; the engine plays one step more."""

Rewards = Literal["scoring", "scoring,checkpoints"]
Share = Literal["each", "first"]
Players = Literal["fixed", "switching"]
COMMAND = "make football"


def make(
    name: str,
    *,
    num_envs: int,
    seeds: tuple[int, ...],
    device: torch.device,
    rewards: Rewards = "scoring,checkpoints",
    share: Share = "each",
    players: Players = "fixed",
    workers: int | None = None,
) -> WorkerEnv:
    """A batch of `len(seeds) * num_envs` matches of the scenario `name`, for instance "academy_3_vs_1_with_keeper".

    Each match has an engine of its own, which takes about 50 MB and a third of a second to start.

    Args:
        rewards: "scoring" gives every agent +1 for a goal and -1 for one conceded; "scoring,checkpoints" also up to
            ten times 0.1 for carrying the ball towards the goal, to the agent that carries it (KPF's setting).
        share: "each" agent gets its own reward; "first" gives everybody that of the first agent, as the code that KPF
            builds on does, so that checkpoints count for one of the agents only.
        players: "fixed" lets the agents control the attackers, always the same ones; "switching" leaves the scenario as
            the package has it, where the engine hands them other players, the goalkeeper too, during an episode.
        workers: processes to play in; 0 plays in this one. By default one a core.

    Raises:
        InputError: an unknown scenario or option, or the package is missing or unusable: says `make football`.
    """
    if name not in AGENTS:
        raise unknown_task("football", name)
    for option, value, valid in (("rewards", rewards, Rewards), ("share", share, Share), ("players", players, Players)):
        if value not in get_args(valid):
            raise unknown(option, value, get_args(valid))
    check_installed()
    return WorkerEnv(
        f"football/{name}",
        spec(name),
        functools.partial(Match, name, rewards, share, players),
        num_envs=num_envs,
        seeds=seeds,
        device=device,
        workers=workers,
        info={"goal": torch.bool},
    )


def spec(name: str) -> Spec:
    """Sizes of the scenario `name`, known without the package."""
    agents = len(AGENTS[name])
    return Spec(agents, len(ACTIONS), FEATURES, FEATURES + 11 * (agents - 1), EPISODE_LIMIT, "goal")


def check_installed() -> None:
    """Raise InputError, with the command that repairs it, unless the package can be used."""
    missing = [package for package in ("gfootball", "gym", "six", "cv2") if not _there(package)]
    if missing:
        raise InputError(f"suite 'football' is not installed (no {', '.join(missing)}); install it with: {COMMAND}")
    release = _gym().__version__
    if not (0, 22) <= tuple(int(part) for part in release.split(".")[:2]) <= (0, 25):
        raise InputError(f"suite 'football' needs gym 0.22 to 0.25, not {release}; repair it with: {COMMAND}")


def _there(package: str) -> bool:
    return package in sys.modules or importlib.util.find_spec(package) is not None


def _gym() -> types.ModuleType:
    """gym, without the notice about its successor that it prints when it is imported."""
    if _there("gym_notices"):
        importlib.import_module("gym_notices.notices").notices.clear()
    return importlib.import_module("gym")


class Match:
    """One copy of a scenario.

    Observation: the package's `simple115v2` [N, 115], in which agents differ in "active player" only. State: the
    features of the first agent and the "active player" of the others (115 + 11 (N - 1), as in HARL). `info`: `goal`,
    whether this step scored. A match that reaches 401 steps is truncated, any other end terminates it.
    """

    def __init__(self, name: str, rewards: Rewards, share: Share, players: Players) -> None:
        _gym()
        try:
            football = importlib.import_module("gfootball.env")
        except ImportError as error:  # a system library is gone, say
            raise InputError(f"the football engine does not load ({error}); repair it with: {COMMAND}") from error
        self._first_only = share == "first"
        self._env = football.create_environment(
            env_name=_scenario(name) if players == "fixed" else name,
            representation="simple115v2",
            rewards=rewards,
            number_of_left_players_agent_controls=len(AGENTS[name]),
            # Both are replaced before each episode; without them here the package draws its own.
            other_config_options={"game_engine_random_seed": 0, "reverse_team_processing": False},
        )

    def reset(self, seed: int) -> Moment:
        settings = self._env.unwrapped._config
        settings["game_engine_random_seed"] = seed
        settings["reverse_team_processing"] = bool(seed % 2)  # which team moves first, as the package chooses it
        return _moment(self._env.reset())

    def step(self, actions: np.ndarray) -> Outcome:
        obs, reward, done, info = self._env.step(actions.tolist())
        scored = info["score_reward"]
        timed_out = bool(done) and not scored and self._env.unwrapped.observation()[0]["steps_left"] <= 0
        return Outcome(
            _moment(obs),
            reward[0] if self._first_only else reward,
            terminated=bool(done) and not timed_out,
            truncated=timed_out,
            info={"goal": float(scored > 0)},
        )

    def picture(self) -> np.ndarray:
        """The television picture of this moment, [720, 1280, 3] uint8. One match of a process can be shown, slowly."""
        return np.asarray(self._env.render(mode="rgb_array"))

    def close(self) -> None:
        self._env.close()


def _moment(obs: np.ndarray) -> Moment:
    return Moment(obs, np.concatenate([obs[0], obs[1:, FIELDS["active player"]].ravel()]))


def _scenario(name: str) -> str:
    """Register the scenario `name` with the agents' players as the only ones that may be controlled; its new name."""
    left = importlib.import_module("gfootball.scenarios").Team.e_Left
    original = importlib.import_module(f"gfootball.scenarios.{name}")
    module = types.ModuleType(f"gfootball.scenarios.inconcert_{name}")
    module.build_scenario = lambda builder: original.build_scenario(_Fixed(builder, AGENTS[name], left))  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    return f"inconcert_{name}"


class _Fixed:
    """A scenario builder that lets only the `agents` of the `left` team be controlled, whatever the scenario says."""

    def __init__(self, builder: Any, agents: tuple[int, ...], left: Any) -> None:
        self._builder, self._agents, self._left = builder, agents, left
        self._team: Any = None
        self._players = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._builder, name)

    def SetTeam(self, team: Any) -> None:
        self._team = team
        self._builder.SetTeam(team)

    def AddPlayer(self, x: float, y: float, role: Any, lazy: bool = False, controllable: bool = True) -> None:
        if self._team == self._left:
            controllable = self._players in self._agents
            self._players += 1
        self._builder.AddPlayer(x, y, role, lazy, controllable)
