"""Coloured spread (Hu et al., the policy-distance paper, Figures 2 and 3): every colour of agents has its own landmark.

N agents in C colours, a landmark for each colour, 50 steps. No agent observes its colour: which landmark is its own it
can only learn from what it earns, so agents of different colours cannot do with one policy. An agent earns minus the
distance to its landmark; when all of a colour have gathered there, each of them also earns a bonus that grows as they
close up. See the page `environments/spread`.
"""

from __future__ import annotations

import random
import re
from itertools import chain, combinations
from typing import Literal

import torch
from torch import Tensor

from inconcert.config import InputError
from inconcert.envs import Spec, particles, unknown_task
from inconcert.envs.batched import check_choice, check_flag
from inconcert.envs.particles import Feature, Lines, ParticleEnv, Played, Sight

TASKS = (
    "15a_3c", "30a_3c", "30a_5c", "30a_5c_super", "15a_3c_shuffle", "30a_3c_shuffle", "naive_15a_3c", "naive_6a_3c",
)  # fmt: skip
"""The six tasks of Figure 3 by the paper's names, and the naive spread of Figure 2, whose size the paper does not give,
in two sizes. Any other sizes are made in the same way."""
PATTERN = "[naive_]<agents>a_<colours>c[_shuffle]"
EPISODE_LENGTH = 50

GROUPINGS = ("name", "fork")
UNEVEN: dict[tuple[str, str], tuple[int, ...]] = {
    ("30a_5c_super", "name"): (3, 3, 3, 12, 9),
    ("30a_5c_super", "fork"): (3, 3, 3, 12, 9),
    ("30a_3c_shuffle", "fork"): (6, 6, 6, 6, 6),
}
"""Agents of each colour where a name does not say it, by task and grouping."""

NEAR = 0.15
"""Distance from its landmark within which an agent counts as gathered."""
CLOSE, SOFT = 0.1, 0.05
"""Two gathered agents at a distance d are worth CLOSE / (d + SOFT)."""
PAID = 0.5
"""Share of what an agent earns that it is paid: the authors' code mixes it half and half with a team reward of 0."""


