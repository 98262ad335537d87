"""`inconcert.markov_games` against loops, long sums, grids and hand-computed games."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inconcert import claims, tabular
from inconcert import markov_games as mg
from inconcert.config import InputError

SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.sampled_from([(2, 2), (2, 3), (3, 2)])
KINDS = st.sampled_from(["dense", "sparse", "matching"])


def small(seed: int, size: tuple[int, int] = (2, 2), kind: str = "dense", games: int = 3) -> tuple[mg.Games, Tensor]:
    made = mg.random_games(games, *size, num_states=3, kind=kind, seed=seed)
    return made, mg.random_policies(made, seed)


def one_step(games: mg.Games, policies: Tensor, rule: mg.Rule, step_size: float) -> mg.Iteration:
    return next(mg.iterate(games, policies, rule, step_size, 1))


def two_by_two(payoff: list[list[float]], first: float, second: float) -> tuple[mg.Games, Tensor]:
    """A one-shot game and agents that play action 0 with the given probabilities."""
    policies = torch.tensor([[[[first, 1 - first], [second, 1 - second]]]], dtype=torch.float64)
    return mg.one_shot(torch.tensor([payoff], dtype=torch.float64)), policies


# ---------------------------------------------------------------------------------------------------------------------
# Games and values


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, size=SIZES, kind=KINDS)
def test_values_satisfy_the_bellman_equation_written_as_loops(seed: int, size: tuple[int, int], kind: str) -> None:
    games, policies = small(seed, size, kind, games=1)
    joint = tabular.product(policies)
    value = mg.evaluate(games, joint)
    for state in range(3):
        mean = 0.0
        for cell in itertools.product(range(size[1]), repeat=size[0]):
            following = sum(
                games.transition[(0, state, *cell, other)].item() * value.states[0, other].item() for other in range(3)
            )
            action_value = games.reward[(0, state, *cell)].item() + 0.9 * following
            assert value.actions[(0, state, *cell)].item() == pytest.approx(action_value, abs=1e-10)
            mean += math.prod(policies[0, state, agent, a].item() for agent, a in enumerate(cell)) * action_value
        assert value.states[0, state].item() == pytest.approx(mean, abs=1e-10)
    assert value.start.item() == pytest.approx((games.start[0] @ value.states[0]).item(), abs=1e-12)


def test_visits_are_the_discounted_sum_of_state_distributions() -> None:
    games, policies = small(3)
    joint = tabular.product(policies)
    visits = mg.evaluate(games, joint).visits
    now, summed = games.start, torch.zeros_like(games.start)
    for t in range(400):
        summed = summed + (1 - games.discount) * games.discount**t * now
        now = torch.einsum("gs,gsab,gsabt->gt", now, joint, games.transition)
    torch.testing.assert_close(visits, summed, rtol=0, atol=1e-12)
    torch.testing.assert_close(visits.sum(-1), torch.ones(3, dtype=torch.float64))


def test_kinds_of_random_games() -> None:
    sparse = mg.random_games(5, 2, 4, num_states=3, kind="sparse", seed=1)
    assert (sparse.reward.sum((2, 3)) == 2).all()  # an eighth of 16 joint actions
    assert (sparse.transition.amax(-1) == 1).all()
    matching = mg.random_games(5, 3, 3, num_states=2, kind="matching", seed=1)
    good = matching.reward > 0
    assert (good.flatten(2).sum(-1) == 3).all()
    for agent in range(3):  # conventions never share an action
        others = [axis for axis in (2, 3, 4) if axis != agent + 2]
        assert (good.sum(others) == 1).all()
    assert matching.reward[good].min() >= 0.5
    assert matching.reward.min() >= -1
    for games in (sparse, matching, mg.random_games(2, 2, 2)):
        torch.testing.assert_close(games.transition.sum(-1), torch.ones_like(games.reward))
        torch.testing.assert_close(games.start.sum(-1), torch.ones(len(games), dtype=torch.float64))


def test_the_same_seed_gives_the_same_games_and_policies_are_drawn_apart_from_them() -> None:
    first, second = (mg.random_games(2, 2, 2, seed=7) for _ in range(2))
    assert torch.equal(first.reward, second.reward)
    assert not torch.equal(first.reward, mg.random_games(2, 2, 2, seed=8).reward)
    games = mg.random_games(2, 2, 2, num_states=2, kind="matching", seed=7)
    assert not torch.equal(mg.random_policies(games, 7).flatten()[:2], games.start.flatten()[:2])


def test_the_optimum_is_the_best_deterministic_team() -> None:
    games = mg.random_games(4, 2, 2, num_states=2, seed=2)
    best = torch.full((4,), -torch.inf, dtype=torch.float64)
    for cells in itertools.product(itertools.product(range(2), repeat=2), repeat=2):
        policies = torch.stack([tabular.deterministic(cell, 2) for cell in cells]).expand(4, 2, 2, 2)
        best = torch.maximum(best, mg.evaluate(games, tabular.product(policies)).start)
    torch.testing.assert_close(mg.optimum(games), best, rtol=0, atol=1e-9)


# ---------------------------------------------------------------------------------------------------------------------
# Rules


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, size=SIZES, step_size=st.floats(0.05, 10.0))
def test_equation_8_by_brute_force_is_the_first_sweep_of_coordinate_descent(
    seed: int, size: tuple[int, int], step_size: float
) -> None:
    """Eq 8 with its advantages (Eqs 6, 7) summed case by case; no other policy of the agent is better."""
    num_agents, num_actions = size
    games, policies = small(seed, size, games=1)
    step = one_step(games, policies, mg.at_once, step_size).step
    turned = mg.in_turns(step)
    swept = tabular.reverse_projection(step.guider, num_agents, 0, initial=step.policies, floor=0.0, sweeps=1)
    torch.testing.assert_close(turned, swept.policies, rtol=0, atol=1e-9)

    old, new, q = step.policies[0, 0], turned[0, 0], step.action_values[0, 0]

    def subset_value(cell: tuple[int, ...]) -> float:  # Eq 7: the agents that are not in `cell` follow pi_k
        rest = itertools.product(range(num_actions), repeat=num_agents - len(cell))
        return sum(
            q[cell + other].item() * math.prod(old[len(cell) + i, a].item() for i, a in enumerate(other))
            for other in rest
        )

    for agent in range(num_agents):

        def objective(policy: Tensor, agent: int = agent) -> float:
            total = 0.0
            for prefix in itertools.product(range(num_actions), repeat=agent):
                reached = math.prod(new[i, a].item() for i, a in enumerate(prefix))
                for action in range(num_actions):
                    advantage = subset_value((*prefix, action)) - subset_value(prefix)
                    total += reached * policy[action].item() * advantage
            return total - (torch.special.xlogy(policy, policy / old[agent])).sum().item() / step_size

        generator = torch.Generator().manual_seed(seed)
        for _ in range(10):
            other = torch.empty(num_actions, dtype=torch.float64).exponential_(generator=generator)
            assert objective(other / other.sum()) <= objective(new[agent]) + 1e-9


def test_turns_follow_the_order_that_is_asked_for() -> None:
    games, policies = two_by_two([[1.0, 0.0], [0.0, 0.0]], 0.5, 0.5)
    step = one_step(games, policies, mg.at_once, 1.0).step
    first, second = 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(-1 / (1 + math.exp(-0.5))))
    assert mg.in_turns(step)[0, 0, :, 0].tolist() == pytest.approx([first, second])
    assert mg.in_turns(step, (1, 0))[0, 0, :, 0].tolist() == pytest.approx([second, first])
    # Eq 19: both answer the other's *new* policy, p = sigmoid(p)
    least = mg.global_minimum(step)[0, 0, :, 0].tolist()
    assert least[0] == pytest.approx(1 / (1 + math.exp(-least[1])), abs=1e-9)
    assert least[0] == pytest.approx(least[1], abs=1e-9)
    assert least[0] > second > first
    orders = {tuple(mg.in_random_turns(step._replace(k=k))[0, 0, :, 0].tolist()) for k in range(10)}
    assert len(orders) == 2


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, size=SIZES)
def test_the_printed_loss_is_least_at_its_rule(seed: int, size: tuple[int, int]) -> None:
    """Eq 11 summed over the guider's prefixes by loops; every other policy has a larger loss."""
    num_agents, num_actions = size
    games, policies = small(seed, size, games=1)
    step = one_step(games, policies, mg.at_once, 1.0).step
    guider = tabular.condition(step.guider[0, 0], num_agents)
    chosen = mg.printed_loss(step)[0, 0]
    generator = torch.Generator().manual_seed(seed)

    def loss(policy: Tensor, agent: int) -> float:
        total = 0.0
        for prefix in itertools.product(range(num_actions), repeat=agent):
            reached = math.prod(guider[i][prefix[: i + 1]].item() for i in range(agent))
            total += reached * torch.special.xlogy(policy, policy / guider[agent][prefix]).sum().item()
        return total

    for agent in range(num_agents):
        for _ in range(10):
            other = torch.empty(num_actions, dtype=torch.float64).exponential_(generator=generator)
            assert loss(other / other.sum(), agent) >= loss(chosen[agent], agent) - 1e-12


