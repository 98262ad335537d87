"""What an anatomy page does live: a short run in front of the reader, and the signs of how it goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from inconcert import envs, joint, onpolicy
from inconcert.evaluate import Player

SIGNS: dict[str, str] = {
    "entropy": "entropy of the\nplaying policy (nats)",
    "learner_entropy": "entropy of the\nlearners (nats)",
    "imitation": "KL between guider\nand learners (nats)",
    "masked": "share of actions\noutside the band",
    "kl": "policy change in\nan update (nats)",
    "clipped": "share of ratios\nbeyond the clip",
    "factor_spread": "spread of the\nfactor M",
    "explained_variance": "explained variance\nof the values",
    "policy_loss": "policy loss",
    "value_loss": "value loss",
}
"""Diagnostics of training and how they are written at an axis; gradient norms are named for their network."""


@dataclass(frozen=True)
class Run:
    """A live run."""

    curve: pd.DataFrame
    """Columns mode ("sampled", "greedy", "guider"), seed, env_steps, mean_return."""
    signs: pd.DataFrame
    """Columns sign, seed, env_steps, value: means over the updates since the point before."""
    closing: dict[str, float]
    """Mean return of the best and of the last parameters, sampled actions."""
    seconds: float
    player: Player
    """The deployed policy of all seeds, best parameters."""


def train(module: Any, config: Any) -> Run:
    """Train `config` with an algorithm's module to the end, with a progress bar."""
    started = time.perf_counter()
    points: list[pd.DataFrame] = []
    signs: list[pd.DataFrame] = []
    closing: dict[str, float] = {}
    bar = tqdm(total=config.updates, desc="updates", mininterval=0.5)
    for evaluation in module.train(config):
        played = {mode: outcome for mode, outcome in evaluation.outcomes.items() if "episode_return" in outcome}
        returns = {mode: outcome["episode_return"].mean(1) for mode, outcome in played.items()}
        if evaluation.phase != "curve":
            closing[evaluation.phase] = returns["sampled"].mean().item()
            continue
        bar.update(evaluation.update - bar.n)
        bar.set_postfix(episode_return=f"{returns['sampled'].mean():.1f}")
        steps = evaluation.env_steps
        points += [_rows(config, values, steps, mode=mode, name="mean_return") for mode, values in returns.items()]
        signs += [_rows(config, values, steps, sign=sign, name="value") for sign, values in evaluation.metrics.items()]
    bar.close()
    best = {key.removeprefix("best."): value for key, value in evaluation.state().items() if key.startswith("best.")}
    player = module.restore(config, best)
    seconds = time.perf_counter() - started
    return Run(pd.concat(points, ignore_index=True), pd.concat(signs, ignore_index=True), closing, seconds, player)


def _rows(config: Any, values: Tensor, env_steps: int, name: str, **labels: str) -> pd.DataFrame:
    return pd.DataFrame({**labels, "seed": list(config.seeds), "env_steps": env_steps, name: values.cpu().numpy()})


def parameters(networks: dict[str, torch.nn.Module]) -> pd.DataFrame:
    """A row per parameter: its shape, the stack axis G first, and how many numbers that is."""
    rows = [
        {"network": which, "parameter": name, "shape [G, ...]": tuple(value.shape), "numbers": value.numel()}
        for which, network in networks.items()
        for name, value in network.named_parameters()
    ]
    return pd.DataFrame(rows).set_index(["network", "parameter"])


def draw_signs(signs: pd.DataFrame, skip: Sequence[str] = ("policy_loss",)) -> Figure:
    """Small panels, one for each sign: every seed as a thin line and their mean, against environment steps."""
    names = [name for name in dict.fromkeys(signs["sign"]) if name not in skip]
    rows = (len(names) + 1) // 2
    figure, panels = plt.subplots(rows, 2, figsize=(5.4, 1.75 * rows), sharex=True, squeeze=False)
    for ax, name in zip(panels.flat, names, strict=False):
        table = signs[signs["sign"] == name].pivot_table(index="env_steps", columns="seed", values="value")
        steps = table.index.to_numpy() / 1e3
        ax.plot(steps, table.to_numpy(), color="#0072B2", linewidth=0.7, alpha=0.5)
        ax.plot(steps, table.mean(axis=1), "o-", color="#0072B2", markersize=3)
        which = name.removesuffix("_grad_norm")
        ax.set_title(SIGNS.get(name, f"gradient norm,\n{which}"), fontsize=9.5)
        ax.tick_params(labelsize=9)
    for ax in panels.flat[len(names) :]:
        ax.set_visible(False)
    for ax in panels[-1]:
        ax.set_xlabel("env. steps (thousands)", fontsize=9.5)
    return figure


