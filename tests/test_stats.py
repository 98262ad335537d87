"""The statistics against numbers worked out by hand, against SciPy, and against what an interval has to promise."""

from __future__ import annotations

import importlib
import importlib.metadata
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from inconcert import stats
from inconcert.config import InputError


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# ----------------------------------------------------------------------------------------------------- point estimates


def test_iqm_by_hand() -> None:
    # eight runs: two are cut off at each end, the middle is 3, 4, 5, 6
    assert stats.iqm([100, 3, 5, 4, 6, -50, 2, 7]) == 4.5
    # five runs: one is cut off at each end (floor of 1.25)
    assert stats.iqm([1, 2, 3, 4, 1000]) == 3.0
    # runs of all tasks are pooled before trimming: 0, 1, [2, 3, 10, 11], 12, 13
    assert stats.iqm({"a": [0, 1, 2, 3], "b": [10, 11, 12, 13]}) == 6.5


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
@settings(max_examples=100, deadline=None)
def test_iqm_trims_as_scipy_does(values: list[float]) -> None:
    assert stats.iqm(values) == pytest.approx(scipy_stats.trim_mean(values, 0.25), rel=1e-12, abs=1e-9)


def test_iqm_keeps_leading_axes_and_takes_unequal_tasks() -> None:
    a, b = normal(0, 7, 5), normal(1, 7, 3)
    expected = [scipy_stats.trim_mean(np.concatenate([a[i], b[i]]), 0.25) for i in range(7)]
    np.testing.assert_allclose(stats.iqm({"a": a, "b": b}), expected, rtol=1e-12)


def test_mean_gives_every_task_the_same_weight() -> None:
    assert stats.mean({"a": [0.0, 0.0, 0.0, 0.0], "b": [1.0]}) == 0.5


def test_optimality_gap_ignores_what_lies_above_the_target() -> None:
    assert stats.optimality_gap({"a": [0.5, 3.0], "b": [0.0, 1.0]}) == pytest.approx((0.5 + 0 + 1 + 0) / 4)
    assert stats.optimality_gap([0.5, 3.0], target=4.0) == pytest.approx((3.5 + 1.0) / 2)


def test_normalising_uses_the_extremes_over_all_algorithms() -> None:
    scores = {"x": {"t": [0.0, 5.0], "u": [1.0, 2.0]}, "y": {"t": [10.0], "u": [3.0]}}
    ready = stats.min_max_normalise(scores)
    np.testing.assert_array_equal(ready["x"]["t"], [0.0, 0.5])
    np.testing.assert_array_equal(ready["y"]["t"], [1.0])
    np.testing.assert_array_equal(ready["x"]["u"], [0.0, 0.5])
    given_bounds = stats.min_max_normalise(scores, {"t": (0.0, 20.0), "u": (0.0, 1.0)})
    np.testing.assert_array_equal(given_bounds["y"]["t"], [0.5])
    np.testing.assert_array_equal(given_bounds["y"]["u"], [3.0])
    with pytest.raises(InputError, match="task 't' cannot be normalised"):
        stats.min_max_normalise({"x": {"t": [1.0, 1.0]}})
    with pytest.raises(InputError, match="unknown task in bounds 'u'"):
        stats.min_max_normalise(scores, {"t": (0.0, 1.0)})


# ----------------------------------------------------------------------------------------------------------- bootstrap


def test_bootstrap_is_repeatable_to_the_bit_and_depends_on_its_seed() -> None:
    scores = {"a": normal(0, 6), "b": normal(1, 4)}
    first, again, other = (stats.bootstrap(scores, seed=seed) for seed in (3, 3, 4))
    assert (first.low, first.high, first.estimate) == (again.low, again.high, again.estimate)
    assert (first.low, first.high) != (other.low, other.high)
    assert first.estimate == other.estimate == stats.iqm(scores)


