"""The kinds of criteria that a claim can be judged by: for each its fields and, as a small function, its rule.

A rule gives each part of a claim (a task, or a pair of algorithms on a task) 1, 1/2 or 0; `inconcert.claims` turns the
scores into a verdict. 1/2 means: the right direction, but within noise. `CRITERIA` is the table of all kinds.
"""

from __future__ import annotations

import abc
import datetime
import functools
import importlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from inconcert import published, stats
from inconcert.config import InputError, unknown

RECOUNT = "recount of the printed table"
"""Label of a verdict that only does the paper's own arithmetic again: no run of ours stands behind it."""


# ------------------------------------------------------------------------------------------------------------ criteria


@dataclass(frozen=True, kw_only=True)
class FromRecords(abc.ABC):
    """Fields that all criteria judged by run records share."""

    variant: str = ""
    """Of the algorithms and their environment, as in a record's name; "" is the paper's own text."""
    phase: Literal["best", "last"] = "best"
    """"best": the absolute metric, parameters of the best evaluation tested again on fresh episodes."""
    mode: Literal["sampled", "greedy"] = "sampled"
    minimum_tier: Literal["laptop", "paper"] = "laptop"

    @property
    @abc.abstractmethod
    def algorithms(self) -> tuple[str, ...]:
        """The algorithms whose records are needed."""


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
    def algorithms(self) -> tuple[str, ...]:
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
    def algorithms(self) -> tuple[str, ...]:
        return (self.algorithm,)


@dataclass(frozen=True, kw_only=True)
class Greater(FromRecords):
    """`algorithm` beats each of `than` on each task: Welch's 95 % interval of the difference lies above the threshold.

    The threshold is 0 where none is given. A difference above it whose interval reaches below it counts 1/2.
    """

    algorithm: str
    than: tuple[str, ...]

    @property
    def algorithms(self) -> tuple[str, ...]:
        return (self.algorithm, *self.than)


@dataclass(frozen=True, kw_only=True)
class BestOf(FromRecords):
    """`algorithm` has the highest mean of `among` on each task (what a bold cell of a printed table says).

    Not the highest, but with a difference to the highest whose Welch 95 % interval includes 0, counts 1/2.
    """

    algorithm: str
    among: tuple[str, ...]

    @property
    def algorithms(self) -> tuple[str, ...]:
        return (self.algorithm, *(other for other in self.among if other != self.algorithm))


@dataclass(frozen=True, kw_only=True)
class RankOrder(FromRecords):
    """The means come in the given order, best first, on each task.

    Another order counts 1/2 if Kendall's tau with the given one is at least the threshold.
    """

    order: tuple[str, ...]

    @property
    def algorithms(self) -> tuple[str, ...]:
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
    def algorithms(self) -> tuple[str, ...]:
        return (self.algorithm,)


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


Criterion = FromRecords | ExactValue | PublishedCount


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
    note: str = ""

    @property
    def label(self) -> str:
        """`RECOUNT`, or nothing for a claim that is put to a test of ours."""
        return RECOUNT if self.type == "published_count" else ""


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


@dataclass(frozen=True)
class Part:
    """The decision on one part of a claim."""

    name: str
    score: float
    """1, 1/2 or 0."""
    text: str
    numbers: dict[str, float]


Samples = Mapping[tuple[str, str], Sample]
"""(algorithm, task) -> sample"""


# --------------------------------------------------------------------------------------------------------------- rules


def decide_published_in_prediction_interval(
    claim: Claim, criterion: PublishedInPredictionInterval, samples: Samples
) -> list[Part]:
    """See `PublishedInPredictionInterval`."""
    parts = []
    for task in claim.tasks:
        sample = samples[criterion.algorithm, task]
        printed = _printed(claim.paper, criterion.table, criterion.column, task)
        interval = stats.prediction_interval(sample.values, criterion.published_seeds)
        inside = interval.contains(printed)
        text = (
            f"{_describe(criterion.algorithm, criterion, task, sample)}; the published {printed:.2f} lies "
            f"{'inside' if inside else 'outside'} our 95 % prediction interval for {criterion.published_seeds} seeds, "
            f"{interval.low:.2f} to {interval.high:.2f}"
        )
        numbers = {"published": printed, "prediction_low": interval.low, "prediction_high": interval.high}
        parts.append(Part(task, float(inside), text, _numbers(sample) | numbers | _relative(sample, printed)))
    return parts


def decide_within_relative(claim: Claim, criterion: WithinRelative, samples: Samples) -> list[Part]:
    """See `WithinRelative`."""
    parts = []
    for task in claim.tasks:
        sample = samples[criterion.algorithm, task]
        printed = _printed(claim.paper, criterion.table, criterion.column, task)
        relative = _relative(sample, printed)
        limit = _threshold(claim)
        close = abs(relative["relative"]) <= limit
        text = (
            f"{_describe(criterion.algorithm, criterion, task, sample)}; that is {relative['relative']:+.1%} from the "
            f"published {printed:.2f}, {'within' if close else 'beyond'} {limit:.0%}"
        )
        parts.append(Part(task, float(close), text, _numbers(sample) | {"published": printed} | relative))
    return parts


