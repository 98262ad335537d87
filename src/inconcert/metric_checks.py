"""Do the measures of the policy-distance paper have the properties that it proves for them (sections 1.1 and 1.3)?

The properties: symmetry, never below 0, 0 for equal arguments, 0 for equal arguments only, and the triangle inequality.
They are checked on random diagonal Gaussians, which is what an encoder gives, and on random action probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from inconcert import distance
from inconcert.config import unknown

GAUSSIAN: dict[str, Callable[..., Tensor]] = {
    "2-Wasserstein": distance.wasserstein2, "Hellinger": distance.hellinger, "Bhattacharyya": distance.bhattacharyya,
}  # fmt: skip
CATEGORICAL: dict[str, Callable[..., Tensor]] = {
    "total variation": distance.total_variation, "vanilla Hellinger": distance.vanilla_hellinger,
    "vanilla Bhattacharyya": distance.vanilla_bhattacharyya,
}  # fmt: skip
SLACK = 1e-9
"""What float64 may be off by."""


class Axioms(NamedTuple):
    """Shares of random triples in which a property of a measure holds."""

    symmetry: float
    not_negative: float
    zero_if_equal: float
    equal_if_zero: float
    triangle: float
    excess: float
    """The largest d(a, c) / (d(a, b) + d(b, c)); above 1 the triangle inequality is broken."""


def triples(name: str, count: int, size: int, seed: int) -> list[tuple[Tensor, ...]]:
    """Three random objects, as a measure takes them: `(mean, std)` or `(probabilities,)`, `[count, size]` each."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.randn(count, size, generator=generator, dtype=torch.float64)

    if name in GAUSSIAN:
        return [(draw(), draw().exp()) for _ in range(3)]
    return [((2 * draw()).softmax(-1),) for _ in range(3)]


def axioms(name: str, count: int = 20_000, size: int = 3, seed: int = 0) -> Axioms:
    """Check a measure on random triples.

    Args:
        name: of `GAUSSIAN` or `CATEGORICAL`.
        size: latent dimensions, or actions.
    """
    measures = GAUSSIAN | CATEGORICAL
    if name not in measures:
        raise unknown("measure", name, measures)
    measure, (a, b, c) = measures[name], triples(name, count, size, seed)

    def share(holds: Tensor) -> float:
        return float(holds.double().mean())

    sides = measure(*a, *b) + measure(*b, *c)
    across = measure(*a, *c)
    return Axioms(
        share((measure(*a, *b) - measure(*b, *a)).abs() <= SLACK),
        share(measure(*a, *b) >= 0),
        share(measure(*a, *a) <= 1e-6),  # a root turns the last bit of a difference of 0 into 1e-8
        share(measure(*a, *b) > 0),
        share(across <= sides * (1 + SLACK)),
        float((across / sides).max()),
    )


def wasserstein_triangle() -> float:
    return axioms("2-Wasserstein").triangle


def hellinger_triangle() -> float:
    return axioms("Hellinger").triangle


def bhattacharyya_triangle() -> float:
    return axioms("Bhattacharyya").triangle
