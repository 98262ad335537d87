# Ensemble-MIX, page by page: book/ensemble_mix/ensemble_mix.md
"""Ensemble-MIX (Danino and Shimkin): DOP with N critics for each agent, and four uses of the ensemble.

Weights k_i on the values that are bootstrapped from (Eqs 10 and 11), a bonus for exploring where the members' kurtosis
is high (Eqs 13 and 14), a reward for members that differ (Eqs 15 and 16), and actors that also learn from old data
(Eq 12). Each has a coefficient that switches it off at 0; with all at 0 and one member this is DOP, number for number.
The formulas are in `inconcert.ensemble`, the rest is `dop.py`.
Letters in the shape comments: as in `dop.py`; M counts the members, the paper's N.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from inconcert import ensemble, envs, offpolicy, onpolicy
from inconcert.algorithms import dop
from inconcert.config import InputError
from inconcert.evaluate import Evaluation, Player, State

__all__ = ["VARIANTS", "Config", "Learner", "configure", "restore", "train"]


@dataclass(frozen=True)
class Config(dop.Config):
    """Everything an Ensemble-MIX run depends on. Defaults: the paper's Table 1 on top of DOP's code."""

    members: int = 10
    """N: critics for each agent (Table 1: 10)."""
    weight_slope: float = 0.01
    """C_1 of the weights k_i (Eq 11; Table 1: 0.01); 0 makes them 1."""
    weight_signal: Literal["kurtosis", "excess", "variance"] = "kurtosis"
    """What k_i falls with: raw kurtosis (the text after Eq 11), excess kurtosis (section 2), or the variance."""
    bonus: float = 0.001
    """beta of the exploration (Eq 14; Table 1: 0.001); 0 adds nothing."""
    bonus_signal: Literal["kurtosis", "variance"] = "kurtosis"
    """What is added to the logits."""
    bonus_gate: Literal["printed", "corrected", "open"] = "printed"
    """When it is added: where the mean excess kurtosis is positive (Eq 13), where its unbiased estimate is, always."""
    bonus_scaling: Literal["raw", "unit"] = "raw"
    """raw: Eq 14. unit: the signal is first brought to standard deviation 1 over an agent's legal actions, so that
    kurtosis and variance can be compared at one beta."""
    diversity: float = 0.001
    """C_2 of the Bhattacharyya term (Eq 16; Table 1: 0.001); 0 leaves it out."""
    diversity_clip: float = 0.1
    """The term has no upper bound; beyond this its gradient stops (the authors' working copies clip at 0.1)."""
    off_actor: float = 0.5
    """nu of the actors' gradient (Eq 12; Table 1: 0.5); 0 uses new data only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.members < 1:
            raise InputError(f"members must be at least 1, not {self.members}")
        for name in ("weight_slope", "bonus", "diversity", "diversity_clip"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, but is {getattr(self, name)}")
        if not 0 <= self.off_actor <= 1:
            raise InputError(f"off_actor must be from 0 to 1, not {self.off_actor}")
        if self.bonus > 0 and self.bonus_gate == "corrected" and self.members < 4:
            raise InputError(f"the corrected gate needs at least 4 members, not {self.members}")


OFF: dict[str, Any] = {"weight_slope": 0.0, "bonus": 0.0, "diversity": 0.0, "off_actor": 0.0}
"""Nothing but the ensemble's mean; with one member, DOP."""
VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "plain": OFF,
    # each component alone missing, and each alone
    "no-weight": {"weight_slope": 0.0},
    "no-diversity": {"diversity": 0.0},
    "no-off-actor": {"off_actor": 0.0},
    "only-off-actor": OFF | {"off_actor": 0.5},
    # Figure 4: the mix of gradients; the signal to explore by
    "off-only": {"off_actor": 1.0},
    "variance": {"bonus_signal": "variance", "bonus_gate": "open"},
    "corrected": {"bonus_gate": "corrected"},
    # the same, scaled fairly: both signals ungated, one standard deviation moves a logit by 0.3
    **{
        f"unit-{signal}": {"bonus_signal": signal, "bonus_gate": "open", "bonus_scaling": "unit", "bonus": 0.3}
        for signal in ("kurtosis", "variance")
    },
    # Figure 6, and the controls that are missing there
    **{f"beta{value:g}": {"bonus": value * 0.001} for value in (0, 10, 100)},
    **{f"c{value:g}": {"on_weight": value} for value in (0.1, 0.9)},
    **{f"slope{value:g}": {"weight_slope": value} for value in (0.1, 1)},
    **{f"n{value}": {"members": value} for value in (1, 2, 5, 20)},
    "retrace": {"off_target": "retrace"},
    **offpolicy.VARIANTS,
}
"""Named departures from a tier's setting."""


