"""Networks as rows of a table: many perceptrons of one shape, computed in one batched product.

A table `[G, P]` holds G networks of P numbers each. A network that several agents use is a row that is looked up
several times, and copying a network is copying a row. Layers are affine with ReLU in between, and `sizes` gives the
widths: (10, 64, 5) is an affine map from 10 to 64, ReLU, and one from 64 to 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from inconcert import stacked

Sizes = Sequence[int]


def width(sizes: Sizes) -> int:
    """P: how many numbers a network has, layer by layer its weights `[in, out]` and its biases `[out]`."""
    return sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))


Layers = list[tuple[Tensor, Tensor]]
"""Weights `[G, in, out]` and biases `[G, 1, out]` of each layer of G networks."""


def layers(rows: Tensor, sizes: Sizes) -> Layers:
    """The layers of the networks `rows [G, P]`, as views."""
    parts = rows.split([count for inputs, outputs in pairwise(sizes) for count in (inputs * outputs, outputs)], 1)
    shapes = enumerate(pairwise(sizes))
    return [(parts[2 * i].unflatten(1, shape), parts[2 * i + 1].unsqueeze(1)) for i, shape in shapes]


def activations(networks: Layers, x: Tensor) -> list[Tensor]:
    """What goes into each layer, from `x [G, B, in]` on, and what comes out at last; no ReLU after the last layer."""
    first, *others = networks
    seen, out = [x], torch.baddbmm(first[1], x, first[0])
    for weight, bias in others:
        seen.append(out.relu())
        out = torch.baddbmm(bias, seen[-1], weight)
    return [*seen, out]


def perceptron(rows: Tensor, x: Tensor, sizes: Sizes) -> Tensor:
    """Each network on its own inputs: `rows [G, P]`, `x [G, B, in] -> [G, B, out]`."""
    return activations(layers(rows, sizes), x)[-1]


def backward(networks: Layers, seen: Sequence[Tensor], gradient: Tensor, out: Layers) -> Tensor:
    """Backpropagation by hand, without autograd: for small networks it takes half the time.

    Args:
        seen: the networks' `activations`.
        gradient: `[G, B, out]` of the loss in the outputs.
        out: where to write the gradients in the networks.

    Returns:
        `[G, B, in]` gradient in the inputs.
    """
    for (weight, _), (to_weight, to_bias), x in zip(
        reversed(networks), reversed(out), reversed(seen[:-1]), strict=True
    ):
        to_weight.copy_(torch.bmm(x.mT, gradient))
        torch.sum(gradient, 1, keepdim=True, out=to_bias)
        gradient = torch.bmm(gradient, weight.mT)
        if x is not seen[0]:
            gradient = torch.ops.aten.threshold_backward(gradient, x, 0)
    return gradient


def usual_rows(sizes: Sizes, streams: stacked.Generators) -> Tensor:
    """Networks `[G, P]` that start as torch's linear layers do: all uniform within one over the root of the inputs."""
    rows = torch.empty(len(streams), width(sizes))
    for weight, bias in layers(rows, sizes):
        bound = weight.shape[1] ** -0.5
        for part in (weight, bias):
            for member, stream in zip(part, streams, strict=True):
                member.uniform_(-bound, bound, generator=stream)
    return rows


def orthogonal_rows(sizes: Sizes, streams: stacked.Generators, gains: Sequence[float], noise: float = 0.0) -> Tensor:
    """Networks `[G, P]` with orthogonal weights and biases of 0.

    Args:
        gains: of the weights, layer by layer.
        noise: standard deviation of normal numbers added to all, biases included.
    """
    rows = torch.zeros(len(streams), width(sizes))
    for (weight, _), gain in zip(layers(rows, sizes), gains, strict=True):
        stacked.orthogonal_(weight, gain, streams)
    return rows + stacked.normal_(torch.empty_like(rows), noise, streams) if noise else rows
