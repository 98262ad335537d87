# MAGPO, page by page: book/magpo/magpo.md
"""Multi-agent guided policy optimisation: a joint guider gathers the data, decentralised learners follow it.

The guider is an autoregressive joint policy (Sable or MAT) trained by PPO and kept within a factor delta of the
learners (paper, Eqs 9 and 10); the learners imitate it and improve by the same data (Eqs 11 and 12). Only the learners
are deployed. Defaults are the authors' code where text and code differ; the other readings are options of `Config`.
Letters in the shape comments: S seed, E environment, N agent, A action, C columns, c steps in a column, m minibatch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from inconcert import envs, joint, onpolicy, stacked
from inconcert.actors import Actors, Core, Sharing, taken
from inconcert.algorithms import mat, sable
from inconcert.config import InputError
from inconcert.evaluate import Evaluation, Player, State
from inconcert.onpolicy import clipped_surrogate, clipped_value_error, entropy, normalise


@dataclass(frozen=True)
class Config(onpolicy.Config):
    """Everything a MAGPO run depends on. Defaults are the authors' (params.csv, mava's yaml files)."""

    clip: float = 0.05
    """epsilon of Eqs 10 and 11, and of the value change."""
    epochs: int = 10
    """PPO epochs."""
    ent_coef: float = 0.01
    """Weight of the guider's entropy bonus (the learner has none)."""
    max_grad_norm: float = 0.5
    """Per-seed global norm that the gradients of guider and learner are each clipped to."""
    lr: float = 2.5e-4
    """Learning rate of guider and learner."""
    delta: float = 1.3
    """delta > 1: the guider may be up to this factor more or less likely than the learner to take an action (Eqs 9 and
    10, Table 7); infinity leaves the guider alone."""
    rl_lambda: float = 2.0
    """lambda: weight of the learner's own RL term (Eq 11, Table 7; `alpha` in the authors' code)."""
    learner_kl: Literal["guider_learner", "learner_guider"] = "guider_learner"
    """Direction of the learner's imitation: KL(guider, learner) (authors' code) or KL(learner, guider) (Eq 11)."""
    learner_memory: Literal["carried", "zero"] = "carried"
    """carried: a recurrent learner's state runs along while the guider plays; zero: every rollout is learnt from a
    blank state, also in mid-episode (authors' code when the published numbers were made)."""
    guider: Literal["sable", "mat"] = "sable"
    """The joint policy (paper Figure 4)."""
    embed: int = 32
    """The guider's features of a token (paper Tables 4 and 5)."""
    heads: int = 1
    """The guider's heads."""
    blocks: int = 2
    """The guider's blocks."""
    decay: float = 1.0
    """Sable: scale of the decay (paper Table 5: retention heads scaling parameter)."""
    memory: sable.Memory = "recurrent"
    """Sable: whether steps of an episode see earlier ones."""
    timestep_chunk: int = 16
    """Sable: steps that are weighed pair by pair in training; the numbers do not depend on it."""
    feed_forward: Literal["live", "dead"] = "live"
    """Sable: the gated feed-forward part, or the authors', which stays exactly 0."""
    agent_order: joint.AgentOrder = "fixed"
    """Order of the agents in training: as they act, or a new random one in each epoch (authors' code)."""
    network: Core = "gru"
    """The learner: with a GRU (paper Table 3), or without."""
    parameters: Sharing = "shared"
    """One learner for all agents, told apart by a one-hot id (paper section 4.2), or one for each agent."""
    hidden: int = 128
    """Units of every hidden layer of the learner (paper Table 3; varied in Figure 6)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.delta > 1:
            raise InputError(f"delta must be greater than 1, not {self.delta}")
        if self.rl_lambda < 0:
            raise InputError(f"rl_lambda must not be negative, not {self.rl_lambda}")

    @property
    def steps_per_column(self) -> int:
        """Single steps are shuffled if neither guider nor learner remembers, whole rollouts otherwise."""
        remembers = self.network == "gru" or (self.guider == "sable" and self.memory == "recurrent")
        return self.rollout if remembers else 1


# ---------------------------------------------------------------------------------------------------------- settings

PAPER: dict[str, dict[str, Any]] = {  # the authors' tuned rows (params.csv, system magpo)
    "coordsum/3x10-30": {
        "minibatches": 8, "embed": 32, "epochs": 10, "clip": 0.05, "decay": 1.0, "heads": 1, "blocks": 2, "lr": 2.5e-4,
        "rl_lambda": 2.0, "delta": 1.3,
    },
    "coordsum/3x30-50": {
        "minibatches": 4, "embed": 64, "epochs": 15, "clip": 0.1, "decay": 1.0, "heads": 1, "blocks": 1, "lr": 5e-4,
        "rl_lambda": 8.0, "delta": 1.2,
    },
    "coordsum/5x20-80": {
        "minibatches": 8, "embed": 64, "epochs": 15, "clip": 0.2, "decay": 0.5, "heads": 2, "blocks": 2, "lr": 5e-4,
        "rl_lambda": 4.0, "delta": 1.1,
    },
    "coordsum/8x15-100": {
        "minibatches": 8, "embed": 64, "epochs": 15, "clip": 0.2, "decay": 1.0, "heads": 1, "blocks": 2, "lr": 1e-3,
        "rl_lambda": 8.0, "delta": 1.3,
    },
}  # fmt: skip
NETWORKS: dict[str, Any] = {
    "network": "mlp", "memory": "none", "embed": 32, "heads": 1, "blocks": 1, "lr": 1e-3, "delta": 1.2,
    "rl_lambda": 4.0,
}  # fmt: skip
"""What the small tiers change: no recurrence, one block; delta and lambda from the middle of the tuned ones."""

AUXILIARY: dict[str, dict[str, Any]] = {f"lambda-{value}": {"rl_lambda": float(value)} for value in (0, 1, 2, 4, 8)}
"""Weights of the learner's RL term in Figure 5."""
VARIANTS: dict[str, dict[str, Any]] = onpolicy.variants(
    {f"delta-{value}": {"delta": float(value)} for value in (1.1, 1.2, 1.3, 1.5, 2, 3)},
    AUXILIARY,
    onpolicy.ACTOR_SIZES,
    {
        "guider-mat": {"guider": "mat"},
        "paper-kl": {"learner_kl": "learner_guider"},
        "shuffled": {"agent_order": "shuffled"},
        "gru": {"network": "gru"},
        "gru-zero": {"network": "gru", "learner_memory": "zero"},
    },
    readings=("clamped", "never"),
)
"""Named departures from a tier's setting: Figures 4 to 6, and the readings of the deviation ledger."""


