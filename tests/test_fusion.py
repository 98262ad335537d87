"""The Kalman filter of policies against closed forms, its own matrix form, and hand-computed cases."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inconcert.config import InputError
from inconcert.fusion import KalmanFusion, choose, gain_at, roles, settled_start, steady_gain
from inconcert.pools import critical_gain


def policies(*shape, seed=0, sharp=1.0):
    """Random probabilities `[..., A]`."""
    return (sharp * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).softmax(-1)


def covariance(size, seed=0):
    """A random positive definite matrix."""
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
    return root @ root.mT / size + 0.1 * torch.eye(size)


def run(fusion, steps, slots=2, agents=3, seed=0, ended_every=None, available=None, several=None):
    """Gains of the first auxiliary `[T]` (all slots and agents agree) and the fused probabilities of all steps."""
    state = fusion.init(slots, agents)
    gains, fused = [], []
    shape = (slots, agents, fusion.num_actions)
    for t in range(steps):
        auxiliary = policies(*(shape if several is None else (several, *shape)), seed=2 * t + 1 + seed)
        one, state = fusion(policies(*shape, seed=2 * t + seed), auxiliary, state, available)
        fused.append(one)
        gain = state.gain[0].flatten(2).amax(-1) if fusion.full else state.gain[0]
        assert torch.allclose(gain, gain[0, 0].expand_as(gain), rtol=1e-4)
        gains.append(gain[0, 0].item())
        if ended_every and (t + 1) % ended_every == 0:
            state = fusion.end_episode(state, torch.ones(slots, dtype=torch.bool))
    return gains, torch.stack(fused)


# ------------------------------------------------------------------------------------------------------- the gain


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("actions", "r2", "initial"), [(2, 1.0, 1.0), (5, 1.2125, 1.0), (17, 0.7, 2.5)])
def test_isotropic_gain_is_a_clock(full, actions, r2, initial):
    """Nothing that is observed moves the gain: k_t = 1 / (1 + t + r / s)."""
    gains, _ = run(KalmanFusion(actions, r2, initial=initial, full=full), 60)
    assert gains == pytest.approx([gain_at(t, r2, initial) for t in range(60)], rel=1e-5)
    assert gains[:3] == pytest.approx(
        [initial / (initial + r2), initial / (2 * initial + r2), initial / (3 * initial + r2)], rel=1e-5
    )


OPTIONS = [
    {}, {"process_noise": 0.01}, {"process_noise": 0.1, "noise_scale": "std"},
    {"process_noise": 0.01, "noise_reading": "after"}, {"process_noise": 0.05, "noise_reading": "obs"},
    {"process_noise": 0.05, "noise_reading": "episode", "alpha": 0.3}, {"alpha": 0.4}, {"update_budget": 3},
    {"update_budget": 2, "budget_scope": "episode"}, {"update_budget": 1, "budget_reading": "episodes"},
    {"update_budget": 3, "budget_reading": "inner"}, {"update_budget": 4, "budget_reading": "period"},
    {"covariance": "trace"}, {"covariance": "entropy"}, {"covariance": "innovation"}, {"covariance": "disagreement"},
    {"space": "logit"},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_one_number_equals_the_matrix(options):
    """The fast path is the matrix form of an isotropic covariance, to 1e-5, over three episodes of seven steps."""
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    mask[..., 4] = False
    shape, states = (2, 3, 5), []
    filters = [KalmanFusion(5, 1.3, full=full, **options) for full in (False, True)]
    states = [one.init(2, 3) for one in filters]
    for t in range(21):
        p, q = (torch.where(mask, policies(*shape, seed=2 * t + i), 0.0) for i in (0, 1))
        p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
        results = [one(p, q, state, mask) for one, state in zip(filters, states, strict=True)]
        assert torch.allclose(results[0][0], results[1][0], atol=1e-5), t
        states = [state for _, state in results]
        if t % 7 == 6:
            ended = torch.tensor([True, t == 13])
            states = [one.end_episode(state, ended) for one, state in zip(filters, states, strict=True)]


def test_alpha_forgets_or_carries_over():
    forgets, _ = run(KalmanFusion(5, 1.2, alpha=1.0), 30, ended_every=10)
    assert forgets == pytest.approx([gain_at(t % 10, 1.2) for t in range(30)], rel=1e-5)
    carries, _ = run(KalmanFusion(5, 1.2, alpha=0.0), 30, ended_every=10)
    assert carries == pytest.approx([gain_at(t, 1.2) for t in range(30)], rel=1e-5)


def test_alpha_settles_at_the_fixed_point():
    fusion = KalmanFusion(5, 1.35, alpha=0.3)
    gains, _ = run(fusion, 60 * 30, slots=1, agents=1, ended_every=60)
    start = settled_start(0.3, 1.35, 60)
    assert gains[-60] == pytest.approx(gain_at(0, 1.35, start), rel=1e-3)
    assert gains[-60] == pytest.approx(0.19, abs=0.005)


@pytest.mark.parametrize(("noise", "expected"), [(0.001, 0.028), (0.004, 0.056), (0.008, 0.078), (0.01, 0.087)])
def test_process_noise_keeps_the_filter_open(noise, expected):
    gains, _ = run(KalmanFusion(5, 1.2125, process_noise=noise), 400, slots=1, agents=1)
    assert gains[-1] == pytest.approx(steady_gain(noise, 1.2125), rel=1e-3)
    assert gains[-1] == pytest.approx(expected, abs=6e-4)


def test_update_budget_zero_is_a_constant_weight():
    gains, fused = run(KalmanFusion(5, 1.2, update_budget=0, clip=0.0), 20)
    assert gains == pytest.approx([1 / 2.2] * 20, rel=1e-5)
    due = torch.lerp(policies(2, 3, 5, seed=38), policies(2, 3, 5, seed=39), 1 / 2.2)
    assert torch.allclose(fused[19], due, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "updates"),
    [
        ({"update_budget": 4}, [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4]),
        ({"update_budget": 1, "budget_reading": "episodes"}, [0, 1, 2, 3, 4, 5, 6, 6, 6, 6, 6, 6]),
        ({"update_budget": 3, "budget_reading": "period"}, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]),
        ({"update_budget": 2, "budget_scope": "episode"}, [0, 1, 2, 2, 2, 2, 2, 3, 4, 4, 4, 4]),
    ],
)
def test_readings_of_the_budget(options, updates):
    """How many updates lie behind each step of two episodes of six steps."""
    gains, _ = run(KalmanFusion(5, 1.2, **options), 12, ended_every=6)
    assert gains == pytest.approx([gain_at(n, 1.2) for n in updates], rel=1e-5)


@pytest.mark.parametrize("rounds", [1, 2, 5, 20])
def test_inner_rounds_move_the_weight_to_the_auxiliary(rounds):
    fusion = KalmanFusion(5, 1.2, update_budget=rounds, budget_reading="inner", clip=0.0)
    _, fused = run(fusion, 3)
    due = torch.lerp(policies(2, 3, 5, seed=4), policies(2, 3, 5, seed=5), rounds / (rounds + 1.2))
    assert torch.allclose(fused[2], due, atol=1e-5)


# ------------------------------------------------------------------------------------------------ what comes out


@settings(max_examples=60, deadline=None)
@given(
    actions=st.integers(2, 12),
    seed=st.integers(0, 2**20),
    sharp=st.sampled_from([0.1, 1.0, 8.0]),
    kind=st.sampled_from(["constant", "multinomial", "dirichlet", "trace", "entropy", "innovation", "disagreement"]),
    space=st.sampled_from(["probability", "logit"]),
)
def test_result_is_a_distribution_that_obeys_the_mask(actions, seed, sharp, kind, space):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(2, 3, actions, generator=generator) < 0.6
    mask[..., 0] |= ~mask.any(-1)
    p, q = (torch.where(mask, policies(2, 3, actions, seed=seed + i, sharp=sharp), 0.0) for i in (1, 2))
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    counts = (10.0, 5.0) if kind == "dirichlet" else ()
    fusion = KalmanFusion(actions, 1.2, covariance=kind, counts=counts, space=space, clip=0.5 / actions)
    state = fusion.init(2, 3)
    for _ in range(3):
        fused, state = fusion(p, q, state, mask)
        assert torch.allclose(fused.sum(-1), torch.ones(2, 3), atol=1e-5)
        assert (fused >= 0).all()
        assert not fused[~mask].any()
        uniform = torch.rand(2, 3, generator=generator)
        for action in (choose(fused), choose(fused, uniform)):
            assert mask.gather(-1, action.unsqueeze(-1)).all()


@pytest.mark.parametrize("kind", ["constant", "multinomial", "trace", "entropy"])
def test_identical_policies_stay_as_they_are(kind):
    p = policies(4, 2, 6, seed=3)
    fusion = KalmanFusion(6, 1.2, covariance=kind, clip=0.0)
    fused, _ = fusion(p, p, fusion.init(4, 2))
    assert torch.allclose(fused, p, atol=1e-5)


@pytest.mark.parametrize("kind", ["constant", "multinomial", "trace"])
def test_relabelled_actions_give_relabelled_results(kind):
    p, q = policies(4, 2, 6, seed=3), policies(4, 2, 6, seed=4)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    fusion = KalmanFusion(6, 1.2, covariance=kind)
    straight, _ = fusion(p, q, fusion.init(4, 2))
    relabelled, _ = fusion(p[..., order], q[..., order], fusion.init(4, 2))
    assert torch.allclose(straight[..., order], relabelled, atol=1e-5)


def test_clipping_below_one_over_a_keeps_the_best_action():
    p, q = policies(200, 1, 8, seed=1, sharp=4.0), policies(200, 1, 8, seed=2, sharp=4.0)
    plain, clipped = (KalmanFusion(8, 1.0, clip=clip) for clip in (0.0, 0.9 / 8))
    one, _ = plain(p, q, plain.init(200, 1))
    other, _ = clipped(p, q, clipped.init(200, 1))
    assert torch.equal(one.argmax(-1), other.argmax(-1))
    with pytest.raises(InputError, match="clip must be in"):
        KalmanFusion(8, 1.0, clip=1 / 8)


def test_clip_by_hand():
    """Eq 8 with the mask after it: (0.7, 0.3, 0, 0, 0) with gamma 0.01 and two actions available."""
    fusion = KalmanFusion(5, 1.0, clip=0.01)
    p = torch.tensor([[[0.7, 0.3, 0.0, 0.0, 0.0]]])
    masked, _ = fusion(p, p, fusion.init(1, 1), p > 0)
    assert masked[0, 0].tolist() == pytest.approx([0.7, 0.3, 0, 0, 0])
    free, _ = fusion(p, p, fusion.init(1, 1))
    assert free[0, 0].tolist() == pytest.approx([0.7 / 1.03, 0.3 / 1.03] + [0.01 / 1.03] * 3)


def test_the_critical_gain_decides_when_the_action_changes():
    p, q = policies(3000, 1, 7, seed=1, sharp=2.0), policies(3000, 1, 7, seed=2, sharp=2.0)
    critical = critical_gain(p, q)
    for k in (0.05, 0.2, 0.45, 0.8):
        fusion = KalmanFusion(7, (1 - k) / k, update_budget=0, ridge=0.0, clip=0.0)
        fused, _ = fusion(p, q, fusion.init(3000, 1))
        far = (critical - k).abs() > 1e-4
        assert torch.equal((fused.argmax(-1) != p.argmax(-1))[far], (critical < k)[far])


# ---------------------------------------------------------------------------------------------- covariances, many


def test_joseph_keeps_covariances_positive():
    """A random Sigma_0 and Sigma_init, 200 steps: symmetric and positive semi-definite throughout, and shrinking."""
    fusion = KalmanFusion(6, covariance(6, 1), initial=covariance(6, 2), process_noise=1e-4)
    state = fusion.init(1, 2)
    before = state.covariance
    for t in range(200):
        _, state = fusion(policies(1, 2, 6, seed=t), policies(1, 2, 6, seed=t + 1), state)
        assert torch.equal(state.covariance, state.covariance.mT)
        assert torch.linalg.eigvalsh(state.covariance).min() > -1e-6
    assert torch.linalg.eigvalsh(before[0, 0] - state.covariance[0, 0]).min() > 0


def test_general_gain_by_hand():
    """Eqs 3 to 5 with the inverse written out, for a covariance that is not a multiple of the identity."""
    prior, noise = covariance(4, 1), covariance(4, 2)
    fusion = KalmanFusion(4, noise, initial=prior, clip=0.0, ridge=1e-6)
    p, q = policies(1, 1, 4, seed=1), policies(1, 1, 4, seed=2)
    fused, state = fusion(p, q, fusion.init(1, 1))
    gain = prior @ torch.linalg.inv(prior + noise + 1e-6 * torch.eye(4))
    rest = torch.eye(4) - gain
    assert torch.allclose(state.gain[0, 0, 0], gain, atol=1e-5)
    assert not torch.allclose(gain, gain.mT, atol=1e-3)
    assert torch.allclose(state.covariance[0, 0], rest @ prior @ rest.mT + gain @ noise @ gain.mT, atol=1e-5)
    mixed = (p[0, 0] + gain @ (q - p)[0, 0]).clamp(0, 1)
    assert torch.allclose(fused[0, 0], mixed / mixed.sum(), atol=1e-5)


def test_multinomial_gain_keeps_the_sum():
    fusion = KalmanFusion(6, 1.0, covariance="multinomial")
    p, q = policies(50, 1, 6, seed=1), policies(50, 1, 6, seed=2)
    _, state = fusion(p, q, fusion.init(50, 1))
    shift = (state.gain[0] @ (q - p).unsqueeze(-1)).squeeze(-1)
    assert shift.sum(-1).abs().max() < 1e-4
    assert shift.abs().max() > 0.01


def test_sharper_policy_weighs_more():
    flat, sharp = torch.full((1, 1, 4), 0.25), torch.tensor([[[0.97, 0.01, 0.01, 0.01]]])
    for kind in ("trace", "entropy"):
        fusion = KalmanFusion(4, 1.0, covariance=kind)
        assert fusion(flat, sharp, fusion.init(1, 1))[1].gain.item() > 0.8
        assert fusion(sharp, flat, fusion.init(1, 1))[1].gain.item() < 0.2
    trace = KalmanFusion(4, 1.0, covariance="trace", ridge=0.0)
    v1, v2 = 1 - 0.25, 1 - (0.97**2 + 3e-4)
    assert trace(flat, sharp, trace.init(1, 1))[1].gain.item() == pytest.approx(v1 / (v1 + v2))


@pytest.mark.parametrize("matrices", [False, True])
def test_several_auxiliaries_in_any_order_and_form(matrices):
    p, others = policies(2, 3, 5, seed=0), policies(3, 2, 3, 5, seed=1)
    noises = [covariance(5, i) for i in range(3)] if matrices else [0.7, 1.3, 2.1]
    results = []
    for form, order in itertools.product(("sequential", "batch", "pairwise_tree"), itertools.permutations(range(3))):
        chosen = [noises[i] for i in order]
        fusion = KalmanFusion(
            5, torch.stack(chosen) if matrices else chosen, assimilation=form, ridge=0.0, clip=0.0, process_noise=0.01
        )
        state = fusion.init(2, 3)
        for _ in range(3):
            fused, state = fusion(p, others[list(order)], state)
        results.append(fused)
    assert all(torch.allclose(one, results[0], atol=2e-5) for one in results)
    if not matrices:  # precision weights, by hand, at the third step
        fusion = KalmanFusion(5, noises, ridge=0.0, clip=0.0)
        fused, _ = fusion(p, others, fusion.init(2, 3))
        weights = torch.tensor([1.0, *(1 / r for r in noises)])
        mixed = (weights.view(-1, 1, 1, 1) / weights.sum() * torch.cat([p.unsqueeze(0), others])).sum(0)
        assert torch.allclose(fused, mixed, atol=1e-6)


def test_slots_and_agents_have_filters_of_their_own():
    fusion = KalmanFusion(5, 1.2, alpha=0.5)
    together = fusion.init(3, 2)
    alone = [fusion.init(1, 2) for _ in range(3)]
    ends = [(4,), (2, 5), ()]
    for t in range(8):
        p, q = policies(3, 2, 5, seed=2 * t), policies(3, 2, 5, seed=2 * t + 1)
        fused, together = fusion(p, q, together)
        together = fusion.end_episode(together, torch.tensor([t in when for when in ends]))
        for slot in range(3):
            one, alone[slot] = fusion(p[slot : slot + 1], q[slot : slot + 1], alone[slot])
            alone[slot] = fusion.end_episode(alone[slot], torch.tensor([t in ends[slot]]))
            assert torch.equal(one[0], fused[slot])
    assert len({value.item() for value in together.covariance[:, 0]}) == 3


def test_dead_agents_may_be_skipped():
    mask = torch.ones(1, 2, 3, dtype=torch.bool)
    mask[0, 1, 1:] = False
    p = torch.tensor([[[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]]])
    for skip in (False, True):
        fusion = KalmanFusion(3, 1.0, skip_single=skip)
        _, state = fusion(p, p, fusion.init(1, 2), mask)
        assert (state.covariance[0, 1] < 0.9).item() is not skip
        assert state.covariance[0, 0] < 0.9


def test_action_noise_needs_and_uses_its_draws():
    p = torch.full((1, 1, 4), 0.25)
    fusion = KalmanFusion(4, 1.0, process_noise=0.1, noise_reading="action")
    normal = torch.tensor([[[1.0, -1.0, 0.0, 0.0]]])
    fused, _ = fusion(p, p, fusion.init(1, 1), normal=normal)
    assert fused[0, 0].tolist() == pytest.approx([0.35, 0.15, 0.25, 0.25])
    with pytest.raises(InputError, match="normal"):
        fusion(p, p, fusion.init(1, 1))
    plain = KalmanFusion(4, 1.0)
    with pytest.raises(InputError, match="normal"):
        plain(p, p, plain.init(1, 1), normal=normal)


# ------------------------------------------------------------------------------------------------ roles and errors


def test_roles_of_the_printed_pair():
    """0.97/0.80 of Table 4: 1.2125 whichever way it is read, but not for the same primary."""
    assert roles((0.97, 0.80)) == (0, pytest.approx(1.2125), 1.0)
    assert roles((0.80, 0.97)) == (1, pytest.approx(1.2125), 1.0)
    assert roles((0.97, 0.80), "literal_caption") == (1, pytest.approx(1.2125), 1.0)
    assert roles((0.97, 0.80), "inverse") == (1, pytest.approx(0.8247, abs=1e-4), 1.0)
    assert roles((0.97, 0.80), "two_sided") == (0, pytest.approx(0.20), pytest.approx(0.03))
    with pytest.raises(InputError, match="unknown reading of the roles 'ratoi'; nearest: ratio"):
        roles((0.9, 0.8), "ratoi")
    with pytest.raises(InputError, match="win rates"):
        roles((0.0, 0.8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"covariance": "multinomal"}, "unknown covariance 'multinomal'; nearest: multinomial"),
        ({"noise_reading": "predicted"}, "unknown noise_reading"),
        ({"alpha": 1.5}, "alpha must be in"),
        ({"process_noise": -0.1}, "must not be negative"),
        ({"budget_reading": "inner"}, "needs an update_budget"),
        ({"budget_reading": "period", "update_budget": 0}, "at least 1"),
        ({"r2": -1.0}, "r2 must be a finite number"),
        ({"r2": torch.tensor([[1.0, 2.0], [0.0, 1.0]])}, r"\[A, A\] with A = 5"),
        ({"r2": -torch.eye(5)}, "positive semi-definite"),
        ({"initial": torch.eye(5), "covariance": "trace"}, "isotropic"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        KalmanFusion(5, **options)


def test_bad_shapes_are_named():
    fusion = KalmanFusion(5, [1.0, 2.0])
    p = policies(2, 3, 5)
    with pytest.raises(InputError, match="one r2 for each"):
        fusion(p, p, fusion.init(2, 3))
    with pytest.raises(InputError, match="primary must be"):
        fusion(p[:1], torch.stack([p, p]), fusion.init(2, 3))
    with pytest.raises(InputError, match="available must be"):
        fusion(p, torch.stack([p, p]), fusion.init(2, 3), torch.ones(2, 3, 4, dtype=torch.bool))
