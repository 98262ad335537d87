# HAPPO, page by page: book/magpo/happo.md
"""Heterogeneous-agent PPO (Kuba et al. 2022): actors of their own for all agents, updated one agent after another.

Each agent's advantage is multiplied by how much the agents before it have just changed the probability of what they
did. The settings, losses and evaluation protocol are those of the MAGPO paper's HAPPO baseline (its Tables 3 and 6 and
the authors' code); where text and code differ, both readings are options of `Config`.
Letters in the shape comments: S seed, E environment, N agent, A action, C columns, c steps in a column, m minibatch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from inconcert import envs, onpolicy, stacked
from inconcert.actors import Actors, Core, Network, Sharing, taken
from inconcert.evaluate import Evaluation, Player, State, choose, masked_log_softmax
from inconcert.onpolicy import clipped_surrogate, clipped_value_error, entropy, normalise

Turns = Literal["minibatch", "original"]


@dataclass(frozen=True)
class Config(onpolicy.Config):
    """Everything a HAPPO run depends on. Defaults are the MAGPO authors' HAPPO (params.csv, mava's yaml files)."""

    order: Turns = "minibatch"
    """minibatch: all agents in turn within each minibatch, in an order drawn for each epoch, the factor starting at 1
    in every minibatch (authors' code). original: an agent runs through all its epochs before the next one begins, in
    an order drawn for each rollout, the factor kept for the whole rollout (Kuba et al. 2022)."""
    network: Core = "gru"
    """gru: layer, GRU, layer, head (paper Table 3: one recurrent layer of 128); mlp: the same without the GRU."""
    hidden: int = 128
    """Units of every hidden layer of an actor (paper Table 3: [128, 128], recurrent 128)."""
    critic_hidden: int = 128
    """Units of every hidden layer of a critic (paper Table 3)."""
    critics: Sharing = "separate"
    """separate: a critic for each agent (authors' code); shared: one for the team (HARL). All see the global state."""
    layer_norm: bool = False
    """Normalise inputs, and features after each ReLU (HARL)."""
    one_hot_id: bool = True
    """Put the agent's one-hot id in front of its observation (paper Table 3; HARL does not)."""
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

PAPER: dict[str, dict[str, Any]] = {  # the authors' tuned rows (params.csv, system happo)
    "coordsum/3x10-30": {
        "minibatches": 4, "max_grad_norm": 10.0, "clip": 0.05, "ent_coef": 1e-5, "actor_lr": 2.5e-4,
        "critic_lr": 2.5e-4,
    },
    "coordsum/3x30-50": {"minibatches": 8, "max_grad_norm": 5.0, "clip": 0.1, "ent_coef": 0.0},
    "coordsum/5x20-80": {"minibatches": 4, "max_grad_norm": 0.5, "clip": 0.2, "ent_coef": 0.01},
    "coordsum/8x15-100": {"minibatches": 4, "max_grad_norm": 10.0, "clip": 0.2, "ent_coef": 1e-5, "chunk": 64},
}  # fmt: skip
NETWORKS: dict[str, Any] = {"network": "mlp", "actor_lr": 1e-3, "critic_lr": 1e-3}
"""What the small tiers change in the networks: no recurrence."""
HARL: dict[str, Any] = onpolicy.HARL | {
    "network": "mlp", "order": "original", "critics": "shared", "layer_norm": True, "one_hot_id": False,
    "value_norm": True, "huber": 10.0,
}  # fmt: skip
"""HAPPO of the KPF paper's base policies."""
VARIANTS = onpolicy.variants({"order-original": {"order": "original"}}, onpolicy.COEFFICIENTS) | {"harl": HARL}
"""Named departures from a tier's setting."""


def configure(task: str, tier: str, variant: str = "", **changes: Any) -> Config:
    """The setting of a tier ("smoke", "laptop", "paper") for a task, a named variant, and single changes on top."""
    tiers = {
        "smoke": onpolicy.SMOKE | NETWORKS,
        "laptop": onpolicy.LAPTOP | NETWORKS,
        "paper": {"seeds": onpolicy.PAPER_SEEDS, **PAPER.get(task, {})},
    }
    return onpolicy.choose_setting(Config, tiers, VARIANTS, task, tier, variant, changes)


# ---------------------------------------------------------------------------------------------------------- learning


def sequential_surrogate(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, factor: Tensor, clip: float
) -> Tensor:
    """PPO's clipped loss of one agent, its advantage multiplied by `factor` (Kuba et al. 2022, section 4): `[S]`.

    Args:
        log_prob: `[S, ...]` of the action that the agent took, under its policy in training.
        old_log_prob: under the policy that played.
        advantage: `[S, ...]`, normalised here, before the product (authors' code).
        factor: `[S, ...]` M, the product of the ratios new / old of the agents whose turn came before; not clipped.
    """
    return clipped_surrogate(log_prob, old_log_prob, factor * normalise(advantage), clip)


def of_agents(x: Tensor, agents: Tensor, axis: int) -> Tensor:
    """What belongs to one agent of each seed, `agents [S]`: the agents' `axis` of `x [S, ...]` goes."""
    return x.movedim(axis, 1)[torch.arange(len(agents), device=x.device), agents]


class Learner:
    """Actors and critics of all seeds, and their update (the contract is `onpolicy.Learner`).

    The actors of all seeds and agents are one stack, in which acting is one call. In an update only the actors whose
    turn it is, one of each seed, are computed: they are copied into `turn`, and what the optimiser steps are S * N
    separate views of the stack, of which only theirs have gradients then. K in the shapes is the number of critics of
    a seed: N, or 1 for the team.
    """

    deployed = "actor"
    config: Any  # HATRPO's steps have settings of their own

    def __init__(self, config: Config, spec: envs.Spec, device: str) -> None:
        self.config, self.spec = config, spec
        self.critics = spec.num_agents if config.critics == "separate" else 1  # K
        self.actors = Actors(
            config.seeds, spec, config.hidden, config.network, "separate", device, config.one_hot_id, config.layer_norm
        )
        streams = stacked.generators((stacked.derive(seed, "critic") for seed in config.seeds), self.critics)
        self.critic = Network(
            spec.state_size, 1, config.critic_hidden, config.network, streams, 1.0, config.layer_norm
        ).to(device)
        self.scale = onpolicy.ValueNorm(len(config.seeds), config.value_norm).to(device)
        self.networks: dict[str, nn.Module] = {"actor": self.actors.network, "critic": self.critic}
        self.companions: dict[str, Player] = {}
        blank = stacked.generators(range(len(config.seeds)))
        self.turn = Network(
            self.actors.inputs, spec.num_actions, config.hidden, config.network, blank, 1.0, config.layer_norm
        ).to(device)
        self.leaves = [  # for each parameter of the stack, its S * N members
            [nn.Parameter(member) for member in stack.detach()] for stack in self.actors.network.parameters()
        ]
        self.rates: Sequence[float] = [rate for _, rate in self.stepped()]
        groups = [{"params": parameters} for parameters, _ in self.stepped()]
        self.optimiser: torch.optim.Optimizer = torch.optim.Adam(groups, eps=config.adam_eps, fused=True)
        if config.value_norm:
            self.networks["value_norm"] = self.scale

    def stepped(self) -> list[tuple[Iterable[nn.Parameter], float]]:
        """What the optimiser steps, and the learning rates."""
        actors = [leaf for leaves in self.leaves for leaf in leaves]
        return [(actors, self.config.actor_lr), (self.critic.parameters(), self.config.critic_lr)]

    def memories(self, envs_per_seed: int) -> State:
        actor = self.actors.blank(envs_per_seed)
        critic = actor.new_zeros(*actor.shape[:2], self.critics, self.critic.memory)
        return {"actor_memory": actor, "critic_memory": critic}

    def __call__(self, step: envs.Step, start: Tensor, memory: Any, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.actors(step, start, memory, uniform)

    def act(self, now: dict[str, Any], uniform: Tensor) -> State:
        step, start = now["step"], now["start"]
        obs, state = self.actors.observe(step.obs), step.state.view(*start.shape, -1)
        available = step.available.unflatten(0, start.shape)
        log_probs, now["actor_memory"] = self.actors.step(obs, available, start, now["actor_memory"])
        value, now["critic_memory"] = self.appraise(state, start, now["critic_memory"])
        action = choose(log_probs, uniform)
        return {
            "obs": obs, "state": state, "available": available, "action": action, "log_prob": taken(log_probs, action),
            "value": value,
        }  # fmt: skip

    def appraise(self, state: Tensor, start: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Values `[S, E, K]` of `state [S, E, F]` by all critics, and their next memory from `h [S, E, K, H]`."""
        value, h = self.critic.step(self.repeat(state), h.movedim(2, 1).flatten(0, 1), self.repeat(start))
        value, h = (x.unflatten(0, (-1, self.critics)).movedim(1, 2) for x in (value, h))
        return self.scale.real(value.squeeze(-1)), h

    def repeat(self, x: Tensor) -> Tensor:
        """`[S, ...] -> [S * K, ...]`: what all critics of a seed see alike."""
        return x.repeat_interleave(self.critics, dim=0)

    def share(self, x: Tensor) -> Tensor:
        """`[S, ..., n] -> [S * K, ..., n / K]`: to each critic what belongs to it, to one for the team everything."""
        return x.unflatten(-1, (self.critics, -1)).movedim(-2, 1).flatten(0, 1)

    def value(self, obs: Tensor, state: Tensor, start: Tensor, now: dict[str, Any]) -> Tensor:
        return self.appraise(state.view(*start.shape, -1), start, now["critic_memory"])[0]

    def learn(self, data: State, index: int) -> State:
        """Epochs of minibatches over one rollout; returns the mean diagnostics `[S]`."""
        config, agents, actors, critics = self.config, self.spec.num_agents, onpolicy.Mean(), onpolicy.Mean()
        names = ("obs", "state", "available", "action", "log_prob", "start", "value", "advantage", "target")
        memories = ("actor_memory", "critic_memory")
        used = {name: data[name] for name in names + memories}
        self.scale.fit(used, config.epochs * config.minibatches)
        draws = config.epochs if config.order == "minibatch" else 1
        orders = stacked.permutations(config.seeds, "agents", index, draws, agents)  # [S, draws, N]
        orders = orders.to(data["reward"].device)
        if config.order == "minibatch":
            for number, batch in enumerate(onpolicy.minibatches(config, used, index, memories)):
                critics.add(self.learn_critics(batch))
                factor = torch.ones_like(batch["log_prob"][..., 0])
                turns = orders[:, number // config.minibatches].unbind(1)
                for turn in turns:
                    own = self.select(batch, turn)
                    actors.add(self.learn_actors(own, factor, turn))
                    if turn is not turns[-1]:
                        factor = factor * self.ratio(own, turn)
        else:
            critics = self.learn_all_critics(used, index)
            factor = torch.ones_like(data["log_prob"][..., 0])
            turns = orders[:, 0].unbind(1)
            for turn in turns:
                own = self.select(used, turn) | {"factor": factor}
                for batch in onpolicy.minibatches(config, own, index, ("actor_memory",)):
                    actors.add(self.learn_actors(batch, batch["factor"], turn))
                if turn is not turns[-1]:
                    factor = factor * self.rollout_ratio(used, turn)
        explained = onpolicy.explained_variance(data["value"], data["target"])
        return critics.result() | actors.result() | {"explained_variance": explained}

    def learn_all_critics(self, used: State, index: int) -> onpolicy.Mean:
        """All steps of all critics on a rollout."""
        metrics, names = onpolicy.Mean(), ("state", "start", "value", "target", "critic_memory")
        part = {name: used[name] for name in names}
        for batch in onpolicy.minibatches(self.config, part, index, ("critic_memory",)):
            metrics.add(self.learn_critics(batch))
        return metrics

    def select(self, b: State, turn: Tensor) -> State:
        """What the actors in `turn [S]` need of a minibatch `[S, c, m, N, ...]`, or of a rollout: their own columns."""
        own = {name: of_agents(b[name], turn, 3) for name in ("obs", "available", "action", "log_prob", "advantage")}
        return own | {"actor_memory": of_agents(b["actor_memory"], turn, -2), "start": b["start"]}

    def members(self, turn: Tensor) -> Tensor:
        """`[S]` places in the stack of the actors in `turn [S]`."""
        return turn + self.spec.num_agents * torch.arange(len(turn), device=turn.device)

    @torch.no_grad()
    def load(self, turn: Tensor) -> None:
        """Copy the actors in `turn [S]`, one of each seed, out of the stack."""
        for target, stack in zip(self.turn.parameters(), self.actors.network.parameters(), strict=True):
            target.copy_(stack[self.members(turn)])

    def log_probs(self, own: State) -> Tensor:
        """Log-probabilities `[S, c, m, A]` by the actors that were loaded last."""
        return masked_log_softmax(self.turn(own["obs"], own["actor_memory"], own["start"]), own["available"])

    def learn_actors(self, own: State, factor: Tensor, turn: Tensor) -> State:
        """One step of the actors in `turn [S]`, and of no others; returns diagnostics `[S]`."""
        config = self.config
        self.load(turn)
        log_probs = self.log_probs(own)
        log_prob = taken(log_probs, own["action"])
        policy_loss = sequential_surrogate(log_prob, own["log_prob"], own["advantage"], factor, config.clip)
        bonus = entropy(log_probs)
        self.turn.zero_grad()
        # seeds share no parameter, so the sum over seeds gives each its own gradient
        (policy_loss - config.ent_coef * bonus).sum().backward()
        norm = stacked.clip_grad_norm_(self.turn, config.max_grad_norm, len(turn))
        self.optimiser.zero_grad()
        members = self.members(turn).tolist()
        gradients = (stack.grad.unbind() for stack in self.turn.parameters() if stack.grad is not None)
        for leaves, gradient in zip(self.leaves, gradients, strict=True):
            for member, own_gradient in zip(members, gradient, strict=True):
                leaves[member].grad = own_gradient
        self.optimiser.step()
        return {
            "policy_loss": policy_loss.detach(), "entropy": bonus.detach(), "actor_grad_norm": norm,
            "factor_spread": factor.flatten(1).std(1, correction=0),
            **onpolicy.policy_change(log_prob, own["log_prob"], config.clip),
        }  # fmt: skip

    @torch.no_grad()
    def ratio(self, own: State, turn: Tensor) -> Tensor:
        """How much more likely the actors in `turn [S]` are now to take the action they took, `[S, c, m]`."""
        self.load(turn)
        return (taken(self.log_probs(own), own["action"]) - own["log_prob"]).exp()

    def rollout_ratio(self, used: State, turn: Tensor) -> Tensor:
        """`ratio` along a whole rollout, `[S, T, E]`."""
        whole = {
            name: x.flatten(1, 2) if name.endswith("_memory") else onpolicy.columns(x, self.config.steps_per_column)
            for name, x in used.items()
        }
        ratio = self.ratio(self.select(whole, turn), turn)  # [S, c, T / c * E]
        return ratio.unflatten(2, (-1, self.config.num_envs)).transpose(1, 2).flatten(1, 2)

    def learn_critics(self, b: State) -> State:
        """One step of all critics on a minibatch `[S, c, m, ...]`; returns diagnostics `[S]`.

        Critics share neither parameters nor data with actors and with each other: they need no turns.
        """
        config, seeds = self.config, len(self.config.seeds)
        memory = b["critic_memory"].movedim(2, 1).flatten(0, 1)
        value = self.critic(self.repeat(b["state"]), memory, self.repeat(b["start"]))
        old_value, target = self.share(b["value"]), self.share(b["target"])
        loss = clipped_value_error(value, old_value, target, config.clip, config.huber)  # [S * K]
        self.optimiser.zero_grad()
        (config.vf_coef * loss).sum().backward()
        norm = stacked.clip_grad_norm_(self.critic, config.max_grad_norm, seeds * self.critics)
        self.optimiser.step()
        return {"value_loss": loss.detach().view(seeds, -1).mean(1), "critic_grad_norm": norm.view(seeds, -1).mean(1)}


def train(config: Config, device: str = "cpu", state: State | None = None) -> Iterator[Evaluation]:
    """Train all seeds side by side, yielding one `Evaluation` after another; see `onpolicy.train`."""
    return onpolicy.train(Learner, config, device, state)


def restore(config: Config, parameters: State, device: str = "cpu") -> Player:
    """The deployed policy of all seeds, from the actor parameters that a run saved."""
    return onpolicy.restore(Learner, config, parameters, device)
