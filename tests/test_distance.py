"""Policy distance: closed forms against integration, axioms, the bound against an exact model, and the estimator."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from inconcert import distance, tables
from inconcert.config import InputError
from inconcert.distance import ConditionalVAE, Settings, policy_distance, policy_distances

GAUSSIAN = {
    "wasserstein": distance.wasserstein2,
    "bhattacharyya": distance.bhattacharyya,
    "hellinger": distance.hellinger,
}
CATEGORICAL = {
    "total-variation": distance.total_variation,
    "vanilla-bhattacharyya": distance.vanilla_bhattacharyya,
    "vanilla-hellinger": distance.vanilla_hellinger,
}


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def gaussians(count, *shape):
    """Random means and deviations, `count` times `[*shape]`."""
    generator = torch.Generator().manual_seed(0)
    return [
        (2 * torch.randn(shape, generator=generator), torch.rand(shape, generator=generator) * 2 + 0.1)
        for _ in range(count)
    ]


def categoricals(count, *shape):
    generator = torch.Generator().manual_seed(1)
    return [(2 * torch.randn(shape, generator=generator)).softmax(-1) for _ in range(count)]


# ------------------------------------------------------------------------------------------------------- closed forms

PAIRS = [((0.0, 1.0), (0.0, 1.0)), ((0.0, 1.0), (1.5, 1.0)), ((-1.0, 0.5), (0.7, 2.0)), ((0.3, 0.2), (0.3, 1.0))]


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_closed_forms_are_the_integrals(a, b, double):
    p, q = stats.norm(*a), stats.norm(*b)
    quantiles = lambda u: (p.ppf(u) - q.ppf(u)) ** 2  # noqa: E731
    squared = integrate.quad(quantiles, 0, 1, limit=200)[0]
    overlap = integrate.quad(lambda x: math.sqrt(p.pdf(x) * q.pdf(x)), -12, 12, points=[a[0], b[0]])[0]
    arguments = [torch.tensor([x]) for x in (*a, *b)]
    assert distance.wasserstein2(*arguments).item() == pytest.approx(math.sqrt(squared), abs=1e-5)
    assert distance.bhattacharyya(*arguments).item() == pytest.approx(-math.log(overlap), abs=1e-7)
    assert distance.hellinger(*arguments).item() == pytest.approx(math.sqrt(max(0, 1 - overlap)), abs=1e-6)


def test_the_last_axis_is_one_gaussian(double):
    """In two dimensions: the integral over the plane, and the sum of the squares of both axes."""
    a, b = ((0.0, 1.0), (-0.5, 0.4)), ((1.0, 0.7), (0.5, 0.9))  # (mean, deviation) of either axis
    density = lambda x, y, g: stats.norm.pdf(x, *g[0]) * stats.norm.pdf(y, *g[1])  # noqa: E731
    grid = np.linspace(-8, 8, 801)
    x, y = np.meshgrid(grid, grid)
    overlap = np.sqrt(density(x, y, a) * density(x, y, b)).sum() * (grid[1] - grid[0]) ** 2
    (mean_a, std_a), (mean_b, std_b) = (zip(*g, strict=True) for g in (a, b))
    arguments = [torch.tensor(part) for part in (mean_a, std_a, mean_b, std_b)]
    assert distance.bhattacharyya(*arguments).item() == pytest.approx(-math.log(overlap), abs=1e-9)
    assert distance.hellinger(*arguments).item() == pytest.approx(math.sqrt(1 - overlap), abs=1e-9)
    assert distance.wasserstein2(*arguments).item() == pytest.approx(math.sqrt(1 + 1 + 0.3**2 + 0.5**2))


@pytest.mark.parametrize("name", GAUSSIAN)
def test_axioms_of_the_gaussian_distances(name, double):
    """Symmetry, no negative distance, 0 for equals and for equals only; the triangle for all but Bhattacharyya's."""
    d, (a, b, c) = GAUSSIAN[name], gaussians(3, 4000, 3)
    apart = d(*a, *b)
    assert torch.equal(apart, d(*b, *a))
    assert (apart > 0).all()
    assert d(*a, *a).abs().max() < 1e-7
    excess = d(*a, *c) - apart - d(*b, *c)
    if name == "bhattacharyya":
        assert (excess > 1e-6).float().mean() > 0.05
    else:
        assert excess.max() < 1e-12


def test_bhattacharyya_breaks_the_triangle_by_hand():
    one = torch.ones(1)
    near, far = (distance.bhattacharyya(0 * one, one, x * one, one).item() for x in (2, 4))
    assert near == pytest.approx(0.5)
    assert far == pytest.approx(2.0)


