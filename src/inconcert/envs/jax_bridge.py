"""The bridge to suites written in JAX: one compiled program plays all copies, tensors cross without a copy.

A suite module describes one copy of its task as a `World` of pure functions; `JaxEnv` makes a `VectorEnv` of it. Rows
are stepped by one `jax.vmap`, compiled once per task and number of rows. Where episodes ended, only those rows restart,
a fixed number at a time inside the same program (a `jax.vmap` of the usual step-then-reset pays for a restart of every
row at every step). Randomness has no state that could be shared: the key of a restart or a step is a function of the
seed, the row within the seed, the episode and the step, so a seed's rows are the same with and without other seeds.

Results reach torch through DLPack, as views of JAX's buffers; integer actions reach JAX as a view of torch's.

Importing this module imports JAX, so suite modules import it when a task is made. `INSTALL` is the one command that
installs what the suites need, with the versions they were checked with: Jumanji 1.1.1 is the last with Connector-v2,
which MAGPO's numbers are from (its level-based foraging and robot warehouse did not change since); JaxMARL 0.0.7 is the
SMAX that MAGPO ran (0.2.0 changed the rules: dead units stay where they fell, and two features are scaled). JaxMARL's
metadata asks for old versions of libraries that its particle and SMAX worlds never import, hence `--no-deps`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import math
import os
import platform
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inconcert.config import InputError
from inconcert.envs import Spec, Step, batched, stream_seed

VERSIONS = {"jax": "0.10.2", "flax": "0.12.8", "jumanji": "1.1.1", "jaxmarl": "0.0.7"}
"""What `INSTALL` installs. Of the suites it must be these very versions: their rules change between versions."""
INSTALL = (
    'pip install "jax=={jax}" "flax=={flax}" "jumanji=={jumanji}" && pip install --no-deps "jaxmarl=={jaxmarl}"'.format(
        **VERSIONS
    )
)

SHELLS = ("jaxmarl", "jaxmarl.environments", "jumanji.environments", "jumanji.environments.routing")
"""Packages whose `__init__` imports every environment of the suite, and with them libraries not needed here."""

RESTARTS = 16
"""Rows that restart together. Fixed, so that a restart is computed in the same way whatever the number of rows."""

COMPILER = {"xla_cpu_multi_thread_eigen": False}
"""Compiler options: one thread. Several wait for each other by spinning, which beside other work costs more than a step
itself; who has cores to spare is better off with more processes."""

try:
    import jax
    import jax.numpy as jnp
except ImportError:
    raise InputError(f"JAX is not installed; install the JAX suites with: {INSTALL}") from None

# Tensors are handed over after every step, so handing the work to another thread only costs time.
jax.config.update("jax_cpu_enable_async_dispatch", False)


class View(NamedTuple):
    """What one copy shows before the next action (JAX arrays)."""

    obs: Any  # [N, O] float32
    available: Any  # [N, A] bool
    state: Any = None  # [state_size] float32; None: the agents' observations in a row


class Outcome(NamedTuple):
    """What a step of one copy brought (JAX arrays)."""

    reward: Any  # [N] float32
    terminated: Any  # bool
    truncated: Any  # bool
    info: dict[str, Any]  # one number each


@dataclass(frozen=True, eq=False)
class World:
    """One copy of a task, as pure functions of JAX arrays. `state` is the suite's own, any tree of arrays."""

    spec: Spec
    stream: str
    """Name of the random stream; see `stream_seed`."""
    reset: Callable[[Any], tuple[Any, View]]
    """key -> state, view"""
    step: Callable[[Any, Any, Any], tuple[Any, View, Outcome]]
    """state, actions [N], key -> next state, its view, outcome. Never restarts."""
    original: Any
    """The suite's own environment object."""
    info: Mapping[str, torch.dtype] = field(default_factory=dict)
    """The entries of `Outcome.info` and their types."""
    has_state: bool = False
    """Whether its views have a state of their own."""
    by_seed: bool = False
    """Whether each seed's rows are a batch of their own. Where a step computes with fractions, the last bit of a result
    may depend on the number of rows, and a seed's rows must be the same with and without other seeds."""
    components: int = 0
    """0: an action is one integer; else it is so many numbers of 0..1."""


