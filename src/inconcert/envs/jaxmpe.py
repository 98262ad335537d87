"""MPE simple spread as MAGPO played it, from JaxMARL: agents cover landmarks and should not bump into each other.

A task `jaxmpe/spread_<agents>ag` has as many landmarks as agents. The rules are those of JaxMARL 0.0.7. KPF plays the
particle worlds by other rules and other reward scales under the same name; those are the suite `mpe`.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Literal

import torch

from inconcert.config import InputError
from inconcert.envs import Spec, VectorEnv, batched, unknown_task

if TYPE_CHECKING:
    from inconcert.envs.jax_bridge import World

TASKS = ("spread_3ag", "spread_5ag", "spread_10ag")
"""The three tasks of MAGPO; other numbers of agents are made in the same way."""
PATTERN = "spread_<agents>ag"
ACTIONS = ("stay", "left", "right", "down", "up")
KINDS = ("discrete", "continuous")
MOST_AGENTS = 100


def make(
    name: str,
    *,
    num_envs: int,
    seeds: tuple[int, ...],
    device: torch.device,
    actions: Literal["discrete", "continuous"] = "discrete",
    debug: bool = False,
) -> VectorEnv:
    """A batch of `len(seeds) * num_envs` copies of the task `name`, for instance "spread_3ag".

    Observation [E, N, 6 N] float32: the agent's velocity and place, the landmarks and the other agents as seen from it,
    and two zeros for each other agent (a channel that nobody uses). State: the observations of all agents in a row.
    All actions are always legal. Agent i gets half of its own -1 for each agent that touches it, and half of the
    team's: minus the distance from each landmark to the closest agent, summed. JaxMARL looks at the step count before
    it is moved on, so that an episode of "25 steps" has 26, and it calls the end a termination. Metric:
    `episode_return`, the mean over agents.

    Args:
        actions: "discrete": one of `ACTIONS`, a unit force. "continuous", as in MAGPO: [E, N, 5] numbers of 0..1, the
            force along an axis being the difference of the two for its directions (the first is not used);
            `spec.num_actions` is then the number of components. The algorithms here play discrete actions.
        debug: check every action (this reads the device back at each step).

    Raises:
        InputError: a name or an option that does not exist, or the suite is not installed.
    """
    match = re.fullmatch(r"spread_([1-9]\d*)ag", name)
    if match is None:
        raise unknown_task("jaxmpe", name)
    agents = int(match[1])
    if agents > MOST_AGENTS:
        raise InputError(f"task 'jaxmpe/{name}': agents must be 1..{MOST_AGENTS}")
    batched.check_choice("actions", actions, KINDS)
    from inconcert.envs import jax_bridge

    world = _world(agents, actions == "continuous")
    return jax_bridge.JaxEnv(world, num_envs=num_envs, seeds=seeds, device=device, debug=debug)


@functools.cache
def _world(agents: int, continuous: bool) -> World:
    from inconcert.envs import jax_bridge

    suite = jax_bridge.load("jaxmarl.environments.mpe.simple_spread")
    original = suite.SimpleSpreadMPE(
        num_agents=agents,
        num_landmarks=agents,
        local_ratio=0.5,
        action_type=suite.CONTINUOUS_ACT if continuous else suite.DISCRETE_ACT,
    )
    jnp = jax_bridge.jnp
    names = original.agents
    unused = jax_bridge.jax.random.PRNGKey(0)  # the world has no noise; one key for all keeps it from being drawn

    def view(observed: Any) -> jax_bridge.View:
        obs = jnp.stack([observed[agent] for agent in names])
        return jax_bridge.View(obs, jnp.ones((agents, len(ACTIONS)), bool))

    def reset(key: Any) -> tuple[Any, jax_bridge.View]:
        observed, state = original.reset(key)
        return state, view(observed)

    def play(state: Any, actions: Any, key: Any) -> tuple[Any, jax_bridge.View, jax_bridge.Outcome]:
        named = {agent: actions[index] for index, agent in enumerate(names)}
        observed, state, reward, done, _ = original.step_env(unused, state, named)
        reward = jnp.stack([reward[agent] for agent in names])
        return state, view(observed), jax_bridge.Outcome(reward, done["__all__"], jnp.zeros((), bool), {})

    features = 6 * agents
    spec = Spec(agents, len(ACTIONS), features, agents * features, original.max_steps + 1, "episode_return")
    components = len(ACTIONS) if continuous else 0
    return jax_bridge.World(spec, "jaxmpe", reset, play, original, by_seed=True, components=components)
