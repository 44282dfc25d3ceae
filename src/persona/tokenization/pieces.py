"""Cuts prompts into pieces, so that each distinct piece is tokenized once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

Ints = npt.NDArray[Any]
# Matches up to the last letter or digit, unless a combining mark follows it.
LAST_WORD = r"(?s)^(.*[\p{L}\p{N}])[^\p{L}\p{N}\p{M}][^\p{L}\p{N}]*$"
Cut = Literal["lines", "words"]


@dataclass(frozen=True)
class Pieces:
    """The distinct texts to tokenize, and which of them each prompt consists of.

    Attributes:
        texts: the distinct texts; the first is empty.
        rows: per prompt the indices in `texts` of `head`, `heading`, `tail`, `star_line`, `text`.
        entries: indices of the two texts of each history entry, `[n_entries, 2]`, one prompt after the other.
        counts: number of history entries per prompt, `[n_prompts]`.
    """

    texts: list[str]
    rows: pl.DataFrame
    entries: Ints
    counts: Ints


class TokenPool:
    """The token ids of many texts in one array."""

    def __init__(self, encodings: list[Any], more: list[list[int]]) -> None:
        """Collect token ids.

        Args:
            encodings: the encoded texts.
            more: further lists of token ids; they get the next indices.
        """
        self.lengths = np.array([*map(len, encodings), *map(len, more)], dtype=np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        # A generator, because all lists at once would keep the garbage collector busy.
        lists = chain((encoding.ids for encoding in encodings), more)
        self.ids = np.fromiter(chain.from_iterable(lists), dtype=np.int32, count=int(self.lengths.sum()))

    def add(self, more: list[Ints]) -> int:
        """Add the token ids of further texts; return the index of the first."""
        first = len(self.lengths)
        self.lengths = np.concatenate([self.lengths, np.array([*map(len, more)], dtype=np.int64)])
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.ids = np.concatenate([self.ids, *more])
        return first

    def gather(self, numbers: Ints) -> Ints:
        """Join the token ids of the texts with these indices."""
        lengths = self.lengths[numbers]
        ends = np.cumsum(lengths)
        # 32 bits are enough for the tokens of a chunk, and this array takes most of the memory.
        positions = np.repeat((self.starts[numbers] - (ends - lengths)).astype(np.int32), lengths)
        positions += np.arange(positions.size, dtype=np.int32)
        return np.asarray(self.ids[positions])


def cut_into_pieces(prompts: pl.DataFrame, cut: Cut) -> Pieces:
    """Cut the prompts at their history entries.

    `lines` cuts before the line breaks between entries. Then an entry has the same text in all prompts. This suits
    tokenizers that never join a line break with what is before it: GPT-2, SentencePiece, WordPiece.

    `words` cuts after these line breaks, for tokenizers that join punctuation with the line breaks after it, such as
    Qwen's. Then the end of an entry differs where it is the last one. So an entry is cut into two pieces: up to its
    last letter or digit, where pre-tokenizers of this family split anyway, and the rest.

    Args:
        prompts: with the columns of `schemas.PROMPTS`.
        cut: where the pieces end.
    """
    if cut == "lines":
        prompts = prompts.with_columns(history_offsets=_before_line_breaks())
    offsets, prompt = pl.col("history_offsets"), pl.col("prompt")
    start, last = offsets.list.first(), offsets.list.last()
    rows = prompts.select(
        # A prompt without history is all head.
        head=prompt.str.slice(0, start),
        heading=prompt.str.slice(start, offsets.list.get(1, null_on_oob=True) - start).fill_null(""),
        tail=prompt.str.slice(last).fill_null(""),
        star_line=pl.col("completion").str.slice(0, pl.col("text_offset")),
        text=pl.col("completion").str.slice(pl.col("text_offset")),
    )
    entries = (
        prompts.with_row_index("row")
        .filter(offsets.list.len() > 0)
        .select(
            "row",
            "history_ids",
            start=offsets.list.slice(1, offsets.list.len().cast(pl.Int64) - 2),
            end=offsets.list.slice(2),
        )
        .explode("history_ids", "start", "end")
        .with_columns(is_last=pl.col("row") != pl.col("row").shift(-1, fill_value=prompts.height))
    )
    key = ["history_ids", "is_last"]
    once = entries.unique(key, keep="first", maintain_order=True)
    once = once.select(
        *key,
        text=prompts["prompt"].gather(once["row"]).str.slice(once["start"], once["end"] - once["start"]),
    ).with_columns(body=pl.col("text").str.extract(LAST_WORD).fill_null("") if cut == "words" else pl.col("text"))
    once = once.with_columns(rest=pl.col("text").str.slice(pl.col("body").str.len_chars()))
    texts = pl.concat([pl.Series([""]), *rows.get_columns(), once["body"], once["rest"]]).unique(maintain_order=True)
    numbers = pl.DataFrame({"text": texts}).with_columns(number=pl.int_range(pl.len(), dtype=pl.Int64))

    def number(text: pl.Series) -> pl.Series:
        return text.to_frame("text").join(numbers, on="text", how="left", maintain_order="left")["number"]

    once = once.select(*key, body=number(once["body"]), rest=number(once["rest"]))
    return Pieces(
        texts.to_list(),
        pl.DataFrame({name: number(rows[name]) for name in rows.columns}),
        entries.join(once, on=key, how="left", maintain_order="left").select("body", "rest").to_numpy(),
        prompts["history_ids"].list.len().to_numpy().astype(np.int64),
    )


def _before_line_breaks() -> pl.Expr:
    """The offsets of the history, moved before the line breaks that they are after.

    Before a section are two, unless the prompt begins with it, and before an entry is one.
    """
    offsets = pl.col("history_offsets")
    section = (offsets.list.first() - 2).clip(lower_bound=0)
    last = offsets.list.last() - 2
    moved = pl.concat_list(section, offsets.list.slice(1, offsets.list.len().cast(pl.Int64) - 2) - 1, last)
    return pl.when(offsets.list.len() > 0).then(moved).otherwise(offsets)