@dataclass(frozen=True)
class Price:
    """What the training updates of an algorithm cost."""

    shares: pd.Series
    """Share of the processor time by part, summing to 1."""
    rate: float
    """Environment steps (of all seeds together) per second of processor time, evaluations left out."""


def price(build: Callable[[Any, envs.Spec, str], onpolicy.Learner], config: Any, updates: int = 2) -> Price:
    """Processor time of a few updates on the CPU, by what it is spent on; a first update is not counted."""
    env = envs.make(config.task, config.num_envs, config.seeds, "cpu", **config.env_options)
    learner = build(config, env.spec, "cpu")
    spent: defaultdict[str, float] = defaultdict(float)

    def watch(owner: Any, method: str, part: str) -> None:
        original = getattr(owner, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.process_time()
            result = original(*arguments, **named)
            spent[part] += time.process_time() - started
            return result

        setattr(owner, method, timed)

    watch(env, "step", "environment")
    watch(learner, "act", "choosing actions")
    watch(learner.optimiser, "step", "optimiser")
    now: dict[str, Any] = {
        "step": env.reset(),
        "start": torch.ones(len(config.seeds), config.num_envs, dtype=torch.bool),
        **learner.memories(config.num_envs),
    }
    playing, learning = 0.0, 0.0
    for index in range(updates + 1):
        if index == 1:
            spent.clear()
            playing, learning = 0.0, 0.0
        started = time.process_time()
        data = onpolicy.collect(learner, env, now, index)
        played = time.process_time()
        learner.learn(data, index)
        playing, learning = playing + played - started, learning + time.process_time() - played
    parts = {
        "choosing actions": spent["choosing actions"],
        "environment": spent["environment"],
        "keeping the rollout, advantages": playing - spent["choosing actions"] - spent["environment"],
        "minibatches, losses, gradients": learning - spent["optimiser"],
        "optimiser": spent["optimiser"],
    }
    total = playing + learning
    steps = updates * config.steps_per_update * len(config.seeds)
    return Price(pd.Series(parts, name="share of the time") / total, steps / total)


@torch.no_grad()
def influence(player: joint.Player, task: str, options: dict[str, Any], rows: int = 64) -> np.ndarray:
    """How strongly an agent's distribution answers to another agent's action: `[N, N]`.

    Entry (j, k) is the mean total variation distance that agent j's action distribution moves when the action of
    agent k, and nothing else, is replaced by another one, in the first moment of an episode; mean over seeds and `rows`
    situations. An autoregressive policy has zeros on and above the diagonal.
    """
    model = player.model
    env = envs.make(task, rows, list(range(model.seeds)), **options)
    obs = player.observe(env.reset().obs).unsqueeze(1)  # [S, 1, B, N, I]
    generator = torch.Generator().manual_seed(0)
    shape = (model.seeds, 1, rows, model.agents)
    action = torch.randint(model.actions, shape, generator=generator)
    others = (action + torch.randint(1, model.actions, shape, generator=generator)) % model.actions
    available = torch.ones(*shape, model.actions, dtype=torch.bool)
    start = torch.ones(shape[:3], dtype=torch.bool)

    def chances(chosen: Tensor) -> Tensor:
        return model(obs, available, chosen, model.blank(rows), start)[0].exp()

    before = chances(action)
    columns = []
    for k in range(model.agents):
        changed = action.clone()
        changed[..., k] = others[..., k]
        columns.append(0.5 * (chances(changed) - before).abs().sum(-1).flatten(0, 2).mean(0))  # [N]
    return torch.stack(columns, dim=-1).numpy()
