"""Intervals by hand, against the textbook, and how often they cover the truth."""

from __future__ import annotations

import numpy as np
import pytest

from persona.evaluation.comparison import PARTS
from persona.evaluation.metrics.bootstrap import estimate, holm, shapley_weights


def test_an_interval_of_independent_users_is_the_textbook_one() -> None:
    x = np.random.default_rng(0).normal(1.0, 0.5, 400)
    found = estimate(np.column_stack([x, np.ones(400)]), np.arange(400))
    half = 1.96 * x.std() / 20
    assert found.value == pytest.approx(x.mean())
    assert found.low == pytest.approx(x.mean() - half, abs=0.005)
    assert found.high == pytest.approx(x.mean() + half, abs=0.005)
    assert found.p < 0.001


def test_an_interval_by_hand() -> None:
    # Two users: a resample has a alone (1.5), b alone (2.5), or both (2.0).
    features = np.array([[10.0, 10.0], [20.0, 10.0], [50.0, 20.0]])
    found = estimate(features, np.array([0, 0, 1]))
    assert (found.value, found.low, found.high) == (2.0, 1.5, 2.5)


def coverage(n_users: int, reviews: int, films: int, film_sd: float, by_films: bool, rounds: int = 400) -> float:
    """Share of simulated data sets whose interval has the true mean, 0: user effects (ICC 0.3), film effects, noise."""
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(n_users), reviews)
    covered = 0
    for _ in range(rounds):
        items = rng.integers(0, films, users.size)
        x = rng.normal(0, 0.3**0.5, n_users)[users] + rng.normal(0, 0.7**0.5, users.size)
        x = x + rng.normal(0, film_sd, films)[items]
        found = estimate(np.column_stack([x, np.ones(x.size)]), users, items=items if by_films else None, n=1000)
        covered += found.low <= 0 <= found.high
    return covered / rounds


def test_intervals_over_users_cover_the_truth_as_often_as_they_say() -> None:
    assert 0.90 <= coverage(n_users=60, reviews=5, films=28, film_sd=0.0, by_films=False) <= 0.98


def test_where_films_differ_too_films_must_be_drawn_as_well() -> None:
    assert coverage(n_users=60, reviews=5, films=28, film_sd=1.0, by_films=False, rounds=200) < 0.7
    assert 0.90 <= coverage(n_users=60, reviews=5, films=28, film_sd=1.0, by_films=True, rounds=200) <= 0.99


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
