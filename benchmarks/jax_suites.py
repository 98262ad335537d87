"""What the bridge to the JAX suites costs: `python benchmarks/jax_suites.py`.

Env-steps per second of processor time, restarts included, of uniform random actions drawn beforehand: through the
bridge, one call from Python and one exchange of tensors at a step, against the suite's own loop, which never leaves JAX
(`jax.lax.scan` over the suite's own batched step with its own restart: Jumanji's `VmapAutoResetWrapper`, JaxMARL's
`step` under `jax.vmap`). An env-step is one step of one copy, all agents. Each entry is the fastest of several turns,
so that other work on the machine counts little. The last column is the time from `make` to the end of the first step,
with nothing compiled before. Prints a table and asserts nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import torch

from inconcert import envs
from inconcert.config import InputError

NUM_ENVS = (256, 1024)
TASKS = (
    "lbf/2s-8x8-2p-2f-coop",
    "lbf/15x15-4p-5f",
    "rware/tiny-2ag",
    "rware/large-8ag",
    "connector/con-5x5x3a",
    "connector/con-15x15x23a",
    "jaxmpe/spread_3ag",
    "jaxmpe/spread_10ag",
    "smax/2s3z",
    "smax/10m_vs_11m",
)
SLICE = 50
"""Steps of a turn."""


def measure(task: str, num_envs: int, seconds: float) -> tuple[float, float, float]:
    """Env-steps per second through the bridge and in the suite's own loop; seconds from `make` to the first step."""
    from inconcert.envs.jax_reference import rates

    start = time.perf_counter()
    env: Any = envs.make(task, num_envs)
    env.step(torch.zeros(num_envs, env.spec.num_agents, dtype=torch.long))
    first = time.perf_counter() - start
    return *rates(env, SLICE, seconds), first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS, help="tasks to measure (default: two of every suite)")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to measure each entry (default: 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        from inconcert.envs import jax_bridge
    except InputError as error:
        print(error)
        return
    with tempfile.TemporaryDirectory() as nothing:
        jax_bridge.jax.config.update("jax_compilation_cache_dir", nothing)  # compile times are part of the table
        print(f"thousand env-steps per processor second, torch {torch.__version__}, jax {jax_bridge.jax.__version__}")
        print(f"{'copies':26s}" + "".join(f"{number:>9d}{'suite':>9s}{'ratio':>7s}" for number in NUM_ENVS) + "  first")
        for task in arguments.tasks:
            line, firsts = f"{task:26s}", []
            for number in NUM_ENVS:
                ours, theirs, first = measure(task, number, arguments.seconds)
                line += f"{ours / 1e3:9.1f}{theirs / 1e3:9.1f}{theirs / ours:7.2f}"
                firsts.append(first)
            print(f"{line}{firsts[0]:6.0f}s", flush=True)


if __name__ == "__main__":
    main()
