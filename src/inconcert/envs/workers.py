"""Environments that exist one copy at a time, batched: rows in worker processes that write into shared memory.

A suite brings a `Game` (one copy of its environment) and a function that builds one; `WorkerEnv` makes the `VectorEnv`
out of it. A step sends one small message to each worker, which plays its rows in turn and leaves the results in arrays
that both sides see. An ended row begins its next episode in the same step.

Random streams are stateless: the seed of an episode is a hash of the user's seed, the copy and the episode's number.
A saved state therefore needs no generator, only which episode runs and what has been played in it; loading plays that
again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import operator
import os
import signal
import sys
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing import connection as pipes
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from inconcert.config import InputError
from inconcert.envs import Spec, Step, stream_seed

GRACE = 2.0
"""Seconds that a worker has to close its games before it is ended, once more firmly each time."""


class Moment(NamedTuple):
    """What one copy shows between two steps."""

    obs: np.ndarray
    """[N, O]"""
    state: np.ndarray
    """[state_size]"""
    available: np.ndarray | bool = True
    """[N, A] bool; True where all actions are always legal."""


class Outcome(NamedTuple):
    """What a step of one copy led to. After an end, `moment` is the last of the episode; the pool restarts the copy."""

    moment: Moment
    reward: np.ndarray | float
    """[N], or one number for all"""
    terminated: bool
    truncated: bool
    info: Mapping[str, float]
    """The entries that `WorkerEnv(info=...)` announced."""


class Game(Protocol):
    """One copy of an environment, inside a worker."""

    def reset(self, seed: int) -> Moment:
        """Begin the episode of `seed`, an integer of 0..2^31-1; the same seed begins the same episode."""

    def step(self, actions: np.ndarray) -> Outcome:
        """Play the legal `actions` [N] int64."""

    def close(self) -> None:
        """Free what the copy holds outside Python (a game's process, a window)."""


class WorkerCrashed(RuntimeError):
    """A worker raised an error or died. Names the task and the seed of the row it was at; the pool is shut down."""


class WorkerEnv:
    """`VectorEnv` over games in worker processes (see the contract in `inconcert.envs`).

    Actions are always checked against the mask, before anything is played.

    Args:
        task: full name, for messages.
        spec: sizes; actions are discrete.
        build: makes one game; it is sent to the workers, so it must be picklable (a module's class or function, or a
            `functools.partial` of one).
        num_envs: rows per seed.
        seeds: S seeds.
        device: where the tensors of a step live; the games themselves run on the CPU.
        workers: processes to spread the rows over; 0 plays them in this one. None: one a core, but none inside a
            process that may not start any (a `--jobs` part of a training run).
        info: entries of `Step.info` that the games report, and their types.
        exact: the games are deterministic, so that a saved state continues exactly. Without, loading a state begins new
            episodes, the next ones of each row.

    Raises:
        InputError: a bad number of workers, or an `InputError` of a game being built.
        WorkerCrashed: a game could not be built.
    """

    def __init__(
        self,
        task: str,
        spec: Spec,
        build: Callable[[], Game],
        *,
        num_envs: int,
        seeds: tuple[int, ...],
        device: torch.device,
        workers: int | None = None,
        info: Mapping[str, torch.dtype] | None = None,
        exact: bool = True,
    ) -> None:
        self.task = task
        self.spec = spec
        self.seeds = seeds
        self.device = device
        self.num_envs = rows = len(seeds) * num_envs
        self._copies = num_envs
        self._exact = exact
        self._info = dict(info or {})
        self.workers = count_workers(workers, rows)
        """Number of worker processes; 0: the games are in this one."""

        self._block = _Block(rows, spec, len(self._info), max(1, self.workers))
        streams = [stream_seed(f"{task}/{copy}", seed) for seed in seeds for copy in range(num_envs)]
        self._stream = np.array(streams, np.int64)
        self._episode = np.zeros(rows, np.int64)  # number of the running one
        self._length = np.zeros(rows, np.int64)
        self._return = torch.zeros(rows)
        self._played = np.zeros((spec.episode_limit if exact else 0, rows, spec.num_agents), np.int16)
        self._zero = torch.zeros(rows, spec.num_agents, device=device)
        self._no = torch.zeros(rows, dtype=torch.bool, device=device)
        self._blank = {name: torch.zeros(rows, dtype=dtype, device=device) for name, dtype in self._info.items()}

        self._crew = _Crew(self._block, build, tuple(self._info), self.workers, self._where)
        self._finalizer = weakref.finalize(self, self._crew.close)
        self._begin()

    @property
    def processes(self) -> list[int]:
        """Process ids of the workers; none if the games are in this process."""
        return self._crew.processes

    def reset(self) -> Step:
        self._episode += 1
        self._begin()
        return self.observe()

    def observe(self) -> Step:
        obs, state, available = (self._take(name) for name in ("obs", "state", "available"))
        info = {"episode_return": self._return.to(self.device), "episode_length": self._lengths(), **self._blank}
        return Step(obs, state, available, self._zero, self._no, self._no, obs, state, info)

    def step(self, actions: Tensor) -> Step:
        """Play `actions` [E, N].

        Raises:
            InputError: wrong shape, a floating type, or an illegal action, by row and agent; nothing is played then.
            WorkerCrashed: see there.
        """
        self._crew.check_open()
        shape = (self.num_envs, self.spec.num_agents)
        if actions.shape != shape or actions.is_floating_point():
            raise InputError(
                f"actions must be integers of shape {shape}, not {actions.dtype} of shape {tuple(actions.shape)}"
            )
        chosen = actions.cpu().numpy()
        self._check_legal(chosen)
        if self._exact and self._length.max() >= self.spec.episode_limit:
            raise RuntimeError(f"an episode of {self.task} is longer than its limit of {self.spec.episode_limit} steps")
        block, rows = self._block, np.arange(self.num_envs)
        block.actions[:] = chosen
        self._announce(np.flatnonzero(self._length == 0).tolist(), ahead=1)
        self._crew.ask("step")

        if self._exact:
            self._played[self._length, rows] = chosen
        self._length += 1
        reward = torch.tensor(block.reward)
        self._return = self._return + reward.mean(1)
        info = {"episode_return": self._return.to(self.device), "episode_length": self._lengths()}
        for index, (name, dtype) in enumerate(self._info.items()):
            info[name] = torch.tensor(block.info[:, index]).to(self.device, dtype)
        step = Step(
            obs=self._take("obs"),
            state=self._take("state"),
            available=self._take("available"),
            reward=reward.to(self.device),
            terminated=self._take("terminated"),
            truncated=self._take("truncated"),
            final_obs=self._take("final_obs"),
            final_state=self._take("final_state"),
            info=info,
        )
        ended = block.terminated | block.truncated
        self._episode += ended
        self._length[ended] = 0
        self._return = self._return.masked_fill(torch.from_numpy(ended), 0.0)
        return step

    def state_dict(self) -> dict[str, Tensor]:
        """Which episode each row plays and, if the games are deterministic, what has been played in it."""
        return {
            "stream": torch.tensor(self._stream),
            "episode": torch.tensor(self._episode),
            "length": torch.tensor(self._length),
            "played": torch.tensor(self._played),
            "return": self._return.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state` by playing the running episodes again up to where they were.

        Raises:
            InputError: a tensor is missing or does not fit (nothing changed), or the episodes come out differently.
        """
        for name, own in self.state_dict().items():
            if name not in state:
                raise InputError(f"this is no state of this environment: {name!r} is missing")
            if state[name].shape != own.shape or state[name].dtype != own.dtype:
                raise InputError(
                    f"this is no state of this environment: {name!r} is {state[name].dtype} "
                    f"{tuple(state[name].shape)}, expected {own.dtype} {tuple(own.shape)}"
                )
        names = ("stream", "episode", "length", "played")
        stream, episode, length, played = (state[name].cpu().numpy().copy() for name in names)
        within = (stream >= 0) & (episode >= 0) & (length >= 0) & (length < self.spec.episode_limit)
        if not (within.all() and ((played >= 0) & (played < self.spec.num_actions)).all()):
            raise InputError("this is no state of this environment: a count or an action is out of range")
        self._stream, self._episode = stream, episode
        if not self._exact:
            self.reset()
            return
        self._length, self._played = length, played
        self._return = state["return"].to("cpu", copy=True)
        self._announce(range(self.num_envs), ahead=0)
        self._crew.ask("replay", [played[: length[row], row] for row in range(self.num_envs)])
        self._announce(range(self.num_envs), ahead=1)

    def close(self) -> None:
        """Shut the workers down. Happens by itself when the environment is no longer referred to."""
        self._finalizer()

    def _begin(self) -> None:
        self._length[:] = 0
        self._return = torch.zeros(self.num_envs)
        self._announce(range(self.num_envs), ahead=0)
        self._crew.ask("begin")

    def _seed_of(self, row: int, ahead: int = 0) -> int:
        """Seed of the episode of `row` that runs, or of one that comes `ahead`: 31 bits."""
        return stream_seed(str(self._episode[row] + ahead), int(self._stream[row])) >> 32

    def _announce(self, rows: Iterable[int], ahead: int) -> None:
        """Tell the workers with what the running episodes of `rows` begin, or those that come `ahead`."""
        for row in rows:
            self._block.seed[row] = self._seed_of(row, ahead)

    def _where(self, row: int) -> str:
        """A row in the user's terms."""
        seed, copy = self.seeds[row // self._copies], row % self._copies
        episode = f"episode {self._episode[row]} (begun with {self._seed_of(row)})"
        return f"{self.task}, seed {seed}, copy {copy}, {episode}"

    def _take(self, name: str) -> Tensor:
        """A copy of a shared array, on the device: later steps overwrite the array."""
        return torch.tensor(getattr(self._block, name)).to(self.device)

    def _lengths(self) -> Tensor:
        return torch.tensor(self._length).to(self.device)

    def _check_legal(self, actions: np.ndarray) -> None:
        valid = (actions >= 0) & (actions < self.spec.num_actions)
        clipped = np.where(valid, actions, 0)[..., None]
        valid &= np.take_along_axis(self._block.available, clipped, -1)[..., 0]
        if not valid.all():
            row, agent = np.argwhere(~valid)[0]
            legal = ", ".join(map(str, np.flatnonzero(self._block.available[row, agent])))
            raise InputError(f"illegal action {actions[row, agent]} of agent {agent} in row {row}; legal now: {legal}")


def count_workers(workers: int | None, rows: int) -> int:
    """How many processes to use for `rows`: as asked, never more than rows.

    Raises:
        InputError: not an integer of at least 0, or processes asked for inside a process that may not start any.
    """
    daemonic = multiprocessing.current_process().daemon
    if workers is None:
        return 0 if daemonic else min(rows, cores())
    try:
        number = operator.index(workers)
    except TypeError:
        number = -1
    if isinstance(workers, bool) or number < 0:
        raise InputError(f"workers must be an integer of at least 0, not {workers!r}")
    if number and daemonic:
        raise InputError(f"workers must be 0, not {number}, in a process that may not start others")
    return min(rows, number)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Block:
    """The arrays that both sides see, in one piece of anonymous shared memory: no name, so nothing can be left over.

    `at[w]` is the row that worker w is busy with.
    """

    obs: np.ndarray
    state: np.ndarray
    available: np.ndarray
    final_obs: np.ndarray
    final_state: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    info: np.ndarray
    actions: np.ndarray
    seed: np.ndarray
    at: np.ndarray

    def __init__(self, rows: int, spec: Spec, info: int, workers: int, memory: Any = None) -> None:
        agents = spec.num_agents
        layout: dict[str, tuple[tuple[int, ...], Any]] = {
            "seed": ((rows,), np.int64),
            "actions": ((rows, agents), np.int64),
            "at": ((workers,), np.int64),
            "obs": ((rows, agents, spec.obs_size), np.float32),
            "state": ((rows, spec.state_size), np.float32),
            "final_obs": ((rows, agents, spec.obs_size), np.float32),
            "final_state": ((rows, spec.state_size), np.float32),
            "reward": ((rows, agents), np.float32),
            "info": ((rows, info), np.float32),
            "available": ((rows, agents, spec.num_actions), np.bool_),
            "terminated": ((rows,), np.bool_),
            "truncated": ((rows,), np.bool_),
        }
        sizes = {name: int(np.prod(shape)) * np.dtype(kind).itemsize for name, (shape, kind) in layout.items()}
        if memory is None:
            memory = _context().RawArray("b", sum(sizes.values()))
        self.memory = memory
        self.arguments = (rows, spec, info, workers)
        offset = 0
        for name, (shape, kind) in layout.items():  # wide types first, so that all are aligned
            array = np.frombuffer(self.memory, kind, int(np.prod(shape)), offset).reshape(shape)
            setattr(self, name, array)
            offset += sizes[name]


class _Host:
    """Plays some of the rows: in a worker process, or in the caller's."""

    def __init__(
        self, block: _Block, build: Callable[[], Game], info: tuple[str, ...], rows: range, index: int
    ) -> None:
        self._block, self._build, self._info, self._rows, self._index = block, build, info, rows, index
        self._games: list[Game] = []

    def obey(self, command: str, argument: Any) -> None:
        """Carry out "begin", "step" or "replay"; the first one builds the games."""
        for row in self._rows[len(self._games) :]:
            self._block.at[self._index] = row
            self._games.append(self._build())
        if command == "replay":
            self.replay(argument)
        else:
            {"begin": self.begin, "step": self.step}[command]()

    def begin(self) -> None:
        """Begin an episode in every row."""
        for row, game in self._each():
            self._show(row, game.reset(int(self._block.seed[row])))

    def step(self) -> None:
        """Play one step in every row, and begin the next episode where one ended."""
        block = self._block
        for row, game in self._each():
            moment, reward, terminated, truncated, info = game.step(block.actions[row].copy())
            block.reward[row] = reward
            block.terminated[row], block.truncated[row] = terminated, truncated and not terminated
            block.info[row] = [info[name] for name in self._info]
            block.final_obs[row], block.final_state[row] = moment.obs, moment.state
            self._show(row, game.reset(int(block.seed[row])) if terminated or truncated else moment)

    def replay(self, played: Sequence[np.ndarray]) -> None:
        """Begin an episode in every row and play the actions `[t, N]` of each."""
        for row, game in self._each():
            moment = game.reset(int(self._block.seed[row]))
            for actions in played[row]:
                moment, _, terminated, truncated, _ = game.step(actions.astype(np.int64))
                if terminated or truncated:
                    raise InputError("this is no state of this environment: an episode ends earlier than it did")
            self._show(row, moment)

    def close(self) -> None:
        for game in self._games:
            with contextlib.suppress(Exception):  # what has crashed may fail to close; the others still must
                game.close()
        self._games = []

    def _each(self) -> Iterator[tuple[int, Game]]:
        for row, game in zip(self._rows, self._games, strict=True):
            self._block.at[self._index] = row
            yield row, game

    def _show(self, row: int, moment: Moment) -> None:
        block = self._block
        block.obs[row], block.state[row], block.available[row] = moment


class _Crew:
    """The workers of one environment, or the single host in this process."""

    def __init__(
        self,
        block: _Block,
        build: Callable[[], Game],
        info: tuple[str, ...],
        workers: int,
        where: Callable[[int], str],
    ) -> None:
        # a method of the environment would keep it alive and the workers with it
        self._where = weakref.WeakMethod(where)
        self._block = block
        self._open = True
        self._host: _Host | None = None
        self._workers: dict[pipes.Connection, tuple[int, BaseProcess]] = {}
        rows = len(block.seed)
        if workers == 0:
            self._host = _Host(block, build, info, range(rows), 0)
            return
        context = _context()
        cuts = [round(index * rows / workers) for index in range(workers + 1)]
        try:
            for index in range(workers):
                ours, theirs = context.Pipe()
                share = cuts[index], cuts[index + 1]
                arguments = (theirs, block.memory, block.arguments, build, info, *share, index, dict(os.environ))
                process = context.Process(target=_serve, args=arguments, daemon=True, name=f"worker {index}")
                self._workers[ours] = index, process
                process.start()
                theirs.close()  # so that our end tells when the worker is gone
        except BaseException:
            self.close()
            raise

    @property
    def processes(self) -> list[int]:
        return [process.pid for _, process in self._workers.values() if process.pid is not None]

    def check_open(self) -> None:
        if not self._open:
            raise InputError("this environment is closed; make it again")

    def ask(self, command: str, argument: Any = None) -> None:
        """Have all workers carry out `command` and wait until they have."""
        self.check_open()
        try:
            if self._host is not None:
                self._alone(self._host, command, argument)
            else:
                self._together(command, argument)
        except BaseException:  # an interruption too: nobody knows then which workers have answered
            self.close()
            raise

    def _alone(self, host: _Host, command: str, argument: Any) -> None:
        try:
            host.obey(command, argument)
        except InputError:
            raise
        except Exception as error:
            raise self._crash(0, f"{type(error).__name__}: {error}") from error

    def _together(self, command: str, argument: Any) -> None:
        for channel in self._workers:
            with contextlib.suppress(OSError):  # it is dead: the wait below finds out
                channel.send((command, argument))
        for channel, (index, process) in self._workers.items():
            try:
                answer = channel.recv()
            except (EOFError, OSError):
                process.join(GRACE)
                raise self._crash(index, _epitaph(process.exitcode)) from None
            if answer is None:
                continue
            kind, text, trace = answer
            if kind == "InputError":
                raise InputError(text)
            error = self._crash(index, f"{kind}: {text}")
            error.add_note(trace)
            raise error

    def _crash(self, index: int, cause: str) -> WorkerCrashed:
        where = self._where()
        row = where(int(self._block.at[index])) if where else f"row {self._block.at[index]}"
        return WorkerCrashed(f"a worker crashed in {row}: {cause}. The other workers were shut down.")

    def close(self) -> None:
        """Ask the workers to end, and end those that do not."""
        self._open = False
        if self._host is not None:
            self._host.close()
            self._host = None
        for channel in self._workers:
            channel.close()  # a worker that waits for a command ends now
        started = [process for _, process in self._workers.values() if process.pid is not None]
        self._workers = {}
        for patience, force in ((GRACE, BaseProcess.terminate), (GRACE, BaseProcess.kill), (None, BaseProcess.kill)):
            deadline = None if patience is None else time.monotonic() + patience
            for process in started:
                process.join(deadline and max(0.0, deadline - time.monotonic()))
            started = [process for process in started if process.is_alive()]
            for process in started:
                force(process)


def _context() -> multiprocessing.context.ForkServerContext:
    """Workers are forked from a server that has imported torch: a start takes milliseconds instead of seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    return context


def _serve(
    channel: pipes.Connection,
    memory: Any,
    block: tuple[int, Spec, int, int],
    build: Callable[[], Game],
    info: tuple[str, ...],
    first: int,
    last: int,
    index: int,
    environ: dict[str, str],
) -> None:
    """A worker's life: build its games, then carry out commands until the other end is gone."""
    os.environ.clear()  # the server's variables are those of its start: a folder of a game named since then is missing
    os.environ.update(environ)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the caller shuts the workers down
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the games are closed
    torch.set_num_threads(1)
    host = _Host(_Block(*block, memory), build, info, range(first, last), index)
    try:
        while True:
            command, argument = channel.recv()
            try:
                host.obey(command, argument)
            except Exception as error:
                channel.send((type(error).__name__, str(error), traceback.format_exc()))
                return
            channel.send(None)
    except (EOFError, OSError):  # the caller has closed the pool, or is gone
        return
    finally:
        host.close()


def _epitaph(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None:
        return "the process no longer answers"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"the process was killed by {signal.Signals(-code).name}"
    return (
        f"the process ended with exit code {code} (a script that makes this environment must do so below "
        '`if __name__ == "__main__":`)'
    )
