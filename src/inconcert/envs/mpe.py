"""Particle worlds of Lowe et al. (2017): `mpe/simple_spread`, `mpe/simple_reference`, `mpe/simple_speaker_listener`.

Discrete actions, 25 steps, then the time limit cuts the episode off. Two rule books go by the same names, and they
differ in physics and reward: `rules="legacy"` is PettingZoo 1.22.2 (spread_v2, reference_v2, speaker_listener_v3),
whose returns the KPF paper reports (its Table 2); `rules="current"` is the package `mpe2` (spread_v3, reference_v3,
speaker_listener_v4). See the page `environments/mpe`.
"""

from __future__ import annotations

from itertools import chain
from typing import Literal

import torch
from torch import Tensor

from inconcert.envs import Spec, particles, unknown_task
from inconcert.envs.batched import check_choice
from inconcert.envs.particles import Feature, Lines, ParticleEnv, Played, Scenario, Sight

TASKS = ("simple_spread", "simple_reference", "simple_speaker_listener")
PATTERN = ""
EPISODE_LENGTH = 25

RULES = ("legacy", "current")
REWARDS = ("team", "own")
SURPLUS = ("masked", "alias")

Rules = Literal["legacy", "current"]
ORDER: dict[Rules, particles.Order] = {"legacy": "velocity_first", "current": "position_first"}

NUM_LANDMARKS = 3
AGENT_SIZE = 0.15
"""Radius of an agent of simple_spread; the others' agents pass through each other."""
LOCAL_RATIO = 0.5
"""Share of an agent's own reward in what simple_spread and simple_reference pay it; the rest is the common one."""
WORDS = 10
"""Messages of simple_reference."""


def make(
    name: str,
    *,
    num_envs: int,
    seeds: tuple[int, ...],
    device: torch.device,
    rules: Literal["legacy", "current"] = "legacy",
    reward: Literal["team", "own"] = "team",
    surplus: Literal["masked", "alias"] = "masked",
    debug: bool = False,
) -> ParticleEnv:
    """A batch of `len(seeds) * num_envs` worlds of the task `name`, for instance "simple_spread".

    Agents with fewer actions or features than others are padded: actions that an agent does not have are never
    available, features that it does not have are 0. The state is the unpadded observations of all agents in a row.
    `info["team_return"]` is the sum over agents and steps of PettingZoo's rewards, the scale of HARL and of KPF's
    Table 2, whatever `reward` is.

    Args:
        rules: "legacy" moves a point with its new velocity, and each agent of simple_spread collides with itself too
            (PettingZoo until 1.22.3; costs 0.5 a step and agent); "current" moves it with the old velocity and
            counts others only (`mpe2`).
        reward: "team" pays every agent the sum over agents, as HARL does; "own" what PettingZoo pays it.
        surplus: "masked" makes actions beyond an agent's own unavailable, and one played all the same puts NaN into
            what the others see; "alias" makes them available and plays action 0 for them, as SuperSuit's padding does
            in HARL (two policies may then name one act by different numbers).
        debug: check every action (this reads the device back at each step).

    Raises:
        InputError: a name or an option that does not exist.
    """
    if name not in TASKS:
        raise unknown_task("mpe", name)
    check_choice("rules", rules, RULES)
    check_choice("reward", reward, REWARDS)
    check_choice("surplus", surplus, SURPLUS)
    scenario: Scenario
    if name == "simple_spread":
        scenario = SimpleSpread(rules, reward == "team", device)
    elif name == "simple_reference":
        scenario = SimpleReference(rules, reward == "team", device)
    else:
        scenario = SimpleSpeakerListener(rules, reward == "team", surplus == "alias", device)
    return ParticleEnv(scenario, num_envs=num_envs, seeds=seeds, device=device, debug=debug)


