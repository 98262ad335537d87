# HATRPO, page by page: book/kpf/hatrpo.md
"""Heterogeneous-agent TRPO (Kuba et al. 2022): HAPPO's turns, each a step within a trust region instead of a clip.

An agent's step is the longest one along the natural gradient that a quadratic model of the KL divergence allows, cut
back until the surrogate has really grown and the divergence is really small. Settings are those of HARL, the code base
that the KPF paper's base policies come from. Critics, turns and factors are HAPPO's (`algorithms/happo.py`); what is
here is the step. Letters in the shape comments: S seed, E environment, N agent, A action, B row of a rollout (a step of
an environment), P parameter of an actor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from inconcert import onpolicy, stacked
from inconcert.actors import Sharing, taken
from inconcert.algorithms import happo
from inconcert.config import InputError
from inconcert.evaluate import Evaluation, Player, State
from inconcert.onpolicy import entropy, normalise

Divergence = Literal["harl", "exact"]


@dataclass(frozen=True)
class Config(onpolicy.Config):
    """Everything a HATRPO run depends on. Defaults are HARL's HATRPO on particle worlds.

    `epochs`, `minibatches`, `clip`, `max_grad_norm` and `decay_lr` are the critic's: an agent makes one step for each
    rollout, on all of it. There is no entropy bonus, so `ent_coef` plays no part.
    """

    num_envs: int = 20
    """Parallel environments per seed."""
    rollout: int = 200
    """Steps collected per environment and update."""
    updates: int = 2500
    """Collect-and-learn rounds (2500 x 20 x 200 = 10 M environment steps)."""
    epochs: int = 5
    """Passes of the critic over each rollout."""
    minibatches: int = 1
    """Gradient steps of the critic per pass."""
    clip: float = 0.2
    """epsilon of the value change."""
    vf_coef: float = 1.0
    """Weight of the value loss."""
    max_grad_norm: float = 10.0
    """Per-seed global norm that the critic's gradients are clipped to."""
    kl: Divergence = "harl"
    """What bounds a step. exact: the mean over states of KL(old, new). harl: ratio - 1 - log ratio summed over all
    actions alike, each counting 1 instead of its probability; a multiple of the exact one, the larger the more peaked
    the policy."""
    max_kl: float = 0.005
    """Bound of the divergence, in units of `kl`."""
    cg_steps: int = 10
    """Iterations of the conjugate gradient."""
    cg_tolerance: float = 1e-10
    """Squared residual at which they stop."""
    damping: float = 0.1
    """Multiple of the identity that is added to the Fisher matrix."""
    fisher_stride: int = 1
    """The Fisher matrix is estimated from every so many-th row of the rollout (1, all: HARL)."""
    search_steps: int = 10
    """Tries of the line search; if none is accepted, the agent stays as it is."""
    backtrack: float = 0.8
    """Each try is so much shorter than the one before."""
    accept: float = 0.5
    """Least ratio of the surrogate's growth to what the gradient promises."""
    network: Literal["mlp"] = "mlp"
    """Layer, layer, head. The step needs second derivatives, which the GRU here does not give."""
    hidden: int = 128
    """Units of every hidden layer of an actor."""
    critic_hidden: int = 128
    """Units of every hidden layer of a critic."""
    critics: Sharing = "shared"
    """shared: one critic for the team; separate: one for each agent. All see the global state."""
    layer_norm: bool = True
    """Normalise inputs, and features after each ReLU."""
    one_hot_id: bool = False
    """Put the agent's one-hot id in front of its observation."""
    critic_lr: float = 5e-4
    """Value learning rate."""
    value_norm: bool = True
    """The critic predicts in units of the targets' running mean and deviation."""
    huber: float = 10.0
    """Value errors beyond this count in proportion, not squared; in units of the critic."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_kl", "damping", "cg_tolerance"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be greater than 0, not {getattr(self, name)}")
        for name in ("cg_steps", "search_steps", "fisher_stride"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("backtrack", "accept"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")

    @property
    def steps_per_column(self) -> int:
        """A feed-forward network shuffles single steps."""
        return 1


# ---------------------------------------------------------------------------------------------------------- settings

NETWORKS: dict[str, Any] = {"critic_lr": 1e-3, "max_kl": 0.02, "fisher_stride": 10}
"""What the small tiers change: fewer but longer steps, and a Fisher matrix from a tenth of the rows, which takes a
third of the time."""
VARIANTS: dict[str, dict[str, Any]] = onpolicy.variants({"kl-exact": {"kl": "exact"}}) | {
    "harl": onpolicy.HARL, "harl-exact": {**onpolicy.HARL, "kl": "exact"},
}  # fmt: skip
"""Named departures from a tier's setting."""


def configure(task: str, tier: str, variant: str = "", **changes: Any) -> Config:
    """The setting of a tier ("smoke", "laptop", "paper") for a task, a named variant, and single changes on top."""
    tiers = {
        "smoke": onpolicy.SMOKE | NETWORKS,
        "laptop": onpolicy.LAPTOP | NETWORKS,
        "paper": {"seeds": onpolicy.PAPER_SEEDS},
    }
    return onpolicy.choose_setting(Config, tiers, VARIANTS, task, tier, variant, changes)


