"""`inconcert.tabular` against hand enumeration, brute-force loops and properties that any joint distribution has."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inconcert import tabular
from inconcert.config import InputError

SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.sampled_from([(1, 4), (2, 2), (2, 5), (3, 3), (3, 4), (4, 2)])


def random_simplex(generator: torch.Generator, *shape: int) -> Tensor:
    drawn = torch.empty(*shape, dtype=torch.float64).exponential_(generator=generator)
    return drawn / drawn.sum(-1, keepdim=True)


def random_policies(generator: torch.Generator, num_agents: int, num_actions: int, *batch: int) -> Tensor:
    return random_simplex(generator, *batch, num_agents, num_actions)


def random_joint(generator: torch.Generator, num_agents: int, num_actions: int, *batch: int) -> Tensor:
    flat = random_simplex(generator, *batch, num_actions**num_agents)
    return flat.reshape(*batch, *[num_actions] * num_agents)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def paper_teacher() -> Tensor:
    """Figure 1 (C) typed in from the text: [3, 3, 4] and [4, 3, 3], each half of the time."""
    joint = torch.zeros(10, 10, 10, dtype=torch.float64)
    joint[3, 3, 4] = joint[4, 3, 3] = 0.5
    return joint


# ---------------------------------------------------------------------------------------------------------------------
# Games and expectations


def test_sum_game_marks_exactly_the_joint_actions_with_that_sum() -> None:
    game = tabular.sum_game(3, 10, 10)
    for actions in itertools.product(range(10), repeat=3):
        assert game[actions] == (1.0 if sum(actions) == 10 else 0.0)
    # Triples of non-negative integers that sum to 10: C(12, 2) = 66, less the three with a 10 in them.
    assert game.sum() == 63
    assert tabular.sum_game(3, 10, 28).sum() == 0
    assert torch.equal(tabular.sum_game(1, 3, 1), torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))


def test_uniform_play_succeeds_in_63_of_1000_cases() -> None:
    joint = tabular.product(torch.full((3, 10), 0.1, dtype=torch.float64))
    assert tabular.success_probability(joint, 3, 10).item() == pytest.approx(0.063, abs=1e-15)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, size=SIZES, target=st.integers(0, 12))
def test_success_probability_is_the_brute_force_sum(seed: int, size: tuple[int, int], target: int) -> None:
    num_agents, num_actions = size
    joint = random_joint(seeded(seed), num_agents, num_actions, 2)
    brute = [
        sum(
            joint[(row, *actions)].item()
            for actions in itertools.product(range(num_actions), repeat=num_agents)
            if sum(actions) == target
        )
        for row in range(2)
    ]
    assert tabular.success_probability(joint, num_agents, target).tolist() == pytest.approx(brute, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, size=SIZES)
def test_product_return_and_action_values_by_loops(seed: int, size: tuple[int, int]) -> None:
    num_agents, num_actions = size
    generator = seeded(seed)
    policies = random_policies(generator, num_agents, num_actions)
    payoff = torch.randn([num_actions] * num_agents, dtype=torch.float64, generator=generator)
    joint = tabular.product(policies)
    total = 0.0
    values = torch.zeros_like(policies)
    for actions in itertools.product(range(num_actions), repeat=num_agents):
        probabilities = [policies[agent, action].item() for agent, action in enumerate(actions)]
        assert joint[actions].item() == pytest.approx(math.prod(probabilities), abs=1e-15)
        total += math.prod(probabilities) * payoff[actions].item()
        for agent, action in enumerate(actions):
            others = math.prod(p for other, p in enumerate(probabilities) if other != agent)
            values[agent, action] += others * payoff[actions]
    assert tabular.expected_return(payoff, joint, num_agents).item() == pytest.approx(total, abs=1e-12)
    torch.testing.assert_close(tabular.action_values(payoff, policies), values, rtol=0, atol=1e-12)


def test_every_function_treats_leading_axes_row_by_row() -> None:
    generator = seeded(3)
    policies = random_policies(generator, 3, 4, 5, 2)
    joint = random_joint(generator, 3, 4, 5, 2)
    payoff = torch.randn(5, 2, 4, 4, 4, dtype=torch.float64, generator=generator)
    calls = {
        "product": lambda p, j, r: tabular.product(p),
        "marginals": lambda p, j, r: tabular.marginals(j, 3),
        "chain": lambda p, j, r: tabular.chain(tabular.condition(j, 3)),
        "ignore_prefix": lambda p, j, r: tabular.chain(tabular.ignore_prefix(p)),
        "action_values": lambda p, j, r: tabular.action_values(r, p),
        "prefix_values": lambda p, j, r: tabular.prefix_values(r, tabular.condition(j, 3))[1],
        "best": lambda p, j, r: tabular.simultaneous_best_responses(r, p),
        "sequential": lambda p, j, r: tabular.chain(tabular.sequential_best_responses(r, tabular.condition(j, 3))),
        "gradient": lambda p, j, r: tabular.policy_gradient(r, p),
        "mirror": lambda p, j, r: tabular.simultaneous_mirror_step(r, p, 2.0),
        "guider": lambda p, j, r: tabular.guider_step(r, j, 2.0, 3),
        "entropy": lambda p, j, r: tabular.entropy(j, 3),
        "kl": lambda p, j, r: tabular.kl_divergence(tabular.product(p), j, 3),
        "forward": lambda p, j, r: tabular.forward_projection(j, 3).policies,
        "reverse": lambda p, j, r: tabular.reverse_projection(j, 3, initial=p, tolerance=0.0, sweeps=60).policies,
        "turns": lambda p, j, r: tabular.sequential_reverse_projection(j, 3).policies,
    }
    for name, call in calls.items():
        whole = call(policies, joint, payoff)
        for row in itertools.product(range(5), range(2)):
            torch.testing.assert_close(
                whole[row],
                call(policies[row], joint[row], payoff[row]),
                rtol=0,
                atol=1e-12,
                msg=lambda text, name=name, row=row: f"{name} at {row}: {text}",
            )


# ---------------------------------------------------------------------------------------------------------------------
# Factorised and autoregressive policies


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, size=SIZES)
def test_marginals_of_a_product_are_its_policies(seed: int, size: tuple[int, int]) -> None:
    policies = random_policies(seeded(seed), *size)
    torch.testing.assert_close(tabular.marginals(tabular.product(policies), size[0]), policies, rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, size=SIZES)
def test_chain_and_condition_are_inverse(seed: int, size: tuple[int, int]) -> None:
    joint = random_joint(seeded(seed), *size)
    conditionals = tabular.condition(joint, size[0])
    for agent, conditional in enumerate(conditionals):
        assert conditional.shape == (size[1],) * (agent + 1)
        torch.testing.assert_close(conditional.sum(-1), torch.ones_like(conditional.sum(-1)))
    torch.testing.assert_close(tabular.chain(conditionals), joint, rtol=0, atol=1e-12)


def test_condition_is_uniform_after_a_prefix_that_never_occurs() -> None:
    first, second, third = tabular.condition(paper_teacher(), 3)
    assert first[3] == first[4] == 0.5
    assert second[3, 3] == second[4, 3] == 1.0
    assert third[3, 3, 4] == third[4, 3, 3] == 1.0
    assert torch.equal(second[7], torch.full((10,), 0.1, dtype=torch.float64))
    assert torch.equal(tabular.chain((first, second, third)), paper_teacher())


def test_a_guider_that_ignores_the_prefix_is_the_learner() -> None:
    policies = random_policies(seeded(0), 3, 5, 2)
    torch.testing.assert_close(
        tabular.chain(tabular.ignore_prefix(policies)), tabular.product(policies), rtol=0, atol=1e-15
    )


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_prefix_values_are_conditional_means(seed: int) -> None:
    generator = seeded(seed)
    joint = random_joint(generator, 3, 3)
    payoff = torch.randn(3, 3, 3, dtype=torch.float64, generator=generator)
    values = tabular.prefix_values(payoff, tabular.condition(joint, 3))
    for first in range(3):
        mass = joint[first].sum()
        assert values[0][first].item() == pytest.approx(((joint[first] * payoff[first]).sum() / mass).item())
        for second in range(3):
            mean = (joint[first, second] * payoff[first, second]).sum() / joint[first, second].sum()
            assert values[1][first, second].item() == pytest.approx(mean.item())
    assert torch.equal(values[2], payoff)


# ---------------------------------------------------------------------------------------------------------------------
# Learning steps


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, size=SIZES)
def test_policy_gradient_is_the_derivative_of_the_exact_return(seed: int, size: tuple[int, int]) -> None:
    num_agents, num_actions = size
    generator = seeded(seed)
    logits = torch.randn(num_agents, num_actions, dtype=torch.float64, generator=generator, requires_grad=True)
    payoff = torch.randn([num_actions] * num_agents, dtype=torch.float64, generator=generator)
    policies = torch.softmax(logits, -1)
    (by_autograd,) = torch.autograd.grad(tabular.expected_return(payoff, tabular.product(policies), num_agents), logits)
    gradient = tabular.policy_gradient(payoff, policies.detach())
    torch.testing.assert_close(gradient, by_autograd, rtol=0, atol=1e-12)
    bump = torch.zeros_like(logits)
    bump[0, -1] = 1e-6
    ends = [
        tabular.expected_return(payoff, tabular.product(torch.softmax(logits.detach() + sign * bump, -1)), num_agents)
        for sign in (1, -1)
    ]
    assert gradient[0, -1].item() == pytest.approx(((ends[0] - ends[1]) / 2e-6).item(), abs=1e-7)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, size=SIZES)
def test_no_deviation_beats_a_best_response(seed: int, size: tuple[int, int]) -> None:
    num_agents, num_actions = size
    generator = seeded(seed)
    policies = random_policies(generator, num_agents, num_actions)
    payoff = torch.randint(0, 3, [num_actions] * num_agents, generator=generator).double()
    replies = tabular.simultaneous_best_responses(payoff, policies)
    torch.testing.assert_close(replies.sum(-1), torch.ones(num_agents, dtype=torch.float64))
    for agent in range(num_agents):
        mixed = policies.clone()
        mixed[agent] = replies[agent]
        reached = tabular.expected_return(payoff, tabular.product(mixed), num_agents)
        for action in range(num_actions):
            mixed[agent] = tabular.deterministic([action], num_actions)[0]
            assert tabular.expected_return(payoff, tabular.product(mixed), num_agents) <= reached + 1e-9


def test_best_response_ties_keep_the_old_policy_or_spread_evenly() -> None:
    payoff = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    policies = torch.tensor([[0.3, 0.7], [1.0, 0.0]], dtype=torch.float64)
    replies = tabular.simultaneous_best_responses(payoff, policies)
    assert torch.equal(replies[0], policies[0])  # both actions earn 1 against action 0: nothing to move for
    stuck = tabular.deterministic([2, 3], 4)
    stayed = tabular.simultaneous_best_responses(tabular.sum_game(2, 4, 1), stuck)
    assert torch.equal(stayed, stuck)  # no reply reaches the target: stay
    evenly = tabular.simultaneous_best_responses(
        torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]).double(), tabular.deterministic([0, 0], 3)
    )
    assert evenly[1].tolist() == [0.0, 0.5, 0.5]


def test_the_simultaneous_best_responses_of_figure_1_run_away() -> None:
    """Against two others at a the reply is 10 - 2a: 3, 4, 2, 6, and then no single agent can mend it."""
    game = tabular.sum_game(3, 10, 10)
    policies = tabular.deterministic([3, 3, 3], 10)
    seen = []
    for _ in range(5):
        assert tabular.success_probability(tabular.product(policies), 3, 10) == 0.0
        seen.append(policies.argmax(-1).tolist())
        policies = tabular.simultaneous_best_responses(game, policies)
    assert seen == [[3] * 3, [4] * 3, [2] * 3, [6] * 3, [6] * 3]


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, size=SIZES)
def test_sequential_best_responses_reach_the_best_joint_action(seed: int, size: tuple[int, int]) -> None:
    num_agents, num_actions = size
    generator = seeded(seed)
    payoff = torch.randn([num_actions] * num_agents, dtype=torch.float64, generator=generator)
    start = tabular.condition(random_joint(generator, num_agents, num_actions), num_agents)
    reached = tabular.expected_return(
        payoff, tabular.chain(tabular.sequential_best_responses(payoff, start)), num_agents
    )
    assert reached.item() == pytest.approx(payoff.max().item(), abs=1e-12)


def test_a_large_mirror_step_is_a_best_response() -> None:
    generator = seeded(5)
    policies, payoff = random_policies(generator, 3, 4), torch.randn(4, 4, 4, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(
        tabular.simultaneous_mirror_step(payoff, policies, 1e6), tabular.simultaneous_best_responses(payoff, policies)
    )
    torch.testing.assert_close(tabular.simultaneous_mirror_step(payoff, policies, 0.0), policies)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, step_size=st.floats(0.01, 20.0))
def test_the_guider_step_maximises_equation_3(seed: int, step_size: float) -> None:
    generator = seeded(seed)
    joint = random_joint(generator, 2, 3)
    payoff = torch.randn(3, 3, dtype=torch.float64, generator=generator)

    def objective(candidate: Tensor) -> float:
        gain = tabular.expected_return(payoff, candidate, 2)
        return (step_size * gain - tabular.kl_divergence(candidate, joint, 2)).item()

    best = tabular.guider_step(payoff, joint, step_size, 2)
    # The optimum of Eq 3 is the log-partition function, and nobody else reaches it.
    assert objective(best) == pytest.approx(math.log((joint * torch.exp(step_size * payoff)).sum().item()), abs=1e-9)
    for _ in range(20):
        assert objective(random_joint(generator, 2, 3)) <= objective(best) + 1e-9


def test_identical_agents_stay_identical_under_simultaneous_exact_steps() -> None:
    """Why nobody "adjusts": the update treats equals equally, so four ninths is the ceiling (next test)."""
    game = tabular.sum_game(3, 10, 10)
    policies = random_simplex(seeded(1), 1, 10).expand(3, 10)
    for _ in range(300):
        policies = tabular.simultaneous_mirror_step(game, policies, 2.0)
        torch.testing.assert_close(policies, policies[:1].expand(3, 10), rtol=0, atol=1e-9)
        assert tabular.success_probability(tabular.product(policies), 3, 10) <= 4 / 9 + 1e-9


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, sharpness=st.floats(0.1, 8.0))
def test_no_shared_policy_exceeds_four_ninths(seed: int, sharpness: float) -> None:
    generator = seeded(seed)
    shared = torch.softmax(sharpness * torch.randn(64, 1, 10, dtype=torch.float64, generator=generator), -1)
    success = tabular.success_probability(tabular.product(shared.expand(64, 3, 10)), 3, 10)
    assert success.max() <= 4 / 9 + 1e-12
    best = torch.zeros(3, 10, dtype=torch.float64)
    best[:, 3], best[:, 4] = 2 / 3, 1 / 3
    assert tabular.success_probability(tabular.product(best), 3, 10).item() == pytest.approx(4 / 9, abs=1e-15)


# ---------------------------------------------------------------------------------------------------------------------
# Divergences and distillation


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, size=SIZES)
def test_entropy_and_divergence_by_loops(seed: int, size: tuple[int, int]) -> None:
    generator = seeded(seed)
    first, second = random_joint(generator, *size), random_joint(generator, *size)
    pairs = list(zip(first.flatten().tolist(), second.flatten().tolist(), strict=True))
    assert tabular.kl_divergence(first, second, size[0]).item() == pytest.approx(
        sum(p * math.log(p / q) for p, q in pairs), abs=1e-10
    )
    assert tabular.entropy(first, size[0]).item() == pytest.approx(-sum(p * math.log(p) for p, _ in pairs), abs=1e-10)
    assert tabular.kl_divergence(first, first, size[0]).item() == pytest.approx(0.0, abs=1e-12)


def test_divergence_is_infinite_outside_the_support_and_ignores_what_never_happens() -> None:
    uniform = torch.full((10, 10, 10), 1e-3, dtype=torch.float64)
    assert tabular.kl_divergence(uniform, paper_teacher(), 3) == math.inf
    assert tabular.kl_divergence(paper_teacher(), uniform, 3).item() == pytest.approx(math.log(500))


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, size=SIZES)
def test_product_of_marginals_minimises_forward_divergence(seed: int, size: tuple[int, int]) -> None:
    generator = seeded(seed)
    joint = random_joint(generator, *size)
    policies, divergence = tabular.forward_projection(joint, size[0])
    others = random_policies(generator, *size, 50)
    near = 0.99 * policies + 0.01 * others
    for candidates in (others, near):
        assert (tabular.kl_divergence(joint, tabular.product(candidates), size[0]) >= divergence - 1e-12).all()
    # What is left is the total correlation: the entropy that the agents' marginals have beyond the joint's.
    total_correlation = torch.special.entr(policies).sum() - tabular.entropy(joint, size[0])
    assert divergence.item() == pytest.approx(total_correlation.item(), abs=1e-10)


def test_gradient_descent_on_cross_entropy_finds_the_same_students() -> None:
    teacher = random_joint(seeded(11), 2, 3)
    logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = tabular.kl_divergence(teacher, tabular.product(torch.softmax(logits, -1)), 2)
        value.backward()
        return value

    optimiser.step(loss)
    torch.testing.assert_close(
        torch.softmax(logits.detach(), -1), tabular.forward_projection(teacher, 2).policies, rtol=0, atol=1e-6
    )


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_success_after_distillation_is_at_least_exp_of_minus_the_lost_correlation(seed: int) -> None:
    """Data processing: a teacher that never fails keeps P(success) >= exp(-KL(teacher || students))."""
    game = tabular.sum_game(3, 10, 10)
    teacher = random_joint(seeded(seed), 3, 10) ** 4 * game
    teacher = teacher / teacher.sum()
    policies, divergence = tabular.forward_projection(teacher, 3)
    assert tabular.success_probability(tabular.product(policies), 3, 10) >= torch.exp(-divergence) - 1e-12


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, size=st.sampled_from([(2, 2), (2, 4), (3, 3)]))
def test_reverse_projection_beats_random_policies_and_its_start(seed: int, size: tuple[int, int]) -> None:
    generator = seeded(seed)
    joint = random_joint(generator, *size) ** 3
    joint = joint / joint.sum()
    start = random_policies(generator, *size)
    policies, divergence = tabular.reverse_projection(joint, size[0], floor=0.0, initial=start)
    assert divergence.item() == pytest.approx(
        tabular.kl_divergence(tabular.product(policies), joint, size[0]).item(), abs=1e-12
    )
    candidates = torch.cat([start[None], policies[None], random_policies(generator, *size, 300)])
    candidates = torch.cat([candidates, 0.99 * policies + 0.01 * candidates])
    assert (tabular.kl_divergence(tabular.product(candidates), joint, size[0]) >= divergence - 1e-9).all()
    only_start = tabular.reverse_projection(joint, size[0], starts=0, floor=0.0, initial=start, sweeps=1)
    assert only_start.divergence <= tabular.kl_divergence(tabular.product(start), joint, size[0]) + 1e-12


def test_reverse_projection_on_a_grid_of_two_by_two_policies() -> None:
    """Every pair of policies of two agents with two actions, on a fine grid: the global minimum, not a local one."""
    joint = torch.tensor([[0.55, 0.02], [0.03, 0.40]], dtype=torch.float64)
    grid = torch.linspace(1e-4, 1 - 1e-4, 400, dtype=torch.float64)
    first, second = torch.meshgrid(grid, grid, indexing="ij")
    policies = torch.stack([torch.stack([first, 1 - first], -1), torch.stack([second, 1 - second], -1)], -2)
    on_grid = tabular.kl_divergence(tabular.product(policies), joint, 2)
    found = tabular.reverse_projection(joint, 2, floor=0.0)
    assert found.divergence.item() <= on_grid.min().item() + 1e-12
    assert found.divergence.item() == pytest.approx(on_grid.min().item(), abs=1e-4)
    assert found.policies[0, 0] > 0.9  # the larger of the two modes


@pytest.mark.parametrize("num_modes", range(1, 9))
def test_k_modes_distil_to_one_over_k_and_project_to_one_mode(num_modes: int) -> None:
    teacher = tabular.chain(tabular.figure_1_teacher(num_modes))
    assert int((teacher > 0).sum()) == num_modes
    assert tabular.success_probability(teacher, 3, 10).item() == pytest.approx(1.0, abs=1e-12)
    students, lost = tabular.forward_projection(teacher, 3)
    assert lost.item() == pytest.approx(math.log(num_modes), abs=1e-12)
    assert tabular.success_probability(tabular.product(students), 3, 10).item() == pytest.approx(1 / num_modes)
    learner, divergence = tabular.reverse_projection(teacher, 3)
    assert learner.max(-1).values.min() > 1 - 1e-9
    assert divergence.item() == pytest.approx(math.log(num_modes), abs=1e-8)
    assert tabular.success_probability(tabular.product(learner), 3, 10).item() == pytest.approx(1.0, abs=1e-9)


def test_updating_one_agent_after_the_other_does_not_reach_the_minimum_of_equation_19() -> None:
    """Agent 0 copies its marginal, so agent 2 has nobody to complete: half of the students' mass is off the teacher."""
    in_turns = tabular.sequential_reverse_projection(paper_teacher(), 3)
    assert in_turns.policies[0, 3].item() == pytest.approx(0.5, abs=1e-6)
    assert in_turns.policies[2, 3].item() == pytest.approx(0.5, abs=1e-6)
    assert tabular.success_probability(tabular.product(in_turns.policies), 3, 10).item() == pytest.approx(0.5, abs=1e-6)
    together = tabular.reverse_projection(paper_teacher(), 3)
    assert together.divergence.item() == pytest.approx(math.log(2), abs=1e-8)
    assert in_turns.divergence > together.divergence + 10


