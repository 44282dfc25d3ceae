"""Curves that two languages share."""

from __future__ import annotations

import numpy as np
import pytest

from persona.evaluation.metrics.intervals import estimate, ratio
from persona.reporting.evidence import Evidence, note_in_both


def test_author_curves_leave_out_small_groups_and_are_computed_once(evidence: Evidence) -> None:
    curves = evidence.author_curves
    assert [name for name, _ in curves] == ["quick", "history", None]
    # Users have 0, 1 or 2 earlier texts: 14, 13 and 13 of them.
    assert list(curves[1][1]) == [0, 1, 2] and curves[1][1][0].value == 1.0
    assert evidence.author_curves is curves


def test_two_stages_have_no_shapley_values(evidence: Evidence) -> None:
    assert evidence.shapley == {}


@pytest.mark.parametrize("users", [0, 1, 3])
@pytest.mark.parametrize("items", [1, 3, 30])
def test_every_reason_for_no_interval_has_chinese_words(users: int, items: int) -> None:
    n = 30 * users
    ids = np.arange(n)
    note = estimate(np.ones((n, 2)), ids % max(users, 1), ids % items, ratio).note
    assert note and note_in_both(note)[0] == note and note_in_both(note)[1].startswith("无区间")
