"""Who uses whose network: parameter sharing as index tables, fixed, found by clustering, or changed while training.

An actor has a front and a back. There is a table of fronts and a table of backs (`Table`), and for each agent an index
into either: all different is no sharing (NPS), all 0 is full sharing (FPS). SePS finds groups before training
(Christianos et al. 2021), dynamic sharing (MDPS, the policy-distance paper, Algorithm 1) fuses and divides while
training, by how far policies are apart.
Letters in shapes: S seed, N agent, K networks of a seed, B row, O observation feature, A action, Z latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from inconcert import tables
from inconcert.config import InputError, unknown
from inconcert.distance import ConditionalVAE, Settings

Scheme = Literal["nps", "fps", "fps-id", "oracle", "seps", "mdps"]
Part = Literal["front", "back"]
Reading = Literal["sane", "literal", "code"]

# ------------------------------------------------------------------------------------------------------------- tables


class Table(nn.Module):
    """Networks of one shape, K for each seed, and any agent can use any of its seed's.

    Args:
        rows: `[S * K, P]` networks to start from, seed-major.
        sizes: see `inconcert.tables`.
        seeds: S.
    """

    first: Tensor  # [S, 1], the row of each seed's network 0

    def __init__(self, rows: Tensor, sizes: tables.Sizes, seeds: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(rows)
        self.sizes, self.count = tuple(sizes), len(rows) // seeds
        self.register_buffer("first", torch.arange(0, len(rows), self.count).unsqueeze(1), persistent=False)

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """`[S, N, B, in] -> [S, N, B, out]`.

        Args:
            index: `[S, N]` the network of each agent. None: everybody has an own one, or all have the only one.
        """
        if index is None and self.count == 1:  # the agents are further rows of one network
            return tables.perceptron(self.weight, x.flatten(1, 2), self.sizes).unflatten(1, x.shape[1:3])
        rows = self.weight if index is None else self.weight.index_select(0, self.rows(index))
        return tables.perceptron(rows, x.flatten(0, 1), self.sizes).unflatten(0, x.shape[:2])

    def rows(self, index: Tensor) -> Tensor:
        """Rows `[S * N]` of the table that an `index [S, N]` means."""
        return (index + self.first).flatten()


class SharedActor(nn.Module):
    """The actors of all seeds and agents: a front, ReLU, and a back, looked up for each agent.

    `front_index` and `back_index` `[S, N]` are part of the state, so a saved policy knows who uses what. They are None
    where everybody has an own network or all have the only one.
    """

    front_index: Tensor | None
    back_index: Tensor | None

    def __init__(self, front: Table, back: Table, front_index: Tensor | None, back_index: Tensor | None) -> None:
        super().__init__()
        self.front, self.back = front, back
        self.register_buffer("front_index", front_index)
        self.register_buffer("back_index", back_index)

    def forward(self, obs: Tensor) -> Tensor:
        """Logits `[S, N, B, A]` from observations `[S, N, B, O]`, those of agent n by its own policy."""
        return self.back(self.front(obs, self.front_index).relu(), self.back_index)


# ---------------------------------------------------------------------------------------------------- dynamic sharing


class Copy(NamedTuple):
    """The parameters of network `target` become those of network `source`."""

    part: Part
    source: int
    target: int


class Plan(NamedTuple):
    """Who uses which network from now on, and the copies that this takes, in their order."""

    front: list[int]
    back: list[int]
    copies: list[Copy]


def dynamic_sharing(
    distance: Sequence[Sequence[float]] | Tensor,
    front: Sequence[int],
    back: Sequence[int],
    epsilon: float,
    *,
    reading: Reading = "sane",
    back_factor: float = 1.0,
    divide_backs: bool = True,
) -> Plan:
    """Fuse what is close and divide what has grown apart (the policy-distance paper, Algorithm 1).

    All pairs i < j are visited in order. Below `epsilon` agent j takes over i's front, or, where they share that, i's
    back; not if i's present network belongs to an agent that is too far from j: then j takes the network that
    belongs to i. Above twice `epsilon` what they share is divided: j gets a copy of its own.

    Args:
        distance: `[N, N]` of the policies.
        front, back: `[N]` which network each agent uses; network k belongs to agent k.
        epsilon: fusion threshold; the division threshold is twice that.
        reading: the printed algorithm cannot be meant as it is. "sane": its back branch changes backs, a division
            copies the network in use, and never onto one that somebody else uses (the lowest free one is taken then).
            "literal": as printed, with the undefined DL read as FL; backs never change. "code": the authors' code:
            divisions copy from network i even where i uses another, backs fuse below half of epsilon, and
            each agent i acts on at most one j.
        back_factor: share of `epsilon` below which backs fuse; of "sane" only.
        divide_backs: divide backs too, as the paper's text says and its algorithm does not, where they stay shared for
            ever; of "sane" only.

    Raises:
        InputError: shapes that do not fit, indices that are none, or an unknown reading.
    """
    d = distance.tolist() if isinstance(distance, Tensor) else [list(row) for row in distance]
    agents = len(front)
    if len(back) != agents or len(d) != agents or any(len(row) != agents for row in d):
        raise InputError(f"front and back indices and the distance matrix must be of equally many agents, not {agents}")
    if not all(0 <= k < agents for k in (*front, *back)):
        raise InputError(f"indices must be from 0 to {agents - 1}")
    if not epsilon > 0:
        raise InputError(f"epsilon must be above 0, not {epsilon}")
    plan = Plan(list(front), list(back), [])
    if reading == "sane":
        _sane(d, plan, epsilon, back_factor * epsilon, divide_backs)
    elif reading == "literal":
        _literal(d, plan, epsilon)
    elif reading == "code":
        _code(d, plan, epsilon)
    else:
        raise unknown("reading", reading, get_args(Reading))
    return plan


def _sane(d: list[list[float]], plan: Plan, epsilon: float, back_epsilon: float, divide_backs: bool) -> None:
    front, back, _ = plan
    for i, j in combinations(range(len(front)), 2):
        if d[i][j] > 2 * epsilon:
            if front[i] == front[j]:
                _divide(plan, "front", j)
            if back[i] == back[j] and divide_backs:
                _divide(plan, "back", j)
        elif front[i] != front[j]:
            if d[i][j] < epsilon:
                front[j] = front[i] if d[front[i]][j] < epsilon else i
        elif back[i] != back[j] and d[i][j] < back_epsilon:
            back[j] = back[i] if d[back[i]][j] < back_epsilon else i


def _divide(plan: Plan, part: Part, j: int) -> None:
    """Agent j leaves the network that it shares for a copy of it: on its own place, or on the first free one."""
    used = plan.front if part == "front" else plan.back
    source = used[j]
    others = {*used[:j], *used[j + 1 :]}
    used[j] = next(k for k in (j, *range(len(used))) if k not in others)
    plan.copies.append(Copy(part, source, used[j]))


def _literal(d: list[list[float]], plan: Plan, epsilon: float) -> None:
    front = plan.front
    for i, j in combinations(range(len(front)), 2):
        if d[i][j] < epsilon:  # lines 6 to 13 and 15 to 21 are the same, the latter under the heading of the back
            front[j] = front[i] if d[front[i]][j] < epsilon else i
        elif front[i] == front[j] and d[i][j] > 2 * epsilon:
            plan.copies.append(Copy("front", front[i], j))
            front[j] = j


def _code(d: list[list[float]], plan: Plan, epsilon: float) -> None:
    front, back, copies = plan
    for i in range(len(front)):
        for j in range(i + 1, len(front)):
            if front[i] == front[j]:
                if d[i][j] > 2 * epsilon:
                    front[j] = j
                    copies.append(Copy("front", i, j))
                    break
                if d[i][j] < epsilon / 2:
                    back[j] = back[i] if d[back[i]][j] < epsilon / 2 else i
                    break
            elif d[i][j] < epsilon:
                front[j] = front[i] if d[front[i]][j] < epsilon else i
                break


# --------------------------------------------------------------------------------------------------------------- SePS

SEPS = Settings(latent=10, hidden=64, epochs=10, batch=128, lr=3e-4, kl_weight=1e-4)
"""The autoencoder of SePS (its authors' code)."""


def identities(
    obs: Tensor, action: Tensor, reward: Tensor, next_obs: Tensor, counts: Tensor, num_actions: int,
    seeds: Sequence[int], settings: Settings = SEPS,
) -> Tensor:  # fmt: skip
    """What tells the agents apart: a latent mean `[S, N, Z]` of each (Christianos et al. 2021, section 4).

    An encoder sees nothing but who acts; a decoder must predict, from the latent variable, the observation and the
    action, what is observed next and what is earned. Agents for whom the world answers alike come out close.

    Args:
        obs, next_obs: `[S, N, B, O]`.
        action: `[S, N, B]` integers.
        reward: `[S, N, B]`.
        counts: `[S, N, B]` bool, False for rows to leave out.
        seeds: of the S autoencoders.
    """
    shape, agents = obs.shape[:3], obs.shape[1]
    who = torch.eye(agents, device=obs.device)
    x = who.unsqueeze(1).expand(*shape, -1)
    y = torch.cat([obs, nn.functional.one_hot(action, num_actions).to(obs.dtype)], -1)
    target = torch.cat([next_obs, reward.unsqueeze(-1)], -1)
    parts = [part.flatten(1, 2) for part in (x, y, target, counts.to(obs.dtype))]
    vae = ConditionalVAE(agents, y.shape[-1], target.shape[-1], settings, seeds).to(obs.device)
    vae.fit(*parts)
    with torch.no_grad():
        return vae.encode(who.expand(len(seeds), -1, -1))[0]


def clusters(latent: Tensor, count: int = 0) -> list[int]:
    """k-means on the agents' latent means `[N, Z]`: the cluster of each, numbered in the order of their first agents.

    Args:
        count: number of clusters, 0 for the one of 2 to N - 1 with the lowest Davies-Bouldin index.

    Raises:
        InputError: more clusters than agents, or too few agents to choose.
    """
    from sklearn.cluster import KMeans  # importing scikit-learn takes most of a second
    from sklearn.metrics import davies_bouldin_score

    points = latent.double().cpu().numpy()
    if not 0 <= count <= len(points) or (count == 0 and len(points) < 3):
        raise InputError(f"{len(points)} agents cannot be put into {count or 'a number to be found of'} clusters")

    def labels(number: int) -> list[int]:
        return KMeans(number, n_init=10, random_state=0).fit_predict(points).tolist()

    if count == 0:
        count = min(range(2, len(points)), key=lambda number: davies_bouldin_score(points, labels(number)))
    found = labels(count)
    order = list(dict.fromkeys(found))
    return [order.index(label) for label in found]
