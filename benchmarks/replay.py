"""Training speed of the algorithms with a replay, and what an ensemble of critics costs beside one.

    python benchmarks/replay.py                            # predator_prey/4x4-5 at the laptop tier's sizes, one thread
    python benchmarks/replay.py macf/2cars --seeds 1

Prints for each algorithm environment steps (of all seeds together) per CPU-second, evaluations left out, the
CPU-milliseconds of an update, the share of them spent on playing, and how many updates of DOP that is. Asserts nothing.
"""

from __future__ import annotations

import argparse
import time

import torch

from inconcert import envs, offpolicy, records

PLAYERS = (
    ("dop", ""), ("dop", "wide"), ("qmix", ""), ("ensemble_mix", "plain"), ("ensemble_mix", "n5"),
    ("ensemble_mix", ""), ("ensemble_mix", "n20"),
)  # fmt: skip
WARM, UPDATES = 3, 20


def measure(algorithm: str, variant: str, task: str, seeds: int) -> tuple[float, float, int]:
    """CPU-seconds of an update, the share spent on playing, and the environment steps of all seeds in an update."""
    module = records.algorithm_module(algorithm)
    config = module.configure(task, "laptop", variant, seeds=tuple(range(seeds)))
    env = envs.make(config.task, config.num_envs, config.seeds, **config.env_options)
    learner = module.Learner(config, env.spec, "cpu")
    start = torch.ones(seeds, config.num_envs, dtype=torch.bool)
    now = {"step": env.reset(), "start": start, **learner.memories(config.num_envs)}
    playing = learning = 0.0
    for index in range(1, WARM + UPDATES + 1):
        begun = time.process_time()
        data = offpolicy.collect(learner, env, now, index)
        played = time.process_time()
        learner.learn(data, index)
        if index > WARM:
            playing, learning = playing + played - begun, learning + time.process_time() - played
    whole = playing + learning
    return whole / UPDATES, playing / whole, seeds * config.steps_per_update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", default="predator_prey/4x4-5")
    parser.add_argument("--seeds", type=int, default=5, help="trained in one program (default: 5)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.task}, {arguments.seeds} seed(s), one thread, torch {torch.__version__}")
    print(f"{'algorithm':<20} {'steps/CPU-s':>12} {'ms/update':>10} {'playing':>8} {'x DOP':>6}")
    first = 0.0
    for algorithm, variant in PLAYERS:
        seconds, playing, steps = measure(algorithm, variant, arguments.task, arguments.seeds)
        first = first or seconds
        name = f"{algorithm}@{variant}" if variant else algorithm
        print(
            f"{name:<20} {steps / seconds:12.0f} {1000 * seconds:10.0f} {playing:8.0%} {seconds / first:6.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
