"""What the algorithms with a replay share: settings, pieces of trajectories, the memory they lie in, the loop.

A piece is `rollout` consecutive steps of one environment and what is needed to bootstrap from them. It has T =
rollout + 2 slots: the steps in order, after a step that a time limit cut off the situation that it led to, and at the
end the situation that follows the last step. A slot without a step is not `filled`: values are taken from it, and
nothing is learnt in it. So the slot after a step always holds what the step led to, unless the episode ended for good.

Letters in the shape comments: S seed, E environment, N agent, A action, T slot, C capacity in pieces, B piece of a
batch.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from inconcert import envs, onpolicy, stacked
from inconcert.actors import Core
from inconcert.config import InputError
from inconcert.evaluate import Evaluation, Player, State, play


@dataclass(frozen=True)
class Config(onpolicy.Config):
    """The settings of every algorithm with a replay. Defaults: DOP's code (facts of the Ensemble-MIX chapter).

    What belongs to PPO has no use here and stays as it is: clip, ent_coef, vf_coef, gae_lambda, minibatches and
    judge_time_limit.
    """

    num_envs: int = 4
    """Parallel environments per seed, and so pieces that an update adds (DOP: 4)."""
    rollout: int = 100
    """Steps of a piece, at most those of an episode (DOP: whole episodes)."""
    updates: int = 25_000
    """Collect-and-learn rounds (25 000 x 4 x 100 = 10 M environment steps, as DOP)."""
    epochs: int = 1
    """Batches that the critic learns from in each update."""
    minibatches: int = 1
    adam_eps: float = 1e-5
    """RMSprop's epsilon (DOP's code)."""
    max_grad_norm: float = 20.0
    """Per-seed global norm that gradients are clipped to, actors and critics each for themselves (DOP's code)."""
    eval_every: int = 50
    eval_episodes: int = 24
    """Episodes per evaluation and seed (Ensemble-MIX paper, Table 1: U)."""
    final_episodes: int = 240
    capacity: int = 5000
    """Pieces that are remembered per seed; the oldest are overwritten (Ensemble-MIX paper, Table 1: N_2 = 5000)."""
    off_batch: int = 32
    """Pieces per seed in an off-policy batch, drawn from all that are remembered (DOP's code)."""
    epsilon_start: float = 0.5
    """Exploration at the beginning (DOP's code)."""
    epsilon_end: float = 0.05
    """Exploration from `epsilon_steps` on (DOP's code)."""
    epsilon_steps: int = 500_000
    """Environment steps per seed over which exploration falls linearly (DOP's code)."""
    target_every: int = 600
    """Critic steps between two copies to the target networks (DOP's code)."""
    network: Core = "gru"
    """Of the agents, which share it, told apart by a one-hot id. gru: layer, GRU, layer, head; mlp: no GRU."""
    hidden: int = 64
    """Units of every hidden layer of the agents (DOP's code)."""
    last_action: bool = False
    """Agents also see their own last action, one-hot (DOP's and PyMARL's code)."""
    also: dict[str, dict[str, str | bool | int | float]] = field(default_factory=dict)
    """Options of the environment that every evaluation is repeated under, by the name that a record has them under."""
    reward_scale: float = 1.0
    """Factor of the rewards that are learnt from; evaluations and records have the world's own."""
    memory_gb: float = 16.0
    """The replay of all seeds may take so many GB, and never more than the machine has."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("clip", "ent_coef", "vf_coef", "gae_lambda", "minibatches", "judge_time_limit"):
            if getattr(self, name) != getattr(type(self), name):
                raise InputError(
                    f"{name} has no use in an algorithm with a replay; leave it at {getattr(Config, name)}"
                )
        if self.capacity < self.num_envs or self.capacity % self.num_envs:
            raise InputError(f"capacity must be a multiple of num_envs = {self.num_envs}, not {self.capacity}")
        if self.also and self.eval_point != "after":
            raise InputError("also needs eval_point 'after': it is evaluated with the parameters just trained")
        for name in ("off_batch", "epochs", "target_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.epsilon_end <= self.epsilon_start <= 1:
            raise InputError(
                f"exploration must fall within 0 and 1, not go from {self.epsilon_start} to {self.epsilon_end}"
            )

    @property
    def steps_per_column(self) -> int:
        """A piece is the unit that is shuffled."""
        return self.rollout

    def seen(self, spec: envs.Spec) -> envs.Spec:
        """What the agents see of a task: its observations, and their last action where that is asked for."""
        return dataclasses.replace(spec, obs_size=spec.obs_size + spec.num_actions) if self.last_action else spec

    @property
    def agent_memory(self) -> int:
        """Size of an agent's hidden state, 0 for networks without memory."""
        return self.hidden if self.network == "gru" else 0

    def epsilon(self, update: int) -> float:
        """Exploration in the update number `update`, counted from 1."""
        done = min(1.0, (update - 1) * self.steps_per_update / max(1, self.epsilon_steps))
        return self.epsilon_start + done * (self.epsilon_end - self.epsilon_start)


BATTLE: dict[str, Any] = {"seeds": (0, 1, 2), "num_envs": 8, "reward_scale": 10.0}
LAPTOP_OF: dict[str, dict[str, Any]] = {
    "smax/3s_vs_5z": {**BATTLE, "updates": 2000, "eval_every": 200},
    "smax/7sz": {**BATTLE, "updates": 800, "eval_every": 80, "capacity": 400, "final_episodes": 160},
    "smax/27m_vs_30m": {
        **BATTLE, "updates": 300, "eval_every": 50, "capacity": 400, "eval_episodes": 16, "final_episodes": 96,
    },
    **{
        task: {**BATTLE, "updates": 3000, "eval_every": 300, "eval_episodes": 100, "final_episodes": 400}
        for task in ("smax/3s5z", "smax/5m_vs_6m", "smax/smacv2_5_units")
    },
    "two_corridors/3-7": {"updates": 4800, "eval_every": 160, "decay_lr": False},
}  # fmt: skip
"""Tasks with a laptop tier of their own, for all algorithms with a replay. Battles: more copies, because a step of many
is as dear as a step of few, rewards on SMAC's scale, and the fewer updates the larger they are. Two corridors: more
time, and steps that do not shrink, for the way changes at half of it."""


VARIANTS: dict[str, dict[str, Any]] = {
    "closed": {"updates": 2400, "env_options": {"corridor": "closed"}, "also": {}},
}
"""Variants of all algorithms with a replay. closed: of two corridors, who begins with the short one closed, for as long
as the others of the laptop tier have left when it closes."""


def tiers(
    build: Callable[..., Config],
    task: str,
    smoke: Mapping[str, Any],
    laptop: Mapping[str, Any],
    paper: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """The settings of the tiers for a task.

    Where the short corridor closes, it does so at half-time, and every policy is also judged behind the closed one.
    """
    named = {"smoke": dict(smoke), "laptop": {**laptop, **LAPTOP_OF.get(task, {})}, "paper": dict(paper)}
    if task.startswith("two_corridors/"):
        for fields in named.values():
            config = build(**fields)
            fields["env_options"] = {"closes_after": config.updates * config.steps_per_update // 2}
            fields["also"] = {"closed": {"corridor": "closed"}}
    return named


# ------------------------------------------------------------------------------------------------------------- replay

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Name -> shape of one piece, and type."""


def layout(config: Config, spec: envs.Spec) -> Layout:
    """What is remembered of a piece."""
    if config.rollout > spec.episode_limit:
        raise InputError(f"rollout must be at most the {spec.episode_limit} steps of an episode, not {config.rollout}")
    t, n = config.rollout + 2, spec.num_agents
    flag, number = torch.bool, torch.float32
    last: Layout = {"last": ((t, n), torch.int16)} if config.last_action else {}
    return last | {
        "obs": ((t, n, spec.obs_size), number), "state": ((t, spec.state_size), number),
        "available": ((t, n, spec.num_actions), flag), "action": ((t, n), torch.int16),
        "log_prob": ((t, n), number), "reward": ((t,), number), "done": ((t,), flag), "start": ((t,), flag),
        "filled": ((t,), flag), "memory": ((n, config.agent_memory), number),
    }  # fmt: skip


def replay_bytes(config: Config, spec: envs.Spec) -> int:
    """Size of the replay of all seeds."""
    piece = sum(math.prod(shape) * kind.itemsize for shape, kind in layout(config, spec).values())
    return len(config.seeds) * config.capacity * piece


def check_memory(config: Config, spec: envs.Spec) -> float:
    """Size of the replay of all seeds in GB.

    Raises:
        InputError: it does not fit; the text says what would.
    """
    size = replay_bytes(config, spec)
    limit = min(config.memory_gb * 1e9, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    if size > limit:
        fits = int(config.capacity * limit / size) // config.num_envs * config.num_envs
        raise InputError(
            f"a replay of {config.capacity} pieces for {len(config.seeds)} seeds takes {size / 1e9:.1f} GB, and "
            f"{limit / 1e9:.1f} may be used; capacity {fits} fits, or fewer seeds, or a larger "
            "memory_gb"
        )
    return size / 1e9


class Replay(nn.Module):
    """The last pieces of every seed, in tensors of fixed size `[S, C, ...]`.

    It is among the learner's networks, so that it is part of a checkpoint. Where a piece lies follows from the number
    of the update that played it; nothing is counted here.
    """

    def __init__(self, config: Config, spec: envs.Spec) -> None:
        super().__init__()
        self.config = config
        check_memory(config, spec)
        for name, (shape, kind) in layout(config, spec).items():
            self.register_buffer(name, torch.zeros(len(config.seeds), config.capacity, *shape, dtype=kind))
        self.rows = torch.arange(len(config.seeds)).unsqueeze(1)

    def stored(self, update: int) -> int:
        """Pieces per seed that are there after so many updates."""
        return min(update * self.config.num_envs, self.config.capacity)

    def store(self, data: State, update: int) -> None:
        """Put the pieces that `collect` returned in update number `update` in place of the oldest."""
        config = self.config
        first = (update - 1) * config.num_envs % config.capacity
        for name, buffer in self.named_buffers():
            value = data[name] if name == "memory" else data[name].transpose(1, 2)
            buffer[:, first : first + config.num_envs] = value

    def latest(self, update: int, count: int) -> State:
        """The newest `count` pieces (or all, where there are fewer), shaped as those of `sample`."""
        ages = torch.arange(min(count, self.stored(update)))
        return self._take(update, ages.expand(len(self.config.seeds), -1))

    def sample(self, update: int, purpose: str, round_: int, count: int, among: int) -> State:
        """Pieces drawn at random, with replacement, from the newest `among`.

        Returns:
            `[S, T, count, ...]`, and `memory` `[S, count, N, H]`.
        """
        config = self.config
        u = stacked.uniforms(config.seeds, purpose, update * config.epochs + round_, count)
        return self._take(update, (u * min(among, self.stored(update))).long())

    def _take(self, update: int, ages: Tensor) -> State:
        places = (update * self.config.num_envs - 1 - ages) % self.config.capacity  # [S, B]
        rows, places = (x.to(self.filled.device) for x in (self.rows, places))
        batch = {name: buffer[rows, places] for name, buffer in self.named_buffers()}
        for name in batch.keys() & {"action", "last"}:
            batch[name] = batch[name].long()
        return {name: x if name == "memory" else x.transpose(1, 2).contiguous() for name, x in batch.items()}

    filled: Tensor  # [S, C, T] bool, like the others of `layout`


def join(*batches: State) -> State:
    """Batches of pieces side by side."""
    names = batches[0]
    return {name: torch.cat([batch[name] for batch in batches], 1 if name == "memory" else 2) for name in names}


# ------------------------------------------------------------------------------------------------------------ playing


class Actor(Protocol):
    """What `collect` needs of a learner."""

    config: Any

    def act(self, now: dict[str, Any], uniform: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """Actions `[S, E, N]` of the behaviour policy and their log-probabilities; moves the memory in `now` on."""


def sight(config: Config, spec: envs.Spec, obs: Tensor, last: Tensor | None) -> Tensor:
    """What the agents see of their observations `[*, N, O]`.

    Args:
        last: `[..., N]` their last actions, -1 where there is none; None: nobody has one.
    """
    if not config.last_action:
        return obs
    actions = torch.arange(spec.num_actions, device=obs.device)
    shape = (*obs.shape[:-1], spec.num_actions)
    one_hot = obs.new_zeros(shape) if last is None else (last.unsqueeze(-1) == actions).to(obs.dtype).view(shape)
    return torch.cat([obs, one_hot], -1)


def memories(config: Config, blank: Tensor) -> State:
    """What the agents remember before an episode begins: hidden states `blank [S, E, N, H]`, and, where they see their
    last actions, none of those."""
    last = {"last": blank.new_full(blank.shape[:-1], -1, dtype=torch.int64)} if config.last_action else {}
    return {"memory": blank} | last


@torch.no_grad()
def collect(learner: Actor, env: envs.VectorEnv, now: dict[str, Any], update: int) -> State:
    """Play one piece in every environment from `now`, moving `now` on.

    Returns:
        `[S, T, E, ...]`: what `layout` names, but `memory` `[S, E, N, H]`, the hidden state before the first slot. The
        reward is the team's, the mean over agents, times `reward_scale`.
    """
    config, shape = learner.config, (len(learner.config.seeds), learner.config.num_envs)
    steps, device = config.rollout, env.device
    u = stacked.uniforms(config.seeds, "rollout", update, steps, config.num_envs, env.spec.num_agents).to(device)
    data: State = {"memory": now["memory"]}
    seen: list[envs.Step] = []
    kept: dict[str, list[Tensor]] = {name: [] for name in ("action", "log_prob", "reward", "done", "start")}
    cut_at = torch.full(shape, steps, device=device)
    cut: State = {}
    before: list[Tensor] = []
    for t in range(steps):
        step, start = now["step"], now["start"]
        if config.last_action:
            now["last"] = now["last"].masked_fill(start.unsqueeze(-1), -1)
            before.append(now["last"])
        action, log_prob = learner.act(now, u[:, t], config.epsilon(update))
        after = env.step(action.flatten(0, 1))
        terminated, truncated = after.terminated.view(shape), after.truncated.view(shape)
        done = terminated if config.bootstrap_time_limit else terminated | truncated
        reward = config.reward_scale * after.reward.view(*shape, -1).mean(-1)
        row = (action, log_prob, reward, done, start)
        for name, value in zip(kept, row, strict=True):
            kept[name].append(value)
        seen.append(step)
        now["step"], now["start"] = after, terminated | truncated
        if config.last_action:
            now["last"] = action
        if bool(truncated.any()):
            # what would be legal after a cut nobody says: the moment before stands in
            end = {"obs": after.final_obs, "state": after.final_state, "available": step.available}
            end = {name: value.unflatten(0, shape) for name, value in end.items()} | {"last": action}
            for name, value in end.items():
                flags = truncated.view(*shape, *[1] * (value.dim() - 2))
                cut[name] = torch.where(flags, value, cut.get(name, value))
            cut_at = torch.where(truncated, t, cut_at)
    # slot j holds step j up to the cut, then the situation after it (number steps + 1), then the steps from there on
    j = torch.arange(steps + 2, device=device).view(1, -1, 1)
    c = cut_at.unsqueeze(1)
    source = torch.where(j == c + 1, steps + 1, j - (j > c).long())  # [S, T, E]
    rows, columns = (torch.arange(size, device=device) for size in shape)
    index = rows.view(-1, 1, 1), source, columns.view(1, 1, -1)
    for name in ("obs", "state", "available"):
        parts = [getattr(step, name).unflatten(0, shape) for step in (*seen, now["step"])]
        data[name] = torch.stack([*parts, cut.get(name, parts[-1])], 1)[index]
    if config.last_action:
        latest = now["last"].masked_fill(now["start"].unsqueeze(-1), -1)
        data["last"] = torch.stack([*before, latest, cut.get("last", latest)], 1)[index]
    for name, values in kept.items():
        rest = torch.zeros_like(values[0])
        after_last = now["start"] if name == "start" else rest
        data[name] = torch.stack([*values, after_last, rest], 1)[index]
    data["filled"] = source < steps
    return data


def keep_floor(log_probs: Tensor, available: Tensor, epsilon: float) -> Tensor:
    """Log-probabilities `[..., A]` of a policy that with probability `epsilon` plays any legal action instead."""
    even = available / available.sum(-1, keepdim=True)
    mixed = (1 - epsilon) * log_probs.exp() + epsilon * even
    return torch.where(mixed > 0, mixed, 1.0).log().masked_fill(mixed <= 0, -torch.inf)


def filled_mean(x: Tensor, filled: Tensor) -> Tensor:
    """Mean of `x [S, T, B]` over the slots with a step, 0 where there is none: `[S]`."""
    return torch.where(filled, x, 0.0).flatten(1).sum(1) / filled.flatten(1).sum(1).clamp(min=1)


# ----------------------------------------------------------------------------------------------------------- training


def train(
    build: Callable[[Any, envs.Spec, str], Any], config: Config, device: str, state: State | None
) -> Iterator[Evaluation]:
    """Train all seeds of `config` side by side; see `onpolicy.train`.

    The outcomes of an evaluation on the curve also hold "training": each diagnostic's mean since the evaluation before,
    `[S, 1]`, so that a record keeps them; and all hold what `config.also` asks for.
    """
    learners: list[Any] = []

    def remember(*arguments: Any) -> Any:
        learners.append(build(*arguments))
        return learners[0]

    for evaluation in onpolicy.train(remember, config, device, state, collect):
        outcomes = dict(evaluation.outcomes)
        episodes = config.eval_episodes if evaluation.phase == "curve" else config.final_episodes
        for name, options in config.also.items():
            outcomes[name] = play(
                learners[0], config.task, config.env_options | options, config.seeds, episodes, evaluation.phase,
                evaluation.update, config.eval_modes[0], device,
            )  # fmt: skip
        if evaluation.metrics:
            outcomes["training"] = {name: value.unsqueeze(1).cpu() for name, value in evaluation.metrics.items()}
        yield dataclasses.replace(evaluation, outcomes=outcomes)


def restore(build: Callable[..., Any], config: Config, parameters: State, device: str, **least: Any) -> Player:
    """The deployed policy of all seeds, from the parameters that a run saved.

    Args:
        least: settings that go with the smallest replay, for playing needs none.
    """
    return onpolicy.restore(build, dataclasses.replace(config, capacity=config.num_envs, **least), parameters, device)