def test_bootstrap_does_not_use_or_touch_the_global_generator() -> None:
    np.random.seed(0)  # noqa: NPY002 - the global generator is what this test is about
    before = np.random.get_state()[1].copy()  # type: ignore[index] # noqa: NPY002
    first = stats.bootstrap([1.0, 2.0, 3.0, 5.0])
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # type: ignore[index] # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert stats.bootstrap([1.0, 2.0, 3.0, 5.0]) == first


def test_order_of_the_tasks_does_not_matter() -> None:
    a, b = normal(0, 6), normal(1, 4)
    assert stats.bootstrap({"a": a, "b": b}) == stats.bootstrap({"b": b, "a": a})


def test_resampling_stays_within_each_task() -> None:
    # Tasks without spread have nothing to resample, however far apart they are; pooling would mix 0 and 100.
    interval = stats.bootstrap({"easy": [100.0] * 5, "hard": [0.0] * 3}, stats.mean)
    assert (interval.low, interval.estimate, interval.high) == (50.0, 50.0, 50.0)
    seen = []

    def spy(by_task):
        seen.append({task: (values.min(), values.max(), values.shape) for task, values in by_task.items()})
        return stats.mean(by_task)

    stats.bootstrap({"low": [0.0, 1.0], "high": [10.0, 11.0, 12.0]}, spy, reps=50)
    resampled = seen[0]
    assert resampled["low"] == (0.0, 1.0, (50, 2))
    assert resampled["high"] == (10.0, 12.0, (50, 3))


def test_bootstrap_of_the_mean_has_the_spread_that_theory_gives() -> None:
    # The bootstrap distribution of a mean has variance sum((x - mean)^2) / n^2, and is close to normal for n = 40. The
    # quantiles of 20,000 repetitions carry a Monte Carlo error of about 0.02 standard deviations; 0.1 is allowed.
    sample = normal(5, 40)
    interval = stats.bootstrap(sample, stats.mean, reps=20_000)
    deviation = sample.std() / math.sqrt(len(sample))
    assert interval.low == pytest.approx(sample.mean() - 1.96 * deviation, abs=0.1 * deviation)
    assert interval.high == pytest.approx(sample.mean() + 1.96 * deviation, abs=0.1 * deviation)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    # 4 tasks x 20 runs with different means and spreads, 400 data sets. The percentile interval is too narrow by
    # sqrt(19 / 20) and by normal instead of t quantiles: 94 % expected. The count is binomial: sd 1.2 %, 4 sd allowed.
    rng = np.random.default_rng(11)
    centres, spreads = np.array([0.0, 5.0, -3.0, 100.0]), np.array([1.0, 2.0, 0.5, 3.0])
    hits = 0
    for repeat in range(400):
        data = centres[:, None] + spreads[:, None] * rng.normal(size=(4, 20))
        scores = {str(task): data[task] for task in range(4)}
        hits += stats.bootstrap(scores, stats.mean, reps=500, seed=repeat).contains(centres.mean())
    assert 0.94 - 0.048 < hits / 400 < 0.94 + 0.048


def test_five_runs_are_too_few_for_the_percentile_interval_but_not_for_t() -> None:
    # What the module's text says about n = 5. 600 data sets: sd 1.5 % at 84 %, 0.9 % at 95 %; 4 sd allowed.
    rng = np.random.default_rng(12)
    data = rng.normal(size=(600, 5))
    percentile = np.mean([stats.mean_ci(x, reps=500, seed=i).contains(0.0) for i, x in enumerate(data)])
    student = np.mean([stats.mean_ci(x, method="t").contains(0.0) for x in data])
    assert abs(percentile - 0.84) < 0.06
    assert abs(student - 0.95) < 0.036


def test_any_statistic_vectorised_or_not() -> None:
    scores = {"a": normal(0, 6), "b": normal(1, 4)}

    def pooled_median(by_task):
        return np.median(np.concatenate(list(by_task.values()), axis=-1), axis=-1)

    fast = stats.bootstrap(scores, pooled_median, reps=200)
    slow = stats.bootstrap(scores, lambda d: float(pooled_median(d)), reps=200, vectorised=False)
    assert (fast.estimate, fast.low, fast.high) == (slow.estimate, slow.low, slow.high)
    with pytest.raises(InputError, match="vectorised=False"):
        stats.bootstrap(scores, lambda d: float(np.mean(d["a"])))


