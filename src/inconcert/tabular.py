"""Exact small cooperative games: who can play which joint distribution, and what is lost in translation.

One decision of `N` agents with `A` actions each is a dense tensor with one axis per agent, so expectations, marginals,
projections and gradients are computed by summing every case, never by sampling. All tensors are torch float64.

Shapes. `...` stands for any leading axes (seeds, states of a game, teachers), over which every function broadcasts:

* `payoff` `[..., A, ..., A]`: the common payoff of every joint action (one-shot reward, or `Q(s, .)` of a Markov game).
* `joint` `[..., A, ..., A]`: a distribution over joint actions; agent 0 owns the first of the last `N` axes.
* `policies` `[..., N, A]`: independent policies, one row per agent (the decentralised learner of MAGPO, section 4.1).
* `conditionals`: a tuple of `N` tensors, number `j` is `[..., A, ..., A]` with `j + 1` action axes: the distribution of
  agent `j` (last axis) after each possible prefix of earlier actions (the autoregressive guider, section 4.1).

The equations are those of the MAGPO paper; the game of its Figure 1 is `sum_game(3, 10, target=10)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from inconcert.config import InputError

MAX_JOINT_ACTIONS = 10**7
"""Largest `A ** N` that is written out as a dense tensor (80 MB in float64)."""

TIE = 1e-12
"""Actions whose values differ by less are equally good: sums of products of probabilities are rounded."""

FIGURE_1_ACTIONS, FIGURE_1_TARGET = 10, 10
"""The paper lets each agent "output an integer"; here it is one of 0 .. 9, as in its task CoordSum-3x10-30."""

Conditionals = tuple[Tensor, ...]


# ---------------------------------------------------------------------------------------------------------------------
# Games


def sum_game(num_agents: int, num_actions: int, target: int) -> Tensor:
    """The game of Figure 1: payoff 1 where the actions `0 .. A-1` of all agents sum to `target`, else 0.

    Returns:
        payoff `[A, ..., A]` with `num_agents` axes. A target that no joint action meets gives all zeros.

    Raises:
        InputError: no agent, no action, or more than `MAX_JOINT_ACTIONS` joint actions.
    """
    if num_agents < 1 or num_actions < 1:
        raise InputError(f"a game needs at least 1 agent and 1 action, not {num_agents} and {num_actions}")
    if num_actions**num_agents > MAX_JOINT_ACTIONS:
        raise InputError(
            f"{num_actions} actions ** {num_agents} agents = {num_actions**num_agents} joint actions are too many for "
            f"exact enumeration; at most {MAX_JOINT_ACTIONS}"
        )
    total = torch.zeros([1] * num_agents, dtype=torch.int64)
    for agent in range(num_agents):
        total = total + _along(torch.arange(num_actions), agent, num_agents)
    return (total == target).double()


def action_values(payoff: Tensor, policies: Tensor) -> Tensor:
    """What each agent expects from each of its own actions while the others follow their policies.

    Args:
        payoff: `[..., A, ..., A]`.
        policies: `[..., N, A]`.

    Returns:
        `[..., N, A]`, entry `[i, a] = E[payoff | agent i plays a, the others sample]` (Eq 7 for a single agent).
    """
    return torch.stack([_values_of(payoff, policies, agent) for agent in range(policies.shape[-2])], dim=-2)


def expected_return(payoff: Tensor, joint: Tensor, num_agents: int) -> Tensor:
    """The exact mean payoff `[...]` of a joint distribution (Eq 1 for a game of one step)."""
    return (payoff * joint).sum(_action_axes(joint, num_agents))


def success_probability(joint: Tensor, num_agents: int, target: int) -> Tensor:
    """The exact probability `[...]` that the sampled actions of all agents sum to `target`."""
    return expected_return(sum_game(num_agents, joint.shape[-1], target), joint, num_agents)


# ---------------------------------------------------------------------------------------------------------------------
# Policies and the joint distributions they can play


def deterministic(actions: Sequence[int], num_actions: int) -> Tensor:
    """Independent policies `[N, A]` that always play `actions`.

    Raises:
        InputError: an action outside `0 .. num_actions - 1`.
    """
    for agent, action in enumerate(actions):
        if not 0 <= action < num_actions:
            raise InputError(f"action {action} of agent {agent} is not one of 0 .. {num_actions - 1}")
    return torch.nn.functional.one_hot(torch.tensor(actions), num_actions).double()


def product(policies: Tensor) -> Tensor:
    """The joint `[..., A, ..., A]` of independent `policies` `[..., N, A]`: all that a decentralised team can play."""
    num_agents = policies.shape[-2]
    joint = _along(policies[..., 0, :], 0, num_agents)
    for agent in range(1, num_agents):
        joint = joint * _along(policies[..., agent, :], agent, num_agents)
    return joint


def marginals(joint: Tensor, num_agents: int) -> Tensor:
    """How often each agent plays each action: `[..., N, A]`."""
    axes = _action_axes(joint, num_agents)
    if num_agents == 1:
        return joint.unsqueeze(-2)
    return torch.stack([joint.sum([axis for axis in axes if axis != own]) for own in axes], dim=-2)


def ignore_prefix(policies: Tensor) -> Conditionals:
    """Independent policies as an autoregressive policy whose agents look at nobody (MAGPO's guider backtracking)."""
    *batch, num_agents, num_actions = policies.shape
    return tuple(
        policies[..., agent, :].reshape(*batch, *[1] * agent, num_actions).expand(*batch, *[num_actions] * (agent + 1))
        for agent in range(num_agents)
    )


def chain(conditionals: Conditionals) -> Tensor:
    """The joint `[..., A, ..., A]` of an autoregressive policy: agent 0 acts, agent 1 sees it and acts, and so on."""
    joint = conditionals[0]
    for conditional in conditionals[1:]:
        joint = joint.unsqueeze(-1) * conditional
    return joint


def condition(joint: Tensor, num_agents: int) -> Conditionals:
    """The autoregressive policy that plays `joint`: the inverse of `chain`.

    After a prefix that never occurs the conditional is not defined by `joint`; it is set to uniform.
    """
    axes = _action_axes(joint, num_agents)
    conditionals = []
    for agent in range(num_agents):
        prefix = joint.sum(axes[agent + 1 :]) if agent + 1 < num_agents else joint
        total = prefix.sum(-1, keepdim=True)
        reached = total > 0
        conditionals.append(torch.where(reached, prefix / torch.where(reached, total, 1.0), 1.0 / prefix.shape[-1]))
    return tuple(conditionals)


def prefix_values(payoff: Tensor, conditionals: Conditionals) -> Conditionals:
    """What agent `j` expects from its action after each prefix, the later agents following `conditionals` (Eq 7).

    Returns:
        `N` tensors shaped like `conditionals`: the j-th is `Q(a_0 .. a_j)`.
    """
    values = [payoff]
    for conditional in reversed(conditionals[1:]):
        values.insert(0, (values[0] * conditional).sum(-1))
    return tuple(values)


# ---------------------------------------------------------------------------------------------------------------------
# Learning steps, exact


def simultaneous_best_responses(payoff: Tensor, policies: Tensor) -> Tensor:
    """Every agent moves at once to the best reply against the others' *old* policies: `[..., N, A]`.

    An agent keeps as much of its old policy as is a best reply; where none of it is, it plays all best replies equally
    often. This is Figure 1 (A), vanilla CTDE, with the largest possible step.
    """
    return _best(action_values(payoff, policies), policies)


def sequential_best_responses(payoff: Tensor, conditionals: Conditionals) -> Conditionals:
    """Every agent moves to its best reply after each prefix, the last agent first: Figure 1 (B), sequential execution.

    The last agent knows the whole prefix; each earlier agent counts on the replies of those after it. This is backward
    induction, so one call reaches the best joint return from any start. Ties as in `simultaneous_best_responses`.
    """
    improved: list[Tensor] = []
    values = payoff
    for conditional in reversed(conditionals):
        improved.insert(0, _best(values, conditional))
        values = (values * improved[0]).sum(-1)
    return tuple(improved)


def policy_gradient(payoff: Tensor, policies: Tensor) -> Tensor:
    """The exact gradient `[..., N, A]` of the expected return of independent softmax policies by their logits.

    `dV / dlogit[i, a] = policies[i, a] * (action_values[i, a] - V)`, for all agents at the same point (simultaneous).
    """
    values = action_values(payoff, policies)
    return policies * (values - (policies * values).sum(-1, keepdim=True))


def simultaneous_mirror_step(payoff: Tensor, policies: Tensor, step_size: float) -> Tensor:
    """One step of policy mirror descent (Eq 3) by every agent on its own, all at once: `[..., N, A]`.

    `policies * exp(step_size * action_values)`, normalised per agent. As `step_size` grows it becomes
    `simultaneous_best_responses`.
    """
    return torch.softmax(torch.log(policies) + step_size * action_values(payoff, policies), dim=-1)


def guider_step(payoff: Tensor, joint: Tensor, step_size: float, num_agents: int) -> Tensor:
    """One step of policy mirror descent by the joint policy: the closed form of MAGPO's guider, Eq 18.

    Args:
        payoff: `[..., A, ..., A]`, `Q(s, .)` of the current joint policy.
        joint: `[..., A, ..., A]`, the current guider (after backtracking: the product of the learners).
        step_size: the paper's eta.

    Returns:
        `joint * exp(step_size * payoff) / z`, `[..., A, ..., A]`.
    """
    logits = torch.log(joint) + step_size * payoff
    return torch.softmax(logits.flatten(-num_agents), dim=-1).reshape(logits.shape)


# ---------------------------------------------------------------------------------------------------------------------
# Divergences and distillation


def entropy(joint: Tensor, num_agents: int) -> Tensor:
    """Shannon entropy `[...]` of a joint distribution, in nats."""
    return torch.special.entr(joint).sum(_action_axes(joint, num_agents))


def kl_divergence(first: Tensor, second: Tensor, num_agents: int) -> Tensor:
    """`KL(first || second)` `[...]` of two joint distributions, in nats; infinite where `first` leaves the support."""
    return (torch.special.xlogy(first, first) - torch.special.xlogy(first, second)).sum(_action_axes(first, num_agents))


class Projection(NamedTuple):
    """Independent policies that stand in for a joint distribution."""

    policies: Tensor
    """`[..., N, A]`."""
    divergence: Tensor
    """`[...]`, nats: the KL divergence that was minimised, at `policies`."""


def forward_projection(joint: Tensor, num_agents: int) -> Projection:
    """Distillation by behaviour cloning: the independent policies that minimise `KL(joint || product)`.

    Sampling the teacher and raising the students' likelihood minimises the teacher's cross-entropy, one separate term
    per agent, each least at that agent's marginal. So the minimiser is the product of the marginals, and the divergence
    that is left is the teacher's total correlation. This is CTDS (Figure 1 C) and the learner of MAGPO's released code.
    """
    policies = marginals(joint, num_agents)
    return Projection(policies, kl_divergence(joint, product(policies), num_agents))


def reverse_projection(
    joint: Tensor,
    num_agents: int,
    starts: int = 16,
    seed: int = 0,
    initial: Tensor | None = None,
    floor: float = 1e-12,
    sweeps: int = 500,
    tolerance: float = 1e-12,
) -> Projection:
    """The independent policies that minimise `KL(product || joint)`: MAGPO's learner update, Eq 19.

    With the other agents fixed the best policy of agent `i` is known exactly, `exp(E[log joint | own action])`
    normalised, so the agents take turns until nothing moves (coordinate descent, never uphill). The problem is not
    convex: every start may end in another local minimum, and the best one found is returned.

    Args:
        joint: `[..., A, ..., A]`, the guider.
        starts: so many random starts (uniform on the simplex, the same for all leading axes), and as many from the
            guider's most likely joint actions, each played for sure.
        seed: of the random starts.
        initial: `[..., N, A]`, one more start. The result is then never worse than it, which is all that Theorem 4.1
            needs from Eq 20; with `starts=0` the projection is local.
        floor: weight of a uniform distribution that is mixed into `joint`, because a teacher with zeros is infinitely
            far from every student that has a tail. 0 uses `joint` as it is.
        sweeps: most rounds over all agents.
        tolerance: stop when no probability moved by more than this in a round.

    Returns:
        policies `[..., N, A]` and their divergence `[...]` from the floored joint.

    Raises:
        InputError: no start at all, or zeros in `joint` without a floor.
    """
    target = _floored(joint, floor, num_agents)
    log_target = torch.log(target)
    batch, num_actions = joint.shape[: joint.dim() - num_agents], joint.shape[-1]
    shape = (*batch, num_agents, num_actions)
    candidates = []
    if initial is not None:
        candidates.append(initial.expand(1, *shape))
    if starts > 0:
        drawn = torch.empty(starts, num_agents, num_actions, dtype=torch.float64)
        drawn.exponential_(generator=torch.Generator().manual_seed(seed))
        random = (drawn / drawn.sum(-1, keepdim=True)).reshape(starts, *[1] * len(batch), num_agents, num_actions)
        candidates += [random.expand(starts, *shape), _modes(joint, num_agents, starts)]
    if not candidates:
        raise InputError("the reverse projection needs starts >= 1 or an initial policy")
    policies = torch.cat(candidates)

    for _ in range(sweeps):
        before = policies.clone()
        for agent in range(num_agents):
            policies[..., agent, :] = torch.softmax(_values_of(log_target, policies, agent), dim=-1)
        if (policies - before).abs().max() <= tolerance:
            break
    divergence, best = kl_divergence(product(policies), target, num_agents).min(0)
    chosen = best[None, ..., None, None].expand(1, *shape)
    return Projection(policies.gather(0, chosen)[0], divergence)


def sequential_reverse_projection(joint: Tensor, num_agents: int, floor: float = 1e-12) -> Projection:
    """The learner update of Corollary 4.2 as its proof computes it: one agent after the other, never looking back.

    Agent `j` minimises its own term of Eq 27 with the earlier agents' new policies as prefix (the lines before Eq 28).
    Earlier agents ignore what their choice costs the later ones, so this is in general *not* the minimiser of Eq 19.

    Returns:
        policies `[..., N, A]` and their `KL(product || joint)` `[...]` from the floored joint (see
        `reverse_projection`).
    """
    target = _floored(joint, floor, num_agents)
    rows: list[Tensor] = []
    for agent, conditional in enumerate(condition(target, num_agents)):
        scores = torch.log(conditional)
        for earlier in reversed(range(agent)):
            scores = (scores * _along(rows[earlier], earlier, earlier + 2)).sum(-2)
        rows.append(torch.softmax(scores, dim=-1))
    policies = torch.stack(rows, dim=-2)
    return Projection(policies, kl_divergence(product(policies), target, num_agents))


# ---------------------------------------------------------------------------------------------------------------------
# Figure 1 in numbers: the criteria of data/claims.yml call these by name


def figure_1_teacher(num_modes: int = 2) -> Conditionals:
    """The stochastic teacher of Figure 1 (C): agent 0 draws x, agent 1 plays 3, agent 2 sees both and plays 7 - x.

    Args:
        num_modes: over how many values x is uniform; 2 is the paper's {3, 4}. More are taken around them, 1 is {3}.

    Raises:
        InputError: not 1 .. 8 modes (7 - x must be an action).
    """
    if not 1 <= num_modes <= 8:
        raise InputError(f"the teacher of Figure 1 has 1 to 8 modes (x and 7 - x are both actions), not {num_modes}")
    first_value = 3 - (num_modes - 1) // 2
    first = deterministic(range(first_value, first_value + num_modes), FIGURE_1_ACTIONS).mean(0)
    second = deterministic([3], FIGURE_1_ACTIONS).expand(FIGURE_1_ACTIONS, FIGURE_1_ACTIONS)
    third = sequential_best_responses(_figure_1_payoff(), ignore_prefix(deterministic([3, 3, 3], FIGURE_1_ACTIONS)))[2]
    return first, second, third


def figure_1_simultaneous_success() -> float:
    """Figure 1 (A): three agents that all play 3 (sum 9) make one simultaneous best response (all play 4, sum 12).

    Returns:
        The larger of the success probabilities before and after that update.
    """
    before = deterministic([3, 3, 3], FIGURE_1_ACTIONS)
    after = simultaneous_best_responses(_figure_1_payoff(), before)
    return max(success_probability(product(policies), 3, FIGURE_1_TARGET).item() for policies in (before, after))


def figure_1_sequential_success() -> float:
    """Figure 1 (B): agent 0 has moved to 4, agent 1 still plays 3, agent 2 acts last and replies to what it sees.

    Before the update agent 2 holds the 4 of panel (A), so that the team fails (sum 11) unless it looks.

    Returns:
        The success probability after the sequential update.
    """
    before = ignore_prefix(deterministic([4, 3, 4], FIGURE_1_ACTIONS))
    after = sequential_best_responses(_figure_1_payoff(), before)
    return success_probability(chain(after), 3, FIGURE_1_TARGET).item()


def figure_1_distilled_success() -> float:
    """Figure 1 (C): the success probability of independent policies distilled from `figure_1_teacher`."""
    students = forward_projection(chain(figure_1_teacher()), 3).policies
    return success_probability(product(students), 3, FIGURE_1_TARGET).item()


def _figure_1_payoff() -> Tensor:
    return sum_game(3, FIGURE_1_ACTIONS, FIGURE_1_TARGET)


# ---------------------------------------------------------------------------------------------------------------------
# Axes


def _action_axes(joint: Tensor, num_agents: int) -> list[int]:
    """The last `num_agents` axes, after a check that they can be action axes."""
    if not 1 <= num_agents <= joint.dim() or len(set(joint.shape[-num_agents:])) != 1:
        raise InputError(
            f"a joint distribution of {num_agents} agents ends in {num_agents} axes of one length, "
            f"not in shape {list(joint.shape)}"
        )
    return list(range(-num_agents, 0))


def _along(rows: Tensor, position: int, num_axes: int) -> Tensor:
    """`[..., A]` as `[..., 1, A, 1]`: its last axis becomes action axis `position` of `num_axes`."""
    return rows.reshape(*rows.shape[:-1], *[1] * position, rows.shape[-1], *[1] * (num_axes - position - 1))


def _values_of(payoff: Tensor, policies: Tensor, agent: int) -> Tensor:
    """`[..., A]`: `payoff` averaged over the other agents' policies, the last agent's axis first."""
    values = payoff
    for other in reversed(range(policies.shape[-2])):
        if other > agent:
            values = (values * _along(policies[..., other, :], other, other + 1)).sum(-1)
        elif other < agent:
            values = (values * _along(policies[..., other, :], other, other + 2)).sum(-2)
    return values


def _best(values: Tensor, policies: Tensor) -> Tensor:
    """The best replies `[..., A]` to `values` `[..., A]` that move as little of `policies` as possible."""
    best = (values >= values.amax(-1, keepdim=True) - TIE).double()
    kept = policies * best
    mass = kept.sum(-1, keepdim=True)
    return torch.where(mass > 0, kept / torch.where(mass > 0, mass, 1.0), best / best.sum(-1, keepdim=True))


def _modes(joint: Tensor, num_agents: int, count: int) -> Tensor:
    """The `count` most likely joint actions (or all, if there are fewer) as policies `[count, ..., N, A]`."""
    num_actions = joint.shape[-1]
    cells = joint.flatten(-num_agents).topk(min(count, num_actions**num_agents), dim=-1).indices.movedim(-1, 0)
    actions = torch.stack(torch.unravel_index(cells, joint.shape[-num_agents:]), dim=-1)
    return torch.nn.functional.one_hot(actions, num_actions).double()


def _floored(joint: Tensor, floor: float, num_agents: int) -> Tensor:
    size = math.prod(joint.shape[axis] for axis in _action_axes(joint, num_agents))
    if floor == 0 and bool((joint == 0).any()):
        raise InputError("a joint distribution with zeros needs a floor > 0")
    return (1 - floor) * joint + floor / size
