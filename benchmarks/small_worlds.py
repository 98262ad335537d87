"""How many steps of how many copies the small worlds play in a second: `python benchmarks/small_worlds.py`.

One thread, uniform random actions drawn beforehand, restarts included. An env-step is one step of one copy, all agents.
Beside each task, what its literal reference in plain Python does, and below, an environment from outside behind
processes (`pettingzoo/...`). Prints tables and asserts nothing.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

import torch

from inconcert import envs
from inconcert.envs.batched import Uniforms
from inconcert.envs.macf_reference import Road
from inconcert.envs.predator_prey import sizes as grid_sizes
from inconcert.envs.predator_prey_reference import Hunt
from inconcert.envs.two_corridors import sizes as corridor_sizes
from inconcert.envs.two_corridors_reference import Skirmish

NUM_ENVS = (64, 256, 1024, 4096)
OUTSIDE = "pettingzoo/mpe2.simple_spread_v3"


def env_steps_per_second(env: envs.VectorEnv, seconds: float) -> float:
    """Measure for at least `seconds`, after a warm-up as long as numbers are drawn ahead."""
    shape = (Uniforms.LENGTH, env.num_envs, env.spec.num_agents)
    counts = env.observe().available.sum(2)  # agents may have fewer actions than others
    actions = (torch.rand(shape, device=env.device) * counts).long().unbind(0)
    for one in actions:
        env.step(one)
    rounds, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for one in actions:
            step = env.step(one)
        step.reward.sum().item()  # wait for the device
        rounds += 1
    return rounds * len(actions) * env.num_envs / (time.perf_counter() - start)


def reference(task: str) -> Callable[[], int]:
    """Plays an episode with random actions in plain Python, observations included, and says how long it was."""
    suite, _, name = task.partition("/")

    def numbers(count: int) -> list[float]:
        return [random.random() for _ in range(count)]

    def hunt() -> int:
        agents, stags, side = grid_sizes(name)
        world = Hunt(numbers(agents + stags), agents, stags, 0, side)
        while not (world.terminated or world.truncated):
            world.step([random.randrange(6) for _ in range(agents)], numbers(agents + 2 * stags))
            _ = [world.observe(agent) for agent in range(agents)], world.state()
        return world.steps

    def drive() -> int:
        world = Road()
        while not (world.won or world.truncated):
            world.step([random.randrange(21) for _ in range(2)], numbers(2))
            _ = [world.observe(car) for car in range(2)], world.state()
        return world.steps

    def fight() -> int:
        world = Skirmish(numbers(2), *corridor_sizes(name), closed=False)
        while not (world.won or world.lost or world.truncated):
            world.step([random.randrange(7) for _ in range(2)])
            _ = [world.observe(agent) for agent in range(2)], world.state()
        return world.steps

    return {"predator_prey": hunt, "macf": drive, "two_corridors": fight}[suite]


def reference_steps_per_second(task: str, seconds: float) -> float:
    """As `env_steps_per_second`, of one copy of the reference."""
    episode, steps, start = reference(task), 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        steps += episode()
    return steps / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to measure each entry (default: 1)")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"thousand env-steps/s, {arguments.device}, one thread, torch {torch.__version__}")
    print(f"{'copies':24s}" + "".join(f"{num_envs:>9d}" for num_envs in NUM_ENVS) + f"{'reference':>11s}")
    for suite in ("predator_prey", "macf", "two_corridors"):
        for task in envs.tasks(suite):
            made = (envs.make(task, num_envs=num, device=arguments.device) for num in NUM_ENVS)
            rates = [env_steps_per_second(env, arguments.seconds) for env in made]
            slow = reference_steps_per_second(task, arguments.seconds)
            row = "".join(f"{rate / 1e3:9.0f}" for rate in rates)
            print(f"{task:24s}{row}{slow / 1e3:11.2f}", flush=True)
    print(f"\nthousand env-steps/s of {OUTSIDE}, 16 copies")
    for workers in (0, 1, 2):
        env = envs.make(OUTSIDE, num_envs=16, workers=workers)
        where = f"{workers} processes" if workers else "in this process"
        print(f"{where:24s}{env_steps_per_second(env, arguments.seconds) / 1e3:9.2f}", flush=True)


if __name__ == "__main__":
    main()
