"""When personalisation may be claimed."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from persona.evaluation.claims import Claim, claim


def judged(gap: float, right: bool, star: float, targets: pl.DataFrame) -> Claim:
    """The claim of a model that has some swap gap, finds every author or none, and expects one star for all."""
    n = targets.height
    own = np.full(n, 10.0)
    probabilities = [[0.0] * (int(star) - 1) + [1.0] + [0.0] * (5 - int(star))] * n
    scored = targets.select("interaction_id", "user_id", "item_id", cohort=pl.lit("test")).with_columns(
        n_characters=pl.lit(10),
        nll=pl.Series(own),
        impostor_ids=targets["others"],
        nll_impostors=pl.Series(
            [[10.0 + gap * (1 if right else -1)] * len(others) for others in targets["others"]],
            dtype=pl.List(pl.Float64),
        ),
        nll_empty=pl.Series(own),
        stars=pl.Series(probabilities, dtype=pl.List(pl.Float64)),
    )
    authors = scored.select("interaction_id", "user_id", "impostor_ids", nll=pl.lit(0.0)).with_columns(
        nll_impostors=pl.Series([[0.0] * len(others) for others in targets["others"]], dtype=pl.List(pl.Float64))
    )
    guesses = targets.select("interaction_id", method=pl.lit("damped_bias"), rating=pl.lit(3.0))
    return claim([scored], authors, guesses, targets, 10)


@pytest.mark.parametrize(
    ("gap", "right", "star", "holds"),
    [
        (1.0, True, 5, [True, True, True]),
        (1.0, False, 5, [False, False, True]),
        (0.0, True, 5, [False, False, True]),  # nothing is told apart: chance, as the baseline
        (1.0, True, 3, [True, True, False]),  # as good as the baseline is not better
    ],
)
def test_personalisation_is_claimed_by_three_conditions(
    gap: float, right: bool, star: float, holds: list[bool], hundred: pl.DataFrame
) -> None:
    found = judged(gap, right, star, hundred)
    assert [condition.holds for condition in found.conditions] == holds
    assert found.allowed is all(holds)


def test_without_stars_or_without_enough_impostors(hundred: pl.DataFrame) -> None:
    no_stars = judged(1.0, True, 5, hundred.with_columns(rating=pl.lit(None, dtype=pl.Float64)))
    assert [condition.name for condition in no_stars.conditions] == ["swap_gap", "author"] and no_stars.allowed
    lonely = hundred.with_columns(others=pl.col("others").list.head(2))
    few = judged(1.0, True, 5, lonely)
    assert few.conditions[1].holds is None and not few.allowed


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_of_few_targets_the_claim_cannot_be_computed(n: int, hundred: pl.DataFrame) -> None:
    few = hundred.head(n).with_columns(others=pl.col("others").list.set_intersection(list(range(n))))
    found = judged(1.0, True, 5, few)
    assert not found.allowed and [condition.holds for condition in found.conditions] == [None] * len(found.conditions)
    assert all(condition.advantage.note for condition in found.conditions)
