"""The re-analysis of the KPF paper's printed win rates."""

import numpy as np
import pytest
from scipy import stats as distributions

from inconcert import printed_rates


def test_rows_are_those_of_the_printed_table():
    table = printed_rates.rows()
    assert len(table) == 40
    assert table["group"].nunique() == 7
    assert table["rate"].between(0.7, 1).all()
    assert (table.groupby("group")[["first", "second"]].nunique() == 1).all(axis=None)


def test_whole_numbers_of_wins():
    table = printed_rates.rows()
    assert printed_rates.wins(table["rate"]).tolist() == [round(100 * rate) for rate in table["rate"]]


def test_equal_settings_do_not_differ():
    assert printed_rates.heterogeneity(np.array([90, 90, 90])).p_value == 1
    assert printed_rates.heterogeneity(np.array([100, 100])).p_value == 1


def test_unequal_settings_differ():
    found = printed_rates.heterogeneity(np.array([60, 95]))
    assert found.p_value < 1e-3
    assert found.pooled == pytest.approx(0.775)


def test_two_settings_are_fishers_test():
    counts = np.array([78, 88])
    exact = distributions.fisher_exact([[78, 22], [88, 12]]).pvalue
    assert printed_rates.heterogeneity(counts, draws=50_000).p_value == pytest.approx(exact, abs=0.01)


def test_the_statistic_is_pearsons():
    counts = np.array([75, 80, 77, 87, 95, 84, 77])
    reference = distributions.chi2_contingency(np.stack([counts, 100 - counts]), correction=False)
    found = printed_rates.heterogeneity(counts)
    assert found.statistic == pytest.approx(reference.statistic)
    assert found.p_value == pytest.approx(reference.pvalue, abs=0.005)


@pytest.mark.parametrize(("rate", "settings"), [(0.8, 1), (0.8, 6), (0.97, 7)])
def test_expected_best_by_simulation(rate, settings):
    drawn = np.random.default_rng(0).binomial(100, rate, size=(200_000, settings)).max(axis=1).mean() / 100
    assert printed_rates.expected_best(rate, settings) == pytest.approx(drawn, abs=5e-4)


def test_one_evaluation_has_no_curse():
    assert printed_rates.expected_best(0.83, 1) == pytest.approx(0.83)


def test_power_by_simulation():
    """With the number that is asked for, the z test rejects about four times in five."""
    episodes = printed_rates.episodes_to_resolve(0.8, 0.05)
    generator = np.random.default_rng(0)
    low, high = (generator.binomial(episodes, rate, size=20_000) / episodes for rate in (0.8, 0.85))
    error = np.sqrt((low * (1 - low) + high * (1 - high)) / episodes)
    assert np.mean(np.abs(high - low) / error > 1.96) == pytest.approx(0.8, abs=0.015)


def test_likelihood_prefers_the_rate_that_made_the_counts():
    counts = np.array([81, 79, 80])
    assert printed_rates.log_likelihood(0.8, counts) > printed_rates.log_likelihood(0.6, counts)


def test_the_claim_is_about_the_groups_with_several_settings():
    assert printed_rates.share_of_groups_that_differ(level=6.0) == 1
    assert printed_rates.share_of_groups_that_differ(level=1e-6) == 0


def test_gains_in_football_are_welchs():
    found = printed_rates.football_gains()
    assert list(found.index) == ["3v1", "CA(easy)", "CA(hard)", "RPS"]
    row = found.loc["RPS"]
    assert (row["kpf"], row["rival"], row["best"]) == (82.2, "HAPPO", 77.3)
    assert row["gain"] == pytest.approx(4.9)
    # by hand: t quantile of Welch's degrees of freedom, from the printed standard deviations 1.8 and 7.4 of five seeds
    a, b = 1.8**2 / 5, 7.4**2 / 5
    half = distributions.t.ppf(0.975, (a + b) ** 2 / (a**2 / 4 + b**2 / 4)) * (a + b) ** 0.5
    assert (row["low"], row["high"]) == pytest.approx((4.9 - half, 4.9 + half))
    assert ((found["low"] > 0) == (found["p_value"] < 0.05)).all()
    more = printed_rates.football_gains(seeds=50)
    assert (more["high"] - more["low"] < found["high"] - found["low"]).all()


def test_holm_rejects_step_by_step():
    assert printed_rates._rejected([0.04, 0.001, 0.03], 0.05) == 1
    assert printed_rates._rejected([0.04, 0.001, 0.02], 0.05) == 3
    assert printed_rates._rejected([0.2, 0.3], 0.05) == 0
    assert printed_rates.share_of_football_gains_resolved() == 0.25
