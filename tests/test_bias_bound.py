"""Lemma 1 and Proposition 1 on random tabular problems."""

import dataclasses
from itertools import product

import numpy as np
import pytest

from inconcert import bias_bound


@pytest.fixture(scope="module")
def problems():
    return bias_bound.draw(5, states=3, agents=3, actions=2, gamma=0.8, seed=1)


def test_draws_are_problems(problems):
    assert np.allclose(problems.transition.sum(-1), 1)
    for policy in (problems.policy, problems.behaviour):
        assert np.allclose(policy.sum(-1), 1)
        assert np.allclose(bias_bound.joint_policy(policy).sum(-1), 1)
    again = bias_bound.draw(5, states=3, agents=3, actions=2, gamma=0.8, seed=1)
    assert np.array_equal(problems.critic, again.critic)
    assert not np.array_equal(problems.critic, bias_bound.draw(5, 3, 3, 2, 0.8, seed=2).critic)


def value_of(problems, policy, row):
    """Discounted return of a policy from each state, by iteration and loops over joint actions."""
    joints = list(product(range(policy.shape[-1]), repeat=policy.shape[1]))
    value = np.zeros(problems.start.shape[1])
    for _ in range(400):
        fresh = np.zeros_like(value)
        for state in range(len(value)):
            for index, joint in enumerate(joints):
                chance = np.prod([policy[row, agent, state, action] for agent, action in enumerate(joint)])
                after = problems.transition[row, state, index] @ value
                fresh[state] += chance * (problems.reward[row, state, index] + problems.gamma * after)
        value = fresh
    return value


def test_agent_values_by_enumeration(problems):
    found = bias_bound.agent_values(problems)
    row, state = 2, 1
    value = value_of(problems, problems.policy, row)
    joints = list(product(range(2), repeat=3))
    for agent, action in product(range(3), range(2)):
        expected = 0.0
        for index, joint in enumerate(joints):
            if joint[agent] != action:
                continue
            chance = np.prod([problems.policy[row, other, state, joint[other]] for other in range(3) if other != agent])
            after = problems.transition[row, state, index] @ value
            expected += chance * (problems.reward[row, state, index] + problems.gamma * after)
        assert found[row, agent, state, action] == pytest.approx(expected)


def test_the_gradient_is_that_of_the_return(problems):
    """With nu = 0 and a critic of zeros the bias is the norm of the true gradient: by finite differences."""
    nothing = dataclasses.replace(problems, critic=np.zeros_like(problems.critic))
    found = bias_bound.proposition_1(nothing, 0.0).bias
    row, step, total = 3, 1e-5, 0.0
    logits = np.log(problems.policy)
    for state, action in product(range(3), range(2)):
        ends = []
        for sign in (1, -1):
            moved = logits.copy()
            moved[row, 0, state, action] += sign * step
            ends.append(problems.start[row] @ value_of(problems, bias_bound.softmax(moved), row))
        total += abs(ends[0] - ends[1]) / (2 * step)
    assert found[row] == pytest.approx(total, rel=1e-4)


def test_discounted_states_are_the_sum_over_time(problems):
    found = bias_bound.discounted_states(problems, problems.policy)
    steps = bias_bound.state_distributions(problems, problems.policy, 200)
    assert np.allclose(steps.sum(-1), 1)
    assert np.allclose(found, (problems.gamma ** np.arange(200)[:, None] * steps).sum(1))
    assert np.allclose(found.sum(-1), 1 / (1 - problems.gamma))


def test_divergences_of_agents_add(problems):
    joint, other = (bias_bound.joint_policy(one) for one in (problems.policy, problems.behaviour))
    expected = (joint * np.log(joint / other)).sum(-1).max(-1)
    assert np.allclose(bias_bound.largest_divergence(problems), expected)


def test_a_perfect_critic_has_no_bias_on_policy():
    problems = bias_bound.draw(20, error=0.0)
    assert np.allclose(bias_bound.proposition_1(problems, 0.0).bias, 0)
    assert np.allclose(bias_bound.proposition_1(problems, 0.0).corrected, 0)


def test_equal_policies_have_no_drift():
    problems = bias_bound.draw(20, error=0.0, drift=0.0)
    assert np.allclose(bias_bound.proposition_1(problems, 1.0).bias, 0)
    left, right = bias_bound.lemma_1(problems)
    assert np.allclose(left, 0)
    assert np.allclose(right, 0)


def test_what_holds():
    assert bias_bound.lemma_holds() == 1
    assert bias_bound.corrected_bound_holds() == 1


def test_the_printed_bound_fails_where_the_weight_is_small():
    bound = bias_bound.proposition_1(bias_bound.draw(500, weights=(0.01, 0.1)), 0.0)
    assert (bound.bias > bound.printed).mean() > 0.5
    assert (bound.bias <= bound.corrected).all()
    assert bias_bound.printed_bound_holds() < 1
