# DOP, page by page: book/ensemble_mix/dop.md
"""Decomposed off-policy policy gradients (Wang et al. 2021): actors, and a critic that is a sum over the agents.

The parent of Ensemble-MIX. The team's value is a non-negative linear mixture of one value per agent, so that each actor
gets its own share of the credit, and expectations over the joint action are sums over single ones. The critic learns
from the newest data and from a replay, the actors from the newest data alone. Settings are those of DOP's code.
Letters in the shape comments: S seed, M member of an ensemble (1 here), E environment, N agent, A action, H hidden
unit, T slot of a piece (see `inconcert.offpolicy`), B piece.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from inconcert import envs, offpolicy, onpolicy, stacked
from inconcert.actors import Actors, taken
from inconcert.config import InputError
from inconcert.evaluate import Evaluation, Player, State, choose, masked_log_softmax
from inconcert.offpolicy import filled_mean, join, keep_floor


@dataclass(frozen=True)
class Config(offpolicy.Config):
    """Everything a DOP run depends on. Defaults: DOP's code."""

    critic_hidden: int = 256
    """Units of both hidden layers of the critics (DOP's code)."""
    actor_lr: float = 5e-4
    """Learning rate of the actor (DOP's code)."""
    critic_lr: float = 1e-4
    """Learning rate of critics and mixer (DOP's code)."""
    mixer_hidden: int = 32
    """Width of the mixer's hypernetworks (DOP's code)."""
    mixing: Literal["normalised", "free"] = "normalised"
    """The agents' weights lambda_i are positive, and sum to 1 (DOP's code) or are left as they come (the papers)."""
    mixer_bias: bool = False
    """Add a learnt bias b(s) to the team's value (Ensemble-MIX Eq 10; DOP's code has one and does not use it)."""
    on_weight: float = 0.5
    """c: weight of the on-policy loss of the critic (Eq 1; DOP paper 0.5)."""
    on_capacity: int = 32
    """Newest pieces per seed that count as on-policy (Ensemble-MIX paper, Table 1: N_1 = 32)."""
    on_batch: int = 16
    """On-policy pieces per seed in a batch: any of them for the critic, the newest for the actors (DOP's code)."""
    td_lambda: float = 0.8
    """lambda of the on-policy return (DOP's code)."""
    tb_lambda: float = 0.93
    """lambda of the off-policy return (DOP's code)."""
    depth: int = 5
    """Steps that the off-policy return looks ahead (DOP's code)."""
    off_target: Literal["tree-backup", "retrace"] = "tree-backup"
    """Off-policy return: tree backup (Eq 2), or retrace (Munos et al. 2016)."""
    schedule: Literal["batch", "steps"] = "batch"
    """One critic step on a whole batch, or one for every slot of its pieces in turn (DOP's code)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.on_batch <= self.on_capacity <= self.capacity:
            raise InputError(
                "on_batch, on_capacity and capacity must not fall, nor be less than 1: they are "
                f"{self.on_batch}, {self.on_capacity} and {self.capacity}"
            )
        if not 0 <= self.on_weight <= 1:
            raise InputError(f"on_weight must be from 0 to 1, not {self.on_weight}")
        if self.depth < 1:
            raise InputError(f"depth must be at least 1, not {self.depth}")


# ---------------------------------------------------------------------------------------------------------- settings

LAPTOP: dict[str, Any] = {
    "seeds": (0, 1, 2, 3, 4), "num_envs": 4, "rollout": 20, "updates": 800, "epochs": 2, "network": "mlp",
    "critic_hidden": 64, "actor_lr": 1e-3, "critic_lr": 1e-3, "decay_lr": True, "capacity": 800, "on_capacity": 8,
    "on_batch": 4, "off_batch": 4, "epsilon_steps": 50_000, "target_every": 100, "eval_every": 80,
    "eval_episodes": 32, "final_episodes": 320,
}  # fmt: skip
"""Small tier for all algorithms of this chapter: short pieces, no recurrence, narrow critics, larger steps."""
LAPTOP_OF: dict[str, dict[str, Any]] = {
    "macf/2cars": {"updates": 1600, "eval_every": 160, "td_lambda": 0.95, "target_every": 40, "reward_scale": 0.01},
}  # fmt: skip
"""Tasks with a laptop tier of DOP's own, beside those of `offpolicy.LAPTOP_OF`. Car following: returns of minus
thousands, and an acceleration is felt only many steps later."""
SMOKE: dict[str, Any] = {
    **LAPTOP, "seeds": (0, 1), "updates": 12, "eval_every": 4, "capacity": 64, "eval_episodes": 8,
    "final_episodes": 16, "epsilon_steps": 500,
}  # fmt: skip
PAPER: dict[str, Any] = {"seeds": (0, 1, 2), "last_action": True}
"""The paper has three seeds; what the agents see is as in DOP's code."""
VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "gamma984": {"gamma": 0.984},  # what a typical k of Ensemble-MIX makes of the discount
    "wide": {"critic_hidden": 200},  # about as many numbers as ten critics of 64
    **offpolicy.VARIANTS,
}
"""Named departures from a tier's setting: the controls of Ensemble-MIX."""


