"""Does Algorithm 1 of the policy-distance paper keep what its text promises (section 2)? On random distances.

Agents are points in a plane, so their distances obey the triangle inequality; the fusion threshold is the unit. The
plane grows with the agents, so that each has about as many others near it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from inconcert import sharing
from inconcert.sharing import Reading

FUSION, DIVISION = 1.0, 2.0
"""The two thresholds."""


class Outcomes(NamedTuple):
    """Shares of random cases in which something holds after one call, all agents having begun with own networks."""

    chains: float
    """Everybody whom a chain of pairs below the fusion threshold joins is within the division threshold."""
    no_division: float
    """No two agents on one front are beyond the division threshold (the paper's first contradiction)."""
    no_stranger: float
    """All pairs on one front are below the fusion threshold (its second contradiction)."""
    same_order: float
    """Numbering the agents otherwise gives the same groups."""
    at_home: float
    """No agent uses a front whose own agent has left it."""


def layout(agents: int, generator: torch.Generator) -> Tensor:
    """Distances `[N, N]` of random points."""
    points = 1.2 * agents**0.5 * torch.rand(agents, 2, generator=generator)
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")


def groups(distance: Tensor, order: Tensor, reading: Reading = "sane") -> tuple[list[list[int]], list[int]]:
    """Who shares a front after one call that meets the agents in `order`, and the fronts of `order`'s agents."""
    size = len(order)
    plan = sharing.dynamic_sharing(distance[order][:, order], range(size), range(size), FUSION, reading=reading)
    found: dict[int, list[int]] = {}
    for place, front in enumerate(plan.front):
        found.setdefault(front, []).append(int(order[place]))
    return sorted(sorted(group) for group in found.values()), plan.front


def outcomes(agents: int, count: int = 300, seed: int = 0, reading: Reading = "sane") -> Outcomes:
    """Try `count` random layouts of `agents`."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.zeros(len(Outcomes._fields), dtype=torch.float64)
    for _ in range(count):
        distance = layout(agents, generator)
        found, front = groups(distance, torch.arange(agents), reading)
        other, _ = groups(distance, torch.randperm(agents, generator=generator), reading)
        widest = max((float(distance[i, j]) for group in found for i, j in combinations(group, 2)), default=0.0)
        joined = _joined(distance < FUSION)
        holds = (
            float(distance[joined].max()) <= DIVISION, widest <= DIVISION, widest < FUSION, found == other,
            all(front[network] == network for network in front),
        )  # fmt: skip
        kept += torch.tensor(holds)
    return Outcomes(*(kept / count).tolist())


def _joined(near: Tensor) -> Tensor:
    """`[N, N]` bool: whom a chain of near pairs joins."""
    for _ in range(len(near)):
        near = (near.float() @ near.float()) > 0
    return near


def three_without_first_contradiction() -> float:
    return outcomes(3).chains


def fifteen_without_first_contradiction() -> float:
    return outcomes(15).chains


def three_without_second_contradiction() -> float:
    return outcomes(3).no_stranger


def agreement(index: Sequence[int], other: Sequence[int]) -> float:
    """The share of pairs of agents that two groupings treat alike, together in both or apart in both (Rand 1971)."""
    pairs = list(combinations(range(len(index)), 2))
    return sum((index[i] == index[j]) == (other[i] == other[j]) for i, j in pairs) / len(pairs)
