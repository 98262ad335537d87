"""How many steps of how many copies CoordSum plays in a second: `python benchmarks/coordsum.py`.

One thread, uniform random actions drawn beforehand, restarts included. An env-step is one step of one copy, all agents.
Prints a table and asserts nothing.
"""

from __future__ import annotations

import argparse
import time

import torch

from inconcert import envs

NUM_ENVS = (64, 256, 1024, 4096)


def env_steps_per_second(task: str, num_envs: int, seconds: float, device: str = "cpu") -> float:
    """Measure for at least `seconds`, after a warm-up of two episodes."""
    env = envs.make(task, num_envs=num_envs, device=device)
    length = env.spec.episode_limit
    shape = (length, num_envs, env.spec.num_agents)
    actions = torch.randint(env.spec.num_actions, shape, device=env.device).unbind(0)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to measure each entry (default: 1)")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"million env-steps/s, {arguments.device}, one thread, torch {torch.__version__}")
    print(f"{'copies':20s}" + "".join(f"{num_envs:>9d}" for num_envs in NUM_ENVS))
    for task in envs.tasks("coordsum"):
        rates = [env_steps_per_second(task, num, arguments.seconds, arguments.device) for num in NUM_ENVS]
        print(f"{task:20s}" + "".join(f"{rate / 1e6:9.2f}" for rate in rates), flush=True)


if __name__ == "__main__":
    main()
