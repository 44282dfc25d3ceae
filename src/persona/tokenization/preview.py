"""Shows samples as the model sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from persona.tables import schemas
from persona.tables.parquet import read_parts, read_rows
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import CHUNK

PREVIEWED_SAMPLES = 6
# Several users may be asked of one target: its impostors.
KEY = ["interaction_id", "user_id"]


def read_lengths(prompts: Path, tokens: Path) -> pl.DataFrame:
    """Read how long all samples are and how much of them was dropped, one row each.

    Args:
        prompts, tokens: files with the columns of `schemas.PROMPTS` and `schemas.TOKENS`.
    """
    length = pl.col("input_ids").list.len().cast(pl.Int64)
    samples = pl.concat(
        part.with_columns(length=length, loss=length - pl.col("prompt_length")).drop("input_ids")
        for part in read_parts(tokens, schemas.TOKENS, CHUNK)
    )
    n_history = pl.col("history_ids").list.len() + pl.col("n_history_left_out")
    columns = [*KEY, "history_ids", "n_history_left_out", "n_context"]
    lengths = pl.concat(
        part.with_columns(n_history=n_history).drop("history_ids")
        for part in read_parts(prompts, schemas.PROMPTS, CHUNK, columns=columns)
    )
    return samples.join(lengths, on=KEY).sort(KEY)


def trimming(lengths: pl.DataFrame, fit: FitSettings, overlong: int) -> dict[str, int]:
    """Count the targets, and how many of them were trimmed, and why; `set_aside` are the ones too long to fit.

    `trimmed_for_completion` are those of which more was dropped because their own text is longer than the reserve. Of
    these the length of the prompt says something about the length of the text. `history_limited_by_characters` are
    those that might have shown more if prompts held more characters of history.
    """
    return {
        "targets": lengths.height,
        "set_aside": overlong,
        "completion_reserve": fit.reserve,
        "history_trimmed": int((lengths["n_history_dropped"] > 0).sum()),
        "history_limited_by_characters": lengths.filter(
            pl.col("n_history_left_out") > 0, pl.col("n_history_dropped") == pl.col("n_history_left_out")
        ).height,
        "context_trimmed": int((lengths["n_context_dropped"] > 0).sum()),
        "longer_than_reserve": int((lengths["loss"] > fit.reserve).sum()),
        "trimmed_for_completion": int(lengths["is_cut_for_completion"].sum()),
    }


def preview(
    lengths: pl.DataFrame, prompts: Path, tokens: Path, tokenizer: Any, n_samples: int, fit: FitSettings, overlong: int
) -> str:
    """Show a few samples with their loss tokens marked, below statistics of the lengths of all samples.

    Args:
        lengths: from `read_lengths`.
        prompts, tokens: files with the columns of `schemas.PROMPTS` and `schemas.TOKENS`.
        n_samples: how many to show; half of them are those with the longest history.
        overlong: the number of targets that do not fit.
    """
    # A mistake is most likely to show in a long history.
    longest = lengths.sort("n_history", descending=True, maintain_order=True).head(n_samples // 2)
    chosen = pl.concat([longest, lengths.head(n_samples)]).unique(KEY, maintain_order=True).head(n_samples)
    blocks = [_length_table(lengths, fit, overlong)]
    for target, user, n_history in chosen.select(*KEY, "n_history").iter_rows():
        only = pl.Series([target]), (user, f"{user}0")
        both = read_rows(prompts, schemas.PROMPTS, *only).join(read_rows(tokens, schemas.TOKENS, *only), on=KEY)
        row = both.row(by_predicate=pl.col("user_id") == user, named=True)
        ids, start = row["input_ids"], row["prompt_length"]
        blocks.append(
            f"=== interaction {target}, user {user}: {len(ids)} tokens, {start} of prompt, "
            f"{len(ids) - start} with loss (between >>> and <<<); history {n_history} entries, "
            f"{row['n_history_dropped']} dropped; context {row['n_context']} turns, "
            f"{row['n_context_dropped']} dropped\n"
            f"{tokenizer.decode(ids[:start])}>>>{tokenizer.decode(ids[start:])}<<<"
        )
    return "\n\n".join(blocks) + "\n"


def _length_table(lengths: pl.DataFrame, fit: FitSettings, overlong: int) -> str:
    length, counts = lengths["length"], trimming(lengths, fit, overlong)
    quantiles = "  ".join(f"{q:.0%} {int(length.quantile(q, 'nearest') or 0)}" for q in (0, 0.25, 0.5, 0.75, 0.95, 1))
    return (
        f"{lengths.height:,} samples, {length.sum():,} tokens, {lengths['loss'].sum():,} of them with loss; "
        f"{overlong:,} samples set aside because they do not fit\n"
        f"tokens per sample: {quantiles}\n"
        f"with history: {(lengths['n_history'] > 0).sum():,}"
        f"   with context: {(lengths['n_context'] > 0).sum():,}"
        f"   history trimmed: {counts['history_trimmed']:,} samples, {lengths['n_history_dropped'].sum():,} entries"
        f"   context trimmed: {counts['context_trimmed']:,} samples\n"
        f"longer than the {fit.reserve:,} tokens reserved for the completion: {counts['longer_than_reserve']:,}, "
        f"of which {counts['trimmed_for_completion']:,} were trimmed more for that"
    )
