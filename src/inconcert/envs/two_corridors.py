"""Two corridors: a fight behind a wall, and the short way there closes in the middle of training.

This is a **look-alike** on a grid, not StarCraft. Ensemble-MIX uses the SMAC map `2_corridors`, on which two marines
look for one enemy and "the shorter corridor [is] closed mid-training"; that map needs StarCraft II. Kept are what the
experiment is about (two agents who must find the enemy, win only together, and have to find the second corridor after
the change) and SMAC's conventions: actions, masks, the scale of the reward, the time limit. Everything else is ours.

A task `two_corridors/<short>-<long>` names the lengths of both corridors in cells: "5-11"

    .....#####.....
    .....#####.....
    ...............   <- the short corridor, between the rooms
    .....#####.....
    .....#####.....
    ####.#####.####
    ####.#####.####
    ####.......####   <- the long one
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from inconcert.config import InputError
from inconcert.envs import Spec, Step, unknown_task
from inconcert.envs.batched import (
    Uniforms,
    check_actions,
    check_choice,
    check_flag,
    check_legal,
    check_number,
    check_range,
    check_state,
    distinct,
    foreign,
    generators,
)

TASKS = ("5-11", "3-7")
PATTERN = "<short>-<long>"

NUM_AGENTS = 2
ACTIONS = ("no-op", "stop", "north", "south", "east", "west", "attack")
NO_OP, STOP, ATTACK = 0, 1, 6
STEPS = ((0, 0), (0, 0), (-1, 0), (1, 0), (0, 1), (0, -1), (0, 0))
"""Rows and columns that each action moves by."""

ROOM = 5
"""Cells on a side of each of the two rooms."""
SIGHT, RANGE = 4, 3
"""Straight distances, in cells; walls hide nobody and stop no shot."""
HEALTH, ENEMY_HEALTH = 5, 12
"""Every shot takes 1: an agent alone falls before the enemy does, two who come together win."""
KILL, WIN, SCALE = 10.0, 200.0, 20.0
"""SMAC's reward: damage, 10 for a kill, 200 for the win, scaled so that all of it is 20."""

CORRIDORS = ("closes", "open", "closed")
REWARDS = ("shaped", "sparse")


def sizes(name: str) -> tuple[int, int]:
    """Lengths of the short and of the long corridor: "5-11" -> (5, 11).

    Raises:
        InputError: the name does not follow the pattern, or no such corridors can be laid.
    """
    match = re.fullmatch(r"([1-9]\d*)-([1-9]\d*)", name)
    if match is None:
        raise unknown_task("two_corridors", name)
    short, long = (int(group) for group in match.groups())
    if long <= short or (long - short) % 2:
        raise InputError(
            f"no long corridor of {long} cells beside a short one of {short}: it goes down, along the short one and up "
            "again, so it is longer by 2, 4, 6, ..."
        )
    return short, long


