"""Baselines of stars against their formulas."""

from __future__ import annotations

import numpy as np
import polars as pl

from persona.evaluation.baselines.baselines import Baselines


def test_star_baselines_beat_the_mean_and_the_damped_bias_is_its_formula(
    own: tuple[pl.DataFrame, pl.DataFrame, Baselines],
) -> None:
    _, targets, baselines = own
    test = targets.filter(pl.col("cohort") == "test")
    errors = {
        method: float(((rows["rating"] - rows["truth"]) ** 2).mean())  # type: ignore[arg-type]
        for (method,), rows in baselines.ratings.join(
            test.select("interaction_id", truth=pl.col("rating").cast(pl.Float64)), on="interaction_id"
        ).group_by(["method"])
    }
    assert errors["item_mean"] < errors["global_mean"]
    assert max(errors[m] for m in ("damped_bias", "matrix_factorisation", "tfidf_ridge")) < errors["item_mean"]
    # A user without history gets the film's mean.
    new = test.filter(pl.col("n_history") == 0)["interaction_id"]
    guesses = baselines.ratings.filter(pl.col("interaction_id").is_in(new.implode()))
    by_method = {m: rows.sort("interaction_id")["rating"] for (m,), rows in guesses.group_by(["method"])}
    for method in ("damped_bias", "tfidf_ridge"):
        np.testing.assert_allclose(by_method[method], by_method["item_mean"])
