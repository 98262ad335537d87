"""The packages that the JAX suites come from, step by step beside the bridge, for the tests and live in the book.

A package is asked through its own functions only: its step and its start, from the states and with the keys that the
bridge had. What the package does not have, the vectors that MAGPO's code makes of a Connector board, is read off the
board cell by cell.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inconcert.envs import Step
from inconcert.envs.jax_bridge import COMPILER, JaxEnv, jax, jnp, key_at, load, row_keys

Array = NDArray[Any]
HASTY = {**COMPILER, "xla_backend_optimization_level": 0}
"""Compiler options that halve the time of compiling and make slower programs."""


class Shown(NamedTuple):
    """What the package says that a step leads to; the fields of a `Step`, and what comes before them."""

    states: Any
    """The package's states after the restarts, a tree [E, ...]."""
    before_restart: Any
    obs: Array
    available: Array
    reward: Array
    terminated: Array
    truncated: Array
    final_obs: Array
    final_state: Array | None
    """Where the suite has a state of its own."""


def legal_actions(env: JaxEnv, available: Tensor, generator: torch.Generator) -> Tensor:
    """Uniformly random legal actions [E, N], or numbers of 0..1 [E, N, C] where actions are continuous."""
    if env.world.components:
        return torch.rand(*available.shape[:2], env.world.components, generator=generator)
    return torch.rand(available.shape, generator=generator).masked_fill_(~available.cpu(), -1).argmax(-1)


def side_by_side(env: JaxEnv, steps: int, seed: int) -> Iterator[tuple[Step, Shown]]:
    """Play `steps` random legal steps of a fresh `env`, and each of them again with the package."""
    original = env.world.original
    jumanji = hasattr(original, "observation_spec")
    play = for_all(original.step if jumanji else original.step_env)
    start, key = for_all(original.reset), for_all(key_at)
    keys = row_keys(env.world.stream, env.seeds, env.num_envs // len(env.seeds))
    generator = torch.Generator().manual_seed(seed)
    step, episode, clock = env.observe(), np.zeros(env.num_envs, int), np.zeros(env.num_envs, int)
    for _ in range(steps):
        before = env.original_states()
        actions = legal_actions(env, step.available, generator)
        step = env.step(actions)
        given = jnp.asarray(actions.numpy(), float if actions.is_floating_point() else int)
        if jumanji:
            after, moment = play(before, given)
            ended, reward = moment.last(), moment.reward
            cut = ended & (moment.discount == 1).reshape(env.num_envs, -1).all(1)
            if reward.ndim > 1:  # MAGPO's code adds up what agents earn; the warehouse has one reward anyway
                reward = reward.sum(1)
        else:
            named = {name: given[:, index] for index, name in enumerate(original.agents)}
            moment, after, rewards, done, _ = play(key(keys, episode, clock), before, named)
            ended, reward = done["__all__"], jnp.stack([rewards[name] for name in original.agents], 1)
            cut = jnp.zeros_like(ended)
        ended, cut, reward = np.asarray(ended), np.asarray(cut), np.asarray(reward).reshape(env.num_envs, -1)
        last, legal = _seen(env, after, moment)
        episode, clock = episode + ended, np.where(ended, 0, clock + 1)
        started = start(key(keys, episode, np.full_like(clock, -1)))
        fresh = _seen(env, *(started if jumanji else reversed(started)))
        states = _choose(ended, started[0 if jumanji else 1], after)
        yield (
            step,
            Shown(
                states,
                after,
                obs=_choose(ended, fresh[0], last),
                available=_choose(ended, fresh[1], legal),
                reward=np.broadcast_to(reward, step.reward.shape),
                terminated=ended & ~cut,
                truncated=cut,
                final_obs=last,
                final_state=np.asarray(moment["world_state"]) if env.world.has_state else None,
            ),
        )


def difference(env: JaxEnv, step: Step, shown: Shown) -> float:
    """The largest difference of any number of a step or of the states after it; infinite if a flag differs."""
    for name in ("terminated", "truncated", "available"):
        if not np.array_equal(getattr(step, name).cpu().numpy(), getattr(shown, name)):
            return float("inf")
    names = [name for name in ("obs", "reward", "final_obs", "final_state") if getattr(shown, name) is not None]
    pairs = [(getattr(step, name).cpu().numpy(), getattr(shown, name)) for name in names]
    pairs += zip(*map(jax.tree_util.tree_leaves, (env.original_states(), shown.states)), strict=True)
    return max(float(np.abs(np.float64(ours) - np.float64(theirs)).max()) for ours, theirs in pairs)


@functools.cache
def for_all(function: Callable[..., Any]) -> Callable[..., Any]:
    """A package's function of one copy, for all rows; what is played once or twice is compiled in haste."""
    return jax.jit(jax.vmap(function), compiler_options=HASTY)


def rates(env: JaxEnv, steps: int, seconds: float) -> tuple[float, float]:
    """Env-steps per second of processor time, all threads: of `bridge_loop` and of `suite_loop` of as many copies.

    The two take turns of `steps` steps, for about `seconds` each, and the fastest turn of each counts: a step is so
    short that other work on the machine would be measured otherwise.
    """
    loops = bridge_loop(env, steps), suite_loop(env, steps)
    times: tuple[list[float], list[float]] = [], []
    while sum(times[0]) + sum(times[1]) < 2 * seconds or len(times[0]) < 3:
        for loop, found in zip(loops, times, strict=True):
            start = time.process_time()
            loop()
            found.append(time.process_time() - start)
    ours, theirs = (steps * env.num_envs / min(found) for found in times)
    return ours, theirs


def bridge_loop(env: JaxEnv, steps: int) -> Callable[[], None]:
    """A function that plays `steps` uniformly random steps of `env`, drawn beforehand; see `suite_loop`."""
    shape = steps, env.num_envs, env.spec.num_agents
    components = env.world.components
    drawn = torch.rand(*shape, components) if components else torch.randint(env.spec.num_actions, shape)
    actions = drawn.unbind(0)
    env.step(actions[0])

    def play() -> None:
        for one in actions:
            env.step(one)

    return play


def suite_loop(env: JaxEnv, steps: int) -> Callable[[], None]:
    """A function that plays `steps` uniformly random steps of as many copies in the suite's own loop, all within JAX.

    That is `jax.lax.scan` over the suite's own batched step with its own restart: Jumanji's `VmapAutoResetWrapper`, and
    JaxMARL's `step` under `jax.vmap`. The function is compiled already.
    """
    spec, components = env.spec, env.world.components
    shape, key = (steps, env.num_envs, spec.num_agents), jax.random.PRNGKey(1)
    if components:
        actions = jax.random.uniform(key, (*shape, components))
    else:
        actions = jax.random.randint(key, shape, 0, spec.num_actions)
    carry, step = (_jumanji_loop if hasattr(env.world.original, "observation_spec") else _jaxmarl_loop)(env)
    # a start may have numbers of no firm type, with which the first turn would be compiled apart from all others
    carry = jax.tree_util.tree_map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), carry)
    loop = jax.jit(lambda carry: jax.lax.scan(step, carry, actions), compiler_options=COMPILER)

    def play() -> None:
        nonlocal carry
        carry, _ = jax.block_until_ready(loop(carry))

    play()
    return play


