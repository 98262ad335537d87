# HASAC, page by page: book/kpf/hasac.md
"""Heterogeneous-agent soft actor-critic (Liu et al. 2024), for discrete actions: an off-policy baseline of KPF.

Every agent has an actor of its own and a temperature; two critics see the state and everybody's actions, and learn
towards n-step returns with an entropy bonus. Actors learn in turn from replayed situations, each against the actions
that those before it would take by now. Settings are HARL's (facts of the KPF chapter).
Letters in the shape comments: S seed, E environment, N agent, A action, T slot of a piece, B piece.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from inconcert import envs, offpolicy, onpolicy, stacked
from inconcert.actors import Actors, Core, Network, taken
from inconcert.config import InputError
from inconcert.evaluate import Evaluation, Mode, Player, State, choose, masked_log_softmax
from inconcert.offpolicy import filled_mean, keep_floor


@dataclass(frozen=True)
class Config(offpolicy.Config):
    """Everything a HASAC run depends on. Defaults: HARL's code, as tuned for particle worlds and SMAC."""

    num_envs: int = 20
    rollout: int = 50
    """Steps of a piece, and vector steps between two rounds of learning (HARL: train_interval)."""
    updates: int = 10_000
    epochs: int = 50
    """Batches in each round: one for every `num_envs` environment steps (HARL: update_per_train)."""
    capacity: int = 20_000
    """Pieces that are remembered per seed (HARL: a million steps)."""
    off_batch: int = 20
    """Pieces of a batch (HARL: 1000 single steps; here whole pieces)."""
    network: Core = "mlp"
    """HASAC's actors have no memory."""
    hidden: int = 256
    eval_modes: tuple[Mode, ...] = ("greedy", "sampled")
    critic_hidden: int = 256
    """Units of both hidden layers of the critics."""
    actor_lr: float = 5e-4
    """Learning rate of the actors."""
    critic_lr: float = 5e-4
    """Learning rate of the critics."""
    alpha_lr: float = 3e-4
    """Learning rate of the temperatures' logarithms."""
    alpha: float = 1.0
    """Temperature of every agent at the beginning."""
    target_entropy: Literal["harl", "scaled"] = "harl"
    """What the temperatures steer every agent's entropy to. scaled: 0.98 ln A. harl: 0, what that formula comes to in
    HARL's code for discrete actions, so that policies end nearly deterministic."""
    n_step: int = 20
    """Rewards that a target sums up, fewer where the episode or the piece ends."""
    polyak: float = 0.005
    """Share of the critics that the target networks take over after each step."""
    warmup: int = 10_000
    """Environment steps per seed in which all legal actions are equally likely."""
    state_rms: float = 0.0
    """Root mean square that the critics' state is brought to by a layer norm; 0 leaves it as it is. SMAC's states
    lie between -1 and 1, but SMAX's hold positions up to 32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network != "mlp":
            raise InputError("HASAC's actors have no memory: network must be 'mlp'")
        for name in ("epsilon_start", "epsilon_end", "epsilon_steps", "target_every"):
            if getattr(self, name) != getattr(offpolicy.Config, name):
                raise InputError(f"{name} has no use in HASAC; leave it at {getattr(offpolicy.Config, name)}")
        if self.n_step < 1:
            raise InputError(f"n_step must be at least 1, not {self.n_step}")
        if not 0 < self.polyak <= 1:
            raise InputError(f"polyak must be above 0 and at most 1, not {self.polyak}")
        if self.alpha <= 0:
            raise InputError(f"alpha must be positive, not {self.alpha}")

    def epsilon(self, update: int) -> float:
        """1 during the warm-up, then 0: the policy itself explores."""
        return float((update - 1) * self.steps_per_update < self.warmup)


# ---------------------------------------------------------------------------------------------------------- settings

LAPTOP: dict[str, Any] = {
    "seeds": (0, 1, 2), "num_envs": 8, "rollout": 20, "updates": 3000, "epochs": 2, "capacity": 2000, "off_batch": 16,
    "hidden": 64, "critic_hidden": 128, "n_step": 10, "warmup": 5000, "alpha": 0.2, "eval_every": 300,
}  # fmt: skip
"""Small tier: narrow networks, and a batch for every 80 environment steps instead of every 20."""
BATTLE: dict[str, Any] = {"state_rms": 1.0}
"""On SMAX, at every tier: next to positions up to 32 the critics would hardly see who does what."""
SMOKE: dict[str, Any] = {
    **LAPTOP, "seeds": (0, 1), "updates": 8, "eval_every": 4, "capacity": 64, "off_batch": 4, "warmup": 320,
    "eval_episodes": 8, "final_episodes": 16,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {"": {}, "scaled": {"target_entropy": "scaled"}}
"""Named departures from a tier's setting."""


