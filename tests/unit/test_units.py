"""Sizes as people read them."""

from __future__ import annotations

from persona.units import human_size


def test_sizes_are_those_of_disks() -> None:
    sizes = [human_size(n) for n in (0, 999, 1500, 61e9, 370e9, 1.5e12)]
    assert sizes == ["0 B", "999 B", "1.5 kB", "61 GB", "370 GB", "1.5 TB"]
