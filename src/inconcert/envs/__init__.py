"""The environment contract and `make`.

Every environment here is batched: E copies step together as tensors, an ended episode restarts in the same step, and
each seed owns its random stream. A suite (a family of tasks) is one module, imported when one of its tasks is made.

Letters in shapes: S seed, E row (copy of the environment), N agent, A action, O observation feature.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import operator
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from inconcert.config import InputError, unknown

SUITES: dict[str, str] = {
    "coordsum": "inconcert.envs.coordsum",
    "mpe": "inconcert.envs.mpe",
    "spread": "inconcert.envs.spread",
    "predator_prey": "inconcert.envs.predator_prey",
    "macf": "inconcert.envs.macf",
    "two_corridors": "inconcert.envs.two_corridors",
    "pettingzoo": "inconcert.envs.pettingzoo",
    "football": "inconcert.envs.football",
    "smac": "inconcert.envs.smac",
    "smacv2": "inconcert.envs.smacv2",
    "lbf": "inconcert.envs.lbf",
    "rware": "inconcert.envs.rware",
    "connector": "inconcert.envs.connector",
    "smax": "inconcert.envs.smax",
    "jaxmpe": "inconcert.envs.jaxmpe",
}
"""Suite name -> module. A suite module has `TASKS` (names without the suite), `PATTERN` (how its names are built, or
"") and `make(name, *, num_envs, seeds, device, **options) -> VectorEnv` with keyword-only options."""

PARALLEL: dict[str, str] = {"coordsum": "inconcert.envs.coordsum_parallel"}
"""Suite name -> module with `parallel(name, **options)`, for suites that are offered through PettingZoo too."""


@dataclass(frozen=True)
class Spec:
    """What a network needs to know about a task before it sees a single observation."""

    num_agents: int
    num_actions: int
    """Size of the discrete action set of every agent; actions are 0..num_actions-1."""
    obs_size: int
    state_size: int
    episode_limit: int
    """Longest possible episode, in steps."""
    metric: str
    """Which entry of `Step.info` measures success at the end of an episode."""


class Step(NamedTuple):
    """What `reset`, `observe` and `step` return. All tensors are on the environment's device.

    Read-only: tensors may share memory with each other and with the environment (expanded views, constants), so copy
    them into a buffer or `reshape` them, and never write into them. They stay valid after later steps.
    """

    obs: Tensor
    """[E, N, O] float32; where an episode has just ended, already the first observation of the next."""
    state: Tensor
    """[E, state_size] float32: what a centralised critic may see."""
    available: Tensor
    """[E, N, A] bool: which actions are legal now."""
    reward: Tensor
    """[E, N] float32"""
    terminated: Tensor
    """[E] bool: the episode reached its end, nothing follows (no bootstrapping)."""
    truncated: Tensor
    """[E] bool: the episode was cut by a time limit (bootstrap from `final_obs` / `final_state`)."""
    final_obs: Tensor
    """[E, N, O] float32: the true next observation, before any restart; equals `obs` where no episode ended."""
    final_state: Tensor
    """[E, state_size] float32: as `final_obs`."""
    info: dict[str, Tensor]
    """Tensors [E]; at least `episode_return` (mean over agents of the summed reward) and `episode_length` (steps),
    valid where an episode has just ended."""


class VectorEnv(Protocol):
    """A batch of copies of one task. Rows are seed-major: with S seeds and `num_envs` copies each, E = S * num_envs."""

    spec: Spec
    num_envs: int
    """Total number of rows E."""
    seeds: tuple[int, ...]
    device: torch.device

    def reset(self) -> Step:
        """Abandon the running episodes and start new ones, further along each seed's random stream.

        `make` has started the first ones already, so calling this before the first step is not needed, and harmless.
        """

    def observe(self) -> Step:
        """The situation now (after `make` or `load_state_dict`, say): no reward, no episode ended. Changes nothing."""

    def step(self, actions: Tensor) -> Step:
        """Play the integer `actions` [E, N]."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that decides the future, random streams included, as a flat dict of tensors (copies)."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a `state_dict` of an environment made in the same way; InputError if it does not fit."""


def stream_seed(stream: str, seed: int) -> int:
    """Seed of the random stream named `stream` that belongs to the user's `seed`, a 63-bit integer.

    Two generators seeded with the same number give the same numbers. The environment's draws would then be tied to the
    action noise of a trainer that uses the same seed, so every stream mixes its name in.
    """
    digest = hashlib.blake2b(f"{stream}/{seed}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def tasks(suite: str | None = None) -> list[str]:
    """Names of the ready-made tasks, all or of one `suite`. A suite with a `PATTERN` accepts more names than these."""
    if suite is not None and suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    chosen = SUITES if suite is None else [suite]
    return [f"{name}/{task}" for name in chosen for task in _suite(name).TASKS]


def unknown_task(suite: str, name: str) -> InputError:
    """The error for a task `name` that `suite` does not have: names the nearest ones and the suite's naming pattern."""
    pattern = _suite(suite).PATTERN
    error = str(unknown("task", f"{suite}/{name}", tasks(suite)))
    return InputError(f"{error}; or any {suite}/{pattern}" if pattern else error)


