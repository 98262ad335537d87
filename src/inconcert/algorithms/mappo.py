# MAPPO, page by page: book/magpo/mappo.md
"""Multi-agent PPO (Yu et al. 2022): decentralised actors, one critic on the global state, all seeds in one program.

The settings, losses and evaluation protocol are those of the MAGPO paper's MAPPO baseline (its Tables 3 and 6 and the
authors' code); where text and code differ, both readings are options of `Config`.
Letters in the shape comments: S seed, E environment, N agent, A action, C columns, c steps in a column, m minibatch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inconcert import envs, onpolicy, stacked
from inconcert.actors import Actors, Core, Network, Sharing, taken
from inconcert.evaluate import Evaluation, Player, State, choose
from inconcert.onpolicy import clipped_surrogate, clipped_value_error, entropy, normalise


@dataclass(frozen=True)
class Config(onpolicy.Config):
    """Everything a MAPPO run depends on. Defaults are the MAGPO authors' MAPPO (params.csv, mava's yaml files)."""

    network: Core = "gru"
    """gru: layer, GRU, layer, head (paper Table 3: one recurrent layer of 128); mlp: the same without the GRU."""
    parameters: Sharing = "shared"
    """One actor for all agents, told apart by a one-hot id (paper Table 3), or an actor for each agent."""
    layer_norm: bool = False
    """Normalise inputs, and features after each ReLU (HARL)."""
    one_hot_id: bool = True
    """Put the agent's one-hot id in front of its observation (paper Table 3; HARL does not)."""
    hidden: int = 128
    """Units of every hidden layer of an actor (paper Table 3: [128, 128], recurrent 128; varied in Figure 6)."""
    critic_hidden: int = 128
    """Units of every hidden layer of the critic (paper Table 3)."""
    chunk: int = 0
    """Steps the GRU is unrolled for in training, 0 for the whole rollout (paper Table 6: recurrent chunk size)."""
    actor_lr: float = 5e-4
    """Policy learning rate (paper Table 6)."""
    critic_lr: float = 5e-4
    """Value learning rate (paper Table 6)."""
    value_norm: bool = False
    """The critic predicts in units of the targets' running mean and deviation (HARL)."""
    huber: float = math.inf
    """Value errors beyond this count in proportion, not squared (HARL: 10, in units of the critic)."""

    @property
    def steps_per_column(self) -> int:
        """A feed-forward network shuffles single steps, a recurrent one chunks of consecutive steps."""
        return 1 if self.network == "mlp" else self.chunk or self.rollout


# ---------------------------------------------------------------------------------------------------------- settings

PAPER: dict[str, dict[str, Any]] = {  # the authors' tuned rows (params.csv, system mappo)
    "coordsum/3x10-30": {"minibatches": 8, "max_grad_norm": 5.0, "clip": 0.05, "ent_coef": 1e-5},
    "coordsum/3x30-50": {"minibatches": 8, "max_grad_norm": 5.0, "clip": 0.1, "ent_coef": 0.0},
    "coordsum/5x20-80": {
        "minibatches": 4, "max_grad_norm": 10.0, "clip": 0.1, "ent_coef": 0.01, "actor_lr": 2.5e-4, "critic_lr": 2.5e-4,
    },
    "coordsum/8x15-100": {"minibatches": 4, "max_grad_norm": 10.0, "clip": 0.1, "ent_coef": 1e-5},
}  # fmt: skip
NETWORKS: dict[str, Any] = {"network": "mlp", "actor_lr": 1e-3, "critic_lr": 1e-3}
"""What the small tiers change in the networks: no recurrence."""
HARL: dict[str, Any] = onpolicy.HARL | {
    "network": "mlp", "layer_norm": True, "one_hot_id": False, "value_norm": True, "huber": 10.0,
}  # fmt: skip
"""MAPPO of the KPF paper's base policies."""
ROLES: dict[str, dict[str, Any]] = {"mpe/simple_speaker_listener": {"parameters": "separate"}}
"""Where agents have different parts to play, HARL gives each an actor of its own."""
VARIANTS = onpolicy.variants(onpolicy.ACTOR_SIZES, onpolicy.COEFFICIENTS) | {"harl": HARL}
"""Named departures from a tier's setting."""


def configure(task: str, tier: str, variant: str = "", **changes: Any) -> Config:
    """The setting of a tier ("smoke", "laptop", "paper") for a task, a named variant, and single changes on top."""
    tiers = {
        "smoke": onpolicy.SMOKE | NETWORKS,
        "laptop": onpolicy.LAPTOP | NETWORKS,
        "paper": {"seeds": onpolicy.PAPER_SEEDS, **PAPER.get(task, {})},
    }
    if variant.partition("-")[0] == "harl":
        changes = ROLES.get(task, {}) | changes
    return onpolicy.choose_setting(Config, tiers, VARIANTS, task, tier, variant, changes)


# ---------------------------------------------------------------------------------------------------------- learning


