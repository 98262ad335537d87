"""Kalman policy fusion (KPF): several discrete-action policies mixed into one, at test time.

The filter mixes the action probabilities of a primary and of auxiliary policies; nothing is learned and no reward is
seen. Everything is batched and keeps one filter per slot (parallel episode) and agent. What it must beat stands in
`inconcert.pools`. Section, equation and table numbers are those of the KPF paper. Letters in shapes: B slot, N agent,
A action, M policy (the primary is the first).

    fusion = KalmanFusion(num_actions=5, r2=1.2)
    state = fusion.init(num_slots=32, num_agents=3)
    fused, state = fusion(primary, auxiliary, state, available)  # [B, N, A]
    actions = choose(fused)
    state = fusion.end_episode(state, ended)                     # [B] bool
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from inconcert import evaluate
from inconcert.config import InputError, unknown
from inconcert.pools import LEAST, entropy, jensen_shannon, restricted_softmax

Covariance = Literal["constant", "multinomial", "dirichlet", "trace", "entropy", "innovation", "disagreement"]
NoiseReading = Literal["predict", "after", "episode", "obs", "action"]
BudgetReading = Literal["freeze", "episodes", "inner", "period"]
Scope = Literal["run", "episode"]
Assimilation = Literal["sequential", "batch", "pairwise_tree"]
Space = Literal["probability", "logit"]

FROM_POLICIES = ("multinomial", "dirichlet", "trace", "entropy")
"""Covariances that are computed from the probabilities of the moment, so that nothing is carried from step to step."""

# ------------------------------------------------------------------------------------------------------- the filter


class FusionState(NamedTuple):
    """What the filters carry. In the isotropic form a covariance sigma^2 I is its one number sigma^2."""

    covariance: Tensor
    """Of the primary: `[B, N]`, or `[B, N, A, A]` in the full form."""
    gain: Tensor
    """K of the last step (its last round), for each auxiliary: `[M - 1, B, N]` or `[M - 1, B, N, A, A]`; 0 at first."""
    steps: Tensor
    """`[B]` int64: steps so far, in the run or the episode (`budget_scope`)."""
    episodes: Tensor
    """`[B]` int64: episodes that have ended."""
    innovation: Tensor
    """`[M - 1, B, N]`: running mean of the squared innovation per action (covariance "innovation")."""


class KalmanFusion:
    """The filter of Eqs 2 to 8, with every reading that the text leaves open.

    Args:
        num_actions: A.
        r2: covariance Sigma_0 of the auxiliary: a number (times the identity), one number for each of several
            auxiliaries, or a positive semi-definite `[A, A]` (or `[M - 1, A, A]`) tensor. See `roles`.
        initial: Sigma_init of the primary: a number, or `[A, A]` (paper: the identity).
        alpha: share of Sigma_init that is mixed back in after an episode (Eq 7): 0 carries all over, 1 forgets all.
        process_noise: q, the tables' noise level.
        noise_reading: where q enters: "predict" adds q I to the covariance before the gain, "after" after the update,
            "episode" once an episode, "obs" to Sigma_0; "action" adds Gaussian noise of standard deviation q to the
            fused probabilities (draws are given with the call).
        noise_scale: whether q is a "variance" or a "std" (then q^2 is added; not for "action").
        update_budget: k of Figures 2 and 3; None updates for ever.
        budget_reading: "freeze" updates the covariance in the first k steps only; "episodes" in the first k episodes;
            "inner" fuses and updates k times in each step, the result being the next prior; "period" updates in
            every k-th step.
        budget_scope: whether the steps of "freeze" and "period" are counted over the "run" or the "episode".
        clip: gamma of Eq 8: probabilities are pulled into [gamma, 1 - gamma].
        ridge: epsilon of Eq 3, added to the matrix that is inverted.
        covariance: "constant" is the paper's. "multinomial" (diag p - p p^T), "dirichlet" (that over its count + 1),
            "trace" (1 - |p|^2) and "entropy" (share of the largest possible) come from the policies' own
            probabilities at each step, times r2 for the auxiliaries; "innovation" adapts Sigma_0 to the running mean
            of the squared difference; "disagreement" opens the filter by `disagreement_noise` times the
            Jensen-Shannon divergence.
        counts: pseudo-counts of the policies, primary first ("dirichlet").
        disagreement_noise: c of "disagreement".
        memory: decay of the running mean of "innovation".
        assimilation: how several auxiliaries are taken in: one after the other, all at once in information form, or as
            a balanced tree of pairs. Up to the ridge the results are equal.
        space: whether "probability" vectors are mixed, or centred "logit"s, which keeps the simplex by construction.
        full: compute with matrices also where one number would do (the oracle of the fast path).
        skip_single: leave the filter of an agent alone while only one action is available to it (a dead agent).

    Raises:
        InputError: a number out of range, an unknown reading, or a covariance that does not fit.
    """

    def __init__(
        self,
        num_actions: int,
        r2: float | Sequence[float] | Tensor = 1.0,
        *,
        initial: float | Tensor = 1.0,
        alpha: float = 0.0,
        process_noise: float = 0.0,
        noise_reading: NoiseReading = "predict",
        noise_scale: Literal["variance", "std"] = "variance",
        update_budget: int | None = None,
        budget_reading: BudgetReading = "freeze",
        budget_scope: Scope = "run",
        clip: float = 1e-6,
        ridge: float = 1e-6,
        covariance: Covariance = "constant",
        counts: Sequence[float] = (),
        disagreement_noise: float = 1.0,
        memory: float = 0.95,
        assimilation: Assimilation = "sequential",
        space: Space = "probability",
        full: bool = False,
        skip_single: bool = False,
    ) -> None:
        for name, value, valid in (
            ("noise_reading", noise_reading, get_args(NoiseReading)),
            ("noise_scale", noise_scale, ("variance", "std")),
            ("budget_reading", budget_reading, get_args(BudgetReading)),
            ("budget_scope", budget_scope, get_args(Scope)),
            ("covariance", covariance, get_args(Covariance)),
            ("assimilation", assimilation, get_args(Assimilation)),
            ("space", space, get_args(Space)),
        ):
            if value not in valid:
                raise unknown(name, value, valid)
        if num_actions < 1:
            raise InputError(f"num_actions must be at least 1, not {num_actions}")
        if not 0 <= clip < 1 / num_actions:
            raise InputError(f"clip must be in [0, 1/A) = [0, {1 / num_actions:.4g}): above it all actions look alike")
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha must be in [0, 1], not {alpha}")
        if process_noise < 0 or ridge < 0 or disagreement_noise < 0:
            raise InputError("process_noise, ridge and disagreement_noise must not be negative")
        least = 1 if budget_reading in ("inner", "period") else 0
        if update_budget is None and budget_reading in ("inner", "period"):
            raise InputError(f"budget_reading {budget_reading!r} needs an update_budget of at least 1")
        if update_budget is not None and update_budget < least:
            raise InputError(f"update_budget must be at least {least} in the reading {budget_reading!r}")
        if not 0 <= memory < 1:
            raise InputError(f"memory must be in [0, 1), not {memory}")
        self.num_actions, self.alpha, self.clip, self.ridge = num_actions, alpha, clip, ridge
        self.noise = process_noise**2 if noise_scale == "std" and noise_reading != "action" else process_noise
        self.noise_reading, self.skip_single, self.space = noise_reading, skip_single, space
        self.update_budget, self.budget_reading, self.budget_scope = update_budget, budget_reading, budget_scope
        self.covariance, self.counts, self.memory = covariance, tuple(counts), memory
        self.disagreement_noise, self.assimilation = disagreement_noise, assimilation
        matrices = any(isinstance(one, Tensor) and one.dim() >= 2 for one in (r2, initial))
        self.full = full or matrices or covariance in ("multinomial", "dirichlet")
        if matrices and covariance in ("trace", "entropy"):
            raise InputError(f"covariance {covariance!r} is isotropic: r2 and initial must be numbers")
        self.initial = self._covariance("initial", initial)  # [] or [A, A]
        observed = torch.as_tensor(r2, dtype=torch.float32)
        several = observed.dim() in (1, 3)
        parts = list(observed) if several else [observed]
        every = torch.stack([self._covariance("r2", part) for part in parts])  # [M - 1] or [M - 1, A, A]
        self.observed = every.view(-1, 1, 1, *every.shape[1:])

    def _covariance(self, name: str, value: float | Tensor) -> Tensor:
        given = torch.as_tensor(value, dtype=torch.float32)
        if given.dim() == 0:
            if not (given >= 0 and math.isfinite(given.item())):
                raise InputError(f"{name} must be a finite number that is not negative, not {given.item()}")
            return given * torch.eye(self.num_actions) if self.full else given
        if given.shape != (self.num_actions, self.num_actions):
            raise InputError(f"{name} must be a number or [A, A] with A = {self.num_actions}, not {tuple(given.shape)}")
        if not torch.allclose(given, given.mT) or torch.linalg.eigvalsh(given)[0] < -1e-6 * given.abs().max():
            raise InputError(f"{name} must be a symmetric positive semi-definite matrix")
        return given

    def init(self, num_slots: int, num_agents: int, device: str | torch.device = "cpu") -> FusionState:
        """State of fresh filters: the covariance is Sigma_init, no step has been made."""
        rows = (num_slots, num_agents)
        start = self.initial.to(device)
        count = torch.zeros(num_slots, dtype=torch.int64, device=device)
        policies = (len(self.observed), *rows)
        return FusionState(
            start.expand(*rows, *start.shape).clone(),
            torch.zeros(*policies, *start.shape, device=device),
            count,
            count.clone(),
            torch.ones(policies, device=device),
        )

    @torch.no_grad()
    def __call__(
        self,
        primary: Tensor,
        auxiliary: Tensor,
        state: FusionState,
        available: Tensor | None = None,
        normal: Tensor | None = None,
    ) -> tuple[Tensor, FusionState]:
        """Fuse one time step.

        Args:
            primary: `[B, N, A]` action probabilities.
            auxiliary: `[B, N, A]`, or `[M - 1, B, N, A]` of several policies.
            state: from `init` or the step before.
            available: `[B, N, A]` bool; unavailable actions get probability 0. None: all are available.
            normal: `[B, N, A]` standard normal draws, for `noise_reading="action"` only.

        Returns:
            Fused probabilities `[B, N, A]` (they sum to 1) and the next state.

        Raises:
            InputError: shapes that do not fit, or missing draws.
        """
        others = auxiliary.unsqueeze(0) if auxiliary.dim() == 3 else auxiliary
        self._check(primary, others, state, available, normal)
        own, theirs = primary, others
        if self.space == "logit":
            own, theirs = centred_logits(primary, available), centred_logits(others, available)

        prior, observed, innovation = self._uncertainties(primary, others, state, available)
        mean, posterior, gain = self._assimilate(own, prior, theirs, observed)

        alive = None if available is None or not self.skip_single else available.sum(-1) > 1
        if alive is not None:
            mean = torch.where(alive.unsqueeze(-1), mean, own)
        if self.noise_reading == "after":
            posterior = self._widen(posterior, self.noise)
        moved = self._moved(state, posterior, alive)

        fused = mean if self.space == "probability" else restricted_softmax(mean, available)
        if normal is not None:
            fused = fused + self.noise * normal
        return self._onto_simplex(fused, available), FusionState(
            moved, gain, state.steps + 1, state.episodes, innovation
        )

    def end_episode(self, state: FusionState, ended: Tensor) -> FusionState:
        """Carry the filters of the slots `ended` `[B]` bool into the next episode (Eq 7); the others stay."""
        mixed = (1 - self.alpha) * state.covariance + self.alpha * self.initial.to(state.covariance.device)
        if self.noise_reading == "episode":
            mixed = self._widen(mixed, self.noise)
        returns = self.budget_reading == "freeze" and self.budget_scope == "episode"  # the next episode updates again
        moves = ended if returns else ended & ~self._spent(state)
        rows = moves.view(-1, *[1] * (state.covariance.dim() - 1))
        return state._replace(
            covariance=torch.where(rows, mixed, state.covariance),
            steps=torch.where(ended, 0, state.steps) if self.budget_scope == "episode" else state.steps,
            episodes=state.episodes + ended,
        )

    # ------------------------------------------------------------------------------------------------- its parts

    def _check(
        self, primary: Tensor, others: Tensor, state: FusionState, available: Tensor | None, normal: Tensor | None
    ) -> None:
        rows = state.covariance.shape[:2]
        if primary.shape != (*rows, self.num_actions):
            raise InputError(f"primary must be [B, N, A] = {(*rows, self.num_actions)}, not {tuple(primary.shape)}")
        if others.dim() != 4 or others.shape[1:] != primary.shape or len(others) != len(state.gain):
            raise InputError(
                f"auxiliary must be [B, N, A] or [M - 1, B, N, A] with M - 1 = {len(state.gain)} (one r2 for each), "
                f"not {tuple(others.shape)}"
            )
        if available is not None and available.shape != primary.shape:
            raise InputError(f"available must be {tuple(primary.shape)}, not {tuple(available.shape)}")
        if (normal is None) == (self.noise_reading == "action" and self.noise > 0):
            raise InputError("`normal` draws belong to noise_reading='action' with process_noise > 0, and only there")

    def _uncertainties(
        self, primary: Tensor, others: Tensor, state: FusionState, available: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Covariance of the primary before this step and of each auxiliary, and the next running mean."""
        observed = self.observed.to(primary.device)  # [M - 1, 1, 1] or [M - 1, 1, 1, A, A]
        innovation = state.innovation
        if self.covariance in FROM_POLICIES:
            scale = torch.diagonal(observed, dim1=-2, dim2=-1).mean(-1) if self.full else observed
            everyone = torch.cat([primary.unsqueeze(0), others])
            spread = self._own_spread(everyone, available)
            prior = spread[0]
            observed = spread[1:] * (scale[..., None, None] if self.full else scale)
        else:
            prior = state.covariance if self.budget_reading != "inner" else self._fresh(state)
            if len(observed) > 1:  # the tree and the information form want equal shapes
                observed = observed.expand(-1, *primary.shape[:2], *[-1] * (observed.dim() - 3))
        if self.covariance == "innovation":
            # E[nu nu^T] = S + R for a filter that is right about itself; R is what the prior does not explain
            squared = (others - primary).square().mean(-1)
            fresh = state.steps.view(1, -1, 1) == 0
            innovation = torch.where(fresh, squared, self.memory * innovation + (1 - self.memory) * squared)
            own = torch.diagonal(prior, dim1=-2, dim2=-1).mean(-1) if self.full else prior
            excess = (innovation * self.num_actions - own).clamp(min=0.0)
            observed = observed + (excess[..., None, None] * self._unit(primary) if self.full else excess)
        if self.noise_reading == "predict" and self.noise:
            prior = self._widen(prior, self.noise)
        if self.noise_reading == "obs" and self.noise:
            observed = self._widen(observed, self.noise)
        if self.covariance == "disagreement":
            apart = jensen_shannon(primary.expand_as(others), others).mean(0)
            prior = self._widen(prior, self.disagreement_noise * apart)
        return prior, observed, innovation

    def _own_spread(self, policies: Tensor, available: Tensor | None) -> Tensor:
        """Covariances `[M, B, N]` or `[M, B, N, A, A]` that policies `[M, B, N, A]` state by their own shape."""
        if self.covariance == "trace":
            spread = 1 - policies.square().sum(-1)
        elif self.covariance == "entropy":
            choices = policies.shape[-1] if available is None else available.sum(-1)
            most = torch.as_tensor(choices, device=policies.device).clamp(min=2).log()
            spread = entropy(policies) / most
        else:
            matrix = torch.diag_embed(policies) - policies.unsqueeze(-1) * policies.unsqueeze(-2)
            if self.covariance == "multinomial":
                return matrix
            if len(self.counts) != len(policies):
                raise InputError(f"counts must have one pseudo-count for each of the {len(policies)} policies")
            return matrix / (torch.tensor(self.counts, device=policies.device).view(-1, 1, 1, 1, 1) + 1)
        return spread[..., None, None] * self._unit(policies) if self.full else spread

    def _assimilate(
        self, mean: Tensor, prior: Tensor, others: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior mean and covariance, and the gain of each auxiliary."""
        if self.budget_reading == "inner" and self.update_budget is not None:
            for _ in range(self.update_budget):
                mean, prior, gain = self._assimilate_once(mean, prior, others, observed)
            return mean, prior, gain
        return self._assimilate_once(mean, prior, others, observed)

    def _assimilate_once(
        self, mean: Tensor, prior: Tensor, others: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.assimilation == "batch" and len(others) > 1:
            return self._batch(mean, prior, others, observed)
        if self.assimilation == "pairwise_tree" and len(others) > 1:
            return self._tree(mean, prior, others, observed)
        gains = []
        for other, noise in zip(others, observed, strict=True):
            mean, prior, gain = self._combine(mean, prior, other, noise)
            gains.append(gain)
        return mean, prior, torch.stack(gains) if len(gains) > 1 else gains[0].unsqueeze(0)

    def _combine(self, mean: Tensor, prior: Tensor, other: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Eqs 3 to 5 for one pair; the Joseph form with the transposes of Table 6."""
        if not self.full:
            gain = prior / (prior + noise + self.ridge)
            fused = torch.lerp(mean, other, gain.unsqueeze(-1))
            return fused, (1 - gain).square() * prior + gain.square() * noise, gain
        unit = self._unit(mean)
        # K = S (S + R + ridge I)^-1; both are symmetric, so K^T solves the system
        gain = torch.linalg.solve(prior + noise + self.ridge * unit, prior).mT
        fused = mean + (gain @ (other - mean).unsqueeze(-1)).squeeze(-1)
        rest = unit - gain
        joseph = rest @ prior @ rest.mT + gain @ noise @ gain.mT
        return fused, (joseph + joseph.mT) / 2, gain

    def _batch(self, mean: Tensor, prior: Tensor, others: Tensor, observed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Information form: precisions add, means are weighted by them."""
        if not self.full:
            own, theirs = 1 / (prior + self.ridge), 1 / (observed + self.ridge)
            posterior = 1 / (own + theirs.sum(0))
            gain = theirs * posterior
            return mean + (gain.unsqueeze(-1) * (others - mean)).sum(0), posterior, gain
        ridge = self.ridge * self._unit(mean)
        own, theirs = torch.linalg.inv(prior + ridge), torch.linalg.inv(observed + ridge)
        posterior = torch.linalg.inv(own + theirs.sum(0))
        gain = posterior @ theirs
        fused = mean + (gain @ (others - mean).unsqueeze(-1)).squeeze(-1).sum(0)
        return fused, (posterior + posterior.mT) / 2, gain

    def _tree(self, mean: Tensor, prior: Tensor, others: Tensor, observed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs are fused, then pairs of pairs; the gains are those of the equivalent information form."""
        level = [(mean, prior), *zip(others, observed.expand(len(others), *prior.shape), strict=True)]
        while len(level) > 1:
            pairs = [self._combine(*left, *right)[:2] for left, right in zip(level[0::2], level[1::2], strict=False)]
            level = pairs + level[len(pairs) * 2 :]
        fused, posterior = level[0]
        return fused, posterior, self._batch(mean, prior, others, observed)[2]

    def _moved(self, state: FusionState, posterior: Tensor, alive: Tensor | None) -> Tensor:
        """The covariance after the step: the posterior where the budget allows and the agent is `alive` `[B, N]`."""
        if self.covariance in FROM_POLICIES or self.budget_reading == "inner":
            return state.covariance
        if self.update_budget is None and alive is None:
            return posterior
        active = self._updating(state).unsqueeze(-1)
        active = active.expand(posterior.shape[:2]) if alive is None else active & alive
        return torch.where(active.view(*active.shape, *[1] * (posterior.dim() - 2)), posterior, state.covariance)

    def _updating(self, state: FusionState) -> Tensor:
        """`[B]` bool: whether this step moves the covariance."""
        if self.update_budget is not None and self.budget_reading == "period":
            return (state.steps + 1) % self.update_budget == 0
        return ~self._spent(state)

    def _spent(self, state: FusionState) -> Tensor:
        """`[B]` bool: whether the budget of updates is used up."""
        if self.update_budget is None or self.budget_reading in ("inner", "period"):
            return torch.zeros_like(state.steps, dtype=torch.bool)
        return (state.episodes if self.budget_reading == "episodes" else state.steps) >= self.update_budget

    def _fresh(self, state: FusionState) -> Tensor:
        return self.initial.to(state.covariance.device).expand_as(state.covariance)

    def _unit(self, like: Tensor) -> Tensor:
        return torch.eye(self.num_actions, device=like.device)

    def _widen(self, covariance: Tensor, noise: float | Tensor) -> Tensor:
        """Add `noise` (a number, or `[B, N]`) times the identity."""
        if not self.full:
            return covariance + noise
        amount = noise[..., None, None] if isinstance(noise, Tensor) else noise
        return covariance + amount * self._unit(covariance)

    def _onto_simplex(self, fused: Tensor, available: Tensor | None) -> Tensor:
        """Eq 8, then the mask again: clipping would give unavailable actions a probability of gamma."""
        clipped = fused.clamp(self.clip, 1 - self.clip)
        if available is not None:
            clipped = clipped * available
        return clipped / clipped.sum(-1, keepdim=True)


def centred_logits(p: Tensor, available: Tensor | None) -> Tensor:
    """Log-probabilities `[..., A]` less their mean over the available actions; 0 where one is not available."""
    logs = p.clamp(min=LEAST).log()
    if available is None:
        return logs - logs.mean(-1, keepdim=True)
    mean = (logs * available).sum(-1, keepdim=True) / available.sum(-1, keepdim=True).clamp(min=1)
    return (logs - mean) * available


def choose(p: Tensor, uniform: Tensor | None = None) -> Tensor:
    """Actions `[..., ]` of probabilities `[..., A]`: the most probable (of equals the lowest), or sampled.

    Args:
        p: probabilities; an action of probability 0 is never returned.
        uniform: `[...]` numbers in [0, 1) to sample with.
    """
    return evaluate.choose(p.log(), uniform)


# ------------------------------------------------------------------------------------------- closed forms, and roles


def gain_at(step: int | Tensor, r2: float, initial: float = 1.0) -> float | Tensor:
    """The isotropic gain after `step` updates without noise and ridge: k_t = 1 / (1 + t + r / s)."""
    return 1 / (1 + step + r2 / initial)


def steady_gain(process_noise: float, r2: float) -> float:
    """The gain that the isotropic filter settles at under process noise q ("predict"): S / (S + r)."""
    settled = (process_noise + math.sqrt(process_noise**2 + 4 * process_noise * r2)) / 2
    return settled / (settled + r2)


def settled_start(alpha: float, r2: float, horizon: int) -> float:
    """The variance at the start of an episode of `horizon` steps that repeats under Eq 7 with Sigma_init = I."""
    half = alpha * (horizon - r2)
    return (half + math.sqrt(half**2 + 4 * alpha * r2 * horizon)) / (2 * horizon)


def listening_share(steps: int = 100, seed: int = 0) -> float:
    """Share of steps in which the paper's filter weighs two pairs of random policies differently (abstract: in all)."""
    generator = torch.Generator().manual_seed(seed)
    filter_ = KalmanFusion(num_actions=5, r2=1.2)
    state, heard = filter_.init(2, 1), 0
    for _ in range(steps):
        pair = torch.randn(2, 2, 1, 5, generator=generator).softmax(-1)
        _, state = filter_(pair[0], pair[1], state)
        heard += int(state.gain[0, 0, 0] != state.gain[0, 1, 0])
    return heard / steps


class Roles(NamedTuple):
    """Who is primary, and what the filter is told about both."""

    primary: int
    """Index of the primary policy among the two."""
    r2: float
    initial: float


def roles(rates: tuple[float, float], reading: str = "ratio") -> Roles:
    """Roles and covariances from two policies' win rates on validation episodes (section 4.1, Tables 4 and 7).

    Args:
        rates: win rates in (0, 1], in any order.
        reading: "ratio": the stronger is primary and r2 = w_pri / w_aux, so the weaker counts less (the only reading
            that fits the printed rows). "literal_caption": r2 = w_aux / w_pri with the weaker as primary, as the
            caption says. "inverse": r2 = w_pri / w_aux with the weaker as primary. "two_sided": error rates as
            variances of both, the stronger being primary.

    Raises:
        InputError: an unknown reading or a rate out of range.
    """
    if not all(0 < rate <= 1 for rate in rates):
        raise InputError(f"win rates must be in (0, 1], not {rates}")
    stronger = int(rates[1] > rates[0])
    weaker = 1 - stronger
    high, low = rates[stronger], rates[weaker]
    readings = {
        "ratio": Roles(stronger, high / low, 1.0), "literal_caption": Roles(weaker, high / low, 1.0),
        "inverse": Roles(weaker, low / high, 1.0), "two_sided": Roles(stronger, 1 - low, 1 - high),
    }  # fmt: skip
    if reading not in readings:
        raise unknown("reading of the roles", reading, readings)
    return readings[reading]