def groups(name: str, grouping: Literal["name", "fork"] = "name") -> tuple[int, ...]:
    """Agents of each colour: "15a_3c" -> (5, 5, 5).

    Raises:
        InputError: the name does not follow the pattern, or the agents cannot be shared out evenly.
    """
    plain = name.removeprefix("naive_")
    if (plain, grouping) in UNEVEN:
        return UNEVEN[plain, grouping]
    match = re.fullmatch(r"([1-9]\d*)a_([1-9]\d*)c(_shuffle)?", plain)
    if match is None:
        raise unknown_task("spread", name)
    agents, colours = int(match[1]), int(match[2])
    if agents % colours:
        raise InputError(f"task 'spread/{name}': {agents} agents cannot be shared out evenly among {colours} colours")
    return (agents // colours,) * colours


def make(
    name: str,
    *,
    num_envs: int,
    seeds: tuple[int, ...],
    device: torch.device,
    grouping: Literal["name", "fork"] = "name",
    own_distance: bool = False,
    debug: bool = False,
) -> ParticleEnv:
    """A batch of `len(seeds) * num_envs` worlds of the task `name`, for instance "15a_3c".

    Observation [4 + 2 C]: own velocity (2) and position (2), and all landmarks as seen from here. In a `shuffle` task
    each colour has these in an order of its own, the same for all agents of the colour. State [4 N + 2 C]: velocities,
    positions and landmarks. Rewards are each agent's own; `info["team_return"]`, their sum over agents and steps, is
    what the paper plots. `naive_` tasks have no bonus.

    Args:
        grouping: concerns "30a_3c_shuffle" only. "name" gives it the three colours of ten agents that its name says;
            "fork" the five colours of six that the authors' environment file has under its number.
        own_distance: one more feature, the distance to the agent's own landmark, as the authors' published file has it.
            It tells an agent its colour, and with that takes the point out of the task.
        debug: check every action (this reads the device back at each step).

    Raises:
        InputError: a name or an option that does not exist.
    """
    check_choice("grouping", grouping, GROUPINGS)
    check_flag("own_distance", own_distance)
    scenario = Spread(
        groups(name, grouping),
        formation=not name.startswith("naive_"),
        shuffled=name.endswith("_shuffle"),
        own_distance=own_distance,
        device=device,
    )
    return ParticleEnv(scenario, num_envs=num_envs, seeds=seeds, device=device, debug=debug)


class Spread:
    """The rules; see `make`. Agents lie colour by colour: the first are those of colour 0."""

    stream = "spread"
    order: particles.Order = "velocity_first"

    def __init__(
        self, sizes: tuple[int, ...], *, formation: bool, shuffled: bool, own_distance: bool, device: torch.device
    ) -> None:
        num_agents, num_colours = sum(sizes), len(sizes)
        self.sizes = sizes
        self.lines = Lines(velocity=2 * num_agents, position=2 * num_agents, landmarks=2 * num_colours)
        self.actions: tuple[int, ...] = (5,) * num_agents
        self._formation, self._own_distance = formation, own_distance
        self._pushes = particles.pushes(device)
        self._wait_for_device = device.type != "cpu"

        colours = [colour for colour, size in enumerate(sizes) for _ in range(size)]
        self.colour = torch.tensor(colours, device=device)
        """[N]: the colour of each agent."""
        features = [self._features(agent, colours[agent], own_distance) for agent in range(num_agents)]
        if shuffled:
            features = [_shuffled(own, colour) for own, colour in zip(features, colours, strict=True)]
        self._sight = Sight(list(chain(*features)), device)
        obs_size, state_size = len(features[0]), self.lines.nothing
        self.spec = Spec(num_agents, 5, obs_size, state_size, EPISODE_LENGTH, "team_return")

        # Tables over the agents of each colour, and over its pairs. A smaller colour's are filled up with its first
        # agent, once more, and with pairs that do not count.
        largest = max(sizes)
        members = [[agent for agent in range(num_agents) if colours[agent] == colour] for colour in range(num_colours)]
        pairs = [list(combinations(own, 2)) for own in members]
        most = max(1, *(len(own) for own in pairs))
        padded = [own + [(0, 0)] * (most - len(own)) for own in pairs]
        self._members = torch.tensor([own + own[:1] * (largest - len(own)) for own in members], device=device)
        self._pairs = torch.tensor(padded, device=device).view(num_colours, most, 2).permute(2, 1, 0)  # [2, P, C]
        # each pair counts for either of the two, and a colour's sum is shared among all of it
        worth = [[2 * CLOSE / len(own)] * len(own_pairs) for own, own_pairs in zip(members, pairs, strict=True)]
        self._worth = torch.tensor([row + [0.0] * (most - len(row)) for row in worth], device=device).t()[..., None]

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        places = 2 * torch.rand(2, sum(self.sizes), rows, generator=generator) - 1
        landmarks = 6 * torch.rand(2, len(self.sizes), rows, generator=generator) - 3
        return self.lines.join(position=places, landmarks=landmarks)

    def play(self, world: Tensor, actions: Tensor) -> Played:
        force = self._pushes.index_select(1, actions.flatten()).unflatten(1, actions.shape)
        before, speed = self.lines.cut(world, "position"), self.lines.cut(world, "velocity")
        position, velocity = particles.move(before, speed, force, self.order)
        landmarks = self.lines.cut(world, "landmarks")
        world = self.lines.join(velocity=velocity, position=position, landmarks=landmarks)
        far = self.own_distance(world)
        own = -far
        if self._formation:
            formed = self._formed(far)
            if self._wait_for_device or bool(formed.any()):  # asking costs nothing on a CPU
                own = own + (formed * self._bonus(position)).index_select(0, self.colour)
        reward = PAID * own
        return Played(world, reward.t().contiguous(), particles.total(reward))

    def look(self, world: Tensor) -> tuple[Tensor, Tensor]:
        state = world[: self.lines.nothing].t().contiguous()
        if self._own_distance:
            world = torch.cat([world, self.own_distance(world)])
        return self._sight(world).unflatten(1, (sum(self.sizes), -1)), state

    def own_distance(self, world: Tensor) -> Tensor:
        """[N, E]: how far each agent is from its landmark (the feature of the customised policy distance)."""
        target = self.lines.cut(world, "landmarks").index_select(1, self.colour)
        return particles.length(self.lines.cut(world, "position") - target)

    def formed(self, world: Tensor) -> Tensor:
        """[C, E] bool: whether all agents of a colour have gathered at their landmark."""
        return self._formed(self.own_distance(world))

    def _formed(self, far: Tensor) -> Tensor:
        return (far < NEAR)[self._members].all(1)

    def _bonus(self, position: Tensor) -> Tensor:
        """[C, E]: what each agent of a colour would earn for how close together the colour is."""
        first, second = (position[:, agents] for agents in self._pairs)  # [2, P, C, E]
        worth = self._worth / (particles.length(first - second) + SOFT)
        return particles.total(worth)

    def _features(self, agent: int, colour: int, own_distance: bool) -> list[Feature]:
        lines, num_agents, num_colours = self.lines, sum(self.sizes), len(self.sizes)
        place = lines.of("position", agent, num_agents)
        seen = [zip(lines.of("landmarks", other, num_colours), place, strict=True) for other in range(num_colours)]
        own = [(line, lines.nothing) for line in lines.of("velocity", agent, num_agents) + place]
        last = [(lines.nothing + 1 + agent, lines.nothing)] if own_distance else []  # `look` appends these lines
        return own + list(chain(*seen)) + last


def _shuffled(features: list[Feature], colour: int) -> list[Feature]:
    """The features in the order of a colour: Python's shuffle, seeded with the colour's number, as in the fork."""
    order = list(features)
    random.Random(colour).shuffle(order)
    return order
