"""Small cooperative Markov games, solved exactly: Theorem 4.1 and Corollary 4.2 of the MAGPO paper, put to the test.

Many random games are one batch. A policy is a table, its value the solution of a linear system, the guider of Eq 18 a
closed form, so that every line of the proofs can be checked number by number; nothing is sampled. What a learner does
with the guider is a `Rule`; the ones the paper names, and the ones that its proofs, its printed loss and its authors'
code amount to, stand in `RULES`. All tensors are torch float64.

Shapes: G game, S state, N agent, A action. `policies` are `[G, S, N, A]`, a `joint` distribution, a guider and action
values are `[G, S, A, ..., A]` with one axis per agent, as in `inconcert.tabular`, whose functions do the work for each
state.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import scipy.optimize
import scipy.special
import torch
from torch import Tensor

from inconcert import tabular
from inconcert.config import InputError, unknown

ROUNDING = 1e-9
"""A value that moved by less has not moved: linear systems are solved to about 1e-13."""

Kind = Literal["dense", "sparse", "matching"]
KINDS: tuple[str, ...] = get_args(Kind)

FLOOR = 1e-30
"""Least probability of an action. A repeated mirror step would otherwise underflow, and 0 has no logarithm."""


# ---------------------------------------------------------------------------------------------------------------------
# Games and their exact solution


@dataclass(frozen=True)
class Games:
    """A batch of cooperative Markov games of equal size (section 4.1: every agent sees the state)."""

    reward: Tensor
    """`[G, S, A, ..., A]`, the same for all agents."""
    transition: Tensor
    """`[G, S, A, ..., A, S]`: probability of each next state."""
    start: Tensor
    """`[G, S]`, rho: distribution of the first state."""
    discount: float
    """gamma, below 1."""

    @property
    def num_agents(self) -> int:
        """N."""
        return self.reward.dim() - 2

    def __len__(self) -> int:
        return len(self.reward)


def random_games(
    num_games: int,
    num_agents: int,
    num_actions: int,
    num_states: int = 4,
    discount: float = 0.9,
    kind: Kind = "dense",
    seed: int = 0,
) -> Games:
    """Games whose numbers are drawn at random.

    Args:
        kind: "dense": standard normal rewards, next-state distributions uniform on the simplex. "sparse": reward 1 for
            one joint action in eight (rounded up) of each state, else 0, and a single next state. "matching": the
            agents must agree on one of A conventions, whose names are shuffled for each agent and state; agreement
            earns 1/2 to 1, anything else costs 0 to 1, and next states are as in dense games.

    Raises:
        InputError: an unknown kind, a size below 1, a discount outside [0, 1), or too many joint actions to enumerate.
    """
    if kind not in KINDS:
        raise unknown("kind of game", kind, KINDS)
    if min(num_games, num_agents, num_actions, num_states) < 1:
        raise InputError("a batch of games needs at least 1 game, agent, action and state")
    if not 0 <= discount < 1:
        raise InputError(f"the discount must be at least 0 and below 1, not {discount}")
    joint_actions = num_actions**num_agents
    if num_games * num_states * num_states * joint_actions > tabular.MAX_JOINT_ACTIONS:
        raise InputError(
            f"{num_games} games x {num_states} states x {num_states} next states x {joint_actions} joint actions are "
            f"too many for exact enumeration; at most {tabular.MAX_JOINT_ACTIONS}"
        )
    generator = torch.Generator().manual_seed(seed)
    rows = (num_games, num_states, joint_actions)
    if kind == "sparse":
        order = torch.rand(rows, generator=generator, dtype=torch.float64).argsort(-1)
        reward = (order < -(-joint_actions // 8)).double()
        following = torch.randint(num_states, rows, generator=generator)
        transition = torch.nn.functional.one_hot(following, num_states).double()
    else:
        reward = torch.randn(rows, generator=generator, dtype=torch.float64)
        if kind == "matching":
            named = torch.rand(*rows[:2], num_agents, num_actions, generator=generator).argsort(-1)
            place = num_actions ** torch.arange(num_agents).flip(0)
            agreed = (named * place[:, None]).sum(-2)  # [G, S, A]: number of the joint action of each convention
            earned = torch.rand(agreed.shape, generator=generator, dtype=torch.float64) / 2 + 0.5
            missed = torch.rand(rows, generator=generator, dtype=torch.float64)
            reward = (-missed).scatter(-1, agreed, earned)
        transition = _simplex(generator, *rows, num_states)
    axes = [num_actions] * num_agents
    return Games(
        reward.reshape(num_games, num_states, *axes),
        transition.reshape(num_games, num_states, *axes, num_states),
        _simplex(generator, num_games, num_states),
        discount,
    )


def one_shot(payoff: Tensor) -> Games:
    """Games of a single decision, `payoff [G, A, ..., A]`: one state and no future, so that values are payoffs."""
    start = payoff.new_ones(len(payoff), 1)
    return Games(payoff.unsqueeze(1), torch.ones_like(payoff).unsqueeze(1).unsqueeze(-1), start, 0.0)


def random_policies(games: Games, seed: int = 0) -> Tensor:
    """Independent policies `[G, S, N, A]`, every row uniform on the simplex."""
    num_games, num_states, *actions = games.reward.shape
    generator = torch.Generator().manual_seed(seed + 2**32)  # not the stream that the games of this seed come from
    return _simplex(generator, num_games, num_states, len(actions), actions[0])


class Evaluation(NamedTuple):
    """The exact value of a joint policy."""

    start: Tensor
    """`[G]`: V_rho, Eq 1."""
    states: Tensor
    """`[G, S]`: V(s)."""
    actions: Tensor
    """`[G, S, A, ..., A]`: Q(s, a)."""
    visits: Tensor
    """`[G, S]`: d_rho, the discounted share of time spent in each state; sums to 1."""


def evaluate(games: Games, joint: Tensor) -> Evaluation:
    """The value of `joint` `[G, S, A, ..., A]`, by solving the linear systems of V and of the state visits."""
    num_games, num_states = games.start.shape
    weights = joint.reshape(num_games, num_states, 1, -1)
    transition = games.transition.reshape(num_games, num_states, -1, num_states)
    reward = games.reward.reshape(num_games, num_states, -1)
    system = torch.eye(num_states, dtype=torch.float64) - games.discount * (weights @ transition).squeeze(-2)
    states = torch.linalg.solve(system, (weights.squeeze(-2) * reward).sum(-1))
    actions = reward + games.discount * (transition @ states[:, None, :, None]).squeeze(-1)
    visits = (1 - games.discount) * torch.linalg.solve(system.mT, games.start)
    return Evaluation((games.start * states).sum(-1), states, actions.reshape(games.reward.shape), visits)


def optimum(games: Games) -> Tensor:
    """The best return `[G]` of any joint policy, by value iteration.

    A deterministic joint policy reaches it, and that is a product of policies: where all agents see the state, the
    best decentralised team is as good as the best centralised one.
    """
    states = torch.zeros_like(games.start)
    while True:
        following = (games.transition * states.reshape(len(games), 1, *[1] * games.num_agents, -1)).sum(-1)
        updated = (games.reward + games.discount * following).flatten(2).amax(-1)
        if (updated - states).abs().max() <= 1e-12:
            return (games.start * updated).sum(-1)
        states = updated


# ---------------------------------------------------------------------------------------------------------------------
# What a learner does with the guider


class Step(NamedTuple):
    """What a learner's update may look at, in every state of every game."""

    policies: Tensor
    """`[G, S, N, A]`: pi_k."""
    action_values: Tensor
    """`[G, S, A, ..., A]`: Q of the policy that the guider started from."""
    guider: Tensor
    """`[G, S, A, ..., A]`: the guider after its step, Eq 18."""
    step_size: float
    """eta_k."""
    k: int
    """Number of the iteration, from 0; seeds what is random."""

    @property
    def num_agents(self) -> int:
        """N."""
        return self.policies.shape[-2]