@pytest.mark.parametrize("other_direction", [False, True])
def test_gradient_steps_descend_the_divergence_they_are_named_for(other_direction: bool) -> None:
    """The slope against autograd, and many small steps against the minimiser."""
    games, policies = small(4, (2, 3))
    step = one_step(games, policies, mg.at_once, 1.0).step

    def divergence(candidate: Tensor) -> Tensor:
        pair = (step.guider, tabular.product(candidate))
        return tabular.kl_divergence(*(pair if other_direction else pair[::-1]), 2)

    logits = step.policies.log().requires_grad_()
    divergence(torch.softmax(logits, -1)).sum().backward()
    assert logits.grad is not None
    expected = torch.softmax(logits.detach() - 0.3 * logits.grad, -1)
    torch.testing.assert_close(mg.gradient_steps(step, 0.3, 1, other_direction), expected, rtol=0, atol=1e-12)
    settled = mg.gradient_steps(step, 1.0, 3000, other_direction)
    wanted = mg.imitation(step) if other_direction else mg.local_minimum(step)
    torch.testing.assert_close(divergence(settled), divergence(wanted), rtol=0, atol=1e-6)


def test_imitation_copies_how_often_the_guider_plays_what() -> None:
    games, policies = two_by_two([[1.0, 0.0], [0.0, 1.0]], 0.5, 0.5)
    iteration = one_step(games, policies, mg.imitation, 50.0)
    assert iteration.policies.flatten().tolist() == pytest.approx([0.5] * 4)
    assert iteration.step.guider.flatten().tolist() == pytest.approx([0.5, 0, 0, 0.5])


