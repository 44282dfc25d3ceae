"""Intervals that respect that the reviews of one user are alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

RESAMPLES = 10_000
CHUNK = 500


def bootstrap_ratio(
    numerator: npt.NDArray[np.float64], denominator: npt.NDArray[np.float64], seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of sum(numerator) / sum(denominator), resampling users.

    Args:
        numerator, denominator: one sum a user, `[users]`.
    """
    rng = np.random.default_rng(seed)
    n = len(numerator)
    ratios = []
    for start in range(0, RESAMPLES, CHUNK):
        chosen = rng.integers(0, n, (min(CHUNK, RESAMPLES - start), n))
        ratios.append(numerator[chosen].sum(1) / denominator[chosen].sum(1))
    low, high = np.quantile(np.concatenate(ratios), [0.025, 0.975])
    return float(low), float(high)


def nll_metrics(scores: pl.DataFrame, cohort: str) -> dict[str, float | int | list[float]]:
    """NLL per character and per token of a cohort, the first with its interval."""
    rows = scores.filter(pl.col("cohort") == cohort)
    users = rows.group_by("user_id", maintain_order=True).agg(pl.col("nll", "n_characters").sum())
    low, high = bootstrap_ratio(users["nll"].to_numpy(), users["n_characters"].cast(pl.Float64).to_numpy())
    nll = float(users["nll"].to_numpy().sum())
    return {
        "targets": rows.height,
        "users": users.height,
        "nll_per_character": nll / int(rows["n_characters"].sum()),
        "nll_per_character_95": [low, high],
        "nll_per_token": nll / int(rows["n_tokens"].sum()),
    }


def paired_difference(scores: pl.DataFrame, reference: pl.DataFrame, cohort: str) -> tuple[float, float, float]:
    """NLL per character of `scores` less that of `reference` on the same targets, with its 95 % interval.

    Both are resampled together, by user.
    """
    both = scores.filter(pl.col("cohort") == cohort).join(
        reference.select("interaction_id", reference="nll"), on="interaction_id", validate="1:1"
    )
    users = both.group_by("user_id", maintain_order=True).agg(
        difference=(pl.col("nll") - pl.col("reference")).sum(), characters=pl.col("n_characters").sum()
    )
    difference, characters = users["difference"].to_numpy(), users["characters"].cast(pl.Float64).to_numpy()
    return float(difference.sum() / characters.sum()), *bootstrap_ratio(difference, characters)
