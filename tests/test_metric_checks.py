"""The checks of the metric axioms can tell a metric from what is none."""

import pytest
import torch

from inconcert import metric_checks
from inconcert.config import InputError


@pytest.mark.parametrize("name", ["2-Wasserstein", "Hellinger", "total variation", "vanilla Hellinger"])
def test_metrics(name):
    found = metric_checks.axioms(name, count=5000)
    assert found[:5] == (1, 1, 1, 1, 1)
    assert found.excess <= 1 + 1e-9


@pytest.mark.parametrize("name", ["Bhattacharyya", "vanilla Bhattacharyya"])
def test_what_is_no_metric(name):
    found = metric_checks.axioms(name, count=5000)
    assert found[:4] == (1, 1, 1, 1)
    assert found.triangle < 0.95
    assert found.excess > 1.5


def test_three_normal_distributions_in_a_row():
    """N(0, 1), N(2, 1), N(4, 1): 1/2 + 1/2 < 2."""
    one = torch.ones(1, dtype=torch.float64)
    sides = [metric_checks.GAUSSIAN["Bhattacharyya"](0 * one, one, gap * one, one) for gap in (2, 4)]
    assert sides[0].item() == pytest.approx(0.5)
    assert sides[1].item() == pytest.approx(2.0)


def test_a_measure_that_is_not_symmetric_is_found(monkeypatch):
    monkeypatch.setitem(metric_checks.CATEGORICAL, "lopsided", lambda p, q: (p[..., 0] - q[..., 0]).clamp(min=0))
    found = metric_checks.axioms("lopsided", count=1000)
    assert found.symmetry < 0.1
    assert found.equal_if_zero < 0.9


def test_unknown_measure():
    with pytest.raises(InputError, match="2-Wasserstein"):
        metric_checks.axioms("Wasserstein")