Rule = Callable[[Step], Tensor]
"""From a `Step` to the next policies `[G, S, N, A]`."""


def global_minimum(step: Step, starts: int = 4) -> Tensor:
    """Eq 19: the best of many coordinate descents, from pi_k, the guider's modes and random policies.

    `certificate` proves afterwards that nothing is better.
    """
    return _reverse(step, starts=starts, initial=step.policies)


def local_minimum(step: Step) -> Tensor:
    """Coordinate descent on the divergence of Eq 19 from pi_k: each agent's exact best in turn, until nothing moves."""
    return _reverse(step, starts=0, initial=step.policies)


def local_minimum_from_anywhere(step: Step) -> Tensor:
    """The same descent from random policies, as if the learner were a fresh network in every iteration."""
    shape, generator = step.policies.shape, torch.Generator().manual_seed(step.k)
    return _reverse(step, starts=0, initial=_simplex(generator, *shape))


def in_turns(step: Step, order: Sequence[int] | None = None) -> Tensor:
    """Eq 8 (and Eq 24): each agent once, against the earlier agents' new and the later agents' old policies.

    `pi_k exp(eta E[Q])`, normalised. The advantage of Eq 8 differs from this Q by what does not depend on the action.

    Args:
        order: i_1 ... i_n; default 0, 1, ...
    """
    policies = step.policies.clone()
    for agent in order or range(step.num_agents):
        values = tabular.action_values(step.action_values, policies)[..., agent, :]
        policies[..., agent, :] = torch.softmax(step.policies[..., agent, :].log() + step.step_size * values, dim=-1)
    return policies


