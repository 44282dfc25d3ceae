"""Ranges of user ids, for processing large tables in parts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import polars as pl

from persona.tables.parquet import read_parts
from persona.tables.schemas import TableSchema

ID_DIGITS = 16


def parse_bucket(name: str) -> tuple[int, int]:
    """Parse the name of a bucket: `3-of-8` is the third of 8 equal parts of the users, (3, 8)."""
    k, m = name.split("-of-")
    return int(k), int(m)


def read_buckets(paths: list[Path], table_schema: TableSchema) -> Iterator[pl.DataFrame]:
    """Read the tables of all buckets in the order of the users, a part at a time.

    Args:
        paths: one table per bucket, named after it, `3-of-8.parquet`.
    """
    for path in sorted(paths, key=lambda path: parse_bucket(path.stem)):
        yield from read_parts(path, table_schema, 4 * table_schema.row_group_size)


def user_ranges(n: int, within: tuple[int, int] = (1, 1)) -> list[tuple[str, str]]:
    """Cut a bucket of the users into `n` ranges of ids [low, high), in order.

    Args:
        within: (k, m): the bucket, the k-th of m equal parts of all possible ids; by default all of them.
    """
    k, m = within
    space = 16**ID_DIGITS
    edges = [space * ((k - 1) * n + i) // (m * n) for i in range(n + 1)]
    # Hexadecimal digits sort before `g`.
    names = [f"{edge:0{ID_DIGITS}x}" if edge < space else "g" for edge in edges]
    return list(pairwise(names))
