"""CoordSum (MAGPO, Appendix B): integers that sum to a shared target, against an opponent who guesses one of them.

A task `coordsum/<agents>x<actions>-<max_target>` has N agents that each pick an integer 0..A-1. All see the same target
and none is told what the others pick. If the picks sum to the target, everybody earns 2, or 1 if the opponent guessed
agent 0's pick: the action that agent 0 has played most often at this target in this episode. Otherwise nobody earns
anything. An episode is 100 steps, and its end is a termination: nothing follows it.

The paper's text leaves four readings open; each is an option of `make` here. See the page `environments/coordsum`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from inconcert.config import InputError, unknown
from inconcert.envs import Spec, Step, stream_seed, unknown_task

TASKS = ("3x10-30", "3x30-50", "5x20-80", "8x15-100")
"""The four tasks of the paper; any other sizes are made in the same way."""
PATTERN = "<agents>x<actions>-<max_target>"
EPISODE_LENGTH = 100

GUESSES = ("per_target", "clamped", "never")
TARGET_BOUNDS = ("exclusive", "inclusive")
CODES = ("integer", "ordinal")
THERMOMETER = 0.3
"""Size of a thermometer feature of the ordinal code: up to 100 of them are on at once, against one of the one-hot."""


def sizes(name: str) -> tuple[int, int, int]:
    """Agents N, actions A and largest target M of a task name: "3x10-30" -> (3, 10, 30).

    Raises:
        InputError: the name does not follow the pattern.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)-([1-9]\d*)", name)
    if match is None:
        raise unknown_task("coordsum", name)
    agents, actions, max_target = (int(group) for group in match.groups())
    return agents, actions, max_target


def make(
    name: str,
    *,
    num_envs: int,
    seeds: tuple[int, ...],
    device: torch.device,
    guess: Literal["per_target", "clamped", "never"] = "per_target",
    target_bound: Literal["exclusive", "inclusive"] = "exclusive",
    observe_step: bool = True,
    code: Literal["integer", "ordinal"] = "integer",
    debug: bool = False,
) -> CoordSum:
    """A batch of `len(seeds) * num_envs` copies of the task `name`, for instance "3x10-30".

    Args:
        guess: "per_target" gives the opponent a record for each target, as the paper says; "clamped" gives it A
            records, the last of which serves all targets >= A-1, as the authors' code does; "never" takes the opponent
            out, so that every hit earns 2 and one fixed answer per target is the best there is.
        target_bound: "exclusive" draws targets from 0..M-1, as the authors' code does; "inclusive" from 0..M, the
            paper's "maximum possible target".
        observe_step: the observation is [target, steps played], as the paper says; False leaves the step out, as the
            authors' feed-forward and recurrent networks do.
        code: "integer" shows the target as a number, as the paper says; "ordinal" as 2 M features, its one-hot and
            its thermometer code (feature j is on if the target is at least j), and the step count as a fraction of the
            episode: a network then neither has to take a number apart nor loses which targets are neighbours.
        debug: check every action (this reads the device back at each step).

    Raises:
        InputError: a name or an option that does not exist.
    """
    num_agents, num_actions, max_target = sizes(name)
    if guess not in GUESSES:
        raise unknown("guess", guess, GUESSES)
    if target_bound not in TARGET_BOUNDS:
        raise unknown("target_bound", target_bound, TARGET_BOUNDS)
    if code not in CODES:
        raise unknown("code", code, CODES)
    for option, value in (("observe_step", observe_step), ("debug", debug)):
        if not isinstance(value, bool):
            raise InputError(f"option {option!r} must be True or False, not {value!r}")
    num_targets = max_target + (target_bound == "inclusive")
    num_records = {"per_target": num_targets, "clamped": num_actions, "never": 1}[guess]
    return CoordSum(
        num_agents,
        num_actions,
        num_targets,
        num_records,
        num_envs=num_envs,
        seeds=seeds,
        device=device,
        guessing=guess != "never",
        observe_step=observe_step,
        ordinal=code == "ordinal",
        debug=debug,
    )


