"""SMAX, from JaxMARL: StarCraft-like battles on an open field, the team against a scripted one.

The rules are those of JaxMARL 0.0.7, which MAGPO's numbers are from: the enemy heads for the team and shoots what is
closest, touching the border kills, dead units still move and push (0.2.0 ended that, and scaled two of the features).
There is no terrain, and no unit that heals, so that only some of StarCraft's maps can be told in it. Where another
paper used SMAC, SMAX is a stand-in and its numbers are not SMAC's.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from inconcert.envs import Spec, VectorEnv, unknown_task

if TYPE_CHECKING:
    from inconcert.envs.jax_bridge import World

PAPER = (
    "2s3z",
    "3s5z",
    "3s5z_vs_3s6z",
    "3s_vs_5z",
    "6h_vs_8z",
    "10m_vs_11m",
    "5m_vs_6m",
    "smacv2_5_units",
    "smacv2_10_units",
    "27m_vs_30m",
)
"""The ten tasks of MAGPO."""
UNITS = ("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk")
"""JaxMARL's unit types, in its order."""
EXTRA = {
    "8m_vs_9m": ({"marine": 8}, {"marine": 9}),
    "7sz": ({"stalker": 7, "zealot": 7}, {"stalker": 7, "zealot": 7}),
    "6z_vs_24zl": ({"zealot": 6}, {"zergling": 24}),
    "7m2M_vs_8m3M": ({"marine": 7, "marauder": 2}, {"marine": 8, "marauder": 3}),
}
"""Battles that JaxMARL does not have, by the units of the two sides. `6z_vs_24zl` has the units of SMAC's map corridor,
on an open field, and `7m2M_vs_8m3M` those of MMM2 but for the two that heal."""
EXTRA_RANDOM = {"smacv2_10_vs_11": (10, 11)}
"""More of them: so many units of random types at random places, as in SMACv2."""
TASKS = (*PAPER, "3m", "8m", "25m", "smacv2_20_units", *EXTRA, *EXTRA_RANDOM)
PATTERN = ""


def make(name: str, *, num_envs: int, seeds: tuple[int, ...], device: torch.device, debug: bool = False) -> VectorEnv:
    """A batch of `len(seeds) * num_envs` copies of the task `name`, for instance "2s3z".

    Observation [E, N, O] float32: 13 numbers for each other unit in sight, allies first (health, place, last move, last
    target, cooldown, type), zeros for the others, then 10 of the agent itself. State: 10 numbers of every unit, then
    every unit's team and type. Actions: north, east, south, west, stop, then one attack for each enemy; a dead unit can
    only stop. Every agent gets the enemies' lost share of health in a step, divided by their number, and 1 for a win.
    An episode ends when a side is dead or at the time limit, 100, which JaxMARL compares with the step count before it
    is moved on: an episode can last 101 steps. It makes no difference between the two, so both are terminations.
    `info` has `won` [E] bool (all enemies dead, some ally alive), which is the metric.

    Args:
        debug: check every action (this reads the device back at each step).

    Raises:
        InputError: a name or an option that does not exist, or the suite is not installed.
    """
    if name not in TASKS:
        raise unknown_task("smax", name)
    from inconcert.envs import jax_bridge

    return jax_bridge.JaxEnv(_world(name), num_envs=num_envs, seeds=seeds, device=device, debug=debug)


@functools.cache
def _world(name: str) -> World:
    from inconcert.envs import jax_bridge

    package = "jaxmarl.environments.smax"
    suite = jax_bridge.load(f"{package}.smax_env")
    battle = jax_bridge.load(f"{package}.heuristic_enemy_smax_env").HeuristicEnemySMAX
    scenario = _scenario(suite, name)
    original = battle(scenario=scenario, see_enemy_actions=True, walls_cause_death=True, attack_mode="closest")
    jnp = jax_bridge.jnp
    agents, allies = original.agents, original.num_allies

    def view(observed: Any, state: Any) -> jax_bridge.View:
        legal = original.get_avail_actions(state)
        return jax_bridge.View(
            jnp.stack([observed[agent] for agent in agents]),
            jnp.stack([legal[agent] for agent in agents]).astype(bool),
            observed["world_state"],
        )

    def reset(key: Any) -> tuple[Any, jax_bridge.View]:
        observed, state = original.reset(key)
        return state, view(observed, state)

    def play(state: Any, actions: Any, key: Any) -> tuple[Any, jax_bridge.View, jax_bridge.Outcome]:
        named = {agent: actions[index] for index, agent in enumerate(agents)}
        observed, state, reward, done, _ = original.step_env(key, state, named)
        alive = state.state.unit_alive
        won = ~alive[allies:].any() & alive[:allies].any()
        outcome = jax_bridge.Outcome(
            jnp.stack([reward[agent] for agent in agents]), done["__all__"], jnp.zeros((), bool), {"won": won}
        )
        return state, view(observed, state), outcome

    limit = original.max_steps + 1
    spec = Spec(allies, original.num_ally_actions, original.obs_size, original.state_size, limit, "won")
    return jax_bridge.World(spec, "smax", reset, play, original, info={"won": torch.bool}, has_state=True, by_seed=True)


def _scenario(suite: Any, name: str) -> Any:
    """JaxMARL's description of a battle."""
    if name in EXTRA_RANDOM:
        allies, enemies = EXTRA_RANDOM[name]
        return suite.Scenario(suite.jnp.zeros(allies + enemies, dtype=suite.jnp.uint8), allies, enemies, True, True)
    if name not in EXTRA:
        return suite.map_name_to_scenario(name)
    types = [UNITS.index(unit) for side in EXTRA[name] for unit, count in side.items() for _ in range(count)]
    sizes = [sum(side.values()) for side in EXTRA[name]]
    return suite.Scenario(suite.jnp.array(types, dtype=suite.jnp.uint8), *sizes, False, False)
