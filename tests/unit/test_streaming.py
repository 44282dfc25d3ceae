"""What is too large for the memory is read and written in pieces: same bytes, whole users."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

import persona.tokenization.tokenize as tokenize_module
from persona import prompts
from persona.errors import PersonaError
from persona.ingestion.ingest import Ingested
from persona.modeling.tiny import train_tokenizer
from persona.prompts import Parts, PromptSpec, load_style, render_file
from persona.sampling import limit_users, sample_targets
from persona.splitting import split_users
from persona.tables import schemas
from persona.tables.parquet import read_table, table_writer, write_table
from persona.tables.schemas import TableSchema
from persona.tables.user_ranges import user_ranges
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import check_assembly, tokenize, tokenize_file

STYLE = Path(__file__).parents[2] / "config" / "prompts" / "detailed.yaml"


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


def test_a_piece_out_of_order_is_refused_and_leaves_no_file(tables: Ingested, tmp_path: Path) -> None:
    pieces = list(in_pieces(tables.interactions, 300))
    with (
        pytest.raises(PersonaError, match="which is not before it"),
        table_writer(tmp_path / "x.parquet", schemas.INTERACTIONS) as writer,
    ):
        writer.write(pieces[1])
        writer.write(pieces[0])
    assert not list(tmp_path.iterdir())


def test_ranges_of_users_are_all_users_once(tables: Ingested, tmp_path: Path) -> None:
    write_table(tables.users, tmp_path / "u.parquet", schemas.USERS)
    parts = [user_ranges(3, (k, 4)) for k in (1, 2, 3, 4)]
    ranges = [some for part in parts for some in part]
    assert ranges == user_ranges(12)
    read = [read_table(tmp_path / "u.parquet", schemas.USERS, users=some) for some in ranges]
    assert min(table.height for table in read) > 0
    assert pl.concat(read).equals(tables.users)


def test_a_cohort_of_parts_is_the_cohort_of_the_whole(tables: Ingested) -> None:
    split = split_users(tables.users, 0.1, 0.3, 42)

    def sample(some: tuple[str, str]) -> pl.DataFrame:
        ours = pl.col("user_id").is_between(pl.lit(some[0]), pl.lit(some[1]), closed="left")
        return sample_targets(tables.interactions.filter(ours), split.filter(ours), "test", 2, 20, 42)

    parts = pl.concat([sample(some) for some in user_ranges(5)])
    whole = sample(user_ranges(1)[0])
    assert parts["user_id"].n_unique() > whole["user_id"].n_unique() == 20
    key = ["user_id", "interaction_id"]
    assert limit_users(parts, 20, 42).sort(key).equals(whole.sort(key))


def test_prompts_and_tokens_do_not_depend_on_chunks_or_buckets(
    tables: Ingested, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("interactions", "users", "items"):
        table_schema = getattr(schemas, name.upper())
        write_table(getattr(tables, name), tmp_path / f"{name}.parquet", table_schema)
    write_table(tables.interactions, tmp_path / "sample.parquet", schemas.SAMPLES)
    tokenizer = train_tokenizer(tables.interactions["text"].to_list(), vocab_size=800)
    sample, interactions, users, items = (
        tmp_path / f"{name}.parquet" for name in ("sample", "interactions", "users", "items")
    )

    def make(folder: Path, buckets: list[tuple[int, int]]) -> tuple[bytes, bytes]:
        style, parts = load_style(STYLE), Parts(profile=True, history=True, context=True)
        with table_writer(folder / "p", schemas.PROMPTS) as writer:
            for bucket in buckets:
                spec = PromptSpec(style, parts, "任务", "影评：")
                for table in render_file(sample, interactions, users, items, spec, bucket):
                    writer.write(table)
        with table_writer(folder / "t", schemas.TOKENS) as writer:
            for bucket in buckets:
                for table in tokenize_file(folder / "p", tokenizer, FitSettings(max_length=256), bucket):
                    writer.write(table)
        return (folder / "p").read_bytes(), (folder / "t").read_bytes()

    whole = make(tmp_path, [(1, 1)])
    monkeypatch.setattr(prompts, "CHUNK", 50)
    monkeypatch.setattr(tokenize_module, "CHUNK", 30)
    assert make(tmp_path, [(1, 1)]) == whole
    assert make(tmp_path, [(k, 8) for k in range(1, 9)]) == whole


def test_the_oldest_turns_are_dropped_where_history_is_not_enough(tables: Ingested, tmp_path: Path) -> None:
    """Oldest first and whole ones, so that the last turns and the whole completion stay."""
    turns = [{"speaker": "甲", "text": f"第{n}句" + "话" * 30} for n in range(10)]
    some = tables.interactions.filter(pl.col("position") == 3).head(20).with_columns(context=pl.lit(turns))
    others = tables.interactions.filter(~pl.col("interaction_id").is_in(some["interaction_id"].implode()))
    interactions = pl.concat([some.cast(others.schema), others])  # type: ignore[arg-type]
    made = prompts.render(
        some,
        interactions,
        tables.users,
        tables.items,
        PromptSpec(load_style(STYLE), Parts(True, True, True), "任务", "影评："),
    )
    tokenizer: Any = train_tokenizer(tables.interactions["text"].to_list(), vocab_size=800)
    long = tokenize(made, tokenizer, FitSettings(max_length=10_000))
    assert long["n_context_dropped"].sum() == 0
    limit = 250
    short = tokenize(made, tokenizer, FitSettings(max_length=limit))
    check_assembly(made, short, tokenizer)
    assert short["n_context_dropped"].min() > 0  # type: ignore[operator]
    assert short["input_ids"].list.len().max() <= limit  # type: ignore[operator]
    for row in made.join(short, on="interaction_id").iter_rows(named=True):
        text = tokenizer.decode(row["input_ids"])
        first = row["n_context_dropped"]
        assert f"第{first}句" in text and f"第{first - 1}句" not in text and "第9句" in text
        assert row["n_history_dropped"] == len(row["history_ids"]) > 0 and "[HISTORY]" not in text
        assert row["completion"] in text