def configure(task: str, tier: str, variant: str = "", **changes: Any) -> Config:
    """The setting of a tier ("smoke", "laptop", "paper") for a task, a named variant, and single changes on top."""
    return onpolicy.settle(Config, task, tier, dop.tiers(task), VARIANTS.get(variant, {}), changes)


class Learner(dop.Learner):
    """DOP's learner with what the ensemble adds."""

    config: Config

    def __init__(self, config: Config, spec: envs.Spec, device: str) -> None:
        super().__init__(config, spec, device, config.members, config.off_actor)

    def bonus(self, step: envs.Step, available: Tensor) -> Tensor | None:
        """beta kappa where the gate is open (Eqs 13 and 14); asks the critics, so only while training."""
        config = self.config
        if config.bonus == 0:
            return None
        obs, state = (x.unflatten(0, available.shape[:2]) for x in (step.obs, step.state))
        values = self.critics(obs, state).movedim(1, 0).movedim(2, -1)  # [M, S, E, N, A]
        corrected = config.bonus_gate == "corrected"
        gated = config.bonus_gate != "open"
        unit = config.bonus_scaling == "unit"
        more = ensemble.bonus(values, available, config.bonus, gated, config.bonus_signal, corrected, unit)
        most, least = more.amax(-1).flatten(1), more.masked_fill(~available, torch.inf).amin(-1).flatten(1)
        self.played.add({"gate_open": (most > 0).float().mean(1), "bonus_range": (most - least).mean(1)})
        return more

    def k(self, members: Tensor) -> tuple[Tensor | None, State]:
        """Weights of Eq 11."""
        config = self.config
        values = members.transpose(0, 1)
        spread = {"spread": values[:, :, :, 0].std(0, correction=0).flatten(1).mean(1)}  # in the pieces' first slots
        if config.weight_slope == 0:
            return None, spread
        k = ensemble.uncertainty_weight(values, config.weight_slope, config.weight_signal)
        flat = k.flatten(1)
        return k, spread | {"k_low": flat.amin(1), "k_mean": flat.mean(1), "k_high": flat.amax(1)}

    def diversity(self, members: Tensor, available: Tensor, filled: Tensor) -> tuple[Tensor | None, State]:
        """C_2 times the members' distances from their mean, summed over members and agents (Eqs 15 and 16)."""
        config = self.config
        if config.diversity == 0 or config.members == 1:
            return None, {}
        apart = ensemble.bhattacharyya(members.transpose(0, 1), available.movedim(-1, 1), 2)  # [M, S, T, B, N]
        term = config.diversity * offpolicy.filled_mean(apart.sum((0, -1)), filled)
        return term.clamp(max=config.diversity_clip), {"diversity": term.detach()}


def train(config: Config, device: str = "cpu", state: State | None = None) -> Iterator[Evaluation]:
    """Train all seeds side by side, yielding one `Evaluation` after another; see `offpolicy.train`."""
    return offpolicy.train(Learner, config, device, state)


def restore(config: Config, parameters: State, device: str = "cpu") -> Player:
    """The deployed policy of all seeds, from the actor parameters that a run saved."""
    return offpolicy.restore(Learner, config, parameters, device, on_capacity=1, on_batch=1)