def configure(task: str, tier: str, variant: str = "", **changes: Any) -> Config:
    """The setting of a tier ("smoke", "laptop", "paper") for a task, a named variant, and single changes on top."""
    own = BATTLE if task.startswith("smax/") else {}
    tiers = offpolicy.tiers(Config, task, SMOKE | own, LAPTOP | own, own)
    return onpolicy.settle(Config, task, tier, tiers, VARIANTS.get(variant, {}), changes)


# ---------------------------------------------------------------------------------------------------------- learning


def n_step_return(reward: Tensor, done: Tensor, filled: Tensor, soft: Tensor, *, gamma: float, steps: int) -> Tensor:
    """Targets `[S, T, B]` of the critics.

    y_t = sum_{k < m} gamma^k r_{t+k} + gamma^m V(t + m): m is `steps`, or what is left of the piece; after the end of
    an episode nothing follows.

    Args:
        reward, done, filled: `[S, T, B]`, see `offpolicy.layout`.
        soft: `[S, T, B]` V, the value of a situation with its entropy bonus.
        gamma: discount.
        steps: m at most.
    """

    def later(x: Tensor) -> Tensor:
        return torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1)

    value, goes_on = later(soft), later(filled)
    target = value
    for _ in range(steps):
        found = reward + gamma * ~done * target
        target = torch.where(goes_on, later(found), value)
    return found


