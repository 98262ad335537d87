"""CoordSum once more, slowly and literally: the paper's Appendix B, sentence by sentence, one copy, in plain Python.

The fast environment is held to this one step by step, in the tests and live in the book. They share no code, and
nothing here is clever: the opponent counts through the whole episode every time it guesses.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple


class Verdict(NamedTuple):
    """What one step of one copy leads to."""

    reward: float
    hit: bool
    guess: int


class Referee:
    """Judges one episode, given the targets.

    Args:
        num_actions: A.
        guess: "per_target" (the paper), "clamped" (the authors' code: one record for all targets >= A-1) or "never"
            (ours: one record for all targets, and what is guessed from it costs nothing).
    """

    def __init__(self, num_actions: int, guess: str = "per_target") -> None:
        self.num_actions = num_actions
        self.clamped, self.harmless = guess == "clamped", guess == "never"
        self.past: list[tuple[int, int]] = []  # (target, action of the first agent) of every step so far

    def judge(self, target: int, actions: list[int]) -> Verdict:
        """Judge the joint action and remember it. The reward is that of every agent."""
        guess = self.guess(target)
        hit = sum(actions) == target
        self.past.append((target, actions[0]))
        if hit and (self.harmless or guess != actions[0]):
            return Verdict(2.0, hit, guess)
        if hit:
            return Verdict(1.0, hit, guess)
        return Verdict(0.0, hit, guess)

    def guess(self, target: int) -> int:
        """The first agent's most frequent action among those recorded for the target's value.

        The text does not say what happens without a record, or when two actions are equally frequent: the authors' code
        guesses 0 in the first case and the lowest action in the second.
        """
        counts = Counter(action for past_target, action in self.past if self.same_record(past_target, target))
        return min(range(self.num_actions), key=lambda action: (-counts[action], action))

    def same_record(self, one: int, other: int) -> bool:
        """Whether two targets share a record."""
        last = self.num_actions - 1
        return one == other or self.harmless or (self.clamped and one >= last and other >= last)