class CoordSum:
    """See `make` and the contract `inconcert.envs.VectorEnv`.

    Observation [E, N, 2]: the current target and the number of steps played (0..99; 100 in a final observation), raw
    numbers as float32, the same for all agents. State [E, 2]: the same two numbers once. With `code="ordinal"` the
    target takes 2 M features and the step count is a fraction. All actions are always legal.
    `info` also has `hit` [E] bool, whether the sum met the target, and `guessed` [E] bool, whether agent 0's action was
    the opponent's guess, hit or not.

    The horizon is fixed, so all rows end together and the step count is a Python integer. All targets of an episode are
    drawn when it starts, on the CPU, so they are the same on every device.
    """

    time: int
    """Steps played in the running episodes, 0..99."""
    _return: Tensor  # [E], of the running episode so far
    _targets: tuple[Tensor, ...]  # the running episode, one tensor for each step count 0..100
    _records: tuple[Tensor, ...]
    _cells: tuple[Tensor, ...]
    _states: tuple[Tensor, ...]
    _obs: tuple[Tensor, ...]

    def __init__(
        self,
        num_agents: int,
        num_actions: int,
        num_targets: int,
        num_records: int,
        *,
        num_envs: int,
        seeds: tuple[int, ...],
        device: torch.device,
        guessing: bool,
        observe_step: bool,
        ordinal: bool,
        debug: bool,
    ) -> None:
        features = (2 * num_targets if ordinal else 1) + observe_step
        self.spec = Spec(num_agents, num_actions, features, features, EPISODE_LENGTH, "episode_return")
        self.seeds = seeds
        self.device = device
        self.num_envs = len(seeds) * num_envs
        self.num_targets = num_targets
        """Targets are 0..num_targets-1."""
        self._num_records = num_records
        self._guessing, self._observe_step, self._ordinal = guessing, observe_step, ordinal
        self._debug = debug
        self._generators = [torch.Generator().manual_seed(stream_seed("coordsum", seed)) for seed in seeds]

        # The opponent's record. A key holds in its high bits how often an action was played and in its low bits the
        # action, counted from above: the largest key is the most frequent action and, among equals, the lowest. Keys
        # only grow, and only that of the action just played, so the largest is kept without looking at the others.
        bits = (num_actions - 1).bit_length()
        self._low = (1 << bits) - 1
        self._one_more = 1 << bits
        key_type = torch.int16 if (EPISODE_LENGTH + 1) << bits <= torch.iinfo(torch.int16).max else torch.int32
        rows = self.num_envs
        self._fresh_keys = self._low - torch.arange(num_actions, dtype=key_type, device=device)  # [A], never played
        self._keys = torch.empty(rows, num_records, num_actions, dtype=key_type, device=device)
        self._largest = torch.empty(rows, num_records, dtype=key_type, device=device)

        self._first_record = num_records * torch.arange(rows, device=device)  # [E]
        self._no = torch.zeros((), dtype=torch.bool, device=device).expand(rows)
        self._yes = torch.ones((), dtype=torch.bool, device=device).expand(rows)
        self._zero = torch.zeros((), device=device).expand(rows)
        self._available = self._yes[:1].expand(rows, num_agents, num_actions)
        self._clock = torch.arange(EPISODE_LENGTH + 1, device=device)[:, None]  # [T+1, 1]
        self._lengths = self._clock.expand(-1, rows).unbind(0)
        self._start()

    @property
    def target(self) -> Tensor:
        """[E] int64: the target that the next actions must hit."""
        return self._targets[self.time]

    @property
    def guess(self) -> Tensor:
        """[E] int64: the opponent's guess of agent 0's next action (the agents are not told)."""
        largest = self._largest.view(-1).take(self._records[self.time])
        return (self._low - (largest & self._low)).long()

    def reset(self) -> Step:
        self._start()
        return self.observe()

    def observe(self) -> Step:
        return self._report(self._zero, self._no, self.time, self._return, self._no, self._no)

    def step(self, actions: Tensor) -> Step:
        """Play `actions` [E, N], integers of 0..A-1.

        Raises:
            InputError: wrong shape or a floating type; with `debug=True` also an illegal action, by row and agent.
                Without `debug` an illegal action spoils the opponent's record.
        """
        if actions.shape != (self.num_envs, self.spec.num_agents) or actions.is_floating_point():
            raise InputError(
                f"actions must be integers of shape {(self.num_envs, self.spec.num_agents)}, "
                f"not {actions.dtype} of shape {tuple(actions.shape)}"
            )
        if self._debug:
            _check_legal(actions, self.spec.num_actions)
        time = self.time
        hit = actions.sum(1) == self._targets[time]

        record = self._records[time]
        cell = self._cells[time] + actions[:, 0]
        largest = self._largest.view(-1).take(record)
        key = self._keys.view(-1).take(cell) + self._one_more
        # the low bits name the guess and the action just played
        guessed = ((largest ^ key) & self._low) == 0 if self._guessing else self._no
        self._keys.view(-1).put_(cell, key)
        self._largest.view(-1).put_(record, torch.maximum(largest, key))

        reward = hit * (2.0 - guessed.float())
        episode_return = self._return + reward
        played = time + 1
        if played < EPISODE_LENGTH:
            self.time, self._return = played, episode_return
            return self._report(reward, self._no, played, episode_return, hit, guessed)
        final_obs, final_state = self._obs[played], self._states[played]
        self._start()
        step = self._report(reward, self._yes, played, episode_return, hit, guessed)
        return step._replace(final_obs=final_obs, final_state=final_state)

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "time": torch.tensor(self.time),
            "targets": torch.stack(self._targets),
            "keys": self._keys.clone(),
            "largest": self._largest.clone(),
            "return": self._return.clone(),
            "generators": torch.stack([generator.get_state() for generator in self._generators]),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`.

        Raises:
            InputError: a tensor is missing or has another shape or type than this environment's own (nothing changed).
        """
        for name, own in self.state_dict().items():
            if name not in state:
                raise InputError(f"this is no state of this environment: {name!r} is missing")
            if state[name].shape != own.shape or state[name].dtype != own.dtype:
                raise InputError(
                    f"this is no state of this environment: {name!r} is {state[name].dtype} "
                    f"{tuple(state[name].shape)}, expected {own.dtype} {tuple(own.shape)}"
                )
        generators = [_generator(one) for one in state["generators"]]
        time = int(state["time"])
        targets = state["targets"].to(self.device, copy=True)
        if not (0 <= time < EPISODE_LENGTH and ((targets >= 0) & (targets < self.num_targets)).all()):
            raise InputError("this is no state of this environment: a step count or a target is out of range")
        self._begin_with(targets)
        self._keys.copy_(state["keys"])
        self._largest.copy_(state["largest"])
        self.time = time
        self._return = state["return"].to(self.device, copy=True)
        self._generators = generators

    def _start(self) -> None:
        """Start new episodes: draw all their targets, and one more for the observation after the last step."""
        size = (EPISODE_LENGTH + 1, self.num_envs // len(self.seeds))
        draws = [torch.randint(self.num_targets, size, generator=generator) for generator in self._generators]
        targets = torch.cat(draws, 1)
        if self.device.type == "cuda":  # a copy from pinned memory does not make the host wait
            targets = targets.pin_memory()
        self._begin_with(targets.to(self.device, non_blocking=True))

    def _begin_with(self, targets: Tensor) -> None:
        """Clear the record and lay out the whole episode with these `targets` [T+1, E]: a step only picks its slice."""
        self.time = 0
        self._return = self._zero
        self._keys.copy_(self._fresh_keys)
        self._largest.fill_(self._low)

        rows, agents = self.num_envs, self.spec.num_agents
        states = torch.empty(EPISODE_LENGTH + 1, rows, self.spec.state_size, device=self.device)
        if self._ordinal:
            levels = torch.arange(self.num_targets, device=self.device)
            states[..., : self.num_targets] = targets.unsqueeze(-1) == levels
            states[..., self.num_targets : 2 * self.num_targets] = (targets.unsqueeze(-1) >= levels) * THERMOMETER
        else:
            states[..., 0] = targets
        if self._observe_step:
            states[..., -1] = self._clock / EPISODE_LENGTH if self._ordinal else self._clock
        records = targets.clamp(max=self._num_records - 1) + self._first_record  # flat index of the record in use
        self._targets = targets.unbind(0)
        self._records = records.unbind(0)
        self._cells = (records * self.spec.num_actions).unbind(0)  # flat index of the record's first key
        self._states = states.unbind(0)
        self._obs = states[:, :, None].expand(-1, -1, agents, -1).unbind(0)

    def _report(
        self, reward: Tensor, ended: Tensor, played: int, episode_return: Tensor, hit: Tensor, guessed: Tensor
    ) -> Step:
        obs, state = self._obs[self.time], self._states[self.time]
        return Step(
            obs=obs,
            state=state,
            available=self._available,
            reward=reward[:, None].expand(-1, self.spec.num_agents),
            terminated=ended,
            truncated=self._no,
            final_obs=obs,
            final_state=state,
            info={
                "episode_return": episode_return,
                "episode_length": self._lengths[played],
                "hit": hit,
                "guessed": guessed,
            },
        )


def _generator(state: Tensor) -> torch.Generator:
    """A generator that continues from `state`; torch crashes on a state that is a slice of a tensor, hence the copy."""
    generator = torch.Generator()
    try:
        return generator.set_state(state.to("cpu", copy=True))
    except RuntimeError as error:
        raise InputError(f"this is no state of this environment: {error}") from None


def _check_legal(actions: Tensor, num_actions: int) -> None:
    illegal = ((actions < 0) | (actions >= num_actions)).nonzero()
    if len(illegal) > 0:
        row, agent = illegal[0].tolist()
        value = int(actions[row, agent])
        raise InputError(f"illegal action {value} of agent {agent} in row {row}; valid: 0..{num_actions - 1}")
