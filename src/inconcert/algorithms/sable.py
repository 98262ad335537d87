# Sable, page by page: book/magpo/sable.md
"""Sable (Mahjoub et al. 2025): a joint policy by retention over agents and time, trained by PPO, seeds side by side.

Retention is attention without softmax whose weights fall with age. It has three equal forms: weights between all pairs
of tokens, a state that is carried from step to step (acting), and in between chunks of steps that pass a state on
(training). A token is an agent at a step; agents of a step come in order, steps after each other. Settings: the MAGPO
paper's Sable baseline (its Tables 2 and 5, the authors' code), where it is also the guider.
Letters in the shape comments: S seed, B row, T time, N agent, A action, F features, h head, d features of a head,
L steps in a chunk, n chunks, C = L * N tokens in a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from inconcert import envs, joint, onpolicy, stacked
from inconcert.config import InputError
from inconcert.evaluate import Evaluation, Player, State, masked_log_softmax
from inconcert.joint import AgentOrder
from inconcert.stacked import Linear, RMSNorm, along

Memory = Literal["recurrent", "none"]


@dataclass(frozen=True)
class Config(onpolicy.Config):
    """Everything a Sable run depends on. Defaults are the MAGPO authors' Sable on 3x10-30 (params.csv, mava's yaml)."""

    epochs: int = 15
    """Passes over each rollout (paper Table 5: PPO epochs)."""
    minibatches: int = 2
    """Gradient steps per pass (paper Table 5)."""
    clip: float = 0.2
    """epsilon of the policy ratio and of the value change (paper Table 5)."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus (paper Table 5)."""
    lr: float = 5e-4
    """Learning rate (paper Table 5)."""
    embed: int = 64
    """Features of a token (paper Table 5: model embedding dimension)."""
    heads: int = 1
    """Retention heads (paper Table 5)."""
    blocks: int = 2
    """Retention blocks of the encoder and of the decoder (paper Table 5)."""
    decay: float = 0.5
    """s, which scales every head's decay per step, kappa = s (1 - 2^-5 ... 2^-9) (paper Table 5: retention heads
    scaling parameter)."""
    memory: Memory = "recurrent"
    """recurrent: steps of an episode see earlier ones; none: they do not (authors' ff_sable)."""
    timestep_chunk: int = 16
    """L: at most so many steps are weighed pair by pair in training, further ones reach each other by the state. The
    numbers do not depend on it (authors: the whole rollout)."""
    feed_forward: Literal["live", "dead"] = "live"
    """live: the gated feed-forward part of a block starts near zero and learns; dead: there is none. The authors'
    starts with all three matrices at zero, where its output and its gradient stay exactly 0: the same function."""
    agent_order: AgentOrder = "fixed"
    """Order of the agents in training: as they act, or a new random one in each epoch (authors' code)."""
    initial_states: Literal["own", "stale"] = "own"
    """The carried state that a trajectory is replayed from: its own, or from the second epoch on that of another
    environment (authors' code); see `joint.minibatches`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.embed, self.heads, self.timestep_chunk)

    @property
    def steps_per_column(self) -> int:
        """With memory whole rollouts stay together, without it single steps are shuffled."""
        return self.rollout if self.memory == "recurrent" else 1


def check(embed: int, heads: int, timestep_chunk: int) -> None:
    """Refuse impossible sizes: `InputError`."""
    if heads < 1 or embed % (2 * heads**2):
        raise InputError(f"embed must be even and divisible by heads x heads = {heads**2}, not {embed}")
    if timestep_chunk < 1:
        raise InputError(f"timestep_chunk must be at least 1, not {timestep_chunk}")


# ---------------------------------------------------------------------------------------------------------- settings

PAPER: dict[str, dict[str, Any]] = {  # the authors' tuned rows (params.csv, system sable)
    "coordsum/3x10-30": {
        "minibatches": 2, "max_grad_norm": 5.0, "embed": 64, "epochs": 15, "clip": 0.2, "decay": 0.5, "heads": 1,
        "ent_coef": 0.01, "blocks": 2, "lr": 5e-4,
    },
    "coordsum/3x30-50": {
        "minibatches": 2, "max_grad_norm": 10.0, "embed": 128, "epochs": 10, "clip": 0.2, "decay": 0.5, "heads": 2,
        "ent_coef": 0.01, "blocks": 3, "lr": 5e-4,
    },
    "coordsum/5x20-80": {
        "minibatches": 8, "max_grad_norm": 5.0, "embed": 128, "epochs": 5, "clip": 0.2, "decay": 0.8, "heads": 4,
        "ent_coef": 0.001, "blocks": 3, "lr": 2.5e-4,
    },
    "coordsum/8x15-100": {
        "minibatches": 8, "max_grad_norm": 5.0, "embed": 32, "epochs": 5, "clip": 0.2, "decay": 0.5, "heads": 2,
        "ent_coef": 0.01, "blocks": 1, "lr": 1e-3,
    },
}  # fmt: skip
NETWORKS: dict[str, Any] = {"memory": "none", "embed": 32, "heads": 1, "blocks": 1, "lr": 1e-3}
"""What the small tiers change in the network: no memory, one block."""
VARIANTS: dict[str, dict[str, Any]] = onpolicy.variants(
    {
        "shuffled": {"agent_order": "shuffled"},
        "dead": {"feed_forward": "dead"},
        "recurrent": {"memory": "recurrent"},
        "stale": {"memory": "recurrent", "initial_states": "stale"},
    }
)
"""Named departures from a tier's setting: the readings of the deviation ledger, and memory at the small tiers."""