def in_random_turns(step: Step) -> Tensor:
    """Eq 8 in an order that is drawn for each iteration, as HAPPO does it."""
    generator = torch.Generator().manual_seed(step.k)
    return in_turns(step, torch.randperm(step.num_agents, generator=generator).tolist())


def proof_in_turns(step: Step) -> Tensor:
    """The lines before Eq 28 with the guider's true conditionals: each agent minimises its own term of Eq 27."""
    return tabular.sequential_reverse_projection(step.guider, step.num_agents, floor=0.0).policies


def printed_loss(step: Step) -> Tensor:
    """The minimum of Eq 11 (lambda = 0): each agent's KL(learner || guider), averaged over the *guider's* prefixes."""
    conditionals = tabular.condition(step.guider, step.num_agents)
    rows, reached = [], step.guider.new_ones(())
    for conditional in conditionals:
        scores = reached * conditional.log()
        rows.append(torch.softmax(scores.flatten(2, -2).sum(2) if scores.dim() > 3 else scores, dim=-1))
        reached = (reached * conditional).unsqueeze(-1)
    return torch.stack(rows, dim=-2)


def imitation(step: Step) -> Tensor:
    """The other direction, KL(guider || learner), of the authors' code: the product of the guider's marginals."""
    return tabular.forward_projection(step.guider, step.num_agents).policies


def gradient_steps(step: Step, rate: float = 1.0, steps: int = 5, other_direction: bool = False) -> Tensor:
    """A few exact gradient steps from pi_k on the logits of all agents at once, in place of a minimisation.

    Args:
        rate: learning rate of plain gradient descent.
        steps: number of gradient steps.
        other_direction: descend KL(guider || learner) instead of KL(learner || guider).
    """
    logits = step.policies.log()
    log_guider = step.guider.log()
    frequency = tabular.marginals(step.guider, step.num_agents)
    for _ in range(steps):
        policies = torch.softmax(logits, dim=-1)
        if other_direction:
            slope = policies - frequency
        else:
            cost = torch.log_softmax(logits, dim=-1) - tabular.action_values(log_guider, policies)
            slope = policies * (cost - (policies * cost).sum(-1, keepdim=True))
        logits = logits - rate * slope
    return torch.softmax(logits, dim=-1)


def at_once(step: Step) -> Tensor:
    """No guider: every agent makes its own mirror step against the others' old policies (vanilla CTDE)."""
    return tabular.simultaneous_mirror_step(step.action_values, step.policies, step.step_size)


RULES: dict[str, Rule] = {
    "Eq 19, global": global_minimum,
    "Eq 19, local": local_minimum,
    "Eq 19, random start": local_minimum_from_anywhere,
    "Eq 8, in turns": in_turns,
    "Eq 8, random order": in_random_turns,
    "proof of Eq 28": proof_in_turns,
    "Eq 11": printed_loss,
    "imitation": imitation,
    "at once": at_once,
}
"""The learner updates by the names that the book uses. CTDS is `imitation` without backtracking, see `iterate`."""


# ---------------------------------------------------------------------------------------------------------------------
# The global minimum of Eq 19, proved


