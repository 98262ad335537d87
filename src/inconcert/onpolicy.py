"""What the on-policy algorithms of the MAGPO paper share: settings, rollouts, PPO losses, minibatches, training loop.

An algorithm file adds its networks and its update rule (a `Learner`). Letters in the shape comments: S seed,
E environment, N agent, A action, T time, C columns (pieces of trajectories that are shuffled as a whole), c steps in a
column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from inconcert import envs, stacked
from inconcert.config import InputError, unknown
from inconcert.evaluate import Evaluation, Mode, Phase, Player, State, check_finite, play


@dataclass(frozen=True)
class Config:
    """The settings that every on-policy algorithm has. Defaults: the MAGPO authors (params.csv, mava's yaml files)."""

    task: str = "coordsum/3x10-30"
    """Environment, as `inconcert.make` names it."""
    env_options: dict[str, str | bool | int | float] = field(default_factory=dict)
    """Options of the environment (named readings of its rules)."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Independent runs, trained side by side in one batched program."""
    num_envs: int = 128
    """Parallel environments per seed (authors: num_envs 64 x update_batch_size 2)."""
    rollout: int = 128
    """Steps collected per environment and update (paper Tables 2 and 3: rollout length)."""
    updates: int = 1220
    """Collect-and-learn rounds (authors' num_updates; 1220 x 128 x 128 = 20 M environment steps)."""
    epochs: int = 8
    """Passes over each rollout (paper Tables 4 to 6: PPO epochs)."""
    minibatches: int = 8
    """Gradient steps per pass (paper Tables 4 to 6: number of minibatches)."""
    decay_lr: bool = False
    """Learning rates fall linearly to 0 over all updates (authors' decay_learning_rates, False)."""
    adam_eps: float = 1e-5
    """Adam's epsilon (authors' code)."""
    clip: float = 0.1
    """epsilon of the policy ratio and of the value change (paper Tables 4 to 6: PPO clip)."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus (paper Tables 4 to 6)."""
    vf_coef: float = 0.5
    """Weight of the value loss (authors' code 0.5; paper Tables 2 and 3 say 0.1)."""
    gamma: float = 0.99
    """Discount (paper Tables 2 and 3)."""
    gae_lambda: float = 0.95
    """lambda of generalised advantage estimation (authors' code 0.95; paper Tables 2 and 3 say 0.9)."""
    max_grad_norm: float = 5.0
    """Per-seed global norm that gradients are clipped to, each network for itself (paper Tables 4 to 6)."""
    bootstrap_time_limit: bool = True
    """At a time limit bootstrap from the value of the final state; False treats it as terminal (authors' code)."""
    judge_time_limit: bool = True
    """False: nothing is learnt from a step that a time limit cut off, its advantage is 0 and its target its own value
    (HARL's use_proper_time_limits)."""
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
    keep: tuple[int, ...] = ()
    """Percentages of training after which the policy is kept, beside the best one (see `inconcert.policies`)."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise InputError(f"seeds must be distinct and at least one, not {self.seeds}")
        if not 1 <= self.steps_per_column <= self.rollout or self.rollout % self.steps_per_column:
            raise InputError(f"chunk must divide the rollout of {self.rollout} steps, not {self.steps_per_column}")
        columns = self.num_envs * self.rollout // self.steps_per_column
        if self.minibatches < 1 or columns % self.minibatches:
            raise InputError(f"minibatches must divide the {columns} columns of a rollout, not {self.minibatches}")
        if not self.eval_modes:
            raise InputError("eval_modes needs at least one of: sampled, greedy")
        if not all(0 < percentage <= 100 for percentage in self.keep):
            raise InputError(f"keep takes percentages from 1 to 100, not {self.keep}")

    @property
    def steps_per_column(self) -> int:
        """c: steps that stay together when a rollout is shuffled; 1 for networks without memory."""
        raise NotImplementedError

    @property
    def steps_per_update(self) -> int:
        """Environment steps per seed that one update consumes."""
        return self.num_envs * self.rollout


READINGS: dict[str, dict[str, Any]] = {
    "": {},
    "clamped": {"env_options": {"guess": "clamped", "observe_step": False}},
    "never": {"env_options": {"guess": "never", "observe_step": False}},
    "clamped-integer": {"env_options": {"guess": "clamped", "observe_step": False, "code": "integer"}},
}
"""Readings of the CoordSum environment, as variants: the paper's text; `clamped`, what the MAGPO authors coded, also
with the raw integer target at the small tiers; `never`, without the opponent."""

COEFFICIENTS: dict[str, dict[str, Any]] = {
    "vf-0.1": {"vf_coef": 0.1}, "gae-0.9": {"gae_lambda": 0.9}, "gae-0.95": {"gae_lambda": 0.95},
}  # fmt: skip
"""Where the paper's Tables 2 and 3 and the authors' code name different coefficients (deviation ledger)."""

ACTOR_SIZES: dict[str, dict[str, Any]] = {f"hidden-{size}": {"hidden": size} for size in (8, 16, 32, 64)}
"""The actors of Figure 6, besides those of full size."""


def variants(*changes: Mapping[str, Mapping[str, Any]], readings: Sequence[str] = ("clamped",)) -> dict[str, Any]:
    """The readings of the environment, and each of the named changes in each of `readings` as `<reading>-<name>`.

    Outside CoordSum there are no readings: the changes are called `<name>`.
    """
    named: dict[str, Any] = dict(READINGS)
    for reading in ("", *readings):
        for part in changes:
            for name, change in part.items():
                named["-".join(filter(None, (reading, name)))] = {**READINGS[reading], **change}
    return named


SMALL_OPTIONS: dict[str, dict[str, Any]] = {"coordsum": {"code": "ordinal"}}
"""Environment options of the smoke and laptop tiers by suite. CoordSum's raw integer target makes a network spend most
of 20 M steps on telling neighbouring targets apart; what the algorithms differ in, coordination, shows without that."""

LAPTOP: dict[str, Any] = {
    "num_envs": 32, "rollout": 100, "updates": 150, "epochs": 4, "minibatches": 8, "clip": 0.2, "decay_lr": True,
    "ent_coef": 1e-4, "gae_lambda": 0.25, "max_grad_norm": 10.0, "eval_every": 10,
}  # fmt: skip
"""One setting for all algorithms: fewer parallel environments and networks without recurrence; a small lambda, because
CoordSum's next targets do not depend on the actions, so that later errors mostly add noise to the advantage; decaying
learning rates, because with a constant one the policy overshoots and loses what it had."""

LAPTOP_ELSEWHERE: dict[str, Any] = {"seeds": (0, 1, 2), "gae_lambda": 0.95, "ent_coef": 0.01}
"""The laptop tier outside CoordSum: actions have consequences there, and chance must find a reward first."""

LAPTOP_OF: dict[str, dict[str, Any]] = {
    "coordsum/8x15-100": {"updates": 240}, "pettingzoo/mpe2.simple_spread_v3": {"updates": 50},
    "lbf/2s-8x8-2p-2f-coop": {"updates": 60, "eval_every": 5}, "connector/con-5x5x3a": {"updates": 80, "eval_every": 5},
    "rware/tiny-4ag": {"num_envs": 128, "updates": 70}, "smax/2s3z": {"updates": 130, "ent_coef": 0.0},
    "smax/smacv2_5_units": {"ent_coef": 0.0},
    "football/academy_run_pass_and_shoot_with_keeper": {
        "num_envs": 16, "updates": 40, "eval_every": 5, "eval_episodes": 16, "final_episodes": 48,
        "eval_modes": ("sampled",),
    },
}  # fmt: skip
"""Tasks with a laptop tier of their own, for all algorithms. 8x15-100: after 150 updates even the best still climb
steeply. PettingZoo's worlds step one by one, and football plays a match, so that every update is dear. Foraging and
Connector are learnt early. In the warehouse hardly any copy has a reward at first; a battle has some from the first
shot on."""

HARL: dict[str, Any] = {
    "gae_lambda": 0.95, "clip": 0.2, "vf_coef": 1.0, "ent_coef": 0.01, "max_grad_norm": 10.0,
    "bootstrap_time_limit": False, "judge_time_limit": False, "eval_modes": ("greedy", "sampled"),
}  # fmt: skip
"""The variant `harl`, with what each algorithm adds to it: HARL (Zhong et al. 2024) as tuned for particle worlds. KPF's
base policies come from there, and play greedily."""

_PARTICLES: dict[str, Any] = {
    "seeds": (0, 1, 2, 3, 4), "env_options": {"rules": "legacy"}, "keep": tuple(range(10, 101, 10)),
    "eval_episodes": 100, "final_episodes": 500,
}  # fmt: skip
_FOOTBALL: dict[str, Any] = {
    "minibatches": 2, "gamma": 0.99, "hidden": 64, "critic_hidden": 64, "env_options": {"share": "first"},
    "keep": tuple(range(10, 101, 10)),
}  # fmt: skip
HARL_BUDGETS: dict[str, dict[str, dict[str, Any]]] = {
    "laptop": {
        "mpe": {
            **_PARTICLES, "num_envs": 160, "rollout": 25, "updates": 400, "epochs": 2, "minibatches": 4,
            "eval_every": 20, "gamma": 0.9, "hidden": 64, "critic_hidden": 64, "critic_lr": 3e-3,
        },
        "smax": {
            "seeds": (0, 1, 2), "num_envs": 32, "rollout": 100, "updates": 300, "epochs": 5, "minibatches": 2,
            "eval_every": 30, "gamma": 0.99, "hidden": 64, "critic_hidden": 64, "critic_lr": 1e-3,
            "keep": tuple(range(10, 101, 10)), "eval_episodes": 100, "final_episodes": 400,
        },
        "mpe/simple_speaker_listener": {"updates": 200},
        "mpe/simple_reference": {"updates": 1000},
        "football": {
            **_FOOTBALL, "seeds": (0, 1, 2), "num_envs": 16, "rollout": 100, "updates": 60, "epochs": 10,
            "eval_every": 15, "eval_episodes": 8, "final_episodes": 20,
        },
    },
    "paper": {
        "mpe": {
            **_PARTICLES, "num_envs": 20, "rollout": 200, "updates": 2500, "epochs": 5, "minibatches": 1,
            "eval_every": 50,
        },
        "football": {
            **_FOOTBALL, "seeds": (0, 1, 2, 3, 4), "num_envs": 50, "rollout": 200, "updates": 2500, "epochs": 15,
            "decay_lr": True, "eval_every": 125, "eval_episodes": 100,
        },
        "football/academy_run_pass_and_shoot_with_keeper": {"decay_lr": False},
        "football/academy_counterattack_hard": {"rollout": 1000, "updates": 1000, "eval_every": 50},
    },
}  # fmt: skip
"""Its settings by tier and by suite or task. Particle worlds, paper: HARL's 10 M steps. laptop: 0.8 to 4 M, fewer
passes over each rollout, half the width, and a smaller discount: with 0.99 a value looks four episodes ahead, past time
limits that it cannot see, and most of the budget would go into learning it. simple_reference takes the most: for the
first million steps or more what agents say means nothing, and all that they learn is to wait in the middle. Football,
paper: its 25 or 50 M steps. laptop: 0.1 M, in rollouts of a sixth of the size, for the engine plays some 200 a second,
and an evaluation, which waits for its longest attack, costs as many as four updates."""

SMOKE: dict[str, Any] = {
    **LAPTOP, "seeds": (0, 1), "num_envs": 8, "updates": 6, "eval_every": 2, "eval_episodes": 8, "final_episodes": 16,
}  # fmt: skip

PAPER_SEEDS = tuple(range(10))

C = TypeVar("C", bound=Config)


def settle(
    build: type[C], task: str, tier: str, tiers: Mapping[str, Mapping[str, Any]], *parts: Mapping[str, Any]
) -> C:
    """A tier's setting with `parts` on top, the later ones winning; environment options are merged one by one."""
    if tier not in tiers:
        raise unknown("tier", tier, tiers)
    fields: dict[str, Any] = {"task": task}
    options: dict[str, Any] = {}
    for part in (tiers[tier], *parts):
        fields |= part
        options |= part.get("env_options", {})
    return build(**{**fields, "env_options": options})


def choose_setting(
    build: type[C],
    tiers: Mapping[str, Mapping[str, Any]],
    variants: Mapping[str, Mapping[str, Any]],
    task: str,
    tier: str,
    variant: str,
    changes: Mapping[str, Any],
) -> C:
    """A tier's setting with the task's own, a named variant and single changes on top.

    An unknown variant names a reader's own run; `harl-...` begins from the settings of `harl`.
    """
    suite = task.partition("/")[0]
    family = "harl" if variant.partition("-")[0] == "harl" else ""
    own: dict[str, Any] = {}
    if tier != "paper":
        own["env_options"] = SMALL_OPTIONS.get(suite, {})
    if tier == "laptop":
        if suite != "coordsum":
            own |= LAPTOP_ELSEWHERE
        elif variant not in READINGS:
            own["seeds"] = (0, 1, 2)  # a point of a sweep: there are dozens, and each costs as much as a main run
        own |= LAPTOP_OF.get(task, {})
    if family:
        budgets = HARL_BUDGETS.get(tier, {})
        own |= budgets.get(suite, {}) | budgets.get(task, {})
    return settle(build, task, tier, tiers, own, variants.get(variant, variants.get(family, {})), changes)


# ------------------------------------------------------------------------------------------------------------ losses


def advantages(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    ended: Tensor,
    gamma: float,
    lam: float,
    unjudged: Tensor | None = None,
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2015b, Eq 16).

    Args:
        reward: `[S, T, E, N]`.
        value: `[S, T, E, 1]` V(s_t), the same for all agents, or `[S, T, E, N]`, one for each.
        next_value: as `value`, of the state each step led to: the final state where the episode was cut off.
        terminated: `[S, T, E]` the episode ended for good: nothing is bootstrapped.
        ended: `[S, T, E]` terminated or cut off: the sum over later errors stops.
        unjudged: `[S, T, E]` steps that count as no error.

    Returns:
        `[S, T, E, N]`.
    """
    delta = reward + gamma * next_value * ~terminated.unsqueeze(-1) - value
    if unjudged is not None:
        delta = delta.masked_fill(unjudged.unsqueeze(-1), 0.0)
    carry = (gamma * lam * ~ended).unsqueeze(-1)
    result = torch.empty_like(delta)
    running = torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        running = torch.addcmul(delta[:, t], carry[:, t], running, out=result[:, t])
    return result


def estimate(config: Config, data: State, last: Tensor) -> None:
    """Add `advantage` and `target` (of the value) `[S, T, E, N]` to the rollout `data`.

    Args:
        last: `[S, E, 1 or N]` value of the situation after the rollout's last step.
    """
    value, terminated, truncated = data["value"], data["terminated"], data["truncated"]
    next_value = torch.cat([value[:, 1:], last.unsqueeze(1)], dim=1)
    if "final_value" in data:  # the state after a cut-off episode's last one belongs to the next episode
        next_value = torch.where(truncated.unsqueeze(-1), data["final_value"], next_value)
    ended = terminated | truncated
    final = terminated if config.bootstrap_time_limit else ended
    unjudged = None if config.judge_time_limit else truncated
    gae = advantages(data["reward"], value, next_value, final, ended, config.gamma, config.gae_lambda, unjudged)
    data.update(advantage=gae, target=gae + value)


def normalise(advantage: Tensor) -> Tensor:
    """Zero mean and unit standard deviation per seed over the whole minibatch `[S, ...]` (paper Tables 2 and 3)."""
    flat = advantage.flatten(1)
    flat = (flat - flat.mean(1, keepdim=True)) / (flat.std(1, correction=0, keepdim=True) + 1e-8)
    return flat.view_as(advantage)


def clipped_surrogate(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's clipped policy loss per seed (Schulman et al. 2017, Eq 7), to minimise: `[S, ...] -> [S]`."""
    ratio = (log_prob - old_log_prob).exp()
    return -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).flatten(1).mean(1)


