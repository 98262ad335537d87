"""Scripted players of the particle worlds in `mpe`: what can be earned by rule, and so the scale of every return.

A player is a function `(env, step, generator) -> actions [E, N]`. The scripts act on what each agent observes and look
one move ahead; nobody is told anything that its observation does not hold.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inconcert.config import InputError, unknown
from inconcert.envs import Step, make, particles, stream_seed
from inconcert.envs.mpe import AGENT_SIZE, NUM_LANDMARKS, WORDS
from inconcert.envs.particles import ParticleEnv

Player = Callable[[ParticleEnv, Step, torch.Generator], Tensor]


def random(env: ParticleEnv, step: Step, generator: torch.Generator) -> Tensor:
    """Every agent draws uniformly from its actions."""
    available = step.available.flatten(0, 1).float().cpu()
    return torch.multinomial(available, 1, generator=generator).view(env.num_envs, -1).to(env.device)


def idle(env: ParticleEnv, step: Step, generator: torch.Generator) -> Tensor:
    """Nobody moves; whoever can speak says its first word."""
    return torch.zeros(env.num_envs, env.spec.num_agents, dtype=torch.long, device=env.device)


def scripted(env: ParticleEnv, step: Step, generator: torch.Generator) -> Tensor:
    """The script of the task: `cover` or `tell_and_go`."""
    return cover(env, step) if env.scenario.stream == "mpe/simple_spread" else tell_and_go(env, step)


def cover(env: ParticleEnv, step: Step) -> Tensor:
    """simple_spread: the joint move that is best right after it, with each agent on a landmark of its own.

    Every agent sees all positions, so that all come to the same joint move without a word. They take each landmark's
    distance from the one agent meant for it, not from the nearest: else two would run for the same landmark. The
    others' velocities are not observed; who remembers where they were knows them.
    """
    velocity, position = step.obs[..., :2], step.obs[..., 2:4]
    landmarks = step.obs[:, 0, 4:10].unflatten(1, (-1, 2)) + position[:, :1]
    places = position.unsqueeze(2) + particles.reach(velocity, env.scenario.order)  # [E, N, 5, 2]
    far = torch.cdist(places.flatten(1, 2), landmarks).unflatten(1, places.shape[1:3])  # [E, N, 5, L]
    first, second, third = far.unbind(1)
    plans = [
        first[:, :, None, None, a] + second[:, None, :, None, b] + third[:, None, None, :, c]
        for a, b, c in itertools.permutations(range(NUM_LANDMARKS))
    ]
    near = torch.cdist(places.flatten(1, 2), places.flatten(1, 2)) < 2 * AGENT_SIZE
    touch = near.unflatten(1, places.shape[1:3]).unflatten(3, places.shape[1:3]).float()  # [E, N, 5, N, 5]
    pairs = touch[:, 0, :, 1, :, None] + touch[:, 0, :, 2].unsqueeze(2) + touch[:, 1, :, 2].unsqueeze(1)
    # what the team is paid: 1.5 times the distances, and half a point to each of the two who touch
    cost = 1.5 * torch.stack(plans).amin(0) + pairs
    best = cost.flatten(1).argmin(1)
    return torch.stack([best // 25, best // 5 % 5, best % 5], 1)


def tell_and_go(env: ParticleEnv, step: Step) -> Tensor:
    """simple_reference, simple_speaker_listener: say the goal's number; go where one is told, at first to the middle.

    It is a protocol: it takes an agreement on which word means which landmark, which a team has to learn.
    """
    if env.scenario.stream == "mpe/simple_reference":
        goal = step.obs[..., 8:11].argmax(-1)  # [E, 2], the other's
        return _go(env, step.obs[..., :2], step.obs[..., 2:8], step.obs[..., 11 : 11 + WORDS]) + 5 * goal
    listener = step.obs[:, 1]
    moves = _go(env, listener[:, :2], listener[:, 2:8], listener[:, 8:11])
    return torch.stack([step.obs[:, 0, :3].argmax(-1), moves], 1)


PLAYERS: dict[str, Player] = {"random": random, "idle": idle, "scripted": scripted}


def play(player: str, task: str, episodes: int, seed: int = 0, **options: Any) -> Tensor:
    """Team returns [episodes] of a player, one fresh world for each episode.

    Args:
        player: a name in `PLAYERS`.
        task: "mpe/...".
        seed: of the worlds and, on a stream of its own, of the player's draws.
        **options: of `inconcert.envs.mpe.make`.

    Raises:
        InputError: unknown player or task, or a task of another suite.
    """
    if player not in PLAYERS:
        raise unknown("player", player, PLAYERS)
    env = make(task, num_envs=episodes, seed=seed, **options)
    if not (isinstance(env, ParticleEnv) and env.scenario.stream.startswith("mpe/")):
        raise InputError(f"these players play mpe/..., not {task!r}")
    generator = torch.Generator().manual_seed(stream_seed("mpe_players", seed))
    step = env.reset()
    for _ in range(env.spec.episode_limit):
        step = env.step(PLAYERS[player](env, step, generator))
    return step.info["team_return"]


def _go(env: ParticleEnv, velocity: Tensor, landmarks: Tensor, word: Tensor) -> Tensor:
    """The move [...] that brings an agent nearest to the landmark it was told.

    Args:
        velocity: [..., 2].
        landmarks: [..., 6], as seen from the agent.
        word: [..., W], one-hot; all 0 before anybody has spoken.
    """
    landmarks = landmarks.unflatten(-1, (NUM_LANDMARKS, 2))
    meant = word[..., :NUM_LANDMARKS, None]
    target = torch.where(meant.sum(-2) > 0, (meant * landmarks).sum(-2), landmarks.mean(-2))
    return (particles.reach(velocity, env.scenario.order) - target.unsqueeze(-2)).square().sum(-1).argmin(-1)
