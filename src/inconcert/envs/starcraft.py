"""What SMAC and SMACv2 share: sizes of the battles, what must be installed, and one battle as a `Game`.

Both packages play StarCraft II, a game of Blizzard under its own licence that is downloaded by hand. Nothing here needs
it until a task is made: names and sizes are known, and whatever is missing then is named with what to do about it.

No battle has been played with these adaptors by the authors of this book: they are tested against a fake of the
packages' interface. Sizes were compared with those that the packages compute without the game.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inconcert.config import InputError
from inconcert.envs import Spec
from inconcert.envs.workers import Moment, Outcome

COMMAND = "make starcraft"
GAME = "https://github.com/Blizzard/s2client-proto#downloads"
NO_ATTACK = 6
"""Actions before the targets: no-op (the dead only), stop, and four moves."""


@dataclass(frozen=True)
class Battle:
    """A map, or a generated battle: what its sizes follow from."""

    agents: int
    enemies: int
    limit: int
    """steps"""
    races: str
    """of the agents and of the enemies: P Protoss, T Terran, Z Zerg"""
    unit_types: int = 0
    """Kinds of units if there are several, else 0: the length of the one-hot code of a unit's kind."""


def spec(battle: Battle, *, last_action: bool = False, own_position: bool = False) -> Spec:
    """Sizes as the packages compute them (without terrain, with all health features and the last actions in the state).

    A Protoss unit has a shield, one feature more.

    Args:
        last_action: agents see the last actions of the others.
        own_position: agents see where they are (SMACv2).
    """
    agents, enemies = battle.agents, battle.enemies
    shield, foreign_shield = (int(race == "P") for race in battle.races)
    actions = NO_ATTACK + enemies
    seen_enemy = 4 + 1 + foreign_shield + battle.unit_types
    seen_ally = 4 + 1 + shield + battle.unit_types + last_action * actions
    oneself = 4 + 1 + shield + battle.unit_types + 2 * own_position
    in_state = agents * (4 + shield + battle.unit_types) + enemies * (3 + foreign_shield + battle.unit_types)
    return Spec(
        agents,
        actions,
        enemies * seen_enemy + (agents - 1) * seen_ally + oneself,
        in_state + agents * actions,
        battle.limit,
        "won",
    )


# ---------------------------------------------------------------------------------------------------- what is missing


def check_installed(suite: str, map_file: str, maps_from: str) -> None:
    """Raise InputError, with what to do, unless package, game and map are there.

    Args:
        suite: "smac" or "smacv2", also the name of the package.
        map_file: name of the map's file, without ending.
        maps_from: where the map's file can be had.
    """
    found = None if suite in sys.modules else importlib.util.find_spec(suite)
    folders = (
        sys.modules[suite].__path__ if suite in sys.modules else (found and found.submodule_search_locations) or []
    )
    if found is None and suite not in sys.modules:
        raise InputError(f"suite {suite!r} is not installed; install its package with: {COMMAND}")
    if not any(Path(folder, "env", "starcraft2").is_dir() for folder in folders):
        raise InputError(
            f"the package {suite!r} that is installed here is not StarCraft's but an optimiser of the same name from "
            f"PyPI; repair it with: pip uninstall --yes {suite}; {COMMAND}"
        )
    if importlib.util.find_spec("pysc2") is None:
        raise InputError(f"suite {suite!r} needs pysc2, which is not installed; repair it with: {COMMAND}")

    home = game_folder()
    versions = home / "Versions"
    if not versions.is_dir():
        raise InputError(
            f"StarCraft II is not in {home}: download it from {GAME} (Linux, version 4.10) and unpack it there, or set "
            "SC2PATH to where it is"
        )
    if sys.platform == "linux" and not list(versions.glob("Base*/SC2_x64")):
        raise InputError(f"StarCraft II in {home} has no program Versions/Base*/SC2_x64: unpack it again from {GAME}")
    folder = home / "Maps" / "SMAC_Maps"
    if not (folder / f"{map_file}.SC2Map").is_file():
        raise InputError(f"the map {map_file}.SC2Map is not in {folder}: put it there, from {maps_from}")


