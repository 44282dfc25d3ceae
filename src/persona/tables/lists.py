"""Columns of lists, and the rows that they are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa


def as_lists(values: pl.Series | npt.NDArray[Any], counts: npt.NDArray[Any]) -> pl.Series:
    """Make a column of lists from their concatenated values and their lengths."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]))
    flat = values.to_arrow() if isinstance(values, pl.Series) else pa.array(values)
    return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(offsets, flat)))


def all_between(first: npt.NDArray[np.int64], end: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """All numbers from each first one to the one before its end, one range after the other."""
    counts = end - first
    return np.repeat(end - np.cumsum(counts), counts) + np.arange(counts.sum())
