"""Joint policies that write a joint action one agent at a time: what Sable and MAT share, also as guiders of MAGPO.

An autoregressive `Model` encodes the observations of all agents and decodes their actions in turn, each agent knowing
what those before it have chosen. `Learner` trains one by PPO on the joint policy (MAGPO paper, section 3.2).
Letters in shapes: S seed, E environment, B row, N agent, A action, I features of an observation with the one-hot agent
id in front, K size of the memory, c steps in a column, m minibatch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from inconcert import envs, evaluate, onpolicy, stacked
from inconcert.actors import taken
from inconcert.evaluate import State, choose, masked_log_softmax
from inconcert.onpolicy import clipped_surrogate, clipped_value_error, entropy, normalise

AgentOrder = Literal["fixed", "shuffled"]

PER_AGENT = ("obs", "available", "action", "log_prob", "value", "advantage", "target")
"""What a rollout holds for each agent, `[S, T, E, N, ...]`."""

PIECE = 2048
"""Samples, of all seeds together, whose gradient is found at once: what a larger minibatch would keep for the backward
pass does not fit into a processor's cache, and every pass over it would wait for memory."""


class Model(nn.Module):
    """An autoregressive joint policy with a value for each agent, stacked over S seeds.

    A subclass encodes a moment (`begin`), decodes one agent after another (`decide`) and says what it remembers
    (`finish`); `act` and `value` are made of these. `forward` is the training pass.
    """

    agents: int
    """N"""
    actions: int
    """A"""
    seeds: int
    """S"""
    carried: int
    """How many of the K entries of a memory, from the first on, are carried states; the rest counts steps."""
    memory_size: int
    """K"""

    def blank(self, rows: int) -> Tensor:
        """Memory `[S, rows, K]` at the start of training; a flag `start` wipes the part it has to."""
        return next(self.parameters()).new_zeros(self.seeds, rows, self.memory_size)

    def forward(
        self, obs: Tensor, available: Tensor, action: Tensor, memory: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities `[S, c, B, N, A]` and values `[S, c, B, N]` along a sequence.

        Args:
            obs: `[S, c, B, N, I]`.
            available: `[S, c, B, N, A]` bool.
            action: `[S, c, B, N]` int64; agent j sees those of agents 0..j-1 at the same step.
            memory: `[S, B, K]` before the first step.
            start: `[S, c, B]` bool, True where an episode begins.
        """
        raise NotImplementedError

    def begin(self, obs: Tensor, start: Tensor, memory: Tensor) -> tuple[Tensor, Any]:
        """Encode one moment: values `[S, B, N]`, and whatever `decide` and `finish` need. Shapes as in `act`."""
        raise NotImplementedError

    def decide(self, moment: Any, agent: int, previous: Tensor | None) -> Tensor:
        """Logits `[S, B, A]` of one agent; `previous [S, B]` is the action of the agent before, None for agent 0."""
        raise NotImplementedError

    def finish(self, moment: Any) -> Tensor:
        """Memory `[S, B, K]` after the moment."""
        raise NotImplementedError

    @torch.no_grad()
    def act(
        self, obs: Tensor, available: Tensor, start: Tensor, memory: Tensor, uniform: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Actions of one moment, agents 0..N-1 in turn.

        Args:
            obs: `[S, B, N, I]`.
            available: `[S, B, N, A]` bool.
            start: `[S, B]` bool, True where an episode begins.
            memory: `[S, B, K]`.
            uniform: `[S, B, N]` numbers in [0, 1) to sample with; None takes the most probable actions.

        Returns:
            Actions `[S, B, N]`, log-probabilities `[S, B, N, A]`, values `[S, B, N]` and the next memory.
        """
        value, moment = self.begin(obs, start, memory)
        actions: list[Tensor] = []
        log_probs: list[Tensor] = []
        for j in range(self.agents):
            logits = self.decide(moment, j, actions[-1] if actions else None)
            log_probs.append(masked_log_softmax(logits, available[:, :, j]))
            actions.append(choose(log_probs[-1], None if uniform is None else uniform[..., j]))
        return torch.stack(actions, -1), torch.stack(log_probs, -2), value, self.finish(moment)

    @torch.no_grad()
    def value(self, obs: Tensor, start: Tensor, memory: Tensor) -> Tensor:
        """Values `[S, B, N]` of a moment that follows `memory`; shapes as in `act`."""
        return self.begin(obs, start, memory)[0]


class Player:
    """A joint policy as an `evaluate.Player`; also turns an environment's observations into those a `Model` sees."""

    def __init__(self, model: Model, seeds: int, spec: envs.Spec, device: str) -> None:
        self.model, self.seeds = model, seeds
        self.ids = torch.eye(spec.num_agents, device=device)

    def observe(self, obs: Tensor) -> Tensor:
        """`[S * E, N, O] -> [S, E, N, N + O]`: a one-hot agent id in front of each observation."""
        obs = obs.unflatten(0, (self.seeds, -1))
        return torch.cat([self.ids.expand(*obs.shape[:2], -1, -1), obs], dim=-1)

    def __call__(self, step: envs.Step, start: Tensor, memory: Any, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
        memory = self.model.blank(start.shape[1]) if memory is None else memory
        available = step.available.unflatten(0, start.shape)
        action, _, _, memory = self.model.act(self.observe(step.obs), available, start, memory, uniform)
        return action, memory


# -------------------------------------------------------------------------------------------------------- minibatches


def minibatches(
    config: onpolicy.Config,
    data: State,
    update: int,
    memories: Sequence[str],
    agent_order: AgentOrder = "fixed",
    stale: int = 0,
) -> Iterator[State]:
    """`onpolicy.minibatches` for a joint policy, in the sane or in the authors' reading.

    Args:
        data: `[S, T, E, ...]` each, of which those of `PER_AGENT` have the agents' axis next; and the memories that
            each column starts from, `[S, T / c, E, K]` or, if each agent has its own, `[S, T / c, E, N, H]`.
        memories: names in `data` of the memories, the joint policy's first.
        agent_order: "shuffled" presents the agents of an epoch in a random order, the same for all samples, although
            they acted in the order 0..N-1 (authors' code); "fixed" in the order in which they acted.
        stale: the first so many entries of the joint policy's memory repeat the authors' slip: each epoch shuffles
            the states that columns start from once more and leaves the columns as they are, so that from the second
            epoch on they do not belong together. (The count of steps within the episode is always the column's own.)
    """
    seeds, device = len(config.seeds), data["action"].device
    agents = data["action"].shape[3]
    orders = stacked.permutations(config.seeds, "agent order", update, config.epochs, agents).to(device)
    states = data[memories[0]].flatten(1, 2)
    owner = torch.arange(states.shape[1], device=device).expand(seeds, -1)  # whose state a column is given
    number = owner.unflatten(1, data[memories[0]].shape[1:3])
    seen: list[Tensor] = []
    batches = onpolicy.minibatches(config, data | {"column": number}, update, (*memories, "column"))
    for i, batch in enumerate(batches):
        column = batch.pop("column")  # [S, m]
        if agent_order == "shuffled":
            order = orders[:, i // config.minibatches]
            for name, axis in [*((name, 3) for name in PER_AGENT), *((name, 2) for name in memories)]:
                if batch[name].dim() > axis + (axis == 2):
                    batch[name] = reorder(batch[name], order, axis)
        if stale:
            given = torch.take_along_dim(states, owner.gather(1, column).unsqueeze(-1), 1)
            batch[memories[0]] = torch.cat([given[..., :stale], batch[memories[0]][..., stale:]], dim=-1)
            seen.append(column)
            if len(seen) == config.minibatches:
                owner, seen = owner.gather(1, torch.cat(seen, 1)), []
        yield batch


def reorder(x: Tensor, order: Tensor, axis: int) -> Tensor:
    """`x [S, ..., N, ...]` with the agents on `axis` in the `order [S, N]` of each seed."""
    shape = [1] * x.dim()
    shape[0], shape[axis] = order.shape
    return torch.take_along_dim(x, order.view(shape), axis)


def pieces(batch: State, memories: Sequence[str], samples: int) -> Iterator[tuple[float, State]]:
    """A minibatch cut between columns into nearly equal parts of about `samples` samples of all seeds, or fewer.

    A single column is never cut.

    Args:
        batch: `[S, c, m, ...]` each; those named in `memories` `[S, m, ...]`.

    Yields:
        The share of the minibatch's columns, and the part.
    """
    seeds, steps, columns = batch["action"].shape[:3]
    parts = min(columns, math.ceil(seeds * steps * columns / samples))
    cut = {name: x.tensor_split(parts, 1 if name in memories else 2) for name, x in batch.items()}
    for i in range(parts):
        part = {name: split[i] for name, split in cut.items()}
        yield part["action"].shape[2] / columns, part


# ---------------------------------------------------------------------------------------------------------- learning


class Learner(Player):
    """PPO on a joint policy, which is also what is deployed (the contract is `onpolicy.Learner`).

    Args:
        config: `onpolicy.Config` with `lr` and `agent_order`.
        stale: see `minibatches`.
    """

    deployed = "policy"

    def __init__(self, config: Any, spec: envs.Spec, model: Model, device: str, stale: int = 0) -> None:
        super().__init__(model, len(config.seeds), spec, device)
        self.config, self.stale = config, stale
        self.networks: dict[str, nn.Module] = {"policy": model}
        self.companions: dict[str, evaluate.Player] = {}
        self.rates: Sequence[float] = (config.lr,)
        self.optimiser: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), eps=config.adam_eps, fused=True)

    def memories(self, envs_per_seed: int) -> State:
        return {"memory": self.model.blank(envs_per_seed)}

    def act(self, now: dict[str, Any], uniform: Tensor) -> State:
        step, start = now["step"], now["start"]
        obs, available = self.observe(step.obs), step.available.unflatten(0, start.shape)
        action, log_probs, value, now["memory"] = self.model.act(obs, available, start, now["memory"], uniform)
        return {
            "obs": obs, "available": available, "action": action, "log_prob": taken(log_probs, action), "value": value,
        }  # fmt: skip

    def value(self, obs: Tensor, state: Tensor, start: Tensor, now: dict[str, Any]) -> Tensor:
        return self.model.value(self.observe(obs), start, now["memory"])

    def learn(self, data: State, index: int) -> State:
        """Epochs of minibatches over one rollout; returns the mean diagnostics `[S]`."""
        config, metrics = self.config, onpolicy.Mean()
        used = {name: data[name] for name in (*PER_AGENT, "start", "memory")}
        for batch in minibatches(config, used, index, ("memory",), config.agent_order, self.stale):
            signs = self.gradients(batch)
            norms = stacked.clip_grad_norm_(self.model, config.max_grad_norm, len(config.seeds))
            self.optimiser.step()
            metrics.add(signs | {"policy_grad_norm": norms})
        explained = onpolicy.explained_variance(data["value"], data["target"])
        return metrics.result() | {"explained_variance": explained}

    def gradients(self, batch: State) -> State:
        """Backpropagate the loss of one minibatch `[S, c, m, ...]`; returns diagnostics `[S]`."""
        config, metrics = self.config, onpolicy.Mean()
        batch = batch | {"advantage": normalise(batch["advantage"])}
        self.optimiser.zero_grad()
        for share, b in pieces(batch, ("memory",), PIECE):
            log_probs, value = self.model(b["obs"], b["available"], b["action"], b["memory"], b["start"])
            log_prob = taken(log_probs, b["action"])
            policy_loss = clipped_surrogate(log_prob, b["log_prob"], b["advantage"], config.clip)
            value_loss = clipped_value_error(value, b["value"], b["target"], config.clip)
            bonus = entropy(log_probs)
            loss = policy_loss - config.ent_coef * bonus + config.vf_coef * value_loss
            # seeds share no parameter, so the sum over seeds gives each its own gradient
            (share * loss.sum()).backward()
            signs = {
                "policy_loss": policy_loss.detach(), "value_loss": value_loss.detach(), "entropy": bonus.detach(),
                **onpolicy.policy_change(log_prob, b["log_prob"], config.clip),
            }  # fmt: skip
            metrics.add({name: share * sign for name, sign in signs.items()})
        return metrics.sums
