"""Particle worlds: points that are pushed about in a plane, and the bookkeeping of a batch of them.

`mpe` and `spread` are scenarios on top of this file. A world is one float32 tensor [F, E]: a line for each quantity
(velocities, positions, landmarks, ...), a column for each row of the batch. That way a step is a few operations on
whole lines, and an observation is a choice of lines, or of differences of lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from inconcert.envs import Spec, Step, stream_seed
from inconcert.envs.batched import check_actions, check_flag, check_legal, check_range, check_state, generators

DT = 0.1
"""Seconds in a step."""
DAMPING = 0.25
"""Share of the velocity that is lost in a step."""
FORCE = 5.0
"""What a discrete move pushes with (mass 1)."""
MOVES = ((0.0, 0.0), (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0))
"""Direction of the five moves: none, left, right, down, up."""
CONTACT_FORCE, CONTACT_MARGIN = 100.0, 1e-3
"""Newtons per unit of overlap, and the width over which the contact sets in."""

Order = Literal["velocity_first", "position_first"]
"""Whether a step moves a point with its new velocity (particle worlds until 2023) or with the old one (since then)."""


# ------------------------------------------------------------------------------------------------------------ physics


def pushes(device: torch.device) -> Tensor:
    """[2, 5]: the force of each of the five moves."""
    return FORCE * torch.tensor(MOVES, device=device).t().contiguous()


def move(position: Tensor, velocity: Tensor, force: Tensor, order: Order) -> tuple[Tensor, Tensor]:
    """Position and velocity one step on; all [2, N, E], no walls and no speed limit."""
    slowed = velocity * (1 - DAMPING)
    faster = slowed + force * DT
    return position + (faster if order == "velocity_first" else velocity) * DT, faster


def reach(velocity: Tensor, order: Order, at_rest: bool = False) -> Tensor:
    """How far each of the five moves takes a free point, [..., 5, 2], from its `velocity` [..., 2].

    Args:
        at_rest: after it has coasted to a stop; else where the move first shows, which is the next place or, where a
            point still moves with its old velocity, the one after it.
    """
    now = velocity.unsqueeze(-2) * DT
    new = now * (1 - DAMPING) + pushes(velocity.device).t() * DT**2
    if at_rest:
        new = new / DAMPING  # the sum of all later steps
    return new if order == "velocity_first" else now + new


def apart(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Differences [2, N, M, E] and distances [N, M, E] between all of `one` [2, N, E] and all of `other` [2, M, E]."""
    difference = one.unsqueeze(2) - other.unsqueeze(1)
    return difference, length(difference)


def length(vector: Tensor) -> Tensor:
    """[...] of vectors [2, ...]."""
    across, up = vector.unbind(0)
    return (across * across + up * up).sqrt()


def contact(position: Tensor, touching: float) -> Tensor:
    """Forces [2, N, E] by which agents at `position` [2, N, E] push each other away.

    They set in softly around the distance `touching`: 100 N for each unit of overlap, the softplus of the overlap with
    a margin of 1e-3. Two agents in exactly the same place have no direction to part in and do not push.
    """
    difference, distance = apart(position, position)
    overlap = touching - distance
    soft = overlap.clamp(min=0) + CONTACT_MARGIN * (overlap.abs() / -CONTACT_MARGIN).exp().log1p()
    strength = CONTACT_FORCE * soft / distance.clamp(min=1e-12)  # an agent's difference from itself is 0
    return total((difference * strength).movedim(2, 0))


def total(x: Tensor) -> Tensor:
    """Sum over the first axis, halves onto halves.

    `torch.sum` adds the lines in an order that depends on where a column lies, so a seed's rows would not be bit for
    bit those of the seed alone.
    """
    while len(x) > 1:
        half, odd = divmod(len(x), 2)
        last = x[-1]
        x = x[:half] + x[half : 2 * half]
        if odd:
            x[0].add_(last)
    return x[0]


# ---------------------------------------------------------------------------------------------------- worlds, sights


class Lines:
    """Which lines of a world hold what. The last line of every world is 0."""

    def __init__(self, **counts: int) -> None:
        """`counts`: lines of each named part, in order."""
        starts = [sum(list(counts.values())[:index]) for index in range(len(counts) + 1)]
        self.parts = {name: range(start, start + counts[name]) for name, start in zip(counts, starts, strict=False)}
        self.nothing = starts[-1]

    def of(self, part: str, index: int, count: int) -> list[int]:
        """Lines of entry `index` among the `count` entries of `part`, whose components lie `count` lines apart."""
        return list(self.parts[part])[index::count]

    def cut(self, world: Tensor, part: str, components: int = 2) -> Tensor:
        """[components, entries, E]: a part of a `world` [F, E], without a copy."""
        lines = self.parts[part]
        return world[lines.start : lines.stop].view(components, -1, world.shape[1])

    def join(self, **parts: Tensor) -> Tensor:
        """The world [F, E] of `parts` [components, entries, E]; parts not given are 0."""
        like = next(iter(parts.values()))[0, :1]
        blank = like.new_zeros(1, like.shape[1])
        lines = [
            parts[name].flatten(0, 1) if name in parts else blank.expand(len(lines), -1)
            for name, lines in self.parts.items()
        ]
        return torch.cat([*lines, blank])


Feature = tuple[int, int]
"""Two lines of a world, whose difference is a feature; the second may be the line of zeros."""


