"""Metrics of one model from rows small enough to compute by hand."""

from __future__ import annotations

import polars as pl
import pytest

from persona.evaluation.metrics.summary import copy_metrics, likelihood_metrics, subgroup_metrics, text_metrics


def scored(nll: list[float]) -> pl.DataFrame:
    """Two test targets and one val target of three users, one impostor each."""
    return pl.DataFrame(
        {
            "interaction_id": [1, 2, 3],
            "user_id": ["a", "b", "c"],
            "item_id": ["x", "x", "y"],
            "cohort": ["test", "test", "val"],
            "n_characters": [10, 30, 5],
            "nll": nll,
            "impostor_ids": [[2], [1], None],
            "nll_impostors": [[nll[0] + 4.0], [nll[1] + 2.0], None],
            "nll_empty": [30.0, 50.0, None],
        },
        schema_overrides={"nll_impostors": pl.List(pl.Float64)},
    )


def test_likelihoods_are_per_character_of_the_cohort() -> None:
    metrics = likelihood_metrics([scored([20.0, 40.0, 5.0])], candidates=2)
    assert metrics["nll"]["value"] == 60 / 40
    assert metrics["val_nll"]["value"] == 1.0
    assert metrics["swap_gap"]["value"] == 6 / 40
    assert metrics["format_gap"]["value"] == (30 - 24 + 50 - 42) / 40
    assert metrics["acc"]["value"] == 1.0


def test_likelihoods_are_averaged_over_seeds() -> None:
    metrics = likelihood_metrics([scored([20.0, 40.0, 5.0]), scored([10.0, 40.0, 5.0])], candidates=2)
    assert metrics["nll"]["value"] == 55 / 40


def test_subgroups_are_measured_by_themselves() -> None:
    """Twelve targets in blocks of two: with history, conversations for half of each block; the gap is 1 or 3 nats."""
    ids = list(range(24))
    targets = pl.DataFrame(
        {
            "interaction_id": ids,
            "cohort": ["test"] * 24,
            "n_history": [n // 12 for n in ids],
            "n_context": [n % 2 for n in ids],
        }
    )
    scores = pl.DataFrame(
        {
            "interaction_id": ids,
            "user_id": [f"u{n:02}" for n in ids],
            "item_id": "x",
            "cohort": "test",
            "n_characters": 10,
            "nll": 20.0,
            "impostor_ids": [[n ^ 1] for n in ids],
            "nll_impostors": [[20.0 + (3.0 if n % 2 else -1.0)] for n in ids],
            "nll_empty": 30.0,
        }
    )
    found = subgroup_metrics([scores], targets, 2)
    assert {
        name: (each["targets"], each["swap_gap"]["value"], each["acc"]["value"]) for name, each in found.items()
    } == {
        "with_history": (12, 0.1, 0.5),
        "without_history": (12, 0.1, 0.5),
        "with_context": (12, 0.3, 1.0),
        "without_context": (12, -0.1, 0.0),
    }
    assert set(found["with_history"]) == {"targets", "nll", "swap_gap", "acc"}
    # Nine targets are too few, and all are no subgroup.
    few = targets.with_columns(n_history=(pl.col("interaction_id") < 9).cast(pl.Int32), n_context=pl.lit(0))
    assert set(subgroup_metrics([scores], few, 2)) == {"without_history"}


def test_overlap_lies_between_the_floor_and_the_ceiling() -> None:
    targets = pl.DataFrame(
        {"interaction_id": [1], "user_id": ["a"], "item_id": ["x"], "text": ["abcd"],
         "floor_text": ["axyz"], "ceiling_text": ["abcd"]}
    )  # fmt: skip
    written = pl.DataFrame({"interaction_id": [1], "user_id": ["a"], "item_id": ["x"], "text": ["abxy"]})
    metrics = text_metrics(written, targets)
    assert metrics["rouge_l"]["value"] == pytest.approx(0.5)
    assert (metrics["rouge_l_floor"], metrics["rouge_l_ceiling"]) == pytest.approx((0.25, 1.0))
    assert metrics["rouge_l_normalised"] == pytest.approx(1 / 3)
    equal = text_metrics(written, targets.with_columns(floor_text=pl.col("ceiling_text")))
    assert "rouge_l_normalised" not in equal


def test_copies_are_counted_in_the_training_texts_and_in_the_prompt() -> None:
    generations = pl.DataFrame({"interaction_id": [1, 2], "text": ["abc", "xyz!"]})
    targets = pl.DataFrame({"interaction_id": [1, 2], "text": ["q", "abd"]})
    prompts = pl.DataFrame({"interaction_id": [1, 2], "prompt": ["bc", "none"]})
    metrics = copy_metrics(generations, targets, prompts, ["abc", "xy"])
    assert metrics["generated"]["exact"] == 0.5
    assert metrics["generated"]["longest_from_training"] == 2.5
    assert metrics["generated"]["longest_from_prompt"] == 1.0
    assert (metrics["generated"]["length"], metrics["real"]["length"]) == (3.5, 2.0)
