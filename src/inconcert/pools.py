"""Opinion pools: simpler ways than the Kalman filter to make one discrete-action policy out of several.

Also what makes policies worth pooling (entropy, disagreement, the critical gain), and the preprocessing of the KPF
paper's appendix A.3.2. Letters in shapes: M policy, A action; `...` is whatever stands in between.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from inconcert.config import InputError, unknown

LEAST = 1e-8
"""Probability that stands for 0 where a logarithm is taken."""


def restricted_softmax(logits: Tensor, available: Tensor | None) -> Tensor:
    """Softmax over `[..., A]` in which what is not `available` (None: all is) has probability 0."""
    return (logits if available is None else logits.masked_fill(~available, -torch.inf)).softmax(-1)


# ------------------------------------------------------------------------------------------ what two policies differ in


def entropy(p: Tensor) -> Tensor:
    """Entropy in nats `[...]` of probabilities `[..., A]`."""
    return torch.special.entr(p).sum(-1)


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats `[...]` of probabilities `[..., A]`, between 0 and ln 2."""
    return (entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2).clamp(min=0)


def disagreement(p: Tensor, q: Tensor) -> Tensor:
    """Whether the most probable actions differ: `[..., A]` -> `[...]` bool."""
    return p.argmax(-1) != q.argmax(-1)


def critical_gain(primary: Tensor, auxiliary: Tensor) -> Tensor:
    """The smallest gain k above which (1 - k) p1 + k p2 chooses another action than p1 does; infinite if none does.

    Args:
        primary, auxiliary: `[..., A]`.

    Returns:
        `[...]`: min over a of d1 / (d1 + d2), d1 = p1[a*] - p1[a] and d2 = p2[a] - p2[a*], over actions with d2 > 0.
    """
    best = primary.argmax(-1, keepdim=True)
    d1 = primary.gather(-1, best) - primary
    d2 = auxiliary - auxiliary.gather(-1, best)
    return torch.where(d2 > 0, d1 / (d1 + d2), torch.inf).amin(-1)


# -------------------------------------------------------------------------------------------------- preprocessing


def temper(p: Tensor, inverse: Tensor | float) -> Tensor:
    """`p^(1/tau) / Z` `[..., A]` with `inverse` = 1/tau `[...]` or a number; zeros stay zero."""
    power = torch.as_tensor(inverse, dtype=p.dtype, device=p.device)
    power = power.unsqueeze(-1) if power.dim() else power
    return (p.log() * power).masked_fill(p == 0, -torch.inf).softmax(-1)


def fit_temperature(p: Tensor, chosen: Tensor) -> float:
    """The 1/tau that makes the actions `chosen` `[T]` most likely under `temper(p, 1/tau)`, `p [T, A]`."""
    logs = p.clamp(min=LEAST).log()

    def loss(log_inverse: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(log_inverse.exp() * logs, chosen)

    low, high = torch.tensor(-5.0), torch.tensor(5.0)  # convex in 1/tau, so a golden-section search finds the minimum
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return ((low + high) / 2).exp().item()


def top_k_align(
    p: Tensor, q: Tensor, method: Literal["temper", "cap", "rank"] = "temper", k: int = 3
) -> tuple[Tensor, Tensor]:
    """Lower the peak of the more confident policy to that of the other (appendix A.3.2, no formula there).

    Args:
        p, q: `[..., A]`.
        method: "temper" flattens it as a whole; "cap" cuts the peak and hands what is cut off to its other top-k
            actions in proportion, none exceeding the peak; "rank" gives its top-k actions the other's top-k
            probabilities rank by rank, and scales the rest.
        k: of "cap" and "rank".

    Returns:
        Both policies; the less confident one is as it was.
    """
    methods: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "temper": _lowered_by_tempering, "cap": functools.partial(_capped, k=k), "rank": functools.partial(_ranked, k=k)
    }  # fmt: skip
    if method not in methods:
        raise unknown("method", method, methods)
    if not 1 <= k <= p.shape[-1]:
        raise InputError(f"k must be in 1..{p.shape[-1]}, not {k}")
    sharper = (p.amax(-1) > q.amax(-1)).unsqueeze(-1)
    lower = methods[method]
    return torch.where(sharper, lower(p, q), p), torch.where(sharper, q, lower(q, p))


