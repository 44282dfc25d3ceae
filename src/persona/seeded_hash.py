"""Reproducible pseudo-random numbers, computed from ids and a seed.

All random choices of the data steps are hashes of an id and a seed. So they do not depend on the order of rows or
files, on threads, or on how the rows are sorted.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import polars as pl

UInt64Array = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def hash64_series(values: pl.Series) -> UInt64Array:
    """Hash every text of a column with BLAKE2b to an unsigned integer of 64 bits; each distinct text is hashed once."""
    unique = values.unique()
    digests = b"".join([blake2b(value.encode(), digest_size=8).digest() for value in unique.to_list()])
    table = pl.DataFrame({"value": unique, "hash": np.frombuffer(digests, dtype=">u8").astype(np.uint64)})
    return values.to_frame("value").join(table, on="value", how="left", maintain_order="left")["hash"].to_numpy()


def mix64(values: UInt64Array, seed: int) -> UInt64Array:
    """Mix integers with a seed by the output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        z = values.astype(np.uint64) + _GOLDEN * np.uint64(2 * seed + 1)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def id_priority(ids: pl.Series, seed: int) -> pl.Series:
    """A pseudo-random 64-bit number for each integer id, which depends only on the id and the seed."""
    return pl.Series("priority", mix64(ids.cast(pl.UInt64).to_numpy(), seed))


def uniform(values: UInt64Array, seed: int) -> npt.NDArray[np.float64]:
    """Pseudo-random numbers in [0, 1) for 64-bit hashes and a seed (the upper 53 bits of `mix64`)."""
    return (mix64(values, seed) >> np.uint64(11)).astype(np.float64) * 2.0**-53
