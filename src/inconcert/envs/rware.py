"""Robot warehouse, from Jumanji: robots fetch requested shelves to the goal, with one reward for each delivery.

A task `rware/<size>-<agents>ag[-hard]` is a warehouse of one of the `SIZES` with as many requested shelves at a time as
there are agents, or half as many in the hard version. Rewards are rare: untrained agents hardly ever deliver anything.

The rules are those of Jumanji 1.1.1 (`RobotWarehouse`), wrapped as MAGPO's code does it. Unlike in the original
warehouse, a collision of two robots ends the episode.
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

TASKS = (
    "tiny-2ag",
    "tiny-2ag-hard",
    "tiny-4ag",
    "tiny-4ag-hard",
    "small-4ag",
    "small-4ag-hard",
    "medium-4ag",
    "medium-4ag-hard",
    "medium-6ag",
    "large-4ag",
    "large-4ag-hard",
    "large-8ag",
    "large-8ag-hard",
    "xlarge-4ag",
    "xlarge-4ag-hard",
)
"""The fifteen tasks of MAGPO; other numbers of agents are made in the same way."""
PATTERN = "<tiny|small|medium|large|xlarge>-<agents>ag[-hard]"
SIZES = {"tiny": (1, 3), "small": (2, 3), "medium": (2, 5), "large": (3, 5), "xlarge": (4, 5)}
"""Rows and columns of blocks of shelves; a block is 8 shelves high and 2 wide."""
ACTIONS = ("stay", "forward", "left", "right", "load or unload")
TIME_LIMIT = 500
MOST_AGENTS = 20


def make(name: str, *, num_envs: int, seeds: tuple[int, ...], device: torch.device, debug: bool = False) -> VectorEnv:
    """A batch of `len(seeds) * num_envs` copies of the task `name`, for instance "tiny-2ag".

    Observation [E, N, 66] float32: the robot itself (place, load, direction, on a lane or not) and the 3x3 cells around
    it. State: the observations of all robots in a row. Actions: `ACTIONS`; only forward can be illegal, in front of a
    shelf while carrying another. Every agent gets the number of requested shelves delivered in the step. An episode
    ends after 500 steps or when two robots collide; Jumanji makes no difference between the two, so both are
    terminations. `info` has `collided` [E] bool, whether the episode ended before its time. Metric: `episode_return`.

    Args:
        debug: check every action (this reads the device back at each step).

    Raises:
        InputError: a name or an option that does not exist, or the suite is not installed.
    """
    rows, columns, agents, requests = sizes(name)
    from inconcert.envs import jax_bridge

    world = _world(rows, columns, agents, requests)
    return jax_bridge.JaxEnv(world, num_envs=num_envs, seeds=seeds, device=device, debug=debug)


def sizes(name: str) -> tuple[int, int, int, int]:
    """Block rows, block columns, agents and requested shelves of a task name: "tiny-4ag-hard" -> (1, 3, 4, 2).

    Raises:
        InputError: the name does not follow the pattern, or there are too many agents.
    """
    match = re.fullmatch(r"([a-z]+)-([1-9]\d*)ag(-hard)?", name)
    if match is None or match[1] not in SIZES:
        raise unknown_task("rware", name)
    agents = int(match[2])
    if agents > MOST_AGENTS or (match[3] and agents < 2):
        raise InputError(f"task 'rware/{name}': agents must be 1..{MOST_AGENTS}, and at least 2 in a hard task")
    return *SIZES[match[1]], agents, agents // 2 if match[3] else agents


@functools.cache
def _world(rows: int, columns: int, agents: int, requests: int) -> World:
    from inconcert.envs import jax_bridge

    package = "jumanji.environments.routing.robot_warehouse"
    suite = jax_bridge.load(f"{package}.env")
    generator = jax_bridge.load(f"{package}.generator").RandomGenerator(
        column_height=8,
        shelf_rows=rows,
        shelf_columns=columns,
        num_agents=agents,
        sensor_range=1,
        request_queue_size=requests,
    )
    original = suite.RobotWarehouse(generator=generator, time_limit=TIME_LIMIT)
    jnp = jax_bridge.jnp

    def view(step: Any) -> jax_bridge.View:
        return jax_bridge.View(step.observation.agents_view.astype(jnp.float32), step.observation.action_mask)

    def reset(key: Any) -> tuple[Any, jax_bridge.View]:
        state, step = original.reset(key)
        return state, view(step)

    def play(state: Any, actions: Any, key: Any) -> tuple[Any, jax_bridge.View, jax_bridge.Outcome]:
        state, step = original.step(state, actions)
        reward = jnp.broadcast_to(step.reward, (agents,))
        collided = step.last() & (state.step_count < TIME_LIMIT)
        return state, view(step), jax_bridge.Outcome(reward, step.last(), jnp.zeros((), bool), {"collided": collided})

    features = int(original.num_obs_features)
    spec = Spec(agents, len(ACTIONS), features, agents * features, TIME_LIMIT, "episode_return")
    return jax_bridge.World(spec, "rware", reset, play, original, info={"collided": torch.bool})
