"""HATRPO: its linear algebra against dense matrices, the trust region, the turns, the contracts of all algorithms."""

import pytest
import torch
from common import EASY, TINY, check_company, check_gradients_flow, check_it_learns, check_resume, trained

from inconcert import envs, onpolicy, stacked
from inconcert.algorithms import hatrpo
from inconcert.config import InputError
from inconcert.envs import mpe_players
from inconcert.evaluate import masked_log_softmax

SIZES = {"hidden": 16, "critic_hidden": 16}
DIVERGENCES = ["harl", "exact"]


def config(**changes):
    return hatrpo.Config(**{**TINY, **SIZES, **changes})


def played(cfg):
    """A learner and a rollout of its, with advantages."""
    env = envs.make(cfg.task, cfg.num_envs, cfg.seeds, "cpu", **cfg.env_options)
    learner = hatrpo.Learner(cfg, env.spec, "cpu")
    for group, rate in zip(learner.optimiser.param_groups, learner.rates, strict=True):
        group["lr"] = rate
    start = torch.ones(len(cfg.seeds), cfg.num_envs, dtype=torch.bool)
    now = {"step": env.reset(), "start": start, **learner.memories(cfg.num_envs)}
    return learner, onpolicy.collect(learner, env, now, 0)


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# --------------------------------------------------------------------------------------------------- the divergence


def test_divergence_by_hand():
    """Two actions of three available: probabilities (1/4, 3/4) become (1/2, 1/2), and a state that stays."""
    old = torch.tensor([[[0.25, 0.75, 0.0], [0.3, 0.3, 0.4]]]).log()
    new = torch.tensor([[[0.5, 0.5, 0.0], [0.3, 0.3, 0.4]]]).log()
    exact = 0.25 * torch.tensor(0.5).log() + 0.75 * torch.tensor(1.5).log()
    harl = (2 - 1 - torch.tensor(2.0).log()) + (2 / 3 - 1 - torch.tensor(2 / 3).log())
    torch.testing.assert_close(hatrpo.divergence(old, new, "exact"), exact.view(1) / 2)
    torch.testing.assert_close(hatrpo.divergence(old, new, "harl"), harl.view(1) / 2)


@pytest.mark.parametrize(("sharpness", "least", "most"), [(0.0, 4.9, 5.1), (5.0, 10.0, 1e4)])
def test_harls_divergence_is_a_multiple_of_the_exact_one(double, sharpness, least, most):
    """For small changes A-fold where the policy is uniform, and far more where it is peaked."""
    torch.manual_seed(0)
    logits = sharpness * torch.randn(1, 2000, 5)
    old, new = logits.log_softmax(-1), (logits + 1e-3 * torch.randn(1, 2000, 5)).log_softmax(-1)
    multiple = hatrpo.divergence(old, new, "harl") / hatrpo.divergence(old, new, "exact")
    assert least < multiple.item() < most


# ------------------------------------------------------------------------------------------------ the linear algebra


def small_policy():
    """A stack of two actors with layer norm, some rows to judge, and which actions those allow."""
    torch.manual_seed(1)
    network = hatrpo.happo.Network(4, 3, 5, "mlp", stacked.generators((0, 1)), 1.0, layer_norm=True)
    obs, available = torch.randn(2, 1, 7, 4), torch.ones(2, 1, 7, 3, dtype=torch.bool)
    available[:, :, ::3, 2] = False

    def log_probs():
        return masked_log_softmax(network(obs, obs.new_zeros(2, 7, 0), available[..., 0]), available)

    return network, log_probs


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_products_are_those_of_the_dense_hessian(double, kind):
    """The Hessian of the divergence itself, entry by entry, by differentiating it twice."""
    network, log_probs = small_policy()
    parameters = list(network.parameters())
    old = log_probs()
    product = hatrpo.fisher(old, parameters, kind)
    first = torch.autograd.grad(hatrpo.divergence(old.detach(), log_probs(), kind).sum(), parameters, create_graph=True)
    slopes = hatrpo.flatten(first)  # [S, P]
    torch.testing.assert_close(slopes, torch.zeros_like(slopes), atol=1e-12, rtol=0)
    size = slopes.shape[1]
    hessian = torch.stack([
        hatrpo.flatten(torch.autograd.grad(slopes[:, i].sum(), parameters, retain_graph=True)) for i in range(size)
    ], dim=1)  # fmt: skip
    assert hessian.abs().amax() > 0.1
    torch.testing.assert_close(hessian, hessian.transpose(1, 2))
    for _ in range(3):
        v = torch.randn(2, size)
        torch.testing.assert_close(product(v), torch.einsum("spq,sq->sp", hessian, v))