def decide_greater(claim: Claim, criterion: Greater, samples: Samples) -> list[Part]:
    """See `Greater`."""
    parts = []
    limit = 0.0 if claim.threshold is None else claim.threshold
    for task, other in itertools.product(claim.tasks, criterion.than):
        ours, theirs = samples[criterion.algorithm, task], samples[other, task]
        gap = stats.difference(ours.values, theirs.values)
        score = 1.0 if gap.low > limit else 0.5 if gap.estimate > limit else 0.0
        verdict = {1.0: "above", 0.5: "not clearly above", 0.0: "not above"}[score]
        text = (
            f"{_describe(criterion.algorithm, criterion, task, ours)} against {_describe(other, criterion, '', theirs)}"
            f": difference {gap.estimate:+.2f} (95 % CI {gap.low:+.2f} to {gap.high:+.2f}), {verdict} {limit:g}"
        )
        numbers = {"difference": gap.estimate, "difference_low": gap.low, "difference_high": gap.high}
        parts.append(Part(f"{task}: {other}", score, text, _numbers(ours) | numbers))
    return parts


def decide_best_of(claim: Claim, criterion: BestOf, samples: Samples) -> list[Part]:
    """See `BestOf`."""
    parts = []
    for task in claim.tasks:
        ours = samples[criterion.algorithm, task]
        rivals = [name for name in criterion.algorithms if name != criterion.algorithm]
        rival = max(rivals, key=lambda name: samples[name, task].values.mean())
        gap = stats.difference(ours.values, samples[rival, task].values)
        score = 1.0 if gap.estimate > 0 else 0.5 if gap.contains(0.0) else 0.0
        verdict = {1.0: "the highest", 0.5: "not the highest, but within noise of it", 0.0: "not the highest"}[score]
        text = (
            f"{_describe(criterion.algorithm, criterion, task, ours)}; the best other is "
            f"{_describe(rival, criterion, '', samples[rival, task])}: {verdict} "
            f"(difference {gap.estimate:+.2f}, 95 % CI {gap.low:+.2f} to {gap.high:+.2f})"
        )
        numbers = {"difference": gap.estimate, "difference_low": gap.low, "difference_high": gap.high}
        parts.append(Part(task, score, text, _numbers(ours) | numbers))
    return parts


def decide_rank_order(claim: Claim, criterion: RankOrder, samples: Samples) -> list[Part]:
    """See `RankOrder`."""
    parts = []
    for task in claim.tasks:
        means = {name: float(samples[name, task].values.mean()) for name in criterion.order}
        signs = [float(np.sign(means[a] - means[b])) for a, b in itertools.combinations(criterion.order, 2)]
        tau = sum(signs) / len(signs)
        score = 1.0 if tau == 1.0 else 0.5 if tau >= _threshold(claim) else 0.0
        found = sorted(criterion.order, key=lambda name: -means[name])
        listing = " > ".join(f"{_name(name, criterion)} {means[name]:.2f}" for name in found)
        first = samples[criterion.order[0], task]
        fewest = min(len(samples[name, task].values) for name in criterion.order)
        text = (
            f"on {task}: {listing} ({fewest} seeds, {first.source.tier} tier); Kendall's tau with the claimed order "
            f"{' > '.join(name.upper() for name in criterion.order)} is {tau:.2f}"
        )
        parts.append(Part(task, score, text, {"tau": tau, **means}))
    return parts


def decide_above_baseline(claim: Claim, criterion: AboveBaseline, samples: Samples) -> list[Part]:
    """See `AboveBaseline`."""
    parts = []
    for task in claim.tasks:
        sample = samples[criterion.algorithm, task]
        baseline = _baseline(criterion.baseline, task, tuple(sorted(criterion.options.items())))
        numbers = _numbers(sample)
        score = 1.0 if numbers["low"] > baseline else 0.5 if numbers["mean"] > baseline else 0.0
        verdict = {1.0: "above", 0.5: "not clearly above", 0.0: "not above"}[score]
        text = (
            f"{_describe(criterion.algorithm, criterion, task, sample)}: {verdict} {criterion.baseline_name}, "
            f"{baseline:.2f}"
        )
        parts.append(Part(task, score, text, numbers | {"baseline": baseline}))
    return parts


def decide_exact_value(claim: Claim, criterion: ExactValue, samples: Samples) -> list[Part]:
    """See `ExactValue`."""
    value = float(_function(criterion.function)())
    target = _threshold(claim)
    same = abs(value - target) <= criterion.tolerance
    text = f"exact enumeration gives {value:.6g}, claimed is {target:.6g} (tolerance {criterion.tolerance:g})"
    return [Part("value", float(same), text, {"value": value, "claimed": target})]


