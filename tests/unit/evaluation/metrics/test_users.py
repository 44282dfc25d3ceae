"""The effects of single users, and the shares of users that are helped and harmed."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from persona.evaluation.metrics.users import user_effects, user_shares, wilson


def simulated(
    mean: float, sd: float, users: int = 2000, noise: float = 1.0, reviews: int = 2, seed: int = 0
) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(users), reviews)
    values = rng.normal(mean, sd, users)[ids] + rng.normal(0, noise, ids.size)
    return pl.DataFrame({"user_id": [f"u{n:05}" for n in ids], "gap": values, "n": 1.0})


def test_effects_by_hand() -> None:
    rows = pl.DataFrame(
        {"user_id": ["b", "a", "a", "c"], "gap": [6.0, 1.0, 5.0, None], "n_characters": [3, 1, 1, 4]},
    )
    found = user_effects(rows, "gap", "n_characters")
    # Within a: (1 - 3)^2 + (5 - 3)^2 = 8 with one degree of freedom; a has 2 characters and b 3.
    expected = [("a", 3.0, 2.0, 2), ("b", 2.0, (8 / 3) ** 0.5, 1)]
    assert [row[0] for row in found.rows()] == ["a", "b"]
    for row, other in zip(found.rows(), expected, strict=True):
        assert row[1:] == pytest.approx(other[1:])
    assert found.columns == ["user_id", "effect", "se", "n"]


def test_the_corrected_share_finds_the_truth_that_noise_hides() -> None:
    # 97.7 % of users have an effect above 0, but noise hides it in many.
    found = user_shares(user_effects(simulated(0.4, 0.2, reviews=10), "gap", "n"))
    assert found["helped"] < 0.9 and found["helped_high"] < 0.93
    assert found["helped_corrected"] == pytest.approx(0.977, abs=0.02)
    assert found["helped"] + found["harmed"] == pytest.approx(1.0)
    assert found["helped_low"] < found["helped"] < found["helped_high"]


def test_the_interval_of_the_corrected_share_holds_the_truth_and_is_wide_where_little_is_known() -> None:
    widths = []
    for reviews in (2, 10):
        simulations = [simulated(0.1, 0.1, users=250, noise=0.2, reviews=reviews, seed=seed) for seed in range(60)]
        found = [user_shares(user_effects(rows, "gap", "n")) for rows in simulations]
        ends = np.array([(shares["helped_corrected_low"], shares["helped_corrected_high"]) for shares in found])
        assert np.mean((ends[:, 0] <= 0.841) & (ends[:, 1] >= 0.841)) >= 0.9
        widths.append(np.mean(ends[:, 1] - ends[:, 0]))
    assert widths[0] > 1.5 * widths[1]


def test_users_who_do_not_differ_are_not_said_to() -> None:
    found = user_shares(user_effects(simulated(0.0, 0.0), "gap", "n"))
    assert found["between_sd"] < 0.2  # the noise of an effect is 0.7
    assert found["helped"] == pytest.approx(0.5, abs=0.04)
    assert (found["helped_corrected_low"], found["helped_corrected_high"]) == (0.0, 1.0)


def test_with_one_review_a_user_noise_cannot_be_told_from_users() -> None:
    found = user_shares(user_effects(simulated(0.4, 0.2, reviews=1), "gap", "n"))
    assert found["helped_corrected"] is None and found["between_sd"] is None and found["helped"] > 0.5
    assert user_shares(user_effects(simulated(0.4, 0.2, users=0), "gap", "n")) == {"users": 0}


def test_wilson_by_hand() -> None:
    z, p, n = 1.959964, 0.3, 10
    middle, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    scale = 1 + z**2 / n
    assert wilson(3, 10) == pytest.approx(((middle - half) / scale, (middle + half) / scale), abs=1e-6)
