"""Stages against each other, target by target on the same targets."""

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
    """Paired differences with intervals over users and films. The first contrast is the primary one and stands alone.

    The p-values of the others are adjusted for their number by Holm's method.

    Args:
        scores: `schemas.SCORES` by stage.
    """
    found = [difference(scores[c.stage], scores[c.against], c.metric) for c in contrasts]
    # What could not be computed (p is NaN) has no share in the number of comparisons.
    numbers = [n for n, e in enumerate(found) if n and np.isfinite(e.p)]
    adjusted = dict(zip(numbers, holm([found[n].p for n in numbers]), strict=True))
    return [
        {**contrast.model_dump(), **value.as_json(), "p_adjusted": adjusted.get(n), "primary": n == 0}
        for n, (contrast, value) in enumerate(zip(contrasts, found, strict=True))
    ]


def difference(scores: pl.DataFrame, against: pl.DataFrame, metric: str) -> Estimate:
    """`metric` of `scores` less that of `against` on the same test targets, in nats a character.

    Users and films are drawn: there are few films, and they differ.
    """
    both = _per_target(scores, metric).join(_per_target(against, metric), on="interaction_id", validate="1:1")
    both = both.sort("user_id", "interaction_id").with_columns(pl.col(metric) - pl.col(f"{metric}_right"))
    return estimate_columns(both, metric, "n_characters", films=True)


def _per_target(scores: pl.DataFrame, metric: str) -> pl.DataFrame:
    test = add_swap_gaps(scores.filter(pl.col("cohort") == "test"))
    return test.select("interaction_id", "user_id", "item_id", "n_characters", metric).drop_nulls(metric)


def shapley(scores: dict[frozenset[str], pl.DataFrame]) -> dict[str, dict[str, Any]]:
    """What each part of the prompt lowers the NLL by, in nats a character, over all orders of adding it.

    Args:
        scores: by combination of `PARTS`, all eight of them, of models that differ in nothing else.
    """
    sets = list(scores)
    tables = [_per_target(scores[s], NLL).sort("user_id", "interaction_id") for s in sets]
    values = {s: -table[NLL].to_numpy() for s, table in zip(sets, tables, strict=True)}
    characters = tables[0]["n_characters"].cast(pl.Float64).to_numpy()
    users, items = codes(tables[0]["user_id"]), codes(tables[0]["item_id"])
    found = {}
    for part, weights in shapley_weights(PARTS).items():
        share = sum((weight * values[chosen] for chosen, weight in weights.items()), np.zeros(len(characters)))
        found[part] = asdict(estimate(np.column_stack([share, characters]), users, items=items))
    return found


def mean_of_seeds(seeds: list[pl.DataFrame]) -> pl.DataFrame:
    """The likelihoods of one recipe trained from several seeds, averaged target by target before anything is resampled.

    Star probabilities stay those of the first: their mean would be another, better model's.
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
