"""Curves that two languages share."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import numpy as np
import polars as pl
import pytest

from persona.entries.settings import HistorySettings
from persona.evaluation.comparison import PARTS
from persona.evaluation.metrics.intervals import estimate, ratio
from persona.reporting.evidence import Evidence, note_in_both
from persona.reporting.stages import shapley_values


def test_author_curves_leave_out_small_groups_and_are_computed_once(evidence: Evidence) -> None:
    curves = evidence.author_curves
    assert [name for name, _ in curves] == ["quick", "history", None]
    # Users have 0, 1 or 2 earlier texts: 14, 13 and 13 of them.
    assert list(curves[1][1]) == [0, 1, 2] and curves[1][1][0].value == 1.0
    assert evidence.author_curves is curves


def test_two_stages_have_no_shapley_values(evidence: Evidence) -> None:
    assert evidence.shapley == {}


def test_a_control_has_no_part_in_shapley_values(evidence: Evidence) -> None:
    """Eight stages in which the history alone helps, and before them the same ones with another user's history."""
    own, control = HistorySettings(), HistorySettings(select="other_user")
    stages = []
    for history in (control, own):
        for parts in (frozenset(s) for size in range(4) for s in combinations(PARTS, size)):
            gain = 2.0 * ("history" in parts) * (history == own)
            rows = evidence.stages[0].scores.with_columns(pl.col("nll") - gain)
            if "history" in parts or history == own:
                stages.append(dataclasses.replace(evidence.stages[0], parts=parts, history=history, scores=rows))
    found = shapley_values(list(reversed(stages)))
    assert {part: value["value"] for part, value in found.items()} == pytest.approx(
        {"profile": 0.0, "history": 0.2, "context": 0.0}
    )


@pytest.mark.parametrize("users", [0, 1, 3])
@pytest.mark.parametrize("items", [1, 3, 30])
def test_every_reason_for_no_interval_has_chinese_words(users: int, items: int) -> None:
    n = 30 * users
    ids = np.arange(n)
    note = estimate(np.ones((n, 2)), ids % max(users, 1), ids % items, ratio).note
    assert note and note_in_both(note)[0] == note and note_in_both(note)[1].startswith("无区间")
