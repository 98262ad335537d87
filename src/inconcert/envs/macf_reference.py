"""Car following once more, slowly and literally: one copy, plain Python, one car after the other.

The fast environment is held to this one step by step, in the tests and live in the book. They share no code. Chance is
not drawn here but handed in as uniform numbers, so that both worlds meet the same.
"""

from __future__ import annotations

from collections.abc import Sequence


class Road:
    """One episode.

    Args:
        accelerations: "open" (steps of 2/21, never quite 1) or "closed" (steps of 2/20).
        cap: "rounded" (the moment of meeting the top speed, to hundredths of a second) or "exact".
        risk: a car at speed v > 1 is fined with probability risk (v - 1).
    """

    def __init__(self, accelerations: str = "open", cap: str = "rounded", risk: float = 0.4) -> None:
        self.between = 2.0 / 21 if accelerations == "open" else 2.0 / 20
        self.rounded, self.risk = cap == "rounded", risk
        self.position, self.speed, self.arrived = [0.0, 0.0], [0.0, 0.0], [False, False]
        self.steps, self.crashes, self.total = 0, 0, 0.0

    def step(self, actions: Sequence[int], numbers: Sequence[float]) -> float:
        """Play one step and return everybody's reward.

        Args:
            actions: one for each car.
            numbers: a uniform number for each car, which is fined if its number is at most its risk.
        """
        reward = -1.0
        for car in range(2):
            self.drive(car, -1.0 + actions[car] * self.between)
            distance = abs(self.position[car] - 2.5)
            reward -= distance
            if distance < 0.01 and not self.arrived[car]:
                self.arrived[car] = True
                reward += 5.0
            if self.speed[car] > 1.0 and numbers[car] <= self.risk * (self.speed[car] - 1.0):
                self.crashes += 1
                reward -= 1.0
        if abs(self.position[0] - self.position[1]) <= 0.3:
            reward += 1.0
        if self.won:
            reward += 10.0
        self.steps += 1
        self.total += reward
        return reward

    def drive(self, car: int, push: float) -> None:
        """Move a car on by a tenth of a second."""
        position, speed = self.position[car], self.speed[car]
        if self.arrived[car]:
            self.position[car], self.speed[car] = 2.5, 0.0
        elif speed + push * 0.1 >= 1.8:
            until = (1.8 - speed) / push if push != 0 else 0.0
            if self.rounded:
                until = round(until * 100) / 100
            self.position[car] = position + (speed * until + 0.5 * push * until * until) + 1.8 * (0.1 - until)
            self.speed[car] = 1.8
        else:
            self.position[car] = position + speed * 0.1 + 0.5 * push * 0.1 * 0.1
            self.speed[car] = speed + push * 0.1

    @property
    def won(self) -> bool:
        """Both cars have arrived."""
        return all(self.arrived)

    @property
    def truncated(self) -> bool:
        """The time is up, and not both cars have arrived."""
        return self.steps >= 200 and not self.won

    def state(self) -> list[float]:
        """Position and speed of the first car, then of the second."""
        return [self.position[0], self.speed[0], self.position[1], self.speed[1]]

    def observe(self, car: int) -> list[float]:
        """The state, with zeros for the other car if it is too far away."""
        seen = self.state()
        if abs(self.position[0] - self.position[1]) > 0.3:
            other = 1 - car
            seen[2 * other : 2 * other + 2] = [0.0, 0.0]
        return seen