def game_folder() -> Path:
    """Where pysc2 looks for the game: SC2PATH, or its usual place."""
    usual = "/Applications/StarCraft II" if sys.platform == "darwin" else "~/StarCraftII"
    return Path(os.environ.get("SC2PATH") or usual).expanduser()


def load(module: str) -> types.ModuleType:
    """Import a module of one of the packages; what goes wrong is an InputError that says what to do."""
    # The game's messages are generated code for protobuf 3.20; any protobuf reads them in its slow mode.
    os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
    try:
        return importlib.import_module(module)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"the package of {module} does not load ({reason}); repair it with: {COMMAND}") from error


# ------------------------------------------------------------------------------------------------------------- a battle


class Player:
    """One copy of the game, through the interface that both packages have.

    The packages say of every end that the episode is over, and of a time limit only if asked to
    (`continuing_episode=True`): that flag is the truncation. If the game breaks down in the middle of a step they
    start it anew and report an end with nothing else: such an episode is truncated too, neither won nor lost.

    Args:
        env: `StarCraft2Env`, or the wrapper of SMACv2.
        game: `StarCraft2Env`.
        expected: the sizes promised to the caller.

    Raises:
        InputError: the package computes other sizes.
    """

    def __init__(self, env: Any, game: Any, expected: Spec) -> None:
        self.env, self.game = env, game
        sizes = env.get_env_info()
        names = ("n_agents", "n_actions", "obs_shape", "state_shape", "episode_limit")
        found = tuple(int(sizes[name]) for name in names)
        if found != (wanted := tuple(getattr(expected, name) for name in SIZES)):
            differing = ", ".join(
                f"{name} {has} instead of {want}"
                for name, has, want in zip(names, found, wanted, strict=True)
                if has != want
            )
            raise InputError(f"the installed package has other sizes than expected here: {differing}")

    def reset(self, seed: int) -> Moment:
        """Begin an episode. The game reads the seed only when it starts; later episodes go on along its own numbers."""
        self.game._seed = seed
        with launching():
            self.env.reset()
        return self.look()

    def look(self) -> Moment:
        """The situation now. Of a unit that is dead, observation and state are zero and only the no-op is legal."""
        obs = np.array(self.env.get_obs(), np.float32)
        return Moment(obs, np.array(self.env.get_state(), np.float32), np.array(self.env.get_avail_actions(), bool))

    def step(self, actions: np.ndarray) -> Outcome:
        reward, ended, info = self.env.step(actions.tolist())
        cut = bool(ended) and (not info or bool(info.get("episode_limit", False)))
        return Outcome(
            self.look(),
            reward,
            terminated=bool(ended) and not cut,
            truncated=cut,
            info={name: float(info.get(source, 0)) for name, source in INFO.items()},
        )

    def close(self) -> None:
        self.env.close()


SIZES = ("num_agents", "num_actions", "obs_size", "state_size", "episode_limit")
INFO = {"won": "battle_won", "dead_allies": "dead_allies", "dead_enemies": "dead_enemies"}
"""Entry of `Step.info` -> what the packages call it."""


@contextlib.contextmanager
def launching() -> Iterator[None]:
    """Turn what pysc2 says when the game cannot be started into one line that says what to do."""
    try:
        yield
    except Exception as error:
        kind = type(error).__name__  # pysc2 is not imported here only to name its errors
        if kind == "DuplicateMapError":
            raise InputError("SMAC and SMACv2 cannot be in one process; make both with workers=1 or more") from error
        if isinstance(error, (OSError, ValueError)) or kind == "SC2LaunchError":
            reason = str(error).splitlines()[0]
            raise InputError(
                f"StarCraft II does not start ({reason}); look at {game_folder()}, or see {GAME}"
            ) from error
        raise
