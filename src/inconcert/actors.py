"""Decentralised actors: each agent sees its own observations and shares nothing with the others when it acts.

Used by MAPPO and HAPPO, and as the learner of MAGPO and CTDS. Letters in shapes: S seed, E environment, N agent,
A action, T or c time, G stack (S with shared parameters, S * N with separate ones), H hidden units.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from inconcert import envs, stacked
from inconcert.config import InputError
from inconcert.evaluate import choose, masked_log_softmax

Core = Literal["gru", "mlp"]
Sharing = Literal["shared", "separate"]


class Network(nn.Module):
    """Layer, GRU (or none), layer, head, for G independent members: `[G, c, B, inputs] -> [G, c, B, outputs]`.

    MAGPO paper, Table 3: layers of [128, 128], one recurrent layer of 128, ReLU.

    Args:
        gain: of the head's initialisation.
        layer_norm: normalise the inputs, and the features after each ReLU (HARL).

    Raises:
        InputError: `layer_norm` with a single input, of which it would leave nothing.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: int,
        core: Core,
        streams: stacked.Generators,
        gain: float,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        if layer_norm and inputs < 2:
            raise InputError("layer_norm makes a single input constant; switch it off")
        sizes = (inputs, hidden, hidden)
        self.norm_inputs, self.norm_inner, self.norm_outer = (
            stacked.LayerNorm(size, len(streams)) if layer_norm else nn.Identity() for size in sizes
        )
        self.inner = stacked.Linear(inputs, hidden, streams)
        self.core = stacked.GRU(hidden, hidden, streams) if core == "gru" else None
        self.outer = stacked.Linear(hidden, hidden, streams)
        self.head = stacked.Linear(hidden, outputs, streams, gain)
        self.memory = hidden if self.core else 0  # H, size of the hidden state

    def forward(self, x: Tensor, h: Tensor, start: Tensor) -> Tensor:
        """Outputs of a sequence from hidden state `h [G, B, H]`; `start [G, c, B]` resets it inside."""
        x = self.norm_inner(self.inner(self.norm_inputs(x)).relu())
        if self.core is not None:
            x = self.core(x, h, start)
        return self.head(self.norm_outer(self.outer(x).relu()))

    def step(self, x: Tensor, h: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """One step without gradients: `[G, B, inputs]`, `h [G, B, H]`, `start [G, B]` -> outputs and the next h."""
        x = self.norm_inner(self.inner(self.norm_inputs(x)).relu())
        if self.core is not None:
            h = x = self.core.step(x, h * (~start).to(h.dtype).unsqueeze(-1))
        return self.head(self.norm_outer(self.outer(x).relu())), h


class Actors:
    """The actors of all seeds, and how agents map onto the stack axis.

    Args:
        sharing: one actor for all agents or an actor for each agent.
        one_hot_id: put the agent's one-hot id in front of what it observes.
        layer_norm: of `Network`.
    """

    def __init__(
        self,
        seeds: tuple[int, ...],
        spec: envs.Spec,
        hidden: int,
        core: Core,
        sharing: Sharing,
        device: str,
        one_hot_id: bool = True,
        layer_norm: bool = False,
    ) -> None:
        self.spec, self.seeds, self.shared, self.one_hot_id = spec, len(seeds), sharing == "shared", one_hot_id
        self.inputs = spec.num_agents * one_hot_id + spec.obs_size
        streams = stacked.generators(
            (stacked.derive(seed, "actor") for seed in seeds), 1 if self.shared else spec.num_agents
        )
        self.network = Network(self.inputs, spec.num_actions, hidden, core, streams, 0.01, layer_norm).to(device)
        self.ids = torch.eye(spec.num_agents, device=device)

    def observe(self, obs: Tensor) -> Tensor:
        """`[S * E, N, O] -> [S, E, N, inputs]`: in front, the agent's one-hot id tells a shared actor whose observation
        it sees; a separate actor gets it too (authors' code), where it is a second bias."""
        obs = obs.unflatten(0, (self.seeds, -1))
        if not self.one_hot_id:
            return obs
        return torch.cat([self.ids.expand(*obs.shape[:2], -1, -1), obs], dim=-1)

    def stack(self, x: Tensor) -> Tensor:
        """`[S, ..., B, N, F] -> [G, ..., B', F]`: agents become rows of a shared actor or members of the stack."""
        return x.flatten(-3, -2) if self.shared else x.movedim(-2, 1).flatten(0, 1)

    def unstack(self, x: Tensor) -> Tensor:
        """Inverse of `stack`."""
        if self.shared:
            return x.unflatten(-2, (-1, self.spec.num_agents))
        return x.unflatten(0, (self.seeds, self.spec.num_agents)).movedim(1, -2)

    def spread(self, start: Tensor) -> Tensor:
        """`[S, ..., B] -> [G, ..., B']`: the flag of an environment becomes one of each of its agents."""
        return self.stack(start[..., None, None].expand(*start.shape, self.spec.num_agents, 1)).squeeze(-1)

    def blank(self, envs_per_seed: int) -> Tensor:
        """Hidden state `[S, E, N, H]` at the start of an episode."""
        return self.ids.new_zeros(self.seeds, envs_per_seed, self.spec.num_agents, self.network.memory)

    def log_probs(self, obs: Tensor, available: Tensor, h: Tensor, start: Tensor) -> Tensor:
        """Log-probabilities `[S, c, B, N, A]` along a sequence.

        Args:
            obs: `[S, c, B, N, inputs]`, as `observe` gives them.
            available: `[S, c, B, N, A]` bool.
            h: `[S, B, N, H]` hidden state before the first step.
            start: `[S, c, B]` bool, True where an episode begins.
        """
        logits = self.network(self.stack(obs), self.stack(h), self.spread(start))
        return masked_log_softmax(self.unstack(logits), available)

    @torch.no_grad()
    def step(self, obs: Tensor, available: Tensor, start: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities `[S, E, N, A]` of one moment and the next hidden state; shapes as in `log_probs`, no c."""
        logits, h = self.network.step(self.stack(obs), self.stack(h), self.spread(start))
        return masked_log_softmax(self.unstack(logits), available), self.unstack(h)

    def __call__(self, step: envs.Step, start: Tensor, memory: Any, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
        """The actors as a `Player`: each agent sees its own observations only."""
        h = self.blank(start.shape[1]) if memory is None else memory
        log_probs, h = self.step(self.observe(step.obs), step.available.unflatten(0, (self.seeds, -1)), start, h)
        return choose(log_probs, uniform), h


def taken(log_probs: Tensor, action: Tensor) -> Tensor:
    """Log-probability `[...]` of the `action [...]` among `log_probs [..., A]`."""
    return log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)
