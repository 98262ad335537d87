"""What the pages of the JAX suites do in the same way: sizes, returns, conformance, speed, learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.axes import Axes
from torch import Tensor

from inconcert import envs, plots, published, records, stats
from inconcert.envs import jax_players, jax_reference

LEFT: Any = {"text-align": "left", "white-space": "normal"}
Outcomes = dict[tuple[str, str], dict[str, Tensor]]
"""(task, player) -> what `jax_players.play` gives."""


def sizes(suite: str) -> pd.DataFrame:
    """The numbers of the spec, a row for each task of a suite."""
    specs = {task: envs.make(task, 1).spec for task in envs.tasks(suite)}
    rows = {
        _name(task): {
            "agents N": spec.num_agents,
            "actions A": spec.num_actions,
            "observation": spec.obs_size,
            "state": spec.state_size,
            "longest episode": spec.episode_limit,
        }
        for task, spec in specs.items()
    }
    return _table(rows, "task")


def players(task: str) -> tuple[str, str]:
    """The two players of a task: random, and the script of its suite."""
    return "random", jax_players.SUITE_SCRIPT[task.partition("/")[0]]


def interval(values: Tensor) -> stats.Interval:
    """Mean of [episodes] numbers with its 95 % Student t interval."""
    return stats.mean_ci(values.double().numpy(), method="t")


def spell(found: stats.Interval, digits: int = 2) -> str:
    """An interval as text: the estimate and half of its width."""
    return f"{found.estimate:.{digits}f} ± {(found.high - found.low) / 2:.{digits}f}"


def play_all(tasks: Sequence[str], episodes: int, seed: int) -> Outcomes:
    """Play both players on all `tasks`, `episodes` each."""
    return {(task, name): jax_players.play(name, task, episodes, seed) for task in tasks for name in players(task)}


def returns(found: Outcomes, shares: Sequence[str] = ()) -> pd.DataFrame:
    """What the players earned, with the entries `shares` as percentages, and what MAGPO's paper prints for MAPPO."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    printed = published.load("magpo", 1)
    printed = printed[printed["column"] == "MAPPO"].set_index("row")
    for task in dict.fromkeys(task for task, _ in found):
        for name in players(task):
            outcome = found[task, name]
            means = {share: f"{float(outcome[share].double().mean()):.0%}" for share in shares}
            steps = float(outcome["episode_length"].double().mean())
            rows[_name(task), name] = {"return": spell(interval(outcome["episode_return"])), **means}
            rows[_name(task), name]["steps"] = f"{steps:.0f}"
        if _name(task) in printed.index:
            value, spread = printed.loc[_name(task), ["value", "spread"]].astype(float)
            won = envs.make(task, 1).spec.metric == "won"
            cell = {"won": f"{value:.0%} ± {spread:.0%}"} if won else {"return": f"{value:.2f} ± {spread:.2f}"}
            rows[_name(task), "MAPPO (published)"] = cell
    return _table(rows, ["task", "player"])


def promised(checks: Sequence[dict[str, bool]]) -> Any:
    """A table of promises and in how many of the `checks` (promise -> kept) each was kept.

    Raises:
        AssertionError: not in all.
    """
    summary = {promise: f"{sum(one[promise] for one in checks)} of {len(checks)}" for promise in checks[0]}
    assert all(all(one.values()) for one in checks), summary
    return pd.DataFrame({"kept in": summary}).style.set_properties(None, **LEFT)


def held_to_the_package(tasks: Sequence[str], copies: int, steps: int, seed: int) -> tuple[int, float]:
    """Play beside the package and show how far the two are apart.

    Returns:
        The episodes played, and the largest difference.

    Raises:
        AssertionError: a difference of 1e-4 or more.
    """
    rows, total, worst = {}, 0, 0.0
    for task in tasks:
        env: Any = envs.make(task, copies, seed)
        apart, ended = 0.0, 0
        for step, shown in jax_reference.side_by_side(env, steps, seed):
            apart = max(apart, jax_reference.difference(env, step, shown))
            ended += int((step.terminated | step.truncated).sum())
        rows[_name(task)] = {
            "episodes": f"{ended:,}",
            "steps": f"{copies * steps:,}",
            "largest difference": f"{apart:.1e}",
        }
        total, worst = total + ended, max(worst, apart)
    display(_table(rows, "task"))
    assert worst < 1e-4, f"a difference of {worst} to the package"
    return total, worst


