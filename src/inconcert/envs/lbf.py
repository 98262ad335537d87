"""Level-based foraging, from Jumanji: agents of different strength collect food that may need several of them.

A task `lbf/[<sight>s-]<side>x<side>-<agents>p-<foods>f[-coop]` is a grid with agents and pieces of food, each with a
level. A piece is eaten when the levels of the agents that load it from the four neighbouring cells add up to its own.
Without `<sight>s-` agents see the whole grid; `-coop` gives every piece a level that takes all agents (at most three).

The rules are those of Jumanji 1.1.1 (`LevelBasedForaging`, vector observations), wrapped as MAGPO's code does it: the
team's reward, the eaten share of all food levels, goes to every agent, so that an episode's return is at most 1.
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
    "2s-8x8-2p-2f-coop",
    "8x8-2p-2f-coop",
    "2s-10x10-3p-3f",
    "10x10-3p-3f",
    "15x15-3p-5f",
    "15x15-4p-3f",
    "15x15-4p-5f",
)
"""The seven tasks of MAGPO; other sizes are made in the same way."""
PATTERN = "[<sight>s-]<side>x<side>-<agents>p-<foods>f[-coop]"
ACTIONS = ("stay", "up", "down", "left", "right", "load")
TIME_LIMIT = 100


def make(name: str, *, num_envs: int, seeds: tuple[int, ...], device: torch.device, debug: bool = False) -> VectorEnv:
    """A batch of `len(seeds) * num_envs` copies of the task `name`, for instance "2s-8x8-2p-2f-coop".

    Observation [E, N, 3 (foods + N)] float32: row, column and level of every piece of food, of the agent itself and of
    the others, positions counted from the corner of what the agent can see; what is out of sight or eaten is
    (-1, -1, 0). State: the observations of all agents in a row. Actions: `ACTIONS`; moving off the grid or onto
    something is illegal, and so is loading away from food. An episode ends (terminates) when all is eaten and is cut
    (truncated) after 100 steps. Metric: `episode_return`, the share of the food that was eaten, weighted by level.

    Args:
        debug: check every action (this reads the device back at each step).

    Raises:
        InputError: a name or an option that does not exist, or the suite is not installed.
    """
    side, sight, agents, foods, coop = sizes(name)
    from inconcert.envs import jax_bridge

    world = _world(side, sight, agents, foods, coop)
    return jax_bridge.JaxEnv(world, num_envs=num_envs, seeds=seeds, device=device, debug=debug)


def sizes(name: str) -> tuple[int, int, int, int, bool]:
    """Side, sight, agents, foods and "all must help" of a task name: "2s-8x8-2p-2f-coop" -> (8, 2, 2, 2, True).

    Raises:
        InputError: the name does not follow the pattern, or the grid has no room for so much.
    """
    match = re.fullmatch(r"(?:([1-9]\d*)s-)?([1-9]\d*)x([1-9]\d*)-([1-9]\d*)p-([1-9]\d*)f(-coop)?", name)
    if match is None or match[2] != match[3]:
        raise unknown_task("lbf", name)
    side, agents, foods = (int(match[group]) for group in (2, 4, 5))
    sight = int(match[1] or side)
    if side < 5 or sight > side or (side - 2) ** 2 - agents <= 5 * foods:
        raise InputError(
            f"task 'lbf/{name}' does not fit: the side must be at least 5 and the sight at most the side, and pieces "
            "of food need five cells each inside the border"
        )
    return side, sight, agents, foods, match[6] is not None


@functools.cache
def _world(side: int, sight: int, agents: int, foods: int, coop: bool) -> World:
    from inconcert.envs import jax_bridge

    package = "jumanji.environments.routing.lbf"
    suite = jax_bridge.load(f"{package}.env")
    generator = jax_bridge.load(f"{package}.generator").RandomGenerator(
        grid_size=side, fov=sight, num_agents=agents, num_food=foods, max_agent_level=2, force_coop=coop
    )
    original = suite.LevelBasedForaging(generator=generator, time_limit=TIME_LIMIT)
    jnp = jax_bridge.jnp

    def view(step: Any) -> jax_bridge.View:
        return jax_bridge.View(step.observation.agents_view.astype(jnp.float32), step.observation.action_mask)

    def reset(key: Any) -> tuple[Any, jax_bridge.View]:
        state, step = original.reset(key)
        return state, view(step)

    def play(state: Any, actions: Any, key: Any) -> tuple[Any, jax_bridge.View, jax_bridge.Outcome]:
        state, step = original.step(state, actions)
        reward = jnp.broadcast_to(step.reward.sum(), (agents,))
        cut = step.last() & (step.discount != 0).all()  # the suite marks the time limit by a discount of 1
        return state, view(step), jax_bridge.Outcome(reward, step.last() & ~cut, cut, {})

    features = 3 * (agents + foods)
    spec = Spec(agents, len(ACTIONS), features, agents * features, TIME_LIMIT, "episode_return")
    return jax_bridge.World(spec, "lbf", reset, play, original)
