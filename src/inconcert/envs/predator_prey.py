"""Predator-prey as a stag hunt: agents on a grid who catch a stag only if at least two of them try at once.

A task `predator_prey/<agents>x<stags>-<side>` is a bounded grid of side x side cells with N agents and wandering stags.
Catching is an action of its own, legal beside an animal. Two or more agents who catch the same stag share 10 and leave
the grid with it; an agent who tries alone gets nothing, or pays for it (`punishment`). Ensemble-MIX names the task and
gives no sizes; these are the rules of the authors' working copies, which took the game from Boehmer et al. (2020). What
is not certain is an option of `make`. See the page `environments/predator_prey`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from inconcert.config import InputError
from inconcert.envs import Spec, Step, unknown_task
from inconcert.envs.batched import (
    Uniforms,
    check_actions,
    check_flag,
    check_legal,
    check_number,
    check_range,
    check_state,
    distinct,
    foreign,
    generators,
)  # fmt: skip

TASKS = ("8x8-10", "4x4-10", "4x4-5")
"""The authors' working copy; the four-agent game of their later project; and a small one of ours."""
PATTERN = "<agents>x<stags>-<side>"

ACTIONS = ("right", "down", "left", "up", "stay", "catch")
STAY, CATCH = 4, 5
REWARD_STAG, REWARD_HARE = 10.0, 1.0
HUNTERS_STAG, HUNTERS_HARE = 2, 1
"""How many agents must catch at once."""

FREE, AGENT, STAG, HARE, WALL, NOTHING = 0, 251, 252, 253, 254, 255
"""What is in a cell. While the animals take their turns, k in 1..250 marks the cell of an agent who left in turn k."""
TRIES = tuple(permutations(range(4)))
"""The orders in which an animal may try the four directions."""


