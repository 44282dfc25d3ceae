"""Tokenizes prompts and completions so that they fit into the context of a model.

A prompt is tokenized in pieces: the text before the history, each history entry, and the text after it. A completion
has two: the line of the stars, if there is one, and the text. Each distinct piece is tokenized once, even if many
targets share it. `cuts_of` finds where a tokenizer allows to cut, so that the result is the same as for the whole
prompt. A tokenizer that allows it nowhere gets whole prompts, which takes longer. `check_assembly` compares both for
some targets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from persona.errors import PersonaError
from persona.tables import schemas
from persona.tables.lists import as_lists
from persona.tables.parquet import count_rows, read_parts
from persona.tables.user_ranges import user_ranges
from persona.tokenization.chat import encode, encode_batch, frame_ids
from persona.tokenization.cuts import SLASH, cuts_of
from persona.tokenization.pieces import Cut, Ints, Pieces, TokenPool, cut_into_pieces
from persona.tokenization.settings import FitSettings
from persona.tokenization.window import kept_entries

CHECKED_SAMPLES = 64  # per file,
CHECKED_PER_CHUNK = 8  # and at least so many per chunk
CHUNK = 16_384  # targets per chunk
BATCH = 1_024  # whole prompts encoded at once


def tokenize_file(
    prompts: Path, tokenizer: Any, fit: FitSettings, bucket: tuple[int, int] = (1, 1)
) -> Iterator[pl.DataFrame]:
    """Tokenize a file of prompts of any size, a part at a time, and check some targets of each part.

    Args:
        prompts: a file with the columns of `schemas.PROMPTS`.
        bucket: (k, m): only the k-th of m parts of the users.
        fit: as for `tokenize`.

    Raises:
        PersonaError: the chat template cannot be used, or tokens of pieces are wrong.
    """
    frame_ids(tokenizer)  # a template that cannot be used is refused before anything is read
    checked = CHECKED_SAMPLES / max(1, count_rows(prompts) / bucket[1])
    for table in read_parts(prompts, schemas.PROMPTS, CHUNK, user_ranges(1, bucket)[0]):
        tokens = tokenize(table, tokenizer, fit)
        check_assembly(table, tokens, tokenizer, max(CHECKED_PER_CHUNK, math.ceil(checked * table.height)))
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


@dataclass
class _Draft:
    """Prompts in pieces, and how much of them fits.

    Attributes:
        frame: tokens of the chat template around each prompt, without the end.
        around: tokens of each prompt without history, those of the frame included, `[n_prompts]`.
        completion: tokens of each completion and its end, `[n_prompts]`.
        heading: tokens of each heading of the history, `[n_prompts]`.
        excess: by how many tokens each whole prompt was longer than its pieces say, `[n_prompts]`.
    """

    prompts: pl.DataFrame
    pieces: Pieces
    pool: TokenPool
    fit: FitSettings
    frame: int
    around: Ints
    completion: Ints
    heading: Ints
    excess: Ints

    @property
    def reserved(self) -> Ints:
        """Tokens that history and context leave free."""
        return np.maximum(self.completion, self.fit.reserve)

    @property
    def needed(self) -> Ints:
        """Tokens that must fit beside a prompt without history.

        The reserve or a longer completion; where there is no context left to drop, only the completion.
        """
        has_context = self.prompts["context_offsets"].list.len().to_numpy() > 0
        return np.where(has_context, self.reserved, self.completion)

    def keep(self, reserved: Ints) -> tuple[npt.NDArray[np.bool_], Ints]:
        """Which entries stay beside so many tokens of completion, and how many of each prompt."""
        room = self.fit.max_length - self.around - reserved - self.heading - self.excess
        is_kept = kept_entries(self.pool.lengths[self.pieces.entries].sum(1), self.pieces.counts, room, self.fit)
        of_prompt = np.repeat(np.arange(self.prompts.height), self.pieces.counts)[is_kept]
        return is_kept, np.bincount(of_prompt, minlength=self.prompts.height)

    def parts(self) -> pl.Series:
        """The pieces of each prompt with the entries that stay."""
        is_kept, kept = self.keep(self.reserved)
        # Without entries there is no heading; text 0 is empty.
        return self.pieces.rows.select(
            pl.concat_list(
                "head",
                pl.when(pl.Series(kept > 0)).then("heading").otherwise(0),
                as_lists(self.pieces.entries[is_kept].ravel(), 2 * kept),
                "tail",
            ).alias("parts")
        )["parts"]


def _tokenize(prompts: pl.DataFrame, tokenizer: Any, fit: FitSettings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the tokens of the prompts that fit, if need be with less history, and the prompts that do not fit."""
    cut = _cut(prompts, tokenizer)
    draft = _draft(prompts, tokenizer, fit, cut or "words")
    parts = draft.parts() if cut else _whole_prompts(draft, tokenizer)
    is_too_long = draft.around + draft.needed > fit.max_length
    too_long = prompts.with_columns(
        is_cut_for_completion=pl.col("is_cut_for_completion") | pl.Series(draft.around + fit.reserve <= fit.max_length),
    ).filter(pl.Series(is_too_long))
    tokens = _assemble(draft, parts)
    return (tokens.filter(pl.Series(~is_too_long)) if too_long.height else tokens), too_long


