"""Scripted CoordSum players: what can be earned by rule, and so what a learned policy must beat.

A player is a function `(env, generator) -> actions [E, N]`. Fixed map, uniform first, cycling and avoiding hit every
target that can be hit: agent 0 picks one of its feasible actions, and the others, who know what it picked, complete the
sum. How agent 0 picks decides how often the opponent guesses it. Where it picks by a rule (fixed map, cycling,
avoiding) the others can know without being told; where it draws, somebody has to tell them. Agents who each draw for
themselves (random, independent) mostly miss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inconcert.config import InputError, unknown
from inconcert.envs import make, stream_seed
from inconcert.envs.coordsum import CoordSum

Player = Callable[[CoordSum, torch.Generator], Tensor]


def feasible(target: Tensor, num_agents: int, num_actions: int) -> tuple[Tensor, Tensor]:
    """The lowest and the highest action of agent 0 from which the others can still make the sum `target`.

    Args:
        target: [E] int64. A target that no joint action reaches is treated as the largest that can be reached.

    Returns:
        lowest, highest: [E] int64 each.
    """
    target = target.clamp(max=num_agents * (num_actions - 1))
    return (target - (num_agents - 1) * (num_actions - 1)).clamp(min=0), target.clamp(max=num_actions - 1)


def complete(first: Tensor, target: Tensor, num_agents: int, num_actions: int) -> Tensor:
    """Joint action [E, N]: agent 0 plays `first` [E], agents 1, 2, ... in turn fill up to the sum `target` [E]."""
    filled_before = (num_actions - 1) * torch.arange(num_agents - 1, device=first.device)
    rest = ((target - first)[:, None] - filled_before).clamp(0, num_actions - 1)
    return torch.cat([first[:, None], rest], 1)


def random(env: CoordSum, generator: torch.Generator) -> Tensor:
    """Every agent draws uniformly, on its own, whatever the target."""
    shape = (env.num_envs, env.spec.num_agents)
    return torch.randint(env.spec.num_actions, shape, generator=generator).to(env.device)


def independent(env: CoordSum, generator: torch.Generator) -> Tensor:
    """Every agent acts as in `uniform_first`, but each on a draw of its own.

    The agents' joint policy is then the product of the marginals of `uniform_first`: of all policies without shared
    draws the one with the smallest divergence KL(uniform_first || policy), which a perfect distillation ends in.
    """
    draws = [uniform_first(env, generator)[:, agent] for agent in range(env.spec.num_agents)]
    return torch.stack(draws, 1)


def fixed_map(env: CoordSum, generator: torch.Generator) -> Tensor:
    """One joint action for each target: agent 0 plays its lowest feasible action that is not 0.

    Not 0, because 0 is what the opponent guesses at a target that it has not seen yet.
    """
    lowest, highest = feasible(env.target, *_sizes(env))
    return complete(torch.minimum(lowest.clamp(min=1), highest), env.target, *_sizes(env))


def uniform_first(env: CoordSum, generator: torch.Generator) -> Tensor:
    """Agent 0 draws uniformly from its feasible actions."""
    lowest, highest = feasible(env.target, *_sizes(env))
    return complete(lowest + _draw(highest - lowest + 1, generator), env.target, *_sizes(env))


def cycling(env: CoordSum, generator: torch.Generator) -> Tensor:
    """Agent 0 goes through its feasible actions with the step count: no randomness and no memory, only a clock.

    Steps are counted from 1, as the paper does. From 0 it would earn less: where one record serves many targets, each
    round would begin with the lowest action just when all are tied, and that is what the opponent guesses then.
    """
    lowest, highest = feasible(env.target, *_sizes(env))
    return complete(lowest + (env.time + 1) % (highest - lowest + 1), env.target, *_sizes(env))


def avoiding(env: CoordSum, generator: torch.Generator) -> Tensor:
    """Agent 0 plays its lowest feasible action that the opponent does not guess, if there is one.

    Nobody need be told anything: the rule has no draws, so from the targets of the episode every agent can work out
    what agent 0 has played, hence the guess, hence what it plays now. It takes a memory.
    """
    lowest, highest = feasible(env.target, *_sizes(env))
    return complete(torch.minimum(lowest + (lowest == env.guess), highest), env.target, *_sizes(env))


PLAYERS: dict[str, Player] = {
    "random": random,
    "independent": independent,
    "fixed map": fixed_map,
    "uniform first": uniform_first,
    "cycling": cycling,
    "avoiding": avoiding,
}


def play(player: str, task: str, episodes: int, seed: int = 0, **options: Any) -> Tensor:
    """Returns [episodes] of a player, one fresh copy of the environment for each episode.

    Args:
        player: a name in `PLAYERS`.
        task: "coordsum/...".
        seed: of the targets and, on a stream of its own, of the player's draws.
        **options: of `inconcert.envs.coordsum.make`.

    Raises:
        InputError: unknown player or task, or a task of another suite.
    """
    if player not in PLAYERS:
        raise unknown("player", player, PLAYERS)
    env = make(task, num_envs=episodes, seed=seed, **options)
    if not isinstance(env, CoordSum):
        raise InputError(f"the scripted players play coordsum/..., not {task!r}")
    generator = torch.Generator().manual_seed(stream_seed("coordsum_players", seed))
    step = env.reset()
    for _ in range(env.spec.episode_limit):
        step = env.step(PLAYERS[player](env, generator))
    return step.info["episode_return"]


def _sizes(env: CoordSum) -> tuple[int, int]:
    return env.spec.num_agents, env.spec.num_actions


def _draw(count: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform integers of 0..count-1 for each row of `count` [E]."""
    uniform = torch.rand(count.shape, generator=generator, dtype=torch.float64).to(count.device)
    return (uniform * count).long()