def test_mean_ci_by_hand() -> None:
    interval = stats.mean_ci([1.0, 2.0, 3.0], method="t")  # s = 1, t(2 degrees of freedom) = 4.3027
    assert interval.estimate == 2.0
    assert interval.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-5)
    assert interval.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-5)
    with pytest.raises(InputError, match="unknown method 'bayes'"):
        stats.mean_ci([1.0, 2.0], method="bayes")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ two algorithms


def test_probability_of_improvement_by_hand() -> None:
    # pairs of (1, 2, 3) and (2, 4): 1<2, 1<4, 2=2 (a half), 2<4, 3>2, 3<4 -> 1.5 of 6
    assert stats.probability_of_improvement([1, 2, 3], [2, 4]).estimate == 0.25
    # averaged over tasks, not over pairs: (1 + 0) / 2 although the first task has many more pairs
    x, y = {"a": [2.0] * 9, "b": [0.0]}, {"a": [1.0] * 9, "b": [1.0]}
    interval = stats.probability_of_improvement(x, y)
    assert (interval.low, interval.estimate, interval.high) == (0.5, 0.5, 0.5)


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    st.lists(st.integers(-3, 3), min_size=1, max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_probability_of_improvement_is_the_mann_whitney_statistic(x: list[int], y: list[int]) -> None:
    u = scipy_stats.mannwhitneyu(x, y, method="asymptotic").statistic
    ours = stats.probability_of_improvement(x, y, reps=20).estimate
    assert ours == pytest.approx(u / (len(x) * len(y)))
    assert stats.probability_of_improvement(y, x, reps=20).estimate == pytest.approx(1 - ours)


def test_probability_of_improvement_bootstrap_is_that_of_a_slow_loop() -> None:
    x = {"a": normal(0, 4) + 0.5, "b": normal(1, 3)}
    y = {"a": normal(2, 5), "b": normal(3, 2)}
    fast = stats.probability_of_improvement(x, y, reps=100, seed=9)
    drawn = stats._draw([4, 3, 5, 2], 100, 9)
    slow = []
    for rep in range(100):
        per_task = []
        for place, task in enumerate("ab"):
            a, b = x[task][drawn[place][rep]], y[task][drawn[2 + place][rep]]
            per_task.append(np.mean([(p > q) + 0.5 * (p == q) for p in a for q in b]))
        slow.append(np.mean(per_task))
    assert fast.low == pytest.approx(np.quantile(slow, 0.025))
    assert fast.high == pytest.approx(np.quantile(slow, 0.975))
    assert fast.low < fast.estimate < fast.high


def test_probability_of_improvement_wants_the_same_tasks() -> None:
    with pytest.raises(InputError, match="only one side has c"):
        stats.probability_of_improvement({"a": [1.0], "b": [1.0]}, {"a": [1.0], "b": [1.0], "c": [1.0]})


def test_difference_is_welchs() -> None:
    x, y = normal(0, 5) + 1, 3 * normal(1, 8)
    ours = stats.difference(x, y)
    theirs = scipy_stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.estimate == pytest.approx(x.mean() - y.mean())
    point = stats.difference([2.0, 2.0], [1.0, 1.0])
    assert (point.low, point.high) == (1.0, 1.0)
    assert point.excludes_zero()
    assert not stats.difference([0.0, 2.0], [0.0, 1.9]).excludes_zero()


def test_paired_difference_profits_from_common_random_numbers() -> None:
    luck = 10 * normal(0, 6)
    x, y = luck + 1 + 0.1 * normal(1, 6), luck
    ours = stats.paired_difference(x, y)
    theirs = scipy_stats.ttest_rel(x, y).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.excludes_zero()
    assert not stats.difference(x, y).excludes_zero()
    with pytest.raises(InputError, match="equal lengths, not 6 and 5"):
        stats.paired_difference(x, y[:5])


def test_prediction_interval_by_hand() -> None:
    interval = stats.prediction_interval([1.0, 2.0, 3.0], 1)  # s = 1, root of 1/3 + 1, t = 4.3027
    assert interval.low == pytest.approx(2 - 4.302653 * math.sqrt(4 / 3), abs=1e-5)
    assert interval.high == pytest.approx(2 + 4.302653 * math.sqrt(4 / 3), abs=1e-5)
    many = stats.prediction_interval([1.0, 2.0, 3.0], 10**9)
    assert many.low == pytest.approx(stats.mean_ci([1.0, 2.0, 3.0], method="t").low, abs=1e-6)


def test_prediction_interval_catches_the_next_mean_as_often_as_it_says() -> None:
    # Exact for normal data: 4,000 pairs of (5 of ours, mean of 10 of theirs), sd 0.34 %; 4 sd allowed.
    rng = np.random.default_rng(13)
    ours, theirs = 50 + 8 * rng.normal(size=(4000, 5)), (50 + 8 * rng.normal(size=(4000, 10))).mean(axis=1)
    hits = np.mean([stats.prediction_interval(a, 10).contains(b) for a, b in zip(ours, theirs, strict=True)])
    assert abs(hits - 0.95) < 0.014


# ------------------------------------------------------------------------------------------------------------- curves


def test_performance_profile_by_hand() -> None:
    profile = stats.performance_profile({"a": [0.1, 0.5, 0.9, 0.9], "b": [0.5, 0.6]}, [0.0, 0.5, 0.9])
    # strictly above: 0.5 counts neither for the run of 0.5; tasks weigh the same although a has twice the runs
    np.testing.assert_allclose(profile.estimate, [1.0, (0.5 + 0.5) / 2, 0.0])
    assert np.all(profile.low <= profile.estimate)
    assert np.all(profile.estimate <= profile.high)
    assert profile.low[1] < profile.high[1]
    assert profile.low[0] == profile.high[0] == 1.0


def test_sample_efficiency_curve() -> None:
    steps = np.array([0.0, 10.0, 20.0])
    runs = np.array([[0.0, 10.0, 20.0], [2.0, 12.0, 22.0], [4.0, 14.0, 24.0]])
    curve = stats.sample_efficiency({"t": (steps, runs)}, [0.0, 5.0, 20.0], statistic=stats.mean)
    np.testing.assert_allclose(curve.estimate, [2.0, 7.0, 22.0])  # interpolated between 2 and 12
    # parallel runs, resampled as wholes: the band has the same width at all steps
    np.testing.assert_allclose(curve.high - curve.low, (curve.high - curve.low)[0])
    single = stats.bootstrap({"t": runs[:, 2]}, stats.mean)
    assert (curve.low[2], curve.high[2]) == (single.low, single.high)


def test_sample_efficiency_takes_tasks_with_their_own_steps() -> None:
    curves = {"a": ([0.0, 4.0], [[0.0, 1.0], [0.0, 3.0]]), "b": ([0.0, 2.0, 8.0], [[1.0, 1.0, 1.0]])}
    curve = stats.sample_efficiency(curves, [4.0], statistic=stats.mean)
    np.testing.assert_allclose(curve.estimate, [1.5])
    assert curve.runs == {"a": 2, "b": 1}
    with pytest.raises(InputError, match=r"leaves the steps 0\.\.4 of task 'a'"):
        stats.sample_efficiency(curves, [5.0])
    with pytest.raises(InputError, match="must increase"):
        stats.sample_efficiency({"a": ([0.0, 0.0], [[0.0, 1.0]])}, [0.0])
    with pytest.raises(InputError, match="3 steps but scores of shape"):
        stats.sample_efficiency({"a": ([0.0, 1.0, 2.0], [[0.0, 1.0]])}, [0.0])


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.iqm([]), "there are none"),
        (lambda: stats.iqm({}), "there are none"),
        (lambda: stats.bootstrap({"t": [1.0, math.nan]}), "scores of task 't' hold 1 values that are not finite"),
        (lambda: stats.bootstrap({"t": ["five"]}), "must be numbers"),
        (lambda: stats.bootstrap({"t": 3.0}), "not one number"),
        (lambda: stats.bootstrap({"t": [[1.0], [2.0]]}), "one number a run"),
        (lambda: stats.bootstrap([1.0], reps=0), "reps must be a positive integer"),
        (lambda: stats.bootstrap([1.0], level=95), "level must be a number between 0 and 1"),
        (lambda: stats.bootstrap([1.0], seed=-1), "seed must be a non-negative integer"),
        (lambda: stats.prediction_interval([1.0], 10), "at least 2 numbers, not 1"),
        (lambda: stats.prediction_interval([1.0, 2.0], 0), "new_runs must be a positive integer"),
        (lambda: stats.difference([1.0], [1.0, 2.0]), "x must be at least 2 numbers"),
        (lambda: stats.mean_ci([[1.0, 2.0]], method="t"), "flat sequence"),
        (lambda: stats.iqm({"a": normal(0, 2, 3), "b": normal(0, 3)}), "leading axes differ"),
    ],
)
def test_bad_input_is_one_clear_line(call, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------ against rliable


def test_against_rliable() -> None:
    try:
        library = importlib.import_module("rliable.library")
        metrics = importlib.import_module("rliable.metrics")
    except Exception as error:  # it fails in various ways with newer versions of what it needs
        pytest.skip(f"rliable cannot be imported here ({type(error).__name__}: {error}); it needs pandas < 3, arch < 8")
    if int(importlib.metadata.version("arch").split(".")[0]) >= 8:
        pytest.skip("rliable 1.2.0 imports but fails with arch >= 8")
    x, y = normal(0, 10, 4), normal(1, 10, 4) + 0.3
    scores = {str(task): x[:, task] for task in range(4)}
    others = {str(task): y[:, task] for task in range(4)}
    np.random.seed(0)  # noqa: NPY002 - rliable draws from the global generator
    points, bands = library.get_interval_estimates({"x": x}, lambda s: np.array([metrics.aggregate_iqm(s)]), reps=5000)
    ours = stats.bootstrap(scores, reps=5000)
    assert ours.estimate == pytest.approx(points["x"][0])
    # A 2.5 % quantile of 5,000 draws with standard deviation 0.15 is known to about 0.006; two such errors, times 3.
    assert (ours.low, ours.high) == pytest.approx(tuple(bands["x"][:, 0]), abs=0.03)
    improvement = metrics.probability_of_improvement(x, y)
    assert stats.probability_of_improvement(scores, others).estimate == pytest.approx(improvement)
    assert stats.optimality_gap(scores) == pytest.approx(metrics.aggregate_optimality_gap(x))
    taus = np.linspace(-2, 2, 9)
    profile = [library.run_score_deviation(x, tau) for tau in taus]
    np.testing.assert_allclose(stats.performance_profile(scores, taus).estimate, profile)


# -------------------------------------------------------------------------------------------------- one varied setting


def test_monotone_trend_by_hand() -> None:
    rising = stats.monotone_trend({1.0: [1, 2], 10.0: [3, 4], 100.0: [5, 6]})
    assert (rising.estimate, rising.low, rising.high) == (1.0, 1.0, 1.0)
    assert stats.monotone_trend({3.0: [1, 2], 1.0: [5, 6]}).estimate == -1.0  # in the order of the values
    # 1 < 2: pairs (1, 0) -1, (1, 2) +1, (1, 2) +1: mean 1/3
    assert stats.monotone_trend({1.0: [1], 2.0: [0, 2, 2]}).estimate == pytest.approx(1 / 3)
    assert stats.monotone_trend({1.0: [1, 1], 2.0: [1, 1]}).estimate == 0.0
    with pytest.raises(InputError, match="needs at least two values, not 1"):
        stats.monotone_trend({1.0: [1, 2]})


def test_monotone_trend_is_jonckheere_s_statistic() -> None:
    groups = {float(value): normal(value, 6) for value in range(4)}
    pairs = [(groups[u], groups[v]) for u in groups for v in groups if u < v]
    counts = [scipy_stats.mannwhitneyu(high, low).statistic for low, high in pairs]  # wins of the higher value
    assert stats.monotone_trend(groups).estimate == pytest.approx(np.mean([2 * count / 36 - 1 for count in counts]))


def test_monotone_trend_covers_no_trend() -> None:
    missed = 0
    for seed in range(200):
        drawn = normal(seed, 5, 6)
        missed += stats.monotone_trend(dict(enumerate(drawn)), reps=400).excludes_zero()
    assert missed <= 26  # 5 % of 200 is 10; a percentile bootstrap of five values with six runs misses a little more


def test_gap_slope_is_the_least_squares_slope_for_each_doubling() -> None:
    x = {value: normal(value, 5) + 3 * value for value in (8, 16, 32, 128)}
    y = {value: normal(value + 1, 4) for value in (8, 16, 32, 128)}
    gaps = [x[value].mean() - y[value].mean() for value in x]
    found = stats.gap_slope(x, y)
    assert found.estimate == pytest.approx(np.polyfit(np.log2(list(x)), gaps, 1)[0])
    assert found.low < found.estimate < found.high
    with pytest.raises(InputError, match="the same positive values"):
        stats.gap_slope(x, {8: [1, 2], 16: [1, 2]})
    with pytest.raises(InputError, match="the same positive values"):
        stats.gap_slope({0: [1, 2], 16: [1, 2]}, {0: [1, 2], 16: [1, 2]})


def test_choosing_by_the_others_is_no_gift() -> None:
    # runs 1 and 2 say value 2, and run 0 is scored there; without run 1 or 2 the other value has the better mean
    assert stats.chosen_by_the_others({1.0: [9.0, 0.0, 0.0], 2.0: [0.0, 4.0, 4.0]}).tolist() == [0.0, 0.0, 0.0]
    assert stats.chosen_by_the_others({1.0: [1.0, 2.0], 2.0: [3.0, 4.0]}).tolist() == [3.0, 4.0]
    # further runs of a value have a say and are not scored: the mean of 5 and 9 is above 6, that of 1 and 9 is not
    assert stats.chosen_by_the_others({1.0: [6.0, 6.0], 2.0: [1.0, 5.0, 9.0]}).tolist() == [1.0, 6.0]
    with pytest.raises(InputError, match=r"two runs at least, not \[1, 3\]"):
        stats.chosen_by_the_others({1.0: [1], 2.0: [1, 2, 3]})
    # with nothing to choose between, the best mean looks better than it is; what the others choose does not
    tables = normal(0, 3000, 5, 4)
    assert np.mean([table.mean(1).max() for table in tables]) > 0.5
    honest = np.mean([stats.chosen_by_the_others(dict(enumerate(table))).mean() for table in tables])
    assert abs(honest) < 0.03


def test_a_contrast_of_two_is_the_welch_difference_and_of_four_the_difference_of_differences() -> None:
    a, b, c, d = (normal(seed, size) for seed, size in ((0, 5), (1, 6), (2, 4), (3, 5)))
    assert stats.contrast([(1, a), (-1, b)]) == stats.difference(a, b)
    found = stats.contrast([(1, a), (-1, b), (-1, c), (1, d)])
    assert found.estimate == pytest.approx(a.mean() - b.mean() - c.mean() + d.mean())
    variance = sum(x.var(ddof=1) / len(x) for x in (a, b, c, d))
    freedom = variance**2 / sum((x.var(ddof=1) / len(x)) ** 2 / (len(x) - 1) for x in (a, b, c, d))
    half = scipy_stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert found.high - found.estimate == pytest.approx(half)
    doubled = stats.contrast([(2, a)])
    assert doubled.high - doubled.low == pytest.approx(
        2 * np.ptp([stats.mean_ci(a, method="t").low, stats.mean_ci(a, method="t").high])
    )
