"""Hashes are the published functions, depend on the seed, and are uniform."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import polars as pl
import pytest

from persona.seeded_hash import hash64_series, id_priority, mix64, uniform


def test_texts_are_hashed_by_blake2b_in_their_order() -> None:
    values = ["b", "好", "b", ""]
    expected = [int.from_bytes(blake2b(value.encode(), digest_size=8).digest(), "big") for value in values]
    assert hash64_series(pl.Series(values)).tolist() == expected


def splitmix64(state: int) -> int:
    """The output function of SplitMix64 with integers of Python."""
    mask = 2**64 - 1
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
    return state ^ (state >> 31)


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_integers_are_mixed_by_splitmix64(seed: int) -> None:
    values = [0, 1, 2**63, 2**64 - 1]
    expected = [splitmix64((value + 0x9E3779B97F4A7C15 * (2 * seed + 1)) % 2**64) for value in values]
    assert mix64(np.array(values, dtype=np.uint64), seed).tolist() == expected


def test_the_first_output_of_splitmix64_is_the_published_one() -> None:
    assert mix64(np.zeros(1, dtype=np.uint64), 0).tolist() == [0xE220A8397B1DCDAF]


def test_priorities_depend_on_id_and_seed_alone() -> None:
    ids = pl.Series(range(1000), dtype=pl.Int64)
    priorities = id_priority(ids, 3)
    assert id_priority(ids.reverse(), 3).reverse().equals(priorities)
    assert priorities.n_unique() == 1000
    assert not id_priority(ids, 4).equals(priorities)


def test_uniform_numbers_fill_the_unit_interval() -> None:
    numbers = uniform(np.arange(100_000, dtype=np.uint64), seed=5)
    assert numbers.min() >= 0 and numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=10, range=(0, 1))
    assert np.abs(counts - 10_000).max() < 500