def load(module: str) -> types.ModuleType:
    """Import one module of a suite without importing the whole suite.

    Raises:
        InputError: the suite is not installed, or in another version.
    """
    package = module.split(".")[0]
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise InputError(f"{package} is not installed; install the JAX suites with: {INSTALL}")
    version = importlib.metadata.version(package)
    if version != VERSIONS[package]:
        raise InputError(
            f"{package} {version} is installed, but its rules differ between versions and {VERSIONS[package]} is "
            f"needed; install the JAX suites with: {INSTALL}"
        )
    # An empty package in the place of each `__init__` that is skipped, for as long as the import runs.
    shells = [name for name in SHELLS if module.startswith(f"{name}.") and name not in sys.modules]
    for name in shells:
        shell = types.ModuleType(name)
        shell.__path__ = [os.path.join(found.submodule_search_locations[0], *name.split(".")[1:])]
        sys.modules[name] = shell
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{package} does not import ({error}); install the JAX suites with: {INSTALL}") from None
    finally:
        for name in shells:
            del sys.modules[name]


def row_keys(stream: str, seeds: tuple[int, ...], num_envs: int) -> np.ndarray:
    """The keys of all rows, [S * num_envs, 2] uint32, seed-major: each a function of its seed and its place there."""
    words = [divmod(stream_seed(stream, seed), 1 << 32) for seed in seeds]
    keys = jax.vmap(lambda key: jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(num_envs)))(
        jnp.array(words, jnp.uint32)
    )
    return np.asarray(keys).reshape(-1, 2)


def key_at(row_key: Any, episode: Any, time: Any) -> Any:
    """The key of the step that is played after `time` steps of an episode; -1 is the key of its start."""
    return jax.random.fold_in(jax.random.fold_in(row_key, episode), time + 1)


OWN = 4
"""A carry begins with the bridge's own numbers: keys [E, 2], episode [E], time [E], return [E]."""
VIEW = ("obs", "available", "state")


OVER = -1
"""The time of a row whose episode was abandoned: the next step starts its next one, and means nothing else there."""


class _Program(NamedTuple):
    """The compiled program of a world.

    It plays a step, and begins episodes too: a program of its own for that would be as long again to compile. What it
    exchanges with Python is as little as can be, because every array costs as much as many steps of a cheap world: the
    carry is a flat tuple (JAX takes the suites' state classes apart in Python), and the results are one array of
    numbers and one of flags, the parts one after another.
    """

    advance: Callable[..., Any]
    """carry (given up), actions -> carry, numbers, flags; steps, and restarts what ended or was `OVER`. Numbers: obs
    and, where the world has one of its own, state; the same of the end; reward, return, length, info. Flags: available,
    terminated, truncated, info."""
    blank: tuple[Any, ...]
    """Shape and type of each of the state's arrays, of one row."""
    names: tuple[str, ...]
    """Of the carry's arrays."""
    tree: Any
    """The structure of the suite's state, whose arrays are the carry from `OWN` on."""


