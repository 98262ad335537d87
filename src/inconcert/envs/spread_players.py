"""Scripted players of the coloured spread: what can be earned by rule, and so the scale of every return.

A player is a function `(env, generator) -> actions [E, N]`. The oracles are told the one thing that no agent observes,
its colour; the others are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inconcert.config import InputError, unknown
from inconcert.envs import make, particles, stream_seed
from inconcert.envs.particles import ParticleEnv
from inconcert.envs.spread import Spread

Player = Callable[[ParticleEnv, torch.Generator], Tensor]


def random(env: ParticleEnv, generator: torch.Generator) -> Tensor:
    """Every agent draws uniformly from the five moves."""
    return torch.randint(5, (env.num_envs, env.spec.num_agents), generator=generator).to(env.device)


def idle(env: ParticleEnv, generator: torch.Generator) -> Tensor:
    """Nobody moves."""
    return torch.zeros(env.num_envs, env.spec.num_agents, dtype=torch.long, device=env.device)


def centroid(env: ParticleEnv, generator: torch.Generator) -> Tensor:
    """All go to the middle of the landmarks, where an agent is not far from its own, whichever that is."""
    landmarks = _rules(env).lines.cut(env.world, "landmarks")
    return _go(env, landmarks.mean(1, keepdim=True), at_rest=True)


def oracle(env: ParticleEnv, generator: torch.Generator) -> Tensor:
    """Each goes to its own landmark, by the move that takes it nearest at once."""
    return _go(env, _own_landmark(env), at_rest=False)


def coasting_oracle(env: ParticleEnv, generator: torch.Generator) -> Tensor:
    """Each goes to its own landmark, by the move after which it would coast to rest nearest to it."""
    return _go(env, _own_landmark(env), at_rest=True)


PLAYERS: dict[str, Player] = {
    "random": random,
    "idle": idle,
    "centroid": centroid,
    "coasting oracle": coasting_oracle,
    "oracle": oracle,
}


def play(player: str, task: str, episodes: int, seed: int = 0, **options: Any) -> Tensor:
    """Team returns [episodes] of a player, one fresh world for each episode.

    The worlds of a seed are the same in all tasks of one size: on `naive_...` a player earns the part of its return
    that is not bonus.

    Args:
        player: a name in `PLAYERS`.
        task: "spread/...".
        seed: of the worlds and, on a stream of its own, of the player's draws.
        **options: of `inconcert.envs.spread.make`.

    Raises:
        InputError: unknown player or task, or a task of another suite.
    """
    if player not in PLAYERS:
        raise unknown("player", player, PLAYERS)
    env = make(task, num_envs=episodes, seed=seed, **options)
    if not (isinstance(env, ParticleEnv) and isinstance(env.scenario, Spread)):
        raise InputError(f"these players play spread/..., not {task!r}")
    generator = torch.Generator().manual_seed(stream_seed("spread_players", seed))
    step = env.reset()
    for _ in range(env.spec.episode_limit):
        step = env.step(PLAYERS[player](env, generator))
    return step.info["team_return"]


def _rules(env: ParticleEnv) -> Spread:
    assert isinstance(env.scenario, Spread)
    return env.scenario


def _own_landmark(env: ParticleEnv) -> Tensor:
    """[2, N, E]"""
    rules = _rules(env)
    return rules.lines.cut(env.world, "landmarks").index_select(1, rules.colour)


def _go(env: ParticleEnv, target: Tensor, at_rest: bool) -> Tensor:
    """The moves [E, N] towards the targets [2, N or 1, E]."""
    rules = _rules(env)
    there = (target - rules.lines.cut(env.world, "position")).permute(2, 1, 0)  # [E, N, 2]
    velocity = rules.lines.cut(env.world, "velocity").permute(2, 1, 0)
    away = particles.reach(velocity, rules.order, at_rest) - there.unsqueeze(-2)
    return away.square().sum(-1).argmin(-1)