def tiers(task: str) -> dict[str, dict[str, Any]]:
    """The settings of the three tiers for a task."""
    return {
        "smoke": onpolicy.SMOKE | NETWORKS,
        "laptop": onpolicy.LAPTOP | NETWORKS,
        "paper": {"seeds": onpolicy.PAPER_SEEDS, **PAPER.get(task, {})},
    }


def configure(task: str, tier: str, variant: str = "", **changes: Any) -> Config:
    """The setting of a tier ("smoke", "laptop", "paper") for a task, a named variant, and single changes on top."""
    return onpolicy.choose_setting(Config, tiers(task), VARIANTS, task, tier, variant, changes)


# ------------------------------------------------------------------------------------------------------------ losses


def double_clip(log_guider: Tensor, log_learner: Tensor, log_old: Tensor, delta: float, clip: float) -> Tensor:
    """The ratio of Eq 10: the guider's probability pulled into [1/delta, delta] times the learner's, over the old one.

    Args:
        log_guider: `[...]` log-probability of the taken action under the guider in training.
        log_learner: under the learner; no gradient flows into it.
        log_old: under the guider that played.

    Returns:
        `[...]` in [1 - clip, 1 + clip]; its gradient is 0 wherever one of the two clips binds.
    """
    log_learner = log_learner.detach()
    near = (log_guider - log_learner).clamp(-math.log(delta), math.log(delta)) + log_learner
    return (near - log_old).exp().clamp(1 - clip, 1 + clip)


def guider_surrogate(
    log_guider: Tensor, log_learner: Tensor, log_old: Tensor, advantage: Tensor, delta: float, clip: float
) -> Tensor:
    """Policy part of Eq 9 per seed, to minimise: `[S, ...] -> [S]`; with delta infinite it is PPO's."""
    ratio = (log_guider - log_old).exp()
    clipped = double_clip(log_guider, log_learner, log_old, delta, clip)
    return -torch.min(ratio * advantage, clipped * advantage).flatten(1).mean(1)


