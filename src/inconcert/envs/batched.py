"""What the small worlds share: random numbers drawn ahead of time, and the answers to bad input.

Rows of these worlds end at different times. So that a seed's numbers never depend on what happens in the rows, every
row is given the same count of uniform numbers at every step, those for a new start included, whether it uses them or
not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from inconcert.config import InputError, unknown
from inconcert.envs import Spec, stream_seed


class Uniforms:
    """Uniform numbers in [0, 1) for every row and step: `LENGTH` steps at a time, each seed from its own stream.

    They are drawn on the CPU, so they are the same on every device.
    """

    LENGTH = 64

    used: int
    """How many steps of the block in hand are used up, 0..LENGTH; nothing is in hand at LENGTH."""

    def __init__(self, stream: str, seeds: tuple[int, ...], rows_per_seed: int, count: int, device: torch.device):
        """`count`: numbers for each row and step; `stream`: name that the seeds' streams are told apart by."""
        self._size = (self.LENGTH, count, rows_per_seed)
        self._device = device
        self._generators = [torch.Generator().manual_seed(stream_seed(stream, seed)) for seed in seeds]
        self._before = self._snapshot()
        self.used = self.LENGTH

    def draw(self) -> Tensor:
        """The next block, [LENGTH, count, E] float32."""
        self._before = self._snapshot()
        blocks = [torch.rand(self._size, generator=generator) for generator in self._generators]
        self.used = 0
        block = torch.cat(blocks, 2)
        if self._device.type == "cuda":  # a copy from pinned memory does not make the host wait
            block = block.pin_memory()
        return block.to(self._device, non_blocking=True)

    def state_dict(self) -> dict[str, Tensor]:
        """The streams as they were before the block in hand, and how much of it is used."""
        return {"generators": self._before.clone(), "used": torch.tensor(self.used)}

    def load(self, generators: Iterable[torch.Generator]) -> None:
        """Continue from the streams of a `state_dict`: `draw` then gives its block, of which `used` steps are gone."""
        self._generators = list(generators)
        self.used = self.LENGTH

    def _snapshot(self) -> Tensor:
        return torch.stack([generator.get_state() for generator in self._generators])


def distinct(uniform: Tensor, choices: int) -> Tensor:
    """`k` different integers of 0..choices-1, every ordered choice equally likely: `[..., k, E]` uniform -> int64.

    The i-th number says which of the `choices - i` integers that are left is taken, counted from the lowest; read from
    the back, each number is moved up past those taken before it (a Lehmer code).
    """
    count = uniform.shape[-2]
    left = torch.arange(choices, choices - count, -1, device=uniform.device, dtype=uniform.dtype)
    taken = (uniform * left[:, None]).to(torch.int16 if choices <= torch.iinfo(torch.int16).max else torch.int32)
    for index in range(count - 2, -1, -1):
        later = taken[..., index + 1 :, :]
        later += later >= taken[..., index : index + 1, :]
    return taken.long()


# ---------------------------------------------------------------------------------------------------------- bad input


def check_actions(actions: Tensor, spec: Spec, rows: int) -> None:
    """Raise InputError unless `actions` are integers [rows, N]."""
    if actions.shape != (rows, spec.num_agents) or actions.is_floating_point():
        raise InputError(
            f"actions must be integers of shape {(rows, spec.num_agents)}, not {actions.dtype} of shape "
            f"{tuple(actions.shape)}"
        )


def check_legal(actions: Tensor, available: Tensor) -> None:
    """Raise InputError, naming row and agent, if an action of `actions` [E, N] is not in `available` [E, N, A]."""
    known = (actions >= 0) & (actions < available.shape[-1])
    legal = available.gather(2, torch.where(known, actions, 0).long().unsqueeze(2)).squeeze(2) & known
    illegal = (~legal).nonzero()
    if len(illegal) > 0:
        row, agent = illegal[0].tolist()
        valid = ", ".join(map(str, available[row, agent].nonzero().flatten().tolist()))
        raise InputError(f"illegal action {int(actions[row, agent])} of agent {agent} in row {row}; valid: {valid}")


def check_choice(option: str, value: Any, valid: Iterable[Any]) -> None:
    """Raise InputError, with the nearest valid values, if an option has none of the `valid` values."""
    choices = list(valid)
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise unknown(option, value, map(str, choices))


def check_number(option: str, value: Any, least: float, most: float = float("inf"), whole: bool = False) -> None:
    """Raise InputError unless `value` is a number (an integer if `whole`) of `least`..`most`."""
    fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not fits or not least <= value <= most:
        kind = "an integer" if whole else "a number"
        limits = f"from {least:g} to {most:g}" if most < float("inf") else f"of at least {least:g}"
        raise InputError(f"option {option!r} must be {kind} {limits}, not {value!r}")


def check_flag(option: str, value: Any) -> None:
    """Raise InputError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise InputError(f"option {option!r} must be True or False, not {value!r}")


def check_state(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raise InputError if a tensor of `own`, an environment's state, is missing in `state` or is of another kind."""
    for name, tensor in own.items():
        if name not in state:
            raise foreign(f"{name!r} is missing")
        if state[name].shape != tensor.shape or state[name].dtype != tensor.dtype:
            raise foreign(
                f"{name!r} is {state[name].dtype} {tuple(state[name].shape)}, expected {tensor.dtype} "
                f"{tuple(tensor.shape)}"
            )


def check_range(state: Mapping[str, Tensor], **limits: tuple[float, float]) -> None:
    """Raise InputError if a named tensor of `state` leaves its limits, both of which belong to the range."""
    for name, (least, most) in limits.items():
        if not bool(((state[name] >= least) & (state[name] <= most)).all()):
            raise foreign(f"{name!r} is out of range")


def generators(states: Tensor) -> list[torch.Generator]:
    """Generators that continue from the rows of `states`.

    Raises:
        InputError: these are no states of generators.
    """
    found = []
    for state in states:
        generator = torch.Generator()
        try:
            found.append(generator.set_state(state.to("cpu", copy=True)))  # torch crashes on a slice, hence the copy
        except RuntimeError as error:
            raise foreign(str(error)) from None
    return found


def foreign(reason: str) -> InputError:
    """The error for a saved state that is not of this environment."""
    return InputError(f"this is no state of this environment: {reason}")
