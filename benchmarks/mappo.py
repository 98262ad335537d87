"""MAPPO training speed with the authors' settings, beside the speed of plain matrix products on the same core.

    python benchmarks/mappo.py            # coordsum/3x10-30, tier paper, one seed, one thread
    python benchmarks/mappo.py laptop

Prints environment steps per CPU-second, the floating-point operations of the matrix products in an update (counted by
torch), the rate that makes, and its share of what 512 x 512 float32 products reach in the same process.
"""

from __future__ import annotations

import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from inconcert import envs
from inconcert.algorithms import mappo

UPDATES = 3
JAX = 0.7e3
"""Environment steps per CPU-second of the MAGPO authors' JAX code with these settings, on a core of this kind."""


def product_rate(size: int = 512, repeats: int = 60) -> float:
    """Floating-point operations per CPU-second of float32 matrix products."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    a @ b
    start = time.process_time()
    for _ in range(repeats):
        a @ b
    return repeats * 2 * size**3 / (time.process_time() - start)


def main() -> None:
    torch.set_num_threads(1)
    tier = sys.argv[1] if len(sys.argv) > 1 else "paper"
    config = mappo.configure("coordsum/3x10-30", tier, seeds=(0,))
    env = envs.make(config.task, config.num_envs, config.seeds)
    agents = mappo.Agents(config, env.spec, "cpu")
    networks = (agents.actor, agents.critic)
    optimiser = torch.optim.Adam([{"params": network.parameters()} for network in networks], lr=1e-4, fused=True)
    now = {
        "step": env.reset(),
        "start": torch.ones(1, config.num_envs, dtype=torch.bool),
        "actor_memory": agents.blank(config.num_envs),
        "critic_memory": torch.zeros(1, config.num_envs, agents.critic.memory),
    }
    spent = {"collect": 0.0, "appraise": 0.0, "learn": 0.0}

    def update(index: int) -> None:
        clock = time.process_time()
        data = mappo.collect(config, agents, env, now, index)
        spent["collect"] += time.process_time() - clock
        clock = time.process_time()
        mappo.appraise(config, agents, data, now)
        spent["appraise"] += time.process_time() - clock
        clock = time.process_time()
        mappo.learn(config, agents, optimiser, data, index)
        spent["learn"] += time.process_time() - clock

    with FlopCounterMode(display=False) as counter:
        update(0)
    flops = counter.get_total_flops()
    spent.update(dict.fromkeys(spent, 0.0))
    before = product_rate()
    for index in range(1, UPDATES + 1):
        update(index)
    peak = max(before, product_rate())
    seconds = sum(spent.values()) / UPDATES
    steps = config.steps_per_update / seconds
    rate = flops / seconds
    print(f"MAPPO, {config.task}, tier {tier}, one seed, one thread")
    print(
        f"  {config.num_envs} envs x {config.rollout} steps, {config.epochs} epochs x {config.minibatches} minibatches"
    )
    print(f"  env-steps per CPU-second      {steps:12,.0f}")
    if tier == "paper":
        print(f"  times the authors' JAX code   {steps / JAX:12.1f}   ({JAX:,.0f} env-steps per CPU-second)")
    print(f"  matrix-product FLOPs per step {flops / config.steps_per_update / 1e6:12.1f} M")
    print(f"  achieved                      {rate / 1e9:12.1f} GFLOP/s")
    print(f"  512 x 512 products            {peak / 1e9:12.1f} GFLOP/s")
    print(f"  share                         {rate / peak:12.0%}")
    for name, value in spent.items():
        print(f"  {name:<12} {value / UPDATES:8.3f} CPU-s per update")


if __name__ == "__main__":
    main()