def make(
    task: str,
    num_envs: int = 64,
    seed: int | Sequence[int] = 0,
    device: str | torch.device = "cpu",
    **options: Any,
) -> VectorEnv:
    """Make a batch of environments.

    Args:
        task: "suite/name", for instance "coordsum/3x10-30"; see `tasks()`.
        num_envs: rows per seed.
        seed: one seed, or S seeds: then there are S * num_envs rows, seed-major, and the block of a seed is bit for bit
            what that seed gives alone.
        device: where the tensors live.
        **options: of the suite; see the signature of its module's `make`.

    Raises:
        InputError: unknown suite, task or option (with the nearest valid ones), or a bad number or device.
    """
    suite, name = _split(task)
    build = _suite(suite).make
    _check_options(build, options)
    return build(
        name, num_envs=_integer("num_envs", num_envs, least=1), seeds=_seeds(seed), device=_device(device), **options
    )


def parallel(task: str, **options: Any) -> Any:
    """One copy of a task as a PettingZoo `ParallelEnv`, on the CPU.

    Raises:
        InputError: as `make`, or the suite has no PettingZoo form.
    """
    suite, name = _split(task)
    if suite not in PARALLEL:
        raise InputError(f"suite {suite!r} has no PettingZoo form; make it with inconcert.make")
    build = importlib.import_module(PARALLEL[suite]).parallel
    _check_options(build, options)
    return build(name, **options)


def _suite(name: str) -> types.ModuleType:
    return importlib.import_module(SUITES[name])


def _split(task: str) -> tuple[str, str]:
    suite, _, name = str(task).partition("/")
    if suite not in SUITES:
        raise unknown("task", task, tasks())
    return suite, name


def _check_options(build: Callable[..., Any], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(build).parameters.values()
    valid = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("num_envs", "seeds", "device")]
    for option in options:
        if option not in valid:
            raise unknown("option", option, valid)


def _integer(what: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise InputError(f"{what} must be an integer of at least {least}, not {value!r}")
    return number


def _seeds(seed: int | Sequence[int]) -> tuple[int, ...]:
    given: Iterable[Any] = seed if isinstance(seed, Iterable) and not isinstance(seed, str) else [seed]
    seeds = tuple(_integer("seed", one, least=0) for one in given)
    if not seeds:
        raise InputError("seed must be an integer or a non-empty sequence of integers")
    return seeds


def _device(device: str | torch.device) -> torch.device:
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"unknown device {device!r}; valid: cpu, cuda, cuda:<index>") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} is not usable: this machine or this build of torch has no CUDA")
    return chosen
