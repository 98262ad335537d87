"""SMAC, the StarCraft Multi-Agent Challenge (Samvelyan et al. 2019), through the package of its authors.

A task `smac/<map>` is a fight of N units, one agent each, against units that StarCraft's own computer player leads.
Installing takes the package (`make starcraft`; the PyPI project called smac is an unrelated optimiser), the game and
the maps; what is missing is named when a task is made. See `inconcert.envs.starcraft`.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, get_args

import torch

from inconcert.config import InputError, unknown
from inconcert.envs import Spec, unknown_task
from inconcert.envs.starcraft import Battle, Player, check_installed, load, spec
from inconcert.envs.workers import WorkerEnv

MAPS: dict[str, Battle] = {
    "3m": Battle(3, 3, 60, "TT"),
    "8m": Battle(8, 8, 120, "TT"),
    "25m": Battle(25, 25, 150, "TT"),
    "5m_vs_6m": Battle(5, 6, 70, "TT"),
    "8m_vs_9m": Battle(8, 9, 120, "TT"),
    "10m_vs_11m": Battle(10, 11, 150, "TT"),
    "27m_vs_30m": Battle(27, 30, 180, "TT"),
    "MMM": Battle(10, 10, 150, "TT", 3),
    "MMM2": Battle(10, 12, 180, "TT", 3),
    "2s3z": Battle(5, 5, 120, "PP", 2),
    "3s5z": Battle(8, 8, 150, "PP", 2),
    "3s5z_vs_3s6z": Battle(8, 9, 170, "PP", 2),
    "3s_vs_3z": Battle(3, 3, 150, "PP"),
    "3s_vs_4z": Battle(3, 4, 200, "PP"),
    "3s_vs_5z": Battle(3, 5, 250, "PP"),
    "1c3s5z": Battle(9, 9, 180, "PP", 3),
    "2m_vs_1z": Battle(2, 1, 150, "TP"),
    "corridor": Battle(6, 24, 400, "PZ"),
    "6h_vs_8z": Battle(6, 8, 150, "ZP"),
    "2s_vs_1sc": Battle(2, 1, 300, "PZ"),
    "so_many_baneling": Battle(7, 32, 100, "PZ"),
    "bane_vs_bane": Battle(24, 24, 200, "ZZ", 2),
    "2c_vs_64zg": Battle(2, 64, 400, "PZ"),
}
"""The maps of the package."""
MAPS_FROM = "https://github.com/oxwhirl/smac/releases/download/v0.1-beta1/SMAC_Maps.zip"


EXTRA: dict[str, tuple[Battle, str, str, str]] = {
    "2_corridors": (Battle(2, 1, 200, "TP"), "marines", "2_corridors", "AnujMahajanOxf/MAVEN"),
    "MMM3": (Battle(10, 13, 180, "TT", 3), "MMM", "MMM2_7m2M1M_vs_9m3M1M", "j3soon/dfac-extended"),
    "7sz": (Battle(14, 14, 200, "PP", 2), "stalkers_and_zealots", "7sz", "wjh720/QPLEX"),
    "1c3s5z_vs_1c3s6z": (
        Battle(9, 10, 150, "PP", 3),
        "colossi_stalkers_zealots",
        "1c3s5z_vs_1c3s6z",
        "wjh720/QPLEX",
    ),
}
"""Maps of the Ensemble-MIX paper that the package lacks: battle, the package's name for the kinds of units, file, and
the repository that has the file. Of `2_corridors` only the map: that a corridor closes during training is code of the
repository it comes from (the suite of small worlds has a look-alike that does)."""
TASKS = (*MAPS, *EXTRA)
PATTERN = ""

Difficulty = Literal["1", "2", "3", "4", "5", "6", "7", "8", "9", "A"]
Rewards = Literal["shaped", "sparse"]


def make(
    name: str,
    *,
    num_envs: int,
    seeds: tuple[int, ...],
    device: torch.device,
    difficulty: Difficulty = "7",
    rewards: Rewards = "shaped",
    last_action: bool = False,
    game_version: str = "",
    workers: int | None = None,
) -> WorkerEnv:
    """A batch of `len(seeds) * num_envs` battles on the map `name`, for instance "3s5z". Each is a process of the game.

    All agents get the team's reward. `info` has `won` (bool), `dead_allies` and `dead_enemies`. A saved state does not
    hold the game: loading it begins the next episodes.

    Args:
        difficulty: of the computer player; "7" is what papers report.
        rewards: "shaped" pays for damage, kills (10 each) and victory (200), scaled so that a perfect battle gives 20;
            "sparse" gives 1 for a victory and -1 for a defeat.
        last_action: agents see the last actions of the allies they see.
        game_version: of StarCraft II, for instance "4.10"; "" takes the newest that is installed. Results of different
            versions are not comparable.
        workers: processes that drive the games; 0 drives them from this one. By default one a core.

    Raises:
        InputError: an unknown map or option, or package, game or map are missing: says what to do.
    """
    if name not in TASKS:
        raise unknown_task("smac", name)
    for option, value, valid in (("difficulty", difficulty, Difficulty), ("rewards", rewards, Rewards)):
        if value not in get_args(valid):
            raise unknown(option, value, get_args(valid))
    if not isinstance(last_action, bool):
        raise InputError(f"option 'last_action' must be True or False, not {last_action!r}")
    battle, _, file, source = EXTRA[name] if name in EXTRA else (MAPS[name], "", name, MAPS_FROM)
    check_installed("smac", file, source if "://" in source else f"https://github.com/{source}")
    sizes = spec(battle, last_action=last_action)
    options = {
        "difficulty": difficulty,
        "reward_sparse": rewards == "sparse",
        "obs_last_action": last_action,
        "game_version": game_version or None,
    }
    return WorkerEnv(
        f"smac/{name}",
        sizes,
        functools.partial(build, name, sizes, options),
        num_envs=num_envs,
        seeds=seeds,
        device=device,
        workers=workers,
        info={"won": torch.bool, "dead_allies": torch.float32, "dead_enemies": torch.float32},
        exact=False,
    )


def build(name: str, sizes: Spec, options: dict[str, Any]) -> Player:
    """One copy of the game, in a worker."""
    if name in EXTRA:
        register(name)
    environment = load("smac.env").StarCraft2Env(map_name=name, continuing_episode=True, **options)
    return Player(environment, environment, sizes)


def register(name: str) -> None:
    """Add the extra map `name` to the lists of the package and of pysc2."""
    maps = load("smac.env.starcraft2.maps.smac_maps")
    battle, kind, file, _ = EXTRA[name]
    maps.map_param_registry[name] = {
        "n_agents": battle.agents,
        "n_enemies": battle.enemies,
        "limit": battle.limit,
        "a_race": battle.races[0],
        "b_race": battle.races[1],
        "unit_type_bits": battle.unit_types,
        "map_type": kind,
    }
    if not hasattr(maps, name):  # pysc2 finds maps as the subclasses of its own class, which must not be forgotten
        setattr(maps, name, type(name, (maps.SMACMap,), {"filename": file}))