class Learner:
    """Actors, critics, temperatures and replay of all seeds, and their update.

    The actors of all seeds and agents are one stack, in which acting is one call. `turns[i]` are those of agent i, of
    all seeds; they share memory with the stack, so that a step of theirs is a step of its.
    """

    deployed = "actor"

    def __init__(self, config: Config, spec: envs.Spec, device: str) -> None:
        self.config, self.spec, seeds = config, spec, len(config.seeds)
        self.actors = Actors(
            config.seeds, config.seen(spec), config.hidden, "mlp", "separate", device, one_hot_id=False
        )
        self.turns: list[Network] = []
        for agent in range(spec.num_agents):
            blank = stacked.generators(range(seeds))
            own = Network(self.actors.inputs, spec.num_actions, config.hidden, "mlp", blank, 1.0).to(device)
            for mine, stack in zip(own.parameters(), self.actors.network.parameters(), strict=True):
                mine.data = stack.data.unflatten(0, (seeds, -1))[:, agent]
            self.turns.append(own)
        self.replay = offpolicy.Replay(config, spec).to(device)
        streams = stacked.generators((stacked.derive(seed, "critic") for seed in config.seeds), 2)
        inputs = spec.state_size + spec.num_agents * spec.num_actions
        self.critics = Network(inputs, 1, config.critic_hidden, "mlp", streams, 1.0).to(device)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        start = torch.full((seeds,), math.log(config.alpha), device=device)
        self.log_alphas = nn.ParameterList([nn.Parameter(start.clone()) for _ in range(spec.num_agents)])
        self.networks: dict[str, nn.Module] = {
            "actor": self.actors.network, "critics": self.critics, "targets": self.targets,
            "temperatures": self.log_alphas, "replay": self.replay,
        }  # fmt: skip
        self.companions: dict[str, Player] = {}
        self.rates: Sequence[float] = (config.actor_lr, config.critic_lr, config.alpha_lr)
        every = [parameter for own in self.turns for parameter in own.parameters()]
        trained: tuple[list[nn.Parameter], ...] = (every, [*self.critics.parameters()], [*self.log_alphas])
        groups = [{"params": parameters} for parameters in trained]
        self.optimiser: torch.optim.Optimizer = torch.optim.Adam(groups, eps=config.adam_eps)
        self.target_entropy = 0.98 * math.log(spec.num_actions) if config.target_entropy == "scaled" else 0.0

    # ------------------------------------------------------------------------------------------------- acting

    def memories(self, envs_per_seed: int) -> State:
        return offpolicy.memories(self.config, self.actors.blank(envs_per_seed))

    def sight(self, obs: Tensor, last: Tensor | None) -> Tensor:
        """See `offpolicy.sight`."""
        return offpolicy.sight(self.config, self.spec, obs, last)

    def __call__(self, step: envs.Step, start: Tensor, memory: Any, uniform: Tensor | None) -> tuple[Tensor, Any]:
        last = None if memory is None else memory.masked_fill(start.unsqueeze(-1), -1)
        action, _ = self.actors(step._replace(obs=self.sight(step.obs, last)), start, None, uniform)
        return action, action

    def act(self, now: dict[str, Any], uniform: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """Actions `[S, E, N]` and their log-probabilities; see `offpolicy.collect`."""
        step, start = now["step"], now["start"]
        available = step.available.unflatten(0, start.shape)
        seen = self.actors.observe(self.sight(step.obs, now.get("last")))
        log_probs, now["memory"] = self.actors.step(seen, available, start, now["memory"])
        log_probs = keep_floor(log_probs, available, epsilon)
        action = choose(log_probs, uniform)
        return action, taken(log_probs, action)

    # ----------------------------------------------------------------------------------------------- learning

    def learn(self, data: State, index: int) -> State:
        """Steps on batches from the replay, of the critics and then of the actors; returns mean diagnostics `[S]`."""
        config, metrics = self.config, onpolicy.Mean()
        self.replay.store(data, index)
        for number in range(config.epochs):
            b = self.replay.sample(index, "old pieces", number, config.off_batch, config.capacity)
            b["available"] = b["available"] | ~b["available"].any(-1, keepdim=True)  # slots without a step have none
            b["seen"] = self.sight(b["obs"], b.get("last"))
            step = index * config.epochs + number
            with torch.no_grad():
                now = torch.stack([self.log_probs(b, agent) for agent in range(self.spec.num_agents)], 3)
            metrics.add(self.critic_step(b, now, step) | self.actor_steps(b, now, step))
            with torch.no_grad():
                for target, critic in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                    target.lerp_(critic, config.polyak)
        return metrics.result()

    def noise(self, purpose: str, step: int, b: State) -> Tensor:
        """Gumbel noise `[S, T, B, N, A]`, a seed's from its own stream."""
        shape = b["available"].shape[1:]
        u = stacked.uniforms(self.config.seeds, purpose, step, *shape).to(b["obs"].device)
        return -(-u.clamp(min=1e-20).log()).clamp(min=1e-20).log()

    def log_probs(self, b: State, agent: int) -> Tensor:
        """Log-probabilities `[S, T, B, A]` of one agent."""
        nothing = b["memory"][:, :, agent]  # no memory
        logits = self.turns[agent](b["seen"][:, :, :, agent], nothing, b["start"])
        return masked_log_softmax(logits, b["available"][:, :, :, agent])

    def values(self, critics: Network, state: Tensor, actions: Tensor) -> Tensor:
        """Both critics `[S, 2, T, B]` of one-hot `actions [S, T, B, N, A]`."""
        if self.config.state_rms:
            state = self.config.state_rms * nn.functional.layer_norm(state, state.shape[-1:])
        x = torch.cat([state, actions.flatten(-2)], -1).repeat_interleave(2, 0)
        nothing = x.new_zeros(x.shape[0], x.shape[2], 0)
        return critics(x, nothing, x[..., 0] > 0).squeeze(-1).unflatten(0, (-1, 2))

    def alphas(self) -> Tensor:
        """Temperatures `[S, N]`."""
        return torch.stack([one.detach() for one in self.log_alphas], 1).exp()

    def critic_step(self, b: State, log_probs: Tensor, step: int) -> State:
        """One step of the critics towards n-step returns; diagnostics `[S]`. Actors say `log_probs [S, T, B, N, A]`."""
        config = self.config
        with torch.no_grad():
            actions = one_hot((log_probs + self.noise("target actions", step, b)).argmax(-1), log_probs)
            said = taken(log_probs, actions.argmax(-1))  # [S, T, B, N]
            bonus = (self.alphas()[:, None, None] * said).sum(-1)
            soft = self.values(self.targets, b["state"], actions).amin(1) - bonus
            aim = n_step_return(b["reward"], b["done"], b["filled"], soft, gamma=config.gamma, steps=config.n_step)
        self.optimiser.zero_grad()
        played = one_hot(b["action"], log_probs)
        error = (self.values(self.critics, b["state"], played) - aim.unsqueeze(1)).square().sum(1)
        loss = filled_mean(error, b["filled"])
        loss.sum().backward()
        norm = stacked.clip_grad_norm_(self.critics, config.max_grad_norm, len(config.seeds))
        self.optimiser.step()
        return {"old_loss": loss.detach(), "critic_grad_norm": norm}

    def actor_steps(self, b: State, before: Tensor, step: int) -> State:
        """One step of every actor and temperature, in random order; mean diagnostics `[S]`.

        Args:
            before: `[S, T, B, N, A]` log-probabilities of all actors so far.
        """
        config, metrics = self.config, onpolicy.Mean()
        self.critics.requires_grad_(False)
        noise, again = self.noise("actions", step, b), self.noise("actions of those who have learnt", step, b)
        actions = one_hot((before + noise).argmax(-1), before)
        # one order for all seeds, so that it does not depend on which seeds there are
        for agent in stacked.permutations((0,), "agents", step, 1, self.spec.num_agents)[0, 0].tolist():
            log_probs = self.log_probs(b, agent)
            perturbed = log_probs + noise[..., agent, :]
            hard = one_hot(perturbed.argmax(-1), log_probs)
            soft = perturbed.softmax(-1)
            own = hard + soft - soft.detach()  # straight through: the value of `hard`, the gradient of `soft`
            # through the draw too: of the drawn action alone, the log-probability's gradient is 0 on average
            said = (own * log_probs.masked_fill(~b["available"][:, :, :, agent], 0.0)).sum(-1)
            joint = torch.cat([actions[..., :agent, :], own.unsqueeze(-2), actions[..., agent + 1 :, :]], -2)
            q = self.values(self.critics, b["state"], joint).amin(1)
            log_alpha = self.log_alphas[agent]
            alpha = log_alpha.detach().exp()[:, None, None]
            loss = filled_mean(alpha * said - q, b["filled"])
            entropy = -filled_mean(said.detach(), b["filled"])
            self.optimiser.zero_grad()
            (loss + log_alpha * (entropy - self.target_entropy)).sum().backward()
            norm = stacked.clip_grad_norm_(self.turns[agent], config.max_grad_norm, len(config.seeds))
            self.optimiser.step()
            with torch.no_grad():
                new = self.log_probs(b, agent)
                actions[..., agent, :] = one_hot((new + again[..., agent, :]).argmax(-1), new)
            metrics.add({
                "actor_loss": loss.detach(), "actor_grad_norm": norm, "entropy": entropy,
                "alpha": log_alpha.detach().exp(),
            })  # fmt: skip
        self.critics.requires_grad_(True)
        return metrics.result()


def one_hot(action: Tensor, like: Tensor) -> Tensor:
    """`[...] -> [..., A]`, of the type and the width of `like [..., A]`."""
    return nn.functional.one_hot(action, like.shape[-1]).to(like.dtype)


def train(config: Config, device: str = "cpu", state: State | None = None) -> Iterator[Evaluation]:
    """Train all seeds side by side, yielding one `Evaluation` after another; see `offpolicy.train`."""
    return offpolicy.train(Learner, config, device, state)


def restore(config: Config, parameters: State, device: str = "cpu") -> Player:
    """The deployed policy of all seeds, from the actor parameters that a run saved."""
    return offpolicy.restore(Learner, config, parameters, device)
