"""How far policies are apart: multi-agent policy distance (MPD), and the plain distances that it must beat.

A conditional variational autoencoder turns what a policy does in a situation, its action probabilities and the
observation, into a Gaussian over a latent variable. The distance of two policies is the distance of their Gaussians,
averaged over observations that really occur (the policy-distance paper, Eq 1):

    policy_distance(policies, observations)                             # [N, N]
    policy_distance(policies, observations, "total-variation")          # without the autoencoder
    policy_distance(policies, observations, feature=c)                  # in terms of what matters to you (Eq 8)

The main text of the paper is not at hand; what its appendix leaves open follows the authors' code.
Letters in shapes: S seed, N policy, M observation of an agent, B = N M pooled observations, O observation feature,
A action, Z latent, F feature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from inconcert import stacked, tables
from inconcert.config import InputError, unknown

Measure = Literal[
    "wasserstein", "bhattacharyya", "hellinger", "bhattacharyya-code", "hellinger-code",
    "total-variation", "vanilla-bhattacharyya", "vanilla-hellinger",
]  # fmt: skip
LEARNT: tuple[Measure, ...] = (
    "wasserstein", "bhattacharyya", "hellinger", "bhattacharyya-code", "hellinger-code",
)  # fmt: skip
"""Distances of the latent Gaussians. `-code`, for comparison with the authors' curves: their Bhattacharyya distance is
the mean over latent dimensions, not the sum, and their Hellinger distance comes from its average over observations."""
DIRECT: tuple[Measure, ...] = ("total-variation", "vanilla-bhattacharyya", "vanilla-hellinger")
"""Distances of the action probabilities themselves. The paper has the last two; the first is the missing control."""
MEASURES: tuple[Measure, ...] = LEARNT + DIRECT

Policies = Callable[[Tensor], Tensor] | Sequence[Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Settings:
    """Of the autoencoder and the average. Defaults: the paper's section 3.2 and the authors' code."""

    latent: int = 10
    """Z (paper: a 10-dimensional Gaussian)."""
    hidden: int = 32
    """Units of every hidden layer (authors' code)."""
    epochs: int = 10
    """Passes over the observations (authors' code)."""
    batch: int = 128
    """Rows of a minibatch (paper)."""
    lr: float = 3e-4
    """Adam's learning rate (paper)."""
    kl_weight: float = 0.01
    """Weight of the prior matching term (paper), the squared error being summed over what is reconstructed."""
    rows: int = 0
    """Pooled observations that the distance is averaged over, drawn anew for each call; 0 takes all."""

    def __post_init__(self) -> None:
        for name in ("latent", "hidden", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.lr > 0 or not self.kl_weight > 0 or self.rows < 0:
            raise InputError("lr and kl_weight must be above 0, and rows not below")


# ------------------------------------------------------------------------------------------------------- closed forms


def wasserstein2(mean_a: Tensor, std_a: Tensor, mean_b: Tensor, std_b: Tensor) -> Tensor:
    """2-Wasserstein distance of diagonal Gaussians over the last axis, `[..., Z] -> [...]`; a metric.

    W_2^2 = |mean_a - mean_b|^2 + |std_a - std_b|^2: the Euclidean distance of (mean, std).
    """
    return torch.cat([mean_a - mean_b, std_a - std_b], -1).norm(dim=-1)


def bhattacharyya(mean_a: Tensor, std_a: Tensor, mean_b: Tensor, std_b: Tensor) -> Tensor:
    """Bhattacharyya distance of diagonal Gaussians over the last axis, `[..., Z] -> [...]`.

    Minus the logarithm of the overlap, the integral of sqrt(p_a p_b). No metric: it breaks the triangle inequality.
    """
    variance = std_a.square() + std_b.square()
    apart = (mean_a - mean_b).square() / (4 * variance) + 0.5 * (variance / (2 * std_a * std_b)).log()
    return apart.sum(-1).clamp(min=0)


def hellinger(mean_a: Tensor, std_a: Tensor, mean_b: Tensor, std_b: Tensor) -> Tensor:
    """Hellinger distance of diagonal Gaussians over the last axis, `[..., Z] -> [...]`, from 0 to 1; a metric."""
    return (-torch.expm1(-bhattacharyya(mean_a, std_a, mean_b, std_b))).sqrt()


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Half the sum of |p - q| over the last axis, `[..., A] -> [...]`, from 0 to 1; a metric.

    It is also the Wasserstein distance under the cost "0 for the same action, 1 for another one".
    """
    return (p - q).abs().sum(-1) / 2


def vanilla_bhattacharyya(p: Tensor, q: Tensor) -> Tensor:
    """Bhattacharyya distance of categorical distributions, `[..., A] -> [...]`; inf where they share no action."""
    return -(p * q).sqrt().sum(-1).clamp(max=1).log()


def vanilla_hellinger(p: Tensor, q: Tensor) -> Tensor:
    """Hellinger distance of categorical distributions, `[..., A] -> [...]`, from 0 to 1; a metric."""
    return (p.sqrt() - q.sqrt()).norm(dim=-1) / math.sqrt(2)


# -------------------------------------------------------------------------------------------------------- autoencoder


class ConditionalVAE(nn.Module):
    """Encoder x -> N(mean, diag std^2) over z, decoder (z, y) -> target, prior N(0, I); one for each seed.

    In the policy distance x is the action distribution with the observation, y the observation. The decoder
    reconstructs the action distribution, or a feature of the user's; never the observation, which is a condition.

    Args:
        inputs, conditions, targets: sizes of x, y and the target.
        seeds: one independent autoencoder for each.
    """

    def __init__(self, inputs: int, conditions: int, targets: int, settings: Settings, seeds: Sequence[int]) -> None:
        super().__init__()
        hidden, latent = settings.hidden, settings.latent
        self.settings, self.seeds = settings, tuple(seeds)
        self.encoder_sizes = (inputs, hidden, 2 * latent)
        self.decoder_sizes = (latent + conditions, hidden, hidden, targets)
        streams = stacked.generators(stacked.derive(seed, "autoencoder") for seed in seeds)
        self.encoder = nn.Parameter(tables.usual_rows(self.encoder_sizes, streams))
        self.decoder = nn.Parameter(tables.usual_rows(self.decoder_sizes, streams))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation `[S, B, Z]` of the posterior, from `x [S, B, inputs]`."""
        mean, log_variance = tables.perceptron(self.encoder, x, self.encoder_sizes).chunk(2, -1)
        return mean, (log_variance / 2).exp()

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """The reconstruction `[S, B, targets]`, from `z [S, B, Z]` and the condition `y [S, B, conditions]`."""
        return tables.perceptron(self.decoder, torch.cat([z, y], -1), self.decoder_sizes)

    def loss(self, x: Tensor, y: Tensor, target: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the reconstruction plus the weighted prior matching term, `[S, B]` (paper, Eq 8).

        Args:
            noise: `[S, B, Z]` standard normal numbers, which turn mean and deviation into a sample of z.
        """
        mean, std = self.encode(x)
        error = (self.decode(torch.addcmul(mean, std, noise), y) - target).square().sum(-1)
        return error + self.settings.kl_weight * prior_matching(mean, std)

    def parts(self) -> tuple[tables.Layers, tables.Layers, tables.Layers, tables.Layers]:
        """Layers of encoder and decoder, and of their gradients, as views to compute with outside autograd."""
        gradients = torch.zeros_like(self.encoder), torch.zeros_like(self.decoder)
        self.encoder.grad, self.decoder.grad = gradients
        sizes = self.encoder_sizes, self.decoder_sizes
        encoder, decoder = map(tables.layers, (self.encoder.detach(), self.decoder.detach()), sizes)
        to_encoder, to_decoder = map(tables.layers, gradients, sizes)
        return encoder, decoder, to_encoder, to_decoder

    def gradients(
        self,
        parts: tuple[tables.Layers, tables.Layers, tables.Layers, tables.Layers],
        x: Tensor,
        y: Tensor,
        target: Tensor,
        noise: Tensor,
        weight: Tensor,
    ) -> Tensor:
        """Write the gradient of the sum of `loss` times `weight [S, B]` into `parts`; returns that sum, `[S]`."""
        encoder, decoder, to_encoder, to_decoder = parts
        scale, kl_weight = weight.unsqueeze(-1), self.settings.kl_weight
        encoding = tables.activations(encoder, x)
        mean, log_variance = encoding[-1].chunk(2, -1)
        std = (log_variance / 2).exp()
        decoding = tables.activations(decoder, torch.cat([torch.addcmul(mean, std, noise), y], -1))
        error = decoding[-1] - target
        loss = error.square().sum(-1) + kl_weight * prior_matching(mean, std)
        to_z = tables.backward(decoder, decoding, 2 * scale * error, to_decoder)[..., : self.settings.latent]
        prior = kl_weight * scale
        to_mean = torch.addcmul(to_z, prior, mean)
        to_log_variance = (to_z * noise * std + prior * (std.square() - 1)) / 2
        tables.backward(encoder, encoding, torch.cat([to_mean, to_log_variance], -1), to_encoder)
        return (loss * weight).sum(1)

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Train on rows `[S, B, ...]`, of which those with `weight [S, B]` 0 do not count.

        Minibatches and noise are drawn from streams of the seeds, so a seed in company is the seed alone.

        Returns:
            `[epochs, S]` mean loss of each epoch.
        """
        settings, (seeds, count) = self.settings, x.shape[:2]
        streams = stacked.generators(stacked.derive(seed, "autoencoder training") for seed in self.seeds)
        parts = (x, y, target, weight.unsqueeze(-1))
        data, cuts = torch.cat(parts, -1).flatten(0, 1), [part.shape[-1] for part in parts]
        first = count * torch.arange(seeds).unsqueeze(1)
        networks = self.parts()
        optimiser = torch.optim.Adam(self.parameters(), lr=settings.lr, fused=True)
        history = []
        for _ in range(settings.epochs):
            order = first + torch.stack([torch.randperm(count, generator=stream) for stream in streams])
            noise = torch.stack([torch.randn(count, settings.latent, generator=stream) for stream in streams])
            total = data.new_zeros(seeds)
            for rows, eps in zip(
                order.to(data.device).split(settings.batch, 1), noise.to(data.device).split(settings.batch, 1),
                strict=True,
            ):  # fmt: skip
                x, y, target, weight = data[rows].split(cuts, -1)
                total += self.gradients(networks, x, y, target, eps, weight.squeeze(-1))
                optimiser.step()
            history.append(total)
        return torch.stack(history) / data[:, -1].view(seeds, count).sum(1)


def prior_matching(mean: Tensor, std: Tensor) -> Tensor:
    """KL of N(mean, diag std^2) from the prior N(0, I) in nats, `[..., Z] -> [...]` (paper, Eq 8, second term)."""
    return (mean.square() + std.square() - 1).sum(-1) / 2 - std.log().sum(-1)


def evidence_bound(loss: Tensor, kl_weight: float, targets: int) -> Tensor:
    """The lower bound on log p(target | y) (paper, Eq 8) that a `ConditionalVAE.loss` stands for, in nats.

    The squared error plus w times the prior matching term is, but for a factor and a constant, the negative bound of a
    decoder with Gaussian noise of variance w / 2.
    """
    return -loss / kl_weight - targets / 2 * math.log(math.pi * kl_weight)


# ----------------------------------------------------------------------------------------------------------- distance

CHUNK = 2**21
"""Numbers in the largest tensor that comparing all pairs makes."""


def policy_distance(
    policies: Policies,
    observations: Tensor,
    measure: Measure = "wasserstein",
    *,
    available: Tensor | None = None,
    feature: Tensor | None = None,
    settings: Settings | None = None,
    seed: int | Sequence[int] = 0,
) -> Tensor:
    """Distance of all pairs of N policies, averaged over what all of them observe: a symmetric `[N, N]`.

    Each policy is asked about each observation, also about those that only another agent has seen. Observations of
    zeros only (dead agents) do not count.

    Args:
        policies: a function `[N, B, O] -> [N, B, A]`, action probabilities of policy n on its own B observations; or N
            functions `[B, O] -> [B, A]`.
        observations: `[N, M, O]`, M of each agent. The autoencoder learns from these own pairs.
        measure: see `LEARNT` and `DIRECT`.
        available: `[N, M, A]` bool, actions that can be chosen; the others count as never chosen.
        feature: `[N, M, F]`, what belongs to each observation and is reconstructed in place of the action
            distribution (the customised distance, paper section 1.2).
        settings: of the autoencoder.
        seed: of the autoencoder. S seeds make S problems at once: all shapes above then begin with S, and the result
            is `[S, N, N]`.

    Raises:
        InputError: an unknown measure, a shape that does not fit, probabilities that are none, or nothing observed.
    """
    return policy_distances(
        policies, observations, (measure,), available=available, feature=feature, settings=settings, seed=seed
    )[measure]


@torch.no_grad()
def policy_distances(
    policies: Policies,
    observations: Tensor,
    measures: Sequence[Measure],
    *,
    available: Tensor | None = None,
    feature: Tensor | None = None,
    settings: Settings | None = None,
    seed: int | Sequence[int] = 0,
) -> dict[str, Tensor]:
    """Several measures at once, with one autoencoder for all that need one; see `policy_distance`."""
    for measure in measures:
        if measure not in MEASURES:
            raise unknown("measure", measure, MEASURES)
    settings = settings or Settings()
    several = not isinstance(seed, int)
    seeds: tuple[int, ...] = tuple(seed) if isinstance(seed, Sequence) else (seed,)
    if not several:
        observations = observations.unsqueeze(0)
        available, feature = (None if x is None else x.unsqueeze(0) for x in (available, feature))
    situation = _Situation(policies, observations, available, feature, several, seeds)
    vae = _autoencoder(situation, settings, seeds) if set(measures) & set(LEARNT) else None
    result = _average(situation, vae, measures, settings, seeds)
    return result if several else {name: value[0] for name, value in result.items()}


class _Situation:
    """The policies and what they are compared on, all with a leading seed axis; refuses what does not fit."""

    def __init__(
        self, policies: Policies, obs: Tensor, available: Tensor | None, feature: Tensor | None, several: bool,
        seeds: Sequence[int],
    ) -> None:  # fmt: skip
        self._policies, self._several = policies, several
        shape = "[S, N, M, O]" if several else "[N, M, O]"
        if obs.dim() != 4 or 0 in obs.shape:
            raise InputError(f"observations must be {shape} and not empty, not {list(obs.shape[not several :])}")
        if len(seeds) != len(obs):
            raise InputError(f"observations are of {len(obs)} seeds, but {len(seeds)} are named")
        if not callable(policies) and len(policies) != obs.shape[1]:
            raise InputError(f"{len(policies)} policies, but observations of {obs.shape[1]}")
        for name, extra in (("available", available), ("feature", feature)):
            if extra is not None and (extra.dim() != 4 or extra.shape[:3] != obs.shape[:3]):
                wrong = list(extra.shape[not several :])
                raise InputError(
                    f"{name} must go with each of {list(obs.shape[not several : 3])} observations, not {wrong}"
                )
        self.obs, self.feature = obs.to(torch.get_default_dtype()), feature
        self.available = available
        self.counts = (obs != 0).any(-1).to(self.obs.dtype)  # [S, N, M]: dead agents observe zeros
        if not bool(self.counts.flatten(1).any(1).all()):
            raise InputError("no agent has observed anything but zeros")

    def probabilities(self, obs: Tensor, available: Tensor | None) -> Tensor:
        """`[S, N, B, A]` of each policy on `obs [S, N, B, O]`."""
        if self._several:
            p = cast(Callable[[Tensor], Tensor], self._policies)(obs)
        elif callable(self._policies):
            p = self._policies(obs[0]).unsqueeze(0)
        else:
            p = torch.stack([policy(own) for policy, own in zip(self._policies, obs[0], strict=True)]).unsqueeze(0)
        p = p.to(obs.dtype)
        if p.shape[:-1] != obs.shape[:-1] or bool((p < 0).any()) or not bool(((p.sum(-1) - 1).abs() < 1e-3).all()):
            raise InputError(
                "policies must give probabilities that sum to 1 over the last axis, for observations of shape "
                f"{list(obs.shape[not self._several :])}; got {list(p.shape[not self._several :])}"
            )
        if available is None:
            return p
        if available.shape[-1] != p.shape[-1]:
            raise InputError(f"available is of {available.shape[-1]} actions, the policies have {p.shape[-1]}")
        p = p * available
        return p / p.sum(-1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)


def _autoencoder(situation: _Situation, settings: Settings, seeds: Sequence[int]) -> ConditionalVAE:
    """Trained from scratch on what each agent has seen, with its own policy's probabilities."""
    obs = situation.obs
    p = situation.probabilities(obs, situation.available)
    x, y = (part.flatten(1, 2) for part in (torch.cat([p, obs], -1), obs))
    target = x[..., : p.shape[-1]] if situation.feature is None else situation.feature.to(obs.dtype).flatten(1, 2)
    vae = ConditionalVAE(x.shape[-1], y.shape[-1], target.shape[-1], settings, seeds).to(obs.device)
    vae.fit(x, y, target, situation.counts.flatten(1))
    return vae


def _average(
    situation: _Situation, vae: ConditionalVAE | None, measures: Sequence[Measure], settings: Settings,
    seeds: Sequence[int],
) -> dict[str, Tensor]:  # fmt: skip
    """Means `[S, N, N]` over pooled observations, a piece at a time."""
    obs, available = situation.obs.flatten(1, 2), situation.available
    available = None if available is None else available.flatten(1, 2)
    counts = situation.counts.flatten(1)
    if 0 < settings.rows < obs.shape[1]:
        chosen = stacked.permutations(seeds, "distance", 0, 1, obs.shape[1])[:, 0, : settings.rows].to(obs.device)
        each = torch.arange(len(seeds), device=obs.device).unsqueeze(1)
        obs, counts = obs[each, chosen], counts[each, chosen]
        available = None if available is None else available[each, chosen]
        if not bool(counts.any(1).all()):
            raise InputError(f"none of {settings.rows} observations drawn is anything but zeros; take more rows")
    agents = situation.obs.shape[1]
    sums: dict[str, Any] = dict.fromkeys(measures, 0.0)
    pairs = (
        settings.latent if set(measures) & {"bhattacharyya", "hellinger", "bhattacharyya-code", "hellinger-code"} else 1
    )
    size = max(1, CHUNK // (len(seeds) * agents * max(agents * pairs, settings.hidden)))
    for start in range(0, obs.shape[1], size):
        piece = slice(start, start + size)
        seen = obs[:, piece].unsqueeze(1).expand(-1, agents, -1, -1)
        legal = None if available is None else available[:, piece].unsqueeze(1)
        p = situation.probabilities(seen, legal)
        mean = std = p
        if vae is not None:
            mean, std = (q.unflatten(1, p.shape[1:3]) for q in vae.encode(torch.cat([p, seen], -1).flatten(1, 2)))
        for measure in measures:
            apart = _all_pairs(measure, *(q.transpose(1, 2) for q in (p, mean, std)))  # [S, b, N, N]
            weight = counts[:, piece, None, None]
            # an unused observation must not turn an infinite distance into a NaN
            sums[measure] = sums[measure] + torch.where(weight > 0, apart, 0).sum(1)
    total = counts.sum(1)[:, None, None]
    result = {name: value / total for name, value in sums.items()}
    if "hellinger-code" in result:
        result["hellinger-code"] = (-torch.expm1(-result["hellinger-code"].clamp(max=15))).sqrt()
    return result


def _all_pairs(measure: Measure, p: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Distances `[..., N, N]` between N policies: their probabilities `[..., N, A]`, their Gaussians `[..., N, Z]`."""
    euclid = "donot_use_mm_for_euclid_dist"  # exact, so that equal policies are at a distance of 0
    if measure == "wasserstein":
        gaussian = torch.cat([mean, std], -1)
        return torch.cdist(gaussian, gaussian, compute_mode=euclid)
    if measure == "total-variation":
        return torch.cdist(p, p, p=1.0) / 2
    if measure == "vanilla-hellinger":
        return torch.cdist(p.sqrt(), p.sqrt(), compute_mode=euclid) / math.sqrt(2)
    if measure == "vanilla-bhattacharyya":
        return vanilla_bhattacharyya(p.unsqueeze(-2), p.unsqueeze(-3))
    form = hellinger if measure == "hellinger" else bhattacharyya
    apart = form(mean.unsqueeze(-2), std.unsqueeze(-2), mean.unsqueeze(-3), std.unsqueeze(-3))
    return apart / mean.shape[-1] if measure.endswith("-code") else apart