def _lowered_by_tempering(p: Tensor, other: Tensor) -> Tensor:
    peak = torch.minimum(p.amax(-1), other.amax(-1))
    low, high = torch.zeros_like(peak), torch.ones_like(peak)
    for _ in range(40):  # the peak grows with 1/tau
        middle = (low + high) / 2
        above = temper(p, middle).amax(-1) > peak
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return temper(p, high)


def _capped(p: Tensor, other: Tensor, k: int) -> Tensor:
    peak = torch.minimum(p.amax(-1, keepdim=True), other.amax(-1, keepdim=True))
    top = torch.zeros_like(p, dtype=torch.bool).scatter_(-1, p.topk(k).indices, True)
    result = p
    for group in (top, torch.ones_like(top)):  # what the top k cannot take goes to the others
        kept = torch.where(group, 0.0, result).sum(-1, keepdim=True)
        low, high = torch.ones_like(peak), torch.full_like(peak, 1e6)
        for _ in range(60):  # water-filling: scale the group, never above the peak, until the whole sums to 1
            middle = (low * high).sqrt()
            over = kept + torch.where(group, (middle * result).minimum(peak), 0.0).sum(-1, keepdim=True) > 1
            low, high = torch.where(over, low, middle), torch.where(over, middle, high)
        result = torch.where(group, (low * result).minimum(peak), result)
    return result / result.sum(-1, keepdim=True)


def _ranked(p: Tensor, other: Tensor, k: int) -> Tensor:
    given, places = other.topk(k).values, p.topk(k).indices
    rest = p.scatter(-1, places, 0.0)
    left = 1 - given.sum(-1, keepdim=True)
    total = rest.sum(-1, keepdim=True)
    scaled = torch.where(total > 0, rest / total.clamp(min=LEAST) * left, 0.0)
    result = scaled.scatter(-1, places, given)
    return result / result.sum(-1, keepdim=True)


def top_k_intersect(
    p: Tensor, q: Tensor, k: int, empty: Literal["primary", "union", "enlarge", "unfiltered"] = "primary"
) -> tuple[Tensor, Tensor]:
    """Keep the actions that are among the top k of both policies, and renormalise both (appendix A.3.2).

    Args:
        p, q: `[..., A]`, the primary and the auxiliary.
        k: how many.
        empty: where nothing is shared: "primary" returns the primary twice, "union" keeps either's top k, "enlarge"
            raises k until something is shared, "unfiltered" keeps all.
    """
    actions = p.shape[-1]
    if not 1 <= k <= actions:
        raise InputError(f"k must be in 1..{actions}, not {k}")
    if empty not in ("primary", "union", "enlarge", "unfiltered"):
        raise unknown("empty", empty, ("primary", "union", "enlarge", "unfiltered"))
    places = [one.argsort(dim=-1, descending=True, stable=True).argsort(-1) for one in (p, q)]  # rank of each action
    shared = (places[0] < k) & (places[1] < k)
    nothing = ~shared.any(-1, keepdim=True)
    if empty == "union":
        shared = torch.where(nothing, (places[0] < k) | (places[1] < k), shared)
    elif empty == "enlarge":
        worse = torch.maximum(*places)  # an action is shared from this k on
        shared = torch.where(nothing, worse == worse.amin(-1, keepdim=True), shared)
    elif empty == "unfiltered":
        shared = shared | nothing
    kept = [_renormalised(torch.where(shared, one, 0.0), one) for one in (p, q)]
    return (p.where(nothing, kept[0]), p.where(nothing, kept[1])) if empty == "primary" else (kept[0], kept[1])


def _renormalised(p: Tensor, otherwise: Tensor) -> Tensor:
    """`p` scaled to sum 1, or `otherwise` where all of it is 0."""
    total = p.sum(-1, keepdim=True)
    return torch.where(total > 0, p / total.clamp(min=torch.finfo(p.dtype).tiny), otherwise)


def merge_aliases(p: Tensor, alias: Tensor) -> Tensor:
    """Give the probability of each index to the action it stands for: `[..., A]`, `alias [A]` -> `[..., A]`.

    A padded action space has several indices for one action; two policies that use different ones would seem to
    disagree.
    """
    return torch.zeros_like(p).index_add_(-1, alias, p)


# --------------------------------------------------------------------------------------------------- opinion pools
#
# All take policies `[M, ..., A]` and return `[..., A]`.


