"""Finds where a tokenizer lets a prompt be cut, so that the pieces have the tokens of the whole prompt."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import accumulate
from typing import Any, get_args

import numpy as np
import polars as pl

from persona.tokenization.chat import encode, encode_batch
from persona.tokenization.pieces import Cut, TokenPool, cut_into_pieces

# What a history entry may end and begin with: letters of several scripts, digits, punctuation, symbols, marks.
ENDS = [
    *(
        "d",
        "好",
        "й",
        "あ",
        "7",
        "3.5",
        ".",
        "!",
        "...",
        "。",
        "！",
        ")",
        "]",
        "”",
        "'s",
        "St.",
        "5/10",
        "é",
        "e\u0301",
    ),
    *("e\u0301", "😀", "♥", "\u0e01\u0e33", "~", "—", "http://a.b/c", "$", "_", "\\", ":", "a\u200b", "\ufe0f"),
]
STARTS = [
    *("1. [", "12. ", "[", "word", "好", "’s", "'s", "'", "(", ". ", "5", "😀", "“", "-", "!", "_x", "é", "й"),
    *("@", "#", "$", "—", "\u0e01"),
]
SLASH = "/"
FROM_VOCABULARY = 64  # tokens of each kind that are tried
LINE_BREAK = re.compile(r"\s*\n\s*")
END_OF_WORD_INSIDE = re.compile(r"[^\W_][^\w\s]+$")


@lru_cache(maxsize=4)
def cuts_of(tokenizer: Any, slashes: bool = True) -> tuple[Cut, ...]:
    """The cuts that never change the tokens of a prompt, as far as a trial shows; the fastest first.

    The trial is a set of prompts in which history entries meet whose ends and beginnings are hard cases: characters of
    many kinds, and what the vocabulary has beside line breaks and at ends of words.

    Args:
        tokenizer: which one.
        slashes: whether a line may begin with a slash. The tokenizers of GPT-4o and gpt-oss join it with what is
            before the line break; without slashes they allow a cut.
    """
    ends, starts = _from_vocabulary(tokenizer)
    starts = [start for start in [*STARTS, SLASH, *starts] if slashes or not start.startswith(SLASH)]
    prompts = _trial(ends, starts)
    whole = encode(tokenizer, prompts["prompt"].to_list(), special=False)
    return tuple(cut for cut in get_args(Cut) if _in_pieces(prompts, tokenizer, cut) == whole)


def _in_pieces(prompts: pl.DataFrame, tokenizer: Any, cut: Cut) -> list[list[int]]:
    """The tokens of each prompt, put together from its pieces."""
    pieces = cut_into_pieces(prompts, cut)
    pool = TokenPool(encode_batch(tokenizer, pieces.texts, special=False), [])
    last = list(accumulate(pieces.counts))
    rows = pieces.rows.select("head", "heading", "tail").iter_rows()
    return [
        pool.gather(np.array([head, heading, *pieces.entries[end - count : end].ravel(), tail])).tolist()
        for (head, heading, tail), count, end in zip(rows, pieces.counts, last, strict=True)
    ]


def _from_vocabulary(tokenizer: Any) -> tuple[list[str], list[str]]:
    """Further ends and beginnings of entries, from tokens that hold a line break or end a word with punctuation."""
    backend = tokenizer.backend_tokenizer
    names = sorted(backend.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
    # Byte-level vocabularies write a line break as `Ċ`.
    across = [number for name, number in names if ("\n" in name or "Ċ" in name) and len(name) > 1]
    words = [number for name, number in names if END_OF_WORD_INSIDE.search(name)]
    broken = [LINE_BREAK.split(text, maxsplit=1) for text in backend.decode_batch([[n] for n in _some(across)])]
    ends = [texts[0] for texts in broken]
    starts = [texts[-1] for texts in broken if len(texts) > 1]
    ends += [text.strip() for text in backend.decode_batch([[n] for n in _some(words)])]
    return _lines(ends), _lines(starts)


def _some(numbers: list[int]) -> list[int]:
    """At most `FROM_VOCABULARY` of them, evenly spread."""
    return numbers[:: max(1, -(-len(numbers) // FROM_VOCABULARY))]


def _lines(texts: list[str]) -> list[str]:
    """The distinct texts of one line."""
    return [text for text in dict.fromkeys(texts) if text and len(text.splitlines()) == 1]


def _trial(ends: list[str], starts: list[str]) -> pl.DataFrame:
    """Prompts with the columns of `schemas.PROMPTS` that are cut."""
    rows = [[f"{start} film{gap}{end}" for start in starts] for end in ENDS for gap in ("", " ")]
    rows += [[f"{start} film{gap}{end}" for start in STARTS] for end in ends for gap in ("", " ")]
    prompts = []
    first_id = 0
    for entries in rows:
        head, heading = "[USER_HASH=1]\n\n", "[HISTORY]\n"
        lines = [*(f"{entry}\n" for entry in entries[:-1]), f"{entries[-1]}\n\n"]
        offsets = [len(head), *accumulate(map(len, lines), initial=len(head) + len(heading))]
        ids = list(range(first_id, first_id + len(lines)))
        first_id += len(lines)
        prompts.append((head + heading + "".join(lines) + "[TASK]\ntask\n\ncue:", "", 0, offsets, ids))
    names = ["prompt", "completion", "text_offset", "history_offsets", "history_ids"]
    return pl.DataFrame(prompts, schema=names, orient="row")