def configure(task: str, tier: str, variant: str = "", **changes: Any) -> Config:
    """The setting of a tier ("smoke", "laptop", "paper") for a task, a named variant, and single changes on top."""
    tiers = {
        "smoke": onpolicy.SMOKE | NETWORKS,
        "laptop": onpolicy.LAPTOP | NETWORKS,
        "paper": {"seeds": onpolicy.PAPER_SEEDS, **PAPER.get(task, {})},
    }
    return onpolicy.choose_setting(Config, tiers, VARIANTS, task, tier, variant, changes)


# ----------------------------------------------------------------------------------------------------------- weights


def decays(heads: int, scale: float) -> Tensor:
    """kappa of every head, `[h]` float64 (Sable paper, section 3; authors' code)."""
    least, most = torch.tensor([1 / 32, 1 / 512], dtype=torch.float64).log().tolist()
    return scale * (1 - torch.linspace(least, most, heads, dtype=torch.float64).exp())


def positions(height: int, embed: int) -> Tensor:
    """Sine and cosine position code `[height, F]` float64 (Vaswani et al. 2017, section 3.5)."""
    angle = torch.arange(height, dtype=torch.float64).unsqueeze(1) * 10_000.0 ** (
        -torch.arange(0, embed, 2, dtype=torch.float64) / embed
    )
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def steps_played(start: Tensor, count: Tensor) -> Tensor:
    """Steps played in the episode before each step: `start [S, B, T]` bool, `count [S, B]` before the first one."""
    time = torch.arange(start.shape[-1], device=start.device)
    begun = torch.where(start, time, -1).cummax(-1).values
    return torch.where(begun >= 0, time - begun, count.unsqueeze(-1) + time)


class Ages(NamedTuple):
    """Retention weights of a sequence cut into chunks; `[S, B, n, h, ...]`, 1 in place of B and n if all are alike."""

    inside: Tensor
    """`[.., C, C]` weight of a token (column) at another (row) of its chunk, for a view of all agents of a step."""
    masked: Tensor
    """`[.., C, C]` the same where an agent sees only those up to itself."""
    enter: Tensor
    """`[.., C, 1]` weight at a token of the state that its chunk begins with."""
    leave: Tensor
    """`[.., C, 1]` weight of a token in the state that its chunk ends with."""
    through: Tensor
    """`[.., 1, 1]` weight of the state at the begin of a chunk in that at its end."""


