"""Compare stages with each other, paired by target."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl

from persona.evaluation.metrics.authors import add_swap_gaps
from persona.evaluation.metrics.balance import add_balanced_gaps
from persona.evaluation.metrics.intervals import (
    Estimate,
    add_spread,
    codes,
    equivalent,
    estimate,
    estimate_columns,
    holm,
    shapley_weights,
    users_needed,
)
from persona.evaluation.metrics.users import user_effects, user_shares
from persona.evaluation.settings import UNTRAINED, Contrast

PARTS = ["profile", "history", "context"]
NLL = "nll"
NONE: Mapping[str, pl.DataFrame] = MappingProxyType({})


def compare(
    scores: dict[str, list[pl.DataFrame]], contrasts: list[Contrast], untrained: Mapping[str, pl.DataFrame] = NONE
) -> list[dict[str, Any]]:
    """Paired differences with intervals over users, items and the seeds of the training.

    The first contrast is the primary one, and its p-value is not adjusted. The p-values of the others are adjusted
    for multiple comparisons by Holm's method.

    Args:
        scores: by stage, one table of `schemas.SCORES` per seed.
        untrained: by stage, the scores of its model before any training.

    Returns:
        For each contrast its settings, the fields of its `Estimate`, and

        - `p_adjusted`, `primary`;
        - `equivalent`: whether the difference lies within `margin`; null without a margin or an interval;
        - `users_needed`: see `intervals.users_needed`;
        - `per_user`: see `users.user_shares`; a user is helped if the stage is better than the other one.
    """
    pairs = [(scores[c.stage], _against(c, scores, untrained)) for c in contrasts]
    differences = [
        difference(*pair, c.metric, fixed=c.against == UNTRAINED) for c, pair in zip(contrasts, pairs, strict=True)
    ]
    # A contrast that could not be computed (p is NaN) does not count as a comparison.
    numbers = [n for n, e in enumerate(differences) if n and np.isfinite(e.p)]
    adjusted = dict(zip(numbers, holm([differences[n].p for n in numbers]), strict=True))
    return [
        {
            **contrast.model_dump(),
            **value.as_json(),
            "p_adjusted": adjusted.get(n),
            "primary": n == 0,
            "equivalent": equivalent(value, contrast.margin),
            "users_needed": users_needed(value),
            "per_user": user_shares(better_by_user(*pair, contrast.metric)),
        }
        for n, (contrast, pair, value) in enumerate(zip(contrasts, pairs, differences, strict=True))
    ]


def _against(
    contrast: Contrast, scores: dict[str, list[pl.DataFrame]], untrained: Mapping[str, pl.DataFrame]
) -> list[pl.DataFrame]:
    return [untrained[contrast.stage]] if contrast.against == UNTRAINED else scores[contrast.against]


def difference(seeds: list[pl.DataFrame], against: list[pl.DataFrame], metric: str, fixed: bool = False) -> Estimate:
    """`metric` of a stage minus that of another one on the same test targets, in nats per character.

    With several seeds, values are averaged over them per target, and the spread between seeds is added to the variance:
    s^2 (1 / seeds + 1 / seeds of the other), with s^2 pooled over both stages, because each training is independent.
    With one seed each, the interval holds for these two trained models, not for other seeds.

    Args:
        seeds, against: one table of `schemas.SCORES` per seed.
        fixed: `against` is one model that was not trained, so it has no spread.
    """
    found = estimate_columns(_paired(seeds, against, metric), metric, "n_characters")
    trained = [seeds] if fixed else [seeds, against]
    df = sum(len(tables) - 1 for tables in trained)
    if not df or found.note:
        return found
    values = [np.array([_value(table, metric) for table in tables]) for tables in trained]
    pooled = sum(float(np.sum((v - v.mean()) ** 2)) for v in values) / df
    return add_spread(found, pooled * sum(1 / len(tables) for tables in trained), df)


def better_by_user(seeds: list[pl.DataFrame], against: list[pl.DataFrame], metric: str) -> pl.DataFrame:
    """By how much a stage is better than another one for each user; see `users.user_effects`.

    Above 0 the stage has the smaller NLL or the larger swap gap, in nats per character.
    """
    better = -1 if metric == NLL else 1
    return user_effects(_paired(seeds, against, metric).with_columns(pl.col(metric) * better), metric, "n_characters")


def swap_gap_by_user(scores: pl.DataFrame) -> pl.DataFrame:
    """The swap gap of each user, in nats per character; see `users.user_effects`."""
    return user_effects(per_target(scores, "swap_gap"), "swap_gap", "n_characters")


def _paired(seeds: list[pl.DataFrame], against: list[pl.DataFrame], metric: str) -> pl.DataFrame:
    """The difference of each target, as the column `metric`."""
    one, other = (per_target(mean_of_seeds(tables), metric) for tables in (seeds, against))
    both = one.join(other.select("interaction_id", other=metric), on="interaction_id", validate="1:1")
    return both.sort("user_id", "interaction_id").with_columns(pl.col(metric) - pl.col("other"))


def _value(scores: pl.DataFrame, metric: str) -> float:
    rows = per_target(scores, metric)
    return float(rows[metric].sum()) / float(rows["n_characters"].sum())


def per_target(scores: pl.DataFrame, metric: str) -> pl.DataFrame:
    """`metric` of the test targets in nats per target, and what intervals need; swap gaps are balanced."""
    test = add_swap_gaps(scores.filter(pl.col("cohort") == "test"))
    if metric == "swap_gap":
        test = add_balanced_gaps(test).with_columns(swap_gap="swap_gap_balanced")
    return test.select("interaction_id", "user_id", "item_id", "n_characters", metric).drop_nulls(metric)


def shapley(scores: dict[frozenset[str], pl.DataFrame]) -> dict[str, dict[str, Any]]:
    """How much each part of the prompt lowers the NLL, in nats per character: its Shapley value with interval.

    Args:
        scores: `schemas.SCORES` by combination of `PARTS`, all eight, of models that differ in nothing else.
    """
    sets = list(scores)
    tables = [per_target(scores[s], NLL).sort("user_id", "interaction_id") for s in sets]
    values = {s: -table[NLL].to_numpy() for s, table in zip(sets, tables, strict=True)}
    characters = tables[0]["n_characters"].cast(pl.Float64).to_numpy()
    users, items = codes(tables[0]["user_id"]), codes(tables[0]["item_id"])
    shares = {}
    for part, weights in shapley_weights(PARTS).items():
        share = sum((weight * values[chosen] for chosen, weight in weights.items()), np.zeros(len(characters)))
        shares[part] = estimate(np.column_stack([share, characters]), users, items).as_json()
    return shares


def mean_of_seeds(seeds: list[pl.DataFrame]) -> pl.DataFrame:
    """The likelihoods of one recipe trained from several seeds, averaged per target.

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
