"""Whether it may be said that a model writes as a particular user does. Three conditions, all of them needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from persona.evaluation.comparison import mean_of_seeds
from persona.evaluation.metrics.authors import add_swap_gaps, author_ranks
from persona.evaluation.metrics.bootstrap import Estimate, estimate_columns
from persona.evaluation.metrics.stars import expected_star, star_array
from persona.evaluation.metrics.summary import mean_ranks


@dataclass(frozen=True)
class Condition:
    """Something that must be greater than 0, with its interval over users and films."""

    name: str
    advantage: Estimate

    @property
    def holds(self) -> bool | None:
        """None where the data cannot say."""
        return self.advantage.low > 0 if np.isfinite(self.advantage.low) else None


@dataclass(frozen=True)
class Claim:
    """Personalisation may be claimed if every condition holds; data without stars has no condition on them."""

    conditions: list[Condition]

    @property
    def allowed(self) -> bool:
        return all(c.holds is True for c in self.conditions)


def claim(
    seeds: list[pl.DataFrame], authors: pl.DataFrame, guesses: pl.DataFrame, targets: pl.DataFrame, candidates: int
) -> Claim:
    """Check the conditions for one stage; each is that a 95 % interval lies above 0.

    1. The swap gap, in nats a character.
    2. Author identification (acc@1) less that by character TF-IDF, on the same targets and candidates.
    3. Squared error of the damped bias less that of the expected star, on the same targets.

    Args:
        seeds: `schemas.SCORES` of the stage, a table for each seed.
        authors, guesses: `schemas.AUTHORS` and `schemas.RATINGS` of the baselines.
        targets: `schemas.TARGETS`.
    """
    tests = [table.filter(pl.col("cohort") == "test") for table in seeds]
    keys = targets.select("interaction_id", "user_id", "item_id")
    gap = add_swap_gaps(mean_of_seeds(tests)).select(
        "interaction_id", "swap_gap", n=pl.col("n_characters").cast(pl.Float64)
    )
    mine, theirs = mean_ranks(tests, candidates), author_ranks(authors, candidates)
    found = mine.join(theirs.select("interaction_id", theirs="acc"), on="interaction_id").select(
        "interaction_id", advantage=pl.col("acc") - pl.col("theirs"), n=pl.lit(1.0)
    )
    stars = _star_advantage(tests, guesses, targets)
    conditions = [
        Condition("swap_gap", _estimate(gap.rename({"swap_gap": "advantage"}), keys)),
        Condition("author", _estimate(found, keys)),
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
    mine = tables[0].select("interaction_id", "truth").with_columns(mine=pl.Series(np.mean(errors, axis=0)))
    return mine.join(bias, on="interaction_id").select(
        "interaction_id", advantage=(pl.col("bias") - pl.col("truth")) ** 2 - pl.col("mine"), n=pl.lit(1.0)
    )


def _estimate(rows: pl.DataFrame, keys: pl.DataFrame) -> Estimate:
    """Sum of `advantage` over the sum of `n`, users and films resampled."""
    both = rows.drop_nulls("advantage").join(keys, on="interaction_id").sort("user_id", "interaction_id")
    return estimate_columns(both, "advantage", "n", films=True)