@pytest.mark.parametrize("name", CATEGORICAL)
def test_axioms_of_the_categorical_distances(name, double):
    d, (a, b, c) = CATEGORICAL[name], categoricals(3, 4000, 4)
    apart = d(a, b)
    assert torch.equal(apart, d(b, a))
    assert (apart > 0).all()
    assert d(a, a).abs().max() < 1e-7
    excess = d(a, c) - apart - d(b, c)
    if name == "vanilla-bhattacharyya":
        assert (excess > 1e-6).any()
    else:
        assert excess.max() < 1e-12
        assert apart.max() <= 1


def test_total_variation_is_transport_between_different_actions(double):
    """The Wasserstein distance that the paper calls impossible: moving mass to another action costs 1."""
    for p, q in zip(*categoricals(2, 5, 4), strict=True):
        cost = 1 - np.eye(4)
        margins = np.concatenate([np.kron(np.eye(4), np.ones(4)), np.kron(np.ones(4), np.eye(4))])
        best = optimize.linprog(cost.ravel(), A_eq=margins, b_eq=np.concatenate([p, q]))
        assert distance.total_variation(p, q).item() == pytest.approx(best.fun, abs=1e-9)


def test_only_vanilla_bhattacharyya_diverges():
    """Two policies that become ever surer of different actions."""
    logits = torch.tensor([1.0, -1.0])
    found = {name: [d((s * logits).softmax(-1), (-s * logits).softmax(-1)).item() for s in (1, 4, 16, 64)]
             for name, d in CATEGORICAL.items()}  # fmt: skip
    assert found["vanilla-bhattacharyya"] == sorted(found["vanilla-bhattacharyya"])
    assert found["vanilla-bhattacharyya"][-1] == math.inf
    assert found["vanilla-hellinger"][-1] == pytest.approx(1)
    assert found["total-variation"][-1] == pytest.approx(1)


@pytest.mark.parametrize("measure", distance.MEASURES)
def test_all_pairs_are_the_closed_forms(measure):
    (p,), ((mean, std),) = categoricals(1, 6, 4, 5), gaussians(1, 6, 4, 3)
    pairs = distance._all_pairs(measure, p, mean, std)
    assert pairs.shape == (6, 4, 4)
    name = measure.removesuffix("-code")
    for i, j in itertools.product(range(4), range(4)):
        if name in CATEGORICAL:
            expected = CATEGORICAL[name](p[:, i], p[:, j])
        elif name == measure:
            expected = GAUSSIAN[name](mean[:, i], std[:, i], mean[:, j], std[:, j])
        else:  # the mean over latent dimensions; Hellinger's is taken later, of the average
            expected = distance.bhattacharyya(mean[:, i], std[:, i], mean[:, j], std[:, j]) / 3
        torch.testing.assert_close(pairs[:, i, j], expected, atol=1e-3 if "hellinger" in measure else 2e-6, rtol=1e-4)


# -------------------------------------------------------------------------------------------------------- autoencoder


def become_affine(rows, sizes, weight, bias):
    """Make the one network in `rows` the map x -> x weight + bias: relu(x) - relu(-x) = x, in pairs of units."""
    inputs = sizes[0]
    first, *middle, last = tables.layers(rows, sizes)
    rows.zero_()
    eye = torch.eye(inputs)
    first[0][0, :, : 2 * inputs] = torch.cat([eye, -eye], 1)
    for layer, _ in middle:
        layer[0, : 2 * inputs, : 2 * inputs] = torch.eye(2 * inputs)
    last[0][0, : 2 * inputs] = torch.cat([weight, -weight])
    last[1][0, 0] = bias


def linear_gaussian(w, kl_weight):
    """An autoencoder that is an exact model, z ~ N(0, I), c ~ N(z w + b, kl_weight / 2), and log p(c).

    The encoder is the true posterior; it is diagonal because the rows of w are orthogonal.
    """
    latent, features = w.shape
    bias, variance = torch.tensor([0.3, -0.2, 0.5]), kl_weight / 2
    vae = ConditionalVAE(features, 1, features, Settings(latent=latent, hidden=8, kl_weight=kl_weight), [0])
    posterior = 1 / (1 + w.square().sum(1) / variance)  # [Z] variances
    gain = w.T * posterior / variance  # the posterior mean is (c - b) gain
    with torch.no_grad():
        become_affine(
            vae.encoder, vae.encoder_sizes, torch.cat([gain, torch.zeros_like(gain)], 1),
            torch.cat([-bias @ gain, posterior.log()]),
        )  # fmt: skip
        become_affine(vae.decoder, vae.decoder_sizes, torch.cat([w, torch.zeros(1, features)]), bias)
    evidence = torch.distributions.MultivariateNormal(bias, w.T @ w + variance * torch.eye(features)).log_prob
    return vae, evidence