def test_sequential_reverse_projection_is_exact_for_a_decentralisable_teacher() -> None:
    policies = random_policies(seeded(2), 3, 4)
    projection = tabular.sequential_reverse_projection(tabular.product(policies), 3, floor=0.0)
    torch.testing.assert_close(projection.policies, policies, rtol=0, atol=1e-10)
    assert projection.divergence.item() == pytest.approx(0.0, abs=1e-10)


# ---------------------------------------------------------------------------------------------------------------------
# Figure 1


def test_the_three_numbers_of_figure_1() -> None:
    assert tabular.figure_1_simultaneous_success() == 0.0
    assert tabular.figure_1_sequential_success() == 1.0
    assert tabular.figure_1_distilled_success() == 0.5


def test_the_teacher_of_figure_1_is_the_one_in_the_text() -> None:
    assert torch.equal(tabular.chain(tabular.figure_1_teacher()), paper_teacher())
    first, second, third = tabular.figure_1_teacher()
    assert first.nonzero().flatten().tolist() == [3, 4]
    assert torch.equal(second, tabular.ignore_prefix(tabular.deterministic([3, 3], 10))[1])
    for x in range(8):
        assert third[x, 3].argmax() == 7 - x
        assert third[x, 3].max() == 1.0


def test_the_paper_failure_4_3_4_happens_a_quarter_of_the_time() -> None:
    students = tabular.product(tabular.forward_projection(paper_teacher(), 3).policies)
    counted = {a: students[a].item() for a in itertools.product(range(10), repeat=3) if students[a] > 0}
    assert counted == {(3, 3, 3): 0.25, (3, 3, 4): 0.25, (4, 3, 3): 0.25, (4, 3, 4): 0.25}


# ---------------------------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tabular.sum_game(0, 10, 10), "at least 1 agent"),
        (lambda: tabular.sum_game(3, 0, 10), "at least 1 agent"),
        (lambda: tabular.sum_game(8, 15, 10), "too many"),
        (lambda: tabular.deterministic([3, 10], 10), "action 10 of agent 1"),
        (lambda: tabular.deterministic([-1], 10), "0 .. 9"),
        (lambda: tabular.marginals(torch.ones(2, 3), 2), "not in shape"),
        (lambda: tabular.marginals(torch.ones(2, 2), 3), "3 agents"),
        (lambda: tabular.expected_return(torch.ones(2, 2), torch.ones(2, 2), 0), "0 agents"),
        (lambda: tabular.figure_1_teacher(9), "1 to 8"),
        (lambda: tabular.reverse_projection(paper_teacher(), 3, starts=0), "starts >= 1"),
        (lambda: tabular.reverse_projection(paper_teacher(), 3, floor=0.0), "floor > 0"),
    ],
)
def test_bad_input_is_one_clear_line(call, words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        call()
    assert "\n" not in str(raised.value)
