"""How a policy is evaluated: masked action choice, whole episodes, and what an algorithm yields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from inconcert import envs, stacked

Mode = Literal["sampled", "greedy"]
Phase = Literal["curve", "best", "last"]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Evaluation:
    """What `train(config)` yields: one evaluation of all seeds, and the state to continue from.

    Attributes:
        update: updates that the evaluated parameters have had.
        env_steps: environment steps per seed at which this evaluation is drawn (the label of the x axis).
        phase: "curve" during training; at the end "best" (the absolute metric of Colas et al. 2018: best parameters
            of the curve, fresh and more episodes) and "last" (final parameters, same episodes).
        outcomes: mode -> quantity ("episode_return", "won", ...) -> `[S, episodes]`. On the curve also "guider",
            where a policy that is not deployed gathers the data: its own sampled episodes.
        metrics: training diagnostics since the previous evaluation, `[S]` each; empty before the first update.
        state: call it before asking for the next evaluation; returns flat tensors that `train(config, state=...)`
            continues from, bit for bit on a CPU.
    """

    update: int
    env_steps: int
    phase: Phase
    outcomes: dict[str, dict[str, Tensor]]
    metrics: dict[str, Tensor] = field(default_factory=dict)
    state: Callable[[], State] = dict


class Diverged(RuntimeError):
    """A loss term became NaN or infinite; names the seed, the update and the term."""


def check_finite(metrics: dict[str, Tensor], seeds: Sequence[int], update: int) -> None:
    """Raise `Diverged` if any `[S]` entry of `metrics` is not finite."""
    for term, values in metrics.items():
        bad = (~torch.isfinite(values)).nonzero().flatten().tolist()
        if bad:
            raise Diverged(f"seed {seeds[bad[0]]}, update {update}: {term} is {values[bad[0]].item()}")


def masked_log_softmax(logits: Tensor, available: Tensor) -> Tensor:
    """Log-probabilities `[..., A]`; an unavailable action has probability exactly 0 (log-probability -inf)."""
    return logits.masked_fill(~available, -torch.inf).log_softmax(-1)


def choose(log_probs: Tensor, uniform: Tensor | None) -> Tensor:
    """Actions from log-probabilities: greedy, or sampled by inverting the distribution function.

    Args:
        log_probs: `[..., A]`, -inf where an action is not available.
        uniform: `[...]` numbers in [0, 1) to sample with; None takes the most probable action.

    Returns:
        `[...]` int64 actions; one of probability 0 is never returned.
    """
    if uniform is None:
        return log_probs.argmax(-1)
    cumulative = log_probs.exp().cumsum(-1)
    total = cumulative[..., -1:]
    # u * total may round up to total, which would lie beyond the last action of positive probability
    threshold = torch.minimum(uniform.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
    return (cumulative <= threshold).sum(-1)


class Player(Protocol):
    """Something that acts for all seeds at once and may remember: `memory` is opaque to the caller."""

    def __call__(self, step: envs.Step, start: Tensor, memory: Any, uniform: Tensor | None) -> tuple[Tensor, Any]:
        """Actions `[S, E, N]` and the next memory.

        Args:
            step: observations of `S * E` rows, seed-major.
            start: `[S, E]` bool, True where an episode begins.
            memory: None at first, then whatever the last call returned.
            uniform: `[S, E, N]` numbers to sample with, None for greedy.
        """
        ...


@torch.no_grad()
def play(
    player: Player,
    task: str,
    options: dict[str, Any],
    seeds: Sequence[int],
    episodes: int,
    purpose: str,
    index: int = 0,
    mode: Mode = "sampled",
    device: str = "cpu",
) -> dict[str, Tensor]:
    """Play `episodes` whole episodes per seed on fresh environments; the first episode of every row counts.

    Random numbers depend on (seed, purpose, index) only: an evaluation can be repeated exactly, and greedy and
    sampled players meet the same episodes.

    Returns:
        quantity -> `[S, episodes]`; always "episode_return" (mean over agents), plus the task's metric.
    """
    rows = len(seeds), episodes
    env = envs.make(
        task, episodes, [stacked.derive(seed, f"{purpose} environment", index) for seed in seeds], device, **options
    )
    names = sorted({"episode_return", env.spec.metric})
    outcomes = {name: torch.zeros(rows[0] * rows[1], device=device) for name in names}
    streams = stacked.generators(stacked.derive(seed, f"{purpose} actions", index) for seed in seeds)
    finished = torch.zeros(rows[0] * rows[1], dtype=torch.bool, device=device)
    start = torch.ones(rows, dtype=torch.bool, device=device)
    memory: Any = None
    step = env.reset()
    for t in range(1, 10**9):
        uniform = None
        if mode == "sampled":
            draws = [torch.rand(episodes, env.spec.num_agents, generator=stream) for stream in streams]
            uniform = torch.stack(draws).to(device)
        actions, memory = player(step, start, memory, uniform)
        step = env.step(actions.flatten(0, 1))
        ended = step.terminated | step.truncated
        for name in names:
            outcomes[name] = torch.where(ended & ~finished, step.info[name].to(outcomes[name].dtype), outcomes[name])
        finished |= ended
        start = ended.view(rows)
        # asking whether all rows are done waits for the device: not at every step
        if (t % 25 == 0 or t == env.spec.episode_limit) and bool(finished.all()):
            break
    return {name: values.view(rows).cpu() for name, values in outcomes.items()}
