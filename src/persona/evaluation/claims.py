"""Decide whether a model may be said to write like a particular user: every condition that is asked must hold."""

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
    """An advantage that must be greater than 0, with its interval over users and items; None if it is not asked."""

    name: str
    advantage: Estimate | None

    @property
    def holds(self) -> bool | None:
        """Whether the interval lies above 0; None if it is not asked or could not be computed."""
        if self.advantage is None or not np.isfinite(self.advantage.low):
            return None
        return self.advantage.low > 0

    @property
    def mark(self) -> str:
        """As the report shows it."""
        if self.advantage is None:
            return "–"
        return "·" if self.holds is None else "✓" if self.holds else "✗"


@dataclass(frozen=True)
class Claim:
    """Personalisation may be claimed if every condition that is asked holds."""

    conditions: list[Condition]

    @property
    def allowed(self) -> bool:
        """Whether any condition is asked, and every one that is asked holds."""
        asked = [c for c in self.conditions if c.advantage is not None]
        return bool(asked) and all(c.holds is True for c in asked)


# Of a stage whose prompts show nothing of the user, neither profile nor history.
NOT_ASKED = Claim([Condition(name, None) for name in ("swap_gap", "author", "rating")])


def claim(
    seeds: list[pl.DataFrame], baseline: pl.DataFrame, guesses: pl.DataFrame, targets: pl.DataFrame, candidates: int
) -> Claim:
    """Check the conditions for one stage. Each one requires the 95 % interval of a value to lie above 0.

    All are checked on the targets with history: without earlier texts there is nothing of the user to read.

    1. `swap_gap`: the swap gap, in nats per character.
    2. `author`: acc@1 of the stage's author identification minus that of the baseline, among the same candidates.
    3. `rating`: squared error of the damped bias minus that of the stage's expected star. It is asked where the stage
       was trained to give the stars. A zero-shot probe says nothing about what was learned.

    Args:
        seeds: `schemas.SCORES` of the stage, one table per seed.
        baseline: the likelihoods, or similarities, of the best free baseline; see `best_author_baseline`.
        guesses: `schemas.RATINGS` of the baselines.
        targets: `schemas.TARGETS`.
        candidates: number of users among whom an author is identified.
    """
    keys = targets.filter(pl.col("n_history") > 0).select("interaction_id", "user_id", "item_id")
    tests = [table.filter(pl.col("cohort") == "test") for table in seeds]
    gap = add_balanced_gaps(add_swap_gaps(mean_of_seeds(tests))).select(
        "interaction_id", advantage="swap_gap_balanced", n=pl.col("n_characters").cast(pl.Float64)
    )
    model, free = mean_ranks(tests, candidates), author_ranks(baseline, candidates)
    ranks = model.join(free.select("interaction_id", free="acc"), on="interaction_id").select(
        "interaction_id", advantage=pl.col("acc") - pl.col("free"), n=pl.lit(1.0)
    )
    asks_stars = bool(tests[0]["stars_trained"].any() and tests[0]["stars"].count())
    stars = _estimate(_star_advantage(tests, guesses, targets), keys) if asks_stars else None
    return Claim(
        [
            Condition("swap_gap", _estimate(gap, keys)),
            Condition("author", _estimate(ranks, keys)),
            Condition("rating", stars),
        ]
    )


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
