# QMIX, page by page: book/ensemble_mix/dop.md
"""QMIX (Rashid et al. 2020): one value per agent and action, mixed into a team value that grows with each of them.

A value-based baseline beside the actor-critics of the Ensemble-MIX chapter, with the same replay and pieces. Agents
play the action of their largest value, and while training any other with probability epsilon.
Letters in the shape comments: S seed, E environment, N agent, A action, T slot of a piece, B piece.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inconcert import envs, offpolicy, onpolicy, stacked
from inconcert.actors import Actors, Network, taken
from inconcert.evaluate import Evaluation, Mode, Player, State, choose
from inconcert.offpolicy import filled_mean, keep_floor


@dataclass(frozen=True)
class Config(offpolicy.Config):
    """Everything a QMIX run depends on. Defaults: the authors' code (PyMARL)."""

    max_grad_norm: float = 10.0
    eval_modes: tuple[Mode, ...] = ("sampled",)
    """The policy is deterministic, so that sampling from it and taking its best action are the same."""
    epsilon_start: float = 1.0
    """Exploration at the beginning."""
    epsilon_steps: int = 50_000
    """Environment steps per seed over which exploration falls linearly."""
    target_every: int = 200
    """Gradient steps between two copies to the target networks (PyMARL: 200 episodes, one step for each)."""
    mixer_hidden: int = 32
    """Units of the mixer, and of the hypernetwork of its last bias."""
    state_rms: float = 0.0
    """Root mean square that the mixer's state is brought to by a layer norm; 0 leaves the state as it is. SMAC's states
    lie between -1 and 1, but SMAX's hold positions up to 32, which a mixer turns into weights of several hundred."""
    lr: float = 5e-4
    """Learning rate."""
    double: bool = True
    """The network in training chooses the next action, the target network judges it (van Hasselt et al. 2016)."""


# ---------------------------------------------------------------------------------------------------------- settings