class SimpleSpread:
    """Three agents are to cover three landmarks and not to bump into each other.

    Common reward: minus the sum over landmarks of the distance to the nearest agent. Own reward: -1 for each agent that
    is touched. Observation [18]: own velocity (2) and position (2), the landmarks (6) and the other agents (4) as seen
    from here, and 4 zeros, the words of others who have none.
    """

    stream = "mpe/simple_spread"
    actions: tuple[int, ...] = (5, 5, 5)
    lines = Lines(velocity=6, position=6, landmarks=2 * NUM_LANDMARKS)

    def __init__(self, rules: Rules, shared: bool, device: torch.device) -> None:
        nothing = self.lines.nothing
        features: list[list[Feature]] = []
        for agent in range(3):
            place = self.lines.of("position", agent, 3)
            others = [self.lines.of("position", other, 3) for other in range(3) if other != agent]
            features.append(
                [(line, nothing) for line in self.lines.of("velocity", agent, 3) + place]
                + _landmarks_from(place, self.lines)
                + [pair for other in others for pair in zip(other, place, strict=True)]
                + [(nothing, nothing)] * 4
            )
        self._sights = _Sights(features, nothing, device)
        self.spec = _spec(self._sights, self.actions)
        self.order, self._shared, self._pushes = ORDER[rules], shared, particles.pushes(device)
        self._with_itself = rules == "legacy"

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        return self.lines.join(position=_uniform(3, rows, generator), landmarks=_uniform(3, rows, generator))

    def play(self, world: Tensor, actions: Tensor) -> Played:
        before, landmarks = self.lines.cut(world, "position"), self.lines.cut(world, "landmarks")
        force = _look_up(self._pushes, actions) + particles.contact(before, 2 * AGENT_SIZE)
        position, velocity = particles.move(before, self.lines.cut(world, "velocity"), force, self.order)

        _, to_landmark = particles.apart(position, landmarks)  # [N, L, E]
        common = -particles.total(to_landmark.amin(0))  # [E]
        _, to_agent = particles.apart(position, position)
        touched = particles.total((to_agent < 2 * AGENT_SIZE).float())  # [N, E], with itself
        own = -touched if self._with_itself else 1 - touched
        reward = (1 - LOCAL_RATIO) * common + LOCAL_RATIO * own
        after = self.lines.join(velocity=velocity, position=position, landmarks=landmarks)
        return _pay(after, reward, self._shared)

    def look(self, world: Tensor) -> tuple[Tensor, Tensor]:
        return self._sights(world)


class SimpleReference:
    """Two agents, three landmarks: each knows where the other is to go, and tells it with one of ten words a step.

    Own reward of an agent: minus the distance of the other from its goal; common: the mean of both. Action: move + 5 x
    word. Observation [21]: own velocity (2), the landmarks as seen from here (6), the colour of the other's goal (3),
    the other's last word (10).
    """

    stream = "mpe/simple_reference"
    actions: tuple[int, ...] = (5 * WORDS, 5 * WORDS)
    lines = Lines(velocity=4, position=4, landmarks=2 * NUM_LANDMARKS, word=2 * WORDS, colour=6, goal=4)

    def __init__(self, rules: Rules, shared: bool, device: torch.device) -> None:
        nothing = self.lines.nothing
        features: list[list[Feature]] = []
        for agent, other in ((0, 1), (1, 0)):
            own = self.lines.of("position", agent, 2)
            told = self.lines.of("colour", agent, 2) + self.lines.of("word", other, 2)
            features.append(
                [(line, nothing) for line in self.lines.of("velocity", agent, 2)]
                + _landmarks_from(own, self.lines)
                + [(line, nothing) for line in told]
            )
        self._sights = _Sights(features, nothing, device)
        self.spec = _spec(self._sights, self.actions)
        self.order, self._shared = ORDER[rules], shared
        moves = particles.pushes(device).repeat(1, WORDS)
        words = torch.eye(WORDS, device=device).repeat_interleave(5, 1)
        self._effects = torch.cat([moves, words])  # [2 + WORDS, A]

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        landmarks = _uniform(NUM_LANDMARKS, rows, generator)
        chosen = torch.randint(NUM_LANDMARKS, (2, rows), generator=generator)
        return self.lines.join(
            position=_uniform(2, rows, generator),
            landmarks=landmarks,
            colour=_colours(chosen, grey=0.25),
            goal=_pick(landmarks, chosen),
        )

    def play(self, world: Tensor, actions: Tensor) -> Played:
        landmarks, goal = self.lines.cut(world, "landmarks"), self.lines.cut(world, "goal")
        effects = _look_up(self._effects, actions)
        position, velocity = particles.move(
            self.lines.cut(world, "position"), self.lines.cut(world, "velocity"), effects[:2], self.order
        )
        own = -particles.length(position.flip(1) - goal)  # [N, E]: agent 0 is paid for agent 1's place
        reward = (1 - LOCAL_RATIO) * (particles.total(own) / 2) + LOCAL_RATIO * own
        after = self.lines.join(
            velocity=velocity,
            position=position,
            landmarks=landmarks,
            word=effects[2:],
            colour=self.lines.cut(world, "colour", 3),
            goal=goal,
        )
        return _pay(after, reward, self._shared)

    def look(self, world: Tensor) -> tuple[Tensor, Tensor]:
        return self._sights(world)


