"""Curves that two languages share."""

from __future__ import annotations

from persona.reporting.evidence import Evidence


def test_author_curves_leave_out_small_groups_and_are_computed_once(evidence: Evidence) -> None:
    curves = evidence.author_curves
    assert [name for name, _ in curves] == ["quick", "history", None]
    # Users have 0, 1 or 2 earlier texts: 14, 13 and 13 of them.
    assert list(curves[1][1]) == [0, 1, 2] and curves[1][1][0].value == 1.0
    assert evidence.author_curves is curves


def test_two_stages_have_no_shapley_values(evidence: Evidence) -> None:
    assert evidence.shapley == {}
