"""Statistics for few runs: interval estimates that are vectorised, stratified and repeatable to the last bit.

The choice of tools follows R. Agarwal, M. Schwarzer, P. S. Castro, A. Courville, M. G. Bellemare, "Deep Reinforcement
Learning at the Edge of the Statistical Precipice", NeurIPS 2021 (cited below as Agarwal et al.). Their library rliable
draws from NumPy's global generator whatever seed it is given, so that its intervals change from call to call; here
every random number comes from a generator made from the `seed` argument.

Scores are a mapping from task to the scores of its runs (seeds); a plain sequence is one task. Tasks may have different
numbers of runs. The order of a mapping never matters: tasks are sorted by name before anything random happens.

Which interval where (all are 95 % unless asked otherwise):

* over several tasks, or for an IQM: `bootstrap`, resampling runs within each task;
* the mean of one task: `mean_ci`, bootstrap (what papers print) or Student's t;
* two algorithms: `difference` (Welch) and `probability_of_improvement`; on common random numbers `paired_difference`;
* one setting varied over several values: `monotone_trend`, `gap_slope`, `chosen_by_the_others`;
* how a cost grows with a size: `power_law`;
* "is the published mean compatible with ours?": `prediction_interval`, wider than a confidence interval on purpose,
  because the published mean is itself a sample.

A percentile bootstrap of n = 5 runs is too narrow (about 84 % instead of 95 % for a mean of normal scores); over
10 runs or several tasks the loss is small. Decisions about one task are therefore made with t intervals.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as _scipy_stats

from inconcert.config import InputError, unknown

Floats: TypeAlias = NDArray[np.float64]
Scores: TypeAlias = Mapping[str, ArrayLike]
"""Task -> scores of its runs; the last axis is the run."""
Statistic: TypeAlias = Callable[[Mapping[str, Floats]], ArrayLike]
"""Reduces the last axis of every task's array together: {task: [..., n_task]} -> [...] (or [..., K] for K numbers)."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval. `estimate`, `low` and `high` are floats, or arrays of one shape (curves)."""

    estimate: Any
    low: Any
    high: Any
    level: float
    method: str
    runs: Mapping[str, int] = field(default_factory=dict)
    """Task -> number of runs behind the estimate."""

    def contains(self, value: float) -> bool:
        """Whether `value` lies inside, ends included (all of it where the interval is a band)."""
        return bool(np.all(self.low <= value) and np.all(value <= self.high))

    def excludes_zero(self) -> bool:
        """Whether the interval lies wholly on one side of 0."""
        return not self.contains(0.0)


# --------------------------------------------------------------------------------------------------- point estimates


def iqm(scores: ArrayLike | Scores) -> Any:
    """Interquartile mean: the mean of the middle half of all runs of all tasks together (Agarwal et al., section 4.3).

    The trimming is that of `scipy.stats.trim_mean(..., 0.25)`: of n pooled runs, floor(n / 4) are cut off at each end.
    A task with more runs weighs more.

    Args:
        scores: {task: [..., n_task]} or one array [..., n]; leading axes must agree.

    Returns:
        The IQM, [...]; a float where there are no leading axes.
    """
    pooled = _pool(scores)
    count = pooled.shape[-1]
    cut = int(0.25 * count)
    ordered = np.sort(pooled, axis=-1)
    return _plain(ordered[..., cut : count - cut].mean(axis=-1))


def mean(scores: ArrayLike | Scores) -> Any:
    """Mean over tasks of the mean over runs: every task weighs the same. Shapes as `iqm`."""
    return _plain(np.mean([values.mean(axis=-1) for values in _checked(scores).values()], axis=0))


def optimality_gap(scores: ArrayLike | Scores, target: float = 1.0) -> Any:
    """How far all runs stay below `target` on average: mean of max(target - score, 0); smaller is better.

    Agarwal et al., section 4.3, with their gamma = `target`. Scores should be normalised. Runs are pooled over tasks;
    shapes as `iqm`.
    """
    return _plain(np.maximum(target - _pool(scores), 0.0).mean(axis=-1))


