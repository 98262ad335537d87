# A2C with shared parameters, page by page: book/policy_distance/sharing.md
"""Independent advantage actor-critics that share parameters: by no scheme, a fixed one, or one that changes (MDPS).

Every agent has an actor and a critic on its own observation and learns from its own rewards; what differs is who uses
whose network (`inconcert.sharing`). The settings are those of the policy-distance paper (its section 3.2 and the
authors' code); where text and code differ, both readings are options of `Config`.
Letters in the shape comments: S seed, E environment, N agent, A action, T time, B row (T * E of an agent).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from inconcert import distance, envs, onpolicy, sharing, stacked, tables
from inconcert.actors import taken
from inconcert.config import InputError, unknown
from inconcert.distance import Measure
from inconcert.envs import spread
from inconcert.evaluate import Evaluation, Player, State, choose, masked_log_softmax
from inconcert.sharing import Reading, Scheme, SharedActor, Table


@dataclass(frozen=True)
class Config(onpolicy.Config):
    """Everything a run depends on. Defaults: the policy-distance paper (section 3.2) and its authors' code.

    One pass over one minibatch, the whole rollout, makes A2C of what the other algorithms have too: all ratios are 1,
    so there is nothing that `clip` could clip, and with `gae_lambda` 1 targets are n-step returns.
    """

    task: str = "spread/15a_3c"
    num_envs: int = 8
    rollout: int = 5
    updates: int = 40_000
    epochs: int = 1
    minibatches: int = 1
    ent_coef: float = 0.01
    vf_coef: float = 0.5
    gae_lambda: float = 1.0
    max_grad_norm: float = 0.5
    eval_every: int = 1000
    lr: float = 3e-4
    """Learning rate of actors and critics (paper)."""
    hidden: int = 64
    """Units of every hidden layer (paper)."""
    critic_layers: int = 4
    """Layers of a critic (paper 4, authors' code 3); an actor has 4, two in front and two at the back."""
    initial: Literal["noisy", "same"] = "noisy"
    """noisy: every actor starts differently, orthogonal with gain 0.5 and normal noise of 0.2 on all parameters
    (authors' code). same: all agents start with one and the same network, its last layer small (paper Figure 2)."""
    scheme: Scheme = "fps"
    """Who uses whose network. nps: everybody an own one. fps: all the same. fps-id: all the same, which is told who
    acts. oracle: one for each of `groups`. seps: one for each group that clustering finds before the training. mdps:
    fronts and backs are fused and divided while training, by policy distance."""
    groups: tuple[int, ...] = ()
    """Sizes of the groups of "oracle", agents in order; none: the colours of a spread task."""
    measures: tuple[Measure, ...] = ()
    """Distances to measure and record; mdps decides by the first. None: no measurements, but for mdps "wasserstein",
    and "total-variation" beside it."""
    every: int = 2000
    """Updates between two measurements of the distances (paper: 2000 steps; authors' code: updates)."""
    window: int = 100
    """Last updates before a measurement whose observations are used (paper: 100 steps; authors' code: updates)."""
    epsilon: float = 1.0
    """epsilon_1: fusion threshold; the division threshold is twice that (paper)."""
    start: Literal["fused", "own"] = "fused"
    """mdps begins with one front for all (authors' code; the paper does not say) or with separate ones; backs are
    separate."""
    reading: Reading = "sane"
    """Of Algorithm 1, see `sharing.dynamic_sharing`."""
    back_factor: float = 1.0
    """Share of `epsilon` below which backs fuse (paper 1, authors' code 0.5)."""
    divide_backs: bool = True
    """Divide shared backs too (the paper's text does, its Algorithm 1 and the authors' code do not)."""
    moments: Literal["reset", "copy", "keep"] = "reset"
    """Adam's moments of a network that a copy overwrites: they begin anew, are copied too, or stay (authors' code)."""
    feature: Literal["actions", "reward"] = "actions"
    """What the autoencoder reconstructs: the action distribution, or the reward earned (a customised distance)."""
    latent: int = 10
    """Size of the latent variable (paper)."""
    vae_epochs: int = 10
    """Passes over the observations (authors' code)."""
    kl_weight: float = 0.01
    """Weight of the prior matching term (paper)."""
    distance_rows: int = 0
    """Observations that a distance is averaged over, 0 for all (authors' code)."""
    clusters: int = 0
    """Groups of seps; 0: as many as the Davies-Bouldin index finds."""
    gather: int = 2000
    """Updates in which seps gathers the data to cluster by (SePS authors: 2000 or more)."""
    delay: bool = True
    """seps does not train before it has clustered."""
    seps_epochs: int = 40
    """Passes of seps over `window` rollouts, evenly spaced in what was gathered (SePS authors: 10, over all of it)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.epochs, self.minibatches, self.gae_lambda, self.judge_time_limit) != (1, 1, 1.0, True):
            raise InputError(
                "A2C makes one pass over one minibatch and takes n-step returns of all steps: epochs, minibatches and "
                "gae_lambda are 1, judge_time_limit is True"
            )
        if self.scheme not in get_args(Scheme):
            raise unknown("scheme", self.scheme, get_args(Scheme))
        for measure in self.measures:
            if measure not in distance.MEASURES:
                raise unknown("measure", measure, distance.MEASURES)
        if not 1 <= self.window <= min(self.every, self.gather):
            raise InputError(f"window must be from 1 to {min(self.every, self.gather)} updates, not {self.window}")
        if self.critic_layers < 2:
            raise InputError(f"critic_layers must be at least 2, not {self.critic_layers}")

    @property
    def steps_per_column(self) -> int:
        """The networks have no memory: every step stands for itself."""
        return 1

    @property
    def measured(self) -> tuple[Measure, ...]:
        """The distances that are measured."""
        return self.measures or (("wasserstein", "total-variation") if self.scheme == "mdps" else ())


# ---------------------------------------------------------------------------------------------------------- settings

PAPER: dict[str, dict[str, Any]] = {
    "spread/30a_5c_super": {"updates": 50_000},
    "spread/15a_3c_shuffle": {"updates": 50_000},
}
"""Tasks whose curves in Figure 3 go on for longer."""
LAPTOP: dict[str, Any] = {
    "seeds": (0, 1, 2), "updates": 6000, "every": 1000, "gather": 1000, "eval_every": 1000, "final_episodes": 128,
    "distance_rows": 4096,
}  # fmt: skip
"""The paper's setting, for a shorter time: schedules are compressed with it. A larger learning rate (0.001) is hardly
faster, and leaves whole seeds with agents that run off in one direction."""
LAPTOP_OF: dict[str, dict[str, Any]] = {
    "spread/naive_6a_3c": {"seeds": (0, 1, 2, 3, 4), "updates": 10_000},
    **{
        task: {"updates": 4000}
        for task in ("spread/30a_3c", "spread/30a_5c", "spread/30a_5c_super", "spread/30a_3c_shuffle")
    },
    **{task: {"num_envs": 16, "epsilon": 0.5} for task in ("smax/3s5z_vs_3s6z", "smax/smacv2_5_units")},
}
"""Fewer agents take less time, which Figure 2 needs to converge; twice the agents take twice the time. Battles: the
paper's threshold for SMAC, and more copies, because a step of many is as dear as a step of few."""
SMOKE: dict[str, Any] = {
    "seeds": (0, 1), "updates": 60, "eval_every": 20, "eval_episodes": 8, "final_episodes": 16, "every": 20,
    "gather": 20, "window": 10, "vae_epochs": 2, "seps_epochs": 2, "distance_rows": 256,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    **{name: {"scheme": name} for name in get_args(Scheme)},
    # more data for each update, and larger steps
    **{f"{name}-wide": {"scheme": name, "num_envs": 32, "lr": 1e-3} for name in ("nps", "mdps")},
    # 0.28 is to total variation what 1 is to the learnt distance: as many pairs of a run on 15a_3c are nearer
    "mdps-tv": {"scheme": "mdps", "measures": ("total-variation",), "epsilon": 0.28},
    "mdps-reward": {"scheme": "mdps", "feature": "reward"},
    "mdps-own": {"scheme": "mdps", "start": "own"},
    "mdps-literal": {"scheme": "mdps", "reading": "literal"},
    "mdps-code": {"scheme": "mdps", "reading": "code", "moments": "keep"},
    **{f"mdps-epsilon-{value:g}": {"scheme": "mdps", "epsilon": value} for value in (0.25, 0.5, 2.0)},
    **{f"mdps-vae_epochs-{value}": {"scheme": "mdps", "vae_epochs": value} for value in (2, 30)},
    # Figure 2
    "same": {
        "scheme": "nps", "initial": "same",
        "measures": tuple(name for name in distance.MEASURES if not name.endswith("-code")),
    },
}  # fmt: skip
"""Named departures from a tier's setting: the schemes of Figure 3 with the oracle that is missing there, a throughput
option (wide), the control that is missing there (total variation), readings, sweeps, and Figure 2."""


def configure(task: str, tier: str, variant: str = "", **changes: Any) -> Config:
    """The setting of a tier ("smoke", "laptop", "paper") for a task, a named variant, and single changes on top."""
    tiers = {
        "smoke": SMOKE,
        "laptop": {**LAPTOP, **LAPTOP_OF.get(task, {})},
        "paper": {"seeds": (0, 1, 2, 3, 4), **PAPER.get(task, {})},
    }
    return onpolicy.settle(Config, task, tier, tiers, VARIANTS.get(variant, {}), changes)


# ------------------------------------------------------------------------------------------------------------- losses


def actor_loss(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """Policy gradient, to minimise: sum over agents, mean over their rows (authors' code), `[S, N, B] -> [S]`."""
    return -(log_prob * advantage).mean(-1).sum(-1)


def critic_loss(value: Tensor, returns: Tensor) -> Tensor:
    """Squared error: sum over agents, mean over their rows (authors' code), `[S, N, B] -> [S]`."""
    return (value - returns).square().mean(-1).sum(-1)


# ----------------------------------------------------------------------------------------------------------- learning


def by_agent(x: Tensor) -> Tensor:
    """Agents before rows: `[S, T, E, N, ...] -> [S, N, T * E, ...]`."""
    return x.movedim(3, 1).flatten(2, 3)


class Memory(nn.Module):
    """What was seen in `window` rollouts, for a measurement or a clustering that looks back on it.

    Memories are among the learner's networks, so they are part of a checkpoint.

    Args:
        names: of what is kept: obs, available, action, reward, start.
    """

    def __init__(self, config: Config, spec: envs.Spec, names: Sequence[str]) -> None:
        super().__init__()
        shape = len(config.seeds), config.window, config.rollout, config.num_envs
        agents = *shape, spec.num_agents
        contents = {
            "obs": torch.zeros(*agents, spec.obs_size),
            "available": torch.ones(*agents, spec.num_actions, dtype=torch.bool),
            "action": torch.zeros(agents, dtype=torch.int64),
            "reward": torch.zeros(agents),
            "start": torch.zeros(shape, dtype=torch.bool),
        }
        for name in names:
            self.register_buffer(name, contents[name])

    def store(self, data: State, slot: int) -> None:
        """Keep the rollout `data` `[S, T, E, ...]` in place of what lies at `slot`."""
        for name, buffer in self.named_buffers():
            buffer[:, slot] = data[name]

    def of_agents(self, name: str) -> Tensor:
        """`[S, N, M, ...]`: all of `obs`, `available` or `reward`, agent by agent."""
        return self.get_buffer(name).movedim(4, 1).flatten(2, 4)

    def transitions(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Observations, actions, rewards, next observations, and whether these go together, `[S, N, M, ...]` each.

        A rollout's last step is left out: what it led to is not in the rollout.
        """

        def part(x: Tensor) -> Tensor:
            return x.movedim(4, 1).flatten(2, 4)

        obs, action, reward = (self.get_buffer(name) for name in ("obs", "action", "reward"))
        within = ~self.get_buffer("start")[:, :, 1:, :, None].expand_as(reward[:, :, 1:])
        return part(obs[:, :, :-1]), part(action[:, :, :-1]), part(reward[:, :, :-1]), part(obs[:, :, 1:]), part(within)


class Learner:
    """Actors and critics of all seeds, who uses which, and the update (the contract is `onpolicy.Learner`)."""

    deployed = "actor"

    def __init__(self, config: Config, spec: envs.Spec, device: str) -> None:
        self.config, self.spec = config, spec
        seeds, agents, hidden = len(config.seeds), spec.num_agents, config.hidden
        one, groups = config.scheme in ("fps", "fps-id"), _groups(config, spec)
        self.id = torch.eye(agents, device=device) if config.scheme == "fps-id" else None
        inputs = spec.obs_size + (agents if self.id is not None else 0)
        count = 1 if one else len(groups) or agents
        self.front = self._table("front", (inputs, hidden, hidden), count)
        self.back = self._table("back", (hidden, hidden, spec.num_actions), count)
        self.critic = self._table("critic", (inputs, *[hidden] * (config.critic_layers - 1), 1), count)
        front, back = _first_indices(config, groups, agents)
        each = [None if index is None else torch.tensor(index).repeat(seeds, 1) for index in (front, back)]
        self.actor = SharedActor(self.front, self.back, *each)
        self.networks: dict[str, nn.Module] = {"actor": self.actor.to(device), "critic": self.critic.to(device)}
        seen = ("obs", "available", "reward")[: 3 if config.feature == "reward" else 2]
        happened = ("obs", "action", "reward", "start")
        self.memory = Memory(config, spec, seen if config.measured else ()).to(device)
        self.gathered = Memory(config, spec, happened if config.scheme == "seps" else ()).to(device)
        memories = {"memory": self.memory, "gathered": self.gathered}
        self.networks |= {name: memory for name, memory in memories.items() if memory.state_dict()}
        self.all = nn.ModuleList([self.actor, self.critic])
        self.companions: dict[str, Player] = {}
        self.rates: Sequence[float] = (config.lr,)
        self.rows = [list(table.weight.detach().unbind()) for table in (self.front, self.back, self.critic)]
        """Where networks change hands they are stepped one by one: each has moments and a step count of its own, and
        one that nobody uses stays as it is."""
        parameters = [row for rows in self.rows for row in rows] if config.scheme == "mdps" else self.all.parameters()
        self.optimiser: torch.optim.Optimizer = torch.optim.Adam(parameters, eps=config.adam_eps, fused=True)
        self.no_value = torch.zeros(seeds, config.num_envs, agents, device=device)
        self.measurement: dict[str, Tensor] = {}
        """The distances `[S, N, N]` measured since the last report, by measure."""

    def _table(self, name: str, sizes: tables.Sizes, count: int) -> Table:
        seeds = self.config.seeds
        same = self.config.initial == "same"
        streams = stacked.generators((stacked.derive(seed, name) for seed in seeds), 1 if same else count)
        if same or name == "critic":
            gains = [2**0.5] * (len(sizes) - 1)
            if name == "back":
                gains[-1] = 0.01
            rows = tables.orthogonal_rows(sizes, streams, gains)
        else:
            rows = tables.orthogonal_rows(sizes, streams, [0.5] * (len(sizes) - 1), noise=0.2)
        return Table(rows.repeat_interleave(count, 0) if same else rows, sizes, len(seeds))

    # ------------------------------------------------------------------------------------------------- acting

    def told(self, obs: Tensor) -> Tensor:
        """What the networks see `[S, N, B, inputs]` of the observations `[S, N, B, O]`: with "fps-id" who acts, too."""
        if self.id is None:
            return obs
        return torch.cat([obs, self.id.unsqueeze(1).expand(*obs.shape[:3], -1)], -1)

    def log_probs(self, obs: Tensor, available: Tensor) -> Tensor:
        """`[S, E, N, A]` of one moment: `obs [S, E, N, O]`, `available [S, E, N, A]`."""
        return masked_log_softmax(self.actor(self.told(obs.transpose(1, 2))).transpose(1, 2), available)

    @torch.no_grad()
    def __call__(self, step: envs.Step, start: Tensor, memory: Any, uniform: Tensor | None) -> tuple[Tensor, Any]:
        obs, available = (x.unflatten(0, start.shape) for x in (step.obs, step.available))
        return choose(self.log_probs(obs, available), uniform), memory

    def memories(self, envs_per_seed: int) -> State:
        return {}

    def act(self, now: dict[str, Any], uniform: Tensor) -> State:
        obs, available = (x.unflatten(0, now["start"].shape) for x in (now["step"].obs, now["step"].available))
        # n-step returns do not depend on the values in between, so that the critic is only asked when it is trained
        action = choose(self.log_probs(obs, available), uniform)
        return {"obs": obs, "available": available, "action": action, "value": self.no_value}

    def value(self, obs: Tensor, state: Tensor, start: Tensor, now: dict[str, Any]) -> Tensor:
        seen = self.told(obs.unflatten(0, start.shape).transpose(1, 2))
        return self.critic(seen, self.actor.back_index).squeeze(-1).transpose(1, 2)

    # ----------------------------------------------------------------------------------------------- learning

    def learn(self, data: State, index: int) -> State:
        """One gradient step; at its time a measurement of the distances, a new sharing, or the clustering."""
        config = self.config
        clustering = config.scheme == "seps" and index <= config.gather
        signs: State = {}
        if not (clustering and config.delay):
            signs = self.gradients(data)
            signs["grad_norm"] = stacked.clip_grad_norm_(self.all, config.max_grad_norm, len(config.seeds))
            if config.scheme == "mdps":
                self._hand_out_gradients()
            self.optimiser.step()
        if clustering:
            stride = config.gather // config.window
            slot, late = divmod(index, stride)
            if not late and slot <= config.window:
                self.gathered.store(data, slot - 1)
            if index == config.gather:
                self.cluster()
        if config.measured:
            until = -index % config.every  # updates until the next measurement
            if until < config.window:
                self.memory.store(data, config.window - 1 - until)
            if until == 0:
                self.measure(index)
        return signs

    def gradients(self, data: State) -> State:
        """Backpropagate the loss of one rollout `[S, T, E, ...]`; returns diagnostics `[S]`."""
        config = self.config
        obs, available, action, returns = (by_agent(data[name]) for name in ("obs", "available", "action", "target"))
        seen = self.told(obs)
        log_probs = masked_log_softmax(self.actor(seen), available)  # [S, N, B, A]
        value = self.critic(seen, self.actor.back_index).squeeze(-1)
        policy_loss = actor_loss(taken(log_probs, action), returns - value.detach())
        value_loss = critic_loss(value, returns)
        bonus = onpolicy.entropy(log_probs)
        for table in self.all.parameters():
            table.grad = None
        # the entropy is a sum over agents, like the losses; seeds share no parameter
        bonuses = config.ent_coef * self.spec.num_agents * bonus
        (policy_loss + config.vf_coef * value_loss - bonuses).sum().backward()
        return {"policy_loss": policy_loss.detach(), "value_loss": value_loss.detach(), "entropy": bonus.detach()}

    def _hand_out_gradients(self) -> None:
        """Give every network in use its row of the tables' gradients, and the others none."""
        indices = (self.actor.front_index, self.actor.back_index, self.actor.back_index)
        for table, rows, index in zip((self.front, self.back, self.critic), self.rows, indices, strict=True):
            assert index is not None
            assert table.weight.grad is not None
            used = set(table.rows(index).tolist())
            for number, (row, gradient) in enumerate(zip(rows, table.weight.grad.unbind(), strict=True)):
                row.grad = gradient if number in used else None

    # ------------------------------------------------------------------------------------------------ sharing

    def measure(self, index: int) -> None:
        """Measure the distances of the present policies on what is remembered, and share anew by them (mdps)."""
        config, memory = self.config, self.memory
        available = memory.of_agents("available")
        self.measurement = distance.policy_distances(
            lambda obs: self.actor(self.told(obs)).softmax(-1),
            memory.of_agents("obs"),
            config.measured,
            available=None if bool(available.all()) else available,
            feature=memory.of_agents("reward").unsqueeze(-1) if config.feature == "reward" else None,
            settings=distance.Settings(
                latent=config.latent, epochs=config.vae_epochs, kl_weight=config.kl_weight, rows=config.distance_rows
            ),
            seed=[stacked.derive(seed, "distance", index) for seed in config.seeds],
        )
        if config.scheme == "mdps":
            self.share(self.measurement[config.measured[0]])

    @torch.no_grad()
    def share(self, apart: Tensor) -> None:
        """Fuse and divide by the distances `[S, N, N]`; critics go with the backs."""
        config, front, back = self.config, self.actor.front_index, self.actor.back_index
        assert front is not None
        assert back is not None
        for seed in range(len(config.seeds)):
            plan = sharing.dynamic_sharing(
                apart[seed], front[seed].tolist(), back[seed].tolist(), config.epsilon, reading=config.reading,
                back_factor=config.back_factor, divide_backs=config.divide_backs,
            )  # fmt: skip
            first = seed * self.spec.num_agents
            for copy in plan.copies:
                for rows in self.rows[:1] if copy.part == "front" else self.rows[1:]:
                    self._copy(rows[first + copy.source], rows[first + copy.target])
            front[seed], back[seed] = torch.tensor(plan.front), torch.tensor(plan.back)

    def _copy(self, source: Tensor, target: Tensor) -> None:
        target.copy_(source)
        state = self.optimiser.state
        if self.config.moments != "keep":
            state.pop(target, None)
        if self.config.moments == "copy" and source in state:
            state[target] = {name: value.clone() for name, value in state[source].items()}

    def cluster(self) -> None:
        """Put the agents of each seed into groups by what the world answers them (seps)."""
        config = self.config
        found = sharing.identities(
            *self.gathered.transitions(),
            self.spec.num_actions,
            [stacked.derive(seed, "clustering") for seed in config.seeds],
            dataclasses.replace(sharing.SEPS, epochs=config.seps_epochs),
        )
        index = torch.tensor([sharing.clusters(own, config.clusters) for own in found])
        for table in (self.actor.front_index, self.actor.back_index):
            assert table is not None
            table.copy_(index)

    # ------------------------------------------------------------------------------------------------- record

    def report(self) -> dict[str, dict[str, Tensor]]:
        """Who uses which network, and the distances measured since the last report, as further modes of a record.

        "sharing": an agent in place of an episode, `front` and `back` `[S, N]`. "distance": a pair of agents in place
        of an episode, (0, 1), (0, 2), ... (1, 2), ..., each measure `[S, N (N - 1) / 2]`.
        """
        found: dict[str, dict[str, Tensor]] = {}
        front, back = self.actor.front_index, self.actor.back_index
        if self.config.scheme in ("seps", "mdps") and front is not None and back is not None:
            found["sharing"] = {"front": front.float().cpu(), "back": back.float().cpu()}
        if self.measurement:
            i, j = torch.tensor(list(combinations(range(self.spec.num_agents), 2))).t()
            found["distance"] = {name: value[:, i, j].float().cpu() for name, value in self.measurement.items()}
            self.measurement = {}
        return found


def _groups(config: Config, spec: envs.Spec) -> tuple[int, ...]:
    """Sizes of the groups of "oracle", () for the other schemes."""
    if config.scheme != "oracle":
        return ()
    suite, _, name = config.task.partition("/")
    groups = config.groups
    if not groups and suite == "spread":
        groups = spread.groups(name, config.env_options.get("grouping", "name"))  # type: ignore[arg-type]
    if sum(groups) != spec.num_agents or min(groups, default=0) < 1:
        raise InputError(f"groups must be sizes that add up to {spec.num_agents} agents, not {groups}")
    return groups


def _first_indices(config: Config, groups: tuple[int, ...], agents: int) -> tuple[list[int] | None, list[int] | None]:
    """Which front and which back each agent starts with; None as in `SharedActor`."""
    own, fused = list(range(agents)), [0] * agents
    if config.scheme == "oracle":
        index = [group for group, size in enumerate(groups) for _ in range(size)]
        return index, index
    if config.scheme == "seps":
        return fused, fused
    if config.scheme == "mdps":
        return fused if config.start == "fused" else own, own
    return None, None


def train(config: Config, device: str = "cpu", state: State | None = None) -> Iterator[Evaluation]:
    """Train all seeds side by side, yielding one `Evaluation` after another; see `onpolicy.train`.

    The outcomes of an evaluation on the curve also hold `Learner.report`: who shared with whom, and how far apart the
    policies were.
    """
    learners: list[Learner] = []

    def build(config: Config, spec: envs.Spec, device: str) -> Learner:
        learners.append(Learner(config, spec, device))
        return learners[-1]

    for evaluation in onpolicy.train(build, config, device, state):
        more = learners[0].report() if evaluation.phase == "curve" else {}
        yield dataclasses.replace(evaluation, outcomes={**evaluation.outcomes, **more})


def restore(config: Config, parameters: State, device: str = "cpu") -> Player:
    """The deployed policies of all seeds, from the actor parameters that a run saved."""
    return onpolicy.restore(Learner, config, parameters, device)
