"""The Parquet files of the workflow: their schemas, and reading and writing them.

Every file is checked on write and on read, sorted by its key, and has the same bytes whenever it is
built from the same inputs. It is written under a temporary name and moved in place, so a file that is
there is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from persona.errors import PersonaError

ROW_GROUP_SIZE = 65_536


@dataclass(frozen=True)
class Artefact:
    """What a Parquet file holds: columns in order, the key it is sorted by, columns that may be null."""

    columns: dict[str, Any]
    key: tuple[str, ...]
    nullable: frozenset[str] = frozenset()


TURN = pl.Struct({"speaker": pl.String, "text": pl.String})
FIELD = pl.Struct({"field": pl.String, "value": pl.String})
_TARGET = {"interaction_id": pl.Int64, "user_id": pl.String, "item_id": pl.String}

INTERACTIONS = Artefact(
    {
        **_TARGET,
        "day": pl.Date,
        "position": pl.Int32,
        "rating": pl.Float32,
        "text": pl.String,
        "likes": pl.Int32,
        "context": pl.List(TURN),
    },
    key=("user_id", "position"),
    nullable=frozenset({"day", "rating", "likes"}),
)
USERS = Artefact({"user_id": pl.String, "profile": pl.List(FIELD)}, key=("user_id",))
ITEMS = Artefact({"item_id": pl.String, "title": pl.String, "genres": pl.List(pl.String)}, key=("item_id",))
REJECTS = Artefact({"file": pl.String, "row": pl.Int64, "reason": pl.String, "raw": pl.String}, key=("file", "row"))
SPLIT = Artefact({"user_id": pl.String, "split": pl.String}, key=("user_id",))
SAMPLES = Artefact(_TARGET, key=("user_id", "interaction_id"))
PROMPTS = Artefact(
    {
        **_TARGET,
        "prompt": pl.String,
        "completion": pl.String,
        "rating": pl.Float32,
        "history_ids": pl.List(pl.Int64),
        # Where each history entry starts in `prompt`, in characters, and where the last one ends: what a
        # tokenizer needs to drop whole entries.
        "history_offsets": pl.List(pl.Int32),
        "n_context": pl.Int32,
    },
    key=("user_id", "interaction_id"),
    nullable=frozenset({"rating"}),
)
TOKENS = Artefact(
    {
        "interaction_id": pl.Int64,
        "user_id": pl.String,
        "input_ids": pl.List(pl.Int32),
        "prompt_length": pl.Int32,
        "n_history_dropped": pl.Int32,
    },
    key=("user_id", "interaction_id"),
)
TARGETS = Artefact(
    {
        **_TARGET,
        "cohort": pl.String,
        "rating": pl.Float32,
        "text": pl.String,
        # The text says how many stars it gives.
        "names_star": pl.Boolean,
        "n_history": pl.Int32,
        # Mean rating of the history.
        "history_mean": pl.Float64,
        # Test targets of one block stand in for each other's users.
        "block": pl.Int32,
        # Another user's review of the film, with the same star if there is one; another review of the same user.
        "floor_text": pl.String,
        "ceiling_text": pl.String,
    },
    key=("user_id", "interaction_id"),
    nullable=frozenset({"rating", "history_mean", "block", "floor_text", "ceiling_text"}),
)
SCORES = Artefact(
    {
        **_TARGET,
        "cohort": pl.String,
        "n_characters": pl.Int32,
        "n_tokens": pl.Int32,
        # In nats, summed over the completion: under the target's own prompt,
        "nll": pl.Float64,
        # under the prompts of other users' targets, and under the prompt that tells nothing of a user.
        "impostor_ids": pl.List(pl.Int64),
        "nll_impostors": pl.List(pl.Float64),
        "nll_empty": pl.Float64,
        # Probabilities of 1 to 5, asked for before the text; what they leave of 1 leaked to other answers.
        "stars": pl.List(pl.Float64),
    },
    key=("user_id", "interaction_id"),
    nullable=frozenset({"impostor_ids", "nll_impostors", "nll_empty", "stars"}),
)
GENERATIONS = Artefact(
    {**_TARGET, "method": pl.String, "draw": pl.Int32, "text": pl.String, "stop_reason": pl.String},
    key=("user_id", "interaction_id", "method", "draw"),
    nullable=frozenset({"stop_reason"}),
)
RATINGS = Artefact({**_TARGET, "method": pl.String, "rating": pl.Float64}, key=("user_id", "interaction_id", "method"))
# How alike a review and each candidate's earlier reviews are, negated and named like likelihoods, to be ranked alike.
AUTHORS = Artefact(
    {
        "interaction_id": pl.Int64,
        "user_id": pl.String,
        "impostor_ids": pl.List(pl.Int64),
        "nll": pl.Float64,
        "nll_impostors": pl.List(pl.Float64),
    },
    key=("user_id", "interaction_id"),
)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(table: pl.DataFrame, path: str | Path, artefact: Artefact) -> None:
    """Check, sort by key and write a table.

    Raises:
        PersonaError: a column is missing or of a wrong type, a value is null where it may not be, or the key
            is not unique.
    """
    missing = [name for name in artefact.columns if name not in table.columns]
    if missing:
        raise PersonaError(f"{path}: cannot be written without the columns {', '.join(missing)}")
    table = table.select(pl.col(name).cast(dtype) for name, dtype in artefact.columns.items())
    _check_values(table, path, artefact)
    table = table.sort(artefact.key)
    with atomic_path(path) as temporary:
        pq.write_table(
            table.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()),
            temporary,
            compression="zstd",
            compression_level=3,
            row_group_size=ROW_GROUP_SIZE,
            version="2.6",
            store_schema=False,
        )


def read_table(path: str | Path, artefact: Artefact, columns: list[str] | None = None) -> pl.DataFrame:
    """Read a table, or some columns of it, and check that its schema is the expected one.

    Raises:
        PersonaError: the file is missing, damaged, or of another schema.
    """
    expected = {name: artefact.columns[name] for name in columns or artefact.columns}
    try:
        table = pl.read_parquet(path, columns=list(expected))
    except FileNotFoundError as error:
        raise PersonaError(f"{path}: no such file; run the step that makes it first") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise PersonaError(f"{path}: not a readable Parquet file of this workflow; delete it and rerun") from error
    for name, dtype in expected.items():
        if table.schema[name] != dtype:
            raise PersonaError(
                f"{path}: column {name} is {table.schema[name]}, expected {dtype}; delete the file and rerun"
            )
    return table


def _check_values(table: pl.DataFrame, path: str | Path, artefact: Artefact) -> None:
    for name in artefact.columns:
        if name not in artefact.nullable and (count := table[name].null_count()):
            raise PersonaError(f"{path}: column {name} has {count} empty values, and none is allowed")
    duplicated = table.filter(pl.struct(artefact.key).is_duplicated())
    if duplicated.height:
        raise PersonaError(
            f"{path}: the key {artefact.key} is not unique: {duplicated.height} rows share one, "
            f"the first is {duplicated.row(0)[: len(artefact.key)]}"
        )


def write_text(text: str, path: str | Path) -> None:
    """Write a text file in one step."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(value: object, path: str | Path) -> None:
    """Write JSON with sorted keys in one step."""
    write_text(json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n", path)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, or of the names and bytes of a folder's files, in hexadecimal."""
    path = Path(path)
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
            digest.update(f"{file.relative_to(path)}\0{file_digest(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
