"""Paired differences, adjusted p-values and Shapley values of stages."""

from __future__ import annotations

from itertools import chain, combinations
from typing import Literal

import numpy as np
import polars as pl
import pytest

from persona.evaluation.comparison import NLL, PARTS, compare, difference, mean_of_seeds, shapley
from persona.evaluation.settings import Contrast

METRICS: list[Literal["nll", "swap_gap"]] = ["nll", "swap_gap"]


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
            "impostor_ids": [[(i + n // 2) % n] for i in range(n)],
            "nll_impostors": [[value + gap] for value in nll],
            "nll_empty": nll + 2,
        }
    )


def test_a_difference_is_paired_by_target() -> None:
    value = difference([scores(-5.0)], [scores(0.0).reverse()], NLL)
    assert (value.value, value.low, value.high) == pytest.approx((-0.5, -0.5, -0.5))
    assert difference([scores(0.0, gap=3.0)], [scores(0.0)], "swap_gap").value == pytest.approx(0.2)


def test_the_primary_contrast_is_not_adjusted_and_what_cannot_be_computed_does_not_count() -> None:
    tables = {"a": scores(0.0), "b": scores(-5.0), "empty": scores(0.0).with_columns(nll_impostors=None)}
    tables["empty"] = tables["empty"].with_columns(pl.col("nll_impostors").cast(pl.List(pl.Float64)))
    same = Contrast(stage="b", against="a", metric="nll")
    contrasts = [same, same, Contrast(stage="empty", against="a", metric="swap_gap")]
    first, second, third = compare({name: [table] for name, table in tables.items()}, contrasts)
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


def seeded(rng: np.random.Generator, shift: float, seed_sd: float) -> list[pl.DataFrame]:
    """Three trainings: each has its own shift in nats, besides noise per target."""
    noise = rng.normal(0, 1.0, (3, 60)) + rng.normal(shift, seed_sd, (3, 1))
    return [scores(0.0).with_columns(nll=pl.col("nll") + pl.Series(values)) for values in noise]


def test_a_difference_of_several_seeds_includes_the_spread_between_them() -> None:
    rng = np.random.default_rng(0)
    one, other = seeded(rng, 1.0, 2.0), seeded(rng, 0.0, 2.0)
    found, single = difference(one, other, NLL), difference([mean_of_seeds(one)], [mean_of_seeds(other)], NLL)
    means = [np.array([table["nll"].sum() / 600 for table in tables]) for tables in (one, other)]
    spread = (means[0].var(ddof=1) + means[1].var(ddof=1)) / 3
    assert found.value == pytest.approx(single.value) == pytest.approx(means[0].mean() - means[1].mean())
    assert found.se == pytest.approx((single.se**2 + spread) ** 0.5)
    assert found.high - found.low > single.high - single.low and found.users_se == single.users_se
    # The spread of a recipe with several seeds is taken for the other's too.
    assert difference(one, other[:1], NLL).se ** 2 > means[0].var(ddof=1)


def test_with_three_seeds_chance_is_rarely_taken_for_a_difference() -> None:
    rng = np.random.default_rng(1)
    rounds = [(seeded(rng, 0.0, 0.5), seeded(rng, 0.0, 0.5)) for _ in range(100)]
    found = [difference(*pair, NLL) for pair in rounds]
    assert np.mean([e.p < 0.05 for e in found]) <= 0.1
    without = [difference([mean_of_seeds(a)], [mean_of_seeds(b)], NLL) for a, b in rounds]
    assert np.mean([e.p < 0.05 for e in without]) > 0.2


def test_a_contrast_says_what_it_found_for_users_and_within_the_margin() -> None:
    tables = {"a": [scores(0.0)], "b": seeded(np.random.default_rng(0), -5.0, 0.0)}
    wide, narrow, unnamed = compare(
        tables,
        [
            Contrast(stage="b", against="a", margin=1.0),
            Contrast(stage="b", against="a", margin=0.1),
            Contrast(stage="b", against="a"),
        ],
    )
    assert [c["equivalent"] for c in (wide, narrow, unnamed)] == [True, False, None]
    assert wide["per_user"]["helped"] == 1.0 and wide["per_user"]["users"] == 30  # a smaller NLL is better
    assert wide["users_needed"] < 30


def test_the_untrained_model_has_no_seeds_of_its_own() -> None:
    trained, untrained = seeded(np.random.default_rng(0), -5.0, 2.0), scores(0.0)
    [found] = compare({"b": trained}, [Contrast(stage="b", against="untrained")], {"b": untrained})
    single = difference([mean_of_seeds(trained)], [untrained], NLL)
    means = np.array([table["nll"].sum() / 600 for table in trained])
    assert found["value"] == pytest.approx(single.value)
    assert found["se"] == pytest.approx((single.se**2 + means.var(ddof=1) / 3) ** 0.5)


def test_few_users_have_differences_without_intervals() -> None:
    for n in (0, 1, 2, 4):
        tables = {name: [scores(shift).head(n)] for name, shift in (("a", 0.0), ("b", -1.0))}
        for found in compare(tables, [Contrast(stage="b", against="a", metric=metric) for metric in METRICS]):
            assert found["low"] is None and found["note"].startswith("no interval") and found["equivalent"] is None


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