def clipped_value_error(
    value: Tensor, old_value: Tensor, target: Tensor, clip: float, huber: float = math.inf
) -> Tensor:
    """Half the squared error, the larger of the plain and the clipped value's (authors' code): `[S, ...] -> [S]`.

    `value`, `old_value` broadcast against the agents' axis of `target`. Errors beyond `huber` count in proportion to
    their size (Huber 1964; HARL).
    """
    clipped = old_value + (value - old_value).clamp(-clip, clip)
    errors = (value - target, clipped - target)
    if math.isinf(huber):
        plain, other = (error.square() for error in errors)
    else:  # twice torch's, which is half the square near 0
        plain, other = (2 * nn.functional.huber_loss(x, torch.zeros_like(x), "none", huber) for x in errors)
    return 0.5 * torch.max(plain, other).flatten(1).mean(1)


class ValueNorm(nn.Module):
    """Running mean and deviation of a critic's targets, for each seed; the critic predicts in these units.

    The averages are exponential with HARL's decay, and debiased: in effect all targets so far count the same.

    Args:
        on: False leaves every value as it is.
    """

    decay = 0.99999
    """Of the averages, for each gradient step of the critic."""

    mean: Tensor  # [S], like `square` not yet debiased
    square: Tensor
    seen: Tensor  # the averages' own weight

    def __init__(self, seeds: int, on: bool) -> None:
        super().__init__()
        self.on = on
        for name in ("mean", "square", "seen"):
            self.register_buffer(name, torch.zeros(seeds))

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation, shaped to broadcast against `like [S, ...]`."""
        seen = self.seen.clamp(min=1e-5)
        mean = self.mean / seen
        deviation = (self.square / seen - mean.square()).clamp(min=1e-2).sqrt()
        return stacked.along(mean.unsqueeze(1), like), stacked.along(deviation.unsqueeze(1), like)

    def real(self, value: Tensor) -> Tensor:
        """From the critic's units to those of the return: `[S, ...]`."""
        if not self.on:
            return value
        mean, deviation = self._moments(value)
        return value * deviation + mean

    def normal(self, value: Tensor) -> Tensor:
        """Inverse of `real`."""
        if not self.on:
            return value
        mean, deviation = self._moments(value)
        return (value - mean) / deviation

    @torch.no_grad()
    def fit(self, data: State, steps: int) -> None:
        """Turn the old `value` and the `target` in `data` into the critic's units, after learning from the targets.

        Args:
            steps: gradient steps that the critic is going to take with them.
        """
        data["value"] = self.normal(data["value"])
        if self.on:
            keep, target = self.decay**steps, data["target"].flatten(1)
            for average, new in ((self.mean, target.mean(1)), (self.square, target.square().mean(1)), (self.seen, 1)):
                average.mul_(keep).add_((1 - keep) * new)
        data["target"] = self.normal(data["target"])


