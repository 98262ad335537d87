"""Scripted football players, and matches of theirs as tables: what can be earned by rule, and how fast the engine runs.

A player is a function `(env, step, generator) -> actions [E, N]`. The script acts on what each agent observes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from inconcert.config import InputError, unknown
from inconcert.envs import Step, make, stream_seed
from inconcert.envs.football import ACTIONS, FIELDS, Match, Players
from inconcert.envs.workers import WorkerEnv

Player = Callable[[WorkerEnv, Step, torch.Generator], Tensor]

GOAL = (1.0, 0.0)
SHOOTING_RANGE = 0.3
"""Distance to the middle of the goal from which the script shoots; the field is two units long."""
BLOCKING_RANGE = 0.15
"""Distance at which an opponent in front is run around."""
WAYS = torch.tensor(
    [ACTIONS.index(way) for way in
     ("right", "bottom_right", "bottom", "bottom_left", "left", "top_left", "top", "top_right")]
)  # fmt: skip
"""The actions that run, in steps of 45 degrees from the goal's side on; y grows towards the bottom."""


def random(env: WorkerEnv, step: Step, generator: torch.Generator) -> Tensor:
    """Every agent draws uniformly from its actions."""
    shape = (env.num_envs, env.spec.num_agents)
    return torch.randint(env.spec.num_actions, shape, generator=generator).to(env.device)


def idle(env: WorkerEnv, step: Step, generator: torch.Generator) -> Tensor:
    """Nobody does anything."""
    return torch.zeros(env.num_envs, env.spec.num_agents, dtype=torch.long, device=env.device)


def attack(env: WorkerEnv, step: Step, generator: torch.Generator) -> Tensor:
    """Who is nearest to the ball runs with it to the goal and shoots in range; the others run along. No passes.

    Everybody runs around an opponent who stands in the way.
    """
    own, ball, opponents = positions(step)
    to_ball, to_goal = ball[:, None] - own, torch.tensor(GOAL, device=env.device) - own
    distance = to_ball.norm(dim=-1)
    nearest = distance == distance.amin(1, keepdim=True)
    has_ball = nearest & (step.obs[..., FIELDS["ball owner"]][..., 1] > 0)

    gap = opponents[:, None] - own[:, :, None]  # [E, N, 11, 2]
    gap = gap.masked_fill(gap[..., :1] < 0, torch.inf)  # those behind are no matter
    in_front = gap.take_along_dim(gap.norm(dim=-1).argmin(-1)[..., None, None], 2).squeeze(2)
    aside = torch.stack([torch.zeros_like(distance), -in_front[..., 1].sign()], -1)
    blocked = in_front.norm(dim=-1) < BLOCKING_RANGE
    way = to_goal / to_goal.norm(dim=-1, keepdim=True) + aside * blocked[..., None]

    target = torch.where((nearest & ~has_ball)[..., None], to_ball, way)
    shoots = has_ball & (to_goal.norm(dim=-1) < SHOOTING_RANGE)
    return torch.where(shoots, ACTIONS.index("shot"), run(target))


def positions(step: Step) -> tuple[Tensor, Tensor, Tensor]:
    """Where the agents [E, N, 2], the ball [E, 2] and the opponents [E, 11, 2] are; who is not there is at infinity."""
    players = step.obs[:, :, FIELDS["left positions"]].unflatten(-1, (11, 2))
    active = step.obs[..., FIELDS["active player"]].argmax(-1)
    own = players.take_along_dim(active[..., None, None], 2).squeeze(2)
    opponents = step.obs[:, 0, FIELDS["right positions"]].unflatten(-1, (11, 2))
    absent = (opponents == -1).all(-1, keepdim=True)
    return own, step.obs[:, 0, FIELDS["ball position"]][:, :2], opponents.masked_fill(absent, torch.inf)


def run(way: Tensor) -> Tensor:
    """The action that runs most nearly along `way` [..., 2]."""
    eighth = (torch.atan2(way[..., 1], way[..., 0]) / (torch.pi / 4)).round().long() % 8
    return WAYS.to(way.device)[eighth]


PLAYERS: dict[str, Player] = {"random": random, "idle": idle, "attack": attack}


def play(name: str, player: str, episodes: int, seed: int = 0, **options: Any) -> pd.DataFrame:
    """Play the first `episodes` attacks of a single copy of the scenario, one row for each.

    Columns: episode, steps, goal, conceded, truncated, episode_return (mean over agents, of the rewards as asked for).

    Raises:
        InputError: an unknown player, fewer than 1 episode, or as `make`.
    """
    if player not in PLAYERS:
        raise unknown("player", player, PLAYERS)
    if episodes < 1:
        raise InputError(f"episodes must be at least 1, not {episodes}")
    env = make(f"football/{name}", num_envs=1, seed=seed, **options)
    assert isinstance(env, WorkerEnv)
    generator = torch.Generator().manual_seed(stream_seed(f"football/{player}", seed))
    rows: list[dict[str, Any]] = []
    step = env.observe()
    while len(rows) < episodes:
        step = env.step(PLAYERS[player](env, step, generator))
        if step.terminated | step.truncated:
            rows.append(
                {
                    "episode": len(rows),
                    "steps": int(step.info["episode_length"]),
                    "goal": bool(step.info["goal"]),
                    "conceded": bool(step.reward[0].max() < 0),
                    "truncated": bool(step.truncated),
                    "episode_return": float(step.info["episode_return"]),
                }
            )
    env.close()
    return pd.DataFrame(rows)


