"""Training speed of A2C on the coloured spread with the paper's settings, scheme by scheme.

    python benchmarks/spread_a2c.py                            # spread/15a_3c, one seed, one thread
    python benchmarks/spread_a2c.py spread/30a_5c --seeds 3    # all seeds in one program

Prints for each scheme the updates (8 environments x 5 steps) per CPU-second, a measurement of the policy distances
(mdps, every 2,000 updates) or the clustering (seps, once) in CPU-seconds, and the CPU-minutes of the paper's 40,000
updates with all of it. Asserts nothing.
"""

from __future__ import annotations

import argparse
import time

import torch

from inconcert import envs, onpolicy
from inconcert.algorithms import a2c

VARIANTS = ("nps", "", "fps-id", "oracle", "seps", "mdps", "mdps-tv")
UPDATES = 100
"""Rollouts that a measurement looks back on; speed is the mean over as many updates."""


def measure(task: str, variant: str, seeds: int) -> str:
    """One line of the table."""
    config = a2c.configure(task, "paper", variant, seeds=tuple(range(seeds)), delay=False)
    env = envs.make(config.task, config.num_envs, config.seeds)
    learner = a2c.Learner(config, env.spec, "cpu")
    start = torch.ones(seeds, config.num_envs, dtype=torch.bool)
    now = {"step": env.reset(), "start": start, **learner.memories(config.num_envs)}

    def seconds(first: int, updates: int) -> float:
        clock = time.process_time()
        for index in range(first, first + updates):
            learner.learn(onpolicy.collect(learner, env, now, index), index)
        return time.process_time() - clock

    seconds(1, 10)
    # the updates before a measurement, which is the last thing that the last of them does
    update = seconds(config.every - UPDATES, UPDATES) / UPDATES
    extra = max(0.0, seconds(config.every, 1) - update)
    times = config.updates // config.every if config.measured else 1 if config.scheme == "seps" else 0
    total = config.updates * update + times * extra
    shown = f"{extra:14.1f}" if times else f"{'-':>14}"
    return f"{variant or 'fps':<10} {1 / update:14.0f} {shown} {total / 60:20.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", default="spread/15a_3c")
    parser.add_argument("--seeds", type=int, default=1, help="trained in one program (default: 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.task}, {arguments.seeds} seed(s), one thread, torch {torch.__version__}")
    print(f"{'scheme':<10} {'updates/CPU-s':>14} {'extra, CPU-s':>14} {'paper, CPU-minutes':>20}")
    for variant in VARIANTS:
        print(measure(arguments.task, variant, arguments.seeds), flush=True)


if __name__ == "__main__":
    main()
