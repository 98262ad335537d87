"""What a claim is, the kinds of criteria that it can be judged by, each with its fields, and what these are judged on.

The rules themselves are in `inconcert.rules`.
"""

from __future__ import annotations

import abc
import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from inconcert import fusion_trials, scaling, stats
from inconcert.config import InputError
from inconcert.records import Record, final, swept
from inconcert.scaling import Quantity

RECOUNT = "recount of the printed table"
"""Label of a verdict that only does the paper's own arithmetic again: no run of ours stands behind it."""


# ------------------------------------------------------------------------------------------------------------ criteria


@dataclass(frozen=True, kw_only=True)
class FromRecords(abc.ABC):
    """Fields that all criteria judged by run records share."""

    variant: str = ""
    """Of the algorithms and their environment, as in a record's name; "" is the paper's own text."""
    phase: Literal["best", "last", "curve"] = "best"
    """"best": the absolute metric, parameters of the best evaluation tested again on fresh episodes; "curve": the mean
    over all evaluations of the run."""
    mode: Literal["sampled", "greedy", "closed", "training"] = "sampled"
    """How actions are chosen; "closed": sampled, where the short one of two corridors is closed; "training": what the
    learner logged between evaluations, in the phase "curve"."""
    metric: str = "episode_return"
    """What is scored: the mean return of the agents, or another quantity of a record's episodes."""
    minimum_tier: Literal["laptop", "paper"] = "laptop"

    @property
    @abc.abstractmethod
    def players(self) -> tuple[str, ...]:
        """The records that are needed: an algorithm (in the criterion's variant) or `algorithm@variant`."""

    @property
    def quantity(self) -> tuple[str, ...]:
        """What is read from a record, as a key: criteria with the same one share what was read."""
        return self.phase, self.mode, self.metric

    def scores(self, record: Record) -> stats.Floats:
        """A number for each seed of a record, in their order."""
        return final(record, self.phase, self.mode, self.metric).sort_index().to_numpy(dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class PublishedInPredictionInterval(FromRecords):
    """The published mean lies inside our 95 % prediction interval for a mean of as many runs as the paper's.

    A noisy record has a wide interval, with which much is compatible: the evidence therefore states the interval.
    """

    algorithm: str
    table: str
    column: str
    published_seeds: int

    @property
    def players(self) -> tuple[str, ...]:
        return (self.algorithm,)


@dataclass(frozen=True, kw_only=True)
class WithinRelative(FromRecords):
    """Our mean differs from the published one by at most the threshold, as a fraction of the published one.

    The kind of tolerance that the AEA Data Editor's replication reports use.
    """

    algorithm: str
    table: str
    column: str

    @property
    def players(self) -> tuple[str, ...]:
        return (self.algorithm,)


@dataclass(frozen=True, kw_only=True)
class Greater(FromRecords):
    """`algorithm` beats each of `than` on each task: Welch's 95 % interval of the difference lies above the threshold.

    The threshold is 0 where none is given. A difference above it whose interval reaches below it counts 1/2.
    """

    algorithm: str
    than: tuple[str, ...]

    @property
    def players(self) -> tuple[str, ...]:
        return (self.algorithm, *self.than)


@dataclass(frozen=True, kw_only=True)
class BestOf(FromRecords):
    """`algorithm` has the highest mean of `among` on each task (what a bold cell of a printed table says).

    Not the highest, but with a difference to the highest whose Welch 95 % interval includes 0, counts 1/2.
    """

    algorithm: str
    among: tuple[str, ...]

    @property
    def players(self) -> tuple[str, ...]:
        return (self.algorithm, *(other for other in self.among if other != self.algorithm))


@dataclass(frozen=True, kw_only=True)
class RankOrder(FromRecords):
    """The means come in the given order, best first, on each task.

    Another order counts 1/2 if Kendall's tau with the given one is at least the threshold.
    """

    order: tuple[str, ...]

    @property
    def players(self) -> tuple[str, ...]:
        return self.order


@dataclass(frozen=True, kw_only=True)
class AboveBaseline(FromRecords):
    """Our 95 % t interval of the mean lies above the mean of what `baseline(task=..., **options)` returns.

    A mean above it whose interval reaches below it counts 1/2.
    """

    algorithm: str
    baseline: str
    """Named as "module:function"."""
    baseline_name: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def players(self) -> tuple[str, ...]:
        return (self.algorithm,)


@dataclass(frozen=True, kw_only=True)
class ProbabilityOfImprovement(FromRecords):
    """A run of `algorithm` beats a run of each rival in `over` with a probability above the threshold, 1/2 by default.

    All tasks of the claim are taken together, by `stats.probability_of_improvement`; each rival is a part. An interval
    that reaches below the threshold counts 1/2 where the estimate lies above it.
    """

    algorithm: str
    over: tuple[str, ...]

    @property
    def players(self) -> tuple[str, ...]:
        return (self.algorithm, *self.over)


@dataclass(frozen=True, kw_only=True)
class FollowsGuider(FromRecords):
    """Of two guiders, the one that earns more on its own also makes the better learner.

    Both differences have the same sign; where Welch's 95 % interval of either includes 0, that counts 1/2.
    """

    algorithm: str
    guiders: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.guiders) != 2:
            raise InputError(f"criterion field 'guiders' names two algorithms, not {len(self.guiders)}")

    @property
    def players(self) -> tuple[str, ...]:
        return (*self.guiders, *(self.guided(name) for name in self.guiders))

    def guided(self, guider: str) -> str:
        """The record of `algorithm` with this guider."""
        return f"{self.algorithm}@{swept(self.variant, 'guider', guider)}"


