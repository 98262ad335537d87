"""Plural is an axis: layers whose parameters carry a leading stack axis G.

G counts whatever is plural: seeds (S), agents with their own parameters (S * N), ensemble members. A layer maps
`[G, ..., in]` to `[G, ..., out]` with one batched matrix product, and the G copies never mix: member g of a stack is,
to float tolerance, the layer trained alone. Weights are `[G, in, out]`.

Initialisation draws from one generator per member, so that a member's start does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from inconcert.envs import stream_seed

Generators = Sequence[torch.Generator]
"""One random stream per stack member; the same generator may stand several times (agents of one seed)."""

EPSILON = 1e-6
"""Added to the variance in every normalisation (Flax's default, which the MAGPO authors use)."""


def generators(seeds: Iterable[int], repeat: int = 1) -> list[torch.Generator]:
    """A fresh CPU generator for each of `seeds`, each listed `repeat` times in a row (for agents of one seed)."""
    return [stream for seed in seeds for stream in [torch.Generator().manual_seed(seed)] * repeat]


def along(parameter: Tensor, x: Tensor) -> Tensor:
    """A parameter `[G, F]` shaped to broadcast against `x [G, ..., F]`."""
    return parameter.view(parameter.shape[0], *[1] * (x.dim() - 2), parameter.shape[1])


def orthogonal_(weight: Tensor, gain: float, streams: Generators) -> Tensor:
    """Fill each `[in, out]` member of `weight [G, in, out]` with its own (semi-)orthogonal matrix times `gain`."""
    with torch.no_grad():
        for member, stream in zip(weight, streams, strict=True):
            nn.init.orthogonal_(member, gain, generator=stream)
    return weight


def normal_(weight: Tensor, std: float, streams: Generators) -> Tensor:
    """Fill each member of `weight [G, ...]` with normal numbers of standard deviation `std` from its own stream."""
    with torch.no_grad():
        for member, stream in zip(weight, streams, strict=True):
            member.normal_(0.0, std, generator=stream)
    return weight


class Linear(nn.Module):
    """Affine map with its own weights per member: `[G, ..., in] -> [G, ..., out]`.

    Args:
        gain: gain of the orthogonal initialisation; biases start at 0.
        streams: one generator per member; their number is G.
        bias: False leaves the bias out.
        parts: several maps of the same input in one product: the columns are initialised in so many equal parts.
        init: fills a part's weights `(weight, gain, streams)`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        streams: Generators,
        gain: float = 2**0.5,
        bias: bool = True,
        parts: int = 1,
        init: Callable[[Tensor, float, Generators], Tensor] = orthogonal_,
    ) -> None:
        super().__init__()
        weight = torch.empty(len(streams), inputs, outputs)
        for part in weight.split(outputs // parts, dim=-1):
            init(part, gain, streams)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(len(streams), outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1, -2)  # [G, B, in]
        if self.bias is None:
            out = torch.bmm(rows, self.weight)
        elif (
            self.weight.shape[0] == 1
        ):  # the plain product adds the bias inside the GEMM, the batched one copies it first
            out = torch.addmm(self.bias[0], rows[0], self.weight[0]).unsqueeze(0)
        else:
            out = torch.baddbmm(self.bias.unsqueeze(1), rows, self.weight)
        return out.unflatten(1, x.shape[1:-1])


class RMSNorm(nn.Module):
    """Divide by the root mean square over the features and scale (Zhang and Sennrich 2019): `[G, ..., F]`."""

    def __init__(self, features: int, members: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(members, features))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + EPSILON).rsqrt() * along(self.scale, x)


class LayerNorm(nn.Module):
    """Zero mean and unit variance over the features, then scale and shift (Ba et al. 2016): `[G, ..., F]`."""

    def __init__(self, features: int, members: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(members, features))
        self.shift = nn.Parameter(torch.zeros(members, features))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.layer_norm(x, x.shape[-1:], eps=EPSILON)
        return torch.addcmul(along(self.shift, x), x, along(self.scale, x))


class GRU(nn.Module):
    """Gated recurrent unit with a hidden-state reset inside the sequence (Cho et al. 2014, the cuDNN and Flax form).

        r, z = sigmoid(x W_x + b + h W_h),   n = tanh(x W_xn + b_n + r * (h W_hn + b_hn)),   h' = (1 - z) n + z h

    All input projections of a sequence are one matrix product, and the backward pass through time is written out: a
    step costs one product and a few passes over cached data. The gates lie in the order n, r, z in the input
    weights and r, z, n in the recurrent ones, so that both gradients are windows of one buffer and nothing is copied.
    """

    def __init__(self, inputs: int, hidden: int, streams: Generators) -> None:
        super().__init__()
        self.hidden = hidden
        self.input = Linear(inputs, 3 * hidden, streams, gain=1.0)  # gates n, r, z
        recurrent = torch.empty(len(streams), hidden, 3 * hidden)
        for gate in recurrent.split(hidden, dim=-1):
            orthogonal_(gate, 1.0, streams)
        self.weight = nn.Parameter(recurrent)  # [G, H, 3H], gates r, z, n
        self.bias_n = nn.Parameter(torch.zeros(len(streams), 1, hidden))

    def forward(self, x: Tensor, h: Tensor, start: Tensor) -> Tensor:
        """Hidden states of a sequence.

        Args:
            x: `[G, T, B, in]` inputs.
            h: `[G, B, H]` hidden state carried into the first step.
            start: `[G, T, B]` bool, True where a step is the first of an episode: the carried state is zeroed there.

        Returns:
            `[G, T, B, H]` hidden states after each step.
        """
        return _Recurrence.apply(self.input(x), h, self.weight, self.bias_n, start)

    @torch.no_grad()
    def step(self, x: Tensor, h: Tensor) -> Tensor:
        """One step without gradients: `x [G, B, in]`, `h [G, B, H]` (already reset) -> the next `h [G, B, H]`."""
        return self(x.unsqueeze(1), h, torch.zeros_like(x[..., :1], dtype=torch.bool).movedim(-1, 1)).squeeze(1)


class _Recurrence(torch.autograd.Function):
    """The recurrent part of a GRU: `gx [G, T, B, 3H]` (gates n, r, z) and `h [G, B, H]` -> `[G, T, B, H]`."""

    @staticmethod
    def forward(ctx, gx, h, weight, bias_n, start):
        width, steps = h.shape[-1], gx.shape[1]
        keep = (~start).to(gx.dtype).unsqueeze(-1)  # [G, T, B, 1]
        resets = start.flatten(2).any(2).any(0).tolist()
        out, n, hn = (gx.new_empty(*gx.shape[:3], width) for _ in range(3))
        rz = gx.new_empty(*gx.shape[:3], 2 * width)
        gh = gx.new_empty(gx.shape[0], gx.shape[2], 3 * width)
        gh_rz, gh_n = gh[..., : 2 * width], gh[..., 2 * width :]
        views = (
            x.unbind(1) for x in (gx[..., :width], gx[..., width:], rz, rz[..., :width], rz[..., width:], hn, n, out)
        )
        first = h
        for t, (x_n, x_rz, rz_t, r_t, z_t, hn_t, n_t, out_t) in enumerate(zip(*views, strict=True)):
            if resets[t]:
                h = h * keep[:, t]
            torch.bmm(h, weight, out=gh)
            torch.add(x_rz, gh_rz, out=rz_t).sigmoid_()
            torch.add(gh_n, bias_n, out=hn_t)
            torch.addcmul(x_n, r_t, hn_t, out=n_t).tanh_()
            h = torch.lerp(n_t, h, z_t, out=out_t)
        ctx.resets, ctx.steps = resets, steps
        ctx.save_for_backward(weight, keep, first, rz, n, hn, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        weight, keep, first, rz, n, hn, out = ctx.saved_tensors
        width = n.shape[-1]
        before = torch.cat([first.unsqueeze(1), out[:, :-1]], dim=1)  # the state that each step started from
        for t, reset in enumerate(ctx.resets):
            if reset:
                before[:, t] *= keep[:, t]
        r, z = rz[..., :width], rz[..., width:]
        # Every gradient of a step is that of its new state times something known beforehand: of the pre-activations
        # n, r, z and h W_hn + b_hn, and of the old state where it passes through. The loop turns them into gradients.
        d = grad.new_empty(*n.shape[:3], 5, width)
        d_n, d_r, d_z, d_hn, d_h = d.unbind(-2)
        torch.ops.aten.tanh_backward.grad_input(1 - z, n, grad_input=d_n)
        torch.mul(d_n, r, out=d_hn)
        torch.ops.aten.sigmoid_backward.grad_input(d_n * hn, r, grad_input=d_r)
        torch.ops.aten.sigmoid_backward.grad_input(before - n, z, grad_input=d_z)
        d_h.copy_(z)
        dgx, dgh = d.flatten(-2)[..., : 3 * width], d.flatten(-2)[..., width : 4 * width]
        back = weight.transpose(1, 2).contiguous()  # [G, 3H, H]
        dh = torch.zeros_like(first)
        views = (x.unbind(1) for x in (grad, d, d_h, dgh))
        for t, (grad_t, d_t, d_h_t, dgh_t) in reversed(list(enumerate(zip(*views, strict=True)))):
            dh = grad_t + dh
            d_t.mul_(dh.unsqueeze(-2))
            dh = torch.baddbmm(d_h_t, dgh_t, back)
            if ctx.resets[t]:
                dh = dh * keep[:, t]
        rows = dgh.flatten(1, 2)
        dweight = torch.bmm(before.flatten(1, 2).transpose(1, 2), rows)
        return dgx, dh, dweight, rows[..., 2 * width :].sum(1, keepdim=True), None


def clip_grad_norm_(module: nn.Module, limit: float, seeds: int) -> Tensor:
    """Scale the gradients of each seed to a global norm of at most `limit`; every seed has its own norm.

    Args:
        module: stacked parameters with a seed-major leading axis, `[S * N, ...]` or `[S, ...]`.
        limit: maximal norm per seed.
        seeds: S.

    Returns:
        `[S]` norms before clipping.
    """
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    squares = [g.reshape(seeds, -1).square().sum(1) for g in grads]
    norms = torch.stack(squares).sum(0).sqrt()
    scale = (limit / (norms + 1e-6)).clamp(max=1.0)
    for g in grads:
        g.mul_(scale.repeat_interleave(g.shape[0] // seeds).view(-1, *[1] * (g.dim() - 1)))
    return norms


def derive(seed: int, purpose: str, index: int = 0) -> int:
    """An independent 63-bit seed for one `purpose` ("rollout", "evaluation", ...) of `seed` at one `index`.

    Random numbers depend on (seed, purpose, index) alone and carry no state, so a resumed run draws what the
    uninterrupted one would have drawn, and an evaluation never disturbs the training stream.
    """
    return stream_seed(f"{purpose}/{index}", seed)


def uniforms(seeds: Sequence[int], purpose: str, index: int, *shape: int) -> Tensor:
    """`[S, *shape]` numbers in [0, 1), row s drawn from the stream of `seeds[s]` alone."""
    streams = generators(derive(seed, purpose, index) for seed in seeds)
    return torch.stack([torch.rand(*shape, generator=stream) for stream in streams])


def permutations(seeds: Sequence[int], purpose: str, index: int, count: int, size: int) -> Tensor:
    """`[S, count, size]` random permutations of `range(size)`, row s from the stream of `seeds[s]` alone."""
    streams = generators(derive(seed, purpose, index) for seed in seeds)
    return torch.stack([torch.stack([torch.randperm(size, generator=g) for _ in range(count)]) for g in streams])


def pick(mask: Tensor, new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters `new` for the seeds where `mask [S]` holds, `old` for the others; copies, seed-major stacks."""
    chosen = {}
    for name, value in new.items():
        rows = mask.repeat_interleave(value.shape[0] // len(mask)).view(-1, *[1] * (value.dim() - 1))
        chosen[name] = torch.where(rows, value, old[name])
    return chosen


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flat copies of an optimiser's tensors (Adam's moments and step counts); empty before the first step."""
    entries = optimiser.state_dict()["state"]
    return {f"{i}.{name}": value.clone() for i, entry in entries.items() for name, value in entry.items()}


def load_optimiser_state(optimiser: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Inverse of `optimiser_state`, into an optimiser over the same parameters."""
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        index, name = key.split(".")
        entries.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
