"""Intervals against the textbook, by independent computations, and how often they cover the truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
from benchmarks.coverage import cell
from scipy import stats

from persona.evaluation.comparison import PARTS
from persona.evaluation.metrics.intervals import (
    Estimate,
    Floats,
    Ints,
    add_spread,
    detectable_gap,
    equivalent,
    estimate,
    holm,
    joint_draws,
    ratio,
    shapley_weights,
    users_needed,
)
from persona.evaluation.metrics.stars import agreement, calibration, calibration_error, quadratic_kappa, root_mean


def of_mean(x: Floats, users: Ints, items: Ints) -> Estimate:
    return estimate(np.column_stack([x, np.ones(len(x))]), users, items)


@pytest.mark.parametrize("items", ["one", "unique"])
def test_an_interval_of_independent_users_is_the_textbook_one(items: str) -> None:
    x = np.random.default_rng(0).normal(0.1, 0.5, 40)
    users = np.arange(40)
    found = of_mean(x, users, np.zeros(40, int) if items == "one" else users)
    low, high = stats.t.interval(0.95, 39, x.mean(), stats.sem(x))
    assert (found.value, found.low, found.high) == pytest.approx((x.mean(), low, high))
    assert found.p == pytest.approx(stats.ttest_1samp(x, 0).pvalue)
    assert found.note is None and found.bounds(0.9) == pytest.approx(stats.t.interval(0.9, 39, x.mean(), stats.sem(x)))


def test_users_who_belong_to_one_item_count_through_their_item() -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(60), 4)
    items = users // 6  # ten films of six characters
    x = rng.normal(size=10)[items] + rng.normal(size=60)[users] + rng.normal(size=240)
    films = x.reshape(10, 24).mean(1)
    found = of_mean(x, users, items)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 9, films.mean(), stats.sem(films)))
    # And the other way round: items that belong to a user.
    assert of_mean(x, items, users).low == pytest.approx(found.low)
    assert of_mean(x, users, users // 20).note == "no interval: only 3 items"


def test_crossed_users_and_items_by_analysis_of_variance() -> None:
    """In a complete design the variance of the grand mean is (MS users + MS items - MS residual) / n."""
    rng = np.random.default_rng(1)
    table = rng.normal(size=(40, 1)) + 0.7 * rng.normal(size=(1, 30)) + rng.normal(size=(40, 30))
    by_user, by_item = table.mean(1), table.mean(0)
    residual = table - by_user[:, None] - by_item + table.mean()
    squares = 30 * by_user.var(ddof=1), 40 * by_item.var(ddof=1), (residual**2).sum() / (39 * 29)
    expected = (squares[0] + squares[1] - squares[2]) / table.size
    found = of_mean(table.ravel(), np.repeat(np.arange(40), 30), np.tile(np.arange(30), 40))
    assert found.se**2 == pytest.approx(expected, rel=0.05)  # it counts a little of the effects twice
    assert found.df == pytest.approx(29)
    assert found.users_se == pytest.approx(stats.sem(by_user))


@pytest.mark.parametrize(
    ("users", "items", "note"),
    [
        ([], [], "no interval: no targets"),
        ([0], [0], "no interval: only 1 user"),
        ([0, 1], [0, 0], "no interval: only 2 users"),
        (range(30), [n % 3 for n in range(30)], "no interval: only 3 items"),
        (range(30), [max(0, n - 25) for n in range(30)], "no interval: most targets are of few of the 5 items"),
    ],
)
def test_no_interval_where_there_are_too_few(users: list[int], items: list[int], note: str) -> None:
    found = of_mean(np.arange(len(users)).astype(float), np.array(users, int), np.array(items, int))
    assert found.note == note and np.isnan([found.low, found.high, found.p]).all()
    written = found.as_json()
    assert written["low"] is None and json.loads(json.dumps(written))["note"] == note
    assert users_needed(found) is None and equivalent(found, 1.0) is None


def test_what_cannot_be_computed_has_no_interval() -> None:
    five_stars = agreement(np.full(20, 5), np.full(20, 5))
    found = estimate(five_stars, np.arange(20), np.arange(20), quadratic_kappa)
    assert np.isnan(found.value) and found.note == "no interval: the value cannot be computed"


def test_equal_values_have_an_interval_of_no_width() -> None:
    users = np.arange(20)
    assert of_mean(np.zeros(20), users, users).p == 1.0
    found = estimate(np.column_stack([np.zeros(20), np.ones(20)]), users, users, root_mean)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_statistics_of_sums_agree_with_the_jackknife_over_users() -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(200), 3)
    truth = rng.integers(1, 6, 600)
    guess = np.clip(truth + rng.integers(-2, 3, 200)[users], 1, 5)
    stars = rng.dirichlet(np.ones(5), 600)
    cases = [
        (np.column_stack([rng.normal(1, 1, 600), rng.integers(5, 50, 600)]).astype(float), ratio),
        (np.column_stack([(guess - truth) ** 2, np.ones(600)]).astype(float), root_mean),
        (agreement(guess, truth), quadratic_kappa),
        (calibration(stars, truth), calibration_error),
    ]
    for features, statistic in cases:
        left_out = np.array([statistic(features[users != user].sum(0)) for user in range(200)])
        jackknife = np.sqrt(199 / 200 * np.sum((left_out - left_out.mean()) ** 2))
        assert estimate(features, users, np.zeros(600, int), statistic).se == pytest.approx(jackknife, rel=0.03)


@pytest.mark.parametrize("kind", ["mean", "swap_gap", "seeds"])
def test_intervals_cover_the_truth_as_often_as_they_say(kind: str) -> None:
    figures = cell(kind, 60, 12, 60 if kind == "swap_gap" else 200)
    assert figures["coverage"] >= 0.88 and figures["given"] == 1
    assert 0.85 <= figures["width_t"] <= 1.2


def test_three_items_have_no_interval() -> None:
    assert cell("mean", 20, 3, 20)["given"] == 0


def test_the_spread_between_seeds_is_added() -> None:
    users = np.arange(50)
    found = of_mean(np.random.default_rng(0).normal(size=50), users, users)
    wider = add_spread(found, 0.04, 4)
    total = found.se**2 + 0.04
    assert (wider.value, wider.se) == pytest.approx((found.value, total**0.5))
    assert wider.df == pytest.approx(total**2 / (found.se**4 / 49 + 0.04**2 / 4))  # Satterthwaite 1946
    assert wider.high - wider.low > found.high - found.low
    assert add_spread(found, 0.0, 4).high == pytest.approx(found.high)


def test_joint_draws_have_the_intervals_of_each_ratio_and_of_their_difference() -> None:
    rng = np.random.default_rng(0)
    users, items = np.repeat(np.arange(60), 5), rng.integers(0, 12, 300)
    common = rng.normal(size=60)[users] + rng.normal(size=12)[items]
    features = np.column_stack([common + rng.normal(size=300), common + rng.normal(size=300), np.ones(300)])
    draws = joint_draws(features, users, items, 20_000)
    assert draws is not None
    compared = [(draws[:, 0], features[:, 0]), (draws[:, 0] - draws[:, 1], features[:, 0] - features[:, 1])]
    for drawn, x in compared:
        found = of_mean(x, users, items)
        width = found.high - found.low
        assert np.quantile(drawn, [0.025, 0.975]) == pytest.approx((found.low, found.high), abs=0.06 * width)
    assert joint_draws(features, users, users % 3, 10) is None
    assert joint_draws(features[:0], users[:0], items[:0], 10) is None


def test_joint_draws_have_the_least_variance_of_intervals_too() -> None:
    """Of crossed users and items the two-way variance can come out too small; intervals have a least size."""
    ratios = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        users, items = np.repeat(np.arange(40), 5), rng.integers(0, 20, 200)
        features = np.column_stack([rng.normal(size=(200, 2)), np.ones(200)])
        draws = joint_draws(features, users, items, 4_000)
        assert draws is not None
        found = of_mean(features[:, 0], users, items)
        ratios.append(np.subtract(*np.quantile(draws[:, 0], [0.975, 0.025])) / (found.high - found.low))
    assert min(ratios) > 0.93


def test_with_as_many_users_as_needed_four_of_five_studies_find_the_gap() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0.2, 1.0, 100)
    needed = users_needed(of_mean(x, np.arange(100), np.zeros(100, int)))
    assert needed is not None and needed == pytest.approx((2.8016 * x.std(ddof=1) / x.mean()) ** 2, rel=0.02)
    assert detectable_gap(x.std(ddof=1), needed) == pytest.approx(abs(x.mean()), rel=0.01)
    studies = rng.normal(x.mean(), x.std(ddof=1), (2000, needed))
    assert np.mean(stats.ttest_1samp(studies, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.03)


def test_no_number_of_users_makes_up_for_items_that_differ() -> None:
    users, items = np.repeat(np.arange(100), 10), np.tile(np.arange(10), 100)
    x = 0.05 + np.random.default_rng(0).normal(size=10)[items] + np.random.default_rng(1).normal(0, 0.1, 1000)
    assert users_needed(of_mean(x, users, items)) is None


def test_equivalence_is_two_one_sided_tests() -> None:
    users = np.arange(60)
    x = np.random.default_rng(0).normal(0.0, 0.1, 60)
    found = of_mean(x, users, users)
    for margin in (0.005, 0.02, 0.03, 0.05):
        above = stats.ttest_1samp(x, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(x, margin, alternative="less").pvalue
        assert equivalent(found, margin) is bool(max(above, below) < 0.05)
    assert equivalent(found, None) is None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_shapley_values_share_out_the_whole_gain() -> None:
    values = {frozenset(s): v for s, v in [((), 0.0), (("profile",), 1.0), (("history",), 2.0), (("context",), 0.0)]}
    values |= {frozenset(("profile", "history")): 4.0, frozenset(("profile", "context")): 1.0}
    values |= {frozenset(("history", "context")): 2.0, frozenset(PARTS): 4.0}
    shares = {
        part: sum(weight * values[chosen] for chosen, weight in weights.items())
        for part, weights in shapley_weights(PARTS).items()
    }
    # By symmetry of the interaction: half of the surplus 1.0 each; context adds nothing.
    assert shares == pytest.approx({"profile": 1.5, "history": 2.5, "context": 0.0})