def floor(short: int, long: int) -> Tensor:
    """The map, [height, width] bool: True where one can walk. The first `ROOM` rows hold the rooms."""
    down = (long - short) // 2
    walkable = torch.zeros(ROOM + down, 2 * ROOM + short, dtype=torch.bool)
    walkable[:ROOM, :ROOM] = walkable[:ROOM, -ROOM:] = True
    walkable[ROOM // 2, ROOM:-ROOM] = True
    walkable[ROOM:, ROOM - 1] = walkable[ROOM:, -ROOM] = True
    walkable[-1, ROOM - 1 : -ROOM + 1] = True
    return walkable


def make(
    name: str,
    *,
    num_envs: int,
    seeds: tuple[int, ...],
    device: torch.device,
    corridor: Literal["closes", "open", "closed"] = "closes",
    closes_after: int = 250_000,
    reward: Literal["shaped", "sparse"] = "shaped",
    observe_flag: bool = True,
    episode_limit: int = 200,
    debug: bool = False,
) -> TwoCorridors:
    """A batch of `len(seeds) * num_envs` copies of the task `name`, for instance "5-11".

    Args:
        corridor: "closes": the short corridor is open until `closes_after`, and closed in every episode that starts
            later. "open" and "closed" pin it, for evaluation before and after the change.
        closes_after: environment steps of a seed, all its rows together, counted since the environment was made. The
            paper does not say when; in the code that the map comes from it is half-time.
        reward: "shaped" is SMAC's (see `SCALE`); "sparse" is 1 for a win and -1 when both have fallen.
        observe_flag: agents and critic are told whether the short corridor is open, as in the code that the map comes
            from; False leaves that to be found out.
        episode_limit: steps after which an episode is cut off.
        debug: check every action (this reads the device back at each step).

    Raises:
        InputError: a name or an option that does not exist.
    """
    short, long = sizes(name)
    check_choice("corridor", corridor, CORRIDORS)
    check_choice("reward", reward, REWARDS)
    check_number("closes_after", closes_after, 0, whole=True)
    check_number("episode_limit", episode_limit, 1, whole=True)
    check_flag("observe_flag", observe_flag)
    check_flag("debug", debug)
    return TwoCorridors(
        short, long, num_envs=num_envs, seeds=seeds, device=device, corridor=corridor, closes_after=closes_after,
        sparse=reward == "sparse", observe_flag=observe_flag, episode_limit=episode_limit, debug=debug,
    )  # fmt: skip


class TwoCorridors:
    """See `make` and the contract `inconcert.envs.VectorEnv`.

    Both agents start in random cells of the left room; the enemy stands in the middle of the right one. A step: agents
    walk (they may share a cell; walls and the enemy are in the way) or shoot, each shot taking 1 of the enemy's 12;
    then the enemy, if it still stands, takes 1 of the 5 of the agent nearest to it within its range (of the first, at
    equal distances). An episode ends when the enemy or both agents have fallen (a termination), or is cut off
    after `episode_limit` steps (a truncation).

    Observation [E, 2, 17 or 18]: own row, column and health; for each of the four directions whether one can walk; the
    other agent (in sight, distance, rows and columns to it, health) and the enemy (in range, the same), zeros where
    not in sight; and whether the short corridor is open. Lengths are divided by the size of the map (own place) or
    by `SIGHT`. A fallen agent observes zeros. State [E, 7 or 8]: row and column of both agents, health of both and of
    the enemy, and whether the short corridor is open.

    `info` also has `won` [E] bool (the enemy has fallen) and `closed` [E] bool (the short corridor was closed in this
    episode).
    """

    def __init__(
        self,
        short: int,
        long: int,
        *,
        num_envs: int,
        seeds: tuple[int, ...],
        device: torch.device,
        corridor: str,
        closes_after: int,
        sparse: bool,
        observe_flag: bool,
        episode_limit: int,
        debug: bool,
    ) -> None:
        self.spec = Spec(NUM_AGENTS, len(ACTIONS), 17 + observe_flag, 7 + observe_flag, episode_limit, "won")
        self.seeds = seeds
        self.device = device
        self.num_envs = rows = len(seeds) * num_envs
        self._rows_per_seed = num_envs
        self._closes_after = {"closes": closes_after, "open": None, "closed": 0}[corridor]
        self._sparse, self._observe_flag, self._debug = sparse, observe_flag, debug

        walkable = floor(short, long)
        self.height, self.width = walkable.shape
        shut = walkable.clone()
        shut[ROOM // 2, ROOM:-ROOM] = False
        maps = torch.nn.functional.pad(torch.stack([walkable, shut]), (1, 1, 1, 1))  # a wall around it
        self._walkable = maps.flatten().to(device)  # flat index: closed, row + 1, column + 1
        self.enemy = (ROOM // 2, self.width - ROOM + ROOM // 2)
        """Row and column where the enemy stands."""

        def numbers(*values: Any) -> Tensor:
            return torch.tensor(values, device=device)

        self._steps = numbers(*STEPS)  # [A, 2]
        self._enemy = numbers(*self.enemy)[:, None, None]  # [2, 1, 1]
        self._size = numbers(float(self.height - 1), float(self.width - 1))[:, None, None]
        self._rows = torch.arange(rows, device=device)
        self._no = torch.zeros((), dtype=torch.bool, device=device).expand(rows)
        self._zero = torch.zeros((), device=device).expand(rows)

        self._place = torch.zeros(2, NUM_AGENTS, rows, dtype=torch.int64, device=device)  # rows and columns
        self._health = torch.zeros(NUM_AGENTS, rows, dtype=torch.int64, device=device)
        self._enemy_health = torch.zeros(rows, dtype=torch.int64, device=device)
        self._closed = self._no
        self._time, self._return = self._no.long(), self._zero
        self.played = 0
        """Steps that the environment has played since it was made, in each of its rows."""
        self._uniforms = Uniforms("two_corridors", seeds, num_envs, NUM_AGENTS, device)
        self.reset()

    @property
    def closing(self) -> bool:
        """Whether the short corridor is closed in episodes that start now."""
        return self._closes_after is not None and self.played * self._rows_per_seed >= self._closes_after

    @property
    def places(self) -> Tensor:
        """[E, 2, 2] int64: row and column of each agent (where it fell, if it has)."""
        return self._place.permute(2, 1, 0).clone()

    @property
    def health(self) -> Tensor:
        """[E, 3] int64: of both agents and of the enemy."""
        return torch.cat([self._health, self._enemy_health[None]]).t()

    @property
    def closed(self) -> Tensor:
        """[E] bool: whether the short corridor is closed in the running episodes."""
        return self._closed.clone()

    @property
    def noise(self) -> Tensor:
        """[E, 2]: the uniform numbers that choose the agents' cells of the left room, should an episode start."""
        return self._block[self._uniforms.used].t().clone()

    def reset(self) -> Step:
        self._draw()
        self._restart(~self._no)
        self._uniforms.used += 1
        self._draw()
        self._obs, self._state, self._available = self._look(self._rows)
        return self.observe()

    def observe(self) -> Step:
        return Step(
            self._obs, self._state, self._available, self._zero[:, None].expand(-1, NUM_AGENTS), self._no, self._no,
            self._obs, self._state, self._info(),
        )  # fmt: skip

    def step(self, actions: Tensor) -> Step:
        """Play `actions` [E, 2], indices into `ACTIONS`.

        Raises:
            InputError: wrong shape or a floating type; with `debug=True` also an illegal action, by row and agent.
                Without `debug`, an illegal action does nothing.
        """
        check_actions(actions, self.spec, self.num_envs)
        if self._debug:
            check_legal(actions, self._available)
        chosen = actions.t().long()  # [2, E]
        legal = self._available.permute(1, 0, 2).gather(2, chosen.unsqueeze(2)).squeeze(2)
        self._place = self._place + self._steps[chosen].permute(2, 0, 1) * legal
        shots = ((chosen == ATTACK) & legal).sum(0)
        damage = torch.minimum(shots, self._enemy_health)
        self._enemy_health = self._enemy_health - damage
        won = self._enemy_health == 0
        self._health = self._health - self._enemy_fires(~won)

        lost = ~won & (self._health[0] + self._health[1] == 0)
        if self._sparse:
            team = won.float() - lost.float()
        else:
            team = (damage + (KILL + WIN) * won) * (SCALE / (ENEMY_HEALTH + KILL + WIN))
        self.played += 1
        self._time, self._return = self._time + 1, self._return + team
        terminated = won | lost
        truncated = (self._time >= self.spec.episode_limit) & ~terminated
        obs, state, available = final_obs, final_state, _ = self._look(self._rows)
        info = self._info()

        # on other devices, asking which rows have ended would make the host wait: there, all rows are looked at again
        ended = terminated | truncated
        rows = ended.nonzero().squeeze(1) if self.device.type == "cpu" else self._rows
        if len(rows) > 0:
            self._restart(ended)
            fresh = self._look(rows)
            obs, state, available = (
                old.index_copy(0, rows, new) for old, new in zip((obs, state, available), fresh, strict=True)
            )
        self._obs, self._state, self._available = obs, state, available
        self._uniforms.used += 1
        self._draw()
        shared = team[:, None].expand(-1, NUM_AGENTS)
        return Step(obs, state, available, shared, terminated, truncated, final_obs, final_state, info)

    def state_dict(self) -> dict[str, Tensor]:
        own = {"place": self._place, "health": self._health, "enemy_health": self._enemy_health}
        own |= {"closed": self._closed, "time": self._time, "return": self._return}
        played = {"played": torch.tensor(self.played)}
        return {name: tensor.clone() for name, tensor in own.items()} | played | self._uniforms.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`, the count of steps that decides when the corridor closes included.

        Raises:
            InputError: a tensor is missing or has another shape or type than this environment's own, or holds what
                cannot be (nothing changed).
        """
        check_state(self.state_dict(), state)
        check_range(
            state, time=(0, self.spec.episode_limit - 1), used=(0, Uniforms.LENGTH - 1), health=(0, HEALTH),
            enemy_health=(1, ENEMY_HEALTH), played=(0, float("inf")),
        )  # fmt: skip
        down, right = state["place"].to(self.device)
        inside = (down >= 0) & (down < self.height) & (right >= 0) & (right < self.width)
        if not bool(inside.all()) or not bool(self._free(down, right, state["closed"].to(self.device)).all()):
            raise foreign("'place' is out of range")
        streams = generators(state["generators"])

        def mine(name: str) -> Tensor:
            return state[name].to(self.device, copy=True)

        self._place, self._health, self._enemy_health = mine("place"), mine("health"), mine("enemy_health")
        self._closed, self._time, self._return = mine("closed"), mine("time"), mine("return")
        self.played = int(state["played"])
        self._uniforms.load(streams)
        self._draw()
        self._uniforms.used = int(state["used"])
        self._obs, self._state, self._available = self._look(self._rows)

    # ------------------------------------------------------------------------------------------------------- the rules

    def _enemy_fires(self, standing: Tensor) -> Tensor:
        """[2, E]: what the enemy takes from each agent, in rows where it is `standing` [E]."""
        squares = (self._place - self._enemy).square().sum(0)  # [2, E]
        near = (squares <= RANGE * RANGE) & (self._health > 0) & standing
        second_nearer = near[1] & (~near[0] | (squares[1] < squares[0]))
        return torch.stack([near[0] & ~second_nearer, second_nearer]).long()

    def _free(self, down: Tensor, right: Tensor, closed: Tensor) -> Tensor:
        """Whether the cells at rows `down` and columns `right` [..., E] can be walked on."""
        cell = (closed * (self.height + 2) + down + 1) * (self.width + 2) + right + 1
        return self._walkable.take(cell) & ((down != self.enemy[0]) | (right != self.enemy[1]))

    # ------------------------------------------------------------------------------------------- starting and looking

    def _draw(self) -> None:
        """Have random numbers for the next step in hand, turned into starting cells."""
        if self._uniforms.used >= Uniforms.LENGTH:
            self._block = self._uniforms.draw()
            cells = distinct(self._block, ROOM * ROOM)
            self._start = torch.stack([cells // ROOM, cells % ROOM], 1)  # [LENGTH, 2, N, E]

    def _restart(self, ended: Tensor) -> None:
        """Start new episodes in the rows that have `ended` [E]."""

        def begin(new: Tensor | float, old: Tensor) -> Tensor:
            return torch.where(ended, new, old)

        self._place = begin(self._start[self._uniforms.used], self._place)
        self._health, self._enemy_health = begin(HEALTH, self._health), begin(ENEMY_HEALTH, self._enemy_health)
        self._closed = begin(self.closing, self._closed)
        self._time, self._return = begin(0, self._time), begin(0.0, self._return)

    def _look(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Observations [R, 2, O], state [R, state_size] and legal actions [R, 2, 7] in `rows` [R]."""
        place, health, enemy_left, closed = (
            values if len(rows) == self.num_envs else values[..., rows]
            for values in (self._place, self._health, self._enemy_health, self._closed)
        )
        alive = health > 0
        target = place.unsqueeze(2) + self._steps.t()[:, None, :, None]  # [2, N, A, R]
        available = self._free(target[0], target[1], closed) & alive.unsqueeze(1)  # [N, A, R]
        to_enemy = self._enemy - place
        far = to_enemy.square().sum(0)
        available[:, NO_OP] = ~alive
        available[:, STOP] = alive
        available[:, ATTACK] = alive & (far <= RANGE * RANGE) & (enemy_left > 0)

        scaled, share = place / self._size, health / HEALTH
        enemy_share = (enemy_left / ENEMY_HEALTH).expand(NUM_AGENTS, -1)
        own = torch.cat([scaled, share[None], available[:, 2:6].transpose(0, 1).float()])
        other = self._seen(place.flip(1) - place, alive.flip(0), share.flip(0))
        enemy = self._seen(to_enemy, enemy_share > 0, enemy_share)
        enemy[0] = available[:, ATTACK]
        told = [(~closed).float()] if self._observe_flag else []
        features = torch.cat([own, other, enemy, *(flag.expand(1, NUM_AGENTS, -1) for flag in told)]) * alive
        state = [*scaled.transpose(0, 1).flatten(0, 1), *share, enemy_share[0], *told]
        return (
            features.permute(2, 1, 0).contiguous(),
            torch.stack(state, 1),
            available.permute(2, 0, 1).contiguous(),
        )

    def _seen(self, difference: Tensor, there: Tensor, health: Tensor) -> Tensor:
        """[5, N, E]: in sight, distance, rows, columns, health of something `difference` [2, N, E] away."""
        squares = difference.square().sum(0)
        sight = there & (squares <= SIGHT * SIGHT)
        lengths = [squares.sqrt(), difference[0], difference[1]]
        return torch.stack([sight.float(), *(length / SIGHT for length in lengths), health]) * sight

    def _info(self) -> dict[str, Tensor]:
        return {
            "episode_return": self._return,
            "episode_length": self._time,
            "won": self._enemy_health == 0,
            "closed": self._closed,
        }
