"""What an ensemble of critics says about itself: kurtosis, the weights, bonus and regulariser that Ensemble-MIX makes
of it, and the controls that they must be held against.

All functions are pure and batched. Equation numbers are those of the Ensemble-MIX paper. Letters in shapes: M member of
the ensemble, A action; `...` is whatever stands in between. An ensemble's values are `[M, ..., A]` or `[M, ...]`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inconcert.config import InputError

LEAST = 1e-12
"""Variance below which members count as equal; relative to their squared mean, and absolute near 0."""


def kurtosis(values: Tensor) -> Tensor:
    """Raw sample kurtosis over the members (Eq 6): `[M, ...]` -> `[...]`, between 1 and `largest_kurtosis(M)`.

    Members that agree have none; they get that of a normal distribution, 3, which moves nothing below.
    """
    centred = values - values.mean(0)
    square = centred.square()
    variance = square.mean(0)
    agree = variance <= LEAST * (1 + values.mean(0).square())
    raw = square.square().mean(0) / variance.square().clamp(min=torch.finfo(values.dtype).tiny)
    return torch.where(agree, 3.0, raw)


def excess_kurtosis(values: Tensor, corrected: bool = False) -> Tensor:
    """Excess kurtosis g2 over the members (Eq 7): `[M, ...]` -> `[...]`.

    Args:
        corrected: the estimator G2 instead, which is 0 on average for normal members; g2 is -6 / (M + 1).

    Raises:
        InputError: fewer than 4 members for the corrected estimator.
    """
    excess = kurtosis(values) - 3
    if not corrected:
        return excess
    m = len(values)
    if m < 4:
        raise InputError(f"the corrected kurtosis needs at least 4 members, not {m}")
    return (m - 1) / ((m - 2) * (m - 3)) * ((m + 1) * excess + 6)


def largest_kurtosis(members: int) -> float:
    """The largest raw kurtosis of so many numbers, reached when all but one are equal: M - 2 + 1 / (M - 1)."""
    return members - 2 + 1 / (members - 1)


def normal_excess(members: int) -> tuple[float, float]:
    """Mean and standard deviation of g2 if the members are independent normal numbers (Fisher 1930)."""
    m = members
    variance = 24 * m * (m - 2) * (m - 3) / ((m + 1) ** 2 * (m + 3) * (m + 5))
    return -6 / (m + 1), variance**0.5


def uncertainty_weight(values: Tensor, slope: float, signal: str = "kurtosis") -> Tensor:
    """k of Eq 11, 0.5 + sigmoid(-C1 kappa): `[M, ...]` -> `[...]`.

    Args:
        slope: C1.
        signal: "kurtosis" (raw), "excess" for that of Eq 7, with which k may exceed 1, or the members' "variance".
    """
    if signal not in ("kurtosis", "excess", "variance"):
        raise InputError(f"signal must be 'kurtosis', 'excess' or 'variance', not {signal!r}")
    size = values.var(0, correction=0) if signal == "variance" else kurtosis(values) - 3 * (signal == "excess")
    return 0.5 + torch.sigmoid(-slope * size)


def gate(values: Tensor, available: Tensor, corrected: bool = False) -> Tensor:
    """Whether an agent explores (Eq 13): mean excess kurtosis over its available actions above 0.

    Args:
        values: `[M, ..., A]`.
        available: `[..., A]` bool.

    Returns:
        `[...]` bool.
    """
    found = torch.where(available, excess_kurtosis(values, corrected), 0.0)
    return found.sum(-1) / available.sum(-1).clamp(min=1) > 0


def bonus(
    values: Tensor,
    available: Tensor,
    scale: float,
    gated: bool = True,
    signal: str = "kurtosis",
    corrected: bool = False,
    unit: bool = False,
) -> Tensor:
    """What is added to an agent's logits while it explores (Eqs 13 and 14): `[M, ..., A]` -> `[..., A]`.

    Args:
        available: `[..., A]` bool; other actions get 0 and do not open the gate.
        scale: beta.
        gated: only where `gate` is open; False always (the paper's variance arm, appendix F).
        signal: "kurtosis" (raw), or the members' "variance".
        corrected: of the gate.
        unit: bring the signal to mean 0 and standard deviation 1 over an agent's available actions first, so that two
            signals with the same beta move the logits equally far. All zero where they do not differ.
    """
    if signal not in ("kurtosis", "variance"):
        raise InputError(f"signal must be 'kurtosis' or 'variance', not {signal!r}")
    size = kurtosis(values) if signal == "kurtosis" else values.var(0, correction=0)
    if unit:
        size = _standardised(size, available)
    size = torch.where(available, scale * size, 0.0)
    return torch.where(gate(values, available, corrected).unsqueeze(-1), size, 0.0) if gated else size


def _standardised(size: Tensor, available: Tensor) -> Tensor:
    count = available.sum(-1, keepdim=True).clamp(min=1)
    apart = torch.where(available, size, 0.0)
    apart = torch.where(available, size - apart.sum(-1, keepdim=True) / count, 0.0)
    spread = (apart.square().sum(-1, keepdim=True) / count).sqrt()
    return torch.where(spread > 0, apart / spread.clamp(min=torch.finfo(size.dtype).tiny), 0.0)


def bhattacharyya(values: Tensor, available: Tensor, dim: int = -1) -> Tensor:
    """Distance of each member's softmax from that of the mean critic (Eq 15): `[M, ..., A]` -> `[M, ...]`.

    The gradient runs through the members and stops at the mean. Unavailable actions are left out.

    Args:
        available: as `values` without the members.
        dim: where the actions are in `values`.
    """
    member = values.masked_fill(~available, -torch.inf).log_softmax(dim)
    mean = values.mean(0, keepdim=True).detach().masked_fill(~available, -torch.inf).log_softmax(dim)
    overlap = torch.where(available, 0.5 * (member + mean), -torch.inf)
    return -overlap.logsumexp(dim)