def ages(start: Tensor, length: int, agents: int, kappa: Tensor) -> Ages:
    """Weights kappa^(t - t') within an episode and 0 across its border; `start [S, B, T]` bool, `kappa [h]`."""
    episode = start.unflatten(-1, (-1, length)).cumsum(-1).unsqueeze(-2)  # [S, B, n, 1, L], 0: begun before the chunk
    time = torch.arange(length, device=start.device)
    kappa = kappa.unsqueeze(-1)
    age = (time.unsqueeze(1) - time).clamp(min=0)
    falling = (kappa.unsqueeze(-1) ** age).tril()  # [h, L, L]
    same = episode.unsqueeze(-1) == episode.unsqueeze(-2)
    inside = (same * falling).repeat_interleave(agents, -1).repeat_interleave(agents, -2)
    spread = [
        (kappa ** (time + 1)) * (episode == 0),
        (kappa ** (length - 1 - time)) * (episode == episode[..., -1:]),
    ]  # [S, B, n, h, L] each
    enter, leave = (x.repeat_interleave(agents, -1).unsqueeze(-1) for x in spread)
    through = (kappa**length) * (episode[..., -1:] == 0)
    return Ages(inside, inside.tril(), enter, leave, through.unsqueeze(-1))


# ---------------------------------------------------------------------------------------------------------- networks


def retain(q: Tensor, k: Tensor, v: Tensor, weight: Tensor, ages: Ages | None, state: Tensor | None) -> Any:
    """Retention in chunks: outputs `[S, B, n, h, C, d]` and the state `[S, B, h, d, d]` after the last chunk.

    Args:
        q, k, v: `[S, B, n, h, C, d]`.
        weight: `[.., C, C]` of a token at another one of its chunk.
        ages: how the state fades; None where there is none.
        state: `[S, B, h, d, d]` before the first chunk, or None.
    """
    recent = (q @ k.transpose(-1, -2) * weight) @ v
    if ages is None or state is None:
        return recent, None
    gained = (k * ages.leave).transpose(-1, -2) @ v  # what each chunk adds to the state
    before = []
    for i in range(q.shape[2]):
        before.append(state)
        state = state * ages.through[:, :, i] + gained[:, :, i]
    return recent + ages.enter * (q @ torch.stack(before, 2)), state


