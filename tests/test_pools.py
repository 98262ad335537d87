"""Opinion pools, preprocessing and measures of disagreement: cases computed by hand, and defining properties."""

import math

import pytest
import torch

from inconcert import pools
from inconcert.config import InputError
from inconcert.fusion import KalmanFusion

A = torch.tensor([0.7, 0.2, 0.1])
B = torch.tensor([0.1, 0.6, 0.3])
C = torch.tensor([0.3, 0.3, 0.4])
THREE = torch.stack([A, B, C])


def policies(*shape, seed=0, sharp=1.0):
    return (sharp * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).softmax(-1)


def close(got, due):
    assert got.tolist() == pytest.approx(due, abs=1e-5)


# ------------------------------------------------------------------------------------------------------ the pools


def test_pools_by_hand():
    close(pools.linear_pool(torch.stack([A, B])), [0.4, 0.4, 0.2])
    close(pools.linear_pool(torch.stack([A, B]), [3.0, 1.0]), [0.55, 0.3, 0.15])
    geometric = [math.sqrt(0.07), math.sqrt(0.12), math.sqrt(0.03)]
    close(pools.log_linear_pool(torch.stack([A, B])), [x / sum(geometric) for x in geometric])
    close(pools.product_of_experts(torch.stack([A, B])), [0.07 / 0.22, 0.12 / 0.22, 0.03 / 0.22])
    assert pools.majority(torch.stack([A, B, B])).argmax() == 1
    close(pools.rank_voting(THREE), [2 / 8, 3 / 8, 3 / 8])  # points 2 1 0, 0 2 1, 0 0 2
    close(pools.max_confidence(THREE), A.tolist())
    close(pools.best_single(THREE, [0.1, 0.5, 0.5]), B.tolist())


def test_a_tied_vote_goes_to_the_larger_mean_probability():
    """A votes for 0, B for 1, C for 2; the means are 0.367, 0.367 and 0.267, so that 2 loses and 0 comes first."""
    assert pools.majority(THREE).argmax() == 0
    assert pools.majority(torch.stack([A, torch.tensor([0.0, 1.0, 0.0]), C])).argmax() == 1


def test_entropy_weights():
    """For two policies the second's weight is H1 / (H1 + H2)."""
    h1, h2 = pools.entropy(A).item(), pools.entropy(B).item()
    w = h1 / (h1 + h2)
    close(pools.entropy_weighted(torch.stack([A, B])), ((1 - w) * A + w * B).tolist())


def test_boltzmann():
    added = (A + B) / 2
    close(pools.boltzmann(torch.stack([A, B]), 0.5, "addition"), (added**2 / (added**2).sum()).tolist())
    product = A * B
    close(pools.boltzmann(torch.stack([A, B]), 2.0), (product.sqrt() / product.sqrt().sum()).tolist())


@pytest.mark.parametrize("name", pools.POOLS)
def test_every_pool_is_batched_and_keeps_ruled_out_actions_out(name):
    several = policies(3, 4, 2, 6, sharp=2.0)
    several[..., 5] = 0.0
    several = several / several.sum(-1, keepdim=True)
    whole = pools.POOLS[name](several)
    assert torch.allclose(whole.sum(-1), torch.ones(4, 2), atol=1e-5)
    assert not whole[..., 5].any()
    for slot in range(4):
        for agent in range(2):
            assert torch.allclose(pools.POOLS[name](several[:, slot, agent]), whole[slot, agent], atol=1e-6)


@pytest.mark.parametrize("name", pools.POOLS)
def test_unanimous_policies(name):
    """Where all say the same, the best action is theirs."""
    p = policies(4, 6, sharp=2.0)
    assert torch.equal(pools.POOLS[name](p.expand(3, 4, 6)).argmax(-1), p.argmax(-1))


def test_a_constant_gain_is_a_linear_pool():
    p, q = policies(5, 2, 6, seed=1), policies(5, 2, 6, seed=2)
    fusion = KalmanFusion(6, 3.0, update_budget=0, clip=0.0, ridge=0.0)
    fused, _ = fusion(p, q, fusion.init(5, 2))
    assert torch.allclose(fused, pools.linear_pool(torch.stack([p, q]), [0.75, 0.25]), atol=1e-6)


# ------------------------------------------------------------------------------------------------------- measures


def test_measures_by_hand():
    assert pools.entropy(torch.tensor([0.5, 0.5, 0.0])).item() == pytest.approx(math.log(2))
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert pools.jensen_shannon(one, other).item() == pytest.approx(math.log(2))
    assert pools.jensen_shannon(A, A).item() == pytest.approx(0, abs=1e-6)
    assert pools.disagreement(A, B).item()
    # action 1: d1 = 0.5, d2 = 0.5 -> 1/2; action 2: d1 = 0.6, d2 = 0.2 -> 3/4
    assert pools.critical_gain(A, B).item() == pytest.approx(0.5)
    assert pools.critical_gain(A, A).item() == math.inf


# ---------------------------------------------------------------------------------------------------- preprocessing


