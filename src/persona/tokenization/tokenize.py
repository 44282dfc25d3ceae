"""Tokenizes prompts and completions so that they fit into the context of a model.

A prompt is tokenized in pieces: the text before the history, each history entry, and the text after it. A completion
has two: the line of the stars, if there is one, and the text. Each distinct piece is tokenized once, even if many
targets share it. The result is the same as for the whole text, because the pieces end where the pre-tokenizers of this
family split anyway: after line breaks, and after the last letter or digit of an entry. `check_assembly` verifies this
for the tokenizer in use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from persona.errors import PersonaError
from persona.tables import schemas
from persona.tables.parquet import count_rows, read_table
from persona.tables.user_ranges import user_ranges
from persona.tokenization.chat import chat_frame, encode, encode_batch
from persona.tokenization.pieces import Ints, TokenPool, cut_into_pieces
from persona.tokenization.settings import FitSettings
from persona.tokenization.window import kept_entries

CHECKED_SAMPLES = 64  # per file,
CHECKED_PER_CHUNK = 8  # and at least so many per chunk
CHUNK = 16_384  # targets per chunk


def tokenize_file(
    prompts: Path, tokenizer: Any, fit: FitSettings, bucket: tuple[int, int] = (1, 1)
) -> Iterator[pl.DataFrame]:
    """Tokenize a file of prompts of any size, a range of users at a time, and check some targets of each range.

    Args:
        prompts: a file with the columns of `schemas.PROMPTS`.
        bucket: (k, m): only the k-th of m parts of the users.
        fit: as for `tokenize`.

    Raises:
        PersonaError: the tokenizer cannot be used in pieces.
    """
    n = max(1, math.ceil(count_rows(prompts) / CHUNK / bucket[1]))
    for users in user_ranges(n, bucket):
        table = read_table(prompts, schemas.PROMPTS, users=users)
        tokens = tokenize(table, tokenizer, fit)
        check_assembly(table, tokens, tokenizer, max(CHECKED_PER_CHUNK, CHECKED_SAMPLES // n))
        yield tokens


def tokenize(prompts: pl.DataFrame, tokenizer: Any, fit: FitSettings) -> pl.DataFrame:
    """Tokenize every prompt with its completion; where they do not fit, drop the oldest history entries.

    Where they do not fit even without history, also drop the oldest turns of the context. A completion counts as long
    as the reserve, so what is dropped says nothing of the target. Only if it is longer, more is dropped for it.
    Targets that do not fit even then are left out; `overlong.find_overlong` lists them.

    Args:
        fit: how many tokens fit, what is reserved, and which history entries are kept; see `kept_entries`.

    Returns:
        The columns of `schemas.TOKENS`. `input_ids` holds prompt, completion and end token; the first
        `prompt_length` of them are the prompt, and from `text_start` on they are the text.
    """
    rest = prompts.sort("user_id", "interaction_id").with_columns(
        n_context_dropped=pl.lit(0, dtype=pl.Int32), is_cut_for_completion=pl.lit(False)
    )
    tables: list[pl.DataFrame] = []
    while rest.height or not tables:
        tokens, too_long = _tokenize(rest, tokenizer, fit)
        tables.append(tokens)
        rest = _drop_oldest_turns(too_long)
    return tables[0] if len(tables) == 1 else pl.concat(tables).sort("user_id", "interaction_id")


def _tokenize(prompts: pl.DataFrame, tokenizer: Any, fit: FitSettings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the tokens of the prompts that fit, if need be with less history, and the prompts that do not fit."""
    frame = chat_frame(tokenizer)
    before, between, end = encode(tokenizer, [frame.before, frame.between, frame.end], special=True)
    pieces = cut_into_pieces(prompts)
    pool = TokenPool(encode_batch(tokenizer, pieces.texts, special=False), [before, between, end])
    lengths = {name: pool.lengths[pieces.rows[name].to_numpy()] for name in pieces.rows.columns}
    completion = lengths["star_line"] + lengths["text"] + len(end)
    around = lengths["head"] + lengths["tail"] + len(before) + len(between)
    is_too_long = _is_too_long(prompts, around, completion, fit)
    too_long = prompts.with_columns(
        is_cut_for_completion=pl.col("is_cut_for_completion") | pl.Series(around + fit.reserve <= fit.max_length),
    ).filter(pl.Series(is_too_long))

    def keep(reserved: Ints) -> tuple[Ints, Ints]:
        """Which entries stay beside so many tokens of completion, and how many of each prompt."""
        room = fit.max_length - around - reserved - lengths["heading"]
        is_kept = kept_entries(pool.lengths[pieces.entries].sum(1), pieces.counts, room, fit)
        of_prompt = np.repeat(np.arange(prompts.height), pieces.counts)[is_kept]
        return is_kept, np.bincount(of_prompt, minlength=prompts.height)

    is_kept, kept = keep(np.maximum(completion, fit.reserve))
    is_cut = kept < keep(np.full_like(completion, fit.reserve))[1]
    n = len(pieces.texts)
    # Without entries there is no heading; text 0 is empty.
    sequences = pieces.rows.select(
        pl.concat_list(
            pl.lit(n, dtype=pl.Int64),
            "head",
            pl.when(pl.Series(kept > 0)).then("heading").otherwise(0),
            _as_lists(pieces.entries[is_kept].ravel(), 2 * kept),
            "tail",
            pl.lit(n + 1, dtype=pl.Int64),
            "star_line",
            "text",
            pl.lit(n + 2, dtype=pl.Int64),
        ).alias("pieces")
    )["pieces"]
    indices = sequences.explode().to_numpy()
    row = np.repeat(np.arange(prompts.height), sequences.list.len().to_numpy())
    n_tokens = np.bincount(row, weights=pool.lengths[indices], minlength=prompts.height).astype(np.int64)
    tokens = prompts.select("interaction_id", "user_id", "n_context_dropped").with_columns(
        input_ids=_as_lists(pool.gather(indices), n_tokens),
        prompt_length=pl.Series(n_tokens - completion, dtype=pl.Int32),
        text_start=pl.Series(n_tokens - lengths["text"] - len(end), dtype=pl.Int32),
        n_history_dropped=pl.Series(pieces.counts - kept, dtype=pl.Int32),
        is_cut_for_completion=prompts["is_cut_for_completion"] | pl.Series(is_cut),
    )
    return (tokens.filter(pl.Series(~is_too_long)) if too_long.height else tokens), too_long