def sizes(name: str) -> tuple[int, int, int]:
    """Agents, stags and side of a task name: "8x8-10" -> (8, 8, 10).

    Raises:
        InputError: the name does not follow the pattern.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)-([1-9]\d*)", name)
    if match is None:
        raise unknown_task("predator_prey", name)
    agents, stags, side = (int(group) for group in match.groups())
    return agents, stags, side


def make(
    name: str,
    *,
    num_envs: int,
    seeds: tuple[int, ...],
    device: torch.device,
    punishment: float = 0.0,
    hares: int = 0,
    view: int = 2,
    observe_walls: bool = False,
    episode_limit: int = 200,
    debug: bool = False,
) -> PredatorPrey:
    """A batch of `len(seeds) * num_envs` copies of the task `name`, for instance "8x8-10".

    Args:
        punishment: what the team pays for every stag that too few agents try to catch in a step, as a number >= 0: 0 in
            the authors' working copy, 1 to 2 in the papers that the game comes from.
        hares: animals that one agent can catch, for a reward of 1; 0 in the authors' working copy.
        view: an agent sees the square of this many cells in each direction; 2 gives 5 x 5.
        observe_walls: mark cells beyond the edge with -1 in the plane of the agents; the authors' working copy does
            not, and an agent notices the edge only because it may not walk there.
        episode_limit: steps after which an episode is cut off.
        debug: check every action (this reads the device back at each step).

    Raises:
        InputError: a name or an option that does not exist, or more inhabitants than cells.
    """
    agents, stags, side = sizes(name)
    check_number("punishment", punishment, 0)
    check_number("hares", hares, 0, whole=True)
    check_number("view", view, 1, whole=True)
    check_number("episode_limit", episode_limit, 1, whole=True)
    check_flag("observe_walls", observe_walls)
    check_flag("debug", debug)
    if agents + stags + hares > side * side:
        raise InputError(f"{agents} agents and {stags + hares} animals do not fit on {side} x {side} cells")
    if stags + hares >= AGENT:
        raise InputError(f"there can be at most {AGENT - 1} animals, not {stags + hares}")
    return PredatorPrey(
        agents, stags, hares, side, num_envs=num_envs, seeds=seeds, device=device, punishment=punishment, view=view,
        observe_walls=observe_walls, episode_limit=episode_limit, debug=debug,
    )  # fmt: skip


class PredatorPrey:
    """See `make` and the contract `inconcert.envs.VectorEnv`.

    Observation [E, N, 3 w w], w = 2 view + 1: the agents, the stags and the hares in the square around the agent, each
    a plane of w x w cells read row by row; an agent sees itself in the middle. State [E, 3 side side]: the same
    planes of the whole grid. An agent that has caught something has left the grid: it sees nothing and can only stay.
    `info` also has `captured` [E] int64, the animals caught in the episode so far.

    A step: the agents move in a random order, each blocked by whoever is in the way at its turn. Then the animals take
    their turns in a random order: one that enough agents beside it try to catch is gone, and those agents with it;
    any other walks to a free cell beside it, each equally likely, if there is one. An episode ends when no animal or no
    agent is left (a termination), or is cut off after `episode_limit` steps (a truncation).

    Inside, the rows come last (`[N, E]`), so that what happens to all rows at once lies side by side in memory.
    """

    def __init__(
        self,
        num_agents: int,
        num_stags: int,
        num_hares: int,
        side: int,
        *,
        num_envs: int,
        seeds: tuple[int, ...],
        device: torch.device,
        punishment: float,
        view: int,
        observe_walls: bool,
        episode_limit: int,
        debug: bool,
    ) -> None:
        window, self.num_prey = 2 * view + 1, num_stags + num_hares
        self.spec = Spec(
            num_agents, len(ACTIONS), 3 * window * window, 3 * side * side, episode_limit, "episode_return"
        )
        self.seeds = seeds
        self.device = device
        self.num_envs = rows = len(seeds) * num_envs
        self.side, self.view = side, view
        self._punishment, self._observe_walls, self._debug = float(punishment), observe_walls, debug

        # The grid has a wall around it as thick as an agent can see, and below that as many cells of nothing: in their
        # middle is the place of all who have left. Cells are numbered row by row.
        width = side + 2 * view
        inner = torch.arange(side, device=device) + view
        self._inner = (inner[:, None] * width + inner).flatten()  # [side side]
        self._empty = torch.full(((width + window) * width,), NOTHING, dtype=torch.uint8, device=device)
        self._empty[: width * width] = WALL
        self._empty[self._inner] = FREE
        self._away = (width + view) * width + view
        self._first = len(self._empty) * torch.arange(rows, device=device)  # [E], flat index of a row's first cell
        self._grid = self._empty.repeat(rows)  # [E cells]

        def numbers(*values: Any, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        self._width = width
        steps = (1, width, -1, -width)
        self._moves = numbers(*steps, 0, 0)  # [A]
        self._tries = numbers(*[[*(steps[one] for one in order), 0] for order in TRIES])  # [24, 5], the last is to stay
        reach = torch.arange(-view, view + 1, device=device)
        self._window = (reach[:, None] * width + reach).flatten()  # [w w]
        self._kind = numbers(*[STAG] * num_stags, *[HARE] * num_hares, dtype=torch.uint8)  # [P]
        self._hunters = numbers(*[HUNTERS_STAG] * num_stags, *[HUNTERS_HARE] * num_hares, dtype=torch.uint8)
        self._worth = numbers(*[REWARD_STAG] * num_stags, *[REWARD_HARE] * num_hares, dtype=torch.float32)
        self._rows = torch.arange(rows, device=device)
        self._no = torch.zeros((), dtype=torch.bool, device=device).expand(rows)
        self._zero = torch.zeros((), device=device).expand(rows)

        self._agents = torch.zeros(num_agents, rows, dtype=torch.int64, device=device)  # cells
        self._active = torch.ones(num_agents, rows, dtype=torch.bool, device=device)
        self._prey = torch.zeros(self.num_prey, rows, dtype=torch.int64, device=device)  # cells
        self._alive = torch.ones(self.num_prey, rows, dtype=torch.bool, device=device)
        self._time = torch.zeros(rows, dtype=torch.int64, device=device)
        self._return = torch.zeros(rows, device=device)
        self._uniforms = Uniforms("predator_prey", seeds, num_envs, 2 * num_agents + 3 * self.num_prey, device)
        self.reset()

    @property
    def agents(self) -> Tensor:
        """[E, N, 2] int64: row and column of each agent, counted from 0; -1 for one that has left the grid."""
        return self._places(self._agents, self._active)

    @property
    def prey(self) -> Tensor:
        """[E, P, 2] int64: row and column of each animal, stags before hares; -1 for one that has been caught."""
        return self._places(self._prey, self._alive)

    @property
    def noise(self) -> Tensor:
        """[E, 2 N + 3 P]: the uniform numbers that decide the next step.

        In turn: the order of the agents [N] and of the animals [P] (see `batched.distinct`), for each of the animals'
        turns the order in `TRIES` in which directions are tried [P], and the cells of agents and animals should an
        episode start [N + P], as `distinct` choices of the cells of the grid.
        """
        return self._block[self._uniforms.used].t().clone()

    def reset(self) -> Step:
        self._draw()
        self._restart(self._rows, ~self._no)
        self._uniforms.used += 1
        self._draw()
        self._obs, self._state, self._available = self._look(self._rows)
        return self.observe()

    def observe(self) -> Step:
        return Step(
            self._obs, self._state, self._available, self._zero[:, None].expand(-1, self.spec.num_agents), self._no,
            self._no, self._obs, self._state, self._info(self._return, self._time),
        )  # fmt: skip

    def step(self, actions: Tensor) -> Step:
        """Play `actions` [E, N], indices into `ACTIONS`.

        Raises:
            InputError: wrong shape or a floating type; with `debug=True` also an illegal action, by row and agent.
                Without `debug`, a walk into the wall and a catch with no animal beside it do nothing.
        """
        check_actions(actions, self.spec, self.num_envs)
        if self._debug:
            check_legal(actions, self._available)
        turned = actions.t().long().contiguous()
        self._move_agents(turned)
        team = self._move_prey(turned == CATCH)

        self._return, self._time = self._return + team, self._time + 1
        terminated = ~(self._active.any(0) & self._alive.any(0))
        truncated = (self._time >= self.spec.episode_limit) & ~terminated
        ended = terminated | truncated
        obs, state, available = final_obs, final_state, _ = self._look(self._rows)
        info = self._info(self._return, self._time)

        # on other devices, asking which rows have ended would make the host wait: there, all rows are looked at again
        rows = ended.nonzero().squeeze(1) if self.device.type == "cpu" else self._rows
        if len(rows) > 0:
            self._restart(rows, ended[rows])
            fresh = self._look(rows)
            obs, state, available = (
                old.index_copy(0, rows, new) for old, new in zip((obs, state, available), fresh, strict=True)
            )
        self._obs, self._state, self._available = obs, state, available
        self._uniforms.used += 1
        self._draw()
        shared = team[:, None].expand(-1, self.spec.num_agents)
        return Step(obs, state, available, shared, terminated, truncated, final_obs, final_state, info)

    def state_dict(self) -> dict[str, Tensor]:
        own = {"agents": self._agents, "active": self._active, "prey": self._prey, "alive": self._alive}
        own |= {"time": self._time, "return": self._return}
        return {name: tensor.clone() for name, tensor in own.items()} | self._uniforms.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`.

        Raises:
            InputError: a tensor is missing or has another shape or type than this environment's own, or holds what
                cannot be (nothing changed).
        """
        check_state(self.state_dict(), state)
        check_range(state, time=(0, self.spec.episode_limit - 1), used=(0, Uniforms.LENGTH - 1))
        for name in ("agents", "prey"):
            if not bool(torch.isin(state[name].to(self.device), self._inner).all()):
                raise foreign(f"{name!r} is out of range")
        streams = generators(state["generators"])

        def mine(name: str) -> Tensor:
            return state[name].to(self.device, copy=True)

        self._agents, self._active, self._prey, self._alive = map(mine, ("agents", "active", "prey", "alive"))
        self._time, self._return = mine("time"), mine("return")
        self._uniforms.load(streams)
        self._draw()
        self._uniforms.used = int(state["used"])
        self._settle(self._rows)
        self._obs, self._state, self._available = self._look(self._rows)

    # ------------------------------------------------------------------------------------------------------- the rules

    def _move_agents(self, actions: Tensor) -> None:
        """All agents move in a random order: each goes where `actions` [N, E] say if that cell is free at its turn."""
        order, away = self._agent_order[self._uniforms.used], self._first + self._away
        start = torch.where(self._active, self._agents + self._first, away)
        goal = torch.where(self._active, start + self._moves[actions], away)
        places = []
        for here, there in zip(start.gather(0, order).unbind(0), goal.gather(0, order).unbind(0), strict=True):
            place = torch.where(self._grid.take(there) == FREE, there, here)  # who stays finds itself in the way
            self._grid.index_fill_(0, here, FREE)
            self._grid.index_fill_(0, place, AGENT)
            places.append(place)
        self._grid.index_fill_(0, away, NOTHING)
        moved = start.scatter(0, order, torch.stack(places)) - self._first
        self._agents = torch.where(self._active, moved, self._agents)

    def _move_prey(self, catching: Tensor) -> Tensor:
        """All animals take their turns in a random order; returns the team's reward [E].

        Args:
            catching: [N, E] bool, the agents who try to catch.
        """
        now, away = self._uniforms.used, self._first + self._away
        order = self._prey_order[now]
        cells, alive = self._prey.gather(0, order), self._alive.gather(0, order)  # [P, E], by turn from here on
        kind, needed, worth = self._kind[order], self._hunters[order], self._worth[order]

        # An animal is where it was until its turn, and so is an agent who catches: who is beside whom is known now.
        apart = (cells[:, None] - self._agents).abs()
        beside = ((apart == 1) | (apart == self._width)) & (catching & self._active) & alive[:, None]  # [P, N, E]
        active = self._active
        marks = torch.full_like(active, AGENT, dtype=torch.uint8)
        counts = []
        for turn, near in enumerate(beside.unbind(0)):
            hunting = near & active
            count = hunting.view(torch.uint8).sum(0, dtype=torch.uint8)
            leaving = hunting & (count >= needed[turn])
            active = active ^ leaving
            marks.masked_fill_(leaving, turn + 1)
            counts.append(count)
        hunters = torch.stack(counts)
        caught = hunters >= needed
        team = (caught * worth).sum(0) - self._punishment * ((hunters > 0) & ~caught).sum(0)

        grid = self._grid
        stand = torch.where(self._active, self._agents + self._first, away)
        grid.put_(stand, marks)
        stays = alive & ~caught
        clear = torch.where(alive, cells + self._first, away)
        steps = self._tries[(self._by_turn[now] * len(TRIES)).long()]  # [P, E, 5]
        choices = torch.where(stays, clear, away).unsqueeze(2) + steps * stays.unsqueeze(2)
        places = []
        for turn, (here, there) in enumerate(zip(clear.unbind(0), choices.unbind(0), strict=True)):
            grid.index_fill_(0, here, FREE)  # so its last choice, to stay, is free
            blocked = grid.take(there) > turn
            first = blocked.view(torch.uint8).argmin(1, keepdim=True)  # the first of those that are not
            place = there.gather(1, first).squeeze(1)
            grid.put_(place, kind[turn])
            places.append(place)
        left = torch.where(active, away, stand)
        grid.put_(left, torch.where(grid.take(left) <= len(places), FREE, grid.take(left)))
        grid.index_fill_(0, away, NOTHING)

        moved = torch.where(stays, torch.stack(places) - self._first, cells)
        self._prey = self._prey.scatter(0, order, moved)
        self._alive = self._alive.scatter(0, order, stays)
        self._active = active
        return team

    # ------------------------------------------------------------------------------------------- starting and looking

    def _draw(self) -> None:
        """Have random numbers for the next step in hand, turned into orders and starting cells."""
        if self._uniforms.used < Uniforms.LENGTH:
            return
        agents, prey = self.spec.num_agents, self.num_prey
        self._block = self._uniforms.draw()
        by_agent, by_prey, self._by_turn, start = self._block.split([agents, prey, prey, agents + prey], 1)
        self._agent_order = distinct(by_agent, agents)
        self._prey_order = distinct(by_prey, prey)
        self._start = distinct(start, self.side * self.side)

    def _restart(self, rows: Tensor, ended: Tensor) -> None:
        """Start new episodes in those of `rows` [R] that have `ended` [R]."""

        def begin(values: Tensor, new: Tensor) -> Tensor:
            return values.index_copy(-1, rows, torch.where(ended, new, values[..., rows]))

        cells = self._inner[self._start[self._uniforms.used][:, rows]]
        agents, prey = cells.split([self.spec.num_agents, self.num_prey])
        self._agents, self._prey = begin(self._agents, agents), begin(self._prey, prey)
        self._active, self._alive = begin(self._active, ended), begin(self._alive, ended)
        self._time = begin(self._time, torch.zeros_like(rows))
        self._return = begin(self._return, self._zero[rows])
        self._settle(rows)

    def _settle(self, rows: Tensor) -> None:
        """Write the inhabitants of `rows` [R] into the grid."""
        grid = self._empty.repeat(len(rows), 1)
        grid.scatter_(1, torch.where(self._active, self._agents, self._away)[:, rows].t(), AGENT)
        animals = torch.where(self._alive, self._prey, self._away)[:, rows].t()
        grid.scatter_(1, animals, self._kind.expand(len(rows), -1))
        grid[:, self._away] = NOTHING
        self._grid.view(self.num_envs, -1)[rows] = grid

    def _look(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Observations [R, N, O], state [R, state_size] and legal actions [R, N, A] in `rows` [R]."""
        cells = torch.where(self._active, self._agents, self._away) + self._first
        grid = self._grid.view(self.num_envs, -1)
        if len(rows) < self.num_envs:
            cells, grid = cells[:, rows], grid[rows]
        here = cells.t().contiguous().unsqueeze(2)  # [R, N, 1]
        seen = self._grid.take(here + self._window)  # [R, N, w w]
        planes = _planes(seen)
        if self._observe_walls:
            planes[:, :, 0] -= (seen == WALL).float()
        inside = slice(self.view, self.view + self.side)
        state = _planes(grid.view(len(rows), 1, -1, self._width)[:, :, inside, inside])

        around = self._grid.take(here + self._moves)  # [R, N, A]
        available = around < WALL
        right, down, left, up, _, _ = ((around == STAG) | (around == HARE)).unbind(2)
        available[:, :, CATCH] = right | down | left | up
        available[:, :, STAY] = True
        return planes.flatten(2), state.flatten(1), available

    def _places(self, cells: Tensor, there: Tensor) -> Tensor:
        inside = torch.stack([cells // self._width, cells % self._width], 2) - self.view
        return torch.where(there.unsqueeze(2), inside, -1).transpose(0, 1)

    def _info(self, episode_return: Tensor, length: Tensor) -> dict[str, Tensor]:
        return {"episode_return": episode_return, "episode_length": length, "captured": (~self._alive).sum(0)}


def _planes(cells: Tensor) -> Tensor:
    """Where the agents, the stags and the hares are among `cells` [R, K, ...] uint8: [R, K, 3, ...] float32."""
    planes = torch.empty(*cells.shape[:2], 3, *cells.shape[2:], device=cells.device)
    for plane, kind in enumerate((AGENT, STAG, HARE)):
        torch.eq(cells, kind, out=planes[:, :, plane])
    return planes
