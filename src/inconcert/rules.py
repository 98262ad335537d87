"""The rules by which claims are judged: for each kind of criterion a small function.

A rule gives each part of a claim (a task, or a pair of algorithms on a task) 1, 1/2 or 0; `inconcert.claims` turns the
scores into a verdict. 1/2 means: the right direction, but within noise. `CRITERIA` is the table of all kinds.
"""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from inconcert import published, scaling, stats
from inconcert.config import InputError, unknown
from inconcert.criteria import (
    RECOUNT,
    AboveBaseline,
    Associations,
    BestOf,
    BestOfSweepBeatsReference,
    Claim,
    Costs,
    ExactValue,
    FollowsGuider,
    FromRecords,
    FusionAssociation,
    FusionGain,
    Fusions,
    GainsLess,
    GapGrows,
    Greater,
    GreaterInSweep,
    GrowsSlower,
    LateGrowth,
    MonotoneTrend,
    Part,
    ProbabilityOfImprovement,
    PublishedCount,
    PublishedInPredictionInterval,
    RankOrder,
    Sample,
    Samples,
    WithinRelative,
    at,
)


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
        score, verdict = _side(gap, limit)
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
        rivals = [name for name in criterion.players if name != criterion.algorithm]
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


def decide_probability_of_improvement(
    claim: Claim, criterion: ProbabilityOfImprovement, samples: Samples
) -> list[Part]:
    """See `ProbabilityOfImprovement`."""
    limit = 0.5 if claim.threshold is None else claim.threshold
    ours = {task: samples[criterion.algorithm, task] for task in claim.tasks}
    parts = []
    for rival in criterion.over:
        theirs = {task: samples[rival, task] for task in claim.tasks}
        chance = stats.probability_of_improvement(_values(ours), _values(theirs))
        text = (
            f"{_name(criterion.algorithm, criterion)} over {_name(rival, criterion)} on {len(ours)} task(s): "
            f"probability of improvement {chance.estimate:.2f} (95 % CI {chance.low:.2f} to {chance.high:.2f}, "
            f"{min(chance.runs.values())} seeds, {_tiers(ours.values())} tier)"
        )
        score, verdict = _side(chance, limit)
        numbers = {"probability": chance.estimate, "low": chance.low, "high": chance.high}
        parts.append(Part(rival, score, f"{text}, {verdict} {limit:g}", numbers))
    return parts


def decide_follows_guider(claim: Claim, criterion: FollowsGuider, samples: Samples) -> list[Part]:
    """See `FollowsGuider`."""
    parts = []
    first, second = criterion.guiders
    for task in claim.tasks:
        alone = stats.difference(samples[first, task].values, samples[second, task].values)
        guided = stats.difference(
            samples[criterion.guided(first), task].values, samples[criterion.guided(second), task].values
        )
        same = alone.estimate * guided.estimate > 0
        clear = alone.excludes_zero() and guided.excludes_zero()
        text = (
            f"on {task} {first.upper()} minus {second.upper()} is {_interval(alone)} on their own and "
            f"{_interval(guided)} as guiders of {criterion.algorithm.upper()}: "
            f"{'the same order' if same else 'not the same order'}{'' if clear or not same else ', within noise'}"
        )
        numbers = {"alone": alone.estimate, "guided": guided.estimate}
        parts.append(Part(task, (1.0 if clear else 0.5) if same else 0.0, text, numbers))
    return parts


def decide_monotone_trend(claim: Claim, criterion: MonotoneTrend, samples: Samples) -> list[Part]:
    """See `MonotoneTrend`."""
    parts = []
    for task in claim.tasks:
        runs = _sweep(criterion, criterion.algorithm, criterion.values, task, samples)
        trend = stats.monotone_trend(_values(runs))
        score, _ = _side(trend, 0.0, criterion.direction == "falling")
        verdict = {
            1.0: criterion.direction,
            0.5: f"not clearly {criterion.direction}",
            0.0: f"not {criterion.direction}",
        }
        text = (
            f"{_name(criterion.algorithm, criterion)} on {task} by {criterion.parameter}: {_listing(runs)}; trend "
            f"{_interval(trend)} on the scale from -1 to 1: {verdict[score]}"
        )
        numbers = {"trend": trend.estimate, "low": trend.low, "high": trend.high}
        parts.append(Part(task, score, text, numbers))
    return parts


