"""How many steps of how many particle worlds are played in a second: `python benchmarks/particles.py`.

One thread, uniform random legal actions drawn beforehand, restarts included. An env-step is one step of one world, all
agents. The last columns are the package `mpe2`, which plays one world at a time, where it has the task, and how many
times as many steps 1,024 worlds of ours make. Prints a table and asserts nothing.
"""

from __future__ import annotations

import argparse
import importlib
import time
from typing import Any

import torch

from inconcert import envs

NUM_ENVS = (64, 256, 1024, 4096)
PACKAGE = {
    "mpe/simple_spread": "mpe2.simple_spread_v3",
    "mpe/simple_reference": "mpe2.simple_reference_v3",
    "mpe/simple_speaker_listener": "mpe2.simple_speaker_listener_v4",
}


def env_steps_per_second(task: str, num_envs: int, seconds: float, device: str = "cpu") -> float:
    """Measure for at least `seconds`, after a warm-up of two episodes."""
    options: dict[str, Any] = {"rules": "current"} if task in PACKAGE else {}
    env = envs.make(task, num_envs=num_envs, device=device, **options)
    length = env.spec.episode_limit
    legal = env.observe().available.flatten(0, 1).float()
    actions = torch.multinomial(legal, length, replacement=True).view(num_envs, -1, length).unbind(2)
    for _ in range(2):
        for one in actions:
            env.step(one)
    episodes, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for one in actions:
            step = env.step(one)
        step.reward.sum().item()  # wait for the device
        episodes += 1
    return episodes * length * num_envs / (time.perf_counter() - start)


def package_steps_per_second(task: str, seconds: float) -> float:
    """The same for the package's parallel environment: one world, restarted when its episode is over."""
    env = importlib.import_module(PACKAGE[task]).parallel_env(max_cycles=25)
    env.reset(seed=0)
    spaces = {agent: env.action_space(agent) for agent in env.possible_agents}
    draws = [{agent: int(space.sample()) for agent, space in spaces.items()} for _ in range(25)]
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        env.reset()
        for one in draws:
            env.step(one)
        steps += len(draws)
    return steps / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to measure each entry (default: 1)")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"thousand env-steps/s, {arguments.device}, one thread, torch {torch.__version__}")
    print(f"{'worlds':28s}" + "".join(f"{num_envs:>9d}" for num_envs in NUM_ENVS) + f"{'mpe2':>9s}{'times':>9s}")
    for task in [*envs.tasks("mpe"), *envs.tasks("spread")]:
        rates = [env_steps_per_second(task, num, arguments.seconds, arguments.device) for num in NUM_ENVS]
        line = f"{task:28s}" + "".join(f"{rate / 1e3:9.0f}" for rate in rates)
        if task in PACKAGE:
            theirs = package_steps_per_second(task, arguments.seconds)
            line += f"{theirs / 1e3:9.2f}{rates[NUM_ENVS.index(1024)] / theirs:9.0f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
