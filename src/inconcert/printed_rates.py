"""What the printed win rates of the KPF paper (Tables 3, 4 and 7) can and cannot show.

A row of Table 7 is one evaluation of one fused pair of policies under one setting: a number of wins in a number of
episodes. The paper prints rates in whole per cent and says "at least 100" episodes (section 4.1); every function here
takes that number as an argument. A group is a map and a seed: the same two policies under several settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats as distributions

from inconcert import published

EPISODES = 100
"""Episodes behind a printed rate."""


def rows() -> pd.DataFrame:
    """Table 7, a row per setting: `group`, `map`, `seed`, `alpha`, `noise`, `first` and `second` (the win rates of the
    pair as printed, in (0, 1]), `rate` of the fused policy in [0, 1]."""
    printed = published.load("kpf", 7)
    return pd.DataFrame(
        {
            "group": printed["map"] + ", seed " + printed["seed"].astype(int).astype(str),
            "map": printed["map"], "seed": printed["seed"].astype(int), "alpha": printed["alpha"].astype(float),
            "noise": printed["noise_level"].astype(float), "first": printed["r2_first"].astype(float),
            "second": printed["r2_second"].astype(float), "rate": printed["value"].astype(float) / 100,
        }
    )  # fmt: skip


def wins(rates: pd.Series, episodes: int = EPISODES) -> np.ndarray:
    """Whole numbers of wins behind rates in [0, 1]."""
    return np.rint(rates.to_numpy(dtype=float) * episodes).astype(int)


class Heterogeneity(NamedTuple):
    """Do the settings of a group differ?"""

    pooled: float
    """Win rate over all its settings."""
    statistic: float
    """Pearson's chi squared."""
    p_value: float
    """Probability of at least that statistic if all settings are the same, the total of wins given."""


def heterogeneity(counts: np.ndarray, episodes: int = EPISODES, draws: int = 20_000, seed: int = 0) -> Heterogeneity:
    """Conditional test that all settings have one win rate (random tables with the same margins; no approximation).

    Args:
        counts: `[settings]` wins, of `episodes` each.
        draws: random tables that the p-value is computed from.
    """

    def chi_squared(table: np.ndarray) -> np.ndarray:
        expected = table.mean(axis=-1, keepdims=True)
        spread = expected * (1 - expected / episodes)
        return np.divide((table - expected) ** 2, spread, out=np.zeros(table.shape), where=spread > 0).sum(axis=-1)

    generator = np.random.default_rng(seed)
    found = float(chi_squared(counts.astype(float)))
    random = generator.multivariate_hypergeometric([episodes] * len(counts), int(counts.sum()), size=draws)
    as_large = int((chi_squared(random.astype(float)) >= found - 1e-9).sum())
    return Heterogeneity(float(counts.mean() / episodes), found, (as_large + 1) / (draws + 1))


def expected_best(rate: float, settings: int, episodes: int = EPISODES) -> float:
    """Expected rate of the best of several evaluations of one policy whose win rate is `rate`: the winner's curse."""
    below = distributions.binom.cdf(np.arange(episodes), episodes, rate) ** settings
    return float((1 - below).sum() / episodes)


def log_likelihood(rate: float, counts: np.ndarray, episodes: int = EPISODES) -> float:
    """Log-likelihood in nats of wins under one win rate for each evaluation."""
    return float(distributions.binom.logpmf(counts, episodes, rate).sum())


def episodes_to_resolve(rate: float, gain: float, power: float = 0.8, level: float = 0.05) -> int:
    """Episodes of each of two policies that resolve a difference `gain` above `rate` (two-sided z test, unpaired)."""
    other = rate + gain
    quantiles = distributions.norm.ppf(1 - level / 2) + distributions.norm.ppf(power)
    return int(np.ceil(quantiles**2 * (rate * (1 - rate) + other * (1 - other)) / gain**2))


def interval(count: int, episodes: int = EPISODES) -> tuple[float, float]:
    """Wilson's 95 % interval of a win rate."""
    found = distributions.binomtest(count, episodes).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def share_of_groups_that_differ(level: float = 0.05) -> float:
    """Share of the groups of Table 7 with several settings whose settings differ (paper, A.4: performance "is sensitive
    to hyperparameters"), Holm-corrected over the groups."""
    several = [part for _, part in rows().groupby("group", sort=False) if len(part) > 1]
    return _rejected([heterogeneity(wins(part["rate"])).p_value for part in several], level) / len(several)


def _rejected(p_values: Sequence[float], level: float) -> int:
    """How many hypotheses fall by Holm's procedure (1979)."""
    for index, value in enumerate(sorted(p_values)):
        if value > level / (len(p_values) - index):
            return index
    return len(p_values)


# ------------------------------------------------------------------------------------------------ Table 3, football

SEEDS = 5
"""Seeds behind a printed mean and standard deviation (section 4.1: "a minimum of five")."""


def football_gains(seeds: int = SEEDS, level: float = 0.95) -> pd.DataFrame:
    """Table 3 by scenario as printed: what KPF scores over the best other column, and whether the spread explains it.

    Args:
        seeds: behind every printed mean; its standard deviation is taken as that of a sample.
        level: of the Welch interval.

    Returns:
        Index `row` of the table; `scenario` (its name in the package), `kpf`, `rival` (best other column) and `best`
        (its rate), in per cent; `gain` in points with its interval `low` to `high`, and `p_value` of Welch's test.
    """
    found = {}
    for row, cells in published.load("kpf", 3).groupby("row", sort=False):
        rates = dict(zip(cells["column"], cells["value"].astype(float), strict=True))
        spreads = dict(zip(cells["column"], cells["spread"].astype(float), strict=True))
        rival = max(rates.keys() - {"KPF"}, key=lambda name: rates[name])
        pair = [_sample(rates[name], spreads[name], seeds) for name in ("KPF", rival)]
        test = distributions.ttest_ind(*pair, equal_var=False)
        low, high = test.confidence_interval(level)
        found[row] = {
            "scenario": cells["scenario"].iloc[0], "kpf": rates["KPF"], "rival": rival, "best": rates[rival],
            "gain": rates["KPF"] - rates[rival], "low": float(low), "high": float(high), "p_value": float(test.pvalue),
        }  # fmt: skip
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("row")


def _sample(mean: float, deviation: float, count: int) -> np.ndarray:
    """`[count]` numbers with this mean and standard deviation."""
    shape = np.linspace(-1, 1, count)
    return mean + deviation * shape / shape.std(ddof=1)


def share_of_football_gains_resolved(seeds: int = SEEDS, level: float = 0.05) -> float:
    """Share of the scenarios of Table 3 whose printed gain is more than its printed spread explains (paper, 4.2:
    "substantially surpassing"), Holm-corrected over the scenarios."""
    values = football_gains(seeds)["p_value"].tolist()
    return _rejected(values, level) / len(values)