def _jumanji_loop(env: JaxEnv) -> tuple[Any, Callable[[Any, Any], Any]]:
    """States to begin with, and states and actions -> following states and what was computed."""
    wrapped = load("jumanji.wrappers").VmapAutoResetWrapper(env.world.original)

    def step(states: Any, actions: Any) -> Any:
        states, moment = wrapped.step(states, actions)
        return states, _summed((moment.observation, moment.reward))

    return jax.jit(wrapped.reset)(jax.random.split(jax.random.PRNGKey(0), env.num_envs))[0], step


def _jaxmarl_loop(env: JaxEnv) -> tuple[Any, Callable[[Any, Any], Any]]:
    """As `_jumanji_loop`; a key goes with the states."""
    original, first = env.world.original, jax.random.PRNGKey(0)

    def step(carry: Any, actions: Any) -> Any:
        states, key = carry
        key, now = jax.random.split(key)
        named = {name: actions[:, index] for index, name in enumerate(original.agents)}
        observed, states, rewards, _, _ = jax.vmap(original.step)(jax.random.split(now, env.num_envs), states, named)
        legal = jax.vmap(original.get_avail_actions)(states) if env.world.has_state else None
        return (states, key), _summed((observed, rewards, legal))

    return (jax.jit(jax.vmap(original.reset))(jax.random.split(first, env.num_envs))[1], first), step


def look(board: Array) -> Array:
    """The vectors [N, 54] that MAGPO's code makes of a Connector board [side, side], one cell at a time."""
    side, agents = len(board), int(board.max() + 2) // 3
    numbers = np.zeros((agents, 54), np.float32)
    places = {board[row, column]: (row, column) for row in range(side) for column in range(side)}
    for agent in range(agents):
        head = places[3 * agent + 2]
        numbers[agent, :2] = np.array(head) / side**2
        numbers[agent, 2:4] = np.array(places.get(3 * agent + 3, (0, 0))) / side**2
        for index, (down, right) in enumerate((down, right) for down in range(-2, 3) for right in range(-2, 3)):
            row, column = head[0] + down, head[1] + right
            if not (0 <= row < side and 0 <= column < side):
                numbers[agent, [4 + index, 29 + index]] = 1
            elif cell := board[row, column]:
                kind = ("path", "head", "target")[(cell - 1) % 3]
                numbers[agent, 4 + index] = {"path": -1, "head": 1, "target": 0}[kind]
                numbers[agent, 29 + index] = 0 if kind != "target" else 1 if cell == 3 * agent + 3 else -1
    return numbers


def _seen(env: JaxEnv, states: Any, moment: Any) -> tuple[Array, Array]:
    """Observations [E, N, O] and masks [E, N, A] of what a package returned."""
    original = env.world.original
    if hasattr(moment, "observation"):
        observed = moment.observation
        if hasattr(observed, "grid"):
            return np.stack([look(board) for board in np.asarray(observed.grid)]), np.asarray(observed.action_mask)
        return np.asarray(observed.agents_view, np.float32), np.asarray(observed.action_mask)
    obs = np.stack([moment[name] for name in original.agents], 1)
    if not env.world.has_state:
        return obs, np.ones((*obs.shape[:2], env.spec.num_actions), bool)
    legal = jax.vmap(original.get_avail_actions)(states)
    return obs, np.stack([legal[name] for name in original.agents], 1).astype(bool)


def _choose(rows: Array, one: Any, other: Any) -> Any:
    """`one` in the `rows` [E], `other` elsewhere; for arrays [E, ...] and trees of them."""

    def choose(left: Any, right: Any) -> Array:
        return np.where(rows.reshape(-1, *[1] * (np.ndim(left) - 1)), left, right)

    return jax.tree_util.tree_map(choose, one, other)


def _summed(tree: Any) -> list[Any]:
    """A sum of every array: enough to keep a compiler from leaving its computation out."""
    return [leaf.sum() for leaf in jax.tree_util.tree_leaves(tree)]