def _is_too_long(prompts: pl.DataFrame, around: Ints, completion: Ints, fit: FitSettings) -> Ints:
    """Which prompts do not fit, even without history, together with the reserve or a longer completion.

    Where there is no context left to drop, only the completion itself has to fit.
    """
    has_context = prompts["context_offsets"].list.len().to_numpy() > 0
    needed = np.where(has_context, np.maximum(completion, fit.reserve), completion)
    return np.asarray(around + needed > fit.max_length)


def _drop_oldest_turns(prompts: pl.DataFrame) -> pl.DataFrame:
    """Drop the oldest turn of the context of each prompt, and prompts that have none.

    This loops over the prompts, because few need it.
    """
    prompts = prompts.filter(pl.col("context_offsets").list.len() > 0)
    return pl.DataFrame([_drop_turn(row) for row in prompts.iter_rows(named=True)], schema=prompts.schema)


def _drop_turn(row: dict[str, Any]) -> dict[str, Any]:
    """Drop the oldest turn of one prompt's context and move the offsets after it."""
    offsets = row["context_offsets"]
    # With the last turn the whole section is dropped.
    start, end = (offsets[1], offsets[2]) if len(offsets) > 3 else (offsets[0], offsets[-1])
    removed = end - start
    rest = [*offsets[:2], *(offset - removed for offset in offsets[3:])] if len(offsets) > 3 else []
    return row | {
        "prompt": row["prompt"][:start] + row["prompt"][end:],
        "context_offsets": rest,
        "history_offsets": [offset - removed if offset >= end else offset for offset in row["history_offsets"]],
        "n_context_dropped": row["n_context_dropped"] + 1,
    }


def _as_lists(values: npt.NDArray[Any], counts: Ints) -> pl.Series:
    """Make a column of lists from their concatenated values and their lengths."""
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))))


def check_assembly(prompts: pl.DataFrame, tokens: pl.DataFrame, tokenizer: Any, at_most: int = CHECKED_SAMPLES) -> None:
    """Compare the tokens of some targets, also trimmed ones, with those of their whole text.

    Args:
        prompts, tokens: the input and output of `tokenize`.
        at_most: about the number of targets to compare, spread evenly over all.

    Raises:
        PersonaError: they differ, so this tokenizer cannot be used in pieces.
    """
    frame = chat_frame(tokenizer)
    before, between, end = encode(tokenizer, [frame.before, frame.between, frame.end], special=True)
    # With the user too: of an evaluation's impostors there are several for a target.
    both = prompts.join(tokens, on=["user_id", "interaction_id"])
    chosen = both.gather_every(max(1, math.ceil(both.height / at_most)))
    for row in chosen.iter_rows(named=True):
        prompt, completion = encode(tokenizer, [_trimmed(row), row["completion"]], special=False)
        if before + prompt + between + completion + end != row["input_ids"]:
            raise PersonaError(
                f"interaction_id {row['interaction_id']}: the tokens of the whole prompt differ from those of "
                "its pieces; use a prompt style whose history entries each start on a new line"
            )


def _trimmed(row: dict[str, Any]) -> str:
    """The prompt without its oldest turns and history entries, and without a section when none is left."""
    prompt: str = row["prompt"]
    parts = [(row["history_offsets"], row["n_history_dropped"]), (row["context_offsets"], row["n_context_dropped"])]
    # Start from the end, so that earlier offsets stay valid.
    for offsets, n_dropped in sorted(parts, reverse=True):
        if n_dropped:
            start = offsets[0] if n_dropped == len(offsets) - 2 else offsets[1]
            prompt = prompt[:start] + prompt[offsets[1 + n_dropped] :]
    return prompt