def tiers(task: str) -> dict[str, dict[str, Any]]:
    """The settings of the tiers for a task."""
    return offpolicy.tiers(Config, task, SMOKE, LAPTOP | LAPTOP_OF.get(task, {}), PAPER)


def configure(task: str, tier: str, variant: str = "", **changes: Any) -> Config:
    """The setting of a tier ("smoke", "laptop", "paper") for a task, a named variant, and single changes on top."""
    return onpolicy.settle(Config, task, tier, tiers(task), VARIANTS.get(variant, {}), changes)


# ---------------------------------------------------------------------------------------------------------- networks


class Critics(nn.Module):
    """M critics for each seed, shared by the agents, in one product per layer.

    Input: state, own observation, own one-hot id. Layer, ReLU, layer, ReLU, and two heads, V and A; Q = V + A without a
    baseline (DOP's code). Rows come last inside, so that nobody copies inputs for the members, and what the state adds
    to the first layer is computed once for all agents.
    """

    def __init__(self, spec: envs.Spec, hidden: int, members: int, streams: stacked.Generators) -> None:
        super().__init__()
        self.members, self.sizes = members, (spec.state_size, spec.obs_size, spec.num_agents)
        inner = stacked.Linear(sum(self.sizes), hidden, streams)
        self.inner = nn.Parameter(inner.weight.detach().mT.contiguous())  # [S * M, H, inputs]
        self.inner_bias = inner.bias
        self.outer = stacked.Linear(hidden, hidden, streams)
        self.head = stacked.Linear(
            hidden, 1 + spec.num_actions, streams, gain=0.1
        )  # V, then A; as small as torch has it

    def forward(self, obs: Tensor, state: Tensor) -> Tensor:
        """`[S, M, A, *, N]` of `obs [S, *, N, O]` and `state [S, *, state_size]`."""
        seeds, rows, agents = obs.shape[0], state.shape[1:-1], self.sizes[2]
        of_state, of_obs, of_id = self.inner.view(seeds, -1, sum(self.sizes)).split(self.sizes, -1)  # [S, M * H, ...]
        assert self.inner_bias is not None
        bias = self.inner_bias.view(seeds, -1, 1)
        seen = obs.movedim(-2, 1).flatten(1, -2)  # [S, N * rows, O]
        h = torch.bmm(of_obs, seen.mT).unflatten(-1, (agents, -1))  # [S, M * H, N, rows]
        h += torch.baddbmm(bias, of_state, state.flatten(1, -2).mT).unsqueeze(-2)
        h += of_id.unsqueeze(-1)
        h = h.relu_().flatten(-2).unflatten(1, (self.members, -1)).flatten(0, 1)  # [S * M, H, N * rows]
        h = torch.baddbmm(_column(self.outer), self.outer.weight.mT, h).relu_()
        out = torch.baddbmm(_column(self.head), self.head.weight.mT, h)
        q = (out[:, :1] + out[:, 1:]).unflatten(-1, (agents, *rows)).unflatten(0, (seeds, -1))
        return q.movedim(3, -1)


