"""Prompts cut into pieces, so that each distinct piece is tokenized once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

Ints = npt.NDArray[Any]
# Until the last letter or digit, unless a mark follows, which may become one character with it.
LAST_WORD = r"(?s)^(.*[\p{L}\p{N}])[^\p{L}\p{N}\p{M}][^\p{L}\p{N}]*$"


@dataclass(frozen=True)
class Pieces:
    """Texts to tokenize, each once, and of which of them the prompts are made.

    Attributes:
        rows: numbers of texts, a row a prompt: `head`, `heading`, `tail`, `completion`.
        entries: numbers of the two texts of each history entry `[n, 2]`, one prompt after the other.
        counts: history entries of each prompt.
    """

    texts: list[str]
    rows: pl.DataFrame
    entries: Ints
    counts: Ints


class TokenPool:
    """The token ids of many texts, and of what else is given, one after the other."""

    def __init__(self, encodings: list[Any], more: list[list[int]]) -> None:
        self.lengths = np.array([*map(len, encodings), *map(len, more)], dtype=np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        # One list at a time: all of them at once would keep the garbage collector busy.
        lists = chain((encoding.ids for encoding in encodings), more)
        self.ids = np.fromiter(chain.from_iterable(lists), dtype=np.int32, count=int(self.lengths.sum()))

    def gather(self, numbers: Ints) -> Ints:
        """The ids of these texts, joined."""
        lengths = self.lengths[numbers]
        ends = np.cumsum(lengths)
        # In 32 bits, which hold the tokens of a chunk, because this is most of the memory.
        places = np.repeat((self.starts[numbers] - (ends - lengths)).astype(np.int32), lengths)
        places += np.arange(places.size, dtype=np.int32)
        return np.asarray(self.ids[places])


def cut_into_pieces(prompts: pl.DataFrame) -> Pieces:
    """Cut the prompts at their history entries.

    An entry is the same text in all prompts, but for its end, which is another after the last one. So an entry is two
    pieces: until its last letter or digit, where pre-tokenizers of this family cut anyway, and the rest.
    """
    offsets, prompt = pl.col("history_offsets"), pl.col("prompt")
    start, last = offsets.list.first(), offsets.list.last()
    rows = prompts.select(
        # Of a prompt without history all is head.
        head=prompt.str.slice(0, start),
        heading=prompt.str.slice(start, offsets.list.get(1, null_on_oob=True) - start).fill_null(""),
        tail=prompt.str.slice(last).fill_null(""),
        completion="completion",
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
    ).with_columns(body=pl.col("text").str.extract(LAST_WORD).fill_null(""))
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