def test_conjugate_gradient_solves_each_seeds_system(double):
    """A seed that is done waits, untouched, for the others; a seed without a gradient stays at 0."""
    torch.manual_seed(2)
    root = torch.randn(4, 6, 6)
    matrix = root @ root.transpose(1, 2) + 0.5 * torch.eye(6)
    matrix[2] = torch.eye(6)  # solved by the first iteration
    b = torch.randn(4, 6)
    b[3] = 0

    def product(v):
        return torch.einsum("spq,sq->sp", matrix, v)

    torch.testing.assert_close(hatrpo.conjugate_gradient(product, b, 50, 1e-24), torch.linalg.solve(matrix, b))
    once = hatrpo.conjugate_gradient(product, b, 1)
    length = (b * b).sum(1) / (b * product(b)).sum(1)
    torch.testing.assert_close(once[:3], (length.unsqueeze(1) * b)[:3])
    assert torch.equal(once[3], torch.zeros(6))


def test_parameters_come_back_from_their_vectors():
    network, _ = small_policy()
    parameters = list(network.parameters())
    vector = hatrpo.flatten(parameters)
    assert vector.shape == (2, sum(p[0].numel() for p in parameters))
    for part, parameter in zip(hatrpo.unflatten(vector, parameters), parameters, strict=True):
        assert torch.equal(part, parameter)
    with torch.no_grad():
        parameters[3][1] += 1  # of the second seed alone
    assert torch.equal(hatrpo.flatten(parameters)[0], vector[0])
    assert not torch.equal(hatrpo.flatten(parameters)[1], vector[1])


# --------------------------------------------------------------------------------------------------- the line search


def test_line_search_takes_the_longest_step_that_keeps_its_promise():
    """Five seeds: accepted at once, too far at first, too little growth at first, never enough, downhill."""
    cfg = config(max_kl=0.01, backtrack=0.5, accept=0.5, search_steps=3)
    promise = torch.full((5,), 2.0)
    tries = []

    def judge(fraction):
        tries.append(fraction)
        distance = torch.tensor([0.009, 0.03, 0.0, 0.0, 0.0]) * fraction
        share = torch.tensor([0.9, 0.9, 0.4, 0.2, -1.0])  # of what is promised
        share[2] = torch.where(fraction[2] < 0.9, 0.8, share[2])
        return share * fraction * promise, distance

    fraction, growth, moved = hatrpo.line_search(judge, promise, cfg)
    assert fraction.tolist() == [1.0, 0.25, 0.5, 0.0, 0.0]
    torch.testing.assert_close(growth, torch.tensor([1.8, 0.45, 0.8, 0.0, 0.0]))
    torch.testing.assert_close(moved, torch.tensor([0.009, 0.0075, 0.0, 0.0, 0.0]))
    assert [one[0].item() for one in tries] == [1.0, 0.5, 0.25]


def test_line_search_stops_when_every_seed_is_served():
    tries = []

    def judge(fraction):
        tries.append(fraction)
        return fraction, torch.zeros(2)

    hatrpo.line_search(judge, torch.ones(2), config())
    assert len(tries) == 1


# -------------------------------------------------------------------------------------------------------- the update


