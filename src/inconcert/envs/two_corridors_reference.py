"""Two corridors once more, slowly and literally: one copy, plain Python, a drawing for the map.

The fast environment is held to this one step by step, in the tests and live in the book. They share no code. Chance is
not drawn here but handed in as uniform numbers, so that both worlds meet the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Cell = tuple[int, int]


def draw(short: int, long: int, closed: bool) -> list[str]:
    """The map, a string for each row: "." where one can walk, "#" a wall, "E" the enemy."""
    room, wall = "." * 5, "#" * short
    rows = [room + wall + room for _ in range(5)]
    rows[2] = room + (wall if closed else "." * short) + "..E.."
    rows += ["####." + wall + ".####"] * ((long - short) // 2 - 1)
    return [*rows, "####." + "." * short + ".####"]


class Skirmish:
    """One episode.

    Args:
        numbers: two uniform numbers, which choose the agents' cells among those of the left room.
        short, long: lengths of the corridors.
        closed: whether the short one is closed.
        reward: "shaped" or "sparse".
        observe_flag: whether agents are told which it is.
        episode_limit: steps.
    """

    def __init__(
        self,
        numbers: Sequence[float],
        short: int,
        long: int,
        closed: bool,
        reward: str = "shaped",
        observe_flag: bool = True,
        episode_limit: int = 200,
    ) -> None:
        self.map, self.closed = draw(short, long, closed), closed
        self.sparse, self.observe_flag, self.episode_limit = reward == "sparse", observe_flag, episode_limit
        self.enemy = next((row, line.index("E")) for row, line in enumerate(self.map) if "E" in line)
        room = [(row, column) for row in range(5) for column in range(5)]
        self.places = [room.pop(int(np.float32(number) * np.float32(len(room)))) for number in numbers]
        self.health, self.enemy_health = [5, 5], 12
        self.steps, self.total = 0, 0.0

    def step(self, actions: Sequence[int]) -> float:
        """Play one step and return the team's reward."""
        legal = [self.legal(agent) for agent in range(2)]
        shots = 0
        for agent, action in enumerate(actions):
            if legal[agent][action] and 2 <= action <= 5:
                self.places[agent] = self.beside(self.places[agent])[action - 2]
            shots += legal[agent][action] and action == 6
        damage = min(shots, self.enemy_health)
        self.enemy_health -= damage
        targets = [
            (self.squares(self.places[agent], self.enemy), agent)
            for agent in range(2)
            if self.health[agent] > 0 and self.squares(self.places[agent], self.enemy) <= 9
        ]
        if targets and not self.won:
            self.health[min(targets)[1]] -= 1
        self.steps += 1
        if self.sparse:
            reward = 1.0 if self.won else -1.0 if self.lost else 0.0
        else:
            reward = (damage + (210 if self.won else 0)) * 20 / 222
        self.total += reward
        return reward

    @property
    def won(self) -> bool:
        """The enemy has fallen."""
        return self.enemy_health == 0

    @property
    def lost(self) -> bool:
        """Both agents have fallen."""
        return self.health == [0, 0]

    @property
    def truncated(self) -> bool:
        """The time is up, and nobody has won."""
        return self.steps >= self.episode_limit and not self.won and not self.lost

    def legal(self, agent: int) -> list[bool]:
        """Which of no-op, stop, north, south, east, west and attack the agent may play."""
        if self.health[agent] == 0:
            return [True] + [False] * 6
        walks = [self.is_floor(cell) for cell in self.beside(self.places[agent])]
        return [False, True, *walks, self.squares(self.places[agent], self.enemy) <= 9 and not self.won]

    def observe(self, agent: int) -> list[float]:
        """What the agent sees."""
        flag = [float(not self.closed)] if self.observe_flag else []
        if self.health[agent] == 0:
            return [0.0] * (17 + len(flag))
        place, legal = self.places[agent], [float(one) for one in self.legal(agent)]
        other = self.seen(place, self.places[1 - agent], self.health[1 - agent] / 5)
        enemy = self.seen(place, self.enemy, self.enemy_health / 12)
        enemy[0] = legal[6]
        return [*self.scaled(place), self.health[agent] / 5, *legal[2:6], *other, *enemy, *flag]

    def state(self) -> list[float]:
        """Rows and columns, healths, and whether the short corridor is open."""
        places = [part for place in self.places for part in self.scaled(place)]
        health = [self.health[0] / 5, self.health[1] / 5, self.enemy_health / 12]
        return places + health + ([float(not self.closed)] if self.observe_flag else [])

    def seen(self, place: Cell, other: Cell, health: float) -> list[float]:
        """In sight, distance, rows, columns and health of something at `other`, seen from `place`."""
        if health == 0 or self.squares(place, other) > 16:
            return [0.0] * 5
        away = [other[0] - place[0], other[1] - place[1]]
        return [1.0, self.squares(place, other) ** 0.5 / 4, away[0] / 4, away[1] / 4, health]

    def scaled(self, place: Cell) -> list[float]:
        """Row and column as shares of the map."""
        return [place[0] / (len(self.map) - 1), place[1] / (len(self.map[0]) - 1)]

    def beside(self, cell: Cell) -> list[Cell]:
        """The cells to the north, south, east and west."""
        return [(cell[0] - 1, cell[1]), (cell[0] + 1, cell[1]), (cell[0], cell[1] + 1), (cell[0], cell[1] - 1)]

    def squares(self, one: Cell, other: Cell) -> int:
        """The squared straight distance."""
        return (one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2

    def is_floor(self, cell: Cell) -> bool:
        """Whether one can walk there."""
        inside = 0 <= cell[0] < len(self.map) and 0 <= cell[1] < len(self.map[0])
        return inside and self.map[cell[0]][cell[1]] == "."
