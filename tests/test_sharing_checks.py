"""The promises of Algorithm 1, judged on layouts where one can see who should be with whom."""

import pytest
import torch

from inconcert import sharing_checks


def line(*places):
    """Distances of agents at these places of a line."""
    points = torch.tensor(places).unsqueeze(1)
    return torch.cdist(points, points)


@pytest.mark.parametrize(
    ("places", "broken"),
    [
        ((0.0, 5.0, 10.0), set()),
        ((0.0, 0.5, 0.9), set()),
        ((0.0, 0.8, -0.8), {"no_stranger"}),  # 2 and 3 both join 1
        ((0.0, 0.8, 1.6), {"at_home"}),  # 3 takes the network that 2 has just left
        ((0.0, 0.8, 1.6, 2.4), {"at_home", "chains"}),
    ],
)
def test_what_one_layout_breaks(monkeypatch, places, broken):
    monkeypatch.setattr(sharing_checks, "layout", lambda agents, generator: line(*places))
    found = sharing_checks.outcomes(len(places), 1)._asdict()
    found.pop("same_order")
    assert {name for name, share in found.items() if share == 0} == broken


def test_the_order_counts():
    distance = line(0.0, 0.8, 1.6)
    forwards, _ = sharing_checks.groups(distance, torch.tensor([0, 1, 2]))
    from_the_middle, _ = sharing_checks.groups(distance, torch.tensor([1, 0, 2]))
    assert forwards == [[0, 1], [2]]
    assert from_the_middle == [[0, 1, 2]]


def test_random_layouts_obey_the_triangle_inequality_and_repeat():
    one, two = (sharing_checks.layout(8, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert (one.unsqueeze(1) <= one.unsqueeze(2) + one.unsqueeze(0) + 1e-5).all()
    assert sharing_checks.outcomes(5, 20, seed=1) == sharing_checks.outcomes(5, 20, seed=1)
    assert sharing_checks.outcomes(5, 20, seed=1) != sharing_checks.outcomes(5, 20, seed=2)


def test_nobody_is_put_where_a_division_is_due():
    """Whoever is on a network is within the threshold of its agent, so two of them are within twice that."""
    for reading in ("sane", "literal", "code"):
        assert sharing_checks.outcomes(10, 60, seed=4, reading=reading).no_division == 1


def test_agreement_of_groupings():
    assert sharing_checks.agreement([0, 0, 1, 1], [5, 5, 2, 2]) == 1
    assert sharing_checks.agreement([0, 0, 0, 0], [0, 1, 2, 3]) == 0
    assert sharing_checks.agreement([0, 0, 1, 1], [0, 1, 1, 1]) == pytest.approx(3 / 6)
