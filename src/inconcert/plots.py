"""The book's figures: one style, one colour per algorithm, and the two things every chapter draws."""

from __future__ import annotations

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


def learning_curve(ax: Axes, curve: pd.DataFrame, label: str, colour: str, seed: int = 0) -> None:
    """Draw `records.curve`: mean over seeds, its 95 % bootstrap interval as a band, and each seed as a thin line."""
    table = curve.pivot_table(index="env_steps", columns="seed", values="mean_return")
    steps = table.index.to_numpy() / 1e6
    low, high = zip(*(_interval(row.to_numpy(), seed) for _, row in table.iterrows()), strict=True)
    ax.plot(steps, table.to_numpy(), color=colour, linewidth=0.6, alpha=0.45)
    ax.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    ax.plot(steps, table.mean(axis=1), color=colour, label=label)


def _interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    interval = stats.mean_ci(values, seed=seed)
    return interval.low, interval.high


def reference_line(ax: Axes, value: float, label: str, colour: str = "#555555", style: str = "--") -> None:
    """A horizontal line for a number that is not a curve: a scripted player, a printed value."""
    ax.axhline(value, color=colour, linestyle=style, linewidth=1.2, label=label)