# ---------------------------------------------------------------------------------------------------- trust region


def divergence(log_old: Tensor, log_new: Tensor, kind: Divergence) -> Tensor:
    """How far `log_new [S, ..., A]` has moved from `log_old`, mean over rows: `[S]`; see `Config.kl`.

    Both have -inf at the same places, actions that are not available; those count 0.
    """
    change = torch.where(log_old.isfinite(), log_new - log_old, 0.0)
    terms = -log_old.exp() * change if kind == "exact" else change.exp() - 1 - change
    return terms.sum(-1).flatten(1).mean(1)


def fisher(log_probs: Tensor, parameters: Sequence[Tensor], kind: Divergence) -> Callable[[Tensor], Tensor]:
    """Products with the Hessian of `divergence` at the policy itself, `[S, P] -> [S, P]`.

    With J the Jacobian of the log-probabilities, the Hessian is the mean over rows of J^T W J, where W holds the
    probabilities ("exact") or ones ("harl"): the terms with second derivatives of the network vanish there. J v is the
    derivative of J^T u, which is linear in u, so a product is two backward passes through graphs that are built once.

    Args:
        log_probs: `[S, ..., A]`, with their graph.
        parameters: `[S, ...]` each; seeds share none.
    """
    weight = log_probs.detach().exp() if kind == "exact" else log_probs.isfinite().to(log_probs.dtype)
    weight = weight / log_probs[0, ..., 0].numel()
    u = torch.zeros_like(log_probs, requires_grad=True)
    back = torch.autograd.grad(log_probs, parameters, u, create_graph=True)  # J^T u

    def product(v: Tensor) -> Tensor:
        (forward,) = torch.autograd.grad(back, u, unflatten(v, parameters), retain_graph=True)  # J v
        return flatten(torch.autograd.grad(log_probs, parameters, weight * forward, retain_graph=True))

    return product


def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Tensor, steps: int, tolerance: float = 1e-10) -> Tensor:
    """Solve A x = b for a positive definite A that is known by its products (Hestenes and Stiefel 1952).

    Args:
        product: A times `[S, P]`; each seed has an A of its own.
        b: `[S, P]`.
        steps: iterations at most.
        tolerance: a seed whose squared residual has fallen below it stays as it is.

    Returns:
        x `[S, P]`.
    """
    x, residual, direction = torch.zeros_like(b), b, b
    square = dot(b, b)
    going = square > 0
    for _ in range(steps):
        image = product(direction)
        length = torch.where(going, square / dot(direction, image), 0.0)
        x = x + length.unsqueeze(1) * direction
        residual = residual - length.unsqueeze(1) * image
        before, square = square, torch.where(going, dot(residual, residual), square)
        direction = torch.where(going.unsqueeze(1), residual + (square / before).unsqueeze(1) * direction, direction)
        going = going & (square >= tolerance)
        if not going.any():
            break
    return x


def line_search(
    judge: Callable[[Tensor], tuple[Tensor, Tensor]], promise: Tensor, config: Config
) -> tuple[Tensor, Tensor, Tensor]:
    """How much of the full step each seed takes: the longest try that keeps its promise within the bound.

    Args:
        judge: for `fraction [S]` of the full step, the surrogate's growth `[S]` and the divergence `[S]`.
        promise: `[S]` growth of the surrogate that its gradient promises for the full step.

    Returns:
        `[S]` each: the fraction, 0 where no try was accepted; growth and divergence there.
    """
    fraction = torch.ones_like(promise)
    best = torch.zeros(3, *promise.shape, dtype=promise.dtype, device=promise.device)  # what is returned
    for _ in range(config.search_steps):
        growth, distance = judge(fraction)
        good = (distance < config.max_kl) & (growth > 0) & (growth / (fraction * promise) > config.accept)
        best = torch.where(good & (best[0] == 0), torch.stack([fraction, growth, distance]), best)
        if (best[0] > 0).all():
            break
        fraction = fraction * config.backtrack
    return best[0], best[1], best[2]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """`[S, P], [S, P] -> [S]`."""
    return (a * b).sum(1)


