"""Compare stages with each other, paired by target."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from persona.evaluation.metrics.authors import add_swap_gaps
from persona.evaluation.metrics.bootstrap import Estimate, codes, estimate, estimate_columns, holm, shapley_weights
from persona.evaluation.settings import Contrast

PARTS = ["profile", "history", "context"]
NLL = "nll"


def compare(scores: dict[str, pl.DataFrame], contrasts: list[Contrast]) -> list[dict[str, Any]]:
    """Paired differences with intervals over users and items.

    The first contrast is the primary one, and its p-value is not adjusted. The p-values of the others are adjusted
    for multiple comparisons by Holm's method.

    Args:
        scores: `schemas.SCORES` by stage.
    """
    differences = [difference(scores[c.stage], scores[c.against], c.metric) for c in contrasts]
    # A contrast that could not be computed (p is NaN) does not count as a comparison.
    numbers = [n for n, e in enumerate(differences) if n and np.isfinite(e.p)]
    adjusted = dict(zip(numbers, holm([differences[n].p for n in numbers]), strict=True))
    return [
        {**contrast.model_dump(), **value.as_json(), "p_adjusted": adjusted.get(n), "primary": n == 0}
        for n, (contrast, value) in enumerate(zip(contrasts, differences, strict=True))
    ]


def difference(scores: pl.DataFrame, against: pl.DataFrame, metric: str) -> Estimate:
    """`metric` of `scores` minus that of `against` on the same test targets, in nats per character.

    Users and items are resampled, because there may be few items, and they differ.
    """
    both = _per_target(scores, metric).join(_per_target(against, metric), on="interaction_id", validate="1:1")
    both = both.sort("user_id", "interaction_id").with_columns(pl.col(metric) - pl.col(f"{metric}_right"))
    return estimate_columns(both, metric, "n_characters", items=True)


def _per_target(scores: pl.DataFrame, metric: str) -> pl.DataFrame:
    test = add_swap_gaps(scores.filter(pl.col("cohort") == "test"))
    return test.select("interaction_id", "user_id", "item_id", "n_characters", metric).drop_nulls(metric)


def shapley(scores: dict[frozenset[str], pl.DataFrame]) -> dict[str, dict[str, Any]]:
    """How much each part of the prompt lowers the NLL, in nats per character: its Shapley value with interval.

    Args:
        scores: `schemas.SCORES` by combination of `PARTS`, all eight, of models that differ in nothing else.
    """
    sets = list(scores)
    tables = [_per_target(scores[s], NLL).sort("user_id", "interaction_id") for s in sets]
    values = {s: -table[NLL].to_numpy() for s, table in zip(sets, tables, strict=True)}
    characters = tables[0]["n_characters"].cast(pl.Float64).to_numpy()
    users, items = codes(tables[0]["user_id"]), codes(tables[0]["item_id"])
    shares = {}
    for part, weights in shapley_weights(PARTS).items():
        share = sum((weight * values[chosen] for chosen, weight in weights.items()), np.zeros(len(characters)))
        shares[part] = asdict(estimate(np.column_stack([share, characters]), users, items=items))
    return shares


def mean_of_seeds(seeds: list[pl.DataFrame]) -> pl.DataFrame:
    """The likelihoods of one recipe trained from several seeds, averaged per target before any resampling.

    Star probabilities are those of the first seed: their mean would be an ensemble, which is a better model.
    """
    tables = [table.sort("interaction_id") for table in seeds]
    columns = ["nll", "nll_impostors", "nll_empty"]
    return tables[0].with_columns(_mean_column([table[column] for table in tables]) for column in columns)


def _mean_column(columns: list[pl.Series]) -> pl.Series:
    if columns[0].dtype != pl.List(pl.Float64):
        return pl.Series(columns[0].name, sum(columns[1:], columns[0]) / len(columns))
    lists = [
        None if parts[0] is None else np.mean(parts, axis=0).tolist()
        for parts in zip(*(column.to_list() for column in columns), strict=True)
    ]
    return pl.Series(columns[0].name, lists, dtype=pl.List(pl.Float64))