def decide_greater_in_sweep(claim: Claim, criterion: GreaterInSweep, samples: Samples) -> list[Part]:
    """See `GreaterInSweep`."""
    parts = []
    limit = 0.0 if claim.threshold is None else claim.threshold
    for task, other, value in itertools.product(claim.tasks, criterion.than, criterion.values):
        ours, theirs = (samples[at(criterion, name, value), task] for name in (criterion.algorithm, other))
        gap = stats.difference(ours.values, theirs.values)
        score, verdict = _side(gap, limit)
        text = (
            f"{criterion.parameter} {value:g} on {task}: {criterion.algorithm.upper()} {ours.values.mean():.2f}, "
            f"{other.upper()} {theirs.values.mean():.2f}, difference {_interval(gap)}, {verdict} {limit:g}"
        )
        numbers = {"difference": gap.estimate, "difference_low": gap.low, "difference_high": gap.high}
        parts.append(Part(f"{task}: {other} at {value:g}", score, text, _numbers(ours) | numbers))
    return parts


def decide_gap_grows(claim: Claim, criterion: GapGrows, samples: Samples) -> list[Part]:
    """See `GapGrows`."""
    parts = []
    for task in claim.tasks:
        ours, theirs = (
            _sweep(criterion, name, criterion.values, task, samples) for name in (criterion.algorithm, criterion.than)
        )
        slope = stats.gap_slope(_values(ours), _values(theirs))
        score, _ = _side(slope, 0.0, criterion.towards == "small")
        verdict = {1.0: "it grows", 0.5: "it does not clearly grow", 0.0: "it does not grow"}[score]
        gaps = ", ".join(f"{value:g}: {ours[value].values.mean() - theirs[value].values.mean():+.2f}" for value in ours)
        text = (
            f"lead of {criterion.algorithm.upper()} over {criterion.than.upper()} on {task} by {criterion.parameter}: "
            f"{gaps}; {_interval(slope)} for each doubling: {verdict} towards {criterion.towards} values"
        )
        numbers = {"slope": slope.estimate, "low": slope.low, "high": slope.high}
        parts.append(Part(task, score, text, numbers))
    return parts


def decide_best_of_sweep_beats_reference(
    claim: Claim, criterion: BestOfSweepBeatsReference, samples: Samples
) -> list[Part]:
    """See `BestOfSweepBeatsReference`."""
    parts = []
    limit = 0.0 if claim.threshold is None else claim.threshold
    for task in claim.tasks:
        runs = _sweep(criterion, criterion.algorithm, (*criterion.values, criterion.reference), task, samples)
        tuned, reference = _tuned(criterion, criterion.algorithm, task, samples)
        gain = stats.difference(tuned, reference)
        score, verdict = _side(gain, limit)
        text = (
            f"{_name(criterion.algorithm, criterion)} on {task} by {criterion.parameter}: {_listing(runs)}; tuned over "
            f"the values other than {criterion.reference:g} it gains {_interval(gain)}, {verdict} {limit:g}"
        )
        parts.append(Part(task, score, text, {"gain": gain.estimate, "low": gain.low, "high": gain.high}))
    return parts


def decide_gains_less(claim: Claim, criterion: GainsLess, samples: Samples) -> list[Part]:
    """See `GainsLess`."""
    parts = []
    for task in claim.tasks:
        own_tuned, own_reference = _tuned(criterion, criterion.algorithm, task, samples)
        tuned, reference = _tuned(criterion, criterion.than, task, samples)
        own, other = stats.difference(own_tuned, own_reference), stats.difference(tuned, reference)
        # the gain of `than` minus our own, as one difference of two sums with a Welch interval
        excess = stats.contrast([(1, tuned), (-1, reference), (-1, own_tuned), (1, own_reference)])
        score, _ = _side(excess, 0.0)
        verdict = {1.0: "less", 0.5: "not clearly less", 0.0: "not less"}[score]
        text = (
            f"on {task} tuning {criterion.parameter} gains {criterion.algorithm.upper()} {_interval(own)} and "
            f"{criterion.than.upper()} {_interval(other)}: {verdict} by {_interval(excess)}"
        )
        numbers = {"gain": own.estimate, "other_gain": other.estimate, "low": excess.low, "high": excess.high}
        parts.append(Part(task, score, text, numbers))
    return parts