class Retention(nn.Module):
    """Multi-scale retention: heads with their own decay, group norm, swish gate, output map.

    Args:
        cross: queries come from another stream than keys, values and gates.
    """

    def __init__(self, embed: int, heads: int, cross: bool, streams: stacked.Generators) -> None:
        super().__init__()
        self.heads = heads
        std = 1 / embed
        self.kvg = Linear(embed, (3 if cross else 4) * embed, streams, std, bias=False, init=stacked.normal_)
        self.query = Linear(embed, embed, streams, std, bias=False, init=stacked.normal_) if cross else None
        self.out = Linear(embed, embed, streams, std, bias=False, init=stacked.normal_)
        self.scale = nn.Parameter(torch.ones(len(streams), embed // heads))
        self.shift = nn.Parameter(torch.zeros(len(streams), embed // heads))

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """Keys, values, gates and queries side by side, `[S, ..., 4 F]`: queries from `y`, the others from `x`."""
        return self.kvg(x) if self.query is None else torch.cat([self.kvg(x), self.query(y)], dim=-1)

    def forward(
        self, x: Tensor, y: Tensor, length: int, weight: Tensor, ages: Ages | None, state: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs `[S, B, T, N, F]` and the next state for tokens `x`, `y` of that shape; see `retain`."""
        tokens = self.project(x, y).flatten(2, 3).unflatten(2, (-1, length * x.shape[3]))  # [S, B, n, C, 4 F]
        k, v, gate, q = tokens.split(x.shape[-1], dim=-1)
        k, v, q = (part.unflatten(-1, (self.heads, -1)).transpose(3, 4) for part in (k, v, q))
        retained, state = retain(q, k, v, weight, ages, state)
        return self.read(retained.transpose(3, 4), gate).flatten(2, 3).view(x.shape), state

    def turn(self, kept: Tensor, agent: int, ages: Ages | None, state: Tensor | None) -> Tensor:
        """Output `[S, B, F]` of one agent, from what `project` gave for it and those before, `kept [S, B, N, 4 F]`."""
        k, v, gate, q = kept[:, :, : agent + 1].split(kept.shape[-1] // 4, dim=-1)
        k, v, q = (part.unflatten(-1, (self.heads, -1)).transpose(2, 3) for part in (k, v, q))  # [S, B, h, j + 1, d]
        q = q[..., -1:, :]
        retained = (q @ k.transpose(-1, -2)) @ v
        if ages is not None and state is not None:
            retained = retained + ages.through[:, :, 0] * (q @ state)
        return self.read(retained.squeeze(-2), gate[:, :, -1])

    def remember(self, kept: Tensor, ages: Ages, state: Tensor) -> Tensor:
        """State after a step whose agents projected to `kept [S, B, N, 4 F]`."""
        k, v, _, _ = kept.split(kept.shape[-1] // 4, dim=-1)
        k, v = (part.unflatten(-1, (self.heads, -1)).transpose(2, 3) for part in (k, v))
        return ages.through[:, :, 0] * state + k.transpose(-1, -2) @ v

    def read(self, retained: Tensor, gate: Tensor) -> Tensor:
        """Normalise `[S, ..., h, d]`, gate `[S, ..., F]`, map: `[S, ..., F]`. As in the authors' code each head is
        normalised in h groups of features, with one scale and shift for all heads."""
        groups = retained.unflatten(-1, (self.heads, -1))
        normal = nn.functional.layer_norm(groups, groups.shape[-1:], eps=stacked.EPSILON).flatten(-2)
        normal = torch.addcmul(along(self.shift, normal), normal, along(self.scale, normal))
        return self.out(nn.functional.silu(gate) * normal.flatten(-2))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): `(swish(x W_g) * x W_1) W_2`. The last map starts small, as MAT's does."""

    def __init__(self, embed: int, streams: stacked.Generators) -> None:
        super().__init__()
        self.inner = Linear(embed, 2 * embed, streams, bias=False, parts=2)
        self.outer = Linear(embed, embed, streams, gain=0.01, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.inner(x).chunk(2, dim=-1)
        return self.outer(nn.functional.silu(gate) * up)


class Head(nn.Module):
    """Layer, GELU, norm, small output map: `[S, ..., F] -> [S, ..., outputs]`."""

    def __init__(self, embed: int, outputs: int, streams: stacked.Generators) -> None:
        super().__init__()
        self.inner = Linear(embed, embed, streams)
        self.norm = RMSNorm(embed, len(streams))
        self.outer = Linear(embed, outputs, streams, gain=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.norm(nn.functional.gelu(self.inner(x))))


class Block(nn.Module):
    """Retentions, each with its norm, and a feed-forward part."""

    def __init__(self, embed: int, heads: int, crosses: tuple[bool, ...], live: bool, streams: Any) -> None:
        super().__init__()
        self.retentions = nn.ModuleList(Retention(embed, heads, cross, streams) for cross in crosses)
        self.norms = nn.ModuleList(RMSNorm(embed, len(streams)) for _ in crosses)
        self.feed_forward = FeedForward(embed, streams) if live else None
        self.last = RMSNorm(embed, len(streams))

    def close(self, x: Tensor) -> Tensor:
        return self.last(x if self.feed_forward is None else x + self.feed_forward(x))


class Moment(NamedTuple):
    """What the agents of one step know before they decide."""

    scene: Tensor
    """`[S, B, N, F]` encoded observations."""
    code: Tensor
    """`[S, B, F]` position code."""
    ages: Ages | None
    states: list[Tensor | None]
    """`[S, B, h, d, d]` of each retention: the encoder's after this step, the decoder's before it."""
    kept: list[Tensor]
    """`[S, B, N, 4 F]` of each retention of the decoder, filled agent by agent."""
    played: Tensor
    """`[S, B]` steps played in the episode before this one."""


class Network(joint.Model):
    """Encoder over observations and decoder over actions, both by retention; see `joint.Model`.

    Args:
        spec: the environment.
        streams: one generator per seed.
        embed, heads, blocks, decay, memory, timestep_chunk, feed_forward: see `Config`.
    """

    code: Tensor
    kappa: Tensor
    earlier: Tensor
    encoder: Any  # lists of `Block`, which nn.ModuleList does not say
    decoder: Any

    def __init__(
        self,
        spec: envs.Spec,
        streams: stacked.Generators,
        *,
        embed: int = 64,
        heads: int = 1,
        blocks: int = 1,
        decay: float = 0.8,
        memory: Memory = "recurrent",
        timestep_chunk: int = 16,
        feed_forward: Literal["live", "dead"] = "live",
    ) -> None:
        super().__init__()
        check(embed, heads, timestep_chunk)
        self.seeds, self.agents, self.actions = len(streams), spec.num_agents, spec.num_actions
        self.heads, self.blocks, self.chunk = heads, blocks, timestep_chunk
        self.recurrent = memory == "recurrent"
        self.carried = 3 * blocks * embed * embed // heads if self.recurrent else 0
        self.memory_size = self.carried + 1
        self.register_buffer("code", positions(spec.episode_limit + 1, embed).float(), persistent=False)
        self.register_buffer("kappa", decays(heads, decay).float(), persistent=False)
        self.register_buffer("earlier", torch.ones(self.agents, self.agents).tril(), persistent=False)
        live, inputs = feed_forward == "live", spec.num_agents + spec.obs_size
        self.observation_norm = RMSNorm(inputs, self.seeds)
        self.observation = Linear(inputs, embed, streams, bias=False)
        self.encoder_norm = RMSNorm(embed, self.seeds)  # one for all blocks, as in the authors' code
        self.encoder = nn.ModuleList(Block(embed, heads, (False,), live, streams) for _ in range(blocks))
        self.value_head = Head(embed, 1, streams)
        self.action = Linear(self.actions + 1, embed, streams, bias=False)
        self.action_norm = RMSNorm(embed, self.seeds)
        self.decoder = nn.ModuleList(Block(embed, heads, (False, True), live, streams) for _ in range(blocks))
        self.action_head = Head(embed, self.actions, streams)

    def tokens(self) -> Tensor:
        """What a decoder knows of the agent before: `[S, A + 1, F]`, row 0 for none, row 1 + a for action a."""
        return self.action_norm(nn.functional.gelu(self.action.weight))

    def states(self, memory: Tensor) -> list[Tensor | None]:
        """The states in a flat memory: encoder blocks, then self and cross retention of each decoder block."""
        if not self.recurrent:
            return [None for _ in range(3 * self.blocks)]
        size = self.code.shape[1] // self.heads
        return list(memory[..., :-1].unflatten(-1, (-1, self.heads, size, size)).unbind(2))

    def encode(
        self, obs: Tensor, code: Tensor, length: int, ages: Ages | None, states: list[Tensor | None]
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Encoded observations `[S, B, T, N, F]`, values `[S, B, T, N]` and the next states of the encoder."""
        x = nn.functional.gelu(self.observation(self.observation_norm(obs)))
        weight = self.earlier.new_ones(()) if ages is None else ages.inside
        after = []
        for block, state in zip(self.encoder, states, strict=False):
            x = self.encoder_norm(x)
            placed = x + code
            retained, state = block.retentions[0](placed, placed, length, weight, ages, state)
            x = block.close(block.norms[0](x + retained))
            after.append(state)
        return x, self.value_head(x).squeeze(-1), after

    def forward(
        self, obs: Tensor, available: Tensor, action: Tensor, memory: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        obs, action, start = (x.transpose(1, 2) for x in (obs, action, start))  # [S, B, c, ...]: tokens in a row
        count = steps_played(start, memory[..., -1].long())
        code = self.code[count].unsqueeze(3)  # [S, B, c, 1, F]
        steps = obs.shape[2]
        length, fading = 1, None
        if self.recurrent:
            length = next(size for size in range(min(self.chunk, steps), 0, -1) if steps % size == 0)
            fading = ages(start, length, self.agents, self.kappa)
        weight = self.earlier if fading is None else fading.masked
        states = self.states(memory)
        scene, value, _ = self.encode(obs, code, length, fading, states)

        rows = torch.arange(self.seeds, device=obs.device).view(-1, 1, 1, 1)
        before = nn.functional.pad(action[..., :-1] + 1, (1, 0))
        x = self.tokens()[rows, before]
        for i, block in enumerate(self.decoder):
            first, second = states[self.blocks + 2 * i :][:2]
            placed = x + code
            x = block.norms[0](x + block.retentions[0](placed, placed, length, weight, fading, first)[0])
            y, _ = block.retentions[1](x + code, scene + code, length, weight, fading, second)
            x = block.close(block.norms[1](scene + y))
        logits = self.action_head(x).transpose(1, 2)
        return masked_log_softmax(logits, available), value.transpose(1, 2)

    def begin(self, obs: Tensor, start: Tensor, memory: Tensor) -> tuple[Tensor, Moment]:
        count = torch.where(start, 0, memory[..., -1].long())
        code = self.code[count]
        fading = ages(start.unsqueeze(-1), 1, self.agents, self.kappa) if self.recurrent else None
        states = self.states(memory)
        scene, value, after = self.encode(obs.unsqueeze(2), code[:, :, None, None], 1, fading, states)
        shape = (*obs.shape[:3], 4 * code.shape[-1])
        kept = [code.new_empty(shape) for _ in range(2 * self.blocks)]
        return value.squeeze(2), Moment(scene.squeeze(2), code, fading, after + states[self.blocks :], kept, count)

    def decide(self, moment: Moment, agent: int, previous: Tensor | None) -> Tensor:
        rows = torch.arange(self.seeds, device=moment.code.device).unsqueeze(-1)
        before = moment.played.new_zeros(moment.played.shape) if previous is None else previous + 1
        x, scene, code = self.tokens()[rows, before], moment.scene[:, :, agent], moment.code
        for i, block in enumerate(self.decoder):
            for r, retention in enumerate(block.retentions):
                place = 2 * i + r
                moment.kept[place][:, :, agent] = retention.project(x + code, (x, scene)[r] + code)
                heard = retention.turn(moment.kept[place], agent, moment.ages, moment.states[self.blocks + place])
                x = block.norms[r]((x, scene)[r] + heard)
            x = block.close(x)
        return self.action_head(x)

    def finish(self, moment: Moment) -> Tensor:
        count = (moment.played + 1).to(moment.code.dtype).unsqueeze(-1)
        if moment.ages is None:
            return count
        retentions = [retention for block in self.decoder for retention in block.retentions]
        after = moment.states[: self.blocks] + [
            retention.remember(kept, moment.ages, state)
            for retention, kept, state in zip(retentions, moment.kept, moment.states[self.blocks :], strict=True)
        ]
        return torch.cat([*(state.flatten(2) for state in after), count], dim=-1)


# ---------------------------------------------------------------------------------------------------------- learning


def network(config: Any, spec: envs.Spec) -> Network:
    """The joint policy of all seeds that `config` describes (Sable's own, or one that has its fields)."""
    streams = stacked.generators(stacked.derive(seed, "sable") for seed in config.seeds)
    return Network(
        spec, streams, embed=config.embed, heads=config.heads, blocks=config.blocks, decay=config.decay,
        memory=config.memory, timestep_chunk=config.timestep_chunk, feed_forward=config.feed_forward,
    )  # fmt: skip


def learner(config: Config, spec: envs.Spec, device: str) -> joint.Learner:
    """The policy in training; the update is `joint.Learner`'s."""
    model = network(config, spec).to(device)
    return joint.Learner(config, spec, model, device, model.carried if config.initial_states == "stale" else 0)


def train(config: Config, device: str = "cpu", state: State | None = None) -> Iterator[Evaluation]:
    """Train all seeds side by side, yielding one `Evaluation` after another; see `onpolicy.train`."""
    return onpolicy.train(learner, config, device, state)


def restore(config: Config, parameters: State, device: str = "cpu") -> Player:
    """The policy of all seeds, from the parameters that a run saved."""
    return onpolicy.restore(learner, config, parameters, device)
