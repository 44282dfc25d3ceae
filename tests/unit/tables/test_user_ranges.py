"""Ranges of user ids cover all users once."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from persona.ingestion.ingest import Ingested
from persona.tables import schemas
from persona.tables.parquet import read_table, write_table
from persona.tables.user_ranges import parse_bucket, read_buckets, user_ranges


def test_ranges_of_users_are_all_users_once(tables: Ingested, tmp_path: Path) -> None:
    write_table(tables.users, tmp_path / "u.parquet", schemas.USERS)
    parts = [user_ranges(3, (k, 4)) for k in (1, 2, 3, 4)]
    ranges = [some for part in parts for some in part]
    assert ranges == user_ranges(12)
    read = [read_table(tmp_path / "u.parquet", schemas.USERS, users=some) for some in ranges]
    assert min(table.height for table in read) > 0
    assert pl.concat(read).equals(tables.users)


def test_tables_of_buckets_are_read_in_the_order_of_the_users(tables: Ingested, tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}-of-12.parquet" for k in range(1, 13)]
    for path in paths:
        [(low, high)] = user_ranges(1, parse_bucket(path.stem))
        users = tables.users.filter(pl.col("user_id") >= low, pl.col("user_id") < high)
        write_table(users, path, schemas.USERS)
    assert pl.concat(read_buckets(sorted(paths), schemas.USERS)).equals(tables.users)