def test_a_teacher_that_is_not_pulled_back_runs_ahead_of_its_students() -> None:
    games, policies = two_by_two([[1.0, 0.0], [0.0, 1.0]], 0.5, 0.5)
    *_, last = mg.iterate(games, policies, mg.imitation, 1.0, 30, backtrack=False)
    assert last.after.start.item() == pytest.approx(0.5)
    assert last.step.guider[0, 0].diagonal().sum().item() == pytest.approx(1.0, abs=1e-9)
    *_, reset = mg.iterate(games, policies, mg.imitation, 1.0, 30)
    assert reset.step.guider[0, 0].diagonal().sum().item() < 0.75


# ---------------------------------------------------------------------------------------------------------------------
# The certificate


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, kind=KINDS, step_size=st.floats(0.1, 10.0))
def test_the_certified_bound_lies_just_below_the_minimum_on_a_fine_grid(seed: int, kind: str, step_size: float) -> None:
    games, policies = small(seed, (2, 2), kind, games=1)
    step = one_step(games, policies, mg.at_once, step_size).step
    grid = torch.linspace(0, 1, 401, dtype=torch.float64)
    first, second = torch.meshgrid(grid, grid, indexing="ij")
    candidates = torch.stack([torch.stack([first, 1 - first], -1), torch.stack([second, 1 - second], -1)], -2)
    on_grid = tabular.kl_divergence(tabular.product(candidates), step.guider[0, 0], 2).min().item()
    found = tabular.kl_divergence(tabular.product(mg.global_minimum(step)), step.guider, 2)
    bound = mg.certificate(step.guider, found, 2)
    assert bound[0, 0].item() <= on_grid + 1e-12
    assert (found - bound).max() <= 2e-6
    assert bound[0, 0].item() >= on_grid - 2e-3 * (1 + step_size)  # the grid's own error


def test_the_certificate_is_not_fooled_by_a_wrong_minimum() -> None:
    """From the worse of two modes the search's answer is too high, and the bound stays at the true minimum."""
    games, policies = two_by_two([[1.0, -1.0], [-1.0, 2.0]], 0.5, 0.5)
    step = one_step(games, policies, mg.at_once, 5.0).step
    worse = tabular.reverse_projection(
        step.guider, 2, 0, initial=torch.tensor([[[[0.99, 0.01], [0.99, 0.01]]]]).double(), floor=0.0
    ).divergence
    best = tabular.kl_divergence(tabular.product(mg.global_minimum(step)), step.guider, 2)
    assert (worse - best).item() > 1
    for claimed in (worse, best, best + 100):
        assert mg.certificate(step.guider, claimed, 2).item() == pytest.approx(best.item(), abs=2e-6)
    iteration = one_step(games, policies, lambda step: torch.tensor([[[[0.99, 0.01], [0.99, 0.01]]]]).double(), 5.0)
    with pytest.raises(ArithmeticError, match="no proof"):
        mg.certified_divergences([iteration])


