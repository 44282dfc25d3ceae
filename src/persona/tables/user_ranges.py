"""Ranges of user ids, by which large tables are processed in parts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import polars as pl

from persona.tables.parquet import count_rows, read_table
from persona.tables.schemas import TableSchema

ID_DIGITS = 16


def parse_bucket(name: str) -> tuple[int, int]:
    """A part of the users by its name, `3-of-8`."""
    k, m = name.split("-of-")
    return int(k), int(m)


def read_buckets(paths: list[Path], table_schema: TableSchema) -> Iterator[pl.DataFrame]:
    """The rows of all parts of the users in their order, some users after the other.

    Args:
        paths: a table a part, each named as its part, `3-of-8.parquet`.
    """
    for path in sorted(paths, key=lambda path: parse_bucket(path.stem)):
        n = math.ceil(count_rows(path) / (4 * table_schema.row_group_size))
        for users in user_ranges(max(1, n), parse_bucket(path.stem)):
            yield read_table(path, table_schema, users=users)


def user_ranges(n: int, within: tuple[int, int] = (1, 1)) -> list[tuple[str, str]]:
    """Cut the ids of users into `n` ranges [low, high), in order; together they are the k-th of m equal parts of all.

    Args:
        within: (k, m), by default the whole.
    """
    k, m = within
    space = 16**ID_DIGITS
    edges = [space * ((k - 1) * n + i) // (m * n) for i in range(n + 1)]
    # Hexadecimal digits sort before `g`.
    names = [f"{edge:0{ID_DIGITS}x}" if edge < space else "g" for edge in edges]
    return list(pairwise(names))
