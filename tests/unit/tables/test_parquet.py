"""Tables are checked, have the same bytes however they are written, and are never taken for whole when damaged."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from persona.errors import PersonaError
from persona.ingestion.ingest import Ingested
from persona.tables import parquet, schemas
from persona.tables.parquet import read_parts, read_rows, read_table, rename_damaged, table_writer, write_table
from persona.tables.schemas import TableSchema


def in_pieces(table: pl.DataFrame, size: int) -> Iterator[pl.DataFrame]:
    yield from table.iter_slices(size)


def test_a_table_written_in_pieces_has_the_same_bytes(
    tables: Ingested, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = TableSchema(schemas.INTERACTIONS.columns, schemas.INTERACTIONS.key,
                               schemas.INTERACTIONS.nullable, row_group_size=100)  # fmt: skip
    for size in (7, 250, 100_000):
        with table_writer(tmp_path / str(size), small) as writer:
            for piece in in_pieces(tables.interactions, size):
                writer.write(piece)
    written = [(tmp_path / str(size)).read_bytes() for size in (7, 250, 100_000)]
    assert written[0] == written[1] == written[2]
    file = pq.ParquetFile(tmp_path / "7")
    assert file.num_row_groups > 3
    users = [set(file.read_row_group(n, ["user_id"])["user_id"].to_pylist()) for n in range(file.num_row_groups)]
    assert all(not a & b for a, b in pairwise(users))


def one_busy_user(tables: Ingested) -> pl.DataFrame:
    """Users with some rows, and one between them with 1,000."""
    some = tables.interactions.sort("user_id", "position").head(200)
    busy = some.head(1).select(pl.all().repeat_by(1000).explode())
    busy = busy.with_columns(user_id=pl.lit("8" * 16), position=pl.int_range(1000, dtype=pl.Int32))
    last = some.with_columns(user_id=pl.format("9{}", pl.col("user_id").str.slice(1)))
    return pl.concat([some.filter(pl.col("user_id") < "8"), busy, last.sort("user_id", "position")])


def test_a_user_with_very_many_rows_is_in_several_row_groups_and_parts(tables: Ingested, tmp_path: Path) -> None:
    table = one_busy_user(tables)
    small = replace(schemas.INTERACTIONS, row_group_size=100)
    for size in (7, 250, 100_000):
        with table_writer(tmp_path / str(size), small) as writer:
            for piece in in_pieces(table, size):
                writer.write(piece)
    assert (tmp_path / "7").read_bytes() == (tmp_path / "250").read_bytes() == (tmp_path / "100000").read_bytes()
    file = pq.ParquetFile(tmp_path / "7")
    assert max(file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)) == 200
    parts = list(read_parts(tmp_path / "7", small, 300))
    assert pl.concat(parts).equals(table) and len(parts) > 4
    assert max(part.height for part in parts) <= 300
    some = pl.concat(read_parts(tmp_path / "7", small, 300, ("8" * 16, "9")))
    assert some.equals(table.filter(pl.col("user_id") == "8" * 16))
    assert [part.height for part in read_parts(tmp_path / "7", small, 300, ("f", "g"))] == [0]
    assert read_table(tmp_path / "7", small, users=("8" * 16, "9")).equals(some)


def test_parts_of_long_rows_are_small(tables: Ingested, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(schemas.INTERACTIONS, row_group_size=100)
    write_table(tables.interactions, tmp_path / "x", small)
    groups = pq.read_metadata(tmp_path / "x").num_row_groups
    assert len(list(read_parts(tmp_path / "x", small, 10_000))) == 1
    monkeypatch.setattr(parquet, "PART_BYTES", 1)
    parts = list(read_parts(tmp_path / "x", small, 10_000))
    assert len(parts) == groups > 3 and pl.concat(parts).equals(read_table(tmp_path / "x", small))


def test_a_piece_out_of_order_is_refused_and_leaves_no_file(tables: Ingested, tmp_path: Path) -> None:
    pieces = list(in_pieces(tables.interactions, 300))
    with (
        pytest.raises(PersonaError, match=r"must follow .*; write the tables in the order of the key"),
        table_writer(tmp_path / "x.parquet", schemas.INTERACTIONS) as writer,
    ):
        writer.write(pieces[1])
        writer.write(pieces[0])
    assert not list(tmp_path.iterdir())


def test_tables_have_the_same_bytes_when_rebuilt(tables: Ingested, tmp_path: Path) -> None:
    rows = list(range(tables.interactions.height))
    random.Random(3).shuffle(rows)
    for name, table in (("a", tables.interactions), ("b", tables.interactions[rows])):
        write_table(table, tmp_path / name, schemas.INTERACTIONS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_damaged_table_is_not_taken_for_whole(tables: Ingested, tmp_path: Path) -> None:
    path = tmp_path / "users.parquet"
    write_table(tables.users, path, schemas.USERS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PersonaError, match=r"users\.parquet: not a readable Parquet file"):
        read_table(path, schemas.USERS)


def test_files_that_are_cut_off_are_renamed_and_whole_ones_stay(tables: Ingested, tmp_path: Path) -> None:
    for name in ("whole", "cut", "empty"):
        write_table(tables.users, tmp_path / "sub" / f"{name}.parquet", schemas.USERS)
    cut, empty = (tmp_path / "sub" / f"{name}.parquet" for name in ("cut", "empty"))
    cut.write_bytes(cut.read_bytes()[:-20])
    empty.write_bytes(b"")
    assert rename_damaged(tmp_path) == [cut, empty]
    assert {file.name for file in (tmp_path / "sub").iterdir()} == {
        "whole.parquet",
        "cut.parquet.damaged",
        "empty.parquet.damaged",
    }
    assert rename_damaged(tmp_path) == []


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pl.DataFrame({"user_id": ["a"]}), "lacks the columns split"),
        (
            pl.DataFrame({"user_id": ["a"], "split": pl.Series([None], dtype=pl.String)}),
            "column split has 1 null values",
        ),
        (pl.DataFrame({"user_id": ["a", "a"], "split": ["val", "test"]}), r"must be unique, but 2 rows .*\('a',\)"),
    ],
)
def test_a_table_that_breaks_its_schema_is_not_written(tmp_path: Path, table: pl.DataFrame, message: str) -> None:
    with pytest.raises(PersonaError, match=message):
        write_table(table, tmp_path / "split.parquet", schemas.SPLIT)
    assert not list(tmp_path.iterdir())


def test_rows_are_read_by_their_ids(tables: Ingested, tmp_path: Path) -> None:
    """Of several row groups, in the order of the file, each once."""
    table_schema = replace(schemas.INTERACTIONS, row_group_size=100)
    write_table(tables.interactions, tmp_path / "x", table_schema)
    ids = tables.interactions["interaction_id"].gather_every(50)
    found = read_rows(tmp_path / "x", schemas.INTERACTIONS, pl.concat([ids, ids[:3]]))
    expected = tables.interactions.join(ids.to_frame(), on="interaction_id", how="semi").sort("user_id", "position")
    assert found.equals(expected.select(found.columns))
    with pytest.raises(PersonaError, match="no such file"):
        read_rows(tmp_path / "y", schemas.INTERACTIONS, ids)