def exact_loss(vae, c):
    """The loss with the mean over the noise exact: a linear decoder needs no more than its first two moments."""
    latent = vae.settings.latent
    points = latent**0.5 * torch.cat([torch.eye(latent), -torch.eye(latent)])  # mean 0, covariance I
    y = torch.zeros(1, len(c), 1)
    return torch.stack([vae.loss(c[None], y, c[None], noise.expand(1, len(c), -1))[0] for noise in points]).mean(0)


def test_the_bound_is_tight_at_the_true_posterior_and_a_bound_elsewhere(double):
    w = torch.tensor([[1.0, 0.5, -0.5], [0.4, -0.8, 0.0]])
    assert w[0] @ w[1] == 0
    vae, evidence = linear_gaussian(w, kl_weight=0.3)
    c = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    bound = distance.evidence_bound(exact_loss(vae, c), 0.3, 3)
    torch.testing.assert_close(bound, evidence(c))
    for change in (0.1, -0.3, 0.7):
        with torch.no_grad():
            _, out = tables.layers(vae.encoder, vae.encoder_sizes)[-1]
            out += change
        worse = distance.evidence_bound(exact_loss(vae, c), 0.3, 3)
        assert (worse < evidence(c) - 1e-3).all()


def test_prior_matching_is_the_divergence(double):
    ((mean, std),) = gaussians(1, 20, 3)
    own, prior = torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(
        distance.prior_matching(mean, std), torch.distributions.kl_divergence(own, prior).sum(-1)
    )