def test_too_few_halvings_leave_a_bound_that_is_loose_but_true() -> None:
    games, policies = small(5, (3, 2))
    step = one_step(games, policies, mg.at_once, 3.0).step
    found = tabular.kl_divergence(tabular.product(mg.global_minimum(step)), step.guider, 3)
    tight, loose = mg.certificate(step.guider, found, 3), mg.certificate(step.guider, found, 3, rounds=3)
    assert (loose <= tight + 1e-6).all()
    assert (loose < tight - 1e-3).any()


@pytest.mark.parametrize(("agents", "actions"), [(2, 3), (3, 2), (3, 3)])
def test_halved_cells_cover_their_parent(agents: int, actions: int) -> None:
    cells = torch.eye(actions, dtype=torch.float64).unsqueeze(-1).repeat(agents - 1, 1, 1, 1)
    for _ in range(3):
        cells = mg._halve(cells)
    assert cells.shape[-1] == 8
    volume = torch.linalg.det(cells.movedim(-1, 0)).abs().prod(-1)
    assert volume.sum().item() == pytest.approx(1.0)


# ---------------------------------------------------------------------------------------------------------------------
# The proof, line by line


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, size=SIZES, kind=KINDS, step_size=st.floats(0.05, 10.0))
def test_every_line_of_the_proof_holds_for_any_learner_no_further_from_the_guider(
    seed: int, size: tuple[int, int], kind: str, step_size: float
) -> None:
    games, policies = small(seed, size, kind)
    for rule in (mg.global_minimum, mg.local_minimum, mg.in_turns, mg.in_random_turns):
        for iteration in mg.iterate(games, policies, rule, step_size, 3):
            lines = mg.audit(games, iteration)
            for slack in (lines.eq_20, lines.eq_21, lines.eq_22, lines.eq_23):
                assert slack.min() >= -1e-9
            assert lines.lemma.abs().max() <= 1e-9
            assert (iteration.after.start >= iteration.before.start - 1e-9).all()
            torch.testing.assert_close(lines.eq_20, lines.eq_21, rtol=0, atol=1e-8)


def test_an_audit_finds_a_learner_that_moves_away() -> None:
    games, policies = small(1)
    wrong = one_step(games, policies, lambda step: mg.random_policies(games, 99), 1.0)
    lines = mg.audit(games, wrong)
    assert lines.eq_20.min() < -0.1
    assert lines.eq_22.min() < -0.1
    assert lines.lemma.abs().max() <= 1e-9, "the lemma holds for any two policies"


def test_returns_list_the_start_and_every_iteration() -> None:
    games, policies = small(2)
    curve = mg.returns(mg.iterate(games, policies, mg.in_turns, 1.0, 4))
    assert curve.shape == (5, 3)
    torch.testing.assert_close(curve[0], mg.evaluate(games, tabular.product(policies)).start)


@pytest.mark.parametrize(
    ("rule", "first", "second"),
    [
        (mg.imitation, 0.87, 0.87),
        (mg.printed_loss, 0.83, 0.85),
        (mg.proof_in_turns, 0.83, 0.85),
        (mg.at_once, 0.34, 0.83),
    ],
)
def test_one_game_in_which_other_rules_fall(rule: mg.Rule, first: float, second: float) -> None:
    """Agree on action 0 for 1 or on action 1 for 2, disagree for -1: the four drop by more than 0.3 at eta = 3."""
    games, policies = two_by_two([[1.0, -1.0], [-1.0, 2.0]], first, second)
    fallen = one_step(games, policies, rule, 3.0)
    assert fallen.after.start.item() < fallen.before.start.item() - 0.3
    for monotonic in (mg.global_minimum, mg.local_minimum, mg.in_turns):
        kept = one_step(games, policies, monotonic, 3.0)
        assert kept.after.start.item() > kept.before.start.item()


# ---------------------------------------------------------------------------------------------------------------------
# Corollary 4.2


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, size=SIZES, step_size=st.floats(0.05, 10.0))
def test_soft_factors_multiply_to_the_guider_and_are_its_conditionals(
    seed: int, size: tuple[int, int], step_size: float
) -> None:
    games, policies = small(seed, size)
    step = one_step(games, policies, mg.at_once, step_size).step
    factors = mg.soft_factors(step)
    torch.testing.assert_close(tabular.chain(factors), step.guider, rtol=0, atol=1e-12)
    for factor, conditional in zip(factors, tabular.condition(step.guider, size[0]), strict=True):
        torch.testing.assert_close(factor, conditional, rtol=0, atol=1e-9)


