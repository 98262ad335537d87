"""Ensemble-MIX's Lemma 1 and Proposition 1, checked on random tabular problems with exact values.

A problem is a small cooperative Markov game in which every agent sees the state and has a softmax policy with a logit
for each state and action. The critic's parts Q_i^phi and the mixing weights lambda_i are arbitrary: the proposition is
claimed for any. Everything is computed for all problems at once and without sampling. Equation numbers are the paper's.
Letters in shapes: P problem, K agent, S state, A action.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Problems:
    """Random problems of one size."""

    transition: Floats
    """`[P, S, A^K, S]` probability of the next state, joint actions in the order of `itertools.product`."""
    reward: Floats
    """`[P, S, A^K]` in [0, 1]."""
    start: Floats
    """`[P, S]` distribution of the first state."""
    policy: Floats
    """`[P, K, S, A]` pi, whose gradient is meant."""
    behaviour: Floats
    """`[P, K, S, A]` beta, which collected the off-policy data."""
    weight: Floats
    """`[P, K, S]` lambda_i(tau), at least 0."""
    critic: Floats
    """`[P, K, S, A]` Q_i^phi."""
    gamma: float


def draw(
    count: int,
    states: int = 4,
    agents: int = 2,
    actions: int = 3,
    gamma: float = 0.9,
    weights: tuple[float, float] = (0.02, 0.98),
    error: float = 0.5,
    drift: float = 0.5,
    seed: int = 0,
) -> Problems:
    """Random problems.

    Args:
        weights: lambda_i is uniform between these.
        error: standard deviation of the critic's error lambda_i Q_i^phi - Q_i^pi, relative to that of Q_i^pi.
        drift: standard deviation of the logits of beta around those of pi.
    """
    generator = np.random.default_rng(seed)
    joint = actions**agents
    logits = generator.normal(size=(count, agents, states, actions))
    transition = generator.dirichlet(np.full(states, 0.5), size=(count, states, joint))
    reward = generator.random((count, states, joint))
    start = generator.dirichlet(np.ones(states), size=count)
    weight = generator.uniform(*weights, size=(count, agents, states))
    behaviour = softmax(logits + drift * generator.normal(size=logits.shape))
    noise = generator.normal(size=logits.shape)
    blank = Problems(
        transition, reward, start, softmax(logits), behaviour, weight, np.zeros_like(logits), gamma
    )  # the critic is made from the true values, which need all the rest
    true = agent_values(blank)
    estimate = true + error * true.std(axis=(2, 3), keepdims=True) * noise
    return Problems(transition, reward, start, softmax(logits), behaviour, weight, estimate / weight[..., None], gamma)


def softmax(logits: Floats) -> Floats:
    """Over the last axis."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def joint_policy(policy: Floats) -> Floats:
    """Product of the agents' policies (section 2): `[P, K, S, A]` -> `[P, S, A^K]`."""
    product = policy[:, 0]
    for agent in range(1, policy.shape[1]):
        product = (product[..., :, None] * policy[:, agent, :, None, :]).reshape(*product.shape[:2], -1)
    return product


def agent_values(problems: Problems) -> Floats:
    """Q_i^pi(s, a_i), the other agents playing pi (Eq 26): `[P, K, S, A]`."""
    joint = joint_policy(problems.policy)
    step = np.einsum("psj,psjn->psn", joint, problems.transition)
    gain = np.einsum("psj,psj->ps", joint, problems.reward)
    identity = np.eye(step.shape[-1])
    value = np.linalg.solve(identity - problems.gamma * step, gain[..., None])[..., 0]
    total = problems.reward + problems.gamma * np.einsum("psjn,pn->psj", problems.transition, value)  # [P, S, A^K]
    count, agents, states, actions = problems.policy.shape
    found = np.empty_like(problems.policy)
    for agent in range(agents):
        others = problems.policy.copy()
        others[:, agent] = 1.0
        weighted = (joint_policy(others) * total).reshape(count, states, *[actions] * agents)
        rest = tuple(2 + other for other in range(agents) if other != agent)
        found[:, agent] = weighted.sum(axis=rest)
    return found


def state_distributions(problems: Problems, policy: Floats, steps: int) -> Floats:
    """rho_t (Eq 30): probability of every state at times 0 .. steps - 1, `[P, T, S]`."""
    step = np.einsum("psj,psjn->psn", joint_policy(policy), problems.transition)
    found = [problems.start]
    for _ in range(steps - 1):
        found.append(np.einsum("ps,psn->pn", found[-1], step))
    return np.stack(found, axis=1)