def _column(layer: stacked.Linear) -> Tensor:
    assert layer.bias is not None
    return layer.bias.unsqueeze(-1)


class Mixer(nn.Module):
    """The agents' weights lambda_i and the bias b of the team's value, from the state `[S, ..., state_size]`.

    Q_tot = sum_i lambda_i Q_i + b, lambda_i >= 0 (Eq 10 without k): two linear maps of the state, a matrix `[N, H]` and
    a vector `[H]`, both made positive, and their product.
    """

    def __init__(self, spec: envs.Spec, config: Config, streams: stacked.Generators) -> None:
        super().__init__()
        self.agents, self.normalised = spec.num_agents, config.mixing == "normalised"
        width = config.mixer_hidden
        self.first = stacked.Linear(spec.state_size, self.agents * width, streams, gain=1.0)
        self.second = stacked.Linear(spec.state_size, width, streams, gain=1.0)
        self.bias = nn.Sequential(
            stacked.Linear(spec.state_size, width, streams), nn.ReLU(), stacked.Linear(width, 1, streams, gain=1.0)
        ) if config.mixer_bias else None  # fmt: skip

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """lambda `[S, ..., N]` and b `[S, ...]`."""
        first = self.first(state).abs().unflatten(-1, (self.agents, -1))
        weight = (first * self.second(state).abs().unsqueeze(-2)).sum(-1)
        if self.normalised:
            weight = weight / weight.sum(-1, keepdim=True).clamp(min=1e-10)
        bias = state.new_zeros(()) if self.bias is None else self.bias(state).squeeze(-1)
        return weight, bias.expand(weight.shape[:-1])


# ----------------------------------------------------------------------------------------------------------- returns


def lambda_return(
    reward: Tensor, done: Tensor, filled: Tensor, played: Tensor, mean: Tensor, *, gamma: float, lam: float
) -> Tensor:
    """On-policy targets (Eq 3, a SARSA(lambda) return), `[S, T, B]`.

    G_t = r_t + gamma (1 - d_t) ((1 - lambda) Q'(t + 1) + lambda G_{t+1}). After the last step of a piece, and where it
    was cut off, the next action is not known; there Q' and G are the policy's mean value.

    Args:
        reward, done, filled: `[S, T, B]`, see `offpolicy.layout`.
        played: `[S, T, B]` Q'_tot of the actions that were played.
        mean: `[S, T, B]` its mean under the policy.
    """
    value = torch.where(filled, played, mean)
    result = torch.empty_like(value)
    running = result[:, -1] = value[:, -1]
    for t in reversed(range(value.shape[1] - 1)):
        follow = torch.lerp(value[:, t + 1], running, lam)
        running = torch.where(filled[:, t], reward[:, t] + gamma * ~done[:, t] * follow, value[:, t])
        result[:, t] = running
    return result


def expected_return(
    reward: Tensor,
    done: Tensor,
    filled: Tensor,
    base: Tensor,
    mean: Tensor,
    trace: Tensor,
    *,
    gamma: float,
    depth: int,
) -> Tensor:
    """Off-policy targets with a trace coefficient (tree backup, Eq 2, or retrace), `[S, T, B]`.

    y_t = Q'_t + sum_{m < depth} gamma^m (prod_{l=1..m} c_{t+l}) delta_{t+m}, where
    delta_t = r_t + gamma (1 - d_t) E Q'_{t+1} - Q'_t. The sum stops where an episode or a piece ends. The paper prints
    a product that begins with l = 0 and no gamma^m; DOP has both as here.

    Args:
        reward, done, filled: `[S, T, B]`.
        base: `[S, T, B]` Q'_tot of the actions that were played.
        mean: `[S, T, B]` E Q'_tot under the policy.
        trace: `[S, T, B]` c_t: lambda times the policy's probability of the joint action, for tree backup.
        depth: errors that are summed.
    """
    goes_on = ~done[:, :-1]
    delta = (reward[:, :-1] + gamma * goes_on * mean[:, 1:] - base[:, :-1]) * filled[:, :-1]
    carry = gamma * trace[:, 1:] * (goes_on & filled[:, 1:])
    total = delta
    for _ in range(depth - 1):
        shifted = torch.cat([total[:, 1:], torch.zeros_like(total[:, :1])], 1)
        total = delta + carry * shifted
    return base + torch.cat([total, torch.zeros_like(total[:, :1])], 1)