class _Layout:
    """Where the tensors of some shapes lie in a flat one."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        self._shapes = shapes
        self._sizes = [math.prod(shape) for shape in shapes]

    def take(self, flat: Tensor) -> list[Tensor]:
        """The tensors, as views."""
        return [part.view(shape) for part, shape in zip(flat.split(self._sizes), self._shapes, strict=True)]


class JaxEnv:
    """A batch of copies of a `World`; keeps the contract `inconcert.envs.VectorEnv`.

    Compilation takes seconds, happens at the first use, and is kept for later environments of the same size: in memory
    for this process, and on disk (see `_keep_programs`) for the next. JAX computes on the CPU, or on the GPU where
    `device` is one and JAX has it; where only torch has it, tensors are copied there.
    """

    def __init__(
        self, world: World, *, num_envs: int, seeds: tuple[int, ...], device: torch.device, debug: bool
    ) -> None:
        batched.check_flag("debug", debug)
        self.spec = world.spec
        self.seeds = seeds
        self.device = device
        self.num_envs = len(seeds) * num_envs
        self.world = world
        """What is played. `world.original` is the suite's own object, for what the contract does not cover, such as
        drawing a state."""
        self._debug = debug
        self._backend = _backend(device)
        self._batches = len(seeds) if world.by_seed else 1
        self._carries: list[tuple[Any, ...]] = []  # of `_Program`, one a batch; empty before the first use
        self._view: tuple[Tensor, Tensor, Tensor]  # as `VIEW`

        rows, agents = self.num_envs // self._batches, world.spec.num_agents
        seen = [(rows, agents, world.spec.obs_size)] + [(rows, world.spec.state_size)] * world.has_state
        legal = (rows, agents, world.spec.num_actions)
        self._info = _sorted(world.info)
        more = [[(rows,)] * (2 + len(names)) for names in self._info]
        self._layouts = _Layout([*seen, *seen, (rows, agents), *more[0]]), _Layout([legal, *more[1]])

    def reset(self) -> Step:
        self._start(after=0)
        return self.observe()

    def observe(self) -> Step:
        self._ensure_started()
        obs, available, state = self._view
        time, sums = (torch.from_numpy(self._leaf(index)).to(self.device) for index in (2, 3))
        no = torch.zeros((), dtype=torch.bool, device=self.device).expand(self.num_envs)
        info = {"episode_return": sums, "episode_length": time.long()}
        info |= {name: no.to(dtype) for name, dtype in self.world.info.items()}
        reward = no[:, None].float().expand(-1, self.spec.num_agents)
        return Step(obs, state, available, reward, no, no, obs, state, info)

    def step(self, actions: Tensor) -> Step:
        """Play `actions` [E, N], integers of 0..A-1 ([E, N, C] numbers of 0..1 where actions are continuous).

        Raises:
            InputError: wrong shape or type; with `debug=True` also an illegal action, by row and agent. Without
                `debug` an illegal action is handed to the suite as it is, and the suite's own rule decides.
        """
        self._ensure_started()
        if self.world.components:
            _check_components(actions, (self.num_envs, self.spec.num_agents, self.world.components), self._debug)
            actions = actions.to(torch.float32)
        else:
            batched.check_actions(actions, self.spec, self.num_envs)
            if self._debug:
                batched.check_legal(actions, self._view[1])
            actions = actions.to(torch.int32)
        numbers, flags = self._advance(actions)
        seen = 1 + self.world.has_state
        obs, state = _with_state(*numbers[:seen])
        final_obs, final_state = _with_state(*numbers[seen : 2 * seen])
        reward, sums, length, *more = numbers[2 * seen :]
        available, terminated, truncated, *flags = flags
        self._view = obs, available, state
        info = {"episode_return": sums, "episode_length": length.long()}
        info |= zip((*self._info[0], *self._info[1]), (*more, *flags), strict=True)
        return Step(obs, state, available, reward, terminated, truncated, final_obs, final_state, info)

    def state_dict(self) -> dict[str, Tensor]:
        self._ensure_started()
        arrays = {name: self._leaf(index) for index, name in enumerate(self._program.names)}
        # torch can do little with unsigned 32-bit integers, so they are stored as signed ones of the same bits
        tensors = {
            name: torch.from_numpy(array.view(np.int32) if array.dtype == np.uint32 else array)
            for name, array in arrays.items()
        }
        return tensors | {f"view.{name}": part.clone() for name, part in zip(VIEW, self._view, strict=True)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`.

        Raises:
            InputError: a tensor is missing or has another shape or type than this environment's own, or a count is out
                of range (nothing changed).
        """
        batched.check_state(self.state_dict(), state)
        batched.check_range(state, time=(0, self.spec.episode_limit - 1), episode=(0, float("inf")))
        arrays = [state[name].to("cpu", copy=True).numpy() for name in self._program.names]
        kinds = [own.dtype for own in self._carries[0]]
        self._fill(
            [array.view(kind) if kind == np.uint32 else array for array, kind in zip(arrays, kinds, strict=True)]
        )
        obs, available, rest = (state[f"view.{name}"].to(self.device, copy=True) for name in VIEW)
        self._view = obs, available, rest

    def original_states(self) -> Any:
        """The suite's own states of all rows, a tree of NumPy arrays [E, ...]."""
        self._ensure_started()
        leaves = [self._leaf(index) for index in range(OWN, len(self._program.names))]
        return jax.tree_util.tree_unflatten(self._program.tree, leaves)

    @functools.cached_property
    def _program(self) -> _Program:
        """Made at the first use, so that an environment whose sizes are all that is asked for costs nothing."""
        return _compiled(self.world)

    def _ensure_started(self) -> None:
        if not self._carries:
            self._start(after=-1)

    def _start(self, after: int) -> None:
        """Start the next episode of every row; where none has been started yet, that is the one `after` this number."""
        if self._carries:
            keys, episode = self._leaf(0), self._leaf(1)
        else:
            keys = row_keys(self.world.stream, self.seeds, self.num_envs // len(self.seeds))
            episode = np.full(self.num_envs, after, np.int32)
        rows = self.num_envs
        blank = [np.zeros((rows, *leaf.shape), leaf.dtype) for leaf in self._program.blank]
        self._fill([keys, episode, np.full(rows, OVER, np.int32), np.zeros(rows, np.float32), *blank])
        shape, several = (rows, self.spec.num_agents), self.world.components
        numbers, (available, *_) = self._advance(
            torch.zeros(*shape, several) if several else torch.zeros(shape, dtype=torch.int32)
        )
        obs, state = _with_state(*numbers[: 1 + self.world.has_state])
        self._view = obs, available, state

    def _advance(self, actions: Tensor) -> list[list[Tensor]]:
        """Move all batches on, and give the numbers and the flags of `_Program.advance`."""
        given = zip(self._carries, actions.chunk(self._batches), strict=True)
        results = [self._program.advance(carry, self._to_jax(part)) for carry, part in given]
        self._carries, *packed = map(list, zip(*results, strict=True))
        taken = []
        for layout, parts in zip(self._layouts, packed, strict=True):
            batches = [layout.take(self._to_torch(part)) for part in parts]
            taken.append(
                batches[0] if len(batches) == 1 else [torch.cat(pieces) for pieces in zip(*batches, strict=True)]
            )
        return taken

    def _fill(self, arrays: Sequence[np.ndarray]) -> None:
        """Make the carries of the batches from the arrays of all rows."""
        parts = [[self._put(part) for part in np.split(array, self._batches)] for array in arrays]
        self._carries = list(zip(*parts, strict=True))

    def _leaf(self, index: int) -> np.ndarray:
        """A copy of one array of the carry, all rows."""
        return np.concatenate([np.asarray(carry[index]) for carry in self._carries])

    def _put(self, array: Any) -> Any:
        return jax.device_put(array, self._backend)

    def _to_torch(self, array: Any) -> Tensor:
        return torch.utils.dlpack.from_dlpack(array.__dlpack__()).to(self.device)

    def _to_jax(self, tensor: Tensor) -> Any:
        if self._backend.platform == "cpu":
            return tensor.cpu().numpy()  # a compiled program takes it as it is, several times faster than DLPack
        return jax.dlpack.from_dlpack(tensor.contiguous())


@functools.cache
def _compiled(world: World) -> _Program:
    _keep_programs()
    shapes = jax.eval_shape(world.reset, jnp.zeros(2, jnp.uint32))[0]
    tree: Any = jax.tree_util.tree_structure(shapes)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]

    def restart(carry: tuple[Any, ...], view: View, ended: Any) -> tuple[tuple[Any, ...], View]:
        """Start a new episode in the rows that `ended` [E], `RESTARTS` rows at a time."""

        def some(loop: Any) -> Any:
            (keys, episode, *others), view, ended = loop
            rows = jnp.nonzero(ended, size=RESTARTS, fill_value=len(ended))[0]  # the filling is dropped below
            following = episode.at[rows].get(mode="clip") + 1
            fresh = jax.vmap(key_at, (0, 0, None))(keys.at[rows].get(mode="clip"), following, -1)
            state, first = jax.vmap(world.reset)(fresh)

            def put(old: Any, new: Any) -> Any:
                return old.at[rows].set(new, mode="drop")

            others = map(put, others, (0, 0.0, *tree.flatten_up_to(state)))
            view = jax.tree_util.tree_map(put, view, first)
            return (keys, put(episode, following), *others), view, put(ended, False)

        return jax.lax.while_loop(lambda loop: loop[2].any(), some, (carry, view, ended))[:2]

    def advance(carry: tuple[Any, ...], actions: Any) -> Any:
        keys, episode, time, sums, *leaves = carry
        state = jax.tree_util.tree_unflatten(tree, leaves)
        state, last, outcome = jax.vmap(world.step)(state, actions, jax.vmap(key_at)(keys, episode, time))
        ended = outcome.terminated | outcome.truncated | (time == OVER)
        time, sums = time + 1, sums + outcome.reward.mean(1)
        carry, view = restart((keys, episode, time, sums, *tree.flatten_up_to(state)), last, ended)
        numbers, flags = ([outcome.info[name] for name in names] for names in _sorted(world.info))
        seen = (view.obs, view.state, last.obs, last.state)
        return (
            carry,
            _joined(*seen, outcome.reward, sums, time, *numbers),
            _joined(view.available, outcome.terminated, outcome.truncated, *flags),
        )

    names = ("keys", "episode", "time", "return", *(f"world{path}" for path in paths))
    return _Program(
        jax.jit(advance, donate_argnums=0, compiler_options=COMPILER), tuple(tree.flatten_up_to(shapes)), names, tree
    )


