"""Samples as the model sees them, for people."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl

from persona.tables import schemas
from persona.tables.parquet import count_rows, read_table
from persona.tables.user_ranges import user_ranges
from persona.tokenization.tokenize import CHUNK

PREVIEWED_SAMPLES = 6


def preview(prompts: Path, tokens: Path, tokenizer: Any, n_samples: int) -> str:
    """A few samples as the model sees them, and how long all of them are."""
    n = max(1, math.ceil(count_rows(tokens) / CHUNK))
    facts = pl.concat([_facts(prompts, tokens, some) for some in user_ranges(n)]).sort("interaction_id")
    # Half of them with the longest history, where a mistake would show, half as they come.
    longest = facts.sort("n_history", descending=True, maintain_order=True).head(n_samples // 2)
    chosen = pl.concat([longest, facts.head(n_samples)]).unique("interaction_id", maintain_order=True).head(n_samples)
    blocks = [_length_table(facts)]
    for target, user in chosen.select("interaction_id", "user_id").iter_rows():
        only = (user, f"{user}0")
        both = read_table(prompts, schemas.PROMPTS, users=only).join(
            read_table(tokens, schemas.TOKENS, users=only), on=["user_id", "interaction_id"]
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
    about = read_table(prompts, schemas.PROMPTS, ["user_id", "interaction_id", "history_ids", "n_context"], users)
    about = about.with_columns(n_history=pl.col("history_ids").list.len()).drop("history_ids")
    made = read_table(tokens, schemas.TOKENS, users=users)
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
