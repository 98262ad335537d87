"""Trained policies for experiments that do not train: fusing them, measuring how far apart they are, playing them.

A run leaves the best parameters of every seed beside its record, and those after the percentages of training in its
setting `keep`; `inconcert archive --policies` copies them to `data/policies/`, which ships with the book.

    policy = policies.load("mpe/simple_spread", "happo", variant="harl", seeds=(0, 1))
    p = policy.probabilities(step.obs, step.available)

Letters in shapes: S seed, E environment, N agent, O observation feature, A action.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inconcert import envs, records
from inconcert.actors import Actors
from inconcert.config import TIERS, InputError, check_fields, unknown


class Policy:
    """The decentralised policies of several seeds of one run. Rows are seed-major, as those of `inconcert.make`.

    Attributes:
        task, options: what it was trained on: `inconcert.make(policy.task, num_envs, policy.seeds, **policy.options)`.
        seeds: the chosen ones, S.
        recurrent: whether it remembers; then `step` is the only way to ask it.
        meta: how it came about: algorithm, variant, tier, checkpoint and the whole config of its run.
    """

    def __init__(self, actors: Actors, meta: dict[str, Any], seeds: tuple[int, ...]) -> None:
        self._actors = actors
        self.meta, self.seeds = meta, seeds
        self.task: str = meta["task"]
        self.options: dict[str, Any] = meta["config"]["env_options"]
        self.spec: envs.Spec = actors.spec
        self.recurrent = actors.network.memory > 0

    def step(self, obs: Tensor, available: Tensor, start: Tensor, memory: Any = None) -> tuple[Tensor, Any]:
        """Probabilities of one moment, `[S * E, N, A]`, and the next memory.

        Args:
            obs: `[S * E, N, O]`.
            available: `[S * E, N, A]` bool; other actions get probability 0.
            start: `[S * E]` bool, True where an episode begins.
            memory: None at first, then whatever the last call returned.

        Raises:
            InputError: the rows are not S times the same number.
        """
        if obs.shape[0] % len(self.seeds):
            raise InputError(f"the rows of {len(self.seeds)} seeds cannot be {obs.shape[0]}")
        start = start.unflatten(0, (len(self.seeds), -1))
        h = self._actors.blank(start.shape[1]) if memory is None else memory
        log_probs, h = self._actors.step(self._actors.observe(obs), available.unflatten(0, start.shape), start, h)
        return log_probs.exp().flatten(0, 1), h

    def probabilities(self, obs: Tensor, available: Tensor) -> Tensor:
        """What each agent would do, `[S * E, N, A]` float32, by a policy without memory; arguments as those of `step`.

        Raises:
            InputError: the policy is recurrent.
        """
        if self.recurrent:
            raise InputError("this policy remembers: call policy.step(obs, available, start, memory)")
        return self.step(obs, available, torch.ones(obs.shape[0], dtype=torch.bool, device=obs.device))[0]


def load(
    task: str,
    algorithm: str,
    tier: str = "recorded",
    variant: str = "",
    seeds: Sequence[int] | None = None,
    checkpoint: str | int = "best",
    device: str = "cpu",
) -> Policy:
    """The policy that a run has left; see `find` and `read`."""
    return read(find(task, algorithm, tier, variant, checkpoint), seeds, device)


def read(path: Path, seeds: Sequence[int] | None = None, device: str = "cpu") -> Policy:
    """The policy in a file.

    Args:
        seeds: which of the run's, None for all.
        device: where to compute.

    Raises:
        CorruptRecord: damaged.
        InputError: a seed that the run does not have, or a joint policy, whose agents depend on what others choose.
    """
    parameters, meta = records.load_tensors(path)
    module = records.algorithm_module(meta["algorithm"])
    config = check_fields(module.Config, meta["config"])
    chosen = tuple(config.seeds if seeds is None else seeds)
    for seed in chosen:
        if seed not in config.seeds:
            raise unknown("seed", seed, map(str, config.seeds))
    rows = [config.seeds.index(seed) for seed in chosen]
    own = {name: value.unflatten(0, (len(config.seeds), -1))[rows].flatten(0, 1) for name, value in parameters.items()}
    player = module.restore(dataclasses.replace(config, seeds=chosen), own, device)
    if not hasattr(player, "actors"):
        raise InputError(f"{meta['algorithm']} learns a joint policy, whose agents do not choose independently")
    return Policy(player.actors, meta, chosen)


def find(task: str, algorithm: str, tier: str = "recorded", variant: str = "", checkpoint: str | int = "best") -> Path:
    """The file of a run's policy, this machine's own before the archived one.

    Args:
        tier: "recorded" takes the best there is: paper, else laptop, else smoke.
        checkpoint: "best", by the evaluations along the curve, or a percentage of training that the run kept.

    Raises:
        InputError: an unknown tier.
        MissingRecord: not there; the text gives the command that makes it.
    """
    if tier not in (*TIERS, "recorded"):
        raise unknown("tier", tier, [*TIERS, "recorded"])
    for one in reversed(TIERS) if tier == "recorded" else (tier,):
        for folder in folders():
            path = place(folder, task, algorithm, one, variant, checkpoint)
            if path.is_file():
                return path
    name = f"{algorithm}@{variant}" if variant else algorithm
    kept = "" if checkpoint == "best" else f" after {checkpoint}% of training (setting keep)"
    make = records.command(task, algorithm, "laptop" if tier == "recorded" else tier, variant)
    raise records.MissingRecord(f"no policy of {name} on {task}{kept}; make it with: {make}")


def folders() -> tuple[Path, Path]:
    """Where policies lie: beside this machine's own records, and in the archive (`data/policies/`)."""
    own, archive = records.folders()
    return own, archive.parent / "policies"


def place(folder: Path, task: str, algorithm: str, tier: str, variant: str, checkpoint: str | int = "best") -> Path:
    """Beside the record, or where the record would be: `<suite>/<task>/<algorithm>[@variant]/<file name>`."""
    return (folder / records.relative_path(task, algorithm, tier, variant)).with_name(file_name(tier, checkpoint))


def file_name(tier: str, checkpoint: str | int = "best") -> str:
    """`<tier>.policy.safetensors`, or `<tier>.policy-<percentage>.safetensors`."""
    return f"{tier}.policy{'' if checkpoint == 'best' else f'-{checkpoint}'}.safetensors"


def archive(key: records.RecordKey, checkpoints: Sequence[str | int]) -> list[Path]:
    """Copy the policies of a record of this machine into the archive that the book ships. Under 2 MB a record.

    Raises:
        MissingRecord: the run has not kept one of the `checkpoints`.
        InputError: too large.
        CorruptRecord: damaged.
    """
    own, archived = (
        [place(folder, key.task, key.algorithm, key.tier, key.variant, checkpoint) for checkpoint in checkpoints]
        for folder in folders()
    )
    for path, checkpoint in zip(own, checkpoints, strict=True):
        if not path.is_file():
            raise records.MissingRecord(f"{key.path} has no policy {checkpoint!r}: {path} is not there")
        records.load_tensors(path)  # whole, or refused
    size = sum(path.stat().st_size for path in own)
    if size > 2_000_000:  # eight separate actors of three seeds have 1.8
        raise InputError(f"the policies of {key.path} have {size / 1e6:.1f} MB; archived ones stay under 2 MB")
    for path, target in zip(own, archived, strict=True):
        records.write_atomic(target, path.read_bytes())
    return archived
