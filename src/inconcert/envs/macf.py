"""Multi-agent car following (MACF): two cars on one road to the same goal, better off side by side and below the limit.

The only task, `macf/2cars`: both start at 0 and must come within 0.01 of 2.5. Every 0.1 s each chooses one of 21
accelerations. Time and distance cost, closeness pays, arriving pays, and above the speed limit of 1 a crash may be
fined. Ensemble-MIX names the task and gives no rules; these are the rules of the authors' working copies, which took
the task from risk-sensitive QMIX (Qiu et al. 2021). What is not certain is an option of `make`. See the page
`environments/macf`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from inconcert.envs import Spec, Step, unknown_task
from inconcert.envs.batched import (
    Uniforms,
    check_actions,
    check_choice,
    check_flag,
    check_legal,
    check_number,
    check_range,
    check_state,
    generators,
)

TASKS = ("2cars",)
PATTERN = ""

NUM_CARS = 2
EPISODE_LIMIT = 200
SECONDS = 0.1
"""Length of a step."""
GOAL, TOLERANCE = 2.5, 0.01
NUM_ACTIONS = 21
SPEED_LIMIT, TOP_SPEED = 1.0, 1.8
NEAR = 0.3
"""How far cars see each other, and how close they must be for the bonus."""
STEP_COST, NEAR_BONUS, ARRIVAL_BONUS, TEAM_BONUS, CRASH_FINE = 1.0, 1.0, 5.0, 10.0, 1.0

ACCELERATIONS = ("open", "closed")
CAPS = ("rounded", "exact")


def acceleration(action: Tensor, reading: Literal["open", "closed"] = "open") -> Tensor:
    """Acceleration of each of the 21 actions in float64: from -1 in steps of 2/21 ("open") or of 2/20 ("closed")."""
    return -1.0 + action.double() * (2.0 / (NUM_ACTIONS - (reading == "closed")))


def make(
    name: str,
    *,
    num_envs: int,
    seeds: tuple[int, ...],
    device: torch.device,
    accelerations: Literal["open", "closed"] = "open",
    cap: Literal["rounded", "exact"] = "rounded",
    risk: float = 0.4,
    debug: bool = False,
) -> CarFollowing:
    """A batch of `len(seeds) * num_envs` copies of the task "2cars".

    Args:
        accelerations: "open" are -1, -1 + 2/21, ..., 1 - 2/21, so that full acceleration is never reached, as in the
            authors' working copy; "closed" are -1, -0.9, ..., 1.
        cap: a car that meets the top speed within a step drives on at that speed. "rounded" rounds the moment to
            hundredths of a second, as the authors' working copy does; "exact" does not.
        risk: at speed v above 1, a car is fined with probability risk (v - 1).
        debug: check every action (this reads the device back at each step).

    Raises:
        InputError: a name or an option that does not exist.
    """
    if name not in TASKS:
        raise unknown_task("macf", name)
    check_choice("accelerations", accelerations, ACCELERATIONS)
    check_choice("cap", cap, CAPS)
    check_number("risk", risk, 0)
    check_flag("debug", debug)
    return CarFollowing(
        num_envs=num_envs, seeds=seeds, device=device, accelerations=accelerations, cap=cap, risk=risk, debug=debug
    )


class CarFollowing:
    """See `make` and the contract `inconcert.envs.VectorEnv`.

    State [E, 4]: position and speed of the first car, then of the second, raw numbers. Observation [E, 2, 4]: the same,
    with zeros for the other car while it is farther away than 0.3. All actions are always legal; a car at the goal
    ignores them. `info` also has `won` [E] bool (both arrived), `arrived` [E] int64 (cars that have) and `crashes` [E]
    int64 (fines so far).

    Everybody's reward for a step: -1, minus both cars' distances from the goal, +5 for each car that comes within 0.01
    of it, +10 when the second has, +1 if the cars are within 0.3 of each other, -1 for each fine. A car that has
    arrived stands at the goal from the next step on. The episode ends when both have (a termination), or is cut off
    after 200 steps (a truncation). Nothing keeps a car from driving backwards, without limit and without fines.

    Positions and speeds are float64, so that thresholds are met as exactly as in the original; only what the agents
    see is rounded to float32.
    """

    def __init__(
        self,
        *,
        num_envs: int,
        seeds: tuple[int, ...],
        device: torch.device,
        accelerations: Literal["open", "closed"],
        cap: str,
        risk: float,
        debug: bool,
    ) -> None:
        self.spec = Spec(NUM_CARS, NUM_ACTIONS, 2 * NUM_CARS, 2 * NUM_CARS, EPISODE_LIMIT, "won")
        self.seeds = seeds
        self.device = device
        self.num_envs = rows = len(seeds) * num_envs
        self.risk, self.accelerations = float(risk), accelerations
        self._rounded, self._debug = cap == "rounded", debug
        self._pushes = acceleration(torch.arange(NUM_ACTIONS, device=device), accelerations)  # [A]
        self._no = torch.zeros((), dtype=torch.bool, device=device).expand(rows)
        self._zero = torch.zeros((), device=device).expand(rows)
        self._available = ~self._no[:, None, None].expand(-1, NUM_CARS, NUM_ACTIONS)
        self._still = torch.zeros(NUM_CARS, rows, dtype=torch.float64, device=device)
        self._uniforms = Uniforms("macf", seeds, num_envs, NUM_CARS, device)
        self._position = self._speed = self._still  # [2, E] float64
        self._arrived = self._no.expand(NUM_CARS, -1)  # [2, E] bool
        self._return, self._time, self._crashes = self._zero, self._no.long(), self._no.long()
        self._draw()

    @property
    def noise(self) -> Tensor:
        """[E, 2]: the uniform numbers of the next step; a speeding car is fined if its number is at most its risk."""
        return self._block[self._uniforms.used].t().clone()

    @property
    def time(self) -> Tensor:
        """[E] int64: steps played in the running episodes."""
        return self._time.clone()

    def reset(self) -> Step:
        self._uniforms.used += 1  # what the abandoned episodes would have met is gone
        self._draw()
        self._position = self._speed = self._still
        self._arrived = self._no.expand(NUM_CARS, -1)
        self._return, self._time, self._crashes = self._zero, self._no.long(), self._no.long()
        return self.observe()

    def observe(self) -> Step:
        obs, state = self._look()
        return Step(
            obs, state, self._available, self._zero[:, None].expand(-1, NUM_CARS), self._no, self._no, obs, state,
            self._info(),
        )  # fmt: skip

    def step(self, actions: Tensor) -> Step:
        """Play `actions` [E, 2], integers of 0..20.

        Raises:
            InputError: wrong shape or a floating type; with `debug=True` also an illegal action, by row and agent.
        """
        check_actions(actions, self.spec, self.num_envs)
        if self._debug:
            check_legal(actions, self._available)
        self._drive(self._pushes[actions.t().long()])
        (one, two), apart = (self._position - GOAL).abs(), (self._position[0] - self._position[1]).abs()
        here = (self._position - GOAL).abs() < TOLERANCE
        arriving = here & ~self._arrived
        self._arrived = self._arrived | arriving
        chance = (self._speed - SPEED_LIMIT) * self.risk
        fined = (self._speed > SPEED_LIMIT) & (self._block[self._uniforms.used] <= chance)
        won = self._arrived[0] & self._arrived[1]

        team = -STEP_COST - one - two
        team = team + ARRIVAL_BONUS * arriving[0] + ARRIVAL_BONUS * arriving[1]
        team = team - CRASH_FINE * fined[0] - CRASH_FINE * fined[1]
        team = (team + NEAR_BONUS * (apart <= NEAR) + TEAM_BONUS * won).float()

        self._return, self._time = self._return + team, self._time + 1
        self._crashes = self._crashes + fined[0] + fined[1]
        truncated = (self._time >= EPISODE_LIMIT) & ~won
        ended = won | truncated
        final_obs, final_state = self._look()
        info = self._info()
        self._position, self._speed, self._arrived, self._return, self._time, self._crashes = (
            torch.where(ended, torch.zeros_like(old), old)
            for old in (self._position, self._speed, self._arrived, self._return, self._time, self._crashes)
        )
        obs, state = self._look()
        self._uniforms.used += 1
        self._draw()
        shared = team[:, None].expand(-1, NUM_CARS)
        return Step(obs, state, self._available, shared, won, truncated, final_obs, final_state, info)

    def state_dict(self) -> dict[str, Tensor]:
        own = {"position": self._position, "speed": self._speed, "arrived": self._arrived, "time": self._time}
        own |= {"return": self._return, "crashes": self._crashes}
        return {name: tensor.clone() for name, tensor in own.items()} | self._uniforms.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`.

        Raises:
            InputError: a tensor is missing or has another shape or type than this environment's own, or holds what
                cannot be (nothing changed).
        """
        check_state(self.state_dict(), state)
        check_range(
            state, time=(0, EPISODE_LIMIT - 1), used=(0, Uniforms.LENGTH - 1), speed=(-float("inf"), TOP_SPEED),
            crashes=(0, NUM_CARS * EPISODE_LIMIT),
        )  # fmt: skip
        streams = generators(state["generators"])

        def mine(name: str) -> Tensor:
            return state[name].to(self.device, copy=True)

        self._position, self._speed, self._arrived = mine("position"), mine("speed"), mine("arrived")
        self._time, self._return, self._crashes = mine("time"), mine("return"), mine("crashes")
        self._uniforms.load(streams)
        self._draw()
        self._uniforms.used = int(state["used"])

    def _drive(self, push: Tensor) -> None:
        """Move the cars on by one step with accelerations `push` [2, E]; those that have arrived stand at the goal."""
        position, speed = self._position, self._speed
        faster = speed + push * SECONDS
        free = position + speed * SECONDS + 0.5 * push * SECONDS * SECONDS
        capped = faster >= TOP_SPEED
        # a car that is at the top speed and neither brakes nor pushes stays there: 0 / 0 is never looked at
        until = torch.where(push == 0, 0.0, (TOP_SPEED - speed) / push)
        if self._rounded:
            until = (until * 100).round() / 100
        limited = position + (speed * until + 0.5 * push * until * until) + TOP_SPEED * (SECONDS - until)
        position = torch.where(capped, limited, free)
        speed = torch.where(capped, TOP_SPEED, faster)
        self._position = torch.where(self._arrived, GOAL, position)
        self._speed = torch.where(self._arrived, 0.0, speed)

    def _draw(self) -> None:
        """Have random numbers for the next step in hand."""
        if self._uniforms.used >= Uniforms.LENGTH:
            self._block = self._uniforms.draw()

    def _look(self) -> tuple[Tensor, Tensor]:
        """Observations [E, 2, 4] and state [E, 4]."""
        (here, there), (slow, fast) = self._position, self._speed
        state = torch.stack([here, slow, there, fast], 1).float()
        seen = torch.where(((here - there).abs() <= NEAR)[:, None], state, 0.0)  # of the other car
        obs = torch.stack([torch.cat([state[:, :2], seen[:, 2:]], 1), torch.cat([seen[:, :2], state[:, 2:]], 1)], 1)
        return obs, state

    def _info(self) -> dict[str, Tensor]:
        return {
            "episode_return": self._return,
            "episode_length": self._time,
            "won": self._arrived[0] & self._arrived[1],
            "arrived": self._arrived.sum(0),
            "crashes": self._crashes,
        }