def speed(tasks: Sequence[str], copies: int, seconds: float = 1.0, slice_steps: int = 20) -> tuple[float, float]:
    """Show env-steps per second of processor time through the bridge and within the suite.

    Returns:
        The first task's through the bridge, and the largest ratio of the second to the first.
    """
    rows, paces, ratios = {}, [], []
    for task in tasks:
        env: Any = envs.make(task, copies)
        ours, theirs = jax_reference.rates(env, slice_steps, seconds)
        paces.append(ours)
        ratios.append(theirs / ours)
        rows[_name(task)] = {
            "copies": copies,
            "through the bridge": f"{ours / 1e3:,.0f}",
            "the suite's own loop": f"{theirs / 1e3:,.0f}",
            "suite / bridge": f"{ratios[-1]:.2f}",
        }
    display(_table(rows, "task"))
    return paces[0], max(ratios)


def learned(
    tasks: Sequence[str], found: Outcomes, metric: str, share: str = "", beside: Sequence[str] | None = None
) -> None:
    """Draw MAPPO's laptop records of `tasks` beside the players; where there are none, say what makes one.

    A table has the final scores, those of `share` too, if it is given, as percentages. `beside` names the players that
    are drawn, where not both.
    """
    trained = {}
    for task in tasks:
        try:
            trained[task] = records.load(task, "mappo", "laptop")
        except records.MissingRecord:
            continue
    if not trained:
        display(Markdown("*No record yet.* Make one with:"))
        display(Markdown(f"```bash\n{records.command(tasks[0], 'mappo', 'laptop')}\n```"))
        return
    axes = plt.subplots(len(trained), 1, figsize=(5.4, 2.8 * len(trained)), squeeze=False)[1][:, 0]
    rows, label = {}, metric.replace("_", " ")
    for axis, (task, record) in zip(axes, trained.items(), strict=True):
        plots.learning_curve(axis, records.curve(record, metric=metric), "MAPPO, sampled", plots.COLOURS["mappo"])
        for name, style in zip(players(task), (":", "--"), strict=True):
            if beside is None or name in beside:
                plots.reference_line(axis, float(found[task, name][metric].double().mean()), name, style=style)
        axis.set(title=f"{task}, {len(record.seeds)} seeds", ylabel=label, xlabel="million env-steps")
        scores = records.final(record, metric=metric).to_numpy(dtype=float)
        best = spell(stats.mean_ci(scores, method="t")) if len(scores) > 1 else f"{scores.mean():.2f}"
        rows[_name(task)] = {"tier": record.tier, "seeds": len(scores), f"{label}, best parameters": best}
        if share:
            rows[_name(task)][share] = f"{records.final(record, metric=share).mean():.0%}"
        rows[_name(task)]["stamp"] = record.freshness()
    axes[0].legend()
    plt.show()
    display(_table(rows, "task"))


def board(axis: Axes, rows: int, columns: int, title: str) -> None:
    """An empty board, row 0 above, in which cell (r, c) has its middle at x = c, y = r."""
    axis.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal", title=title)
    axis.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axis.set(xticks=[], yticks=[])
    axis.grid(which="minor", color="#cccccc", linewidth=0.5)
    axis.tick_params(which="minor", length=0)
    axis.spines[:].set(visible=True, linewidth=0.6)


def _name(task: str) -> str:
    return task.partition("/")[2]


def _table(rows: dict[Any, dict[str, Any]], names: str | list[str]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(names).fillna("")
