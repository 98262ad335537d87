"""Scripted drivers for MACF: what can be earned by rule, and so what a learned policy must beat.

A car at the goal need not stop there, it must only be within 0.01 of it at the end of some step. `plan` looks through
drives of three phases (one acceleration, then none, then another) for the best that hits the goal. Both cars drive the
same plan, so they are always within sight of each other.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from inconcert.config import unknown
from inconcert.envs import make, stream_seed
from inconcert.envs.macf import (
    EPISODE_LIMIT,
    GOAL,
    NUM_ACTIONS,
    NUM_CARS,
    SECONDS,
    SPEED_LIMIT,
    TOLERANCE,
    TOP_SPEED,
    CarFollowing,
    acceleration,
)

HOLD = {"open": (10, 11), "closed": (10, 10)}
"""Two actions in turn that keep the speed: without an acceleration of 0, the two beside it."""
WEAKEST, LONGEST, HORIZON = 15, 25, 60
"""Plans push with at least this action; each of their first two phases takes at most so many steps, all so many."""
PLAYERS = ("random", "full throttle", "swift", "careful", "careful, alone")
"""Random actions; always the largest acceleration; the best plan below the top speed; the best below the speed limit;
and the same with the second car standing still at the start."""


@lru_cache(maxsize=16)
def plan(fastest: float, risk: float, accelerations: Literal["open", "closed"]) -> tuple[int, ...]:
    """Actions of the three-phase drive that costs least, up to the step in which it hits the goal.

    The cost of a drive is what one car takes from the team's expected reward: distances and, above the speed limit,
    the probable fines. The other terms of the reward are the same for all drives of two cars side by side.

    Args:
        fastest: top speed of the plan, at most that of a car.
        risk, accelerations: as the options of the environment.
    """
    pushing, pushed = torch.arange(WEAKEST, NUM_ACTIONS), torch.arange(1, LONGEST + 1)
    grid = torch.meshgrid(pushing, pushed, torch.arange(LONGEST + 1), torch.arange(NUM_ACTIONS), indexing="ij")
    first, until, held, last = (x.flatten() for x in grid)

    def action(step: int) -> Tensor:
        """What each drive plays in its `step`-th step, counted from 1."""
        hold = torch.tensor(HOLD[accelerations])[(step - until) % 2]
        return torch.where(step <= until, first, torch.where(step <= until + held, hold, last))

    position = speed = torch.zeros(len(first), dtype=torch.float64)
    cost, arrived = torch.zeros_like(position), torch.full_like(first, HORIZON + 1)
    for step in range(1, HORIZON + 1):
        push = acceleration(action(step), accelerations)
        position = position + speed * SECONDS + 0.5 * push * SECONDS * SECONDS
        speed = speed + push * SECONDS
        under_way, distance = arrived > HORIZON, (position - GOAL).abs()
        too_fast = torch.where(speed < fastest, 0.0, torch.inf)
        cost += torch.where(under_way, distance + risk * (speed - SPEED_LIMIT).clamp(min=0) + too_fast, 0.0)
        arrived = torch.where(under_way & (distance < TOLERANCE), step, arrived)
    best = int(torch.where(arrived <= HORIZON, cost, torch.inf).argmin())
    return tuple(int(action(step)[best]) for step in range(1, int(arrived[best]) + 1))


def act(player: str, env: CarFollowing, generator: torch.Generator) -> Tensor:
    """Actions [E, 2] of a player now; a plan goes on with its last acceleration if the goal was missed."""
    shape = (env.num_envs, NUM_CARS)
    if player == "random":
        return torch.randint(NUM_ACTIONS, shape, generator=generator).to(env.device)
    if player == "full throttle":
        return torch.full(shape, NUM_ACTIONS - 1, device=env.device)
    drive = torch.tensor(plan(TOP_SPEED if player == "swift" else SPEED_LIMIT, env.risk, env.accelerations))
    actions = drive.to(env.device)[env.time.clamp(max=len(drive) - 1)][:, None].repeat(1, NUM_CARS)
    if player == "careful, alone":
        actions[:, 1] = NUM_ACTIONS // 2
    return actions


def play(player: str, episodes: int, seed: int = 0, **options: Any) -> dict[str, Tensor]:
    """Outcomes [episodes] of a player, one fresh copy of `macf/2cars` for each episode: what `Step.info` has.

    Args:
        player: one of `PLAYERS`.
        seed: of the fines and, on a stream of its own, of the player's draws.
        **options: of `inconcert.envs.macf.make`.

    Raises:
        InputError: unknown player or option.
    """
    if player not in PLAYERS:
        raise unknown("player", player, PLAYERS)
    env = make("macf/2cars", num_envs=episodes, seed=seed, **options)
    assert isinstance(env, CarFollowing)
    generator = torch.Generator().manual_seed(stream_seed("macf_players", seed))
    outcomes: dict[str, Tensor] = {}
    over = torch.zeros(episodes, dtype=torch.bool, device=env.device)
    for _ in range(EPISODE_LIMIT):
        step = env.step(act(player, env, generator))
        ended = (step.terminated | step.truncated) & ~over
        for name, values in step.info.items():
            outcomes[name] = torch.where(ended, values, outcomes.get(name, torch.zeros_like(values)))
        over |= ended
    return outcomes