class Learner:
    """Actors and critic of all seeds, and their update (the contract is `onpolicy.Learner`)."""

    deployed = "actor"

    def __init__(self, config: Config, spec: envs.Spec, device: str) -> None:
        self.config = config
        self.actors = Actors(
            config.seeds, spec, config.hidden, config.network, config.parameters, device, config.one_hot_id,
            config.layer_norm,
        )  # fmt: skip
        streams = stacked.generators(stacked.derive(seed, "critic") for seed in config.seeds)
        self.critic = Network(
            spec.state_size, 1, config.critic_hidden, config.network, streams, 1.0, config.layer_norm
        ).to(device)
        self.scale = onpolicy.ValueNorm(len(config.seeds), config.value_norm).to(device)
        self.networks: dict[str, nn.Module] = {"actor": self.actors.network, "critic": self.critic}
        self.companions: dict[str, Player] = {}
        self.rates: Sequence[float] = (config.actor_lr, config.critic_lr)
        groups = [{"params": network.parameters()} for network in self.networks.values()]
        self.optimiser: torch.optim.Optimizer = torch.optim.Adam(groups, eps=config.adam_eps, fused=True)
        if config.value_norm:
            self.networks["value_norm"] = self.scale

    def memories(self, envs_per_seed: int) -> State:
        actor = self.actors.blank(envs_per_seed)
        return {"actor_memory": actor, "critic_memory": actor.new_zeros(*actor.shape[:2], self.critic.memory)}

    def __call__(self, step: envs.Step, start: Tensor, memory: Any, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.actors(step, start, memory, uniform)

    def act(self, now: dict[str, Any], uniform: Tensor) -> State:
        step, start = now["step"], now["start"]
        obs, state = self.actors.observe(step.obs), step.state.view(*start.shape, -1)
        available = step.available.unflatten(0, start.shape)
        log_probs, now["actor_memory"] = self.actors.step(obs, available, start, now["actor_memory"])
        value, now["critic_memory"] = self.critic.step(state, now["critic_memory"], start)
        action = choose(log_probs, uniform)
        return {
            "obs": obs, "state": state, "available": available, "action": action, "log_prob": taken(log_probs, action),
            "value": self.scale.real(value),
        }  # fmt: skip

    def value(self, obs: Tensor, state: Tensor, start: Tensor, now: dict[str, Any]) -> Tensor:
        return self.scale.real(self.critic.step(state.view(*start.shape, -1), now["critic_memory"], start)[0])

    def learn(self, data: State, index: int) -> State:
        """Epochs of minibatches over one rollout; returns the mean diagnostics `[S]`."""
        config, metrics = self.config, onpolicy.Mean()
        names = ("obs", "state", "available", "action", "log_prob", "start", "value", "advantage", "target")
        memories = ("actor_memory", "critic_memory")
        used = {name: data[name] for name in names + memories}
        self.scale.fit(used, config.epochs * config.minibatches)
        for batch in onpolicy.minibatches(config, used, index, memories):
            signs = self.gradients(batch)
            for name, network in (("actor", self.actors.network), ("critic", self.critic)):
                signs[f"{name}_grad_norm"] = stacked.clip_grad_norm_(network, config.max_grad_norm, len(config.seeds))
            self.optimiser.step()
            metrics.add(signs)
        explained = onpolicy.explained_variance(data["value"], data["target"])
        return metrics.result() | {"explained_variance": explained}

    def gradients(self, b: State) -> State:
        """Backpropagate the loss of one minibatch `[S, c, m, ...]`; returns diagnostics `[S]`."""
        config = self.config
        log_probs = self.actors.log_probs(b["obs"], b["available"], b["actor_memory"], b["start"])
        log_prob = taken(log_probs, b["action"])
        value = self.critic(b["state"], b["critic_memory"], b["start"])
        policy_loss = clipped_surrogate(log_prob, b["log_prob"], normalise(b["advantage"]), config.clip)
        value_loss = clipped_value_error(value, b["value"], b["target"], config.clip, config.huber)
        bonus = entropy(log_probs)
        self.optimiser.zero_grad()
        # seeds share no parameter, so the sum over seeds gives each its own gradient
        (policy_loss - config.ent_coef * bonus + config.vf_coef * value_loss).sum().backward()
        return {
            "policy_loss": policy_loss.detach(), "value_loss": value_loss.detach(), "entropy": bonus.detach(),
            **onpolicy.policy_change(log_prob, b["log_prob"], config.clip),
        }  # fmt: skip


def train(config: Config, device: str = "cpu", state: State | None = None) -> Iterator[Evaluation]:
    """Train all seeds side by side, yielding one `Evaluation` after another; see `onpolicy.train`."""
    return onpolicy.train(Learner, config, device, state)


def restore(config: Config, parameters: State, device: str = "cpu") -> Player:
    """The deployed policy of all seeds, from the actor parameters that a run saved."""
    return onpolicy.restore(Learner, config, parameters, device)
