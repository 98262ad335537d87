"""Fused policies at play: what kept policies earn when a rule mixes them at every step, and what they say meanwhile.

All seeds and episodes are rows of one batch, and every rule meets the same first situations, so that two rules can be
compared episode by episode.

    pair = [policies.load("mpe/simple_spread", name, variant="harl") for name in ("mappo", "hatrpo")]
    returns = fused.play(pair, KalmanFusion(5, r2=1.1), episodes=2000)  # [S, 2000]

Letters in shapes: M policy (the primary is the first), S seed, E episode, B = S * E row, N agent, A action, T step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from inconcert import envs, pools, records, stacked
from inconcert.config import InputError
from inconcert.envs import mpe_players
from inconcert.fusion import FusionState, KalmanFusion, choose
from inconcert.policies import Policy

Rule = KalmanFusion | Callable[[Tensor], Tensor]
"""A filter, or a pool `[M, B, N, A] -> [B, N, A]`."""
Split = Literal["validation", "test"]

EVALUATION = 100
"""Consecutive episodes of an evaluation, over which a filter is carried (KPF, section 4.1: "at least 100")."""


class Moment(NamedTuple):
    """One step of all rows."""

    policies: Tensor
    """`[M, B, N, A]` probabilities, the primary's first."""
    fused: Tensor
    """`[B, N, A]`."""
    outcome: envs.Step
    """What the step led to."""
    running: Tensor
    """`[B]` bool: the row's episode had not ended before. Where it had, the rest means nothing."""


@torch.no_grad()
def moments(
    policies: Sequence[Policy],
    rule: Rule,
    episodes: int,
    split: Split = "test",
    order: Tensor | None = None,
    consecutive: int = EVALUATION,
    length: int | None = None,
) -> Iterator[Moment]:
    """Play one episode in each row, greedily by the fused probabilities, and yield every step.

    The paper's protocol plays the episodes of an evaluation one after another and carries the filter along. With a
    covariance that listens to nothing the filter at the start of each episode is known beforehand, so that all
    episodes are played side by side here, to the same effect (tested). Other filters begin afresh in each episode.
    Where episodes differ in length, those before are taken to have been of one `length`.

    Args:
        policies: M of them, on one task, for equally many seeds; those in the same place are fused.
        rule: what mixes them.
        episodes: of each seed.
        split: validation and test episodes have nothing in common.
        order: `[S, M]` int64, for each seed which policy comes first, second, ...; None: as given.
        consecutive: episodes of an evaluation; row e is its (e mod consecutive)-th.
        length: steps of the earlier episodes of an evaluation; None: as many as an episode can have.

    Raises:
        InputError: policies of different tasks or numbers of seeds.
    """
    first = policies[0]
    seeds = len(first.seeds)
    if any((one.task, one.options, len(one.seeds)) != (first.task, first.options, seeds) for one in policies):
        raise InputError("policies that are to be fused need the same task, the same rules and equally many seeds")
    streams = [stacked.derive(seed, f"fusion {split} environment") for seed in first.seeds]
    env = envs.make(first.task, episodes, streams, **first.options)
    rows = torch.arange(seeds)
    state = None
    if isinstance(rule, KalmanFusion):
        position = (torch.arange(episodes) % consecutive).repeat(seeds)
        state = begun(rule, position, env.spec.num_agents, length or env.spec.episode_limit)
    memories: list[Any] = [None] * len(policies)
    start = torch.ones(env.num_envs, dtype=torch.bool)
    running = start
    step = env.reset()
    while bool(running.any()):
        said = []
        for index, policy in enumerate(policies):
            p, memories[index] = policy.step(step.obs, step.available, start, memories[index])
            said.append(p)
        voices = torch.stack(said)
        if order is not None:
            voices = voices.unflatten(1, (seeds, episodes))[order.t(), rows].flatten(1, 2)
        if isinstance(rule, KalmanFusion):
            assert state is not None
            mixed, state = rule(voices[0], voices[1:], state, step.available)
        else:
            mixed = rule(voices)
        step = env.step(choose(mixed))
        yield Moment(voices, mixed, step, running)
        start = step.terminated | step.truncated
        running = running & ~start


def play(
    policies: Sequence[Policy],
    rule: Rule,
    episodes: int,
    split: Split = "test",
    order: Tensor | None = None,
    consecutive: int = EVALUATION,
    length: int | None = None,
) -> Tensor:
    """What the fused policy earns in the task's metric, `[S, episodes]` float32; arguments as those of `moments`."""
    metric = policies[0].spec.metric
    earned = torch.zeros(len(policies[0].seeds) * episodes)
    for moment in moments(policies, rule, episodes, split, order, consecutive, length):
        earned = torch.where(moment.running, moment.outcome.info[metric].to(earned.dtype), earned)
    return earned.unflatten(0, (-1, episodes))


def mean_length(policies: Sequence[Policy], episodes: int, order: Tensor | None = None) -> int:
    """Steps of an episode of the primary, on average over validation episodes; arguments as those of `moments`."""
    steps = sum(moment.running.sum() for moment in moments(policies, alone(0), episodes, "validation", order))
    return round(int(steps) / (len(policies[0].seeds) * episodes))