def decide_grows_slower(claim: Claim, criterion: GrowsSlower, costs: Costs) -> list[Part]:
    """See `GrowsSlower`."""
    parts = []
    limit = _threshold(claim)
    for setting in criterion.settings:
        lines = {name: costs[name, setting].line for name in criterion.players}
        fits = {name: scaling.growth(line) for name, line in lines.items()}
        own = lines[criterion.algorithm]
        found = " and ".join(f"{_interval(fit)} for {title(name)}" for name, fit in fits.items())
        text = (
            f"{setting} networks, {own.index.min()} to {own.index.max()} agents: {scaling.WORDS[criterion.quantity]} "
            f"grows with the exponent {found}"
        )
        judged = fits[criterion.algorithm]
        if criterion.than:
            judged = scaling.growth(own, lines[criterion.than])
            text += f", a difference of {_interval(judged)}"
        score, verdict = _side(judged, limit, below=True)
        numbers = {"exponent": judged.estimate, "low": judged.low, "high": judged.high}
        parts.append(Part(setting, score, f"{text}, {verdict} {limit:g}", numbers))
    return parts


def decide_late_growth(claim: Claim, criterion: LateGrowth, samples: Samples) -> list[Part]:
    """See `LateGrowth`."""
    parts = []
    limit = _threshold(claim)
    for task in claim.tasks:
        sample = samples[criterion.algorithm, task]
        interval = stats.mean_ci(sample.values, method="t")
        score, verdict = _side(interval, limit, below=criterion.expected == "levels off")
        text = (
            f"{_name(criterion.algorithm, criterion)} on {task}: from the third to the fourth quarter of training the "
            f"{criterion.measure} distance grows by {_interval(interval)} of itself ({len(sample.values)} seeds, "
            f"{sample.source.tier} tier), {verdict} {limit:g}"
        )
        numbers = {"growth": interval.estimate, "low": interval.low, "high": interval.high}
        parts.append(Part(task, score, text, numbers))
    return parts


def decide_fusion_gain(claim: Claim, criterion: FusionGain, fusions: Fusions) -> list[Part]:
    """See `FusionGain`."""
    parts = []
    growth = f" more with the policies called {criterion.checkpoint}" if criterion.over else ""
    for (pair, task), other in itertools.product(fusions, criterion.than):
        found = fusions[pair, task]
        gap = stats.mean_ci(found.differences[other], method="t")
        score, verdict = _side(gap, 0.0)
        text = (
            f"{_fused(criterion.player)} of {title(pair)} on {task} against {other}: {_interval(gap, 3)} of "
            f"return{growth} ({found.source.seeds} teams), {verdict} 0"
        )
        numbers = {"difference": gap.estimate, "difference_low": gap.low, "difference_high": gap.high}
        parts.append(Part(f"{task}: {other}", score, text, numbers))
    return parts


def decide_fusion_association(claim: Claim, criterion: FusionAssociation, associations: Associations) -> list[Part]:
    """See `FusionAssociation`."""
    found = associations[criterion.player, criterion.measure].interval
    score, verdict = _side(found, 0.0)
    text = (
        f"rank correlation of the gain of {criterion.player} with {criterion.measure}: {_interval(found)} within tasks "
        f"(seeds resampled, {sum(found.runs.values())} of them), {verdict} 0"
    )
    numbers = {"correlation": found.estimate, "low": found.low, "high": found.high}
    return [Part(criterion.measure, score, text, numbers)]


def decide_exact_value(claim: Claim, criterion: ExactValue, samples: Samples) -> list[Part]:
    """See `ExactValue`."""
    value = _exact(criterion.function)
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
    decide: Callable[[Claim, Any, Any], list[Part]]
    """From the claim, its criterion and what that reads: `Samples`, `Costs`, `Fusions`, `Associations` or nothing."""
    needs_threshold: bool = False
    compares: bool = True
    """Whether it sets at least two records side by side (if it reads any)."""


