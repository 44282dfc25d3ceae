"""When personalisation may be claimed."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from persona.evaluation.claims import Claim, claim


def judged(gap: float, right: bool, star: float, targets: pl.DataFrame, stars_trained: bool = True) -> Claim:
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
        stars_trained=pl.lit(stars_trained),
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


def test_stars_are_asked_for_where_they_were_trained(hundred: pl.DataFrame) -> None:
    probed = judged(1.0, True, 3, hundred, stars_trained=False)
    assert [condition.mark for condition in probed.conditions] == ["✓", "✓", "–"] and probed.allowed
    trained = judged(1.0, True, 3, hundred)
    assert [condition.mark for condition in trained.conditions] == ["✓", "✓", "✗"] and not trained.allowed


def test_without_enough_impostors_nothing_is_claimed(hundred: pl.DataFrame) -> None:
    few = judged(1.0, True, 5, hundred.with_columns(others=pl.col("others").list.head(2)))
    assert few.conditions[1].holds is None and few.conditions[1].mark == "·" and not few.allowed


def test_targets_without_history_decide_nothing(hundred: pl.DataFrame) -> None:
    """A model that is right about them alone has learned nothing of its users."""
    mixed = hundred.with_columns(n_history=pl.Series([0, 1] * 50, dtype=pl.Int32))
    with_history = mixed["n_history"] > 0
    scored = judged(1.0, True, 5, mixed)
    assert (
        scored.conditions[0].advantage is not None
        and scored.conditions[0].advantage.users == mixed.filter(with_history)["user_id"].n_unique()
    )
    none = judged(1.0, True, 5, hundred.with_columns(n_history=pl.lit(0, pl.Int32)))
    assert not none.allowed and none.conditions[0].mark == "·"


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_of_few_targets_the_claim_cannot_be_computed(n: int, hundred: pl.DataFrame) -> None:
    few = hundred.head(n).with_columns(others=pl.col("others").list.set_intersection(list(range(n))))
    found = judged(1.0, True, 5, few)
    assert not found.allowed and [condition.holds for condition in found.conditions] == [None] * len(found.conditions)
    assert all(condition.advantage.note for condition in found.conditions if condition.advantage)