LAPTOP: dict[str, Any] = {
    "seeds": (0, 1, 2, 3, 4), "num_envs": 4, "rollout": 20, "updates": 800, "epochs": 2, "network": "mlp", "lr": 1e-3,
    "decay_lr": True, "capacity": 800, "off_batch": 8, "target_every": 100, "eval_every": 80, "eval_episodes": 32,
    "final_episodes": 320,
}  # fmt: skip
"""Small tier: as many steps, gradient steps and pieces as DOP."""
LAPTOP_OF: dict[str, dict[str, Any]] = {
    "macf/2cars": {"updates": 1600, "eval_every": 160, "target_every": 40, "reward_scale": 0.01},
}  # fmt: skip
"""Tasks with a laptop tier of QMIX's own, beside those of `offpolicy.LAPTOP_OF`."""
BATTLE: dict[str, Any] = {"state_rms": 0.2}
"""On SMAX, at every tier: with the raw state the mixer multiplies an agent's value by several hundred at first, and the
values drown in their own noise."""
SMOKE: dict[str, Any] = {
    **LAPTOP, "seeds": (0, 1), "updates": 12, "eval_every": 4, "capacity": 64, "eval_episodes": 8,
    "final_episodes": 16, "epsilon_steps": 500,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {"": {}, **offpolicy.VARIANTS}
"""Named departures from a tier's setting."""


def configure(task: str, tier: str, variant: str = "", **changes: Any) -> Config:
    """The setting of a tier ("smoke", "laptop", "paper") for a task, a named variant, and single changes on top."""
    own = BATTLE if task.startswith("smax/") else {}
    paper = {"seeds": (0, 1, 2), "last_action": True} | own
    tiers = offpolicy.tiers(Config, task, SMOKE | own, LAPTOP | LAPTOP_OF.get(task, {}) | own, paper)
    return onpolicy.settle(Config, task, tier, tiers, VARIANTS.get(variant, {}), changes)


# ---------------------------------------------------------------------------------------------------------- learning


class Mixer(nn.Module):
    """Q_tot = |w2(s)| elu(|W1(s)| q + b1(s)) + b2(s): it grows with every agent's value q_i."""

    def __init__(self, spec: envs.Spec, config: Config, streams: stacked.Generators) -> None:
        super().__init__()
        self.agents, self.rms, width = spec.num_agents, config.state_rms, config.mixer_hidden
        sizes = {"first": self.agents * width, "bias": width, "second": width}
        maps = {name: stacked.Linear(spec.state_size, size, streams, gain=1.0) for name, size in sizes.items()}
        self.maps = nn.ModuleDict(maps)
        self.last = nn.Sequential(
            stacked.Linear(spec.state_size, width, streams), nn.ReLU(), stacked.Linear(width, 1, streams, gain=1.0)
        )

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """`[S, ...]` from the agents' `q [S, ..., N]` and `state [S, ..., state_size]`."""
        if self.rms:
            state = self.rms * nn.functional.layer_norm(state, state.shape[-1:])
        first = self.maps["first"](state).abs().unflatten(-1, (self.agents, -1))
        inner = nn.functional.elu((q.unsqueeze(-1) * first).sum(-2) + self.maps["bias"](state))
        return (inner * self.maps["second"](state).abs()).sum(-1) + self.last(state).squeeze(-1)


class Learner:
    """Agents, mixer, targets and replay of all seeds, and their update."""

    deployed = "agents"

    def __init__(self, config: Config, spec: envs.Spec, device: str) -> None:
        self.config, self.spec = config, spec
        self.agents = Actors(config.seeds, config.seen(spec), config.hidden, config.network, "shared", device)
        self.replay = offpolicy.Replay(config, spec).to(device)
        streams = stacked.generators(stacked.derive(seed, "mixer") for seed in config.seeds)
        self.mixer = Mixer(spec, config, streams).to(device)
        self.both = nn.ModuleDict({"agents": self.agents.network, "mixer": self.mixer})
        self.targets = copy.deepcopy(self.both).requires_grad_(False)
        self.networks: dict[str, nn.Module] = {
            "agents": self.agents.network, "mixer": self.mixer, "targets": self.targets, "replay": self.replay
        }  # fmt: skip
        self.companions: dict[str, Player] = {}
        self.rates: Sequence[float] = (config.lr,)
        self.optimiser: torch.optim.Optimizer = torch.optim.RMSprop(
            self.both.parameters(), alpha=0.99, eps=config.adam_eps
        )

    def memories(self, envs_per_seed: int) -> State:
        return offpolicy.memories(self.config, self.agents.blank(envs_per_seed))

    def sight(self, obs: Tensor, last: Tensor | None) -> Tensor:
        """See `offpolicy.sight`."""
        return offpolicy.sight(self.config, self.spec, obs, last)

    @torch.no_grad()
    def best(self, step: envs.Step, start: Tensor, memory: Tensor, last: Tensor | None) -> tuple[Tensor, Tensor]:
        """The best legal actions as log-probabilities `[S, E, N, A]` of 0 and -inf, and the next memory."""
        agents = self.agents
        seen = agents.stack(agents.observe(self.sight(step.obs, last)))
        values, h = agents.network.step(seen, agents.stack(memory), agents.spread(start))
        available = step.available.unflatten(0, start.shape)
        values = agents.unstack(values).masked_fill(~available, -torch.inf)
        chosen = nn.functional.one_hot(values.argmax(-1), self.spec.num_actions).bool()
        return torch.zeros_like(values).masked_fill(~chosen, -torch.inf), agents.unstack(h)

    def __call__(self, step: envs.Step, start: Tensor, memory: Any, uniform: Tensor | None) -> tuple[Tensor, Any]:
        h, last = (self.agents.blank(start.shape[1]), None) if memory is None else memory
        log_probs, h = self.best(step, start, h, None if last is None else last.masked_fill(start.unsqueeze(-1), -1))
        action = log_probs.argmax(-1)
        return action, (h, action)

    def act(self, now: dict[str, Any], uniform: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """Actions `[S, E, N]` and their log-probabilities; see `offpolicy.collect`."""
        log_probs, now["memory"] = self.best(now["step"], now["start"], now["memory"], now.get("last"))
        log_probs = keep_floor(log_probs, now["step"].available.unflatten(0, now["start"].shape), epsilon)
        action = choose(log_probs, uniform)
        return action, taken(log_probs, action)

    def learn(self, data: State, index: int) -> State:
        """Gradient steps on batches from the replay; returns mean diagnostics `[S]`."""
        config, metrics = self.config, onpolicy.Mean()
        self.replay.store(data, index)
        for number in range(config.epochs):
            b = self.replay.sample(index, "old pieces", number, config.off_batch, config.capacity)
            metrics.add(self.critic_step(b))
            if ((index - 1) * config.epochs + number + 1) % config.target_every == 0:
                self.targets.load_state_dict(self.both.state_dict())
        return metrics.result()

    def values(self, network: Network, b: State) -> Tensor:
        """The agents' values `[S, T, B, N, A]`, -inf where an action is not legal."""
        agents = self.agents
        seen = self.sight(b["obs"].flatten(0, 2), b.get("last"))
        seen = agents.stack(agents.observe(seen).unflatten(1, b["start"].shape[1:]))
        values = network(seen, agents.stack(b["memory"]), agents.spread(b["start"]))
        return agents.unstack(values).masked_fill(~b["available"], -torch.inf)

    def critic_step(self, b: State) -> State:
        """One step of agents and mixer towards r + gamma (1 - d) Q'_tot of the next slot; diagnostics `[S]`."""
        config = self.config
        q = self.values(self.agents.network, b)
        with torch.no_grad():
            target_network: Any = self.targets["agents"]
            later = self.values(target_network, b)
            after = taken(later, (q if config.double else later).argmax(-1))
            total = self.targets["mixer"](after, b["state"])
            aim = b["reward"][:, :-1] + config.gamma * ~b["done"][:, :-1] * total[:, 1:]
        chosen = taken(q.masked_fill(~b["available"], 0.0), b["action"])  # a slot without a step has no legal action
        error = self.mixer(chosen, b["state"])[:, :-1] - aim
        loss = filled_mean(error.square(), b["filled"][:, :-1])
        self.optimiser.zero_grad()
        loss.sum().backward()
        norm = stacked.clip_grad_norm_(self.both, config.max_grad_norm, len(config.seeds))
        self.optimiser.step()
        return {"old_loss": loss.detach(), "critic_grad_norm": norm}


def train(config: Config, device: str = "cpu", state: State | None = None) -> Iterator[Evaluation]:
    """Train all seeds side by side, yielding one `Evaluation` after another; see `offpolicy.train`."""
    return offpolicy.train(Learner, config, device, state)


def restore(config: Config, parameters: State, device: str = "cpu") -> Player:
    """The deployed policy of all seeds, from the parameters that a run saved."""
    return offpolicy.restore(Learner, config, parameters, device)
