"""The book's figures: one style, one colour per algorithm, and the two things every chapter draws."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes

from inconcert import stats

PALETTE: list[str] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"]
"""Okabe and Ito's colours, told apart with every common kind of colour vision."""

COLOURS: dict[str, str] = {
    "mappo": PALETTE[0], "magpo": PALETTE[1], "ctds": PALETTE[2], "happo": PALETTE[3], "mat": PALETTE[4],
    "sable": PALETTE[5],
}  # fmt: skip
"""Each algorithm keeps its colour throughout the book."""

NAMES: dict[str, str] = {
    "magpo": "MAGPO", "ctds": "CTDS", "happo": "HAPPO", "mappo": "MAPPO", "mat": "MAT", "sable": "Sable",
}  # fmt: skip
"""As the MAGPO paper writes them, in the order of its Table 1."""

CTCE: frozenset[str] = frozenset({"mat", "sable"})
"""Algorithms whose agents are told each other's actions when they play; drawn with dashed lines."""

MARKERS: dict[str, str] = {"magpo": "o", "ctds": "s", "happo": "^", "mappo": "D", "mat": "v", "sable": "P"}
"""A second sign beside the colour, for print without colours."""


def use_style() -> None:
    """Set the book's matplotlib style: readable on a phone (390 px) and on a dark page (own light background)."""
    mpl.rcParams.update(
        {
            "figure.figsize": (5.6, 3.6), "figure.dpi": 150, "figure.facecolor": "#ffffff",
            "figure.constrained_layout.use": True, "savefig.bbox": "tight",
            "font.size": 11, "font.family": "DejaVu Sans", "axes.titlesize": 11, "axes.labelsize": 11,
            "legend.fontsize": 9.5, "legend.frameon": False, "xtick.labelsize": 10, "ytick.labelsize": 10,
            "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd",
            "grid.linewidth": 0.6, "axes.axisbelow": True, "lines.linewidth": 1.8, "image.cmap": "cividis",
            "axes.prop_cycle": cycler(color=PALETTE),
        }
    )  # fmt: skip


def line_of(algorithm: str) -> str:
    """Dashed for centralised execution, as in the paper."""
    return "--" if algorithm in CTCE else "-"


def learning_curve(
    ax: Axes, curve: pd.DataFrame, label: str, colour: str, seed: int = 0, style: str = "-", runs: bool = True
) -> None:
    """Draw `records.curve`: mean over seeds, its 95 % bootstrap interval as a band, with `runs` each seed as a line."""
    table = curve.pivot_table(index="env_steps", columns="seed", values="mean_return")
    steps = table.index.to_numpy() / 1e6
    low, high = zip(*(_interval(row.to_numpy(), seed) for _, row in table.iterrows()), strict=True)
    if runs:
        ax.plot(steps, table.to_numpy(), color=colour, linewidth=0.6, alpha=0.45)
    ax.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    ax.plot(steps, table.mean(axis=1), color=colour, label=label, linestyle=style)


def dots(
    ax: Axes, position: float, scores: np.ndarray, colour: str, marker: str = "o", label: str | None = None
) -> None:
    """One group of runs at x = `position`: each run as a pale sign, their mean, and its 95 % t interval as a bar."""
    spread = np.linspace(-0.12, 0.12, len(scores)) if len(scores) > 1 else np.zeros(1)
    ax.plot(position + spread, scores, marker, color=colour, alpha=0.45, markersize=4, markeredgewidth=0)
    if len(scores) > 1:
        interval = stats.mean_ci(scores, method="t")
        ax.plot([position] * 2, [interval.low, interval.high], color=colour, linewidth=1.4)
    ax.plot([position], [scores.mean()], marker, color=colour, markersize=7.5, markeredgecolor="#ffffff", label=label)


def sweep(ax: Axes, scores: pd.DataFrame, values: Sequence[float], algorithm: str, shift: float = 0.0) -> None:
    """Closing scores of `sweeps.Found.scores` against the values of a setting, evenly spaced, with a line of means.

    Args:
        values: all values of the axis, in order; those without a record leave a gap.
        shift: moves the signs sideways, where several algorithms share the axis.
    """
    colour, marker = COLOURS[algorithm], MARKERS[algorithm]
    groups = {value: group["score"].to_numpy(dtype=float) for value, group in scores.groupby("value")}
    places = [place for place, value in enumerate(values) if value in groups]
    for place in places:
        dots(ax, place + shift, groups[values[place]], colour, marker)
    means = [groups[values[place]].mean() for place in places]
    ax.plot([place + shift for place in places], means, color=colour, linestyle=line_of(algorithm), linewidth=1.2,
            marker=marker, markersize=0, label=NAMES[algorithm])  # fmt: skip
    ax.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    ax.set_xlim(-0.5, len(values) - 0.5)


def sweep_curves(ax: Axes, curves: pd.DataFrame, values: Sequence[float]) -> None:
    """Learning curves of `sweeps.Found.curves` of one algorithm, a shade for each value, dark to light."""
    shades = mpl.colormaps["cividis"](np.linspace(0, 0.85, len(values)))
    styles = ["-", "--", "-.", ":"]  # neighbouring shades differ in a second way
    for place, value in enumerate(values):
        own = curves[curves["value"] == value]
        if len(own):
            colour = mpl.colors.to_hex(shades[place])
            learning_curve(ax, own, f"{value:g}", colour, style=styles[place % len(styles)], runs=False)


def no_record(ax: Axes) -> None:
    """Say in an empty panel why it is empty."""
    ax.set_xticks([])
    ax.text(0.5, 0.5, "no record yet", transform=ax.transAxes, ha="center", va="center", color="#666666")


def _interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    interval = stats.mean_ci(values, seed=seed)
    return interval.low, interval.high


def reference_line(ax: Axes, value: float, label: str, colour: str = "#555555", style: str = "--") -> None:
    """A horizontal line for a number that is not a curve: a scripted player, a printed value."""
    ax.axhline(value, color=colour, linestyle=style, linewidth=1.2, label=label)