class Sight:
    """Reads features off a world: `[F, E] -> [E, features]`."""

    def __init__(self, features: Sequence[Feature], device: torch.device) -> None:
        plus, minus = zip(*features, strict=True)
        self._plus, self._minus = (torch.tensor(lines, device=device) for lines in (plus, minus))

    def __call__(self, world: Tensor) -> Tensor:
        seen = world.index_select(0, self._plus)
        seen -= world.index_select(0, self._minus)
        return seen.t().contiguous()


class Played(NamedTuple):
    """What a step of a scenario leads to."""

    world: Tensor
    """[F, E]"""
    reward: Tensor
    """[E, N]"""
    team: Tensor
    """[E]: the sum over agents of what each earned for itself."""


class Scenario(Protocol):
    """The rules of one task, without memory: worlds go in and come out."""

    spec: Spec
    stream: str
    """Name of the random stream of the draws."""
    actions: tuple[int, ...]
    """Actions that each agent may choose from: 0..count-1."""
    lines: Lines
    order: Order

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        """Worlds [F, rows] at the start of an episode, drawn on the CPU."""

    def play(self, world: Tensor, actions: Tensor) -> Played:
        """A step with `actions` [N, E] int64."""

    def look(self, world: Tensor) -> tuple[Tensor, Tensor]:
        """Observations [E, N, O] and state [E, state_size]."""


# -------------------------------------------------------------------------------------------------------- environment


class ParticleEnv:
    """A batch of worlds of one scenario; the contract is `inconcert.envs.VectorEnv`.

    An episode is cut off by the time limit, a truncation: the world would go on. All rows end together, so the step
    count is a Python integer. Worlds are drawn on the CPU and are the same on every device.
    """

    time: int
    """Steps played in the running episodes."""
    world: Tensor
    """[F, E]: the situation now. Read-only."""
    _return: Tensor  # [E], mean over agents, of the running episode so far
    _team: Tensor  # [E], sum over agents

    def __init__(
        self, scenario: Scenario, *, num_envs: int, seeds: tuple[int, ...], device: torch.device, debug: bool
    ) -> None:
        check_flag("debug", debug)
        self.scenario = scenario
        self.spec = scenario.spec
        self.seeds = seeds
        self.device = device
        self.num_envs = rows = len(seeds) * num_envs
        self._debug = debug
        self._generators = [torch.Generator().manual_seed(stream_seed(scenario.stream, seed)) for seed in seeds]
        counts = torch.tensor(scenario.actions, device=device)
        legal = torch.arange(self.spec.num_actions, device=device) < counts[:, None]
        self._available = legal.expand(rows, -1, -1)
        self._no = torch.zeros((), dtype=torch.bool, device=device).expand(rows)
        self._yes = torch.ones((), dtype=torch.bool, device=device).expand(rows)
        self._zero = torch.zeros((), device=device).expand(rows)
        self._lengths = torch.arange(self.spec.episode_limit + 1, device=device)[:, None].expand(-1, rows).unbind(0)
        self._start()

    def reset(self) -> Step:
        self._start()
        return self.observe()

    def observe(self) -> Step:
        return self._report(self._zero[:, None].expand(-1, self.spec.num_agents), self._no)

    def step(self, actions: Tensor) -> Step:
        """Play `actions` [E, N].

        Raises:
            InputError: wrong shape or a floating type; with `debug=True` also an illegal action, by row and agent.
        """
        check_actions(actions, self.spec, self.num_envs)
        if self._debug:
            check_legal(actions, self._available)
        played = self.scenario.play(self.world, actions.t().long())
        self.world, self.time = played.world, self.time + 1
        self._return = self._return + played.reward.mean(1)
        self._team = self._team + played.team
        if self.time < self.spec.episode_limit:
            return self._report(played.reward, self._no)
        last = self._report(played.reward, self._yes)
        self._start()
        obs, state = self.scenario.look(self.world)
        return last._replace(obs=obs, state=state)

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "time": torch.tensor(self.time),
            "world": self.world.clone(),
            "return": self._return.clone(),
            "team_return": self._team.clone(),
            "generators": torch.stack([generator.get_state() for generator in self._generators]),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`.

        Raises:
            InputError: a tensor is missing or has another shape or type than this environment's own (nothing changed).
        """
        check_state(self.state_dict(), state)
        check_range(state, time=(0, self.spec.episode_limit - 1))
        self._generators = generators(state["generators"])
        self.time = int(state["time"])
        self.world = state["world"].to(self.device, copy=True)
        self._return = state["return"].to(self.device, copy=True)
        self._team = state["team_return"].to(self.device, copy=True)

    def _start(self) -> None:
        rows = self.num_envs // len(self.seeds)
        world = torch.cat([self.scenario.draw(rows, generator) for generator in self._generators], 1)
        if self.device.type == "cuda":  # a copy from pinned memory does not make the host wait
            world = world.pin_memory()
        self.world = world.to(self.device, non_blocking=True)
        self.time = 0
        self._return = self._team = self._zero

    def _report(self, reward: Tensor, truncated: Tensor) -> Step:
        obs, state = self.scenario.look(self.world)
        return Step(
            obs=obs,
            state=state,
            available=self._available,
            reward=reward,
            terminated=self._no,
            truncated=truncated,
            final_obs=obs,
            final_state=state,
            info={
                "episode_return": self._return,
                "episode_length": self._lengths[self.time],
                "team_return": self._team,
            },
        )