def track(name: str, player: str, seed: int = 0, **options: Any) -> pd.DataFrame:
    """One attack as a table: a row for each moment and body on the field (x, y; who: "ball", "left 7", "right 0", ...).

    The column agent is the agent's number where the player is one, else -1.
    """
    env = make(f"football/{name}", num_envs=1, seed=seed, **options)
    assert isinstance(env, WorkerEnv)
    generator = torch.Generator().manual_seed(stream_seed(f"football/{player}", seed))
    rows, step, ended = [], env.observe(), False
    while True:
        obs = step.final_obs[0]
        active = obs[:, FIELDS["active player"]].argmax(-1).tolist()
        x, y = obs[0, FIELDS["ball position"]][:2].tolist()
        moment = {"step": int(step.info["episode_length"]), "goal": bool(step.info["goal"])}
        rows.append({**moment, "who": "ball", "agent": -1, "x": x, "y": y})
        for side in ("left", "right"):
            for number, place in enumerate(obs[0, FIELDS[f"{side} positions"]].view(11, 2).tolist()):
                if place != [-1.0, -1.0]:
                    agent = active.index(number) if side == "left" and number in active else -1
                    rows.append({**moment, "who": f"{side} {number}", "agent": agent, "x": place[0], "y": place[1]})
        if ended:
            env.close()
            return pd.DataFrame(rows)
        step = env.step(PLAYERS[player](env, step, generator))
        ended = bool(step.terminated | step.truncated)


def hands(name: str, players: Players, steps: int, seed: int = 0) -> pd.DataFrame:
    """Which player each agent has through random episodes: columns players, step, episode, agent, player."""
    env = make(f"football/{name}", num_envs=1, seed=seed, players=players)
    assert isinstance(env, WorkerEnv)
    generator = torch.Generator().manual_seed(stream_seed("football/hands", seed))
    rows, step, episode = [], env.observe(), 0
    for number in range(steps):
        active = step.obs[0, :, FIELDS["active player"]].argmax(-1).tolist()
        for agent, player in enumerate(active):
            rows.append({"players": players, "step": number, "episode": episode, "agent": agent, "player": player})
        step = env.step(random(env, step, generator))
        episode += int(step.terminated | step.truncated)
    env.close()
    return pd.DataFrame(rows)


def repeats(name: str, episodes: int, seed: int = 0) -> pd.DataFrame:
    """Idle episodes under one seed of the engine, as a setting of the package gives them, and under ours.

    Columns: seeding ("one engine seed", "a seed for each episode"), episode, steps, print (a hash of all observations).
    """
    seeds = [stream_seed(f"football/repeats/{episode}", seed) >> 32 for episode in range(episodes)]
    rows = []
    for seeding in ("one engine seed", "a seed for each episode"):
        match = Match(name, "scoring", "each", "fixed")
        for episode in range(episodes):
            moment = match.reset(seeds[0] if seeding == "one engine seed" else seeds[episode])
            shown, ended = [moment.obs], False
            while not ended:
                moment, _, terminated, truncated, _ = match.step(np.zeros(len(moment.obs), np.int64))
                shown.append(moment.obs)
                ended = terminated or truncated
            mark = hashlib.sha256(np.stack(shown).tobytes()).hexdigest()[:12]
            rows.append({"seeding": seeding, "episode": episode, "steps": len(shown) - 1, "print": mark})
        match.close()
    return pd.DataFrame(rows)


def pace(name: str, workers: int, seconds: float, rows: int | None = None) -> dict[str, float]:
    """Random stepping for about `seconds`, restarts included: steps of single copies per second and per CPU second.

    Args:
        rows: copies; by default one a worker.
    """
    env = make(f"football/{name}", num_envs=rows or max(1, workers), workers=workers)
    assert isinstance(env, WorkerEnv)
    generator = torch.Generator().manual_seed(0)
    step = env.step(random(env, env.observe(), generator))
    processes = env.processes or [os.getpid()]
    steps, cpu, start = 0, sum(map(_cpu_seconds, processes)), time.perf_counter()
    while time.perf_counter() - start < seconds:
        step = env.step(random(env, step, generator))
        steps += env.num_envs
    wall, spent = time.perf_counter() - start, sum(map(_cpu_seconds, processes)) - cpu
    env.close()
    return {"steps_per_s": steps / wall, "steps_per_cpu_s": steps / spent, "copies": env.num_envs}


def _cpu_seconds(process: int) -> float:
    """CPU time that a process has used (Linux)."""
    with open(f"/proc/{process}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