def linear_pool(policies: Tensor, weights: Sequence[float] | Tensor | None = None) -> Tensor:
    """Weighted mean of the probabilities; `weights [M]` or `[M, ...]` need not sum to 1, None is the plain average.

    With two policies and weights (1 - w, w) this is the filter with its gain held at w.
    """
    return (_weights(policies, weights) * policies).sum(0)


def log_linear_pool(policies: Tensor, weights: Sequence[float] | Tensor | None = None) -> Tensor:
    """Normalised weighted geometric mean; an action that one policy rules out has probability 0."""
    logs = (_weights(policies, weights) * policies.clamp(min=LEAST).log()).sum(0)
    return restricted_softmax(logs, (policies > 0).all(0) | ~(policies > 0).all(0).any(-1, keepdim=True))


def product_of_experts(policies: Tensor) -> Tensor:
    """Normalised product of the probabilities (Hinton 2002): the log-linear pool with every weight 1."""
    return temper(log_linear_pool(policies), float(len(policies)))


def majority(policies: Tensor) -> Tensor:
    """Shares of the votes, each policy voting for its most probable action; ties go to the larger mean probability."""
    votes = torch.nn.functional.one_hot(policies.argmax(-1), policies.shape[-1]).to(policies.dtype).mean(0)
    return _renormalised(votes + 1e-3 / len(policies) * policies.mean(0), votes)


def rank_voting(policies: Tensor) -> Tensor:
    """Borda count: an action earns a point for each action that a policy finds less probable; normalised."""
    points = (policies.unsqueeze(-1) > policies.unsqueeze(-2)).sum(-1).to(policies.dtype).sum(0)
    return _renormalised(points, policies.mean(0))


def max_confidence(policies: Tensor) -> Tensor:
    """The policy with the largest probability for its best action, at each moment (the first of equals)."""
    surest = policies.amax(-1).argmax(0)
    return policies.gather(0, surest[None, ..., None].expand(1, *policies.shape[1:])).squeeze(0)


def entropy_weighted(policies: Tensor) -> Tensor:
    """Linear pool with weights inverse to the entropies (Sestini et al. 2021)."""
    return linear_pool(policies, 1 / (entropy(policies) + LEAST))


def boltzmann(
    policies: Tensor, temperature: float = 1.0, rule: Literal["addition", "multiplication"] = "multiplication"
) -> Tensor:
    """Boltzmann addition or multiplication of action probabilities (Wiering and van Hasselt 2008)."""
    if temperature <= 0:
        raise InputError(f"temperature must be positive, not {temperature}")
    if rule not in ("addition", "multiplication"):
        raise unknown("rule", rule, ("addition", "multiplication"))
    pooled = linear_pool(policies) if rule == "addition" else product_of_experts(policies)
    return temper(pooled, 1 / temperature)


def best_single(policies: Tensor, scores: Sequence[float]) -> Tensor:
    """The policy with the best validation score (the first of equals)."""
    if len(scores) != len(policies):
        raise InputError(f"scores must have one number for each of the {len(policies)} policies, not {len(scores)}")
    return policies[max(range(len(scores)), key=lambda index: (scores[index], -index))]


def _weights(policies: Tensor, weights: Sequence[float] | Tensor | None) -> Tensor:
    """`[M, ..., 1]`, summing to 1 over the policies."""
    if weights is None:
        return torch.full((len(policies), *[1] * (policies.dim() - 1)), 1 / len(policies), device=policies.device)
    given = torch.as_tensor(weights, dtype=policies.dtype, device=policies.device)
    if len(given) != len(policies) or bool((given < 0).any()):
        raise InputError(f"weights must be {len(policies)} numbers that are not negative, one for each policy")
    given = given.view(-1, *[1] * (policies.dim() - 1)) if given.dim() == 1 else given.unsqueeze(-1)
    return given / given.sum(0, keepdim=True)


POOLS: dict[str, Any] = {
    "average": linear_pool, "log-linear": log_linear_pool, "product": product_of_experts, "majority": majority,
    "rank voting": rank_voting, "max-confidence": max_confidence, "entropy-weighted": entropy_weighted,
    "boltzmann": boltzmann,
}  # fmt: skip
"""The pools without a parameter that has to be chosen."""
