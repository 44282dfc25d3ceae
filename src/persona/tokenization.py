"""Prompt and completion -> token ids that fit, tokenized once.

A prompt is tokenized in pieces: what stands before the history, each history entry, what stands after.
Every distinct piece is tokenized once, however many targets it serves. The ids are those of the whole text
because the pieces meet where the pre-tokenizers of this family split anyway: after line breaks, and after an
entry's last letter or digit; `check_assembly` makes sure of it for the tokenizer at hand.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from jinja2 import TemplateError

from persona import artefacts
from persona.errors import PersonaError

Ints = npt.NDArray[Any]
Window = Literal["anchored", "recent"]
WINDOWS: tuple[Window, ...] = get_args(Window)

_PROMPT, _COMPLETION = "\x02prompt\x03", "\x02completion\x03"
# Until the last letter or digit, unless a mark follows, which may become one character with it.
LAST_WORD = r"(?s)^(.*[\p{L}\p{N}])[^\p{L}\p{N}\p{M}][^\p{L}\p{N}]*$"
CHECKED_SAMPLES = 64  # of a file, but at least some of each chunk
CHECKED_OF_A_CHUNK = 8
PREVIEWED_SAMPLES = 6
CHUNK = 16_384  # targets that are tokenized at once


@dataclass(frozen=True)
class ChatFrame:
    """The chat template around one exchange: before the prompt, between, and the token that ends the turn."""

    before: str
    between: str
    end: str


def load_tokenizer(path: str) -> Any:
    """A fast Hugging Face tokenizer with a chat template, from a folder or a hub id.

    Raises:
        PersonaError: there is none, or it does not have what is needed.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise PersonaError(f"{path}: no tokenizer could be loaded: {str(error).splitlines()[0]}") from error
    if not tokenizer.is_fast:
        raise PersonaError(f"{path}: its tokenizer has no fast version (tokenizer.json)")
    if not tokenizer.chat_template:
        raise PersonaError(f"{path}: its tokenizer has no chat template")
    return tokenizer


def chat_frame(tokenizer: Any) -> ChatFrame:
    """Take the chat template apart around one prompt and its completion.

    Raises:
        PersonaError: the template changes the texts, the turn does not end with one special token, or the
            template's markers are not tokens.
    """
    user, assistant = {"role": "user", "content": _PROMPT}, {"role": "assistant", "content": _COMPLETION}
    try:
        opened = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
        closed = tokenizer.apply_chat_template([user, assistant], tokenize=False, add_generation_prompt=False)
    except TemplateError as error:
        raise PersonaError(f"the tokenizer's chat template does not work: {error}") from error
    if opened.count(_PROMPT) != 1 or closed.count(_COMPLETION) != 1:
        raise PersonaError("the tokenizer's chat template does not keep the texts as they are")
    before, between = opened.split(_PROMPT)
    after = closed.split(_COMPLETION)[1]
    end = next((token for token in tokenizer.all_special_tokens if after.startswith(token)), None)
    if end is None:
        raise PersonaError(f"after the assistant's turn the chat template writes {after!r}, not a special token")
    for marker in re.findall(r"<\|[^|<>]+\|>", before + between):
        if len(encode(tokenizer, [marker], special=True)[0]) != 1:
            raise PersonaError(f"the chat template writes {marker}, which is not a token of this tokenizer")
    return ChatFrame(before, between, end)


def encode(tokenizer: Any, texts: list[str], special: bool) -> list[list[int]]:
    """Token ids of texts, without added ones.

    Args:
        special: whether the names of special tokens in the text mean those tokens. For texts of users they
            must not: a review that contains `<|im_end|>` does not end the turn.
    """
    return [encoding.ids for encoding in _encodings(tokenizer, texts, special)]


def _encodings(tokenizer: Any, texts: list[str], special: bool) -> list[Any]:
    backend = tokenizer.backend_tokenizer if special else _without_added_tokens(tokenizer)
    return list(backend.encode_batch_fast(texts, add_special_tokens=False))


@lru_cache(maxsize=2)
def _without_added_tokens(tokenizer: Any) -> Any:
    """The same tokenizer for texts of users: it knows no `<|im_end|>`, `<think>` or other added token."""
    from tokenizers import Tokenizer

    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    return Tokenizer.from_str(json.dumps(settings | {"added_tokens": [], "post_processor": None}))