def problem(seeds=1, agents=3, rows=40):
    """Rows for an autoencoder: x, y, target, weight."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(seeds, agents * rows, size, generator=generator) for size in (4, 2))
    return x, y, x[..., :3].tanh() + y[..., :1], torch.ones(seeds, agents * rows)


def test_gradients_by_hand_are_those_of_the_loss(double):
    x, y, target, weight = problem(seeds=2)
    weight[:, ::3] = 0
    weight[:, 1::3] = 2
    vae, noise = ConditionalVAE(4, 2, 3, Settings(kl_weight=0.5), [1, 2]), torch.randn(2, 120, 10)
    expected = (vae.loss(x, y, target, noise) * weight).sum(1)
    expected.sum().backward()
    gradients = vae.encoder.grad.clone(), vae.decoder.grad.clone()
    torch.testing.assert_close(vae.gradients(vae.parts(), x, y, target, noise, weight), expected.detach())
    torch.testing.assert_close(vae.encoder.grad, gradients[0])
    torch.testing.assert_close(vae.decoder.grad, gradients[1])


def test_training_lowers_the_loss_and_reports_it():
    x, y, target, weight = problem(rows=200)
    vae = ConditionalVAE(4, 2, 3, Settings(epochs=30, lr=3e-3), [5])
    noise = torch.randn(1, 600, 10)
    before = vae.loss(x, y, target, noise).mean()
    history = vae.fit(x, y, target, weight)
    assert history.shape == (30, 1)
    assert history[0, 0] == pytest.approx(before.item(), rel=0.35)
    assert vae.loss(x, y, target, noise).mean() < 0.2 * before
    assert history[-1, 0] == pytest.approx(vae.loss(x, y, target, noise).mean().item(), rel=0.2)


def test_rows_of_weight_0_do_not_count():
    x, y, target, weight = problem()
    wrong = target.clone()
    wrong[:, ::3] = 100.0
    weight[:, ::3] = 0
    fitted = []
    for one in (target, wrong):
        vae = ConditionalVAE(4, 2, 3, Settings(epochs=2, batch=32), [5])
        history = vae.fit(x, y, one, weight)
        fitted.append((vae.encoder, vae.decoder, history))
    for one, other in zip(*fitted, strict=True):
        assert torch.equal(one, other)


def test_an_autoencoder_in_company_is_the_one_alone():
    together, alone = (ConditionalVAE(4, 2, 3, Settings(epochs=2), seeds) for seeds in ([1, 2], [2]))
    x, y, target, weight = problem(seeds=2)
    history = together.fit(x, y, target, weight)
    single = alone.fit(x[1:], y[1:], target[1:], weight[1:])
    torch.testing.assert_close(history[:, 1:], single)
    torch.testing.assert_close(together.encoder[1:], alone.encoder, rtol=1e-3, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- distance

QUICK = Settings(epochs=20, lr=3e-3)
GROUPS = (0, 0, 1, 1, 2)


def five_policies(sharpness=4.0):
    """Five policies in three groups, equal within a group; and what they observe. N = 5, M = 60, O = 3, A = 4."""
    generator = torch.Generator().manual_seed(3)
    weights = sharpness * torch.randn(3, 3, 4, generator=generator)[list(GROUPS)]
    obs = torch.randn(5, 60, 3, generator=generator)
    return (lambda o: torch.bmm(o, weights).softmax(-1)), obs, weights


SAME = torch.tensor(GROUPS)[:, None] == torch.tensor(GROUPS)


@pytest.mark.parametrize("measure", distance.MEASURES)
def test_equal_policies_are_near_and_different_ones_far(measure):
    policies, obs, _ = five_policies()
    d = policy_distance(policies, obs, measure, settings=QUICK)
    assert d.shape == (5, 5)
    torch.testing.assert_close(d, d.T)
    within, between = d[SAME], d[~SAME]
    assert within.max() < 1e-5
    assert between.min() > 0.01
    assert between.min() > 100 * within.max()


def test_learnt_wasserstein_goes_along_with_total_variation():
    generator = torch.Generator().manual_seed(0)
    base, other = torch.randn(2, 3, 4, generator=generator)
    weights = torch.stack([base + share * other for share in torch.linspace(0, 3, 8)])
    obs = torch.randn(8, 100, 3, generator=generator)
    d = policy_distances(
        lambda o: torch.bmm(o, weights).softmax(-1), obs, ("wasserstein", "total-variation"), settings=QUICK
    )
    pairs = torch.triu_indices(8, 8, 1)
    corr = torch.corrcoef(torch.stack([d[name][*pairs] for name in ("wasserstein", "total-variation")]))[0, 1]
    assert corr > 0.95


def test_distances_without_an_autoencoder_are_averages_over_all_that_was_observed():
    policies, obs, weights = five_policies()
    obs = obs.clone()
    obs[1, :20] = 0  # a dead agent
    pooled = obs[(obs != 0).any(-1)]
    p = (pooled @ weights).softmax(-1)  # [N, B, A]
    found = policy_distances(policies, obs, distance.DIRECT)
    for name, d in CATEGORICAL.items():
        expected = torch.stack([torch.stack([d(one, two).mean() for two in p]) for one in p])
        torch.testing.assert_close(found[name], expected, atol=2e-6, rtol=1e-5)


def test_pieces_do_not_matter(monkeypatch):
    policies, obs, _ = five_policies()
    whole = policy_distances(policies, obs, distance.MEASURES, settings=QUICK)
    monkeypatch.setattr(distance, "CHUNK", 5000)
    for name, d in policy_distances(policies, obs, distance.MEASURES, settings=QUICK).items():
        torch.testing.assert_close(d, whole[name], atol=1e-5, rtol=1e-4)


def test_a_list_of_policies_is_the_function():
    policies, obs, weights = five_policies()
    separate = [lambda o, w=w: (o @ w).softmax(-1) for w in weights]
    one, two = (policy_distance(p, obs, settings=QUICK) for p in (policies, separate))
    torch.testing.assert_close(one, two)


def test_several_problems_at_once_are_those_alone():
    _, obs, weights = five_policies()
    several = torch.stack([obs, obs.flip(1) + 0.1])
    both = torch.stack([weights, weights.flip(0)])
    found = policy_distance(lambda o: (o @ both[:, :, :]).softmax(-1), several, settings=QUICK, seed=[7, 8])
    assert found.shape == (2, 5, 5)
    for s, seed in enumerate((7, 8)):
        alone = policy_distance(lambda o, s=s: (o @ both[s]).softmax(-1), several[s], settings=QUICK, seed=seed)
        torch.testing.assert_close(found[s], alone, rtol=1e-2, atol=1e-3)


def test_dead_agents_do_not_count():
    """Whatever policies do about observations of zeros only, and how many there are."""
    policies, obs, _ = five_policies()
    padded = torch.cat([obs, torch.zeros(5, 60, 3)], 1)
    torch.testing.assert_close(
        policy_distance(policies, padded, "total-variation"), policy_distance(policies, obs, "total-variation")
    )
    sure = torch.eye(4)[[0, 1, 2, 3, 0]][:, None]  # of different actions: infinitely far apart

    def strange(o):
        return torch.where((o != 0).any(-1, keepdim=True), policies(o), sure)

    for measure in ("total-variation", "vanilla-bhattacharyya", "wasserstein"):
        one, two = (policy_distance(p, padded, measure, settings=QUICK) for p in (policies, strange))
        torch.testing.assert_close(one, two)


def test_actions_that_cannot_be_chosen_do_not_count():
    """Two policies that differ in the odds of the last two actions only."""
    logits = torch.tensor([[0.0, 0.0, 3.0, -3.0], [0.0, 0.0, -3.0, 3.0]])
    policies = lambda o: logits.softmax(-1)[:, None].expand(-1, o.shape[1], -1)  # noqa: E731
    obs, available = torch.ones(2, 50, 3), torch.ones(2, 50, 4, dtype=torch.bool)
    assert policy_distance(policies, obs, "total-variation", available=available)[0, 1] > 0.5
    available[..., 2:] = False
    for measure in ("total-variation", "wasserstein"):
        assert policy_distance(policies, obs, measure, available=available, settings=QUICK)[0, 1] < 1e-6


def test_a_feature_of_the_users_decides_what_counts():
    """Two features of what the policies do: one tells policies 0 and 1 apart, the other 0 and 2."""
    p = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    policies = lambda o: p[:, None].expand(-1, o.shape[1], -1)  # noqa: E731
    obs = torch.rand(3, 400, 2, generator=torch.Generator().manual_seed(0)) + 0.1
    settings = Settings(epochs=60, lr=3e-3, kl_weight=0.1)
    for alone, (i, j) in ((1, (0, 2)), (2, (0, 1))):
        feature = torch.zeros(3, 400, 1)
        feature[alone] = 2.0
        d = policy_distance(policies, obs, feature=feature, settings=settings)
        assert d[i, j] < 0.5 * d[i, alone]
        assert d[i, j] < 0.5 * d[j, alone]
    plain = policy_distance(policies, obs, "total-variation")
    assert plain[0, 1] == plain[0, 2]


def test_fewer_rows_are_an_estimate():
    policies, obs, _ = five_policies()
    whole = policy_distance(policies, obs, "total-variation")
    part = policy_distance(policies, obs, "total-variation", settings=Settings(rows=100))
    other = policy_distance(policies, obs, "total-variation", settings=Settings(rows=100), seed=1)
    assert not torch.equal(part, other)
    assert (part - whole).abs().max() < 0.1
    more = policy_distance(policies, obs, "total-variation", settings=Settings(rows=10**6))
    assert torch.equal(more, whole)


def test_the_authors_scale():
    policies, obs, _ = five_policies()
    found = policy_distances(policies, obs, distance.LEARNT, settings=QUICK)
    torch.testing.assert_close(found["bhattacharyya-code"], found["bhattacharyya"] / 10)
    torch.testing.assert_close(
        found["hellinger-code"], (1 - (-found["bhattacharyya-code"]).exp()).clamp(min=0).sqrt(), atol=1e-3, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measure": "wasserstien"}, "nearest: wasserstein"),
        ({"observations": torch.ones(5, 3)}, r"observations must be \[N, M, O\]"),
        ({"observations": torch.zeros(5, 60, 3)}, "anything but zeros"),
        ({"policies": [lambda o: o]}, "1 policies, but observations of 5"),
        ({"policies": lambda o: o}, "must give probabilities"),
        ({"policies": lambda o: torch.ones(5, o.shape[1], 4)}, "must give probabilities"),
        ({"available": torch.ones(5, 60, 7, dtype=torch.bool)}, "available is of 7 actions, the policies have 4"),
        ({"available": torch.ones(5, 61, 4, dtype=torch.bool)}, "available must go with"),
        ({"feature": torch.ones(5, 60)}, "feature must go with"),
        ({"seed": [1, 2]}, r"\[S, N, M, O\]"),
    ],
)
def test_errors(change, message):
    policies, obs, _ = five_policies()
    arguments = {"policies": policies, "observations": obs, "measure": "total-variation", **change}
    with pytest.raises(InputError, match=message) as caught:
        policy_distance(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"latent": 0}, {"epochs": 0}, {"kl_weight": 0.0}, {"lr": -1.0}, {"rows": -1}])
def test_settings_that_make_no_sense(change):
    with pytest.raises(InputError):
        Settings(**change)