CRITERIA: dict[str, Kind] = {
    "published_in_prediction_interval": Kind(
        PublishedInPredictionInterval, decide_published_in_prediction_interval, compares=False
    ),
    "within_relative": Kind(WithinRelative, decide_within_relative, needs_threshold=True, compares=False),
    "greater": Kind(Greater, decide_greater),
    "best_of": Kind(BestOf, decide_best_of),
    "rank_order": Kind(RankOrder, decide_rank_order, needs_threshold=True),
    "above_baseline": Kind(AboveBaseline, decide_above_baseline, compares=False),
    "probability_of_improvement": Kind(ProbabilityOfImprovement, decide_probability_of_improvement),
    "follows_guider": Kind(FollowsGuider, decide_follows_guider),
    "monotone_trend": Kind(MonotoneTrend, decide_monotone_trend),
    "greater_in_sweep": Kind(GreaterInSweep, decide_greater_in_sweep),
    "gap_grows": Kind(GapGrows, decide_gap_grows),
    "best_of_sweep_beats_reference": Kind(BestOfSweepBeatsReference, decide_best_of_sweep_beats_reference),
    "gains_less": Kind(GainsLess, decide_gains_less),
    "late_growth": Kind(LateGrowth, decide_late_growth, needs_threshold=True, compares=False),
    "grows_slower": Kind(GrowsSlower, decide_grows_slower, needs_threshold=True),
    "fusion_gain": Kind(FusionGain, decide_fusion_gain),
    "fusion_association": Kind(FusionAssociation, decide_fusion_association),
    "exact_value": Kind(ExactValue, decide_exact_value, needs_threshold=True),
    "published_count": Kind(PublishedCount, decide_published_count, needs_threshold=True),
}
"""Type in claims.yml -> its fields and its rule."""


# -------------------------------------------------------------------------------------------- the few helpers of rules


def _threshold(claim: Claim) -> float:
    assert claim.threshold is not None  # checked when the claim was read
    return claim.threshold


def title(player: str, variant: str = "") -> str:
    """How evidence names a player (see `FromRecords.players`), such as "MAGPO@clamped-delta-1.2"."""
    algorithm, _, own = player.partition("@")
    name, shown = {"ensemble_mix": "Ensemble-MIX"}.get(algorithm, algorithm.upper()), own or variant
    return f"{name}@{shown}" if shown else name


def _fused(player: str) -> str:
    """How evidence names a fused player: a filter by its setting, or a name that speaks for itself."""
    return f"KPF ({player})" if player.startswith(("alpha ", "k ")) else player


def _name(player: str, criterion: FromRecords) -> str:
    return title(player, criterion.variant)


def _side(interval: stats.Interval, limit: float, below: bool = False) -> tuple[float, str]:
    """1 where the interval lies above (below) `limit`, 1/2 where only the estimate does, else 0; and so in words."""
    sign, word = (-1, "below") if below else (1, "above")
    nearest = interval.high if below else interval.low
    score = 1.0 if sign * (nearest - limit) > 0 else 0.5 if sign * (interval.estimate - limit) > 0 else 0.0
    return score, {1.0: word, 0.5: f"not clearly {word}", 0.0: f"not {word}"}[score]


def _interval(interval: stats.Interval, digits: int = 2) -> str:
    low, high = f"{interval.low:+.{digits}f}", f"{interval.high:+.{digits}f}"
    return f"{interval.estimate:+.{digits}f} (95 % CI {low} to {high})"


K = TypeVar("K")


def _values(samples: Mapping[K, Sample]) -> dict[K, stats.Floats]:
    return {key: sample.values for key, sample in samples.items()}


def _tiers(samples: Iterable[Sample]) -> str:
    return " and ".join(sorted({sample.source.tier for sample in samples}))


def _sweep(criterion: Any, algorithm: str, values: Iterable[float], task: str, samples: Samples) -> dict[float, Sample]:
    """The samples of `algorithm` by value of the criterion's parameter, in the order of the values."""
    return {value: samples[at(criterion, algorithm, value), task] for value in sorted(values)}


def _tuned(criterion: Any, algorithm: str, task: str, samples: Samples) -> tuple[stats.Floats, stats.Floats]:
    """Scores of the tuned setting and of the reference, by seed."""
    runs = _values(_sweep(criterion, algorithm, criterion.values, task, samples))
    return stats.chosen_by_the_others(runs), samples[at(criterion, algorithm, criterion.reference), task].values


def _listing(runs: Mapping[float, Sample]) -> str:
    """Means by value, with the seeds and the tier that they rest on."""
    means = ", ".join(f"{value:g}: {sample.values.mean():.2f}" for value, sample in runs.items())
    return f"{means} ({min(len(run.values) for run in runs.values())} seeds, {_tiers(runs.values())} tier)"


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
def _exact(name: str) -> float:
    """What the function returns; kept, because enumerating games takes seconds and gives the same each time."""
    return float(_function(name)())


@functools.cache
def _baseline(name: str, task: str, options: tuple[tuple[str, Any], ...]) -> float:
    """Mean of what the function returns; kept, because several claims play the same scripted episodes."""
    return float(np.mean(np.asarray(_function(name)(task=task, **dict(options)), dtype=np.float64)))
