# MAPPO, page by page: book/magpo/mappo.md
"""Multi-agent PPO (Yu et al. 2022): decentralised actors, one critic on the global state, all seeds in one program.

The settings, losses and evaluation protocol are those of the MAGPO paper's MAPPO baseline (its Tables 3 and 6 and the
authors' code); where text and code differ, both readings are options of `Config`.
Letters in the shape comments: S seed, E environment, N agent, A action, T time, C columns (pieces of trajectories that
are shuffled as a whole), c steps in a column, G stack (S with shared parameters, S * N with separate ones).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from inconcert import envs, stacked
from inconcert.config import InputError, unknown
from inconcert.evaluate import Evaluation, Mode, Phase, State, check_finite, choose, masked_log_softmax, play


@dataclass(frozen=True)
class Config:
    """Everything a MAPPO run depends on. Defaults are the MAGPO authors' MAPPO (params.csv, mava's yaml files)."""

    task: str = "coordsum/3x10-30"
    """Environment, as `inconcert.make` names it."""
    env_options: dict[str, str | bool | int | float] = field(default_factory=dict)
    """Options of the environment (named readings of its rules)."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Independent runs, trained side by side in one batched program."""
    network: Literal["gru", "mlp"] = "gru"
    """gru: layer, GRU, layer, head (paper Table 3: one recurrent layer of 128); mlp: the same without the GRU."""
    parameters: Literal["shared", "separate"] = "shared"
    """One actor for all agents, told apart by a one-hot id (paper Table 3), or an actor for each agent."""
    hidden: int = 128
    """Units of every hidden layer (paper Table 3: [128, 128], recurrent 128)."""
    num_envs: int = 128
    """Parallel environments per seed (authors: num_envs 64 x update_batch_size 2)."""
    rollout: int = 128
    """Steps collected per environment and update (paper Table 3: rollout length)."""
    updates: int = 1220
    """Collect-and-learn rounds (authors' num_updates; 1220 x 128 x 128 = 20 M environment steps)."""
    epochs: int = 8
    """Passes over each rollout (paper Table 6: PPO epochs)."""
    minibatches: int = 8
    """Gradient steps per pass (paper Table 6: number of minibatches)."""
    chunk: int = 0
    """Steps the GRU is unrolled for in training, 0 for the whole rollout (paper Table 6: recurrent chunk size)."""
    actor_lr: float = 5e-4
    """Policy learning rate (paper Table 6)."""
    critic_lr: float = 5e-4
    """Value learning rate (paper Table 6)."""
    decay_lr: bool = False
    """Learning rates fall linearly to 0 over all updates (authors' decay_learning_rates, False)."""
    adam_eps: float = 1e-5
    """Adam's epsilon (authors' code)."""
    clip: float = 0.1
    """epsilon of the policy ratio and of the value change (paper Table 6: PPO clip)."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus (paper Table 6)."""
    vf_coef: float = 0.5
    """Weight of the value loss (authors' code 0.5; paper Table 3 says 0.1; with an optimiser of its own, Adam makes it
    matter only through the clipping of gradients)."""
    gamma: float = 0.99
    """Discount (paper Table 3)."""
    gae_lambda: float = 0.95
    """lambda of generalised advantage estimation (authors' code 0.95; paper Table 3 says 0.9)."""
    max_grad_norm: float = 5.0
    """Per-seed global norm that actor and critic gradients are each clipped to (paper Table 6)."""
    bootstrap_time_limit: bool = True
    """At a time limit bootstrap from the value of the final state; False treats it as terminal (authors' code)."""
    eval_every: int = 10
    """Updates between evaluations (authors: 122 evaluations)."""
    eval_episodes: int = 32
    """Episodes per evaluation and seed (paper section 5)."""
    final_episodes: int = 320
    """Episodes of the closing evaluations, best and last parameters (Gorsane et al. 2022: 10x)."""
    eval_modes: tuple[Mode, ...] = ("sampled", "greedy")
    """Actions of the evaluated policy; the first mode chooses the best parameters (authors: sampled)."""
    eval_point: Literal["after", "before"] = "after"
    """after: a point shows the parameters that its number of steps has trained. before: those from before the window
    just trained, and the last ones never (authors' code: curves start at the untrained policy)."""

    def __post_init__(self) -> None:
        columns = self.num_envs * (self.rollout if self.network == "mlp" else self.rollout // self.steps_per_column)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise InputError(f"seeds must be distinct and at least one, not {self.seeds}")
        if self.rollout % self.steps_per_column:
            raise InputError(f"chunk must divide the rollout of {self.rollout} steps, not {self.chunk}")
        if columns % self.minibatches:
            raise InputError(f"minibatches must divide the {columns} columns of a rollout, not {self.minibatches}")
        if not self.eval_modes:
            raise InputError("eval_modes needs at least one of: sampled, greedy")

    @property
    def steps_per_column(self) -> int:
        """c: a feed-forward network shuffles single steps, a recurrent one chunks of consecutive steps."""
        return 1 if self.network == "mlp" else self.chunk or self.rollout

    @property
    def steps_per_update(self) -> int:
        """Environment steps per seed that one update consumes."""
        return self.num_envs * self.rollout


# ---------------------------------------------------------------------------------------------------------- settings

PAPER: dict[str, dict[str, Any]] = {  # the authors' tuned rows (params.csv, system mappo)
    "coordsum/3x10-30": {"minibatches": 8, "max_grad_norm": 5.0, "clip": 0.05, "ent_coef": 1e-5},
    "coordsum/3x30-50": {"minibatches": 8, "max_grad_norm": 5.0, "clip": 0.1, "ent_coef": 0.0},
    "coordsum/5x20-80": {
        "minibatches": 4, "max_grad_norm": 10.0, "clip": 0.1, "ent_coef": 0.01, "actor_lr": 2.5e-4, "critic_lr": 2.5e-4,
    },
    "coordsum/8x15-100": {"minibatches": 4, "max_grad_norm": 10.0, "clip": 0.1, "ent_coef": 1e-5},
}  # fmt: skip
LAPTOP: dict[str, Any] = {
    "network": "mlp", "num_envs": 32, "rollout": 100, "updates": 600, "epochs": 4, "minibatches": 8, "clip": 0.2,
    "actor_lr": 1e-3, "critic_lr": 1e-3, "decay_lr": True, "ent_coef": 1e-4, "gae_lambda": 0.25, "max_grad_norm": 10.0,
    "eval_every": 12,
}  # fmt: skip
"""One setting for all CoordSum tasks, 1.9 M steps per seed: fewer parallel environments and no recurrence; a small
lambda, because the next targets do not depend on the actions, so that later errors mostly add noise to the advantage;
decaying learning rates, because at 1e-3 to the end the policy overshoots and loses what it had."""
SMOKE: dict[str, Any] = {
    **LAPTOP, "seeds": (0, 1), "num_envs": 8, "updates": 6, "eval_every": 2, "eval_episodes": 8, "final_episodes": 16,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "clamped": {"env_options": {"guess": "clamped", "observe_step": False}},
}
"""Named departures from a tier's setting; `clamped` is the environment as the MAGPO authors coded it."""


def configure(task: str, tier: str, variant: str = "", **changes: Any) -> Config:
    """The setting of a tier ("smoke", "laptop", "paper") for a task, a named variant, and single changes on top."""
    tiers = {"smoke": SMOKE, "laptop": LAPTOP, "paper": {"seeds": tuple(range(10)), **PAPER.get(task, {})}}
    if tier not in tiers:
        raise unknown("tier", tier, tiers)
    return Config(**{"task": task, **tiers[tier], **VARIANTS.get(variant, {}), **changes})


# ---------------------------------------------------------------------------------------------------------- networks


class Network(nn.Module):
    """Layer, GRU (or none), layer, head, for G independent members: `[G, c, B, inputs] -> [G, c, B, outputs]`."""

    def __init__(self, inputs: int, outputs: int, config: Config, streams: stacked.Generators, gain: float) -> None:
        super().__init__()
        self.inner = stacked.Linear(inputs, config.hidden, streams)
        self.core = stacked.GRU(config.hidden, config.hidden, streams) if config.network == "gru" else None
        self.outer = stacked.Linear(config.hidden, config.hidden, streams)
        self.head = stacked.Linear(config.hidden, outputs, streams, gain)
        self.memory = config.hidden if self.core else 0  # H, size of the hidden state

    def forward(self, x: Tensor, h: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and hidden states `[G, c, B, H]` of a sequence from `h [G, B, H]`; `start [G, c, B]` resets it."""
        x = self.inner(x).relu()
        hidden = h.unsqueeze(1).expand(-1, x.shape[1], -1, -1)
        if self.core is not None:
            hidden = x = self.core(x, h, start)
        return self.head(self.outer(x).relu()), hidden

    def step(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """One step without gradients: `[G, B, inputs]`, `h [G, B, H]` already reset -> outputs and the next h."""
        x = self.inner(x).relu()
        if self.core is not None:
            h = x = self.core.step(x, h)
        return self.head(self.outer(x).relu()), h


class Agents:
    """The actors and the critic of all seeds, and how agents map onto the stack axis."""

    def __init__(self, config: Config, spec: envs.Spec, device: str) -> None:
        self.config, self.spec, self.device = config, spec, device
        self.seeds, self.shared = len(config.seeds), config.parameters == "shared"
        self.obs_size = spec.obs_size + (spec.num_agents if self.shared else 0)
        copies = 1 if self.shared else spec.num_agents
        actor_streams = stacked.generators((stacked.derive(seed, "actor") for seed in config.seeds), copies)
        critic_streams = stacked.generators(stacked.derive(seed, "critic") for seed in config.seeds)
        self.actor = Network(self.obs_size, spec.num_actions, config, actor_streams, gain=0.01).to(device)
        self.critic = Network(spec.state_size, 1, config, critic_streams, gain=1.0).to(device)
        self.ids = torch.eye(spec.num_agents, device=device)

    def observe(self, obs: Tensor) -> Tensor:
        """`[S * E, N, O] -> [S, E, N, inputs]`: a shared actor is told whose observation it sees."""
        obs = obs.unflatten(0, (self.seeds, -1))
        if not self.shared:
            return obs
        return torch.cat([self.ids.expand(*obs.shape[:2], -1, -1), obs], dim=-1)

    def stack(self, x: Tensor) -> Tensor:
        """`[S, ..., B, N, F] -> [G, ..., B', F]`: agents become rows of a shared actor or members of the stack."""
        return x.flatten(-3, -2) if self.shared else x.movedim(-2, 1).flatten(0, 1)

    def unstack(self, x: Tensor) -> Tensor:
        """Inverse of `stack`."""
        if self.shared:
            return x.unflatten(-2, (-1, self.spec.num_agents))
        return x.unflatten(0, (self.seeds, self.spec.num_agents)).movedim(1, -2)

    def act(
        self, obs: Tensor, available: Tensor, start: Tensor, h: Tensor, uniform: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions and their log-probabilities `[S, E, N]` and the next hidden state `[S, E, N, H]`."""
        if self.actor.memory:
            h = h * (~start).to(h.dtype)[..., None, None]
        logits, h = self.actor.step(self.stack(obs), self.stack(h))
        log_probs = masked_log_softmax(self.unstack(logits), available)
        action = choose(log_probs, uniform)
        return action, log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1), self.unstack(h)

    def blank(self, envs_per_seed: int) -> Tensor:
        """Hidden state `[S, E, N, H]` at the start of an episode."""
        return torch.zeros(self.seeds, envs_per_seed, self.spec.num_agents, self.actor.memory, device=self.device)

    def __call__(
        self, step: envs.Step, start: Tensor, memory: Tensor | None, uniform: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The deployed policy as a `Player`: each agent sees its own observations only."""
        h = self.blank(start.shape[1]) if memory is None else memory
        available = step.available.unflatten(0, (self.seeds, -1))
        action, _, h = self.act(self.observe(step.obs), available, start, h, uniform)
        return action, h


# ------------------------------------------------------------------------------------------------------------ losses


def advantages(
    reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, ended: Tensor, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2015b, Eq 16).

    Args:
        reward: `[S, T, E, N]`.
        value: `[S, T, E]` V(s_t), the same for all agents.
        next_value: `[S, T, E]` value of the state each step led to: the final state where the episode was cut off.
        terminated: `[S, T, E]` the episode ended for good: nothing is bootstrapped.
        ended: `[S, T, E]` terminated or cut off: the sum over later errors stops.

    Returns:
        `[S, T, E, N]`.
    """
    delta = reward + (gamma * next_value * ~terminated - value).unsqueeze(-1)
    carry = (gamma * lam * ~ended).unsqueeze(-1)
    result = torch.empty_like(delta)
    running = torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        running = torch.addcmul(delta[:, t], carry[:, t], running, out=result[:, t])
    return result


def normalise(advantage: Tensor) -> Tensor:
    """Zero mean and unit standard deviation per seed over the whole minibatch `[S, ...]` (paper Table 3)."""
    flat = advantage.flatten(1)
    flat = (flat - flat.mean(1, keepdim=True)) / (flat.std(1, correction=0, keepdim=True) + 1e-8)
    return flat.view_as(advantage)


def clipped_surrogate(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's clipped policy loss per seed (Schulman et al. 2017, Eq 7), to minimise: `[S, ...] -> [S]`."""
    ratio = (log_prob - old_log_prob).exp()
    return -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).flatten(1).mean(1)


def clipped_value_error(value: Tensor, old_value: Tensor, target: Tensor, clip: float) -> Tensor:
    """Half the squared error, the larger of the plain and the clipped value's (authors' code): `[S, ...] -> [S]`.

    `value`, `old_value` broadcast against the agents' axis of `target`.
    """
    clipped = old_value + (value - old_value).clamp(-clip, clip)
    return 0.5 * torch.max((value - target).square(), (clipped - target).square()).flatten(1).mean(1)


def entropy(log_probs: Tensor) -> Tensor:
    """Mean entropy in nats per seed: `[S, ..., A] -> [S]`; actions of probability 0 count 0."""
    terms = log_probs.exp() * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)
    return -terms.sum(-1).flatten(1).mean(1)


# ------------------------------------------------------------------------------------------------------------ update


@torch.no_grad()
def collect(config: Config, agents: Agents, env: envs.VectorEnv, now: dict[str, Any], update: int) -> State:
    """Play one rollout from `now` (step, start flags, hidden states), moving `now` on; tensors `[S, T, E, ...]`."""
    spec, shape = env.spec, (agents.seeds, config.rollout, config.num_envs)
    u = stacked.uniforms(config.seeds, "rollout", update, config.rollout, config.num_envs, spec.num_agents)
    u = u.to(agents.device)

    def empty(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(*shape, *sizes, dtype=dtype, device=agents.device)

    n = spec.num_agents
    data = {
        "obs": empty(n, agents.obs_size),
        "state": empty(spec.state_size),
        "final_state": empty(spec.state_size),
        "available": empty(n, spec.num_actions, dtype=torch.bool),
        "action": empty(n, dtype=torch.int64),
        "log_prob": empty(n),
        "reward": empty(n),
        "terminated": empty(dtype=torch.bool),
        "truncated": empty(dtype=torch.bool),
        "start": empty(dtype=torch.bool),
        "actor_memory": empty(n, agents.actor.memory),
    }
    for t in range(config.rollout):
        step, start, h = now["step"], now["start"], now["actor_memory"]
        obs, available = agents.observe(step.obs), step.available.unflatten(0, (agents.seeds, -1))
        action, log_prob, now["actor_memory"] = agents.act(obs, available, start, h, u[:, t])
        after = env.step(action.flatten(0, 1))
        row = {
            "obs": obs, "state": step.state, "final_state": after.final_state, "available": available, "action": action,
            "log_prob": log_prob, "reward": after.reward, "terminated": after.terminated,
            "truncated": after.truncated, "start": start, "actor_memory": h,
        }  # fmt: skip
        for name, value in row.items():
            data[name][:, t] = value.view_as(data[name][:, t])
        now["step"], now["start"] = after, (after.terminated | after.truncated).view(agents.seeds, -1)
    return data


@torch.no_grad()
def appraise(config: Config, agents: Agents, data: State, now: dict[str, Any]) -> None:
    """Add values, advantages, value targets and the critic's hidden states to the rollout `data`."""
    state, start, critic = data["state"], data["start"], agents.critic
    value, hidden = critic(state, now["critic_memory"], start)  # [S, T, E, 1], [S, T, E, H]
    data["critic_memory"] = torch.cat([now["critic_memory"].unsqueeze(1), hidden[:, :-1]], dim=1)
    now["critic_memory"] = hidden[:, -1]
    value = value.squeeze(-1)
    resumed = hidden[:, -1] * (~now["start"]).to(hidden.dtype).unsqueeze(-1)
    last = critic.step(now["step"].state.view_as(state[:, 0]), resumed)[0].squeeze(-1)
    next_value = torch.cat([value[:, 1:], last.unsqueeze(1)], dim=1)
    terminated, truncated = data["terminated"], data["truncated"]
    if not config.bootstrap_time_limit:
        terminated = terminated | truncated
    elif bool(truncated.any()):  # the state after a cut-off episode's last one belongs to the next episode
        final = critic.step(data["final_state"].flatten(1, 2), hidden.flatten(1, 2))[0].view_as(value)
        next_value = torch.where(truncated, final, next_value)
    ended = data["terminated"] | truncated
    gae = advantages(data["reward"], value, next_value, terminated, ended, config.gamma, config.gae_lambda)
    data.update(value=value, advantage=gae, target=gae + value.unsqueeze(-1))


def columns(x: Tensor, length: int) -> Tensor:
    """Cut `[S, T, E, ...]` into consecutive pieces of `length` steps: `[S, c, C, ...]` with C = T / c * E."""
    return x.unflatten(1, (-1, length)).transpose(1, 2).flatten(2, 3)


BATCH = (
    "obs", "state", "available", "action", "log_prob", "start", "value", "advantage", "target", "actor_memory",
    "critic_memory",
)  # fmt: skip
"""What a minibatch holds of a rollout."""


def learn(config: Config, agents: Agents, optimiser: torch.optim.Optimizer, data: State, update: int) -> State:
    """Epochs of minibatches over one rollout; returns the mean diagnostics `[S]`."""
    length = config.steps_per_column
    data = {name: columns(data[name], length) for name in BATCH}
    for name in ("actor_memory", "critic_memory"):
        data[name] = data[name][:, 0]  # the state a column starts from, [S, C, ...]
    size = data["action"].shape[2]
    order = stacked.permutations(config.seeds, "minibatches", update, config.epochs, size).to(agents.device)
    sums: State = {}
    for batch in order.unflatten(-1, (config.minibatches, -1)).flatten(1, 2).unbind(1):  # [S, C / minibatches]
        rows = torch.arange(agents.seeds, device=agents.device).unsqueeze(1)
        steps = torch.arange(length, device=agents.device).view(1, -1, 1)
        b = {
            name: x[rows, batch] if name.endswith("memory") else x[rows.unsqueeze(1), steps, batch.unsqueeze(1)]
            for name, x in data.items()
        }
        metrics = gradients(config, agents, b)
        metrics["actor_grad_norm"] = stacked.clip_grad_norm_(agents.actor, config.max_grad_norm, agents.seeds)
        metrics["critic_grad_norm"] = stacked.clip_grad_norm_(agents.critic, config.max_grad_norm, agents.seeds)
        optimiser.step()
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0) + value / (config.epochs * config.minibatches)
    check_finite(sums, config.seeds, update)
    return sums


def gradients(config: Config, agents: Agents, b: State) -> State:
    """Backpropagate the loss of one minibatch `[S, c, m, ...]`; returns diagnostics `[S]`."""
    start = b["start"].unsqueeze(-1).expand(b["action"].shape)  # [S, c, m, N]
    logits, _ = agents.actor(
        agents.stack(b["obs"]), agents.stack(b["actor_memory"]), agents.stack(start.unsqueeze(-1)).squeeze(-1)
    )
    log_probs = masked_log_softmax(agents.unstack(logits), b["available"])
    log_prob = log_probs.gather(-1, b["action"].unsqueeze(-1)).squeeze(-1)
    value, _ = agents.critic(b["state"], b["critic_memory"], b["start"])
    policy_loss = clipped_surrogate(log_prob, b["log_prob"], normalise(b["advantage"]), config.clip)
    value_loss = clipped_value_error(value, b["value"].unsqueeze(-1), b["target"], config.clip)
    bonus = entropy(log_probs)
    agents.actor.zero_grad()
    agents.critic.zero_grad()
    # seeds share no parameter, so the sum over seeds gives each its own gradient
    (policy_loss - config.ent_coef * bonus + config.vf_coef * value_loss).sum().backward()
    with torch.no_grad():
        change = log_prob - b["log_prob"]
        return {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": bonus.detach(),
            "kl": (change.exp() - 1 - change).flatten(1).mean(1),
            "clipped": ((change.exp() - 1).abs() > config.clip).float().flatten(1).mean(1),
        }


# ------------------------------------------------------------------------------------------------------------- train


def train(config: Config, device: str = "cpu", state: State | None = None) -> Iterator[Evaluation]:
    """Train all seeds of `config` side by side, yielding one `Evaluation` after another.

    Args:
        config: the whole setting.
        device: where to compute, "cpu" or "cuda".
        state: `Evaluation.state()` of an earlier run of the same config, to continue after that evaluation.

    Raises:
        Diverged: a loss is not finite.
        InputError: the task or an option does not exist.
    """
    env_seeds = [stacked.derive(seed, "training environment") for seed in config.seeds]
    env = envs.make(config.task, config.num_envs, env_seeds, device, **config.env_options)
    agents = Agents(config, env.spec, device)
    actor, critic = agents.actor, agents.critic
    rates = (config.actor_lr, config.critic_lr)
    groups = [{"params": network.parameters()} for network in (actor, critic)]
    optimiser = torch.optim.Adam(groups, eps=config.adam_eps, fused=True)
    now: dict[str, Any] = {
        "step": env.reset(),
        "start": torch.ones(agents.seeds, config.num_envs, dtype=torch.bool, device=device),
        "actor_memory": agents.blank(config.num_envs),
        "critic_memory": torch.zeros(agents.seeds, config.num_envs, critic.memory, device=device),
    }
    update = 0
    best = {name: value.clone() for name, value in actor.state_dict().items()}
    best_score = torch.full((agents.seeds,), -torch.inf, device=device)
    best_update = torch.zeros(agents.seeds, dtype=torch.int64, device=device)

    def snapshot() -> State:
        parts: dict[str, dict[str, Tensor]] = {
            "actor": actor.state_dict(), "critic": critic.state_dict(), "env": env.state_dict(), "best": best,
            "optimiser": stacked.optimiser_state(optimiser),
            "now": {name: value for name, value in now.items() if name != "step"},
            "run": {"update": torch.tensor(update), "best_score": best_score, "best_update": best_update},
        }  # fmt: skip
        return {f"{part}.{name}": value.clone() for part, tensors in parts.items() for name, value in tensors.items()}

    def assess(phase: Phase, label: int, episodes: int, metrics: State) -> Evaluation:
        outcomes: dict[Mode, dict[str, Tensor]] = {
            mode: play(agents, config.task, config.env_options, config.seeds, episodes, phase, label, mode, device)
            for mode in config.eval_modes
        }
        return Evaluation(label, label * config.steps_per_update, phase, outcomes, metrics, snapshot)

    def remember(evaluation: Evaluation, trained: int) -> None:
        """Keep the parameters of the best evaluation so far; among equals the later ones (authors' code)."""
        nonlocal best, best_score, best_update
        score = evaluation.outcomes[config.eval_modes[0]][env.spec.metric].mean(1).to(device)
        better = score >= best_score
        best = stacked.pick(better, actor.state_dict(), best)
        best_score = torch.where(better, score, best_score)
        best_update = torch.where(better, trained, best_update)

    if state is not None:
        part = {
            name: {
                key.partition(".")[2]: value.to(device) for key, value in state.items() if key.startswith(f"{name}.")
            }
            for name in ("actor", "critic", "env", "best", "optimiser", "now", "run")
        }
        actor.load_state_dict(part["actor"])
        critic.load_state_dict(part["critic"])
        stacked.load_optimiser_state(optimiser, part["optimiser"])
        env.load_state_dict(part["env"])
        now.update(part["now"], step=env.observe())
        best, update = part["best"], int(part["run"]["update"])
        best_score, best_update = part["run"]["best_score"], part["run"]["best_update"]
    elif config.eval_point == "after":
        first = assess("curve", 0, config.eval_episodes, {})
        remember(first, 0)
        yield first

    while update < config.updates:
        earlier = {name: value.clone() for name, value in actor.state_dict().items()}
        window = min(config.eval_every, config.updates - update)
        metrics: State = {}
        for _ in range(window):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * (1 - update / config.updates if config.decay_lr else 1)
            update += 1
            data = collect(config, agents, env, now, update)
            appraise(config, agents, data, now)
            for name, value in learn(config, agents, optimiser, data, update).items():
                metrics[name] = metrics.get(name, torch.zeros_like(value)) + value / window
        later = {name: value.clone() for name, value in actor.state_dict().items()}
        if config.eval_point == "before":
            actor.load_state_dict(earlier)
        evaluation = assess("curve", update, config.eval_episodes, metrics)
        remember(evaluation, update if config.eval_point == "after" else update - window)
        actor.load_state_dict(later)
        yield evaluation

    last = {name: value.clone() for name, value in actor.state_dict().items()}
    closing: tuple[tuple[Phase, State], ...] = (("best", best), ("last", last))
    for phase, parameters in closing:
        actor.load_state_dict(parameters)
        yield assess(phase, update, config.final_episodes, {})


def restore(config: Config, parameters: State, device: str = "cpu") -> Agents:
    """The deployed policy of all seeds, from the actor parameters that a run saved."""
    agents = Agents(config, envs.make(config.task, 1, 0, device, **config.env_options).spec, device)
    agents.actor.load_state_dict(parameters)
    return agents