def _cut(prompts: pl.DataFrame, tokenizer: Any) -> Cut | None:
    """Where to cut prompts of this style for this tokenizer; None for nowhere."""
    offsets = prompts["history_offsets"]
    # `lines` needs a heading, before whose line break it can cut.
    has_headings = not bool((offsets.list.first() == offsets.list.get(1, null_on_oob=True)).any())
    slashes = bool(prompts["prompt"].str.contains(f"\n{SLASH}", literal=True).any())
    return next((cut for cut in cuts_of(tokenizer, slashes) if cut != "lines" or has_headings), None)


def _draft(prompts: pl.DataFrame, tokenizer: Any, fit: FitSettings, cut: Cut) -> _Draft:
    before, between, end = frame_ids(tokenizer)
    pieces = cut_into_pieces(prompts, cut)
    pool = TokenPool(encode_batch(tokenizer, pieces.texts, special=False), [before, between, end])
    lengths = {name: pool.lengths[pieces.rows[name].to_numpy()] for name in pieces.rows.columns}
    frame = len(before) + len(between)
    return _Draft(
        prompts,
        pieces,
        pool,
        fit,
        frame,
        around=lengths["head"] + lengths["tail"] + frame,
        completion=lengths["star_line"] + lengths["text"] + len(end),
        heading=lengths["heading"],
        excess=np.zeros(prompts.height, dtype=np.int64),
    )


def _whole_prompts(draft: _Draft, tokenizer: Any) -> pl.Series:
    """Tokenize each prompt as a whole, and add its tokens to the pool; return their indices as lists of one.

    The pieces say which entries stay. Where the whole prompt turns out too long for that, fewer stay.
    """
    ids: list[Ints] = [np.empty(0, dtype=np.int32)] * draft.prompts.height
    rows = np.arange(draft.prompts.height)
    while rows.size:
        _, kept = draft.keep(draft.reserved)
        texts = ["".join(draft.pieces.texts[part] for part in parts) for parts in draft.parts().gather(rows).to_list()]
        for row, encoded in zip(rows, _encode_in_batches(tokenizer, texts), strict=True):
            ids[row] = encoded
        lengths = np.array([len(ids[row]) for row in rows]) + draft.frame
        has_history = kept[rows] > 0
        draft.around[rows[~has_history]] = lengths[~has_history]
        beyond = lengths + draft.reserved[rows] - draft.fit.max_length
        draft.excess[rows] += np.maximum(beyond, 0)
        rows = rows[has_history & (beyond > 0)]
    first = draft.pool.add(ids)
    return pl.Series(np.arange(first, first + len(ids))).reshape((len(ids), 1)).arr.to_list()


def _encode_in_batches(tokenizer: Any, texts: list[str]) -> Iterator[Ints]:
    """Tokenize texts to arrays, a batch at a time, because `Encoding` objects take much memory."""
    for start in range(0, len(texts), BATCH):
        for encoding in encode_batch(tokenizer, texts[start : start + BATCH], special=False):
            yield np.array(encoding.ids, dtype=np.int32)


