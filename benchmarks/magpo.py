"""Training speed of MAGPO and its baselines with the authors' settings, beside plain matrix products on the same core.

    python benchmarks/magpo.py                 # all, coordsum/3x10-30, tier paper, one seed, one thread
    python benchmarks/magpo.py mappo magpo     # some

Prints for each: environment steps per CPU-second in the fastest of some updates (whatever else the machine does only
slows them down), times the authors' JAX code, the floating-point operations of the matrix products per step (counted by
torch), their rate as a share of what 512 x 512 float32 products reach in the same process, seconds from the start of
the process to the first evaluation, and the most memory that the process had. Asserts nothing.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from inconcert import onpolicy, records, scaling

UPDATES = 3
"""Updates that are timed, after one in which operations are counted."""
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


def measure(name: str, begun: float) -> str:
    """One line of the table, in a process that was started, and had yet to import all this, at the time `begun`."""
    torch.set_num_threads(1)
    algorithm, changes, jax = CASES[name]
    module = records.algorithm_module(algorithm)
    config = module.configure("coordsum/3x10-30", "paper", seeds=(0,), **changes)
    next(module.train(config))
    first = time.time() - begun
    learner, env, now = scaling.start(algorithm, config)

    def update(index: int) -> float:
        clock = time.process_time()
        learner.learn(onpolicy.collect(learner, env, now, index), index)
        return time.process_time() - clock

    with FlopCounterMode(display=False) as counter:
        update(0)
    seconds = min(update(index) for index in range(1, UPDATES + 1))
    steps, flops = config.steps_per_update / seconds, counter.get_total_flops()
    times = f"{steps / jax:8.1f}" if jax else f"{'-':>8}"
    share = flops / seconds / product_rate()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rates = f"{name:<20} {steps:12,.0f} {times} {flops / config.steps_per_update / 1e6:12.1f} {share:8.0%}"
    return f"{rates} {first:15.1f} {memory:9.1f}"


def main() -> None:
    chosen = sys.argv[1:] or list(CASES)
    unknown = [name for name in chosen if name not in CASES]
    if unknown:
        sys.exit(f"error: unknown algorithm {unknown[0]!r}; valid: {', '.join(CASES)}")
    columns = f"{'algorithm':<20} {'steps/CPU-s':>12} {'x JAX':>8} {'MFLOP/step':>12} {'of GEMM':>8}"
    print(f"{columns} {'first result, s':>15} {'peak, GB':>9}")
    context = multiprocessing.get_context("spawn")
    for name in chosen:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            print(pool.submit(measure, name, time.time()).result(), flush=True)


if __name__ == "__main__":
    main()
