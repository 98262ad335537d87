"""Training speed of MAGPO and its baselines with the authors' settings, beside plain matrix products on the same core.

    python benchmarks/magpo.py                 # all, coordsum/3x10-30, tier paper, one seed, one thread
    python benchmarks/magpo.py mappo magpo     # some

Prints for each: environment steps per CPU-second, times the authors' JAX code, the floating-point operations of the
matrix products per step (counted by torch), and their rate as a share of what 512 x 512 float32 products reach in the
same process.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from inconcert import onpolicy, records, scaling

UPDATES = 2
CASES: dict[str, tuple[str, dict[str, Any], float | None]] = {
    "mappo": ("mappo", {}, 720),
    "happo": ("happo", {}, 630),
    "mat": ("mat", {}, 1320),
    "sable": ("sable", {}, 231),
    "sable-feed-forward": ("sable", {"memory": "none"}, 324),
    "magpo": ("magpo", {}, 238),
    "ctds": ("ctds", {}, None),
}
"""Algorithm, changes, and steps per CPU-second of the MAGPO authors' JAX code on a core of this kind."""


def product_rate(size: int = 512, repeats: int = 60) -> float:
    """Floating-point operations per CPU-second of float32 matrix products."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    a @ b
    start = time.process_time()
    for _ in range(repeats):
        a @ b
    return repeats * 2 * size**3 / (time.process_time() - start)


def measure(name: str) -> str:
    """One line of the table."""
    algorithm, changes, jax = CASES[name]
    config = records.algorithm_module(algorithm).configure("coordsum/3x10-30", "paper", seeds=(0,), **changes)
    learner, env, now = scaling.start(algorithm, config)

    def update(index: int) -> None:
        learner.learn(onpolicy.collect(learner, env, now, index), index)

    with FlopCounterMode(display=False) as counter:
        update(0)
    clock = time.process_time()
    for index in range(1, UPDATES + 1):
        update(index)
    seconds = (time.process_time() - clock) / UPDATES
    steps, flops = config.steps_per_update / seconds, counter.get_total_flops()
    times = f"{steps / jax:8.1f}" if jax else f"{'-':>8}"
    share = flops / seconds / product_rate()
    return f"{name:<20} {steps:12,.0f} {times} {flops / config.steps_per_update / 1e6:12.1f} {share:8.0%}"


def main() -> None:
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or list(CASES)
    print(f"{'algorithm':<20} {'steps/CPU-s':>12} {'x JAX':>8} {'MFLOP/step':>12} {'of GEMM':>8}")
    for name in chosen:
        if name not in CASES:
            sys.exit(f"error: unknown algorithm {name!r}; valid: {', '.join(CASES)}")
        print(measure(name), flush=True)


if __name__ == "__main__":
    main()
