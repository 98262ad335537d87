# CTDS, page by page: book/magpo/ctds.md
"""Centralised teacher, decentralised students: a joint policy learns alone, independent actors imitate it.

The MAGPO paper's baseline (section 5): MAGPO without double clip, without the KL mask and without the learner's own RL
term. The teacher is never asked to stay imitable, so delta is infinite and nothing in its loss knows the students. The
authors published neither code nor settings for it; the settings here are those of MAGPO in all that both have.
"""

from __future__ import annotations

import math
from typing import Any

from inconcert import onpolicy
from inconcert.algorithms import magpo
from inconcert.algorithms.magpo import Config, Learner, restore, train

__all__ = ["VARIANTS", "Config", "Learner", "configure", "restore", "train"]

ALONE: dict[str, Any] = {"delta": math.inf, "rl_lambda": 0.0}
"""What makes MAGPO a teacher with students."""

VARIANTS: dict[str, dict[str, Any]] = onpolicy.variants(
    {name: change for name, change in magpo.AUXILIARY.items() if change["rl_lambda"]}, onpolicy.ACTOR_SIZES
)
"""Named departures from a tier's setting: the auxiliary loss of Figure 5, the actors' size of Figure 6."""


def configure(task: str, tier: str, variant: str = "", **changes: Any) -> Config:
    """The setting of a tier ("smoke", "laptop", "paper") for a task, a named variant, and single changes on top."""
    tiers = {name: {**setting, **ALONE} for name, setting in magpo.tiers(task).items()}
    return onpolicy.choose_setting(Config, tiers, VARIANTS, task, tier, variant, changes)