@dataclass(frozen=True, kw_only=True)
class MonotoneTrend(FromRecords):
    """Scores rise or fall with a setting: the 95 % interval of `stats.monotone_trend` lies on that side of 0.

    An interval that includes 0 counts 1/2 where the estimate lies on that side.
    """

    algorithm: str
    parameter: str
    """The setting's name in the records' variants, such as "delta" in "clamped-delta-1.2"."""
    values: tuple[float, ...]
    direction: Literal["rising", "falling"]

    @property
    def players(self) -> tuple[str, ...]:
        return tuple(at(self, self.algorithm, value) for value in self.values)


@dataclass(frozen=True, kw_only=True)
class GreaterInSweep(FromRecords):
    """`algorithm` beats each of `than` at every value of a setting, by the rule of `Greater`."""

    algorithm: str
    than: tuple[str, ...]
    parameter: str
    values: tuple[float, ...]

    @property
    def players(self) -> tuple[str, ...]:
        return tuple(at(self, name, value) for name in (self.algorithm, *self.than) for value in self.values)


@dataclass(frozen=True, kw_only=True)
class GapGrows(FromRecords):
    """The lead of `algorithm` over `than` grows towards the small (large) values of a setting.

    The 95 % interval of `stats.gap_slope`, in points of return for each doubling, lies on that side of 0; where it
    includes 0, an estimate on that side counts 1/2.
    """

    algorithm: str
    than: str
    parameter: str
    values: tuple[float, ...]
    towards: Literal["small", "large"]

    @property
    def players(self) -> tuple[str, ...]:
        return tuple(at(self, name, value) for name in (self.algorithm, self.than) for value in self.values)


@dataclass(frozen=True, kw_only=True)
class BestOfSweepBeatsReference(FromRecords):
    """Tuned over `values`, a setting earns more than at `reference`: Welch's 95 % interval lies above the threshold.

    The best value is chosen for each seed by the other seeds (`stats.chosen_by_the_others`). The threshold is 0 where
    none is given; a difference above it whose interval reaches below it counts 1/2.
    """

    algorithm: str
    parameter: str
    values: tuple[float, ...]
    reference: float

    @property
    def players(self) -> tuple[str, ...]:
        return tuple(at(self, self.algorithm, value) for value in (*self.values, self.reference))