def decide_published_count(claim: Claim, criterion: PublishedCount, samples: Samples) -> list[Part]:
    """See `PublishedCount`."""
    frame = published.load(claim.paper, criterion.table)
    for name in (criterion.column, *criterion.rivals):
        if name not in set(frame["column"]):
            raise unknown(f"column of {claim.paper} table {criterion.table}", name, sorted(set(frame["column"])))
    values = frame.pivot_table("value", "row", "column", aggfunc="first")
    ours, best = values[criterion.column], values[list(criterion.rivals)].max(axis=1)
    wins, ties = ours > best, ours == best
    rows, won, tied, target = len(values), int(wins.sum()), int(ties.sum()), int(_threshold(claim))
    numbers = {"rows": rows, "wins": won, "ties": tied, "claimed": target}
    text = (
        f"{RECOUNT}: {criterion.column} is above {', '.join(criterion.rivals)} in {won} of {rows} rows and equal to "
        f"the best of them, as printed, in {tied} more; claimed are {target}"
    )
    if "bold" in frame and {criterion.column, *criterion.rivals} == set(values.columns):
        bold = frame.pivot_table("bold", "row", "column", aggfunc="first")[criterion.column]
        resolved = int((wins | (ties & bold)).sum())
        numbers["wins_with_bold_ties"] = resolved
        text += f"; with the ties that the paper prints bold it is {resolved}"
        score = float(resolved == target)
    else:
        score = 1.0 if won == target else 0.5 if won < target <= won + tied else 0.0
        if score == 0.5:
            text += ", which the printed digits can neither confirm nor refute"
    return [Part("table", score, text, {name: float(number) for name, number in numbers.items()})]


class Kind(NamedTuple):
    """A type of criterion."""

    fields: type
    decide: Callable[[Claim, Any, Samples], list[Part]]
    needs_threshold: bool


CRITERIA: dict[str, Kind] = {
    "published_in_prediction_interval": Kind(
        PublishedInPredictionInterval, decide_published_in_prediction_interval, False
    ),
    "within_relative": Kind(WithinRelative, decide_within_relative, True),
    "greater": Kind(Greater, decide_greater, False),
    "best_of": Kind(BestOf, decide_best_of, False),
    "rank_order": Kind(RankOrder, decide_rank_order, True),
    "above_baseline": Kind(AboveBaseline, decide_above_baseline, False),
    "exact_value": Kind(ExactValue, decide_exact_value, True),
    "published_count": Kind(PublishedCount, decide_published_count, True),
}
"""Type in claims.yml -> its fields and its rule."""


# -------------------------------------------------------------------------------------------- the few helpers of rules


def _threshold(claim: Claim) -> float:
    assert claim.threshold is not None  # checked when the claim was read
    return claim.threshold


def _name(algorithm: str, criterion: FromRecords) -> str:
    name = algorithm.upper()
    return f"{name}@{criterion.variant}" if criterion.variant else name


def _numbers(sample: Sample) -> dict[str, float]:
    interval = stats.mean_ci(sample.values, method="t")
    return {"mean": interval.estimate, "low": interval.low, "high": interval.high, "seeds": float(len(sample.values))}


def _describe(algorithm: str, criterion: FromRecords, task: str, sample: Sample) -> str:
    numbers = _numbers(sample)
    steps = f"{sample.steps / 1e6:.1f} M" if sample.steps >= 50_000 else str(sample.steps)
    return (
        f"{_name(algorithm, criterion)}{' on ' + task if task else ''} {numbers['mean']:.2f} (95 % CI "
        f"{numbers['low']:.2f} to {numbers['high']:.2f}, {len(sample.values)} seeds, {sample.source.tier} tier, "
        f"{steps} steps)"
    )


def _relative(sample: Sample, printed: float) -> dict[str, float]:
    if printed == 0:
        raise InputError("a published value of 0 has no relative difference; use another criterion")
    return {"relative": float(sample.values.mean() - printed) / abs(printed)}


def _printed(paper: str, table: str, column: str, task: str) -> float:
    """The published value of `column` in the row that is named as the task is, without its suite."""
    frame = published.load(paper, table)
    row = task.partition("/")[2]
    if row not in set(frame["row"]):
        raise unknown(f"row of {paper} table {table}", row, dict.fromkeys(frame["row"]))
    if column not in set(frame["column"]):
        raise unknown(f"column of {paper} table {table}", column, dict.fromkeys(frame["column"]))
    return float(frame.loc[(frame["row"] == row) & (frame["column"] == column), "value"].iloc[0])


def _function(name: str) -> Callable[..., Any]:
    """The function that "module:function" names."""
    module, _, function = name.partition(":")
    try:
        found = importlib.import_module(module)
    except (ImportError, ValueError) as error:
        raise InputError(f"{name!r} must be module:function; {error}") from None
    if not callable(getattr(found, function, None)):
        raise unknown(f"function of {module}", function, [key for key, value in vars(found).items() if callable(value)])
    return getattr(found, function)


@functools.cache
def _baseline(name: str, task: str, options: tuple[tuple[str, Any], ...]) -> float:
    """Mean of what the function returns; kept, because several claims play the same scripted episodes."""
    return float(np.mean(np.asarray(_function(name)(task=task, **dict(options)), dtype=np.float64)))