def outside(log_guider: Tensor, log_learner: Tensor, delta: float) -> Tensor:
    """The mask m of Eq 9, `[...]` bool: guider and learner differ by more than the factor delta on the taken action."""
    return (log_guider - log_learner).detach().abs() > math.log(delta)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p, q) in nats of categorical distributions: log-probabilities `[..., A]` -> `[...]`; 0 log 0 counts 0."""
    least = torch.finfo(log_p.dtype).min
    return (log_p.exp() * (log_p.clamp(min=least) - log_q.clamp(min=least))).sum(-1)


# ---------------------------------------------------------------------------------------------------------- learning


class Learner:
    """Guider and learners of all seeds, and their update (the contract is `onpolicy.Learner`)."""

    deployed = "learner"

    def __init__(self, config: Config, spec: envs.Spec, device: str) -> None:
        self.config = config
        self.actors = Actors(config.seeds, spec, config.hidden, config.network, config.parameters, device)
        build = {"sable": sable.network, "mat": mat.network}[config.guider]
        self.guider: joint.Model = build(config, spec).to(device)
        self.joint = joint.Player(self.guider, len(config.seeds), spec, device)
        self.networks: dict[str, nn.Module] = {"learner": self.actors.network, "guider": self.guider}
        self.companions: dict[str, Player] = {"guider": self.joint}
        self.rates: Sequence[float] = (config.lr, config.lr)
        groups = [{"params": network.parameters()} for network in self.networks.values()]
        self.optimiser: torch.optim.Optimizer = torch.optim.Adam(groups, eps=config.adam_eps, fused=True)

    def memories(self, envs_per_seed: int) -> State:
        return {
            "memory": self.guider.blank(envs_per_seed), "learner_memory": self.actors.blank(envs_per_seed),
        }  # fmt: skip

    def __call__(self, step: envs.Step, start: Tensor, memory: Any, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.actors(step, start, memory, uniform)

    def act(self, now: dict[str, Any], uniform: Tensor) -> State:
        step, start = now["step"], now["start"]
        obs, available = self.joint.observe(step.obs), step.available.unflatten(0, start.shape)
        action, log_probs, value, now["memory"] = self.guider.act(obs, available, start, now["memory"], uniform)
        if self.actors.network.memory and self.config.learner_memory == "carried":
            _, now["learner_memory"] = self.actors.step(obs, available, start, now["learner_memory"])
        return {
            "obs": obs, "available": available, "action": action, "log_prob": taken(log_probs, action), "value": value,
        }  # fmt: skip

    def value(self, obs: Tensor, state: Tensor, start: Tensor, now: dict[str, Any]) -> Tensor:
        return self.guider.value(self.joint.observe(obs), start, now["memory"])

    def learn(self, data: State, index: int) -> State:
        """Epochs of minibatches over one rollout; returns the mean diagnostics `[S]`."""
        config, metrics = self.config, onpolicy.Mean()
        names = ("obs", "available", "action", "log_prob", "start", "value", "advantage", "target")
        memories = ("memory", "learner_memory")
        used = {name: data[name] for name in names + memories}
        for batch in joint.minibatches(config, used, index, memories, config.agent_order):
            signs = self.gradients(batch)
            for name, network in self.networks.items():
                signs[f"{name}_grad_norm"] = stacked.clip_grad_norm_(network, config.max_grad_norm, len(config.seeds))
            self.optimiser.step()
            metrics.add(signs)
        explained = onpolicy.explained_variance(data["value"], data["target"])
        return metrics.result() | {"explained_variance": explained}

    def gradients(self, b: State) -> State:
        """Backpropagate both losses of one minibatch `[S, c, m, ...]`; returns diagnostics `[S]`."""
        config = self.config
        guider, value = self.guider(b["obs"], b["available"], b["action"], b["memory"], b["start"])
        learner = self.actors.log_probs(b["obs"], b["available"], b["learner_memory"], b["start"])
        log_guider, log_learner = taken(guider, b["action"]), taken(learner, b["action"])
        advantage = normalise(b["advantage"])

        policy_loss = guider_surrogate(log_guider, log_learner, b["log_prob"], advantage, config.delta, config.clip)
        masked = outside(log_guider, log_learner, config.delta)
        pull = (masked * divergence(guider, learner.detach())).flatten(1).mean(1)
        bonus = entropy(guider)
        value_loss = clipped_value_error(value, b["value"], b["target"], config.clip)
        guider_loss = policy_loss + pull - config.ent_coef * bonus + config.vf_coef * value_loss

        if config.learner_kl == "guider_learner":
            imitation = divergence(guider.detach(), learner).flatten(1).mean(1)
        else:
            imitation = divergence(learner, guider.detach()).flatten(1).mean(1)
        learner_loss = imitation
        if config.rl_lambda:
            own_loss = clipped_surrogate(log_learner, b["log_prob"], advantage, config.clip)
            learner_loss = learner_loss + config.rl_lambda * own_loss

        self.optimiser.zero_grad()
        # neither loss reaches the other's network, and seeds share no parameter: one sum gives each its own gradient
        (guider_loss + learner_loss).sum().backward()
        return {
            "policy_loss": policy_loss.detach(), "value_loss": value_loss.detach(), "entropy": bonus.detach(),
            "learner_entropy": entropy(learner.detach()), "imitation": imitation.detach(),
            "masked": masked.float().flatten(1).mean(1),
            **onpolicy.policy_change(log_guider, b["log_prob"], config.clip),
        }  # fmt: skip


def train(config: Config, device: str = "cpu", state: State | None = None) -> Iterator[Evaluation]:
    """Train all seeds side by side, yielding one `Evaluation` after another; see `onpolicy.train`."""
    return onpolicy.train(Learner, config, device, state)


def restore(config: Config, parameters: State, device: str = "cpu") -> Player:
    """The deployed learners of all seeds, from the parameters that a run saved."""
    return onpolicy.restore(Learner, config, parameters, device)
