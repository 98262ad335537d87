"""Connector, from Jumanji: agents draw paths on a grid, each to its own target, and must not block each other.

A task `connector/con-<side>x<side>x<agents>a` is a random board that can be solved. Every move leaves a piece of path
behind that nobody can cross.

The rules are those of Jumanji 1.1.1 (`Connector-v2`), which MAGPO's numbers are from: 1.1.2 rewrote the rules of motion
and the boards (`Connector-v3`). The boards are those of the suite's random-walk generator. MAGPO's code has two
wrappers, and its paper does not name the one that was used; this is the one with vectors, because the other's images do
not fit the networks of its settings.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

import torch

from inconcert.config import InputError
from inconcert.envs import Spec, VectorEnv, unknown_task

if TYPE_CHECKING:
    from inconcert.envs.jax_bridge import World

TASKS = ("con-5x5x3a", "con-7x7x5a", "con-10x10x10a", "con-15x15x23a")
"""The four tasks of MAGPO; other sizes are made in the same way."""
PATTERN = "con-<side>x<side>x<agents>a"
ACTIONS = ("stay", "up", "right", "down", "left")
SIGHT = 2
"""Cells that an agent sees in each direction."""


def make(name: str, *, num_envs: int, seeds: tuple[int, ...], device: torch.device, debug: bool = False) -> VectorEnv:
    """A batch of `len(seeds) * num_envs` copies of the task `name`, for instance "con-5x5x3a".

    Observation [E, N, 54] float32: row and column of the agent and of its target, all divided by the number of cells
    (the target reads (0, 0) once it is reached, because the agent then stands on it), then two windows of 5x5 cells
    around the agent: what blocks (heads 1, paths -1) and targets (its own 1, others -1), off the board 1 in both.
    State: the observations of all agents in a row. Actions: `ACTIONS`; a move onto anything but an empty cell or the
    own target is illegal, and so is every move of an agent that is connected. Every agent gets the sum over agents of 1
    on connecting and -0.03 for each step begun unconnected. An episode ends when every agent is connected or blocked,
    or after side x side steps; this version of Jumanji makes no difference between the two, so both are terminations.
    `info` has `won` [E] bool (all agents connected), which is the metric, and `connected` [E], the share of agents.

    Args:
        debug: check every action (this reads the device back at each step).

    Raises:
        InputError: a name or an option that does not exist, or the suite is not installed.
    """
    side, agents = sizes(name)
    from inconcert.envs import jax_bridge

    return jax_bridge.JaxEnv(_world(side, agents), num_envs=num_envs, seeds=seeds, device=device, debug=debug)


def sizes(name: str) -> tuple[int, int]:
    """Side and agents of a task name: "con-5x5x3a" -> (5, 3).

    Raises:
        InputError: the name does not follow the pattern, or the board has no room for so many.
    """
    match = re.fullmatch(r"con-([1-9]\d*)x([1-9]\d*)x([1-9]\d*)a", name)
    if match is None or match[1] != match[2]:
        raise unknown_task("connector", name)
    side, agents = int(match[1]), int(match[3])
    if not (side >= 3 and agents <= side * side // 4):
        raise InputError(f"task 'connector/{name}' does not fit: the side must be at least 3, and four cells an agent")
    return side, agents


@functools.cache
def _world(side: int, agents: int) -> World:
    from inconcert.envs import jax_bridge

    package = "jumanji.environments.routing.connector"
    suite = jax_bridge.load(f"{package}.env")
    marks = jax_bridge.load(f"{package}.constants")
    generator = jax_bridge.load(f"{package}.generator").RandomWalkGenerator(grid_size=side, num_agents=agents)
    time_limit = side * side
    original = suite.Connector(generator=generator, time_limit=time_limit)
    jax, jnp = jax_bridge.jax, jax_bridge.jnp
    window = 2 * SIGHT + 1

    def place(grid: Any, mark: Any) -> Any:
        """Row and column of the cell with this mark; (0, 0) if there is none."""
        return jnp.stack(jnp.divmod(jnp.argmax(grid == mark), side))

    def look(grid: Any, agent: Any) -> Any:
        """What one agent observes. A cell is 0 if empty, else 3 times the number of its agent plus a mark 1, 2 or 3."""
        position, target = (place(grid, 3 * agent + mark) for mark in (marks.POSITION, marks.TARGET))
        kind = (grid - 1) % 3 + 1  # of a cell that is not empty
        heads, paths, targets = ((grid > 0) & (kind == mark) for mark in (marks.POSITION, marks.PATH, marks.TARGET))
        blockers = heads.astype(jnp.float32) - paths
        goals = jnp.where(targets, jnp.where(grid == 3 * agent + marks.TARGET, 1.0, -1.0), 0.0)
        around = [
            jax.lax.dynamic_slice(jnp.pad(layer, SIGHT, constant_values=1.0), position, (window, window)).ravel()
            for layer in (blockers, goals)
        ]
        return jnp.concatenate([position / grid.size, target / grid.size, *around])

    def view(step: Any) -> jax_bridge.View:
        obs = jax.vmap(look, (None, 0))(step.observation.grid, jnp.arange(agents))
        return jax_bridge.View(obs.astype(jnp.float32), step.observation.action_mask)

    def reset(key: Any) -> tuple[Any, jax_bridge.View]:
        state, step = original.reset(key)
        return state, view(step)

    def play(state: Any, actions: Any, key: Any) -> tuple[Any, jax_bridge.View, jax_bridge.Outcome]:
        state, step = original.step(state, actions)
        reward = jnp.broadcast_to(step.reward.sum(), (agents,))
        share = step.extras["ratio_connections"]
        info = {"won": share == 1, "connected": share}
        return state, view(step), jax_bridge.Outcome(reward, step.last(), jnp.zeros((), bool), info)

    features = 4 + 2 * window * window
    spec = Spec(agents, len(ACTIONS), features, agents * features, time_limit, "won")
    info = {"won": torch.bool, "connected": torch.float32}
    return jax_bridge.World(spec, "connector", reset, play, original, info=info)