def min_max_normalise(
    scores: Mapping[str, Scores], bounds: Mapping[str, tuple[float, float]] | None = None
) -> dict[str, dict[str, Floats]]:
    """Map the scores of each task to [0, 1] by that task's smallest and largest score, over all algorithms.

    The normalisation of R. Gorsane et al. 2022, "Towards a Standardised Performance Evaluation Protocol for Cooperative
    MARL", which MAGPO's Figure 2 uses. Normalised scores depend on which algorithms take part: never compare them
    between two groups of algorithms.

    Args:
        scores: {algorithm: {task: [..., n]}}.
        bounds: {task: (low, high)}; without it the extremes found in `scores`. Scores outside given bounds leave
            [0, 1].

    Raises:
        InputError: a task whose scores are all equal, or that `bounds` lacks.
    """
    arrays = {algorithm: _checked(by_task) for algorithm, by_task in scores.items()}
    if not arrays:
        raise InputError("min_max_normalise needs the scores of at least one algorithm")
    limits: dict[str, tuple[float, float]] = {}
    for task in sorted({task for by_task in arrays.values() for task in by_task}):
        if bounds is None:
            found = [by_task[task] for by_task in arrays.values() if task in by_task]
            limits[task] = (min(float(v.min()) for v in found), max(float(v.max()) for v in found))
        elif task in bounds:
            limits[task] = bounds[task]
        else:
            raise unknown("task in bounds", task, bounds)
        low, high = limits[task]
        if not low < high:
            raise InputError(f"scores of task {task!r} cannot be normalised: lowest {low:g}, highest {high:g}")
    return {
        algorithm: {task: (v - limits[task][0]) / (limits[task][1] - limits[task][0]) for task, v in by_task.items()}
        for algorithm, by_task in arrays.items()
    }


# ------------------------------------------------------------------------------------------------- bootstrap intervals


def bootstrap(
    scores: ArrayLike | Scores,
    statistic: Statistic = iqm,
    *,
    reps: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    vectorised: bool = True,
) -> Interval:
    """Percentile interval of any statistic by the stratified bootstrap (Agarwal et al., section 4.1).

    Each repetition draws, within every task, as many runs as the task has, with replacement; the interval is between
    the (1 - level)/2 and (1 + level)/2 quantiles of the statistic. The same arguments give the same interval, bit for
    bit.

    Args:
        scores: {task: [n_task]} or one sequence [n].
        statistic: takes {task: [..., n_task]} and reduces the last axes together to [...], or to [..., K] for K numbers
            at once. `iqm`, `mean`, `optimality_gap` are ready-made.
        reps: number of repetitions.
        level: of the interval, in (0, 1).
        seed: of the resampling.
        vectorised: False if `statistic` can only take {task: [n_task]}; it is then called `reps` times.

    Raises:
        InputError: empty or non-finite scores, or a number out of range.
    """
    arrays = _runs_only(scores)
    _check_numbers(reps, level, seed)
    drawn = _draw([len(values) for values in arrays.values()], reps, seed)
    resampled = {task: values[rows] for (task, values), rows in zip(arrays.items(), drawn, strict=True)}
    if vectorised:
        replicates = np.asarray(statistic(resampled), dtype=np.float64)
        estimate = np.asarray(statistic({task: values[None] for task, values in arrays.items()}), dtype=np.float64)
        if replicates.shape[:1] != (reps,) or estimate.shape[:1] != (1,):
            raise InputError(
                "the statistic must keep the leading axes and reduce the last one; if it cannot, vectorised=False"
            )
        estimate = estimate[0]
    else:
        replicates = np.asarray(
            [statistic({task: values[rep] for task, values in resampled.items()}) for rep in range(reps)]
        )
        estimate = np.asarray(statistic(arrays), dtype=np.float64)
    return _percentile(estimate, replicates, level, "stratified bootstrap, percentile", _count(arrays))


