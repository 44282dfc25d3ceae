"""Sizes and durations in text."""

from __future__ import annotations

import pytest

from persona.units import clock, human_size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_345, "12 kB"),
        (9_900_000, "9.9 MB"),
        (3e9, "3.0 GB"),
        (2.5e15, "2,500.0 TB"),
    ],
)
def test_sizes_have_decimal_units(size: float, text: str) -> None:
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3_661, "1:01:01"), (100 * 3600, "100:00:00")]
)
def test_durations_are_hours_minutes_seconds(seconds: float, text: str) -> None:
    assert clock(seconds) == text
