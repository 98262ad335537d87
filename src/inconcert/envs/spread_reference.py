"""The coloured spread once more, slowly and literally: one world, agent by agent, in plain Python and float64.

The batched one is held to it step by step, in the tests and live in the book. They share no code. The rules are those
of the authors' environment file (`large_spread_example.py` in their MADPS repository) on the fork of PettingZoo 1.3.5
that they name.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Point = NDArray[np.float64]

DIRECTIONS = ((0.0, 0.0), (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0))


class LiteralSpread:
    """One world.

    Args:
        sizes: agents of each colour.
        places: where the agents start, at rest, those of colour 0 first.
        landmarks: one for each colour.
        bonus: whether a colour that has gathered earns more.
        shuffled: whether each colour observes in an order of its own.
        own_distance: whether an agent observes the distance to its own landmark too.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        places: Iterable[Point],
        landmarks: Iterable[Point],
        *,
        bonus: bool,
        shuffled: bool,
        own_distance: bool = False,
    ) -> None:
        self.colours = [colour for colour, size in enumerate(sizes) for _ in range(size)]
        self.places = [np.array(place, dtype=float) for place in places]
        self.speeds = [np.zeros(2) for _ in self.colours]
        self.landmarks = [np.array(place, dtype=float) for place in landmarks]
        self.bonus, self.shuffled, self.own_distance = bonus, shuffled, own_distance

    def step(self, actions: Sequence[int]) -> list[float]:
        """Move every agent, then pay every agent."""
        for agent, action in enumerate(actions):
            force = 5.0 * np.array(DIRECTIONS[action])
            self.speeds[agent] = self.speeds[agent] * (1 - 0.25) + force * 0.1
            self.places[agent] = self.places[agent] + self.speeds[agent] * 0.1
        return [self.reward(agent) for agent in range(len(self.places))]

    def reward(self, agent: int) -> float:
        """Minus the distance from the own landmark, plus the bonus if all of the colour are there; half is paid."""
        earned = -self.distance(agent)
        kin = [other for other, colour in enumerate(self.colours) if colour == self.colours[agent]]
        if self.bonus and all(self.distance(other) < 0.15 for other in kin):
            worth = 0.0
            for one in kin:
                for other in kin:
                    if one != other:
                        worth += 0.1 / (np.sqrt(np.sum((self.places[one] - self.places[other]) ** 2)) + 0.05)
            earned += worth / len(kin)
        team = 0.0
        return 0.5 * team + 0.5 * earned

    def distance(self, agent: int) -> float:
        """How far an agent is from its own landmark."""
        return float(np.sqrt(np.sum((self.places[agent] - self.landmarks[self.colours[agent]]) ** 2)))

    def observation(self, agent: int) -> list[float]:
        """Velocity, position, all landmarks as seen from here, in the order of the agent's colour."""
        seen = [*self.speeds[agent], *self.places[agent]]
        for landmark in self.landmarks:
            seen += [*(landmark - self.places[agent])]
        if self.own_distance:
            seen.append(self.distance(agent))
        if self.shuffled:
            random.Random(self.colours[agent]).shuffle(seen)
        return [float(value) for value in seen]

    def state(self) -> list[float]:
        """All velocities, positions and landmarks: first all that is horizontal, then all that is vertical, of each."""
        parts = (self.speeds, self.places, self.landmarks)
        return [float(point[axis]) for part in parts for axis in range(2) for point in part]