class SimpleSpeakerListener:
    """A speaker who cannot move tells a listener who cannot speak which of three landmarks to go to.

    Both earn minus the listener's squared distance from it. The speaker observes its colour (3), the listener its own
    velocity (2), the landmarks as seen from here (6) and the speaker's last word (3). Where the speaker is does not
    matter and nobody sees it, so it has no place here.
    """

    stream = "mpe/simple_speaker_listener"
    lines = Lines(velocity=2, position=2, landmarks=2 * NUM_LANDMARKS, word=3, colour=3, goal=2)

    def __init__(self, rules: Rules, shared: bool, alias: bool, device: torch.device) -> None:
        nothing, parts = self.lines.nothing, self.lines.parts
        listener = [(line, nothing) for line in parts["velocity"]]
        listener += _landmarks_from(list(parts["position"]), self.lines)
        listener += [(line, nothing) for line in parts["word"]]
        speaker: list[Feature] = [(line, nothing) for line in parts["colour"]]
        self.actions: tuple[int, ...] = (5, 5) if alias else (3, 5)
        self._sights = _Sights([speaker, listener], nothing, device)
        self.spec = _spec(self._sights, self.actions)
        self.order, self._shared, self._pushes = ORDER[rules], shared, particles.pushes(device)
        self._words = torch.full((3, 5), torch.nan, device=device)
        self._words[:, :3] = torch.eye(3)
        if alias:
            self._words[:, 3:] = self._words[:, :1]

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        landmarks = _uniform(NUM_LANDMARKS, rows, generator)
        chosen = torch.randint(NUM_LANDMARKS, (1, rows), generator=generator)
        return self.lines.join(
            position=_uniform(1, rows, generator),
            landmarks=landmarks,
            colour=_colours(chosen, grey=0.15),
            goal=_pick(landmarks, chosen),
        )

    def play(self, world: Tensor, actions: Tensor) -> Played:
        landmarks, goal = self.lines.cut(world, "landmarks"), self.lines.cut(world, "goal")
        position, velocity = particles.move(
            self.lines.cut(world, "position"),
            self.lines.cut(world, "velocity"),
            _look_up(self._pushes, actions[1:]),
            self.order,
        )
        across, up = (position - goal).unbind(0)
        after = self.lines.join(
            velocity=velocity,
            position=position,
            landmarks=landmarks,
            word=_look_up(self._words, actions[:1]),
            colour=self.lines.cut(world, "colour", 3),
            goal=goal,
        )
        return _pay(after, -(across * across + up * up).expand(2, -1), self._shared)

    def look(self, world: Tensor) -> tuple[Tensor, Tensor]:
        return self._sights(world)


class _Sights:
    """Observations and state of a task, from the features of each agent."""

    def __init__(self, features: list[list[Feature]], nothing: int, device: torch.device) -> None:
        self.obs_size = max(len(own) for own in features)
        self.num_agents = len(features)
        self.state_size = sum(len(own) for own in features)
        padded = [own + [(nothing, nothing)] * (self.obs_size - len(own)) for own in features]
        self._sight = Sight(list(chain(*padded)), device)
        self._state = Sight(list(chain(*features)), device) if padded != features else None

    def __call__(self, world: Tensor) -> tuple[Tensor, Tensor]:
        """Observations [E, N, O], padded with zeros, and the state [E, state_size]."""
        seen = self._sight(world)
        return seen.unflatten(1, (self.num_agents, -1)), seen if self._state is None else self._state(world)


def _spec(sights: _Sights, actions: tuple[int, ...]) -> Spec:
    return Spec(sights.num_agents, max(actions), sights.obs_size, sights.state_size, EPISODE_LENGTH, "team_return")


def _landmarks_from(place: list[int], lines: Lines) -> list[Feature]:
    """The features that show the landmarks as seen from the point on the lines `place`."""
    seen = (lines.of("landmarks", landmark, NUM_LANDMARKS) for landmark in range(NUM_LANDMARKS))
    return [pair for landmark in seen for pair in zip(landmark, place, strict=True)]


def _pay(world: Tensor, own: Tensor, shared: bool) -> Played:
    """What agents earn for themselves, `own` [N, E], as the reward of the step."""
    team = particles.total(own)
    return Played(world, team[:, None].expand(-1, len(own)) if shared else own.t().contiguous(), team)


def _look_up(table: Tensor, actions: Tensor) -> Tensor:
    """[R, N, E]: the columns of `table` [R, A] for `actions` [N, E]."""
    return table.index_select(1, actions.flatten()).unflatten(1, actions.shape)


def _uniform(count: int, rows: int, generator: torch.Generator) -> Tensor:
    """Points [2, count, rows] in the square from -1 to 1."""
    return 2 * torch.rand(2, count, rows, generator=generator) - 1


def _pick(points: Tensor, chosen: Tensor) -> Tensor:
    """The points [2, n, rows] with the numbers `chosen` [n, rows] among `points` [2, count, rows]."""
    return points.gather(1, chosen.expand(2, -1, -1))


def _colours(chosen: Tensor, grey: float) -> Tensor:
    """Colours [3, n, rows] of the landmarks `chosen` [n, rows]: red, green or blue, 0.5 above the `grey`."""
    return grey + 0.5 * (chosen == torch.arange(3)[:, None, None])