def entropy(log_probs: Tensor) -> Tensor:
    """Mean entropy in nats per seed: `[S, ..., A] -> [S]`; actions of probability 0 count 0."""
    terms = log_probs.exp() * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)
    return -terms.sum(-1).flatten(1).mean(1)


@torch.no_grad()
def explained_variance(value: Tensor, target: Tensor) -> Tensor:
    """1 - Var(target - value) / Var(target) per seed, 1 for a perfect critic: `[S, ...] -> [S]`."""
    target, value = (x.flatten(1) for x in torch.broadcast_tensors(target, value))
    return 1 - (target - value).var(1) / (target.var(1) + 1e-8)


@torch.no_grad()
def policy_change(log_prob: Tensor, old_log_prob: Tensor, clip: float) -> State:
    """How far a policy has moved since the rollout, `[S]` each: an estimate of KL(old, new), and the share clipped."""
    change = log_prob - old_log_prob
    ratio = change.exp()
    return {
        "kl": (ratio - 1 - change).flatten(1).mean(1),
        "clipped": ((ratio - 1).abs() > clip).float().flatten(1).mean(1),
    }


# ------------------------------------------------------------------------------------------------------------ rollout


class Learner(Player, Protocol):
    """An algorithm in training: its networks, its optimiser and its update rule.

    It is also the `Player` of the deployed policy, which evaluations call.
    """

    config: Any
    networks: dict[str, nn.Module]
    """All that is trained, by name; parameters have a seed-major leading axis."""
    deployed: str
    """Which of `networks` is the policy that is evaluated and saved."""
    companions: dict[str, Player]
    """Further policies, evaluated along the curve under these names beside the deployed one (MAGPO's guider)."""
    optimiser: torch.optim.Optimizer
    rates: Sequence[float]
    """Learning rate of each parameter group of `optimiser`."""

    def memories(self, envs_per_seed: int) -> State:
        """Hidden states at the start of an episode, by name: `[S, E, ...]`, empty where there is no memory."""

    def act(self, now: dict[str, Any], uniform: Tensor) -> State:
        """Choose actions with the behaviour policy and replace the memories in `now` by the next ones.

        Args:
            now: `step` (an `envs.Step` of S * E rows), `start` `[S, E]` bool and the memories.
            uniform: `[S, E, N]` numbers in [0, 1) to sample with.

        Returns:
            What the update needs of this moment, `[S, E, ...]` each; at least `action` `[S, E, N]` and `value`
            `[S, E, 1 or N]`.
        """

    def value(self, obs: Tensor, state: Tensor, start: Tensor, now: dict[str, Any]) -> Tensor:
        """Value `[S, E, 1 or N]` of a situation that follows the memories in `now`, which stay as they are.

        Args:
            obs: `[S * E, N, O]`.
            state: `[S * E, state_size]`.
            start: `[S, E]` bool, True where an episode begins here.
        """

    def learn(self, data: State, index: int) -> State:
        """Update the networks by one rollout (see `collect`), advantages included; returns diagnostics `[S]`."""