def certificate(guider: Tensor, divergence: Tensor, num_agents: int, gap: float = 1e-6, rounds: int = 400) -> Tensor:
    """A proven lower bound `[...]` on `KL(product || guider)` over *all* independent policies: branch and bound.

    The last agent's best policy is known for any policies of the others, which leaves their simplices to search. They
    are cut into cells. On a cell the others' negative entropies lie above their tangents at its centre, and what is
    left is concave in the product of their policies, so that it is smallest at a corner. Cells that cannot hold
    anything better than the best point so far, less `gap`, are dropped; the others are halved.

    Args:
        guider: `[..., A, ..., A]`, positive.
        divergence: `[...]`, the minimum that some search has found.
        num_agents: N, at least 2.
        gap: how much lower than the best point the bound may be.
        rounds: halvings after which the bound is returned as it stands: still proven, but less tight.

    Returns:
        The bound. `divergence <= bound + gap` says that the search did find the global minimum, to within `gap`.
    """
    # cells come last: every operation is then elementwise along them
    log_guider = guider.flatten(0, guider.dim() - num_agents - 1).log().movedim(0, -1).contiguous()
    num_actions, free = guider.shape[-1], num_agents - 1
    best = divergence.flatten().clone()
    cells = torch.eye(num_actions, dtype=torch.float64).unsqueeze(-1).repeat(free, 1, 1, len(best))
    owner = torch.arange(len(best))
    lower, middle = _bounds(log_guider[..., owner], cells)
    for _ in range(rounds):
        best = best.scatter_reduce(0, owner, middle, "amin")
        open_cells = (lower < best[owner] - gap).nonzero().squeeze(1)
        cells, owner, lower = cells[..., open_cells], owner[open_cells], lower[open_cells]
        if not len(owner):
            break
        cells, owner = _halve(cells), owner.repeat(2)
        lower, middle = _bounds(log_guider[..., owner], cells)
    bound = (best - gap).scatter_reduce(0, owner, lower, "amin")
    return bound.reshape(divergence.shape)