@dataclass(frozen=True)
class _Pieces:
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


class _Pool:
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


def tokenize_file(
    prompts: Path, tokenizer: Any, max_length: int, bucket: tuple[int, int] = (1, 1), window: Window = "anchored"
) -> Iterator[pl.DataFrame]:
    """`tokenize` for prompts of any number, some users at a time; each time some targets are checked.

    Args:
        bucket: (k, m): the k-th of m parts of the users.
    """
    n = max(1, math.ceil(artefacts.count_rows(prompts) / CHUNK / bucket[1]))
    for some in artefacts.user_ranges(n, bucket):
        table = artefacts.read_table(prompts, artefacts.PROMPTS, users=some)
        tokens = tokenize(table, tokenizer, max_length, window)
        check_assembly(table, tokens, tokenizer, max(CHECKED_OF_A_CHUNK, CHECKED_SAMPLES // n))
        yield tokens


def tokenize(prompts: pl.DataFrame, tokenizer: Any, max_length: int, window: Window = "anchored") -> pl.DataFrame:
    """Tokenize every prompt with its completion; drop the oldest history entries of those that do not fit.

    Where all history is not enough, the oldest turns of the context are dropped as well.

    Args:
        window: which entries stay; see `_stays`.

    Returns:
        The columns of `artefacts.TOKENS`. `input_ids` is prompt, completion and end token; the first
        `prompt_length` of them are the prompt.

    Raises:
        PersonaError: a target does not fit even without history and context.
    """
    rest = prompts.sort("user_id", "interaction_id").with_columns(n_context_dropped=pl.lit(0, dtype=pl.Int32))
    tables: list[pl.DataFrame] = []
    while rest.height or not tables:
        tokens, too_long = _tokenize(rest, tokenizer, max_length, window)
        tables.append(tokens)
        rest = _without_oldest_turn(too_long, max_length)
    return tables[0] if len(tables) == 1 else pl.concat(tables).sort("user_id", "interaction_id")


def _tokenize(
    prompts: pl.DataFrame, tokenizer: Any, max_length: int, window: Window
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The tokens of those that fit, with less history if need be, and the others, with their `n_tokens` without any."""
    frame = chat_frame(tokenizer)
    before, between, end = encode(tokenizer, [frame.before, frame.between, frame.end], special=True)
    pieces = _pieces(prompts)
    pool = _Pool(_encodings(tokenizer, pieces.texts, special=False), [before, between, end])
    lengths = {name: pool.lengths[pieces.rows[name].to_numpy()] for name in pieces.rows.columns}
    fixed = lengths["head"] + lengths["tail"] + lengths["completion"] + len(before) + len(between) + len(end)
    too_long = prompts.with_columns(n_tokens=pl.Series(fixed)).filter(pl.Series(fixed > max_length))
    room = max_length - fixed - lengths["heading"]
    stays = _stays(pool.lengths[pieces.entries].sum(1), pieces.counts, room, max_length, window)
    kept = np.bincount(np.repeat(np.arange(prompts.height), pieces.counts)[stays], minlength=prompts.height)
    n = len(pieces.texts)
    # Without an entry there is no heading either; the text of number 0 is empty.
    sequences = pieces.rows.select(
        pl.concat_list(
            pl.lit(n, dtype=pl.Int64),
            "head",
            pl.when(pl.Series(kept > 0)).then("heading").otherwise(0),
            _as_lists(pieces.entries[stays].ravel(), 2 * kept),
            "tail",
            pl.lit(n + 1, dtype=pl.Int64),
            "completion",
            pl.lit(n + 2, dtype=pl.Int64),
        ).alias("pieces")
    )["pieces"]
    numbers = sequences.explode().to_numpy()
    row = np.repeat(np.arange(prompts.height), sequences.list.len().to_numpy())
    n_tokens = np.bincount(row, weights=pool.lengths[numbers], minlength=prompts.height).astype(np.int64)
    tokens = prompts.select("interaction_id", "user_id", "n_context_dropped").with_columns(
        input_ids=_as_lists(pool.gather(numbers), n_tokens),
        prompt_length=pl.Series(n_tokens - lengths["completion"] - len(end), dtype=pl.Int32),
        n_history_dropped=pl.Series(pieces.counts - kept, dtype=pl.Int32),
    )
    return (tokens.filter(pl.Series(fixed <= max_length)) if too_long.height else tokens), too_long


def _pieces(prompts: pl.DataFrame) -> _Pieces:
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
    return _Pieces(
        texts.to_list(),
        pl.DataFrame({name: number(rows[name]) for name in rows.columns}),
        entries.join(once, on=key, how="left", maintain_order="left").select("body", "rest").to_numpy(),
        prompts["history_ids"].list.len().to_numpy().astype(np.int64),
    )


def _stays(lengths: Ints, counts: Ints, room: Ints, max_length: int, window: Window) -> npt.NDArray[np.bool_]:
    """Which of the history entries stay: of each prompt the last ones.

    `recent`: as many as there is room for. Then the oldest that stays is another for nearly every target of a user,
    and so is every token after it. `anchored`: from the first of them that begins a block of the user's history, a
    block being half of `max_length`. So the oldest that stays is the same for successive targets until one does not
    fit. Where less than a third of the room would be used, as many as there is room for.

    Either depends on the prompt and, as far as both have to fit, on the length of what is to be written; never on
    which targets are trained together.

    Args:
        lengths: tokens of each entry, one prompt after the other.
        counts: entries of each prompt.
        room: tokens that each prompt has for them.
    """
    until = np.cumsum(lengths)
    begins, ends = until - lengths, np.concatenate([[0], until])[np.cumsum(counts)]
    used = np.repeat(ends, counts) - begins
    fits = used <= np.repeat(room, counts)
    if window == "recent":
        return np.asarray(fits)
    row, first = np.repeat(np.arange(len(counts)), counts), np.cumsum(counts) - counts
    block = (begins - begins[first[row]]) // max(1, max_length // 2)
    is_first = np.arange(len(lengths)) == first[row]
    begins_block = is_first | (block != np.roll(block, 1))
    anchors = np.flatnonzero(fits & begins_block & (3 * used >= np.repeat(room, counts)))
    # The first anchor of each prompt that has one, else beyond all entries.
    anchor = np.full(len(counts), len(lengths))
    np.minimum.at(anchor, row[anchors], anchors)
    has_anchor = (anchor < len(lengths))[row]
    return np.asarray(np.where(has_anchor, np.arange(len(lengths)) >= anchor[row], fits))


def _without_oldest_turn(prompts: pl.DataFrame, max_length: int) -> pl.DataFrame:
    """Prompts whose context is shorter by its oldest turn; there are few of them.

    Raises:
        PersonaError: one has no context.
    """
    hopeless = prompts.filter(pl.col("context_offsets").list.len() == 0).sort("n_tokens", "interaction_id")
    if hopeless.height:
        target, n_tokens = hopeless.select("interaction_id", "n_tokens").row(-1)
        raise PersonaError(
            f"{hopeless.height} targets do not fit max_length {max_length} even without history and context; the "
            f"longest, interaction_id {target}, has {n_tokens} tokens: raise the model's max_length"
        )
    prompts = prompts.drop("n_tokens")
    return pl.DataFrame([_drop_turn(row) for row in prompts.iter_rows(named=True)], schema=prompts.schema)


def _drop_turn(row: dict[str, Any]) -> dict[str, Any]:
    offsets = row["context_offsets"]
    # With the last turn the section goes as well.
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
    """A column of lists from their values one after the other and the length of each."""
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))))


def check_assembly(prompts: pl.DataFrame, tokens: pl.DataFrame, tokenizer: Any, at_most: int = CHECKED_SAMPLES) -> None:
    """Compare some targets, trimmed ones too, with the ids of their whole text, tokenized at once.

    Raises:
        PersonaError: they differ, so this tokenizer cannot be used piece by piece.
    """
    frame = chat_frame(tokenizer)
    before, between, end = encode(tokenizer, [frame.before, frame.between, frame.end], special=True)
    both = prompts.join(tokens, on="interaction_id")
    chosen = both.gather_every(max(1, math.ceil(both.height / at_most)))
    for row in chosen.iter_rows(named=True):
        prompt, completion = encode(tokenizer, [_trimmed(row), row["completion"]], special=False)
        if before + prompt + between + completion + end != row["input_ids"]:
            raise PersonaError(
                f"interaction_id {row['interaction_id']}: this tokenizer gives other tokens for the whole prompt than "
                "for its pieces; use a prompt style whose history entries start on a line of their own"
            )


def _trimmed(row: dict[str, Any]) -> str:
    """The prompt without its oldest turns and history entries, and without a section when none is left."""
    prompt: str = row["prompt"]
    parts = [(row["history_offsets"], row["n_history_dropped"]), (row["context_offsets"], row["n_context_dropped"])]
    # From the end, so that the offsets before it stay right.
    for offsets, n_dropped in sorted(parts, reverse=True):
        if n_dropped:
            start = offsets[0] if n_dropped == len(offsets) - 2 else offsets[1]
            prompt = prompt[:start] + prompt[offsets[1 + n_dropped] :]
    return prompt


def preview(prompts: Path, tokens: Path, tokenizer: Any, n_samples: int) -> str:
    """A few samples as the model sees them, and how long all of them are."""
    n = max(1, math.ceil(artefacts.count_rows(tokens) / CHUNK))
    facts = pl.concat([_facts(prompts, tokens, some) for some in artefacts.user_ranges(n)]).sort("interaction_id")
    # Half of them with the longest history, where a mistake would show, half as they come.
    longest = facts.sort("n_history", descending=True, maintain_order=True).head(n_samples // 2)
    chosen = pl.concat([longest, facts.head(n_samples)]).unique("interaction_id", maintain_order=True).head(n_samples)
    blocks = [_length_table(facts)]
    for target, user in chosen.select("interaction_id", "user_id").iter_rows():
        only = (user, f"{user}0")
        both = artefacts.read_table(prompts, artefacts.PROMPTS, users=only).join(
            artefacts.read_table(tokens, artefacts.TOKENS, users=only), on=["user_id", "interaction_id"]
        )
        row = both.row(by_predicate=pl.col("interaction_id") == target, named=True)
        ids, start = row["input_ids"], row["prompt_length"]
        blocks.append(
            f"=== interaction {target}, user {user}: {len(ids)} tokens, {start} of prompt, "
            f"{len(ids) - start} with loss (between >>> and <<<); history {len(row['history_ids'])} entries, "
            f"{row['n_history_dropped']} dropped; context {row['n_context']} turns, "
            f"{row['n_context_dropped']} dropped\n"
            f"{tokenizer.decode(ids[:start])}>>>{tokenizer.decode(ids[start:])}<<<"
        )
    return "\n\n".join(blocks) + "\n"


def _facts(prompts: Path, tokens: Path, users: tuple[str, str]) -> pl.DataFrame:
    """How long the samples of some users are."""
    about = artefacts.read_table(
        prompts, artefacts.PROMPTS, ["user_id", "interaction_id", "history_ids", "n_context"], users
    )
    about = about.with_columns(n_history=pl.col("history_ids").list.len()).drop("history_ids")
    made = artefacts.read_table(tokens, artefacts.TOKENS, users=users)
    length = pl.col("input_ids").list.len().cast(pl.Int64)
    made = made.with_columns(length=length, loss=length - pl.col("prompt_length")).drop("input_ids")
    return made.join(about, on=["user_id", "interaction_id"])


def _length_table(facts: pl.DataFrame) -> str:
    length, dropped = facts["length"], facts["n_history_dropped"]
    quantiles = "  ".join(f"{q:.0%} {int(length.quantile(q, 'nearest') or 0)}" for q in (0, 0.25, 0.5, 0.75, 0.95, 1))
    return (
        f"{facts.height:,} samples, {length.sum():,} tokens, {facts['loss'].sum():,} of them with loss\n"
        f"tokens a sample: {quantiles}\n"
        f"with history: {(facts['n_history'] > 0).sum():,}"
        f"   with context: {(facts['n_context'] > 0).sum():,}"
        f"   history trimmed: {(dropped > 0).sum():,} samples, {dropped.sum():,} entries"
        f"   context trimmed: {(facts['n_context_dropped'] > 0).sum():,} samples"
    )