def _assemble(draft: _Draft, parts: pl.Series) -> pl.DataFrame:
    """Join the tokens of frame, prompt and completion: the columns of `schemas.TOKENS`.

    Args:
        draft: the prompts.
        parts: indices of the texts of each prompt in the pool.
    """
    prompts, pool, n = draft.prompts, draft.pool, len(draft.pieces.texts)
    kept = draft.keep(draft.reserved)[1]
    is_cut = kept < draft.keep(np.full_like(draft.completion, draft.fit.reserve))[1]
    before, between, end = (pl.lit(n + k, dtype=pl.Int64) for k in range(3))
    sequences = draft.pieces.rows.select(
        pl.concat_list(before, parts, between, "star_line", "text", end).alias("parts")
    )["parts"]
    indices = sequences.explode().to_numpy()
    row = np.repeat(np.arange(prompts.height), sequences.list.len().to_numpy())
    n_tokens = np.bincount(row, weights=pool.lengths[indices], minlength=prompts.height).astype(np.int64)
    text = pool.lengths[draft.pieces.rows["text"].to_numpy()] + pool.lengths[n + 2]
    return prompts.select("interaction_id", "user_id", "n_context_dropped").with_columns(
        input_ids=as_lists(pool.gather(indices), n_tokens),
        prompt_length=pl.Series(n_tokens - draft.completion, dtype=pl.Int32),
        text_start=pl.Series(n_tokens - text, dtype=pl.Int32),
        n_history_dropped=prompts["n_history_left_out"] + pl.Series(draft.pieces.counts - kept, dtype=pl.Int32),
        is_cut_for_completion=prompts["is_cut_for_completion"] | pl.Series(is_cut),
    )


def _drop_oldest_turns(prompts: pl.DataFrame) -> pl.DataFrame:
    """Drop the oldest turn of the context of each prompt, and prompts that have none.

    This loops over the prompts, because few need it.
    """
    prompts = prompts.filter(pl.col("context_offsets").list.len() > 0)
    rows = [
        without_entry(row, "context", 0) | {"n_context_dropped": row["n_context_dropped"] + 1}
        for row in prompts.iter_rows(named=True)
    ]
    return pl.DataFrame(rows, schema=prompts.schema)


def without_entry(row: dict[str, Any], part: Literal["history", "context"], n: int) -> dict[str, Any]:
    """A row of `schemas.PROMPTS` without the n-th entry of its history or context; the offsets after it move.

    With its only entry the whole section is gone. `history_ids` stay as they are.
    """
    offsets = row[f"{part}_offsets"]
    last = len(offsets) - 3
    if last == 0:
        start, end = offsets[0], offsets[-1]
    elif n == last:
        # The line break before it goes, and the two after it, which end the section, stay.
        start, end = offsets[-2] - 1, offsets[-1] - 2
    else:
        start, end = offsets[n + 1], offsets[n + 2]
    removed = end - start
    rest = [*offsets[: n + 1], *(offset - removed for offset in offsets[n + 2 :])] if last else []
    other = "context_offsets" if part == "history" else "history_offsets"
    return row | {
        "prompt": row["prompt"][:start] + row["prompt"][end:],
        f"{part}_offsets": rest,
        other: [offset - removed if offset >= end else offset for offset in row[other]],
    }


def check_assembly(prompts: pl.DataFrame, tokens: pl.DataFrame, tokenizer: Any, at_most: int = CHECKED_SAMPLES) -> None:
    """Compare the tokens of some targets, also trimmed ones, with those of their whole text.

    Args:
        prompts, tokens: the input and output of `tokenize`.
        at_most: about the number of targets to compare, spread evenly over all.

    Raises:
        PersonaError: they differ, so `cuts_of` missed a case of this tokenizer.
    """
    before, between, end = frame_ids(tokenizer)
    # With the user too: of an evaluation's impostors there are several for a target.
    both = prompts.join(tokens, on=["user_id", "interaction_id"])
    chosen = both.gather_every(max(1, math.ceil(both.height / at_most)))
    for row in chosen.iter_rows(named=True):
        star_line, text = row["completion"][: row["text_offset"]], row["completion"][row["text_offset"] :]
        parts = encode(tokenizer, [trimmed_prompt(row), star_line, text], special=False)
        prompt, completion = parts[0], parts[1] + parts[2]
        if before + prompt + between + completion + end != row["input_ids"]:
            raise PersonaError(
                f"interaction_id {row['interaction_id']}: the tokens of the whole prompt differ from those of its "
                "pieces; this is an error of this program: please report it with the tokenizer and the prompt style"
            )


def trimmed_prompt(row: dict[str, Any]) -> str:
    """The prompt without its oldest turns and history entries, and without a section when none is left."""
    prompt: str = row["prompt"]
    n_history_dropped = row["n_history_dropped"] - row["n_history_left_out"]
    parts = [(row["history_offsets"], n_history_dropped), (row["context_offsets"], row["n_context_dropped"])]
    # Start from the end, so that earlier offsets stay valid.
    for offsets, n_dropped in sorted(parts, reverse=True):
        if n_dropped:
            start = offsets[0] if n_dropped == len(offsets) - 2 else offsets[1]
            prompt = prompt[:start] + prompt[offsets[1 + n_dropped] :]
    return prompt