def begun(fusion: KalmanFusion, position: Tensor, agents: int, horizon: int) -> FusionState:
    """Filters as they stand when `position` `[B]` episodes of `horizon` steps have been played.

    Where the state of a filter depends on what the policies say, it is a fresh one.
    """
    if fusion.covariance != "constant" or fusion.skip_single:
        return fusion.init(len(position), agents)
    found = _states(fusion, int(position.max()) + 1, horizon)

    def gathered(name: str, axis: int) -> Tensor:
        return torch.cat([getattr(one, name) for one in found], axis).index_select(axis, position)

    covariance, gain, innovation = gathered("covariance", 0), gathered("gain", 1), gathered("innovation", 1)
    return FusionState(
        covariance.expand(-1, agents, *covariance.shape[2:]),
        gain.expand(-1, -1, agents, *gain.shape[3:]),
        gathered("steps", 0),
        gathered("episodes", 0),
        innovation.expand(-1, -1, agents),
    )


@functools.lru_cache(maxsize=256)
def _states(fusion: KalmanFusion, episodes: int, horizon: int) -> tuple[FusionState, ...]:
    """One filter at the start of each of so many episodes, whatever the policies say in them."""
    flat = torch.full((1, 1, fusion.num_actions), 1 / fusion.num_actions)
    others = flat.expand(len(fusion.observed), -1, -1, -1)
    normal = torch.zeros_like(flat) if fusion.noise_reading == "action" and fusion.noise else None
    state = fusion.init(1, 1)
    found = [state]
    for _ in range(episodes - 1):
        for _ in range(horizon):
            _, state = fusion(flat, others, state, normal=normal)
        state = fusion.end_episode(state, torch.tensor([True]))
        found.append(state)
    return tuple(found)


def alone(index: int) -> Rule:
    """The rule that listens to one policy only."""
    return lambda policies: policies[index]


def constant(weight: float) -> Rule:
    """The linear pool whose auxiliaries have the same weight at every step; several share it evenly."""
    return lambda policies: pools.linear_pool(
        policies, (1 - weight, *[weight / (len(policies) - 1)] * (len(policies) - 1))
    )


def stronger_first(scores: Tensor) -> Tensor:
    """`[S, M]` order from validation scores `[M, S]`: for each seed the best policy first, of equals the first."""
    return scores.t().argsort(dim=1, descending=True, stable=True)


def scale(task: str, episodes: int = 2000, **options: Any) -> tuple[float, float]:
    """The ends of a task's scale: of a particle world the mean returns of random play and of the scripted player; of a
    battle no and all battles won."""
    if not task.startswith("mpe/"):
        return 0.0, 1.0
    ends = [float(mpe_players.play(name, task, episodes, **options).mean()) for name in ("random", "scripted")]
    return ends[0], ends[1]


def early(task: str, algorithm: str, variant: str, tier: str = "recorded", share: float = 0.9) -> int:
    """The first kept percentage of training at which a run had made `share` of its progress (A.3.2: "SOTA-level").

    Progress is the mean greedy return of the curve, over the seeds and over three neighbouring evaluations, from the
    untrained policy to the best. The runs' setting `keep` says which percentages there are; if none is late enough, it
    is the last.

    Raises:
        InputError: a share that is not between 0 and 1, or a run that kept nothing.
    """
    if not 0 < share <= 1:
        raise InputError(f"share must be in (0, 1], not {share}")
    record = records.load(task, algorithm, tier, variant)
    kept = record.config["keep"]
    if not kept:
        raise InputError(f"{record.path} kept no policy (setting keep)")
    curve = records.curve(record, "greedy", metric=envs.make(task, 1).spec.metric)
    mean = curve.groupby("update")["mean_return"].mean()
    smooth = mean.rolling(3, center=True, min_periods=2).mean().cummax()
    level = mean.iloc[0] + share * (smooth.iloc[-1] - mean.iloc[0])
    reached = [one for one in kept if smooth[smooth.index <= one * record.config["updates"] / 100].iloc[-1] >= level]
    return int(reached[0] if reached else kept[-1])


class Voices(NamedTuple):
    """What policies say in the situations that the primary meets; numbers are means over steps, episodes and agents."""

    peak: Tensor
    """`[M, S]` largest probability."""
    entropy: Tensor
    """`[M, S]` nats."""
    ranked: Tensor
    """`[M, S, A]` probabilities in falling order."""
    disagreement: Tensor
    """`[S]` share of decisions in which the first two would do different things."""
    divergence: Tensor
    """`[S]` Jensen-Shannon divergence of the first two, nats."""
    critical: tuple[Tensor, ...]
    """For each seed the critical gains of all decisions; infinite where no weight changes the action."""


def listen(policies: Sequence[Policy], episodes: int, split: Split = "test", order: Tensor | None = None) -> Voices:
    """Let the primary play and hear what all policies say; arguments as those of `moments`."""
    heard = list(moments(policies, alone(0), episodes, split, order))
    steps = torch.stack([moment.policies for moment in heard], 1)  # [M, T, B, N, A]
    said = steps.unflatten(2, (-1, episodes)).movedim(2, 0)  # [S, M, T, E, N, A]
    running = torch.stack([moment.running for moment in heard]).unflatten(1, (-1, episodes)).movedim(1, 0)  # [S, T, E]
    voices = [one[:, these].flatten(1, 2) for one, these in zip(said, running, strict=True)]  # [M, decision, A] each
    pairs = []
    for one in voices:
        several = (one > 0).sum(-1).amax(0) > 1
        pairs.append((one[0][several], one[1][several]))
    return Voices(
        torch.stack([one.amax(-1).mean(-1) for one in voices], 1),
        torch.stack([pools.entropy(one).mean(-1) for one in voices], 1),
        torch.stack([one.sort(-1, descending=True).values.mean(-2) for one in voices], 1),
        torch.stack([pools.disagreement(*pair).float().mean() for pair in pairs]),
        torch.stack([pools.jensen_shannon(*pair).mean() for pair in pairs]),
        tuple(pools.critical_gain(*pair) for pair in pairs),
    )
