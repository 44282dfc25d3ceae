"""Prompt and completion -> token ids that fit, tokenized once.

A prompt is tokenized in pieces: what stands before the history, each history entry, what stands after.
Every distinct piece is tokenized once, however many targets it serves. The ids are those of the whole text
because a piece ends with a line break and the next begins with a visible character, where the
pre-tokenizers of this family split anyway; `check_assembly` makes sure of it for the tokenizer at hand.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import polars as pl
from jinja2 import TemplateError

from persona.errors import PersonaError

_PROMPT, _COMPLETION = "\x02prompt\x03", "\x02completion\x03"
CHECKED_SAMPLES = 64


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
    backend = tokenizer.backend_tokenizer if special else _without_added_tokens(tokenizer)
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


@lru_cache(maxsize=2)
def _without_added_tokens(tokenizer: Any) -> Any:
    """The same tokenizer for texts of users: it knows no `<|im_end|>`, `<think>` or other added token."""
    from tokenizers import Tokenizer

    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    return Tokenizer.from_str(json.dumps(settings | {"added_tokens": [], "post_processor": None}))


def tokenize(prompts: pl.DataFrame, tokenizer: Any, max_length: int) -> pl.DataFrame:
    """Tokenize every prompt with its completion; drop the oldest history entries of those that do not fit.

    Returns:
        The columns of `artefacts.TOKENS`. `input_ids` is prompt, completion and end token; the first
        `prompt_length` of them are the prompt.

    Raises:
        PersonaError: a target does not fit even without history.
    """
    frame = chat_frame(tokenizer)
    before, between, end = encode(tokenizer, [frame.before, frame.between, frame.end], special=True)
    fixed = len(before) + len(between) + len(end)
    prompts = prompts.sort("user_id", "interaction_id").with_row_index("row")
    pieces = _with_tokens(_pieces(prompts), tokenizer)
    completions = _with_tokens(prompts.select("row", text="completion"), tokenizer)
    kept = _fit(pieces, completions, max_length - fixed)
    _check_fit(prompts, kept, completions, fixed, max_length)
    bodies = kept.group_by("row", maintain_order=True).agg(pl.col("ids").explode(empty_as_null=False))
    dropped = _count_dropped(pieces, kept)
    return (
        bodies.join(completions.select("row", completion_ids="ids"), on="row", maintain_order="left")
        .join(dropped, on="row", maintain_order="left")
        .join(prompts.select("row", "interaction_id", "user_id"), on="row", maintain_order="left")
        .select(
            "interaction_id",
            "user_id",
            input_ids=pl.concat_list(_ids(before), "ids", _ids(between), "completion_ids", _ids(end)),
            prompt_length=pl.col("ids").list.len().cast(pl.Int32) + len(before) + len(between),
            n_history_dropped="n_history_dropped",
        )
    )


def _ids(tokens: list[int]) -> pl.Expr:
    return pl.lit(tokens, dtype=pl.List(pl.Int32))


def _pieces(prompts: pl.DataFrame) -> pl.DataFrame:
    """Long table of the pieces: `row`, `piece` (0 head, 1 heading, 2.. entries, last tail), `is_entry`, `text`."""
    length = pl.col("prompt").str.len_chars().cast(pl.Int32)
    starts = pl.concat_list(pl.lit(0, dtype=pl.Int32), "history_offsets")
    ends = pl.concat_list("history_offsets", length)
    long = (
        prompts.select("row", "prompt", n=pl.col("history_offsets").list.len(), start=starts, end=ends)
        .explode("start", "end", empty_as_null=False)
        .with_columns(piece=pl.int_range(pl.len()).over("row"))
    )
    return long.select(
        "row",
        "piece",
        is_heading=(pl.col("n") > 0) & (pl.col("piece") == 1),
        is_entry=(pl.col("piece") >= 2) & (pl.col("piece") < pl.col("n")),
        text=pl.col("prompt").str.slice(pl.col("start"), pl.col("end") - pl.col("start")),
    )


def _with_tokens(texts: pl.DataFrame, tokenizer: Any) -> pl.DataFrame:
    """Add `ids` and their number `n`; each distinct text is tokenized once."""
    unique = texts["text"].unique(maintain_order=True)
    ids = pl.Series(encode(tokenizer, unique.to_list(), special=False), dtype=pl.List(pl.Int32))
    table = pl.DataFrame({"text": unique, "ids": ids}).with_columns(n=pl.col("ids").list.len().cast(pl.Int64))
    return texts.join(table, on="text", how="left", maintain_order="left")


def _fit(pieces: pl.DataFrame, completions: pl.DataFrame, budget: int) -> pl.DataFrame:
    """The pieces that stay: all but the oldest entries, and the heading only with at least one entry."""
    room = (
        pieces.filter(~pl.col("is_entry"))
        .group_by("row")
        .agg(taken=pl.col("n").sum())
        .join(completions.select("row", completion="n"), on="row")
        .select("row", room=budget - pl.col("taken") - pl.col("completion"))
    )
    entry_tokens = pl.when("is_entry").then("n").otherwise(0)
    from_here_on = entry_tokens.cum_sum(reverse=True).over("row")
    fitted = pieces.join(room, on="row", how="left", maintain_order="left").with_columns(
        stays=~pl.col("is_entry") | (from_here_on <= pl.col("room"))
    )
    has_entries = (pl.col("is_entry") & pl.col("stays")).any().over("row")
    return fitted.filter(pl.col("stays") & (~pl.col("is_heading") | has_entries))


def _count_dropped(pieces: pl.DataFrame, kept: pl.DataFrame) -> pl.DataFrame:
    def count(table: pl.DataFrame, name: str) -> pl.DataFrame:
        return table.group_by("row").agg(pl.col("is_entry").sum().cast(pl.Int32).alias(name))

    return (
        count(pieces, "all")
        .join(count(kept, "kept"), on="row")
        .select("row", n_history_dropped=pl.col("all") - pl.col("kept"))
    )


def _check_fit(
    prompts: pl.DataFrame, kept: pl.DataFrame, completions: pl.DataFrame, fixed: int, max_length: int
) -> None:
    lengths = (
        kept.group_by("row")
        .agg(pl.col("n").sum())
        .join(completions.select("row", completion="n"), on="row")
        .select("row", length=pl.col("n") + pl.col("completion") + fixed)
    )
    too_long = lengths.filter(pl.col("length") > max_length).sort("length", descending=True)
    if too_long.height:
        row, length = too_long.row(0)
        raise PersonaError(
            f"{too_long.height} targets do not fit max_length {max_length} even without history; the longest, "
            f"interaction_id {prompts['interaction_id'][int(row)]}, has {length} tokens: raise the model's max_length"
        )


def check_assembly(prompts: pl.DataFrame, tokens: pl.DataFrame, tokenizer: Any) -> None:
    """Compare some targets, trimmed ones too, with the ids of their whole text, tokenized at once.

    Raises:
        PersonaError: they differ, so this tokenizer cannot be used piece by piece.
    """
    frame = chat_frame(tokenizer)
    before, between, end = encode(tokenizer, [frame.before, frame.between, frame.end], special=True)
    both = prompts.join(tokens, on="interaction_id")
    chosen = both.gather_every(max(1, math.ceil(both.height / CHECKED_SAMPLES)))
    for row in chosen.iter_rows(named=True):
        text = _trimmed(row["prompt"], row["history_offsets"], row["n_history_dropped"])
        prompt, completion = encode(tokenizer, [text, row["completion"]], special=False)
        if before + prompt + between + completion + end != row["input_ids"]:
            raise PersonaError(
                f"interaction_id {row['interaction_id']}: this tokenizer gives other tokens for the whole prompt than "
                "for its pieces; use a prompt style whose history entries start on a line of their own"
            )


def _trimmed(prompt: str, offsets: list[int], n_dropped: int) -> str:
    """The prompt without its oldest entries, and without the section when none is left."""
    if not n_dropped:
        return prompt
    n_entries = len(offsets) - 2
    start = offsets[0] if n_dropped == n_entries else offsets[1]
    return prompt[:start] + prompt[offsets[1 + n_dropped] :]


def preview(prompts: pl.DataFrame, tokens: pl.DataFrame, tokenizer: Any, n_samples: int) -> str:
    """A few samples as the model sees them, and how long all of them are."""
    both = prompts.join(tokens, on=["user_id", "interaction_id"]).sort("interaction_id")
    # Half of them with the longest history, where a mistake would show, half as they come.
    longest = both.sort(pl.col("history_ids").list.len(), descending=True).head(n_samples // 2)
    chosen = pl.concat([longest, both.head(n_samples)]).unique("interaction_id", maintain_order=True).head(n_samples)
    blocks = [_length_table(tokens, both)]
    for row in chosen.iter_rows(named=True):
        ids, start = row["input_ids"], row["prompt_length"]
        blocks.append(
            f"=== interaction {row['interaction_id']}, user {row['user_id']}: {len(ids)} tokens, {start} of prompt, "
            f"{len(ids) - start} with loss (between >>> and <<<); history {len(row['history_ids'])} entries, "
            f"{row['n_history_dropped']} dropped; context {row['n_context']} turns\n"
            f"{tokenizer.decode(ids[:start])}>>>{tokenizer.decode(ids[start:])}<<<"
        )
    return "\n\n".join(blocks) + "\n"


def _length_table(tokens: pl.DataFrame, both: pl.DataFrame) -> str:
    length = tokens["input_ids"].list.len()
    loss = length.cast(pl.Int64) - tokens["prompt_length"]
    trimmed = (tokens["n_history_dropped"] > 0).sum()
    quantiles = "  ".join(f"{q:.0%} {int(length.quantile(q, 'nearest') or 0)}" for q in (0, 0.25, 0.5, 0.75, 0.95, 1))
    return (
        f"{tokens.height:,} samples, {length.sum():,} tokens, {loss.sum():,} of them with loss\n"
        f"tokens a sample: {quantiles}\n"
        f"with history: {(both['history_ids'].list.len() > 0).sum():,}"
        f"   with context: {(both['n_context'] > 0).sum():,}"
        f"   history trimmed: {trimmed:,} samples, {tokens['n_history_dropped'].sum():,} entries"
    )