def _bounds(log_guider: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """The least that the divergence can be in each cell, and what it is at the cell's centre: `[C]` each.

    Args:
        log_guider: `[A, ..., A, C]`.
        cells: `[N - 1, corner, A, C]`.
    """
    centre = cells.mean(1)  # [N - 1, A, C]
    tangents = (cells * centre.log().unsqueeze(1)).sum(2)  # [N - 1, corner, C], by Gibbs' inequality below -entropy
    corners, at_centre = log_guider.unsqueeze(0), log_guider  # [corners of the agents so far, A, ..., A, C]
    below = tangents.new_zeros(1, 1)
    for weights, middle, tangent in zip(cells, centre, tangents, strict=True):
        rest = [1] * (at_centre.dim() - 2)  # agents that come after this one
        corners = (corners.unsqueeze(1) * weights.unflatten(1, (-1, *rest))).sum(2).flatten(0, 1)
        at_centre = (at_centre * middle.unflatten(0, (-1, *rest))).sum(0)
        below = (below.unsqueeze(1) + tangent).flatten(0, 1)
    lower = (below - torch.logsumexp(corners, dim=1)).amin(0)
    return lower, torch.special.xlogy(centre, centre).sum((0, 1)) - torch.logsumexp(at_centre, dim=0)


def _halve(cells: Tensor) -> Tensor:
    """`[N - 1, corner, A, 2 C]`: each cell is cut across its longest edge, all first halves before all second ones."""
    corners, count = cells.shape[1], cells.shape[-1]
    ends = torch.combinations(torch.arange(corners), 2)
    lengths = (cells[:, ends[:, 0]] - cells[:, ends[:, 1]]).square().sum(2)  # [N - 1, edge, C]
    longest = lengths.flatten(0, 1).argmax(0)
    agent, (first, second) = longest // len(ends), ends[longest % len(ends)].T
    columns = torch.arange(count)
    middle = (cells[agent, first, :, columns] + cells[agent, second, :, columns]) / 2
    halves = cells.repeat(1, 1, 1, 2)
    halves[agent, first, :, columns] = middle
    halves[agent, second, :, columns + count] = middle
    return halves


# ---------------------------------------------------------------------------------------------------------------------
# Corollary 4.2: the factors of the guider


def printed_factors(step: Step) -> tabular.Conditionals:
    """Eq 26: the guider's factor of each agent as the paper has it, `pi_k exp(eta A)` normalised after each prefix.

    The advantage of agent j (Eq 6) lets the agents after j follow pi_k, so its exponential does not see that the
    guider's later agents will react; the true factors are `tabular.condition(step.guider, N)`.
    """
    old = tabular.ignore_prefix(step.policies)
    values = tabular.prefix_values(step.action_values, old)
    return tuple(
        torch.softmax(before.log() + step.step_size * value, dim=-1) for before, value in zip(old, values, strict=True)
    )


def soft_factors(step: Step) -> tabular.Conditionals:
    """What Eq 26 has to be: the value after a prefix is `log E exp(eta Q) / eta` over pi_k, not `E Q`.

    With W_n = Q and W_(j-1) = log E[exp(eta W_j)] / eta over agent j's old policy, the factors
    `pi_k exp(eta (W_j - W_(j-1)))` need no further normaliser and their product is the guider of Eq 18.
    """
    factors: list[Tensor] = []
    soft = step.step_size * step.action_values
    for agent in reversed(range(step.num_agents)):
        old = step.policies[..., agent, :].log()
        scores = old.reshape(*old.shape[:-1], *[1] * agent, -1) + soft
        soft = torch.logsumexp(scores, dim=-1)
        factors.insert(0, torch.exp(scores - soft.unsqueeze(-1)))
    return tuple(factors)


def total_variation(first: Tensor, second: Tensor, num_agents: int) -> Tensor:
    """Half the L1 distance `[...]` of two joint distributions: the largest difference in any event's probability."""
    return 0.5 * (first - second).abs().flatten(-num_agents).sum(-1)


# ---------------------------------------------------------------------------------------------------------------------
# Learning, and the proof line by line


class Audit(NamedTuple):
    """The lines of the proof of Theorem 4.1 in one iteration; a slack below 0 breaks its line."""

    eq_20: Tensor
    """`[G, S]`, nats: how much nearer than pi_k the new learner is to the guider."""
    eq_21: Tensor
    """`[G, S]`: the same without the guider's normaliser."""
    eq_22: Tensor
    """`[G, S]`: gain of expected Q times eta, less KL(pi_(k+1) || pi_k)."""
    lemma: Tensor
    """`[G]`: error of the performance difference lemma (first line of Eq 23); 0 if it holds."""
    eq_23: Tensor
    """`[G]`: gain of V_rho less the bound of Eq 23."""
    bound: Tensor
    """`[G]`: that bound, the mean KL(pi_(k+1) || pi_k) over the new visits, over eta (1 - gamma)."""


class Iteration(NamedTuple):
    """One round of guider step, learner update and (if wanted) backtracking."""

    step: Step
    before: Evaluation
    """Of the learner."""
    policies: Tensor
    """`[G, S, N, A]`: pi_(k+1)."""
    after: Evaluation
    """Of the new learner."""


def iterate(
    games: Games, policies: Tensor, rule: Rule, step_size: float, iterations: int, backtrack: bool = True
) -> Iterator[Iteration]:
    """MAGPO's four steps (section 4.1) with exact values, once for each iteration.

    Args:
        policies: `[G, S, N, A]`, where learner and guider start.
        rule: the learner's update.
        step_size: eta, for all iterations.
        backtrack: reset the guider to the learners after each iteration. False is a teacher that runs ahead on its
            own; with `imitation` that is CTDS.
    """
    policies = _floored(policies)
    guider = tabular.product(policies)
    learner = teacher = evaluate(games, guider)
    for k in range(iterations):
        guider = tabular.guider_step(teacher.actions, guider, step_size, games.num_agents)
        step = Step(policies, teacher.actions, guider, step_size, k)
        before, policies = learner, _floored(rule(step))
        joint = tabular.product(policies)
        learner = evaluate(games, joint)
        yield Iteration(step, before, policies, learner)
        if backtrack:
            guider, teacher = joint, learner
        else:
            teacher = evaluate(games, guider)


def returns(iterations: Iterator[Iteration]) -> Tensor:
    """The learner's return at the start and after each iteration, `[K + 1, G]`."""
    rows: list[Tensor] = []
    for iteration in iterations:
        rows = rows or [iteration.before.start]
        rows.append(iteration.after.start)
    return torch.stack(rows)


def audit(games: Games, iteration: Iteration) -> Audit:
    """Eqs 20 to 23 for an iteration with backtracking."""
    step, after, size = iteration.step, iteration.after, games.num_agents
    old, new = tabular.product(step.policies), tabular.product(iteration.policies)
    moved = tabular.kl_divergence(new, old, size)
    gain = tabular.expected_return(step.action_values, new, size)
    gain = gain - tabular.expected_return(step.action_values, old, size)
    horizon = 1 / (1 - games.discount)
    improvement = after.start - iteration.before.start
    bound = horizon / step.step_size * (after.visits * moved).sum(-1)
    nearer = tabular.kl_divergence(old, step.guider, size) - tabular.kl_divergence(new, step.guider, size)
    cost = -step.step_size * step.action_values
    right = tabular.expected_return(cost + new.log() - old.log(), new, size)
    return Audit(
        nearer,
        tabular.expected_return(cost, old, size) - right,
        step.step_size * gain - moved,
        improvement - horizon * (after.visits * gain).sum(-1),
        improvement - bound,
        bound,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Eq 17 by numerical optimisation


def guider_objective(step: Step, joint: Tensor) -> Tensor:
    """What Eq 17 maximises, `eta <Q, mu> - KL(mu || mu_k)`, at mu = `joint` in every state: `[G, S]`."""
    gain = tabular.expected_return(step.action_values, joint, step.num_agents)
    return step.step_size * gain - tabular.kl_divergence(joint, tabular.product(step.policies), step.num_agents)


def optimise_guider(step: Step) -> Tensor:
    """The joint policies `[G, S, A, ..., A]` that L-BFGS-B finds for Eq 17, from a random softmax policy per state."""
    scores = tabular.product(step.policies).log() + step.step_size * step.action_values
    flat = scores.flatten(0, 1).flatten(1).numpy()
    drawn = np.random.default_rng(step.k)

    def loss(logits: np.ndarray, score: np.ndarray) -> tuple[float, np.ndarray]:
        log_joint = logits - scipy.special.logsumexp(logits)
        joint = np.exp(log_joint)
        slope = score - log_joint
        value = joint @ slope
        return -value, -joint * (slope - value)

    found = [
        scipy.optimize.minimize(
            loss, drawn.standard_normal(score.shape), (score,), "L-BFGS-B", True, options={"ftol": 0.0, "gtol": 1e-11}
        ).x
        for score in flat
    ]
    return torch.softmax(torch.from_numpy(np.array(found)), dim=-1).reshape(scores.shape)


# ---------------------------------------------------------------------------------------------------------------------
# The suite on which data/claims.yml judges; the criteria call these functions by name

SIZES = ((2, 2), (2, 3), (3, 2))
"""Agents and actions of the games whose global minima are certified."""
STEP_SIZES = (0.1, 1.0, 10.0)
ITERATIONS = 10
GAP = 1e-6
"""Nats by which a certified minimum may lie above the true one."""

Run = tuple[Games, tuple[Iteration, ...]]


@functools.cache
def suite(num_games: int = 12, seed: int = 0) -> tuple[tuple[Games, Tensor], ...]:
    """For each of `SIZES` a dense and a sparse batch of games, with policies to start from."""
    batches = []
    kinds: tuple[Kind, ...] = ("dense", "sparse")
    for number, ((agents, actions), kind) in enumerate(itertools.product(SIZES, kinds)):
        games = random_games(num_games, agents, actions, kind=kind, seed=seed + number)
        batches.append((games, random_policies(games, seed + number)))
    return tuple(batches)


@functools.cache
def _suite_run(rule: str, backtrack: bool = True) -> tuple[Run, ...]:
    return tuple(
        (games, tuple(iterate(games, policies, RULES[rule], step_size, ITERATIONS, backtrack)))
        for games, policies in suite()
        for step_size in STEP_SIZES
    )


@functools.cache
def _certified_run() -> tuple[tuple[Games, Iteration, Tensor], ...]:
    """Every iteration with Eq 19 solved globally, and the divergence `[G, S]` that is proven to be the least."""
    pairs = [(games, iteration) for games, run in _suite_run("Eq 19, global") for iteration in run]
    found = certified_divergences([iteration for _, iteration in pairs])
    return tuple((games, iteration, least) for (games, iteration), least in zip(pairs, found, strict=True))


def certified_divergences(iterations: Sequence[Iteration]) -> list[Tensor]:
    """`KL(product || guider)` `[G, S]` of policies that are proven to minimise it, to within `GAP`.

    Iterations of one size are proven in one batch.

    Raises:
        ArithmeticError: some are not the global minimum, or the proof was not found in time.
    """
    found: dict[int, Tensor] = {}
    key = [iteration.step.guider.shape for iteration in iterations]
    for shape in dict.fromkeys(key):
        chosen = [number for number, other in enumerate(key) if other == shape]
        guiders = torch.stack([iterations[number].step.guider for number in chosen])
        policies = torch.stack([iterations[number].policies for number in chosen])
        divergences = tabular.kl_divergence(tabular.product(policies), guiders, policies.shape[-2])
        excess = (divergences - certificate(guiders, divergences, policies.shape[-2], GAP)).max().item()
        if excess > 2 * GAP:
            raise ArithmeticError(f"no proof that Eq 19 is solved globally: {excess:.1e} nats above the lower bound")
        found.update(zip(chosen, divergences, strict=True))
    return [found[number] for number in range(len(iterations))]


def share_of_falls(rule: str, backtrack: bool = True) -> float:
    """The share of iterations, over all games and step sizes of the suite, in which the learner's return falls."""
    fell = [
        iteration.after.start < iteration.before.start - ROUNDING
        for _, run in _suite_run(rule, backtrack)
        for iteration in run
    ]
    return torch.cat(fell).double().mean().item()


def guider_shortfall() -> float:
    """Eqs 17 and 18: by how much a numerical optimiser beats the closed form, at most; 0 if it never does.

    In the first two games of each batch of the suite.
    """
    worst = 0.0
    for games, policies in suite():
        for step_size in STEP_SIZES:
            step = next(iterate(games, policies, at_once, step_size, 1)).step
            few = step._replace(**{name: getattr(step, name)[:2] for name in ("policies", "action_values", "guider")})
            beaten = guider_objective(few, optimise_guider(few)) - guider_objective(few, few.guider)
            worst = max(worst, beaten.max().item())
    return worst


def theorem_falls() -> float:
    """Theorem 4.1: `share_of_falls` when Eq 19 is solved to its certified global minimum."""
    _certified_run()
    return share_of_falls("Eq 19, global")


def proof_violation() -> float:
    """Theorem 4.1: the largest violation of any of Eqs 20 to 23 in any state and iteration, 0 if all hold."""
    worst = 0.0
    for games, iteration, _ in _certified_run():
        lines = audit(games, iteration)
        slacks = [lines.eq_20, lines.eq_21, lines.eq_22, -lines.lemma.abs(), lines.eq_23]
        worst = max(worst, *(-slack.min().item() for slack in slacks))
    return worst


def rivals_that_fall() -> float:
    """How many of CTDS and simultaneous independent updates lower the return in some iteration of the suite."""
    return float((share_of_falls("imitation", backtrack=False) > 0) + (share_of_falls("at once") > 0))


def decomposition_error() -> float:
    """Eqs 25 and 26: the largest total variation distance between the guider and the product of the printed factors."""
    return max(
        total_variation(tabular.chain(printed_factors(iteration.step)), iteration.step.guider, games.num_agents)
        .max()
        .item()
        for games, iteration, _ in _certified_run()
    )


def sequential_excess() -> float:
    """Corollary 4.2: how much further from the guider than the certified minimum Eq 8 ends, at most, in nats."""
    worst = 0.0
    for games, iteration, least in _certified_run():
        turns = tabular.product(in_turns(iteration.step))
        divergence = tabular.kl_divergence(turns, iteration.step.guider, games.num_agents)
        worst = max(worst, (divergence - least).max().item())
    return worst


def order_effect() -> float:
    """Corollary 4.2, "any ordered subset": the largest distance between Eq 8 in order and in reverse order."""
    worst = 0.0
    for games, iteration, _ in _certified_run():
        order = range(games.num_agents)
        one, other = (tabular.product(in_turns(iteration.step, each)) for each in (order, order[::-1]))
        worst = max(worst, total_variation(one, other, games.num_agents).max().item())
    return worst


def sequential_falls() -> float:
    """`share_of_falls` of Eq 8, one agent after the other."""
    return share_of_falls("Eq 8, in turns")


# ---------------------------------------------------------------------------------------------------------------------
# Small helpers


def _simplex(generator: torch.Generator, *shape: int) -> Tensor:
    """Rows `[..., K]` drawn uniformly from the simplex."""
    drawn = torch.empty(shape, dtype=torch.float64).exponential_(generator=generator)
    return drawn / drawn.sum(-1, keepdim=True)


def _floored(policies: Tensor) -> Tensor:
    policies = policies.clamp_min(FLOOR)
    return policies / policies.sum(-1, keepdim=True)


def _reverse(step: Step, starts: int, initial: Tensor) -> Tensor:
    return tabular.reverse_projection(
        step.guider, step.num_agents, starts, step.k, initial, floor=0.0, sweeps=200, tolerance=1e-10
    ).policies