def _joined(*parts: Any) -> Any:
    """The elements of all parts that are not None in one flat array: bool if all are, else float32."""
    given = [part.ravel() for part in parts if part is not None]
    return jnp.concatenate(given if all(part.dtype == bool for part in given) else [x.astype(float) for x in given])


def _sorted(info: Mapping[str, torch.dtype]) -> tuple[list[str], list[str]]:
    """The names of the numbers and of the flags among `info`."""
    flags = [name for name, dtype in info.items() if dtype == torch.bool]
    return [name for name in info if name not in flags], flags


def _backend(device: torch.device) -> Any:
    """The JAX device that works for torch's `device`: the same GPU where JAX sees it, else the CPU."""
    if device.type == "cuda":
        try:
            return jax.devices("cuda")[device.index or 0]
        except RuntimeError:
            pass
    return jax.devices("cpu")[0]


def _keep_programs() -> None:
    """Keep compiled programs on disk, unless the user has told JAX where to keep them: compiling takes up to a minute.

    The folder is $XDG_CACHE_HOME/inconcert/jax (or below ~/.cache), one for each kind of processor, because a program
    is compiled for the processor that it runs on and a home folder may be shared between machines.
    """
    settings: Any = jax.config
    if settings.jax_compilation_cache_dir is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        settings.update("jax_compilation_cache_dir", str(home / "inconcert" / "jax" / _processor()))
        settings.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _processor() -> str:
    """A short name of what this processor can do."""
    information = Path("/proc/cpuinfo")
    able = platform.machine()
    if information.is_file():
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
        able += "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return hashlib.blake2b(able.encode(), digest_size=8).hexdigest()


def _with_state(obs: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Observations [E, N, O] and state [E, S]; without one of its own, the observations of all agents in a row."""
    return obs, obs.flatten(1) if state is None else state


def _check_components(actions: Tensor, shape: tuple[int, ...], every: bool) -> None:
    """Raise InputError unless `actions` are floating of this shape; if `every`, also for a number outside 0..1."""
    if actions.shape != shape or not actions.is_floating_point():
        raise InputError(
            f"actions must be numbers of 0..1 of shape {shape}, not {actions.dtype} of shape {tuple(actions.shape)}"
        )
    if every and len(outside := (~((actions >= 0) & (actions <= 1))).nonzero()) > 0:
        row, agent, component = outside[0].tolist()
        raise InputError(
            f"illegal action {float(actions[row, agent, component])} of agent {agent} in row {row}; valid: 0..1"
        )