# ---------------------------------------------------------------------------------------------------------- learning


CRITIC = ("obs", "state", "available", "action", "filled")
"""What a critic step needs of a batch."""


class Judged(NamedTuple):
    """What the critics say about a batch."""

    members: Tensor  # [S, M, A, T, B, N]
    weight: Tensor  # [S, T, B, N] lambda
    bias: Tensor  # [S, T, B]


class Learner:
    """Actors, critics, mixer, targets and replay of all seeds, and their update.

    Ensemble-MIX overrides `bonus`, `k` and `diversity`, which are nothing here.

    Args:
        members: M.
        off_actor: nu, weight of the off-policy part of the actors' gradient.
    """

    deployed = "actor"

    def __init__(self, config: Config, spec: envs.Spec, device: str, members: int = 1, off_actor: float = 0.0) -> None:
        self.config, self.spec, self.off_actor = config, spec, off_actor
        self.actors = Actors(config.seeds, config.seen(spec), config.hidden, config.network, "shared", device)
        self.replay = offpolicy.Replay(config, spec).to(device)
        streams = stacked.generators((stacked.derive(seed, "critic") for seed in config.seeds), members)
        self.critics = Critics(spec, config.critic_hidden, members, streams).to(device)
        streams = stacked.generators(stacked.derive(seed, "mixer") for seed in config.seeds)
        self.mixer = Mixer(spec, config, streams).to(device)
        self.judges = nn.ModuleList([self.critics, self.mixer])
        self.targets = copy.deepcopy(self.judges).requires_grad_(False)
        self.networks: dict[str, nn.Module] = {
            "actor": self.actors.network, "critics": self.critics, "mixer": self.mixer, "targets": self.targets,
            "replay": self.replay,
        }  # fmt: skip
        self.companions: dict[str, Player] = {}
        self.rates: Sequence[float] = (config.actor_lr, config.critic_lr)
        groups = [{"params": self.actors.network.parameters()}, {"params": self.judges.parameters()}]
        self.optimiser: torch.optim.Optimizer = torch.optim.RMSprop(groups, alpha=0.99, eps=config.adam_eps)
        self.played = onpolicy.Mean()
        """Signs of acting since the last update."""

    # ------------------------------------------------------------------------------------------------- acting

    def memories(self, envs_per_seed: int) -> State:
        return offpolicy.memories(self.config, self.actors.blank(envs_per_seed))

    def __call__(self, step: envs.Step, start: Tensor, memory: Any, uniform: Tensor | None) -> tuple[Tensor, Any]:
        h, last = (None, None) if memory is None else (memory[0], memory[1].masked_fill(start.unsqueeze(-1), -1))
        action, h = self.actors(step._replace(obs=self.sight(step.obs, last)), start, h, uniform)
        return action, (h, action)

    def sight(self, obs: Tensor, last: Tensor | None) -> Tensor:
        """See `offpolicy.sight`."""
        return offpolicy.sight(self.config, self.spec, obs, last)

    def act(self, now: dict[str, Any], uniform: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """Actions `[S, E, N]` and their log-probabilities; see `offpolicy.collect`."""
        step, start = now["step"], now["start"]
        available = step.available.unflatten(0, start.shape)
        log_probs, now["memory"] = self.actors.step(
            self.actors.observe(self.sight(step.obs, now.get("last"))), available, start, now["memory"]
        )
        more = self.bonus(step, available)
        if more is not None:
            log_probs = masked_log_softmax(log_probs + more, available)
        log_probs = keep_floor(log_probs, available, epsilon)
        action = choose(log_probs, uniform)
        return action, taken(log_probs, action)

    # ----------------------------------------------------------------------------------------------- learning

    def learn(self, data: State, index: int) -> State:
        """Critic steps on batches of new and old pieces, then a step of the actors; returns mean diagnostics `[S]`."""
        config, metrics = self.config, onpolicy.Mean()
        self.replay.store(data, index)
        epsilon = config.epsilon(index)
        slots = config.rollout + 1  # the last one never holds a step
        parts = [slice(slots)] if config.schedule == "batch" else [slice(t, t + 1) for t in range(slots)]
        for number in range(config.epochs):
            on = self.replay.sample(index, "new pieces", number, config.on_batch, config.on_capacity)
            off = self.replay.sample(index, "old pieces", number, config.off_batch, config.capacity)
            b = join(on, off)
            target, signs = self.aims(b, epsilon)
            for place, part in enumerate(parts):
                b_part = {name: x[:, part] for name, x in b.items() if name in CRITIC}
                if not bool(b_part["filled"].any()):
                    continue
                metrics.add(signs | self.critic_step(b_part, target[:, part]))
                steps = ((index - 1) * config.epochs + number) * len(parts) + place + 1
                if steps % config.target_every == 0:
                    self.targets.load_state_dict(self.judges.state_dict())
        signs = self.actor_step(self.replay.latest(index, config.on_batch), off, epsilon)
        played, self.played = self.played.result(), onpolicy.Mean()
        return metrics.result() | signs | played

    def judge(self, judges: nn.ModuleList, obs: Tensor, state: Tensor) -> Judged:
        """What critics and mixer say about `obs [S, T, B, N, O]`, `state [S, T, B, state_size]`."""
        weight, bias = judges[1](state)
        return Judged(judges[0](obs, state), weight, bias)

    def policy(self, b: State, epsilon: float) -> Tensor:
        """Log-probabilities `[S, T, B, N, A]` of the actors, with the floor that they explore with."""
        seen = self.sight(b["obs"].flatten(0, 2), b.get("last"))
        seen = self.actors.observe(seen).unflatten(1, b["start"].shape[1:])
        log_probs = self.actors.log_probs(seen, b["available"], b["memory"], b["start"])
        return keep_floor(log_probs, b["available"], epsilon)

    @torch.no_grad()
    def aims(self, b: State, epsilon: float) -> tuple[Tensor, State]:
        """Targets `[S, T, B]` of a batch whose first `on_batch` pieces are new ones, and diagnostics `[S]`."""
        config = self.config
        log_probs = self.policy(b, epsilon)
        judged = self.judge(self.targets, b["obs"], b["state"])
        q = judged.members.mean(1)  # [S, A, T, B, N]
        k, signs = self.k(judged.members)
        weighted = q if k is None else q * k
        chosen = b["action"].unsqueeze(1)

        def mix(values: Tensor) -> Tensor:
            return (judged.weight * values).sum(-1) + judged.bias

        base = mix(q.gather(1, chosen).squeeze(1))
        played = base if k is None else mix(weighted.gather(1, chosen).squeeze(1))
        mean = mix((log_probs.exp().movedim(-1, 1) * weighted).sum(1))
        new = (slice(None), slice(None), slice(None, config.on_batch))
        old = (slice(None), slice(None), slice(config.on_batch, None))
        facts = [b[name] for name in ("reward", "done", "filled")]
        young = [x[new] for x in (*facts, played, mean)]
        first = lambda_return(*young, gamma=config.gamma, lam=config.td_lambda)
        log_prob = taken(log_probs, b["action"]).sum(-1)  # of the joint action
        if config.off_target == "retrace":
            log_prob = (log_prob - b["log_prob"].sum(-1)).clamp(max=0.0)
        trace = config.tb_lambda * log_prob.exp()
        aged = [x[old] for x in (*facts, base, mean, trace)]
        second = expected_return(*aged, gamma=config.gamma, depth=config.depth)
        return torch.cat([first, second], 2), signs

    def critic_step(self, b: State, target: Tensor) -> State:
        """One step of critics and mixer towards `target [S, T, B]`; returns diagnostics `[S]`."""
        config = self.config
        judged = self.judge(self.judges, b["obs"], b["state"])
        q = judged.members.mean(1).gather(1, b["action"].unsqueeze(1)).squeeze(1)
        total = (judged.weight * q).sum(-1) + judged.bias
        error, split = (total - target).square(), [config.on_batch, config.off_batch]
        new, old = (filled_mean(e, f) for e, f in zip(error.split(split, 2), b["filled"].split(split, 2), strict=True))
        loss = config.on_weight * new + (1 - config.on_weight) * old
        more, signs = self.diversity(judged.members, b["available"], b["filled"])
        self.optimiser.zero_grad()
        (loss if more is None else loss - more).sum().backward()
        norm = stacked.clip_grad_norm_(self.judges, config.max_grad_norm, len(config.seeds))
        self.optimiser.step()
        return {"new_loss": new.detach(), "old_loss": old.detach(), "critic_grad_norm": norm, **signs}

    def actor_step(self, new: State, old: State, epsilon: float) -> State:
        """One step of the actors (Eq 12; nu = 0 is DOP); returns diagnostics `[S]`."""
        config, nu = self.config, self.off_actor
        log_probs = self.policy(new, epsilon)
        with torch.no_grad():
            share, q = self.shares(new)
        gain = on_policy_gain(log_probs, new["action"], share, q)
        loss = -filled_mean(gain, new["filled"])
        if nu > 0:
            with torch.no_grad():
                share, q = self.shares(old)
            expected = (share * (self.policy(old, epsilon).exp() * q).sum(-1)).mean(-1)
            loss = (1 - nu) * loss - nu * filled_mean(expected, old["filled"])
        self.optimiser.zero_grad()
        loss.sum().backward()
        norm = stacked.clip_grad_norm_(self.actors.network, config.max_grad_norm, len(config.seeds))
        self.optimiser.step()
        return {"entropy": onpolicy.entropy(log_probs.detach()), "actor_grad_norm": norm, "actor_loss": loss.detach()}

    def shares(self, b: State) -> tuple[Tensor, Tensor]:
        """lambda `[S, T, B, N]` and the agents' values `[S, T, B, N, A]`."""
        judged = self.judge(self.judges, b["obs"], b["state"])
        return judged.weight, judged.members.mean(1).movedim(1, -1)

    # ------------------------------------------------------------------------- what Ensemble-MIX puts in between

    def bonus(self, step: envs.Step, available: Tensor) -> Tensor | None:
        """What is added to the logits of the playing actors, `[S, E, N, A]`."""
        return None

    def k(self, members: Tensor) -> tuple[Tensor | None, State]:
        """Factors `[S, A, T, B, N]` of the values that are bootstrapped from, of the members' `[S, M, A, T, B, N]`."""
        return None, {}

    def diversity(self, members: Tensor, available: Tensor, filled: Tensor) -> tuple[Tensor | None, State]:
        """What is subtracted from the critics' loss, `[S]`."""
        return None, {}


def on_policy_gain(log_probs: Tensor, action: Tensor, share: Tensor, q: Tensor) -> Tensor:
    """What the on-policy part of the actors' gradient ascends (Eqs 4 and 5), mean over agents: `[S, T, B]`.

    lambda_i (Q_i(a_i) - sum_x pi_i(x) Q_i(x)) log pi_i(a_i), where only the last factor moves.

    Args:
        log_probs: `[S, T, B, N, A]`.
        action: `[S, T, B, N]`.
        share: `[S, T, B, N]` lambda_i.
        q: `[S, T, B, N, A]` Q_i.
    """
    advantage = share * (taken(q, action) - (log_probs.detach().exp() * q).sum(-1))
    return (advantage * taken(log_probs, action)).mean(-1)


def train(config: Config, device: str = "cpu", state: State | None = None) -> Iterator[Evaluation]:
    """Train all seeds side by side, yielding one `Evaluation` after another; see `offpolicy.train`."""
    return offpolicy.train(Learner, config, device, state)


def restore(config: Config, parameters: State, device: str = "cpu") -> Player:
    """The deployed policy of all seeds, from the actor parameters that a run saved."""
    return offpolicy.restore(Learner, config, parameters, device, on_capacity=1, on_batch=1)
