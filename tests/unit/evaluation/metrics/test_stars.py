"""Metrics of stars by hand and against scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import cohen_kappa_score

from persona.evaluation.metrics.stars import (
    agreement,
    calibration,
    calibration_error,
    expected_star,
    median_star,
    quadratic_kappa,
    ranked_probability_score,
    star_metrics,
    within_item_tau,
)


def test_ratings_by_hand() -> None:
    stars = np.array([[0.0, 0, 0, 0.3, 0.3], [0.2, 0.2, 0.2, 0.2, 0.2]])
    np.testing.assert_allclose(expected_star(stars), [4.5, 3.0])
    assert median_star(stars).tolist() == [4, 3]
    certain = np.eye(5)
    assert ranked_probability_score(certain[[4]], np.array([5]))[0] == 0.0
    assert ranked_probability_score(certain[[0]], np.array([5]))[0] == 1.0
    # Uniform, truth 3: cumulative .2 .4 .6 .8 against 0 0 1 1.
    assert ranked_probability_score(stars[[1]], np.array([3]))[0] == pytest.approx((0.04 + 0.16 + 0.16 + 0.04) / 4)


def test_kappa_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(2, 5, 200)  # the stars 1 and 5 never occur, and count all the same
    guess = np.clip(truth + rng.integers(-1, 2, 200), 1, 5)
    expected = cohen_kappa_score(truth, guess, labels=[1, 2, 3, 4, 5], weights="quadratic")
    assert quadratic_kappa(agreement(guess, truth).sum(0)) == pytest.approx(expected)


def test_calibration_error_by_hand() -> None:
    certain = np.eye(5)[[4, 4, 4, 4]]
    assert calibration_error(calibration(certain, np.array([5, 5, 5, 5])).sum(0)) == 0.0
    # One in four wrong: 0.25 too much for star 5, 0.25 too little for star 1; mean over five stars.
    assert calibration_error(calibration(certain, np.array([5, 5, 5, 1])).sum(0)) == pytest.approx(0.5 / 5)


def test_tau_is_that_of_scipy_in_one_film_and_pools_films() -> None:
    rng = np.random.default_rng(0)
    truth, guess, mean = rng.integers(1, 6, 60).astype(float), rng.normal(3, 1, 60), rng.normal(3, 0.5, 60)
    one = np.zeros(60, dtype=int)
    found = within_item_tau(guess[None], truth, mean, one, np.arange(60))
    assert found.value == pytest.approx(kendalltau(guess - mean, truth - mean).statistic)
    assert found.low < found.value < found.high and found.items == 1
    two = within_item_tau(
        np.array([[1.0, 2, 9, 8]]), np.array([1.0, 2, 1, 2]), np.zeros(4), np.array([0, 0, 1, 1]), np.arange(4)
    )
    assert two.value == 0.0  # agrees in one film, disagrees in the other


def test_the_interval_of_tau_agrees_with_the_jackknife_and_finds_nothing_in_noise() -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(100), 2)
    items, like, zero = rng.integers(0, 10, 200), rng.normal(size=100)[users], np.zeros(200)
    guess, truth = like + rng.normal(size=200), like + rng.normal(size=200)

    def tau(kept: np.ndarray) -> float:
        return within_item_tau(guess[None, kept], truth[kept], zero[kept], items[kept], users[kept]).value

    left_out = np.array([tau(users != user) for user in range(100)])
    found = within_item_tau(guess[None], truth, zero, items, users)
    assert found.users_se == pytest.approx(np.sqrt(99 / 100 * np.sum((left_out - left_out.mean()) ** 2)), rel=0.1)
    noise = [within_item_tau(rng.normal(size=(1, 200)), truth, zero, items, users) for _ in range(200)]
    assert 0.9 <= np.mean([e.low <= 0 <= e.high for e in noise]) <= 0.99


def test_seeds_are_averaged_and_do_not_make_a_better_model(hundred: pl.DataFrame) -> None:
    rng = np.random.default_rng(0)
    rows = hundred.with_columns(history_mean=pl.lit(None, dtype=pl.Float64))
    seeds = [rows.with_columns(stars=pl.Series(rng.dirichlet(np.full(5, 0.3), 100).tolist())) for _ in range(3)]
    single = [star_metrics([table])["rps"].value for table in seeds]
    assert star_metrics(seeds)["rps"].value == pytest.approx(np.mean(single))
    squares = [star_metrics([table])["rmse"].value ** 2 for table in seeds]
    assert star_metrics(seeds)["rmse"].value ** 2 == pytest.approx(np.mean(squares))
