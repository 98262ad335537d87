"""Scripted players for two corridors: what can be won by rule, with each corridor, together and one by one.

A player walks the shortest way to a place from which one more step brings it into the enemy's range, waits there for
the other, and then goes on to shoot. The ways are found by breadth-first search on the map, once for each task.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from inconcert.config import InputError, unknown
from inconcert.envs import make, stream_seed
from inconcert.envs.two_corridors import ATTACK, NO_OP, NUM_AGENTS, ROOM, STEPS, STOP, TwoCorridors, floor, sizes

PLAYERS = ("random", "short way", "long way", "one by one")
"""Random legal actions; together through the short corridor; together through the long one; and through the short
one without waiting for each other."""


@lru_cache(maxsize=16)
def way(short: int, long: int, by: str) -> tuple[Tensor, tuple[int, int]]:
    """Where to go, and where to meet.

    Args:
        short, long: lengths of the corridors.
        by: "short" or "long", the corridor to take.

    Returns:
        The action of each cell [height, width] int64 that leads to the enemy, and the last cell (row, column) of the
        corridor that is out of the enemy's range.
    """
    free = floor(short, long)
    if by == "short":
        free[ROOM:] = False
        meeting = (ROOM // 2, ROOM + short - 2)
    else:
        free[ROOM // 2, ROOM:-ROOM] = False
        meeting = (ROOM, ROOM + short)
    height, width = free.shape
    towards = torch.full((height, width), STOP)
    enemy = (ROOM // 2, width - ROOM + ROOM // 2)
    seen, front = {enemy}, [enemy]
    while front:
        reached = []
        for row, column in front:
            for action, (down, right) in enumerate(STEPS[2:6], start=2):
                cell = (row - down, column - right)  # from there, `action` leads here
                if 0 <= cell[0] < height and 0 <= cell[1] < width and bool(free[cell]) and cell not in seen:
                    seen.add(cell)
                    towards[cell] = action
                    reached.append(cell)
        front = reached
    return towards, meeting


def act(player: str, env: TwoCorridors, short: int, long: int, generator: torch.Generator) -> Tensor:
    """Actions [E, 2] of a player now."""
    available = env.observe().available
    if player == "random":
        weight = available.flatten(0, 1).float().cpu()
        return torch.multinomial(weight, 1, generator=generator).view(env.num_envs, NUM_AGENTS).to(env.device)
    towards, meeting = way(short, long, "long" if player == "long way" else "short")
    down, right = env.places.unbind(2)
    actions = towards.to(env.device)[down, right]
    if player != "one by one":
        there = (down == meeting[0]) & (right == meeting[1])
        others = there.flip(1) | ~available.flip(1)[:, :, STOP]  # is there too, or has fallen
        started = available[:, :, ATTACK].any(1, keepdim=True)
        actions = torch.where(there & ~others & ~started, STOP, actions)
    possible = available.gather(2, actions.unsqueeze(2)).squeeze(2)
    actions = torch.where(possible, actions, STOP)
    actions = torch.where(available[:, :, ATTACK], ATTACK, actions)
    return torch.where(available[:, :, NO_OP], NO_OP, actions)


def play(player: str, task: str, episodes: int, seed: int = 0, **options: Any) -> dict[str, Tensor]:
    """Outcomes [episodes] of a player, one fresh copy of the environment for each episode: what `Step.info` has.

    Args:
        player: one of `PLAYERS`.
        task: "two_corridors/...".
        seed: of the starts and, on a stream of its own, of the player's draws.
        **options: of `inconcert.envs.two_corridors.make`.

    Raises:
        InputError: unknown player, task or option, or a task of another suite.
    """
    if player not in PLAYERS:
        raise unknown("player", player, PLAYERS)
    env = make(task, num_envs=episodes, seed=seed, **options)
    if not isinstance(env, TwoCorridors):
        raise InputError(f"the scripted players play two_corridors/..., not {task!r}")
    short, long = sizes(task.partition("/")[2])
    generator = torch.Generator().manual_seed(stream_seed("two_corridors_players", seed))
    outcomes: dict[str, Tensor] = {}
    over = torch.zeros(episodes, dtype=torch.bool, device=env.device)
    for _ in range(env.spec.episode_limit):
        step = env.step(act(player, env, short, long, generator))
        ended = (step.terminated | step.truncated) & ~over
        for name, values in step.info.items():
            outcomes[name] = torch.where(ended, values, outcomes.get(name, torch.zeros_like(values)))
        over |= ended
    return outcomes