def every_policy(learner, data):
    """Log-probabilities `[S, T, E, N, A]` of all actors on a rollout."""
    with torch.no_grad():
        return learner.actors.log_probs(data["obs"], data["available"], data["actor_memory"][:, 0], data["start"])


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_steps_stay_within_the_bound_and_come_close_to_it(kind):
    cfg = config(kl=kind, max_kl=0.003, num_envs=16)
    learner, data = played(cfg)
    before = every_policy(learner, data)
    signs = learner.learn(data, 1)
    after = every_policy(learner, data)
    for agent in range(3):
        moved = hatrpo.divergence(before[..., agent, :], after[..., agent, :], kind)
        assert (moved < cfg.max_kl).all()
        assert (moved > cfg.max_kl / 10).all()
    assert (signs["accepted"] == 1).all()
    assert (signs["surrogate_growth"] > 0).all()
    mean = torch.stack([hatrpo.divergence(before[..., n, :], after[..., n, :], kind) for n in range(3)]).mean(0)
    torch.testing.assert_close(signs["divergence"], mean, rtol=1e-3, atol=1e-7)


def test_a_rejected_step_leaves_the_agent_bit_for_bit():
    """Nothing can be accepted that must grow 1e9 times as much as its gradient promises."""
    cfg = config(accept=0.999)
    learner, data = played(cfg)
    data["advantage"] = torch.zeros_like(data["advantage"])  # no gradient, no growth
    before = {name: value.clone() for name, value in learner.actors.network.state_dict().items()}
    signs = learner.learn(data, 1)
    assert all(torch.equal(value, before[name]) for name, value in learner.actors.network.state_dict().items())
    assert signs["accepted"].tolist() == [0.0, 0.0]
    assert all(torch.isfinite(value).all() for value in signs.values())


def test_the_full_step_has_the_length_that_the_model_allows(double):
    """Literally, with the dense matrix: gradient, solve, sqrt(2 max_kl / curvature); bound and promise let it pass."""
    cfg = config(
        seeds=(3,), task="coordsum/2x3-4", hidden=4, damping=0.1, cg_steps=200, cg_tolerance=1e-26, accept=1e-9,
        layer_norm=False, max_kl=1e-6,
    )  # fmt: skip
    learner, data = played(cfg)
    turn = torch.tensor([1])
    own, factor = learner.select(data, turn), torch.rand(1, *data["log_prob"].shape[1:3]) + 0.5
    learner.load(turn)
    actor = list(learner.turn.parameters())
    origin = hatrpo.flatten(actor).detach()
    log_probs = learner.log_probs(own)
    advantage = own["advantage"]
    advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
    chosen = log_probs.gather(-1, own["action"].unsqueeze(-1)).squeeze(-1)
    objective = ((chosen - own["log_prob"]).exp() * factor * advantage).mean()
    gradient = hatrpo.flatten(torch.autograd.grad(objective, actor, retain_graph=True))[0]
    jacobian = torch.stack([
        hatrpo.flatten(torch.autograd.grad(one, actor, retain_graph=True))[0] for one in log_probs.flatten()
    ])  # fmt: skip
    matrix = jacobian.T @ jacobian / log_probs[..., 0].numel() + 0.1 * torch.eye(len(gradient))
    direction = torch.linalg.solve(matrix, gradient)
    step = (2 * cfg.max_kl / (direction @ matrix @ direction)).sqrt() * direction
    ratio, signs = learner.improve(own, factor, turn)
    assert signs["step_fraction"].item() == 1
    new = torch.cat([stack[1:2].flatten(1) for stack in learner.actors.network.parameters()], dim=1)
    torch.testing.assert_close(new - origin, step.unsqueeze(0), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(signs["surrogate_growth"], (gradient @ step).view(1), rtol=1e-2, atol=0)
    after = every_policy(learner, data)[..., 1, :].gather(-1, own["action"].unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(ratio, (after - own["log_prob"]).exp())


def test_the_factor_is_the_product_of_the_ratios_of_those_before(monkeypatch):
    cfg = config(max_kl=0.05)
    learner, data = played(cfg)
    before, seen, improve = every_policy(learner, data), [], hatrpo.Learner.improve

    def spy(self, own, factor, turn):
        seen.append((turn, factor))
        return improve(self, own, factor, turn)

    monkeypatch.setattr(hatrpo.Learner, "improve", spy)
    learner.learn(data, 1)
    change = every_policy(learner, data) - before
    ratios = change.gather(-1, data["action"].unsqueeze(-1)).squeeze(-1).exp()  # [S, T, E, N]
    order = torch.stack([turn for turn, _ in seen], dim=1)
    assert torch.equal(order, stacked.permutations(cfg.seeds, "agents", 1, 1, 3)[:, 0])
    assert torch.equal(seen[0][1], torch.ones_like(ratios[..., 0]))
    for seed in range(2):
        first, second, _ = order[seed]
        torch.testing.assert_close(seen[1][1][seed], ratios[seed, ..., first])
        torch.testing.assert_close(seen[2][1][seed], ratios[seed, ..., first] * ratios[seed, ..., second])
    assert (seen[2][1] - 1).abs().max() > 0.01


def test_a_thinned_fisher_matrix_takes_every_nth_row():
    own = {"obs": torch.arange(24.0).view(1, 4, 3, 2), "start": torch.arange(12).view(1, 4, 3)}
    thin = hatrpo.thinned(own, 5)
    assert thin["start"].tolist() == [[[0, 5, 10]]]
    assert thin["obs"][..., 0].tolist() == [[[0.0, 10.0, 20.0]]]
    learner, data = played(config(fisher_stride=3, num_envs=16))
    assert (learner.learn(data, 1)["divergence"] < learner.config.max_kl).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_kl", 0.0), ("damping", 0.0), ("cg_tolerance", 0.0), ("cg_steps", 0), ("search_steps", 0),
     ("fisher_stride", 0), ("backtrack", 1.0), ("accept", 0.0)],
)  # fmt: skip
def test_senseless_settings_are_refused(name, value):
    with pytest.raises(InputError, match=name):
        config(**{name: value})


