# MAT, page by page: book/magpo/mat.md
"""Multi-Agent Transformer (Wen et al. 2022): a joint policy by attention over the agents, all seeds in one program.

The encoder sees the observations of all agents, the decoder writes their actions one after another; nothing is
remembered from step to step. Settings: the MAGPO paper's MAT baseline (its Tables 2 and 4, the authors' code), where
it is also a guider. Letters in the shape comments: S seed, B row, N agent, A action, F features, h head, d features of
a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from inconcert import envs, joint, onpolicy, stacked
from inconcert.config import InputError
from inconcert.evaluate import Evaluation, Player, State, masked_log_softmax
from inconcert.joint import AgentOrder
from inconcert.stacked import LayerNorm, Linear


@dataclass(frozen=True)
class Config(onpolicy.Config):
    """Everything a MAT run depends on. Defaults are the MAGPO authors' MAT on 3x10-30 (params.csv, mava's yaml)."""

    epochs: int = 5
    """Passes over each rollout (paper Table 4: PPO epochs)."""
    minibatches: int = 1
    """Gradient steps per pass (paper Table 4)."""
    clip: float = 0.2
    """epsilon of the policy ratio and of the value change (paper Table 4)."""
    ent_coef: float = 0.001
    """Weight of the entropy bonus (paper Table 4)."""
    max_grad_norm: float = 10.0
    """Per-seed global norm that gradients are clipped to (paper Table 4)."""
    lr: float = 2.5e-4
    """Learning rate (paper Table 4)."""
    embed: int = 64
    """Features of a token (paper Table 4: model embedding dimension)."""
    heads: int = 4
    """Attention heads (paper Table 4: number of transformer heads)."""
    blocks: int = 2
    """Blocks of the encoder and of the decoder (paper Table 4: number of transformer blocks)."""
    agent_order: AgentOrder = "fixed"
    """Order of the agents in training: as they act, or a new random one in each epoch (authors' code)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.embed, self.heads)

    @property
    def steps_per_column(self) -> int:
        """Nothing is remembered: single steps are shuffled."""
        return 1


def check(embed: int, heads: int) -> None:
    """Refuse impossible sizes: `InputError`."""
    if heads < 1 or embed % heads:
        raise InputError(f"embed must be divisible by heads = {heads}, not {embed}")


# ---------------------------------------------------------------------------------------------------------- settings

PAPER: dict[str, dict[str, Any]] = {  # the authors' tuned rows (params.csv, system mat)
    "coordsum/3x10-30": {
        "minibatches": 1, "max_grad_norm": 10.0, "embed": 64, "epochs": 5, "clip": 0.2, "heads": 4, "ent_coef": 0.001,
        "blocks": 2, "lr": 2.5e-4,
    },
    "coordsum/3x30-50": {
        "minibatches": 8, "max_grad_norm": 10.0, "embed": 64, "epochs": 10, "clip": 0.2, "heads": 2, "ent_coef": 0.001,
        "blocks": 3, "lr": 2.5e-4,
    },
    "coordsum/5x20-80": {
        "minibatches": 8, "max_grad_norm": 5.0, "embed": 64, "epochs": 15, "clip": 0.2, "heads": 4, "ent_coef": 0.001,
        "blocks": 3, "lr": 2.5e-4,
    },
    "coordsum/8x15-100": {
        "minibatches": 8, "max_grad_norm": 10.0, "embed": 64, "epochs": 15, "clip": 0.1, "heads": 2, "ent_coef": 0.001,
        "blocks": 2, "lr": 5e-4,
    },
}  # fmt: skip
NETWORKS: dict[str, Any] = {"embed": 32, "heads": 1, "blocks": 1, "lr": 1e-3}
"""What the small tiers change in the network: one block, one head."""
VARIANTS: dict[str, dict[str, Any]] = onpolicy.variants({"shuffled": {"agent_order": "shuffled"}})
"""Named departures from a tier's setting: the readings of the deviation ledger."""


def configure(task: str, tier: str, variant: str = "", **changes: Any) -> Config:
    """The setting of a tier ("smoke", "laptop", "paper") for a task, a named variant, and single changes on top."""
    tiers = {
        "smoke": onpolicy.SMOKE | NETWORKS,
        "laptop": onpolicy.LAPTOP | NETWORKS,
        "paper": {"seeds": onpolicy.PAPER_SEEDS, **PAPER.get(task, {})},
    }
    return onpolicy.choose_setting(Config, tiers, VARIANTS, task, tier, variant, changes)


# ---------------------------------------------------------------------------------------------------------- networks


class Attention(nn.Module):
    """Softmax attention over agents (Vaswani et al. 2017). All maps start small, so that a block starts as a copy.

    Args:
        cross: queries come from another stream than keys and values.
    """

    def __init__(self, embed: int, heads: int, cross: bool, streams: stacked.Generators) -> None:
        super().__init__()
        self.heads = heads
        parts = 2 if cross else 3
        self.kv = Linear(embed, parts * embed, streams, gain=0.01, parts=parts)
        self.query = Linear(embed, embed, streams, gain=0.01) if cross else None
        self.out = Linear(embed, embed, streams, gain=0.01)

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """Keys, values and queries side by side, `[S, ..., 3 F]`: queries from `y`, the others from `x`."""
        return self.kv(x) if self.query is None else torch.cat([self.kv(x), self.query(y)], dim=-1)

    def attend(self, projected: Tensor, queries: int, mask: Tensor | None) -> Tensor:
        """Outputs `[S, B, queries, F]` of the last agents in `projected [S, B, N, 3 F]`; `mask [queries, N]` bool."""
        k, v, q = projected.unflatten(-1, (3, self.heads, -1)).unbind(3)
        k, v, q = (part.transpose(2, 3) for part in (k, v, q[:, :, -queries:]))  # [S, B, h, N, d]
        score = q @ k.transpose(-1, -2) * k.shape[-1] ** -0.5
        if mask is not None:
            score = score.masked_fill(~mask, -torch.inf)
        return self.out((score.softmax(-1) @ v).transpose(2, 3).flatten(-2))

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        """`[S, B, N, F]`."""
        return self.attend(self.project(x, y), x.shape[2], mask)


class Block(nn.Module):
    """Attentions, each with its norm, and a feed-forward part."""

    def __init__(self, embed: int, heads: int, crosses: tuple[bool, ...], streams: stacked.Generators) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(Attention(embed, heads, cross, streams) for cross in crosses)
        self.norms = nn.ModuleList(LayerNorm(embed, len(streams)) for _ in crosses)
        self.inner = Linear(embed, embed, streams)
        self.outer = Linear(embed, embed, streams, gain=0.01)
        self.last = LayerNorm(embed, len(streams))

    def close(self, x: Tensor) -> Tensor:
        return self.last(x + self.outer(nn.functional.gelu(self.inner(x))))


class Head(nn.Module):
    """Layer, GELU, norm, small output map: `[S, ..., F] -> [S, ..., outputs]`."""

    def __init__(self, embed: int, outputs: int, streams: stacked.Generators) -> None:
        super().__init__()
        self.inner = Linear(embed, embed, streams)
        self.norm = LayerNorm(embed, len(streams))
        self.outer = Linear(embed, outputs, streams, gain=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.norm(nn.functional.gelu(self.inner(x))))


class Moment(NamedTuple):
    """What the agents of one step know before they decide."""

    scene: Tensor
    """`[S, B, N, F]` encoded observations."""
    kept: list[Tensor]
    """`[S, B, N, 3 F]` of each attention of the decoder, filled agent by agent."""
    memory: Tensor
    """`[S, B, 0]`"""


class Network(joint.Model):
    """Encoder over observations and decoder over actions, both by attention over agents; see `joint.Model`.

    Args:
        spec: the environment.
        streams: one generator per seed.
        embed, heads, blocks: see `Config`.
    """

    carried = 0
    memory_size = 0

    encoder: Any  # lists of `Block`, which nn.ModuleList does not say
    decoder: Any

    def __init__(
        self, spec: envs.Spec, streams: stacked.Generators, *, embed: int = 64, heads: int = 1, blocks: int = 1
    ) -> None:
        super().__init__()
        check(embed, heads)
        self.seeds, self.agents, self.actions = len(streams), spec.num_agents, spec.num_actions
        inputs = spec.num_agents + spec.obs_size
        mask = torch.ones(self.agents, self.agents, dtype=torch.bool).tril()
        self.register_buffer("earlier", mask, persistent=False)
        self.observation_norm = LayerNorm(inputs, self.seeds)
        self.observation = Linear(inputs, embed, streams)
        self.encoder_norm = LayerNorm(embed, self.seeds)
        self.encoder = nn.ModuleList(Block(embed, heads, (False,), streams) for _ in range(blocks))
        self.value_head = Head(embed, 1, streams)
        self.action = Linear(self.actions + 1, embed, streams, bias=False)
        self.action_norm = LayerNorm(embed, self.seeds)
        self.decoder = nn.ModuleList(Block(embed, heads, (False, True), streams) for _ in range(blocks))
        self.action_head = Head(embed, self.actions, streams)

    def tokens(self) -> Tensor:
        """What a decoder knows of the agent before: `[S, A + 1, F]`, row 0 for none, row 1 + a for action a."""
        return self.action_norm(nn.functional.gelu(self.action.weight))

    def encode(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Encoded observations `[S, B, N, F]` and values `[S, B, N]`."""
        x = self.encoder_norm(nn.functional.gelu(self.observation(self.observation_norm(obs))))
        for block in self.encoder:
            x = block.close(block.norms[0](x + block.attentions[0](x, x, None)))
        return x, self.value_head(x).squeeze(-1)

    def forward(
        self, obs: Tensor, available: Tensor, action: Tensor, memory: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        scene, value = self.encode(obs.flatten(1, 2))
        rows = torch.arange(self.seeds, device=obs.device).view(-1, 1, 1)
        before = nn.functional.pad(action.flatten(1, 2)[..., :-1] + 1, (1, 0))
        x = self.tokens()[rows, before]  # [S, c * B, N, F]
        for block in self.decoder:
            x = block.norms[0](x + block.attentions[0](x, x, self.earlier))
            x = block.close(block.norms[1](scene + block.attentions[1](x, scene, self.earlier)))
        logits = self.action_head(x).unflatten(1, obs.shape[1:3])
        return masked_log_softmax(logits, available), value.unflatten(1, obs.shape[1:3])

    def begin(self, obs: Tensor, start: Tensor, memory: Tensor) -> tuple[Tensor, Moment]:
        scene, value = self.encode(obs)
        kept = [scene.new_empty(*scene.shape[:3], 3 * scene.shape[3]) for _ in range(2 * len(self.decoder))]
        return value, Moment(scene, kept, memory)

    def decide(self, moment: Moment, agent: int, previous: Tensor | None) -> Tensor:
        scene = moment.scene[:, :, agent]
        rows = torch.arange(self.seeds, device=scene.device).unsqueeze(-1)
        before = torch.zeros_like(rows).expand(scene.shape[:2]) if previous is None else previous + 1
        x = self.tokens()[rows, before]
        kept = iter(moment.kept)
        for block in self.decoder:
            for r, attention in enumerate(block.attentions):
                heard = next(kept)
                heard[:, :, agent] = attention.project(x, (x, scene)[r])
                x = block.norms[r]((x, scene)[r] + attention.attend(heard[:, :, : agent + 1], 1, None).squeeze(2))
            x = block.close(x)
        return self.action_head(x)

    def finish(self, moment: Moment) -> Tensor:
        return moment.memory


# ---------------------------------------------------------------------------------------------------------- learning


def network(config: Any, spec: envs.Spec) -> Network:
    """The joint policy of all seeds that `config` describes (MAT's own, or one that has its fields)."""
    streams = stacked.generators(stacked.derive(seed, "mat") for seed in config.seeds)
    return Network(spec, streams, embed=config.embed, heads=config.heads, blocks=config.blocks)


def learner(config: Config, spec: envs.Spec, device: str) -> joint.Learner:
    """The policy in training; the update is `joint.Learner`'s."""
    return joint.Learner(config, spec, network(config, spec).to(device), device)


def train(config: Config, device: str = "cpu", state: State | None = None) -> Iterator[Evaluation]:
    """Train all seeds side by side, yielding one `Evaluation` after another; see `onpolicy.train`."""
    return onpolicy.train(learner, config, device, state)


def restore(config: Config, parameters: State, device: str = "cpu") -> Player:
    """The policy of all seeds, from the parameters that a run saved."""
    return onpolicy.restore(learner, config, parameters, device)
