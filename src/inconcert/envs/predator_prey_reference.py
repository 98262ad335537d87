"""The stag hunt once more, slowly and literally: one copy, plain Python, a list of cells for everybody on the grid.

The fast environment is held to this one step by step, in the tests and live in the book. They share no code. Chance is
not drawn here but handed in as uniform numbers, so that both worlds meet the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import TypeVar

import numpy as np

Cell = tuple[int, int]
T = TypeVar("T")

DIRECTIONS: tuple[Cell, ...] = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""Right, down, left, up, as rows and columns."""
STAY, CATCH = 4, 5


def pick(numbers: Sequence[float], things: Sequence[T]) -> list[T]:
    """As many different `things` as there are `numbers` in [0, 1): each number says which of those left is next."""
    left = list(things)
    return [left.pop(int(np.float32(number) * np.float32(len(left)))) for number in numbers]


class Hunt:
    """One episode.

    Args:
        numbers: uniform numbers, one for each agent and each animal, that place them.
        num_agents, num_stags, num_hares, side: sizes.
        punishment: what the team pays when too few agents try to catch a stag.
        view: how far an agent sees.
        observe_walls: mark cells beyond the edge.
        episode_limit: steps.
    """

    def __init__(
        self,
        numbers: Sequence[float],
        num_agents: int,
        num_stags: int,
        num_hares: int,
        side: int,
        punishment: float = 0.0,
        view: int = 2,
        observe_walls: bool = False,
        episode_limit: int = 200,
    ) -> None:
        self.side, self.punishment, self.view = side, punishment, view
        self.observe_walls, self.episode_limit = observe_walls, episode_limit
        cells = pick(numbers, [(row, column) for row in range(side) for column in range(side)])
        self.agents: list[Cell | None] = list(cells[:num_agents])  # None: has left the grid
        self.prey: list[Cell | None] = list(cells[num_agents:])
        self.is_stag = [True] * num_stags + [False] * num_hares
        self.steps, self.total = 0, 0.0

    def step(self, actions: Sequence[int], numbers: Sequence[float]) -> float:
        """Play one step and return the team's reward.

        Args:
            actions: one for each agent.
            numbers: uniform numbers: the order of the agents, the order of the animals, and for each animal's turn the
                order in which it tries the directions.
        """
        n, p = len(self.agents), len(self.prey)
        reward = 0.0
        for agent in pick(numbers[:n], range(n)):
            here = self.agents[agent]
            if here is not None and actions[agent] < STAY:
                there = self.beside(here)[actions[agent]]
                if self.is_free(there):
                    self.agents[agent] = there
        for turn, animal in enumerate(pick(numbers[n : n + p], range(p))):
            here = self.prey[animal]
            if here is None:
                continue
            hunters = [
                agent
                for agent, cell in enumerate(self.agents)
                if cell is not None and cell in self.beside(here) and actions[agent] == CATCH
            ]
            if len(hunters) >= (2 if self.is_stag[animal] else 1):
                reward += 10.0 if self.is_stag[animal] else 1.0
                self.prey[animal] = None
                for agent in hunters:
                    self.agents[agent] = None
                continue
            if hunters:
                reward -= self.punishment
            orders = list(permutations(range(4)))
            for direction in orders[int(np.float32(numbers[n + p + turn]) * np.float32(len(orders)))]:
                there = self.beside(here)[direction]
                if self.is_free(there):
                    self.prey[animal] = there
                    break
        self.steps += 1
        self.total += reward
        return reward

    @property
    def terminated(self) -> bool:
        """No animal or no agent is left."""
        return all(cell is None for cell in self.prey) or all(cell is None for cell in self.agents)

    @property
    def truncated(self) -> bool:
        """The time is up, and the episode has not ended by itself."""
        return self.steps >= self.episode_limit and not self.terminated

    def legal(self, agent: int) -> list[bool]:
        """Which of the six actions the agent may play."""
        here = self.agents[agent]
        if here is None:
            return [action == STAY for action in range(6)]
        around = self.beside(here)
        return [self.is_inside(cell) for cell in around] + [True, any(cell in self.prey for cell in around)]

    def observe(self, agent: int) -> list[float]:
        """What the agent sees: agents, then stags, then hares."""
        here, reach = self.agents[agent], range(-self.view, self.view + 1)
        if here is None:
            return [0.0] * (3 * len(reach) ** 2)
        square = [(here[0] + down, here[1] + right) for down in reach for right in reach]
        seen = self.planes(square)
        if self.observe_walls:
            seen[0] = [-1.0 if not self.is_inside(cell) else mark for cell, mark in zip(square, seen[0], strict=True)]
        return [mark for plane in seen for mark in plane]

    def state(self) -> list[float]:
        """The whole grid, as an observation."""
        cells = [(row, column) for row in range(self.side) for column in range(self.side)]
        return [mark for plane in self.planes(cells) for mark in plane]

    def planes(self, cells: Sequence[Cell]) -> list[list[float]]:
        """Which of `cells` hold an agent, a stag, a hare."""
        stags = [cell for cell, stag in zip(self.prey, self.is_stag, strict=True) if stag]
        hares = [cell for cell, stag in zip(self.prey, self.is_stag, strict=True) if not stag]
        return [[float(cell in kind) for cell in cells] for kind in (set(self.agents), set(stags), set(hares))]

    def beside(self, cell: Cell) -> list[Cell]:
        """The cells to the right, below, to the left and above."""
        return [(cell[0] + down, cell[1] + right) for down, right in DIRECTIONS]

    def is_inside(self, cell: Cell) -> bool:
        return 0 <= cell[0] < self.side and 0 <= cell[1] < self.side

    def is_free(self, cell: Cell) -> bool:
        return self.is_inside(cell) and cell not in self.agents and cell not in self.prey