def discounted_states(problems: Problems, policy: Floats) -> Floats:
    """rho (Eq 30): `[P, S]`, summing to 1 / (1 - gamma)."""
    step = np.einsum("psj,psjn->psn", joint_policy(policy), problems.transition)
    identity = np.eye(step.shape[-1])
    return np.linalg.solve(identity - problems.gamma * step.swapaxes(1, 2), problems.start[..., None])[..., 0]


def largest_divergence(problems: Problems) -> Floats:
    """The largest KL divergence over states between the joint policies pi and beta, `[P]`; agents' divergences add."""
    ratio = np.log(problems.policy) - np.log(problems.behaviour)
    return (problems.policy * ratio).sum(axis=(1, 3)).max(axis=1)


def lemma_1(problems: Problems, steps: int = 50) -> tuple[Floats, Floats]:
    """Both sides of Eq 31 at times 1 .. steps - 1: `[P, T - 1]` each."""
    apart = state_distributions(problems, problems.policy, steps)
    apart = np.abs(apart - state_distributions(problems, problems.behaviour, steps)).sum(axis=-1)
    bound = np.arange(0.0, 2.0 * steps, 2.0) * np.sqrt(largest_divergence(problems))[:, None]
    return apart[:, 1:], bound[:, 1:]


@dataclass(frozen=True)
class Bound:
    """Both sides of Proposition 1 (Eq 29) for the first agent, `[P]` each."""

    bias: Floats
    """The left side: distance of the mixed gradient from the gradient of the true objective."""
    printed: Floats
    """The right side as printed, with lambda_i in omega_1."""
    corrected: Floats
    """The right side without it, which is what the proof uses (Eq 33)."""


def proposition_1(problems: Problems, nu: float) -> Bound:
    """Evaluate Eq 29.

    Args:
        nu: share of the off-policy gradient (Eq 22).
    """
    policy, weight = problems.policy[:, 0], problems.weight[:, 0, :, None]  # [P, S, A], [P, S, 1]
    true, mixed = agent_values(problems)[:, 0], weight * problems.critic[:, 0]
    on, off = (discounted_states(problems, one)[..., None] for one in (problems.policy, problems.behaviour))

    def gradient(value: Floats) -> Floats:
        """Of E_pi[value] by the logits of each state: `[P, S, A]`."""
        return policy * (value - (policy * value).sum(axis=-1, keepdims=True))

    # The logits of different states are different parameters, so an expectation over states is a product
    difference = on * gradient(true) - (1 - nu) * on * gradient(mixed) - nu * off * gradient(mixed)
    score = 2 * (1 - policy)  # L1 norm of the gradient of log pi(a)
    gap = np.abs(true - mixed)
    largest = {
        "printed": (score * weight * gap).max(axis=(1, 2)), "corrected": (score * gap).max(axis=(1, 2)),
    }  # fmt: skip
    omega_2 = np.abs(gradient(mixed)).sum(axis=-1).max(axis=1)
    gamma = problems.gamma
    drift = 2 * omega_2 * nu * gamma / (1 - gamma) ** 2 * np.sqrt(largest_divergence(problems))
    sides = {name: omega_1 / (1 - gamma) + drift for name, omega_1 in largest.items()}
    return Bound(np.abs(difference).sum(axis=(1, 2)), sides["printed"], sides["corrected"])


ROUNDING = 1 + 1e-9
"""Two sides that are equal may differ by this factor in float64."""


def lemma_holds(count: int = 300, seed: int = 0) -> float:
    """Share of random problems in which Lemma 1 holds at every time."""
    left, right = lemma_1(draw(count, seed=seed))
    return float((left <= right * ROUNDING).all(axis=1).mean())


def printed_bound_holds(count: int = 1000, seed: int = 0) -> float:
    """Share of random problems, nu from 0 to 1, in which Proposition 1 holds as printed."""
    shares = []
    for index, nu in enumerate((0.0, 0.5, 1.0)):
        bound = proposition_1(draw(count, seed=seed + index), nu)
        shares.append(float((bound.bias <= bound.printed * ROUNDING).mean()))
    return float(np.mean(shares))


def corrected_bound_holds(count: int = 1000, seed: int = 0) -> float:
    """Share of random problems, nu from 0 to 1, in which Proposition 1 holds without lambda_i in omega_1."""
    shares = []
    for index, nu in enumerate((0.0, 0.5, 1.0)):
        bound = proposition_1(draw(count, seed=seed + index), nu)
        shares.append(float((bound.bias <= bound.corrected * ROUNDING).mean()))
    return float(np.mean(shares))
