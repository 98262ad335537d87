"""SMACv2 (Ellis et al. 2023), through the package of its authors: teams and positions are drawn anew for each episode.

A task `smacv2/<race>_<agents>_vs_<enemies>` draws the units of both teams (kinds with weights 0.45, 0.45 and 0.1; the
enemies mirror the agents' kinds) and where they stand: around the agents, or mirrored on the other side. Installing
takes the package (`make starcraft`), the game and one map; what is missing is named when a task is made. See
`inconcert.envs.starcraft`.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import torch

from inconcert.config import unknown
from inconcert.envs import Spec, unknown_task
from inconcert.envs.smac import Difficulty, Rewards
from inconcert.envs.starcraft import Battle, Player, check_installed, load, spec
from inconcert.envs.workers import Moment, WorkerEnv

UNITS: dict[str, dict[str, float]] = {
    "terran": {"marine": 0.45, "marauder": 0.45, "medivac": 0.1},
    "protoss": {"stalker": 0.45, "zealot": 0.45, "colossus": 0.1},
    "zerg": {"zergling": 0.45, "baneling": 0.1, "hydralisk": 0.45},
}
"""Race -> kind of unit -> how likely a unit is of that kind."""
NOT_ALONE = {"terran": ["medivac"], "protoss": [], "zerg": ["baneling"]}
"""Kinds that no team consists of entirely: they cannot fight on, or only blow up."""
TEAMS = ((5, 5), (10, 10), (10, 11), (20, 20), (20, 23))
SIDE = 32
"""Width and height of the map."""
LIMIT = 200
MAP_FILE = "32x32_flat"
MAPS_FROM = "https://github.com/oxwhirl/smacv2/releases/tag/maps"

TASKS = tuple(f"{race}_{agents}_vs_{enemies}" for race in UNITS for agents, enemies in TEAMS)
PATTERN = ""


def make(
    name: str,
    *,
    num_envs: int,
    seeds: tuple[int, ...],
    device: torch.device,
    difficulty: Difficulty = "7",
    rewards: Rewards = "shaped",
    game_version: str = "",
    workers: int | None = None,
) -> WorkerEnv:
    """A batch of `len(seeds) * num_envs` battles of the kind `name`, for instance "terran_5_vs_5".

    Units have their true ranges and see all around; agents see where they are. Options, `info` and saved states as in
    `inconcert.envs.smac.make`. The package draws teams and positions without a seed; here each episode's draw follows
    from the environment's seed.

    Raises:
        InputError: an unknown task or option, or package, game or map are missing: says what to do.
    """
    if name not in TASKS:
        raise unknown_task("smacv2", name)
    for option, value, valid in (("difficulty", difficulty, Difficulty), ("rewards", rewards, Rewards)):
        if value not in get_args(valid):
            raise unknown(option, value, get_args(valid))
    check_installed("smacv2", MAP_FILE, MAPS_FROM)
    sizes = spec(battle(name), own_position=True)
    options = {"difficulty": difficulty, "reward_sparse": rewards == "sparse", "game_version": game_version or None}
    return WorkerEnv(
        f"smacv2/{name}",
        sizes,
        functools.partial(GeneratedBattle, name, sizes, options),
        num_envs=num_envs,
        seeds=seeds,
        device=device,
        workers=workers,
        info={"won": torch.bool, "dead_allies": torch.float32, "dead_enemies": torch.float32},
        exact=False,
    )


def battle(name: str) -> Battle:
    """What the sizes of the task `name` follow from."""
    race, agents, _, enemies = name.split("_")
    return Battle(int(agents), int(enemies), LIMIT, 2 * race[0].upper(), len(UNITS[race]))


def capabilities(name: str) -> dict[str, Any]:
    """What the task `name` draws, in the package's terms (a new dict: the package writes into it)."""
    race, agents, _, enemies = name.split("_")
    return {
        "n_units": int(agents),
        "n_enemies": int(enemies),
        "team_gen": {
            "dist_type": "weighted_teams",
            "unit_types": list(UNITS[race]),
            "weights": list(UNITS[race].values()),
            "exception_unit_types": list(NOT_ALONE[race]),
            "observe": True,
        },
        "start_positions": {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": SIDE, "map_y": SIDE},
    }


class GeneratedBattle(Player):
    """A battle whose teams and positions follow from the episode's seed."""

    def __init__(self, name: str, sizes: Spec, options: dict[str, Any]) -> None:
        wrapper = load("smacv2.env.starcraft2.wrapper").StarCraftCapabilityEnvWrapper(
            capability_config=capabilities(name),
            map_name=f"10gen_{name.split('_')[0]}",
            continuing_episode=True,
            conic_fov=False,
            obs_own_pos=True,
            use_unit_ranges=True,
            min_attack_range=2,
            **options,
        )
        super().__init__(wrapper, wrapper.env, sizes)

    def reset(self, seed: int) -> Moment:
        draws = list(self.env.env_key_to_distribution_map.values())
        for index, owner in enumerate(generators(draws)):
            owner.rng = np.random.default_rng([seed, index])
        before = random.getstate()
        random.seed(seed)  # the package shuffles teams with it
        try:
            return super().reset(seed)
        finally:
            random.setstate(before)


def generators(distributions: list[Any]) -> Iterator[Any]:
    """Those of the package's distributions that hold a random generator, the ones inside others included."""
    for one in distributions:
        if isinstance(getattr(one, "rng", None), np.random.Generator):
            yield one
        yield from generators([part for part in vars(one).values() if hasattr(part, "generate")])
