"""Made-up run records, for tests of the pages that read real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from inconcert import records
from inconcert.evaluate import Evaluation, Phase

POINTS = (0, 12, 24, 36)
STEPS_PER_UPDATE = 3200


def write(
    folder: Path,
    task: str,
    algorithm: str,
    variant: str = "",
    tier: str = "laptop",
    level: float = 100.0,
    seeds: int = 5,
    modes: tuple[str, ...] = ("sampled", "greedy"),
) -> Path:
    """A record whose seeds end around `level` (greedy 5 higher, last 2 lower) after a straight rise from 0."""
    random = torch.Generator().manual_seed(round(level * 100))

    def evaluation(update: int, phase: Phase, mean: float) -> Evaluation:
        shift = torch.arange(seeds).unsqueeze(1) - (seeds - 1) / 2
        outcomes = {}
        for mode in (*modes, "guider") if phase == "curve" and algorithm in ("magpo", "ctds") else modes:
            noise = torch.randn(seeds, 4, generator=random)
            outcomes[mode] = {"episode_return": mean + shift + noise + (5 if mode == "greedy" else 0)}
        return Evaluation(update, update * STEPS_PER_UPDATE, phase, outcomes)

    points = [evaluation(update, "curve", level * update / POINTS[-1]) for update in POINTS]
    points += [evaluation(POINTS[-1], "best", level), evaluation(POINTS[-1], "last", level - 2)]
    frame = pd.concat([records.tabulate(point, tuple(range(seeds)), 1.0) for point in points], ignore_index=True)
    meta = {
        "task": task, "algorithm": algorithm, "variant": variant, "tier": tier, "changes": {}, "config": {},
        "fingerprint": {"code": "0", "config": "0"}, "digest": records.digest(frame), "groups": [[0]],
        "commit": "0123456789ab", "versions": {}, "hardware": "a made-up machine", "date": "2026-11-21",
        "wall_s": 600.0, "cpu_s": 1200.0,
    }  # fmt: skip
    path = folder / records.relative_path(task, algorithm, tier, variant)
    records.write_atomic(path, records.to_bytes(frame, meta))
    return path


def scores_of(path: Path) -> np.ndarray:
    """The closing scores (best, sampled) that a made-up record holds."""
    return records.final(records.read(path)).to_numpy()
