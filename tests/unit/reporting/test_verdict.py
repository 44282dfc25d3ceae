"""The sentences of the verdict, case by case."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from persona.reporting.evidence import Evidence
from persona.reporting.verdict import verdict


def test_the_verdict_names_what_is_personal_and_what_is_better(evidence: Evidence) -> None:
    personal, primary = verdict(evidence)
    assert personal[0] == "1 of 2 stages can be said to write like a particular user: history."
    assert primary[0].startswith("In the primary comparison history is better than quick (difference in swap gap: +0.2")
    assert primary[1].startswith("主要对比中，history 优于 quick（换人似然差相差 +0.2")
    none = verdict(dataclasses.replace(evidence, stages=evidence.stages[:1]))
    assert none[0][0].startswith("None of the 1 stages can be said to write like a particular user")


def test_the_verdict_names_a_baseline_that_is_better_than_every_stage(evidence: Evidence) -> None:
    better = evidence.baselines | {"tfidf_authors": {"acc": {"value": 0.999}}}
    sentences = verdict(dataclasses.replace(evidence, stages=evidence.stages[:1], baselines=better))
    own = evidence.stages[0].metrics["likelihood"]["acc"]["value"]
    assert f"in author found (character TF-IDF 0.999, best stage {own:.3f})" in sentences[2][0]
    assert f"认出作者（字符 TF-IDF 0.999，最好的阶段 {own:.3f}）" in sentences[2][1]


@pytest.mark.parametrize(
    ("metric", "low", "high", "expected"),
    [
        ("nll", -0.2, -0.1, "a is better than b"),
        ("nll", 0.1, 0.2, "a is worse than b"),
        ("swap_gap", -0.2, -0.1, "a is worse than b"),
        ("swap_gap", -0.1, 0.1, "a is not distinguishable from b"),
        ("swap_gap", None, None, "comparison of a with b has no interval"),
    ],
)
def test_a_smaller_nll_and_a_larger_swap_gap_are_better(
    evidence: Evidence, metric: str, low: float | None, high: float | None, expected: str
) -> None:
    contrast: dict[str, Any] = {"stage": "a", "against": "b", "metric": metric, "value": 0.0, "low": low, "high": high}
    assert expected in verdict(dataclasses.replace(evidence, contrasts=[contrast]))[1][0]


def test_without_contrasts_the_best_stage_is_named(evidence: Evidence) -> None:
    assert (
        "The stage with the smallest test NLL is history" in verdict(dataclasses.replace(evidence, contrasts=[]))[1][0]
    )
