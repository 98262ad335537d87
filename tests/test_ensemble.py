"""Kurtosis of an ensemble, and what Ensemble-MIX makes of it."""

import math

import pytest
import torch
from scipy import stats as reference

from inconcert import ensemble
from inconcert.config import InputError

ALL = torch.ones(3, 4, dtype=torch.bool)


@pytest.fixture
def values():
    return torch.randn(10, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_kurtosis_is_scipys(values):
    found = ensemble.excess_kurtosis(values)
    assert torch.allclose(found, torch.from_numpy(reference.kurtosis(values.numpy(), axis=0)))
    corrected = ensemble.excess_kurtosis(values, corrected=True)
    assert torch.allclose(corrected, torch.from_numpy(reference.kurtosis(values.numpy(), axis=0, bias=False)))


@pytest.mark.parametrize("members", [2, 5, 10, 20])
def test_range(members):
    """Two equal camps have the least, one outlier the most."""
    outlier = torch.zeros(members, dtype=torch.float64)
    outlier[0] = 1.0
    assert float(ensemble.kurtosis(outlier)) == pytest.approx(ensemble.largest_kurtosis(members))
    if members % 2 == 0:
        camps = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(members // 2)
        assert float(ensemble.kurtosis(camps)) == pytest.approx(1.0)


def test_members_that_agree_are_nothing_special():
    for level in (0.0, 1e-6, 1.0, 1e6):
        assert float(ensemble.kurtosis(torch.full((10,), level))) == 3.0
    assert not ensemble.gate(torch.ones(10, 3, 4), ALL).any()


@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0.0), (1e3, -50.0)])
def test_kurtosis_knows_no_scale(values, scale, shift):
    assert torch.allclose(ensemble.kurtosis(scale * values + shift), ensemble.kurtosis(values))


def test_normal_members():
    drawn = torch.randn(10, 200_000, generator=torch.Generator().manual_seed(1))
    mean, spread = ensemble.normal_excess(10)
    found = ensemble.excess_kurtosis(drawn)
    assert float(found.mean()) == pytest.approx(mean, abs=0.01)
    assert float(found.std()) == pytest.approx(spread, abs=0.02)
    assert float(ensemble.excess_kurtosis(drawn, corrected=True).mean()) == pytest.approx(0, abs=0.02)


def test_weight_at_its_ends(values):
    found = ensemble.uncertainty_weight(values, 0.01)
    low = 0.5 + 1 / (1 + math.exp(0.01 * ensemble.largest_kurtosis(10)))
    high = 0.5 + 1 / (1 + math.exp(0.01))
    assert bool(((found >= low) & (found <= high)).all())
    camps = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(5)
    assert float(ensemble.uncertainty_weight(camps, 0.01)) == pytest.approx(high)
    assert float(ensemble.uncertainty_weight(camps, 0.01, signal="excess")) > 1


def test_the_gate_looks_at_available_actions_only():
    calm = torch.tensor([-1.0, 1.0]).repeat(5)
    wild = torch.zeros(10).index_fill(0, torch.tensor([0]), 1.0)
    values = torch.stack([wild, calm], dim=-1)
    assert ensemble.gate(values, torch.tensor([True, True]))
    assert not ensemble.gate(values, torch.tensor([False, True]))
    added = ensemble.bonus(values, torch.tensor([True, False]), 0.5)
    assert added.tolist() == pytest.approx([0.5 * ensemble.largest_kurtosis(10), 0.0])


def test_a_closed_gate_adds_nothing():
    calm = torch.tensor([-1.0, 1.0]).repeat(5).view(10, 1).expand(10, 4)
    available = torch.ones(4, dtype=torch.bool)
    assert not ensemble.bonus(calm, available, 1.0).any()
    assert ensemble.bonus(calm, available, 1.0, gated=False).tolist() == pytest.approx([1.0] * 4)
    assert ensemble.bonus(calm, available, 2.0, gated=False, signal="variance").tolist() == pytest.approx([2.0] * 4)
    with pytest.raises(InputError, match="signal must be"):
        ensemble.bonus(calm, available, 1.0, signal="mean")


def test_signals_of_one_scale():
    values = torch.randn(8, 5, 4, dtype=torch.float64)
    available = torch.rand(5, 4) < 0.7
    available[0], available[1] = True, torch.tensor([True, False, False, False])
    for signal in ("kurtosis", "variance"):
        one = ensemble.bonus(values, available, 0.3, gated=False, signal=signal, unit=True)
        other = ensemble.bonus(100 * values, available, 0.3, gated=False, signal=signal, unit=True)
        torch.testing.assert_close(one, other)  # however large the values are
        assert not one[~available].any()
        assert one[0].std(correction=0).item() == pytest.approx(0.3)
        assert one[0].mean().item() == pytest.approx(0, abs=1e-12)
        assert not one[1].any()  # no choice, nothing to tell apart
        raw = ensemble.bonus(values, available, 1.0, gated=False, signal=signal)
        assert torch.equal(one[0].argsort(), raw[0].argsort())


def test_corrected_kurtosis_needs_members():
    with pytest.raises(InputError, match="at least 4 members, not 3"):
        ensemble.excess_kurtosis(torch.randn(3, 2), corrected=True)


def test_bhattacharyya_by_hand(values):
    member, mean = values.softmax(-1), values.mean(0).softmax(-1)
    expected = -(member * mean).sqrt().sum(-1).log()
    assert torch.allclose(ensemble.bhattacharyya(values, ALL), expected)
    same = values[:1].expand(10, 3, 4)
    assert torch.allclose(ensemble.bhattacharyya(same, ALL), torch.zeros(10, 3, dtype=torch.float64), atol=1e-12)


def test_bhattacharyya_leaves_out_what_is_not_available(values):
    available = ALL.clone()
    available[:, 3] = False
    assert torch.allclose(
        ensemble.bhattacharyya(values, available), ensemble.bhattacharyya(values[..., :3], ALL[:, :3])
    )


def test_the_regulariser_has_a_gradient(values):
    """By finite differences: through the members, not through the mean."""
    small = values[:, :1].clone().requires_grad_()
    ensemble.bhattacharyya(small, ALL[:1]).sum().backward()
    assert small.grad is not None
    mean = values[:, :1].mean(0).log_softmax(-1)

    def total(x):
        return -(0.5 * (x.log_softmax(-1) + mean)).logsumexp(-1).sum()

    for index in ((0, 0, 0), (4, 0, 2)):
        step = torch.zeros_like(small)
        step[index] = 1e-6
        slope = (total(small.detach() + step) - total(small.detach() - step)) / 2e-6
        assert float(small.grad[index]) == pytest.approx(float(slope), abs=1e-6)
    assert small.grad.abs().max() > 1e-3