@torch.no_grad()
def collect(learner: Learner, env: envs.VectorEnv, now: dict[str, Any], update: int) -> State:
    """Play one rollout from `now`, moving `now` on, and estimate advantages.

    Returns:
        `[S, T, E, ...]`: what `learner.act` returned, and `reward` `[.., N]`, `terminated`, `truncated`, `start`,
        `advantage` and `target`; and the memories that each column starts from, `[S, T / c, E, ...]`.
    """
    config, shape = learner.config, (len(learner.config.seeds), learner.config.num_envs)
    u = stacked.uniforms(config.seeds, "rollout", update, config.rollout, config.num_envs, env.spec.num_agents)
    u = u.to(env.device)
    memories = learner.memories(0).keys()
    data: State = {}

    def keep(name: str, value: Tensor, t: int, length: int) -> None:
        if name not in data:
            data[name] = value.new_zeros(shape[0], length, *value.shape[1:])
        data[name][:, t] = value

    for t in range(config.rollout):
        start = now["start"]
        if t % config.steps_per_column == 0:
            for name in memories:
                keep(name, now[name], t // config.steps_per_column, config.rollout // config.steps_per_column)
        row = learner.act(now, u[:, t])
        after = env.step(row["action"].flatten(0, 1))
        row["reward"], row["start"] = after.reward.view(*shape, -1), start
        row["terminated"], row["truncated"] = after.terminated.view(shape), after.truncated.view(shape)
        now["step"], now["start"] = after, row["terminated"] | row["truncated"]
        if config.bootstrap_time_limit and bool(after.truncated.any()):
            row["final_value"] = learner.value(after.final_obs, after.final_state, torch.zeros_like(start), now)
        for name, value in row.items():
            keep(name, value, t, config.rollout)
    estimate(config, data, learner.value(now["step"].obs, now["step"].state, now["start"], now))
    return data


def columns(x: Tensor, length: int) -> Tensor:
    """Cut `[S, T, E, ...]` into consecutive pieces of `length` steps: `[S, c, C, ...]` with C = T / c * E."""
    return x.unflatten(1, (-1, length)).transpose(1, 2).flatten(2, 3)


def minibatches(config: Config, data: State, update: int, memories: Iterable[str] = ()) -> Iterator[State]:
    """Shuffled minibatches, epoch after epoch: `[S, c, m, ...]` of all in `data`, `[S, m, ...]` of the `memories`."""
    length = config.steps_per_column
    starts = {name: data[name].flatten(1, 2) for name in memories}
    parts = {name: columns(x, length) for name, x in data.items() if name not in starts}
    any_part = next(iter(parts.values()))
    size, device = any_part.shape[2], any_part.device
    order = stacked.permutations(config.seeds, "minibatches", update, config.epochs, size).to(device)
    rows = torch.arange(len(config.seeds), device=device).unsqueeze(1)
    steps = torch.arange(length, device=device).view(1, -1, 1)
    for batch in order.unflatten(-1, (config.minibatches, -1)).flatten(1, 2).unbind(1):  # [S, C / minibatches]
        cut = {name: x[rows.unsqueeze(1), steps, batch.unsqueeze(1)] for name, x in parts.items()}
        yield cut | {name: x[rows, batch] for name, x in starts.items()}


class Mean:
    """Running mean of diagnostics `[S]`."""

    def __init__(self) -> None:
        self.count, self.sums = 0, dict[str, Tensor]()

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        self.count += 1
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def result(self) -> State:
        return {name: value / self.count for name, value in self.sums.items()}


# -------------------------------------------------------------------------------------------------------------- train


def train(
    build: Callable[[Any, envs.Spec, str], Learner],
    config: Config,
    device: str,
    state: State | None,
    gather: Callable[[Any, envs.VectorEnv, dict[str, Any], int], State] = collect,
) -> Iterator[Evaluation]:
    """Train all seeds of `config` side by side, yielding one `Evaluation` after another.

    Args:
        build: makes the learner from the config, the environment's spec and the device.
        config: the whole setting.
        device: where to compute, "cpu" or "cuda".
        state: `Evaluation.state()` of an earlier run of the same config, to continue after that evaluation.
        gather: plays a rollout; what it returns is what `learner.learn` gets.

    Raises:
        Diverged: a loss is not finite.
        InputError: the task or an option does not exist.
    """
    env_seeds = [stacked.derive(seed, "training environment") for seed in config.seeds]
    env = envs.make(config.task, config.num_envs, env_seeds, device, **config.env_options)
    learner = build(config, env.spec, device)
    optimiser, deployed = learner.optimiser, learner.networks[learner.deployed]
    now: dict[str, Any] = {
        "step": env.reset(),
        "start": torch.ones(len(config.seeds), config.num_envs, dtype=torch.bool, device=device),
        **learner.memories(config.num_envs),
    }
    update = 0
    best = copy(deployed)
    best_score = torch.full((len(config.seeds),), -torch.inf, device=device)
    best_update = torch.zeros(len(config.seeds), dtype=torch.int64, device=device)
    kept: State = {}

    def snapshot() -> State:
        parts: dict[str, Mapping[str, Tensor]] = {
            **{f"network-{name}": network.state_dict() for name, network in learner.networks.items()},
            "env": env.state_dict(), "best": best, "kept": kept, "optimiser": stacked.optimiser_state(optimiser),
            "now": {name: value for name, value in now.items() if name != "step"},
            "run": {"update": torch.tensor(update), "best_score": best_score, "best_update": best_update},
        }  # fmt: skip
        return {f"{part}.{name}": value.clone() for part, tensors in parts.items() for name, value in tensors.items()}

    def assess(phase: Phase, label: int, episodes: int, metrics: State) -> Evaluation:
        def watch(player: Player, mode: Mode) -> dict[str, Tensor]:
            return play(player, config.task, config.env_options, config.seeds, episodes, phase, label, mode, device)

        outcomes = {str(mode): watch(learner, mode) for mode in config.eval_modes}
        if phase == "curve":
            outcomes |= {name: watch(player, "sampled") for name, player in learner.companions.items()}
        return Evaluation(label, label * config.steps_per_update, phase, outcomes, metrics, snapshot)

    def remember(evaluation: Evaluation, trained: int) -> None:
        """Keep the parameters of the best evaluation so far; among equals the later ones (authors' code)."""
        nonlocal best, best_score, best_update
        score = evaluation.outcomes[config.eval_modes[0]][env.spec.metric].mean(1).to(device)
        better = score >= best_score
        best = stacked.pick(better, deployed.state_dict(), best)
        best_score = torch.where(better, score, best_score)
        best_update = torch.where(better, trained, best_update)

    if state is not None:
        part: dict[str, State] = {}
        for key, value in state.items():
            name, _, entry = key.partition(".")
            part.setdefault(name, {})[entry] = value.to(device)
        for name, network in learner.networks.items():
            network.load_state_dict(part[f"network-{name}"])
        stacked.load_optimiser_state(optimiser, part.get("optimiser", {}))
        env.load_state_dict(part["env"])
        now.update(part["now"], step=env.observe())
        best, kept, update = part["best"], part.get("kept", {}), int(part["run"]["update"])
        best_score, best_update = part["run"]["best_score"], part["run"]["best_update"]
    elif config.eval_point == "after":
        first = assess("curve", 0, config.eval_episodes, {})
        remember(first, 0)
        yield first

    while update < config.updates:
        earlier = copy(deployed)
        window = min(config.eval_every, config.updates - update)
        metrics = Mean()
        for _ in range(window):
            for group, rate in zip(optimiser.param_groups, learner.rates, strict=True):
                group["lr"] = rate * (1 - update / config.updates if config.decay_lr else 1)
            update += 1
            signs = learner.learn(gather(learner, env, now, update), update)
            check_finite(signs, config.seeds, update)
            metrics.add(signs)
            for percentage in config.keep:
                if update == math.ceil(percentage * config.updates / 100):
                    kept |= {f"{percentage}.{name}": value for name, value in copy(deployed).items()}
        later = copy(deployed)
        if config.eval_point == "before":
            deployed.load_state_dict(earlier)
        evaluation = assess("curve", update, config.eval_episodes, metrics.result())
        remember(evaluation, update if config.eval_point == "after" else update - window)
        deployed.load_state_dict(later)
        yield evaluation

    closing: tuple[tuple[Phase, State], ...] = (("best", best), ("last", copy(deployed)))
    for phase, parameters in closing:
        deployed.load_state_dict(parameters)
        yield assess(phase, update, config.final_episodes, {})


def copy(network: nn.Module) -> State:
    """The parameters of a network, detached from its further training."""
    return {name: value.clone() for name, value in network.state_dict().items()}


def restore(build: Callable[[Any, envs.Spec, str], Learner], config: Config, parameters: State, device: str) -> Player:
    """The deployed policy of all seeds, from the parameters that a run saved."""
    learner = build(config, envs.make(config.task, 1, 0, device, **config.env_options).spec, device)
    learner.networks[learner.deployed].load_state_dict(parameters)
    return learner
