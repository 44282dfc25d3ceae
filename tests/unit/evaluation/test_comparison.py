"""Paired differences, adjusted p-values and Shapley values of stages."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import polars as pl
import pytest

from persona.evaluation.comparison import NLL, PARTS, compare, difference, mean_of_seeds, shapley
from persona.evaluation.settings import Contrast


def scores(shift: float, gap: float = 1.0, n: int = 60) -> pl.DataFrame:
    """Ten characters per target; `shift` is added to every NLL."""
    nll = np.random.default_rng(0).normal(20, 3, n) + shift
    return pl.DataFrame(
        {
            "interaction_id": range(n),
            "user_id": [f"u{i // 2:02}" for i in range(n)],
            "item_id": [f"i{i % 5}" for i in range(n)],
            "cohort": "test",
            "n_characters": 10,
            "nll": nll,
            "nll_impostors": [[value + gap] for value in nll],
            "nll_empty": nll + 2,
        }
    )


def test_a_difference_is_paired_by_target() -> None:
    value = difference(scores(-5.0), scores(0.0).reverse(), NLL)
    assert (value.value, value.low, value.high) == pytest.approx((-0.5, -0.5, -0.5))
    assert difference(scores(0.0, gap=3.0), scores(0.0), "swap_gap").value == pytest.approx(0.2)


def test_the_primary_contrast_is_not_adjusted_and_what_cannot_be_computed_does_not_count() -> None:
    tables = {"a": scores(0.0), "b": scores(-5.0), "empty": scores(0.0).with_columns(nll_impostors=None)}
    tables["empty"] = tables["empty"].with_columns(pl.col("nll_impostors").cast(pl.List(pl.Float64)))
    same = Contrast(stage="b", against="a", metric="nll")
    contrasts = [same, same, Contrast(stage="empty", against="a", metric="swap_gap")]
    first, second, third = compare(tables, contrasts)
    assert first["primary"] and first["p_adjusted"] is None
    assert second["p_adjusted"] == pytest.approx(second["p"])  # the only comparison besides the primary one
    assert third["value"] is None and third["p_adjusted"] is None


def test_shapley_values_add_up_to_the_whole_gain() -> None:
    subsets = chain.from_iterable(combinations(PARTS, size) for size in range(len(PARTS) + 1))
    worth = {"profile": 1.0, "history": 4.0, "context": 0.0}
    tables = {frozenset(s): scores(-sum(worth[part] for part in s)) for s in subsets}
    values = shapley(tables)
    assert {part: value["value"] for part, value in values.items()} == pytest.approx(
        {part: gain / 10 for part, gain in worth.items()}
    )


def test_seeds_are_averaged_per_target_but_not_their_stars() -> None:
    stars = pl.Series([[0.2] * 5] * 60)
    seeds = [
        scores(0.0).with_columns(stars=stars),
        scores(2.0).with_columns(stars=pl.Series([[0.1] * 5] * 60)).reverse(),
    ]
    mean = mean_of_seeds(seeds)
    assert mean["nll"].to_list() == pytest.approx((seeds[0]["nll"] + 1).to_list())
    assert mean["nll_impostors"].list.first().to_list() == pytest.approx((seeds[0]["nll"] + 2).to_list())
    assert mean["stars"].to_list() == stars.to_list()
