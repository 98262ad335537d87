"""Cost of fusing one step: the filter's fast path against its matrix form, and the pools, on one thread.

    python benchmarks/fusion.py

Prints microseconds per call for a team of the size of the MPE, of a middling and of the largest StarCraft map.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch

from inconcert import pools
from inconcert.fusion import KalmanFusion

SIZES = {"3 agents, 5 actions": (3, 5), "10 agents, 17 actions": (10, 17), "27 agents, 36 actions": (27, 36)}


def microseconds(call: Callable[[], object], seconds: float = 0.5) -> float:
    """CPU time of one call: the best of five rounds."""
    call()
    best = float("inf")
    for _ in range(5):
        count, start = 0, time.process_time()
        while time.process_time() - start < seconds / 5:
            call()
            count += 1
        best = min(best, (time.process_time() - start) / count)
    return best * 1e6


def measure(num_agents: int, num_actions: int, slots: int = 1) -> dict[str, float]:
    """Name -> microseconds for `slots` episodes at once."""
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(2, slots, num_agents, num_actions, generator=generator).softmax(-1)
    available = torch.ones(slots, num_agents, num_actions, dtype=torch.bool)
    result = {}
    for name, full in (("filter", False), ("filter, matrices", True)):
        fusion = KalmanFusion(num_actions, 1.2, full=full)
        state = fusion.init(slots, num_agents)
        result[name] = microseconds(functools.partial(fusion, both[0], both[1], state, available))
    for name, pool in pools.POOLS.items():
        result[name] = microseconds(functools.partial(pool, both))
    return result


def main() -> None:
    torch.set_num_threads(1)
    for slots in (1, 64):
        table = {name: measure(*size, slots) for name, size in SIZES.items()}
        print(f"\n{slots} episode(s) at once, microseconds per step" + "".join(f"{name:>24}" for name in SIZES))
        for row in next(iter(table.values())):
            print(f"{row:<45}" + "".join(f"{table[name][row]:24.0f}" for name in SIZES))
        times = [one["filter, matrices"] / one["filter"] for one in table.values()]
        print(f"{'matrices / fast path':<45}" + "".join(f"{ratio:23.0f}x" for ratio in times))


if __name__ == "__main__":
    main()