def test_printed_factors_in_a_game_of_one_hit() -> None:
    """One joint action of four earns 1, uniform play, eta = 1: by hand, from Eqs 6, 7 and 26."""
    games, policies = two_by_two([[1.0, 0.0], [0.0, 0.0]], 0.5, 0.5)
    step = one_step(games, policies, mg.at_once, 1.0).step
    first, second = mg.printed_factors(step)
    assert first[0, 0, 0].item() == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert second[0, 0, 0, 0].item() == pytest.approx(1 / (1 + math.exp(-1)))
    assert second[0, 0, 1, 0].item() == pytest.approx(0.5)
    assert step.guider[0, 0, 0, 0].item() == pytest.approx(math.e / (math.e + 3))
    assert mg.soft_factors(step)[0][0, 0, 0].item() == pytest.approx((math.e + 1) / (math.e + 3))
    printed = tabular.chain((first, second))
    by_hand = abs(1 / ((1 + math.exp(-0.5)) * (1 + math.exp(-1))) - math.e / (math.e + 3))
    assert printed[0, 0, 0, 0].item() == pytest.approx(step.guider[0, 0, 0, 0].item() - by_hand)


def test_printed_factors_are_right_where_payoffs_add_up() -> None:
    rows = torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    games = mg.one_shot(rows[0].unsqueeze(-1) + rows[1].unsqueeze(-2))
    step = one_step(games, mg.random_policies(games), mg.at_once, 2.0).step
    torch.testing.assert_close(tabular.chain(mg.printed_factors(step)), step.guider, rtol=0, atol=1e-12)
    torch.testing.assert_close(mg.in_turns(step), mg.global_minimum(step), rtol=0, atol=1e-9)


def test_total_variation() -> None:
    one, other = torch.tensor([[0.5, 0.0], [0.0, 0.5]]), torch.tensor([[0.25, 0.25], [0.25, 0.25]])
    assert mg.total_variation(one, other, 2).item() == 0.5


# ---------------------------------------------------------------------------------------------------------------------
# Eq 17 and the claims


def test_a_numerical_optimiser_finds_the_closed_form_and_not_more() -> None:
    games, policies = small(6, (2, 3))
    step = one_step(games, policies, mg.at_once, 1.0).step
    found = mg.optimise_guider(step)
    torch.testing.assert_close(found, step.guider, rtol=0, atol=1e-6)
    shortfall = mg.guider_objective(step, found) - mg.guider_objective(step, step.guider)
    assert shortfall.abs().max() <= 1e-10
    log_partition = (tabular.product(step.policies) * step.action_values.exp()).sum((2, 3)).log()
    torch.testing.assert_close(mg.guider_objective(step, step.guider), log_partition, rtol=0, atol=1e-10)


def test_the_suite_holds_certified_games_of_three_sizes() -> None:
    batches = mg.suite()
    assert [games.reward.shape[2:] for games, _ in batches[::2]] == [(2, 2), (3, 3), (2, 2, 2)]
    assert all(len(games) == len(policies) == 12 for games, policies in batches)


def test_verdicts_on_theorem_and_corollary() -> None:
    judged = {claim.id: claims.judge(claim) for claim in claims.load() if claim.exhibit == "magpo-theorem-4-1"}
    assert {name.removeprefix("magpo-"): verdict.status for name, verdict in judged.items()} == {
        "theorem-4-1-guider": "replicated",
        "theorem-4-1-monotonic": "replicated",
        "theorem-4-1-bounds": "replicated",
        "theorem-4-1-contrast": "replicated",
        "corollary-4-2-guider": "not replicated",
        "corollary-4-2-minimiser": "not replicated",
        "corollary-4-2-order": "not replicated",
        "corollary-4-2-monotonic": "replicated",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_games": 0}, "at least 1 game"),
        ({"num_states": 0}, "at least 1 game"),
        ({"discount": 1.0}, "below 1"),
        ({"discount": -0.1}, "at least 0"),
        ({"kind": "sparce"}, "unknown kind of game 'sparce'; nearest: sparse"),
        ({"num_agents": 8, "num_actions": 8}, "too many"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        mg.random_games(**{"num_games": 2, "num_agents": 2, "num_actions": 2, **arguments})  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