@pytest.mark.parametrize("method", ["temper", "cap", "rank"])
def test_alignment_lowers_the_peak_and_nothing_else(method):
    p, q = policies(500, 7, seed=1, sharp=3.0), policies(500, 7, seed=2, sharp=3.0)
    sharper = p.amax(-1) > q.amax(-1)
    first, second = pools.top_k_align(p, q, method, k=3)
    assert torch.equal(first[~sharper], p[~sharper])
    assert torch.equal(second[sharper], q[sharper])
    for one in (first, second):
        assert torch.allclose(one.sum(-1), torch.ones(500), atol=1e-4)
    assert torch.allclose(first.amax(-1), second.amax(-1), atol=1e-3)
    changed, before = torch.where(sharper.unsqueeze(-1), first, second), torch.where(sharper.unsqueeze(-1), p, q)
    assert (changed.gather(-1, before.argmax(-1, keepdim=True)).squeeze(-1) >= changed.amax(-1) - 1e-4).all()


def test_alignment_by_hand():
    sharp, flat = torch.tensor([0.8, 0.15, 0.05, 0.0]), torch.tensor([0.1, 0.5, 0.25, 0.15])
    tempered, same = pools.top_k_align(sharp, flat)
    assert torch.equal(same, flat)
    inverse = (tempered[0] / tempered[1]).log() / math.log(0.8 / 0.15)  # one temperature for all actions
    assert ((tempered[1] / tempered[2]).log() / math.log(3)).item() == pytest.approx(inverse.item(), rel=1e-3)
    close(tempered[:1], [0.5])
    capped, _ = pools.top_k_align(sharp, flat, "cap", k=3)
    close(capped, [0.5, 0.375, 0.125, 0.0])  # 0.3 more for 0.15 and 0.05, in proportion
    narrow, _ = pools.top_k_align(torch.tensor([0.9, 0.1, 0.0]), torch.tensor([0.4, 0.3, 0.3]), "cap", k=2)
    assert narrow.amax().item() <= 0.5 + 1e-4  # nobody overtakes; two actions cannot hold it all below 0.4
    ranked, _ = pools.top_k_align(sharp, flat, "rank", k=2)
    close(ranked, [0.5, 0.25, 0.25, 0.0])


def test_intersection_by_hand():
    p, q = torch.tensor([0.5, 0.3, 0.15, 0.05]), torch.tensor([0.05, 0.35, 0.2, 0.4])
    close(pools.top_k_intersect(p, q, 2)[0], [0, 1, 0, 0])
    first, second = pools.top_k_intersect(p, q, 3)
    close(first, [0, 0.3 / 0.45, 0.15 / 0.45, 0])
    close(second, [0, 0.35 / 0.55, 0.2 / 0.55, 0])
    for one in pools.top_k_intersect(p, q, 1):  # nothing is shared: the primary
        close(one, p.tolist())
    close(pools.top_k_intersect(p, q, 1, "union")[0], [0.5 / 0.55, 0, 0, 0.05 / 0.55])
    close(pools.top_k_intersect(p, q, 1, "enlarge")[0], [0, 1, 0, 0])
    close(pools.top_k_intersect(p, q, 1, "unfiltered")[1], q.tolist())


def test_how_often_the_intersection_is_empty():
    """Of two independent policies over 5 actions the top ones differ in 4 of 5 states, and 3 of 5 always meet."""
    p, q = policies(20000, 5, seed=1), policies(20000, 5, seed=2)
    empty = {}
    for k in (1, 2, 3):
        marked = pools.top_k_intersect(p, q, k, "primary")[1]
        empty[k] = (marked == p).all(-1).float().mean().item()
    assert empty[1] == pytest.approx(4 / 5, abs=0.015)
    assert empty[2] == pytest.approx(3 / 10, abs=0.015)  # C(3, 2) / C(5, 2)
    assert empty[3] == 0


def test_tempering_and_calibration():
    p = policies(20000, 4, seed=1, sharp=1.5)
    true = pools.temper(p, 0.4)
    chosen = torch.multinomial(true, 1, generator=torch.Generator().manual_seed(0)).squeeze(-1)
    assert pools.fit_temperature(p, chosen) == pytest.approx(0.4, abs=0.03)
    assert torch.allclose(pools.temper(p, 1.0), p, atol=1e-6)
    assert torch.equal(pools.temper(torch.tensor([0.5, 0.5, 0.0]), 0.2), torch.tensor([0.5, 0.5, 0.0]))


def test_aliases_are_merged():
    padded = torch.tensor([[0.2, 0.3, 0.1, 0.25, 0.15]])  # three messages; 3 and 4 stand for 0
    merged = pools.merge_aliases(padded, torch.tensor([0, 1, 2, 0, 0]))
    close(merged[0], [0.6, 0.3, 0.1, 0, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pools.top_k_align(A, B, "tempr"), "unknown method 'tempr'; nearest: temper"),
        (lambda: pools.top_k_align(A, B, "cap", k=4), r"k must be in 1\.\.3"),
        (lambda: pools.top_k_intersect(A, B, 0), r"k must be in 1\.\.3"),
        (lambda: pools.top_k_intersect(A, B, 1, "none"), "unknown empty"),
        (lambda: pools.linear_pool(THREE, [1.0, 2.0]), "weights must be 3 numbers"),
        (lambda: pools.linear_pool(THREE, [1.0, -2.0, 1.0]), "weights must be 3 numbers"),
        (lambda: pools.best_single(THREE, [1.0]), "scores must have one number"),
        (lambda: pools.boltzmann(THREE, 0.0), "temperature must be positive"),
        (lambda: pools.boltzmann(THREE, 1.0, "sum"), "unknown rule"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