# ------------------------------------------------------------------------------------------------------- contracts


@pytest.mark.parametrize("changes", [{}, {"kl": "exact", "critics": "separate", "layer_norm": False}], ids=str)
def test_a_seed_in_company_is_the_seed_alone(changes):
    check_company(hatrpo, config(**changes))


@pytest.mark.parametrize("changes", [{}, {"kl": "exact", "critics": "separate", "value_norm": False}], ids=str)
def test_resuming_is_bit_for_bit(changes):
    check_resume(hatrpo, config(updates=3, **changes))


def test_all_parameters_move():
    check_gradients_flow(hatrpo, config())


@pytest.mark.parametrize(("kind", "max_kl"), [("harl", 0.2), ("exact", 0.02)])
def test_it_learns(kind, max_kl):
    easy = {**EASY, "updates": 50, "eval_every": 50}
    sizes = {"hidden": 32, "critic_hidden": 32, "critic_lr": 3e-3, "layer_norm": False}
    check_it_learns(hatrpo, hatrpo.Config(**easy, **sizes, kl=kind, max_kl=max_kl))


def test_it_learns_to_spread_out():
    """Particle worlds by HARL's rules: far better than random play after 80 000 steps."""
    cfg = hatrpo.Config(
        task="mpe/simple_spread", seeds=(0, 1), num_envs=80, rollout=25, updates=40, eval_every=40, minibatches=2,
        gamma=0.9, max_kl=0.05, fisher_stride=5, hidden=32, critic_hidden=32, critic_lr=3e-3, eval_episodes=100,
        final_episodes=100, eval_modes=("greedy",),
    )  # fmt: skip
    env, generator = envs.make(cfg.task, 200, 0), torch.Generator().manual_seed(0)
    step = env.reset()
    for _ in range(env.spec.episode_limit):
        step = env.step(mpe_players.random(env, step, generator))
    random_play = step.info["team_return"].mean()
    last = trained(hatrpo, cfg)[-1][0].outcomes["greedy"]["team_return"].mean(1)
    assert (last > random_play + 12).all(), (last, random_play)
