"""What the record of the fusions says: the gains of players, and what they go with (KPF chapter).

Reading alone: nothing here decides what was played, so that a change leaves the record fresh.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from inconcert import fused, records, stats
from inconcert.config import unknown
from inconcert.fusion_trials import CASES, CONSTANT, KEYS, KPF, Case, best, kind


def of(frame: pd.DataFrame, case: Case, split: fused.Split = "test") -> pd.DataFrame:
    """The rows of a case.

    Raises:
        MissingRecord: it is not played yet.
    """
    keys = {**dict(zip(KEYS, case.key, strict=True)), "split": split}
    found = frame[np.logical_and.reduce([frame[name] == value for name, value in keys.items()])]
    if found.empty:
        task, team, checkpoint = case.key
        raise records.MissingRecord(
            f"{team} ({checkpoint}) is not fused on {task} yet; do it with: {kind(task).command}"
        )
    return found


PLAYERS: dict[str, tuple[str, ...]] = {"tuned KPF": KPF, "tuned weight": CONSTANT}
"""Players that are chosen on validation episodes, and the families that they are chosen from."""
PARENT = "better parent"
"""The primary, which is the better parent on validation episodes."""


def chosen(frame: pd.DataFrame, case: Case, player: str) -> str:
    """The name in the record that a player stands for: arguments as those of `gains`."""
    if player in PLAYERS:
        return best(of(frame, case, "validation"), PLAYERS[player])
    return "primary" if player == PARENT else player


def gains(frame: pd.DataFrame, case: Case, player: str) -> np.ndarray:
    """`[S]` mean gains of a player over the better parent on test episodes.

    Args:
        player: a name in the record, a key of `PLAYERS`, or `PARENT`.

    Raises:
        InputError: an unknown player, or a case that is not played (`of`).
    """
    test = of(frame, case).sort_values("seed")
    own = test[test["name"] == chosen(frame, case, player)]
    if own.empty:
        raise unknown("player", player, dict.fromkeys([*PLAYERS, PARENT, *test["name"]]))
    return own["gain"].to_numpy(dtype=float)


DIFFERENCES: dict[str, str] = {
    "disagreement": "share of decisions in which the two would do different things",
    "divergence": "mean Jensen-Shannon divergence, nats",
    "peak of the primary": "its mean largest probability",
    "critical gain below 0.1": "share of decisions that a weight of 0.1 changes",
    "critical gain below 0.5": "share of decisions that a weight of 0.5 changes",
    "auxiliary better": "share of episodes in which the auxiliary earns more than the primary",
}
"""What the record says of how two policies differ."""


def pairs(frame: pd.DataFrame, *players: str) -> pd.DataFrame:
    """A row for each pair, moment and seed: its `KEYS`, the seed, `DIFFERENCES`, and the gains of `players`.

    Raises:
        MissingRecord: a pair is not played yet.
    """
    found = []
    for case in CASES:
        if len(case.team) == 2:
            rows = of(frame, case).query("family == 'difference'")
            table = rows.pivot_table(index="seed", columns="name", values="mean").reset_index()
            gain = {player: gains(frame, case, player) for player in players}
            found.append(table.assign(**dict(zip(KEYS, case.key, strict=True)), **gain))
    return pd.concat(found, ignore_index=True)


def association(frame: pd.DataFrame, measure: str, player: str) -> stats.Interval:
    """Rank correlation of a player's gain with a difference of the pairs, both ranked within their task.

    Pairs and moments of a task share the policies of a seed, so that the bootstrap draws seeds, task by task, and with
    each all that was played of it.

    Args:
        measure: a key of `DIFFERENCES`.
        player: as in `gains`.

    Raises:
        MissingRecord: as `pairs`.
    """
    points = pairs(frame, player)
    tables = {
        str(task): own.pivot_table(index=KEYS[1:], columns="seed", values=[measure, player])
        for task, own in points.groupby("task")
    }
    values = {task: np.stack([own[name].to_numpy() for name in (measure, player)]) for task, own in tables.items()}

    def correlation(drawn: Mapping[str, np.ndarray]) -> float:
        ranked = []
        for task, places in drawn.items():
            ranks = rankdata(values[task][:, :, np.asarray(places, dtype=int)].reshape(2, -1), axis=1)
            ranked.append(ranks - ranks.mean(1, keepdims=True))
        x, y = np.concatenate(ranked, 1)
        scale = float(np.sqrt((x @ x) * (y @ y)))
        return float(x @ y) / scale if scale else 0.0

    places = {task: np.arange(own.shape[2], dtype=float) for task, own in values.items()}
    return stats.bootstrap(places, correlation, reps=1000, vectorised=False)