@dataclass(frozen=True, kw_only=True)
class GainsLess(FromRecords):
    """Tuning a setting gains `algorithm` less than it gains `than`; gains as in `BestOfSweepBeatsReference`.

    The 95 % interval of the difference of the two gains (Welch, four samples) lies above 0; a difference above 0 whose
    interval includes it counts 1/2.
    """

    algorithm: str
    than: str
    parameter: str
    values: tuple[float, ...]
    reference: float

    @property
    def players(self) -> tuple[str, ...]:
        settings = (*self.values, self.reference)
        return tuple(at(self, name, value) for name in (self.algorithm, self.than) for value in settings)


@dataclass(frozen=True, kw_only=True)
class LateGrowth(FromRecords):
    """What happens to the distances of policies late in training: they level off, or they keep growing.

    The growth of the mean distance over all pairs from the third to the fourth quarter of training, as a fraction:
    levels off if its 95 % t interval lies below the threshold, keeps growing if it lies above. 1/2 where only the mean
    lies there.
    """

    algorithm: str
    measure: str
    """A distance that the record has (see `inconcert.distance`)."""
    expected: Literal["levels off", "keeps growing"]

    @property
    def players(self) -> tuple[str, ...]:
        return (self.algorithm,)

    @property
    def quantity(self) -> tuple[str, ...]:
        return "late growth", self.measure

    def scores(self, record: Record) -> stats.Floats:
        rows = record.frame[record.frame["mode"] == "distance"]
        if self.measure not in rows:
            raise InputError(f"{record.path} has no distance {self.measure!r}")
        rows = rows.assign(quarter=np.ceil(4 * rows["update"] / rows["update"].max()))
        means = rows.pivot_table(index="seed", columns="quarter", values=self.measure)
        return (means[4.0] / means[3.0] - 1).to_numpy(dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class GrowsSlower:
    """The exponent by which a cost of an update grows with the agents has its 95 % interval below the threshold.

    With `than` it is the difference between the exponents of the two algorithms. An exponent below the threshold whose
    interval reaches above it counts 1/2. Read from the measurements of `inconcert.scaling`; no run record is needed.
    """

    algorithm: str
    quantity: Quantity
    settings: tuple[str, ...]
    """Keys of `scaling.SETTINGS`; each is a part."""
    than: str = ""

    @property
    def players(self) -> tuple[str, ...]:
        """The algorithms that are read."""
        return (self.algorithm, self.than) if self.than else (self.algorithm,)


FUSIBLE: dict[str, tuple[str, ...]] = {**fusion_trials.PAIRS, **fusion_trials.BATTLES}
"""Task -> the algorithms that are fused on it unless a claim names others."""


@dataclass(frozen=True, kw_only=True)
class FusionGain:
    """A fused player earns more than each of `than` over the same episodes, on each task.

    The mean difference has a 95 % t interval, over the teams of policies, above 0; a difference above 0 whose interval
    includes 0 counts 1/2. With `over` what is judged is the growth of that difference from the checkpoint `over` to
    `checkpoint`. No run record is needed, but that of the fusions.
    """

    player: str
    """As in `fusion_results.gains`."""
    than: tuple[str, ...]
    checkpoint: Literal["best", "early"] = "best"
    over: Literal["", "best", "early"] = ""
    team: tuple[str, ...] = ()
    """The algorithms that are fused; () for those of `FUSIBLE`."""

    def cases(self, task: str) -> tuple[fusion_trials.Case, ...]:
        """What is read for a task."""
        moments = (self.checkpoint, self.over) if self.over else (self.checkpoint,)
        team = self.team or FUSIBLE.get(task, ())
        return tuple(fusion_trials.Case(task, team, moment) for moment in moments)


@dataclass(frozen=True, kw_only=True)
class FusionAssociation:
    """The more two policies differ by `measure`, the more `player` gains by fusing them.

    The rank correlation within tasks (`fusion_results.association`) has a 95 % interval above 0; a correlation above 0
    whose interval includes 0 counts 1/2. Read from the record of the fusions.
    """

    measure: str
    """A name in `fusion_results.DIFFERENCES`."""
    player: str
    """As in `fusion_results.gains`."""


@dataclass(frozen=True, kw_only=True)
class ExactValue:
    """`function()` returns the threshold, to within `tolerance`. For what can be enumerated; no record is needed."""

    function: str
    """Named as "module:function"."""
    tolerance: float = 1e-9


@dataclass(frozen=True, kw_only=True)
class PublishedCount:
    """In as many rows of the printed table as the threshold says, `column` is above all `rivals`.

    Values that are equal as printed are ties. Where `rivals` are all other columns, the paper's bold print (made before
    rounding) decides them; elsewhere they stay open, and a threshold that they could reach counts 1/2.
    """

    table: str
    column: str
    rivals: tuple[str, ...]


Criterion = FromRecords | GrowsSlower | FusionGain | FusionAssociation | ExactValue | PublishedCount


@dataclass(frozen=True)
class Claim:
    """One row of `data/claims.yml`."""

    id: str
    paper: str
    exhibit: str
    """An id of `book/exhibits.yml`."""
    claim: str
    """What is claimed, in one sentence."""
    type: str
    """A key of `CRITERIA`."""
    criterion: Any
    """That type's dataclass."""
    seeds: int
    """Runs that our side should have; 0 where no run is needed."""
    date: datetime.date
    """When the criterion was written down."""
    tasks: tuple[str, ...] = ()
    threshold: float | None = None
    stand_in: str = ""
    """The paper's own task, where ours stands in for it."""
    note: str = ""

    @property
    def label(self) -> str:
        """`RECOUNT`, "stand-in for ...", or nothing for a claim that is put to the paper's own test."""
        if self.type == "published_count":
            return RECOUNT
        return f"stand-in for {self.stand_in}" if self.stand_in else ""


class Source(NamedTuple):
    """A record that a verdict rests on."""

    path: str
    tier: str
    seeds: int
    freshness: str


@dataclass(frozen=True)
class Sample:
    """What a record says about an algorithm on a task: one score for each seed."""

    values: stats.Floats
    steps: int
    """Environment steps of training."""
    source: Source


class Cost(NamedTuple):
    """What a measurement says about an algorithm: a cost for each number of agents."""

    line: scaling.Line
    source: Source


class Fusion(NamedTuple):
    """What the record of fusions says about a task."""

    differences: dict[str, stats.Floats]
    """Rival -> for each team of policies the mean difference to it (or its growth)."""
    source: Source


class Association(NamedTuple):
    """How the gain of a player goes with a difference of the fused policies."""

    interval: stats.Interval
    source: Source


@dataclass(frozen=True)
class Part:
    """The decision on one part of a claim."""

    name: str
    score: float
    """1, 1/2 or 0."""
    text: str
    numbers: dict[str, float]


Samples = Mapping[tuple[str, str], Sample]
"""(player, task) -> sample; a player is named as in `FromRecords.players`."""
Costs = Mapping[tuple[str, str], Cost]
"""(algorithm, setting) -> cost."""
Fusions = Mapping[tuple[str, str], Fusion]
"""(team of algorithms, task) -> what is known of it."""
Associations = Mapping[tuple[str, str], Association]
"""(player, measure) -> their association."""


def at(criterion: Any, algorithm: str, value: float) -> str:
    """The player that is `algorithm` with the criterion's parameter at `value`."""
    return f"{algorithm}@{swept(criterion.variant, criterion.parameter, value)}"
