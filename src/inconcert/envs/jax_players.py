"""Scripted players of the JAX suites: what can be earned by rule, and so the scale of every return.

A player is a function `(env, step, generator) -> actions [E, N]` of discrete actions. Some scripts look at the suite's
own state, which no agent is shown; each says so.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from inconcert.config import unknown
from inconcert.envs import Step, make, stream_seed
from inconcert.envs.jax_bridge import JaxEnv
from inconcert.envs.jax_reference import legal_actions

Player = Callable[[JaxEnv, Step, torch.Generator], Tensor]

SUITE_SCRIPT = {"lbf": "gather", "rware": "courier", "connector": "head on", "smax": "focus fire", "jaxmpe": "assigned"}
"""The script of each suite; all suites also have "random"."""


def random(env: JaxEnv, step: Step, generator: torch.Generator) -> Tensor:
    """Every agent draws uniformly from its legal actions."""
    return legal_actions(env, step.available, generator)


def gather(env: JaxEnv, step: Step, generator: torch.Generator) -> Tensor:
    """Foraging: all go to the same piece of food, the one with the least way in sum, and load it; told where all is."""
    states = env.original_states()
    place, food = torch.tensor(states.agents.position), torch.tensor(states.food_items.position)
    way = (place[:, :, None] - food[:, None]).abs().sum(-1)  # [E, N, F]
    chosen = way.sum(1).masked_fill(torch.tensor(states.food_items.eaten), 10**6).argmin(1)
    goal = food[torch.arange(len(food)), chosen][:, None, None]
    moves = torch.tensor([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)])
    left = (place[:, :, None] + moves - goal).abs().sum(-1).float()  # [E, N, 5], of each move
    load = torch.where(left[..., :1] == 1, -9.0, torch.inf)
    return _least(torch.cat([left, load], -1), step, generator)


def head_on(env: JaxEnv, step: Step, generator: torch.Generator) -> Tensor:
    """Connector: every agent makes the move that brings it closest to its target, and waits where none does."""
    agents = env.original_states().agents
    way = torch.tensor(agents.target - agents.position)
    moves = torch.tensor([(0, 0), (-1, 0), (0, 1), (1, 0), (0, -1)])
    return _least((way[:, :, None] - moves).abs().sum(-1).float(), step, generator, wander=0.0)


def focus_fire(env: JaxEnv, step: Step, generator: torch.Generator) -> Tensor:
    """SMAX: shoot the weakest enemy in range; else go to the closest in sight; else to the middle of the field."""
    allies, enemies = env.spec.num_agents, env.spec.num_actions - 5
    others = step.obs[..., : 13 * (allies - 1 + enemies)].unflatten(-1, (-1, 13))
    units = others[:, :, allies - 1 :]  # [E, N, enemies, 13]
    health, way = units[..., 0], units[..., 1:3]
    shots = step.available[..., 5:]
    weakest = health.masked_fill(~shots, torch.inf).argmin(-1) + 5
    closest = way.norm(dim=-1).masked_fill(health <= 0, torch.inf).argmin(-1, keepdim=True)
    towards = way.gather(2, closest[..., None].expand(-1, -1, -1, 2)).squeeze(2)
    middle = 0.5 - step.obs[..., -9:-7]  # of the agent itself: health, place, ...
    towards = torch.where((health > 0).any(-1, keepdim=True), towards, middle)
    east, north = towards.unbind(-1)
    move = torch.where(east.abs() > north.abs(), torch.where(east > 0, 1, 3), torch.where(north > 0, 0, 2))
    actions = torch.where(shots.any(-1), weakest, move)
    legal = step.available.gather(2, actions.unsqueeze(2)).squeeze(2)
    return torch.where(legal, actions, 4)  # the dead can only stop


def assigned(env: JaxEnv, step: Step, generator: torch.Generator) -> Tensor:
    """Spread: the assignment of agents to landmarks with the least way in sum; each then steers to its own."""
    agents = env.spec.num_agents
    ways = step.obs[..., 4 : 4 + 2 * agents].unflatten(-1, (-1, 2))  # [E, N, landmarks, 2]
    costs = ways.norm(dim=-1).numpy()
    chosen = torch.from_numpy(np.stack([linear_sum_assignment(cost)[1] for cost in costs]))
    way = ways.gather(2, chosen[:, :, None, None].expand(-1, -1, -1, 2)).squeeze(2)
    error = way - 0.25 * step.obs[..., :2]  # where it will be if it lets go
    along = error.abs().argmax(-1, keepdim=True)
    push = error.gather(-1, along).squeeze(-1)
    action = 1 + 2 * along.squeeze(-1) + (push > 0)
    return torch.where(push.abs() > 0.03, action, 0)


def courier(env: JaxEnv, step: Step, generator: torch.Generator) -> Tensor:
    """Warehouse: the first robot does all the work while the others stand still, so that nothing collides.

    It fetches the closest requested shelf, takes it to the goal, and then to the closest free place. It is told where
    everything is.
    """
    states, original = env.original_states(), env.world.original
    every = np.arange(env.num_envs)
    shelves, robots = np.asarray(states.grid).swapaxes(0, 1)  # [E, rows, columns] each; 0 where there is none
    here = np.stack([states.agents.position.x[:, 0], states.agents.position.y[:, 0]])
    carrying = np.asarray(states.agents.is_carrying[:, 0]).astype(bool)
    requested = np.pad(np.asarray(states.shelves.is_requested).astype(bool), ((0, 0), (1, 0)))  # [E, 1 + shelves]
    asked_for = requested[every[:, None, None], shelves]
    load = shelves[every, *here][:, None, None]
    goal = np.zeros(shelves.shape[1:], bool)
    goal[tuple(np.asarray(original.goals).T[::-1])] = True
    free = ~np.asarray(original.highways).astype(bool) & ((shelves == 0) | (shelves == load))
    delivers = carrying & asked_for[every, *here]
    wanted = np.where(delivers[:, None, None], goal, np.where(carrying[:, None, None], free, asked_for & (robots < 2)))
    blocked = (robots > 1) | (carrying[:, None, None] & (shelves > 0))
    heading = _first_move(wanted & ~blocked, blocked, here)
    turn = (heading - np.asarray(states.agents.direction[:, 0])) % 4
    drive = np.where(heading < 0, 0, np.array([1, 3, 3, 2])[turn])
    actions = torch.zeros(env.num_envs, env.spec.num_agents, dtype=torch.long)
    actions[:, 0] = torch.from_numpy(np.where(wanted[every, *here] & ~delivers, 4, drive))
    return actions


PLAYERS: dict[str, Player] = {
    "random": random,
    "gather": gather,
    "courier": courier,
    "head on": head_on,
    "focus fire": focus_fire,
    "assigned": assigned,
}


@torch.no_grad()
def play(player: str, task: str, episodes: int, seed: int) -> dict[str, Tensor]:
    """Play one episode in each of `episodes` rows.

    Returns:
        [episodes] each: the entries of `Step.info` at the end of the episode.

    Raises:
        InputError: there is no such player or task.
    """
    if player not in PLAYERS:
        raise unknown("player", player, PLAYERS)
    env = make(task, episodes, seed)
    assert isinstance(env, JaxEnv)
    generator = torch.Generator().manual_seed(stream_seed(f"{task} {player}", seed))
    step = env.observe()
    found = {name: torch.zeros_like(value) for name, value in step.info.items()}
    waiting = torch.ones(episodes, dtype=torch.bool)
    while waiting.any():
        step = env.step(PLAYERS[player](env, step, generator))
        now = waiting & (step.terminated | step.truncated)
        found = {name: torch.where(now, step.info[name], value) for name, value in found.items()}
        waiting &= ~now
    return found


def _least(cost: Tensor, step: Step, generator: torch.Generator, wander: float = 0.1) -> Tensor:
    """The legal action of least cost [E, N, A], ties broken at random; with probability `wander` any legal one."""
    noise = torch.rand(cost.shape, generator=generator)
    lost = torch.rand(*cost.shape[:2], 1, generator=generator) < wander
    return torch.where(lost, noise, cost + 0.5 * noise).masked_fill(~step.available, torch.inf).argmin(-1)


def _first_move(wanted: np.ndarray, blocked: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Where a shortest way from `here` [2, E] to the closest `wanted` cell [E, rows, columns] begins.

    Returns:
        [E], 0 up, 1 right, 2 down, 3 left, or -1 where no way is open.
    """
    far = blocked.size
    left = np.where(wanted, 0, far)  # steps that are left, found by walking back from the wanted cells

    def around(cells: np.ndarray) -> np.ndarray:
        """Of the neighbour above, right, below and left of each cell, [4, E, rows, columns]."""
        padded = np.pad(cells, ((0, 0), (1, 1), (1, 1)), constant_values=far)
        return np.stack([padded[:, :-2, 1:-1], padded[:, 1:-1, 2:], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2]])

    while True:
        nearer = np.where(blocked, far, np.minimum(left, around(left).min(0) + 1))
        if np.array_equal(nearer, left):
            break
        left = nearer
    ways = around(left)[:, np.arange(len(left)), *here]
    return np.where(ways.min(0) < far, ways.argmin(0), -1)
