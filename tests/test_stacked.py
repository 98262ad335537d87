"""Stacked layers: every member is the layer trained alone; gradients are right; clipping is per seed."""

import pytest
import torch

from inconcert import stacked


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def member(layer, index, *args):
    """A one-member copy of `layer` that holds member `index`."""
    alone = type(layer)(*args, stacked.generators([0]))
    alone.load_state_dict({name: value[index : index + 1] for name, value in layer.state_dict().items()})
    return alone


@pytest.mark.parametrize("shape", [(7,), (4, 7), (2, 4, 7)])
def test_linear_is_its_members(shape):
    layer = stacked.Linear(7, 5, stacked.generators([3, 4, 5]))
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(3, *shape)
    if len(shape) == 1:
        x = x.unsqueeze(1)
    out = layer(x)
    assert out.shape == (*x.shape[:-1], 5)
    for g in range(3):
        expected = x[g] @ layer.weight[g] + layer.bias[g]
        torch.testing.assert_close(out[g], expected)
        torch.testing.assert_close(member(layer, g, 7, 5)(x[g : g + 1]), out[g : g + 1])


def test_initialisation_depends_on_the_members_own_stream_only():
    together = stacked.Linear(6, 6, stacked.generators([1, 2, 3]), gain=0.5)
    alone = stacked.Linear(6, 6, stacked.generators([2]), gain=0.5)
    assert torch.equal(together.weight[1], alone.weight[0])
    gram = together.weight[0] @ together.weight[0].T
    torch.testing.assert_close(gram, 0.25 * torch.eye(6), atol=1e-5, rtol=0)


def test_agents_of_a_seed_start_differently():
    layer = stacked.Linear(4, 4, stacked.generators([1, 2], repeat=2))
    assert not torch.equal(layer.weight[0], layer.weight[1])


def literal_gru(layer, x, h, start):
    """The equations of `stacked.GRU`, one row, one step at a time."""
    width = layer.hidden
    out = torch.empty(*x.shape[:3], width, dtype=x.dtype)
    for g in range(x.shape[0]):
        w_in, b_in = layer.input.weight[g], layer.input.bias[g]
        w_rec, b_n = layer.weight[g], layer.bias_n[g, 0]
        for b in range(x.shape[2]):
            state = h[g, b]
            for t in range(x.shape[1]):
                if start[g, t, b]:
                    state = torch.zeros_like(state)
                gx = x[g, t, b] @ w_in + b_in
                gh = state @ w_rec
                r = torch.sigmoid(gx[width : 2 * width] + gh[:width])
                z = torch.sigmoid(gx[2 * width :] + gh[width : 2 * width])
                n = torch.tanh(gx[:width] + r * (gh[2 * width :] + b_n))
                state = (1 - z) * n + z * state
                out[g, t, b] = state
    return out


def test_gru_is_the_literal_recurrence_and_its_gradients(double):
    torch.manual_seed(0)
    layer = stacked.GRU(4, 3, stacked.generators([0, 1]))
    torch.nn.init.normal_(layer.bias_n)
    torch.nn.init.normal_(layer.input.bias)
    x = torch.randn(2, 6, 5, 4, requires_grad=True)
    h = torch.randn(2, 5, 3, requires_grad=True)
    start = torch.rand(2, 6, 5) < 0.3
    assert start[:, 0].any()
    assert start[:, 1:].any()
    torch.testing.assert_close(layer(x, h, start), literal_gru(layer, x, h, start))
    weights = (layer.weight, layer.bias_n, layer.input.weight, layer.input.bias)
    assert torch.autograd.gradcheck(lambda *inputs: layer(*inputs[:2], start), (x, h, *weights))


def test_gru_agrees_with_torch_without_resets(double):
    layer = stacked.GRU(4, 3, stacked.generators([5]))
    torch.nn.init.normal_(layer.bias_n)
    reference = torch.nn.GRU(4, 3, batch_first=False)
    n, r, z = layer.input.weight[0].split(3, dim=-1)
    with torch.no_grad():
        reference.weight_ih_l0.copy_(torch.cat([r, z, n], dim=-1).T)
        reference.weight_hh_l0.copy_(layer.weight[0].T)
        reference.bias_ih_l0.zero_()
        reference.bias_hh_l0.copy_(torch.cat([torch.zeros(6), layer.bias_n[0, 0]]))
    x, h = torch.randn(1, 7, 2, 4), torch.randn(1, 2, 3)
    torch.testing.assert_close(layer(x, h, torch.zeros(1, 7, 2, dtype=torch.bool))[0], reference(x[0], h)[0])


def test_gru_step_by_step_is_the_sequence():
    layer = stacked.GRU(4, 8, stacked.generators([0, 1]))
    x, start = torch.randn(2, 9, 3, 4), torch.rand(2, 9, 3) < 0.3
    h = torch.randn(2, 3, 8)
    whole = layer(x, h, start)
    for t in range(9):
        h = layer.step(x[:, t], h * ~start[:, t].unsqueeze(-1))
        torch.testing.assert_close(h, whole[:, t])


def test_clipping_is_per_seed():
    layer = stacked.Linear(2, 2, stacked.generators([0, 1], repeat=2))  # 2 seeds x 2 agents
    layer.weight.grad = torch.zeros_like(layer.weight)
    layer.bias.grad = torch.zeros_like(layer.bias)
    layer.weight.grad[0, 0, 0] = 3.0
    layer.weight.grad[1, 0, 0] = 4.0  # other agent, same seed: norm 5
    layer.bias.grad[2, 0] = 0.1  # the second seed is below the limit
    norms = stacked.clip_grad_norm_(layer, 1.0, seeds=2)
    torch.testing.assert_close(norms, torch.tensor([5.0, 0.1]))
    torch.testing.assert_close(layer.weight.grad[:2, 0, 0], torch.tensor([0.6, 0.8]), rtol=1e-5, atol=0)
    assert layer.bias.grad[2, 0] == pytest.approx(0.1)


def test_streams_are_independent_of_company_and_of_purpose():
    together = stacked.uniforms([7, 8], "rollout", 3, 4)
    assert torch.equal(together[1], stacked.uniforms([8], "rollout", 3, 4)[0])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together, stacked.uniforms([7, 8], "rollout", 4, 4))
    assert not torch.equal(together, stacked.uniforms([7, 8], "evaluation", 3, 4))
    orders = stacked.permutations([7, 8], "minibatches", 1, 3, 10)
    assert orders.shape == (2, 3, 10)
    assert (orders.sort(-1).values == torch.arange(10)).all()


def test_optimiser_state_round_trip():
    def parts():
        layer = stacked.Linear(3, 2, stacked.generators([0, 1]))
        return layer, torch.optim.Adam(layer.parameters(), lr=0.1, fused=True)

    def advance(layer, optimiser, steps):
        for _ in range(steps):
            optimiser.zero_grad()
            layer(torch.ones(2, 1, 3)).square().sum().backward()
            optimiser.step()

    layer, optimiser = parts()
    advance(layer, optimiser, 3)
    other, second = parts()
    other.load_state_dict(layer.state_dict())
    stacked.load_optimiser_state(second, stacked.optimiser_state(optimiser))
    advance(layer, optimiser, 2)
    advance(other, second, 2)
    assert torch.equal(layer.weight, other.weight)


def test_pick_chooses_by_seed():
    new = {"w": torch.ones(4, 2)}
    old = {"w": torch.zeros(4, 2)}
    chosen = stacked.pick(torch.tensor([True, False]), new, old)["w"]
    assert chosen[:, 0].tolist() == [1, 1, 0, 0]