def flatten(parts: Iterable[Tensor]) -> Tensor:
    """Parameters, or their gradients, `[S, ...]` each, as vectors `[S, P]`."""
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Inverse of `flatten`."""
    parts = vector.split([part[0].numel() for part in like], dim=1)
    return [part.view_as(shape) for part, shape in zip(parts, like, strict=True)]


# ---------------------------------------------------------------------------------------------------------- learning


class Learner(happo.Learner):
    """Actors and critics of all seeds, and their update (the contract is `onpolicy.Learner`).

    As HAPPO's, but that the optimiser steps critics alone.
    """

    config: Config

    def stepped(self) -> list[tuple[Iterable[nn.Parameter], float]]:
        return [(self.critic.parameters(), self.config.critic_lr)]

    def learn(self, data: State, index: int) -> State:
        """Steps of the critics, and one of each agent in turn; returns the mean diagnostics `[S]`."""
        config, actors = self.config, onpolicy.Mean()
        names = ("obs", "state", "available", "action", "log_prob", "start", "value", "advantage", "target")
        used = {name: data[name] for name in (*names, "actor_memory", "critic_memory")}
        self.scale.fit(used, config.epochs * config.minibatches)
        critics = self.learn_all_critics(used, index)
        factor = torch.ones_like(used["log_prob"][..., 0])
        order = stacked.permutations(config.seeds, "agents", index, 1, self.spec.num_agents)[:, 0]  # [S, N]
        for turn in order.to(factor.device).unbind(1):
            own = self.select(used, turn)
            ratio, signs = self.improve(own, factor, turn)
            factor = factor * ratio
            actors.add(signs)
        explained = onpolicy.explained_variance(data["value"], data["target"])
        return critics.result() | actors.result() | {"explained_variance": explained}

    def improve(self, own: State, factor: Tensor, turn: Tensor) -> tuple[Tensor, State]:
        """One step of the actors in `turn [S]` within the trust region.

        Args:
            own: what they did in the rollout, `[S, T, E, ...]`.
            factor: `[S, T, E]` product of the ratios new / old of the agents whose turn came before.

        Returns:
            Their own ratios `[S, T, E]`, and diagnostics `[S]`.
        """
        config = self.config
        self.load(turn)
        actor = list(self.turn.parameters())
        weighted = factor * normalise(own["advantage"])
        log_old = self.log_probs(own)

        def surrogate(log_probs: Tensor) -> tuple[Tensor, Tensor]:
            """The mean of ratio x factor x advantage, and the ratios."""
            ratio = (taken(log_probs, own["action"]) - own["log_prob"]).exp()
            return (ratio * weighted).flatten(1).mean(1), ratio

        start, _ = surrogate(log_old)
        gradient = flatten(torch.autograd.grad(start.sum(), actor, retain_graph=True))
        sample = own if config.fisher_stride == 1 else thinned(own, config.fisher_stride)
        matrix = fisher(log_old if sample is own else self.log_probs(sample), actor, config.kl)

        def product(v: Tensor) -> Tensor:
            return matrix(v) + config.damping * v

        direction = conjugate_gradient(product, gradient, config.cg_steps, config.cg_tolerance)
        curvature = dot(direction, product(direction)).clamp(min=torch.finfo(direction.dtype).tiny)
        step = (2 * config.max_kl / curvature).sqrt().unsqueeze(1) * direction
        origin, log_old, start = flatten(actor).detach(), log_old.detach(), start.detach()

        @torch.no_grad()
        def judge(fraction: Tensor) -> tuple[Tensor, Tensor]:
            self.place(origin + fraction.unsqueeze(1) * step)
            log_new = self.log_probs(own)
            return surrogate(log_new)[0] - start, divergence(log_old, log_new, config.kl)

        fraction, growth, moved = line_search(judge, dot(gradient, step), config)
        self.place(origin + fraction.unsqueeze(1) * step)
        self.store(turn)
        with torch.no_grad():
            log_new = self.log_probs(own)
            ratio = surrogate(log_new)[1]
        return ratio, {
            "surrogate_growth": growth, "divergence": moved, "step_fraction": fraction,
            "accepted": (fraction > 0).float(), "kl": divergence(log_old, log_new, "exact"),
            "entropy": entropy(log_old), "actor_grad_norm": gradient.norm(dim=1),
            "factor_spread": factor.flatten(1).std(1, correction=0),
        }  # fmt: skip

    @torch.no_grad()
    def place(self, vector: Tensor) -> None:
        """Give the actors that were loaded last the parameters `[S, P]`."""
        actor = list(self.turn.parameters())
        for parameter, part in zip(actor, unflatten(vector, actor), strict=True):
            parameter.copy_(part)

    @torch.no_grad()
    def store(self, turn: Tensor) -> None:
        """Inverse of `load`: put the actors in `turn [S]` back into the stack."""
        for source, stack in zip(self.turn.parameters(), self.actors.network.parameters(), strict=True):
            stack[self.members(turn)] = source


def thinned(own: State, stride: int) -> State:
    """Every `stride`-th row of a rollout `[S, T, E, ...]`, as `[S, 1, B / stride, ...]`."""
    return {name: x.flatten(1, 2)[:, ::stride].unsqueeze(1) for name, x in own.items()}


def train(config: Config, device: str = "cpu", state: State | None = None) -> Iterator[Evaluation]:
    """Train all seeds side by side, yielding one `Evaluation` after another; see `onpolicy.train`."""
    return onpolicy.train(Learner, config, device, state)


def restore(config: Config, parameters: State, device: str = "cpu") -> Player:
    """The deployed policy of all seeds, from the actor parameters that a run saved."""
    return onpolicy.restore(Learner, config, parameters, device)
