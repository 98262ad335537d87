"""Scripted hunters for predator-prey: what can be earned by rule, and so what a learned policy must beat.

They see the whole grid and agree in pairs, so they also say what a team without a common view cannot count on. `alone`
is the opposite: each hunts what it sees first and catches as soon as it may, whoever else is there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inconcert.config import InputError, unknown
from inconcert.envs import make, stream_seed
from inconcert.envs.predator_prey import CATCH, STAY, PredatorPrey

PLAYERS = ("random", "alone", "in pairs")
"""Random legal actions; each to its nearest animal, catching as soon as it may; and agents two by two to the animal
that is nearest to both, catching when both are beside it."""

FAR = 10_000


def toward(here: Tensor, there: Tensor, available: Tensor, generator: torch.Generator) -> Tensor:
    """A legal walk that comes nearer, or else a random legal one: [E, N] from places `here`, `there` [E, N, 2].

    A tenth of the walks is random, so that two who block each other do not do so for ever.
    """
    down, right = (there - here).unbind(2)
    nearer = torch.stack([right > 0, down > 0, right < 0, down < 0], 2) & available[:, :, :STAY]
    chance = torch.rand(nearer.shape, generator=generator).to(here.device)
    wander = torch.rand(nearer.shape[:2], generator=generator).to(here.device) < 0.1
    wanted = torch.where((nearer.any(2) & ~wander).unsqueeze(2), nearer, available[:, :, :STAY])
    best = (chance * wanted).argmax(2)
    return torch.where(wanted.any(2), best, STAY)


def act(player: str, env: PredatorPrey, generator: torch.Generator) -> Tensor:
    """Actions [E, N] of a player now."""
    available = env.observe().available
    rows, num_agents, _ = available.shape
    if player == "random":
        weight = available.flatten(0, 1).float().cpu()
        return torch.multinomial(weight, 1, generator=generator).view(rows, num_agents).to(env.device)
    agents, prey = env.agents, env.prey
    gone, caught = (agents < 0).all(2), (prey < 0).all(2)
    apart = (agents.unsqueeze(2) - prey.unsqueeze(1)).abs().sum(3)  # [E, N, P]
    apart = apart.masked_fill(caught.unsqueeze(1), FAR)
    if player == "in pairs":
        return _in_pairs(agents, prey, apart, gone, available, generator)
    goal = apart.argmin(2)
    walk = toward(agents, prey.gather(1, goal.unsqueeze(2).expand(-1, -1, 2)), available, generator)
    actions = torch.where(available[:, :, CATCH], CATCH, walk)
    return torch.where(gone, STAY, actions)


def play(player: str, task: str, episodes: int, seed: int = 0, **options: Any) -> dict[str, Tensor]:
    """Outcomes [episodes] of a player, one fresh copy of the environment for each episode: what `Step.info` has.

    Args:
        player: one of `PLAYERS`.
        task: "predator_prey/...".
        seed: of the grids and, on a stream of its own, of the player's draws.
        **options: of `inconcert.envs.predator_prey.make`.

    Raises:
        InputError: unknown player, task or option, or a task of another suite.
    """
    if player not in PLAYERS:
        raise unknown("player", player, PLAYERS)
    env = make(task, num_envs=episodes, seed=seed, **options)
    if not isinstance(env, PredatorPrey):
        raise InputError(f"the scripted players play predator_prey/..., not {task!r}")
    generator = torch.Generator().manual_seed(stream_seed("predator_prey_players", seed))
    outcomes: dict[str, Tensor] = {}
    over = torch.zeros(episodes, dtype=torch.bool, device=env.device)
    for time in range(1, env.spec.episode_limit + 1):
        step = env.step(act(player, env, generator))
        ended = (step.terminated | step.truncated) & ~over
        for name, values in step.info.items():
            outcomes[name] = torch.where(ended, values, outcomes.get(name, torch.zeros_like(values)))
        over |= ended
        if time % 25 == 0 and bool(over.all()):
            break
    return outcomes


def _in_pairs(
    agents: Tensor, prey: Tensor, apart: Tensor, gone: Tensor, available: Tensor, generator: torch.Generator
) -> Tensor:
    """Those still there go two by two, in the order of their numbers, to the stag that is nearest to both."""
    num_agents = gone.shape[1]
    rank = (~gone).long().cumsum(1) - 1  # place of an agent among those still there
    order = gone.long().argsort(stable=True, dim=1)  # those still there first, in order
    partner = order.gather(1, (rank ^ 1).clamp(0, num_agents - 1))  # 0 with 1, 2 with 3, ...
    alone = (rank ^ 1) >= (~gone).sum(1, keepdim=True)
    partner = torch.where(alone, torch.arange(num_agents, device=gone.device), partner)
    both = apart + apart.gather(1, partner.unsqueeze(2).expand(-1, -1, apart.shape[2]))
    goal = both.argmin(2)
    distance = apart.gather(2, goal.unsqueeze(2)).squeeze(2)
    beside = distance == 1
    ready = beside & beside.gather(1, partner) & ~alone
    pair = rank // 2
    earlier = ready.unsqueeze(1) & (goal.unsqueeze(1) == goal.unsqueeze(2)) & (pair.unsqueeze(1) < pair.unsqueeze(2))
    ready &= ~earlier.any(2)  # two pairs at one stag would both leave with it
    walk = toward(agents, prey.gather(1, goal.unsqueeze(2).expand(-1, -1, 2)), available, generator)
    actions = torch.where(ready, CATCH, torch.where(beside, STAY, walk))
    return torch.where(gone, STAY, actions)
