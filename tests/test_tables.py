"""Networks as rows: each row is the network alone, as torch has it, and starts from its own stream."""

import pytest
import torch
from torch import nn

from inconcert import stacked, tables

SIZES = (3, 8, 6, 2)


def as_module(row, sizes=SIZES):
    """The network of one row, out of torch's own layers, in the row's precision."""
    parts = []
    for i, (weight, bias) in enumerate(tables.layers(row.unsqueeze(0), sizes)):
        linear = nn.Linear(sizes[i], sizes[i + 1], dtype=row.dtype)
        linear.load_state_dict({"weight": weight[0].T, "bias": bias[0, 0]})
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def test_a_row_is_a_network():
    assert tables.width(SIZES) == sum(p.numel() for p in as_module(torch.zeros(tables.width(SIZES))).parameters())
    rows, x = torch.randn(4, tables.width(SIZES)), torch.randn(4, 7, 3)
    out = tables.perceptron(rows, x, SIZES)
    for g in range(4):
        torch.testing.assert_close(out[g], as_module(rows[g])(x[g]))


def test_gradients_are_those_of_the_network_alone():
    # In double precision: the squared outputs of such wide weights lose the sixth digit in single.
    rows = torch.randn(4, tables.width(SIZES), dtype=torch.float64, requires_grad=True)
    x = torch.randn(4, 7, 3, dtype=torch.float64)
    tables.perceptron(rows, x, SIZES).square().sum().backward()
    alone = as_module(rows[2].detach())
    alone(x[2]).square().sum().backward()
    for (weight, bias), layer in zip(tables.layers(rows.grad, SIZES), alone[::2], strict=True):
        torch.testing.assert_close(weight[2], layer.weight.grad.T)
        torch.testing.assert_close(bias[2, 0], layer.bias.grad)


def test_backpropagation_by_hand_is_autograds():
    rows, x = torch.randn(4, tables.width(SIZES), requires_grad=True), torch.randn(4, 7, 3, requires_grad=True)
    gradient = torch.randn(4, 7, 2)
    tables.perceptron(rows, x, SIZES).backward(gradient)
    networks, out = tables.layers(rows.detach(), SIZES), torch.full_like(rows, torch.nan)
    seen = tables.activations(networks, x.detach())
    assert [part.shape[-1] for part in seen] == list(SIZES)
    torch.testing.assert_close(tables.backward(networks, seen, gradient, tables.layers(out, SIZES)), x.grad)
    torch.testing.assert_close(out, rows.grad)


@pytest.mark.parametrize("start", ["usual", "orthogonal"])
def test_a_start_depends_on_the_own_stream_only(start):
    def rows(*seeds):
        streams = stacked.generators(seeds)
        if start == "usual":
            return tables.usual_rows(SIZES, streams)
        return tables.orthogonal_rows(SIZES, streams, [1.0, 1.0, 0.5], noise=0.1)

    together = rows(1, 2, 3)
    assert torch.equal(together[1:2], rows(2))
    assert not torch.equal(together[0], together[1])


def test_usual_rows_are_as_wide_as_torchs():
    for (weight, bias), inputs in zip(tables.layers(tables.usual_rows(SIZES, stacked.generators(range(200))), SIZES),
                                      SIZES, strict=False):  # fmt: skip
        for part in (weight, bias):
            assert part.abs().max() <= inputs**-0.5
            assert part.std().item() == pytest.approx((1 / 3 / inputs) ** 0.5, rel=0.05)


def test_orthogonal_rows():
    rows = tables.orthogonal_rows(SIZES, stacked.generators([0, 1]), [1.0, 2.0, 0.5])
    (first, _), (second, _), (third, _) = tables.layers(rows, SIZES)
    torch.testing.assert_close(first @ first.mT, torch.eye(3).expand(2, -1, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(second.mT @ second, 4 * torch.eye(6).expand(2, -1, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(third.mT @ third, 0.25 * torch.eye(2).expand(2, -1, -1), atol=1e-5, rtol=0)
    assert all((bias == 0).all() for _, bias in tables.layers(rows, SIZES))
    noisy = tables.orthogonal_rows(SIZES, stacked.generators(range(100)), [0.0, 0.0, 0.0], noise=0.2)
    assert noisy.std().item() == pytest.approx(0.2, rel=0.05)
