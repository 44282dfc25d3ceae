"""Decide whether a model may be said to write like a particular user: three conditions, and all must hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from persona.evaluation.comparison import mean_of_seeds
from persona.evaluation.metrics.authors import add_swap_gaps, author_ranks
from persona.evaluation.metrics.balance import add_balanced_gaps
from persona.evaluation.metrics.intervals import Estimate, estimate_columns
from persona.evaluation.metrics.stars import expected_star, star_array
from persona.evaluation.metrics.summary import mean_ranks


@dataclass(frozen=True)
class Condition:
    """An advantage that must be greater than 0, with its interval over users and items."""

    name: str
    advantage: Estimate

    @property
    def holds(self) -> bool | None:
        """Whether the interval lies above 0; None if it could not be computed."""
        return self.advantage.low > 0 if np.isfinite(self.advantage.low) else None

    @property
    def mark(self) -> str:
        """As the report shows it."""
        return "·" if self.holds is None else "✓" if self.holds else "✗"


@dataclass(frozen=True)
class Claim:
    """Personalisation may be claimed if every condition holds. Data without stars has no condition on stars."""

    conditions: list[Condition]

    @property
    def allowed(self) -> bool:
        """Whether every condition holds."""
        return all(c.holds is True for c in self.conditions)


def claim(
    seeds: list[pl.DataFrame], authors: pl.DataFrame, guesses: pl.DataFrame, targets: pl.DataFrame, candidates: int
) -> Claim:
    """Check the conditions for one stage. Each one requires the 95 % interval of a value to lie above 0.

    1. The swap gap, in nats per character.
    2. acc@1 of the stage's author identification minus that of character TF-IDF, on the same targets and candidates.
    3. Squared error of the damped bias minus that of the stage's expected star, on the same targets.

    Args:
        seeds: `schemas.SCORES` of the stage, one table per seed.
        authors, guesses: `schemas.AUTHORS` and `schemas.RATINGS` of the baselines.
        targets: `schemas.TARGETS`.
        candidates: number of users among whom an author is identified.
    """
    tests = [table.filter(pl.col("cohort") == "test") for table in seeds]
    keys = targets.select("interaction_id", "user_id", "item_id")
    gap = add_balanced_gaps(add_swap_gaps(mean_of_seeds(tests))).select(
        "interaction_id", advantage="swap_gap_balanced", n=pl.col("n_characters").cast(pl.Float64)
    )
    model, baseline = mean_ranks(tests, candidates), author_ranks(authors, candidates)
    ranks = model.join(baseline.select("interaction_id", baseline="acc"), on="interaction_id").select(
        "interaction_id", advantage=pl.col("acc") - pl.col("baseline"), n=pl.lit(1.0)
    )
    stars = _star_advantage(tests, guesses, targets)
    conditions = [
        Condition("swap_gap", _estimate(gap, keys)),
        Condition("author", _estimate(ranks, keys)),
    ]
    return Claim([*conditions, Condition("rating", _estimate(stars, keys))] if stars.height else conditions)


def _star_advantage(tests: list[pl.DataFrame], guesses: pl.DataFrame, targets: pl.DataFrame) -> pl.DataFrame:
    known = targets.select("interaction_id", truth="rating").drop_nulls()
    bias = guesses.filter(pl.col("method") == "damped_bias").select("interaction_id", bias="rating")
    tables = [
        table.drop_nulls("stars").sort("interaction_id").join(known, on="interaction_id", maintain_order="left")
        for table in tests
    ]
    errors = [(expected_star(star_array(table)) - table["truth"].to_numpy()) ** 2 for table in tables]
    model = tables[0].select("interaction_id", "truth").with_columns(model=pl.Series(np.mean(errors, axis=0)))
    return model.join(bias, on="interaction_id").select(
        "interaction_id", advantage=(pl.col("bias") - pl.col("truth")) ** 2 - pl.col("model"), n=pl.lit(1.0)
    )


def _estimate(rows: pl.DataFrame, keys: pl.DataFrame) -> Estimate:
    """Sum of `advantage` divided by the sum of `n`, with its interval over users and items."""
    both = rows.drop_nulls("advantage").join(keys, on="interaction_id").sort("user_id", "interaction_id")
    return estimate_columns(both, "advantage", "n")