def mean_ci(
    values: ArrayLike,
    *,
    method: Literal["bootstrap", "t"] = "bootstrap",
    reps: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean of the runs of one task with its confidence interval.

    Args:
        values: [n] scores; "t" needs two at least.
        method: "bootstrap" (percentile; what Figure 7 of MAGPO shows) or "t", mean +- t s / sqrt(n), which keeps its
            level for as few as two normal runs.
    """
    if method == "bootstrap":
        return bootstrap(values, mean, reps=reps, level=level, seed=seed)
    if method != "t":
        raise unknown("method", method, ["bootstrap", "t"])
    sample = _sample(values, "values", least=2)
    return _student(sample.mean(), _se(sample), len(sample) - 1, level, "Student t", {"": len(sample)})


def probability_of_improvement(
    x: ArrayLike | Scores, y: ArrayLike | Scores, *, reps: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """How probably a run of X beats a run of Y on a task drawn at random: mean over tasks of P(x > y) + P(x = y) / 2.

    Agarwal et al., section 4.3: for each task the Mann-Whitney statistic U / (n m). Runs of X and of Y are resampled
    independently within each task. An interval wholly above 0.5 is significant.

    Args:
        x, y: {task: [n_task]} with the same tasks, or one sequence each. Numbers of runs may differ.
    """
    _check_numbers(reps, level, seed)
    left, right = _runs_only(x), _runs_only(y)
    if left.keys() != right.keys():
        lonely = sorted(left.keys() ^ right.keys())
        raise InputError(f"both sides need the same tasks; only one side has {', '.join(lonely)}")
    drawn = _draw([len(values) for side in (left, right) for values in side.values()], reps, seed)
    estimates, replicates = [], []
    for place, task in enumerate(left):
        a, b = left[task][:, None], right[task][None, :]
        wins = (a > b) + 0.5 * (a == b)  # [n, m]
        rows, columns = drawn[place], drawn[len(left) + place]
        estimates.append(wins.mean())
        replicates.append(wins[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2)))
    return _percentile(
        np.mean(estimates, axis=0),
        np.mean(replicates, axis=0),
        level,
        "stratified bootstrap, percentile",
        {task: min(len(left[task]), len(right[task])) for task in left},
    )


def performance_profile(
    scores: ArrayLike | Scores, taus: ArrayLike, *, reps: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Run-score distribution: for each tau the fraction of runs with a score above it (Agarwal et al., section 4.2).

    The fraction is taken in each task and averaged over tasks. The band is pointwise.

    Args:
        scores: {task: [n_task]} or one sequence, normalised if there are several tasks.
        taus: [K] thresholds.

    Returns:
        An `Interval` of arrays [K].
    """
    grid = _sample(taus, "taus")

    def fractions(by_task: Mapping[str, Floats]) -> Floats:
        above = [(values[..., None, :] > grid[:, None]).mean(axis=-1) for values in by_task.values()]  # [..., K]
        return np.mean(above, axis=0)

    return bootstrap(scores, fractions, reps=reps, level=level, seed=seed)


def sample_efficiency(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    grid: ArrayLike,
    *,
    statistic: Statistic = iqm,
    reps: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Sample-efficiency curve of Agarwal et al.: IQM (or another statistic) against steps, with a pointwise band.

    Whole runs are resampled, the same ones at all steps, so that the band moves as smoothly as the curves do.

    Args:
        curves: {task: (steps [G], scores [n, G])}; steps increase, and may differ from task to task. Scores are
            interpolated linearly onto `grid`.
        grid: [K] steps at which the curve is wanted, inside the steps of every task (nothing is extrapolated).

    Returns:
        An `Interval` of arrays [K].
    """
    _check_numbers(reps, level, seed)
    at = _sample(grid, "grid")
    if not curves:
        raise InputError("sample_efficiency needs the curves of at least one task")
    on_grid: dict[str, Floats] = {}  # task -> [n, K]
    for task in sorted(curves):
        steps = _sample(curves[task][0], f"steps of task {task!r}")
        values = np.atleast_2d(_finite(curves[task][1], f"scores of task {task!r}"))
        if values.ndim != 2 or values.shape[1] != len(steps):
            raise InputError(f"task {task!r} has {len(steps)} steps but scores of shape {values.shape}")
        if np.any(np.diff(steps) <= 0):
            raise InputError(f"steps of task {task!r} must increase")
        if at.min() < steps[0] or at.max() > steps[-1]:
            raise InputError(
                f"the grid {at.min():g}..{at.max():g} leaves the steps {steps[0]:g}..{steps[-1]:g} of task {task!r}"
            )
        on_grid[task] = np.stack([np.interp(at, steps, run) for run in values])
    drawn = _draw([len(values) for values in on_grid.values()], reps, seed)
    estimates, replicates = [], []
    for step in range(len(at)):  # one step at a time: all at once would need reps x runs x K numbers of memory
        column = {task: values[:, step] for task, values in on_grid.items()}
        estimates.append(np.asarray(statistic({task: values[None] for task, values in column.items()}))[0])
        resampled = {task: values[rows] for (task, values), rows in zip(column.items(), drawn, strict=True)}
        replicates.append(np.asarray(statistic(resampled)))
    return _percentile(
        np.asarray(estimates), np.stack(replicates, axis=1), level, "stratified bootstrap, percentile", _count(on_grid)
    )


# ------------------------------------------------------------------------------------------------------ t intervals


def prediction_interval(values: ArrayLike, new_runs: int, *, level: float = 0.95) -> Interval:
    """Where the mean of `new_runs` further runs would lie: mean +- t(n - 1) s sqrt(1/n + 1/new_runs).

    The question "does the published mean of n' seeds agree with our n seeds" is about the difference of two means,
    hence both terms under the root. Exact if all runs are independent draws from one normal distribution. The published
    spread is not used, so that a wrongly labelled one (standard deviation or standard error?) cannot change the answer.

    For the use as a replication criterion see P. Patil, R. D. Peng, J. T. Leek, "What should researchers expect when
    they replicate studies?", Perspectives on Psychological Science 11, 2016.

    Args:
        values: [n] our scores, n >= 2.
        new_runs: n', the number of runs behind the other mean.
    """
    sample = _sample(values, "values", least=2)
    if not _is_count(new_runs):
        raise InputError(f"new_runs must be a positive integer, not {new_runs!r}")
    spread = sample.std(ddof=1) * np.sqrt(1 / len(sample) + 1 / new_runs)
    method = f"Student t prediction interval for a mean of {new_runs}"
    return _student(sample.mean(), spread, len(sample) - 1, level, method, {"": len(sample)})


def difference(x: ArrayLike, y: ArrayLike, *, level: float = 0.95) -> Interval:
    """mean(x) - mean(y) of independent runs of one task, with Welch's t interval (unequal variances, B. L. Welch 1947).

    Args:
        x, y: [n], [m] scores; at least two each.
    """
    return contrast([(1, _sample(x, "x", least=2)), (-1, _sample(y, "y", least=2))], level=level)


def contrast(terms: Sequence[tuple[float, ArrayLike]], *, level: float = 0.95) -> Interval:
    """A weighted sum of means of independent samples, such as a difference of differences, with Welch's t interval.

    Args:
        terms: (weight, [n] scores) each; at least two scores each.
    """
    samples = [(weight, _sample(scores, f"term {place}", least=2)) for place, (weight, scores) in enumerate(terms)]
    variances = [(weight * _se(sample)) ** 2 for weight, sample in samples]
    total = sum(variances)
    # Welch-Satterthwaite; without any spread the interval is a point and the degrees of freedom do not matter
    parts = sum(variance**2 / (len(sample) - 1) for variance, (_, sample) in zip(variances, samples, strict=True))
    freedom = total**2 / parts if total > 0 else 1.0
    centre = sum(weight * sample.mean() for weight, sample in samples)
    return _student(centre, np.sqrt(total), freedom, level, "Welch t", {"": min(len(s) for _, s in samples)})


def paired_difference(x: ArrayLike, y: ArrayLike, *, level: float = 0.95) -> Interval:
    """Mean of x[i] - y[i] with Student's t interval, for runs that share their random numbers pair by pair.

    Args:
        x, y: [n] scores of equal length, n >= 2; entry i of both comes from the same seed, episode or initial state.
    """
    a, b = _sample(x, "x", least=2), _sample(y, "y", least=2)
    if len(a) != len(b):
        raise InputError(f"paired scores need equal lengths, not {len(a)} and {len(b)}")
    gaps = a - b
    return _student(gaps.mean(), _se(gaps), len(gaps) - 1, level, "paired Student t", {"": len(gaps)})


# --------------------------------------------------------------------------------------------------- one varied setting


def monotone_trend(
    scores: Mapping[float, ArrayLike], *, reps: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """How consistently scores rise with a setting: 1 if more of it is always better, -1 if always worse.

    The statistic of A. R. Jonckheere 1954 and T. J. Terpstra 1952 for ordered alternatives, scaled: the mean over all
    pairs of values u < v of P(run at v is higher) - P(run at v is lower). Runs are resampled within each value.

    Args:
        scores: {value: [n]} for at least two values; numbers of runs may differ.
    """
    _check_numbers(reps, level, seed)
    arrays = _by_value(scores)
    drawn = _draw([len(runs) for runs in arrays], reps, seed)
    estimates, replicates = [], []
    for low, high in itertools.combinations(range(len(arrays)), 2):
        wins = np.sign(arrays[high][:, None] - arrays[low][None, :])  # [n, m]
        estimates.append(wins.mean())
        replicates.append(wins[drawn[high][:, :, None], drawn[low][:, None, :]].mean(axis=(1, 2)))
    counts = {"": min(len(runs) for runs in arrays)}
    return _percentile(
        np.mean(estimates), np.mean(replicates, axis=0), level, "stratified bootstrap, percentile", counts
    )


def gap_slope(
    x: Mapping[float, ArrayLike],
    y: Mapping[float, ArrayLike],
    *,
    reps: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """What the gap mean(x) - mean(y) gains with each doubling of a setting: its least-squares slope over log2(value).

    Args:
        x, y: {value: [n]} with the same positive values; numbers of runs may differ.
    """
    sides = {"x": _by_value(x), "y": _by_value(y)}
    if x.keys() != y.keys() or min(x) <= 0:
        raise InputError("gap_slope needs the same positive values on both sides")
    at = np.log2(sorted(x))
    weights = (at - at.mean()) / np.square(at - at.mean()).sum()

    def slope(by_value: Mapping[str, Floats]) -> Floats:
        gaps = [by_value[f"x{place}"].mean(-1) - by_value[f"y{place}"].mean(-1) for place in range(len(at))]
        return np.sum([weight * gap for weight, gap in zip(weights, gaps, strict=True)], axis=0)

    runs = {f"{side}{place}": sample for side, arrays in sides.items() for place, sample in enumerate(arrays)}
    return bootstrap(runs, slope, reps=reps, level=level, seed=seed)


def power_law(sizes: ArrayLike, costs: ArrayLike, *, level: float = 0.95) -> Interval:
    """The exponent b of costs = a * sizes^b: least-squares slope of log(cost) over log(size), with its t interval.

    The interval comes from the scatter around the line, so that costs which bend away from a power law widen it too. It
    says how well one exponent describes these sizes, not how fast the cost grows beyond them.

    Args:
        sizes: [K] positive sizes, at least three different ones.
        costs: [K] positive costs.
    """
    x, y = _sample(sizes, "sizes", least=3), _sample(costs, "costs", least=3)
    if len(x) != len(y):
        raise InputError(f"power_law needs as many costs as sizes, not {len(y)} and {len(x)}")
    if min(x.min(), y.min()) <= 0 or len(set(x)) < 3:
        raise InputError("power_law needs positive costs at three different positive sizes, at least")
    across, up = (np.log(side) - np.log(side).mean() for side in (x, y))
    slope = (across @ up) / (across @ across)
    left = np.square(up - slope * across).sum() / (len(x) - 2)
    return _student(
        slope, np.sqrt(left / (across @ across)), len(x) - 2, level, "least squares, Student t", {"": len(x)}
    )


def chosen_by_the_others(scores: Mapping[float, ArrayLike]) -> Floats:
    """What tuning a setting earns: each run's score at the value that is best on average over the *other* runs.

    The best of several means is too good an estimate of the best value's mean, because luck took part in the choice.
    Here no run takes part in the choice of the value that it is scored at.

    Args:
        scores: {value: [n]} runs (seeds) in the same order at every value, two at least. Where a value has more runs
            than another, the further ones take part in choices only.

    Returns:
        [n] of the fewest runs.
    """
    arrays = _by_value(scores)
    count = min(map(len, arrays))
    if count < 2:
        raise InputError(f"a choice by the others needs two runs at least, not {[*map(len, arrays)]}")
    table = np.stack([runs[:count] for runs in arrays])  # [K, n]
    others = [(runs.sum() - own) / (len(runs) - 1) for runs, own in zip(arrays, table, strict=True)]
    return table[np.argmax(others, axis=0), np.arange(count)]


# ------------------------------------------------------------------------------------------------------ the few helpers


def _student(
    centre: float, scale: float, freedom: float, level: float, method: str, runs: Mapping[str, int]
) -> Interval:
    _check_level(level)
    half = float(_scipy_stats.t.ppf(0.5 + level / 2, freedom) * scale)
    return Interval(float(centre), float(centre) - half, float(centre) + half, level, method, runs)


def _percentile(
    estimate: ArrayLike, replicates: Floats, level: float, method: str, runs: Mapping[str, int]
) -> Interval:
    low, high = np.quantile(replicates, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return Interval(_plain(estimate), _plain(low), _plain(high), level, method, runs)


def _draw(sizes: Sequence[int], reps: int, seed: int) -> list[NDArray[np.int64]]:
    """For every stratum of `sizes` runs, which of them each repetition takes: [reps, size] each."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, size, size=(reps, size)) for size in sizes]


def _se(sample: Floats) -> float:
    return float(sample.std(ddof=1) / np.sqrt(len(sample)))


def _count(arrays: Mapping[str, Floats]) -> dict[str, int]:
    return {task: len(values) for task, values in arrays.items()}


def _plain(value: ArrayLike) -> Any:
    array = np.asarray(value, dtype=np.float64)
    return float(array) if array.ndim == 0 else array


def _finite(values: ArrayLike, what: str) -> Floats:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{what} must be numbers") from None
    if array.size == 0:
        raise InputError(f"{what}: there are none")
    if not np.isfinite(array).all():
        raise InputError(f"{what} hold {int((~np.isfinite(array)).sum())} values that are not finite")
    return array


def _sample(values: ArrayLike, what: str, least: int = 1) -> Floats:
    array = _finite(values, what)
    if array.ndim != 1:
        raise InputError(f"{what} must be a flat sequence, not of shape {array.shape}")
    if len(array) < least:
        raise InputError(f"{what} must be at least {least} numbers, not {len(array)}")
    return array


def _checked(scores: ArrayLike | Scores) -> dict[str, Floats]:
    """Scores as {task: [..., n]}, tasks sorted, every value finite."""
    by_task = scores if isinstance(scores, Mapping) else {"": scores}
    if not by_task:
        raise InputError("scores: there are none")
    arrays = {task: _finite(by_task[task], f"scores of task {task!r}") for task in sorted(by_task)}
    for task, array in arrays.items():
        if array.ndim == 0:
            raise InputError(f"scores of task {task!r} must be a sequence over runs, not one number")
    return arrays


def _by_value(scores: Mapping[float, ArrayLike]) -> list[Floats]:
    """The runs of each value of a setting, in the order of the values."""
    if len(scores) < 2:
        raise InputError(f"a varied setting needs at least two values, not {len(scores)}")
    return [_sample(scores[value], f"scores at {value:g}") for value in sorted(scores)]


def _runs_only(scores: ArrayLike | Scores) -> dict[str, Floats]:
    arrays = _checked(scores)
    for task, array in arrays.items():
        if array.ndim != 1:
            raise InputError(f"scores of task {task!r} must be one number a run, not of shape {array.shape}")
    return arrays


def _pool(scores: ArrayLike | Scores) -> Floats:
    arrays = list(_checked(scores).values())
    if len({array.shape[:-1] for array in arrays}) > 1:
        raise InputError(f"leading axes differ between tasks: {[array.shape for array in arrays]}")
    return np.concatenate(arrays, axis=-1)


def _is_count(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value > 0)


def _check_level(level: float) -> None:
    if not (isinstance(level, (float, np.floating)) and 0 < level < 1):
        raise InputError(f"level must be a number between 0 and 1, not {level!r}")


def _check_numbers(reps: int, level: float, seed: int) -> None:
    _check_level(level)
    if not _is_count(reps):
        raise InputError(f"reps must be a positive integer, not {reps!r}")
    if not (_is_count(seed) or (seed == 0 and not isinstance(seed, bool))):
        raise InputError(f"seed must be a non-negative integer, not {seed!r}")
