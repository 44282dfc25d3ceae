"""Targets that do not fit a model even without history and context: which rows they are, and how many there may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from persona.errors import PersonaError
from persona.tables import schemas
from persona.tables.parquet import count_rows, empty_table, read_parts, read_rows, write_table
from persona.tokenization.chat import encode, frame_ids
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import CHUNK

SHOWN_OF_A_LINE = 40  # characters
KEY = list(schemas.PROMPTS.key)


def find_overlong(prompts: Path, tokens: Path, interactions: Path, tokenizer: Any, fit: FitSettings) -> pl.DataFrame:
    """List the targets of `prompts` that `tokens` lacks, with their rows of the raw data and what is too long.

    Args:
        prompts, tokens, interactions: files with the columns of `schemas.PROMPTS`, `TOKENS` and `INTERACTIONS`.

    Returns:
        The columns of `schemas.OVERLONG`.
    """
    keys, kept = (
        pl.concat(read_parts(path, schema, CHUNK, columns=KEY))
        for path, schema in ((prompts, schemas.PROMPTS), (tokens, schemas.TOKENS))
    )
    missing = keys.join(kept, on=KEY, how="anti")
    if missing.is_empty():
        return empty_table(schemas.OVERLONG)
    parts = (part.join(missing, on=KEY, how="semi") for part in read_parts(prompts, schemas.PROMPTS, CHUNK))
    explained = [
        (row["user_id"], row["interaction_id"], *_explain(row, tokenizer, fit))
        for part in parts
        for row in part.iter_rows(named=True)
    ]
    columns = {name: schemas.OVERLONG.columns[name] for name in (*KEY, "n_tokens", "reason")}
    found = pl.DataFrame(explained, schema=columns, orient="row")
    rows = read_rows(interactions, schemas.INTERACTIONS, found["interaction_id"])
    return found.join(rows.select("interaction_id", "file", "row"), on="interaction_id").select(
        pl.col(name).cast(dtype) for name, dtype in schemas.OVERLONG.columns.items()
    )


def check_share(overlong: pl.DataFrame, prompts: Path, fit: FitSettings, allowed: float, table: Path) -> None:
    """Check that no more than a share of the targets is too long.

    Args:
        overlong: from `find_overlong`.
        prompts: the file that it was found in.
        allowed: the data set's `max_reject_share`.
        table: where to write all of them if there are too many.

    Raises:
        PersonaError: there are more, or nothing is left.
    """
    table.unlink(missing_ok=True)
    n_targets = count_rows(prompts)
    # One row alone never stops a run, however small the sample, unless none is allowed.
    most = max(1, allowed * n_targets) if allowed else 0
    if overlong.is_empty() or (overlong.height <= most and overlong.height < n_targets):
        return
    write_table(overlong, table, schemas.OVERLONG)
    worst = overlong.sort("n_tokens", "interaction_id").row(-1, named=True)
    raise PersonaError(
        f"{prompts}: {overlong.height:,} of {n_targets:,} targets do not fit max_length {fit.max_length:,} even "
        f"without history and context, more than max_reject_share {allowed} allows; the longest is {worst['file']}, "
        f"row {worst['row']}: {worst['reason']}; raise the model's max_length, or shorten the rows in {table}"
    )


def check_same_targets(overlong: dict[str, pl.DataFrame]) -> None:
    """Check that all prompts and models leave out the same targets of a cohort, so that all are scored on the same.

    Args:
        overlong: `schemas.OVERLONG` by the name of what left them out.

    Raises:
        PersonaError: they do not; the message names a row that only some leave out.
    """
    (first, one), *others = overlong.items()
    for name, other in others:
        for without, having, table in ((first, name, one), (name, first, other)):
            rest = table.join(one if table is other else other, on="interaction_id", how="anti")
            if rest.height:
                row = rest.row(0, named=True)
                raise PersonaError(
                    f"{without} leaves out {rest.height:,} targets that {having} has, such as {row['file']}, row "
                    f"{row['row']}: {row['reason']}; all stages are compared on the same targets: raise the model's "
                    "max_length, or shorten or remove these rows"
                )


def _explain(row: dict[str, Any], tokenizer: Any, fit: FitSettings) -> tuple[int, str]:
    """The number of tokens of a target without history and context, and whether text or prompt is too long."""
    prompt = _without_history_and_context(row)
    around = sum(map(len, frame_ids(tokenizer)))
    n_prompt, n_text = map(len, encode(tokenizer, [prompt, row["completion"]], special=False))
    if n_text > n_prompt + around:
        left = max(0, fit.max_length - n_prompt - around)
        return n_prompt + n_text + around, f"text of {n_text:,} tokens, where max_length leaves {left:,}"
    line = max(prompt.splitlines(), key=len)[:SHOWN_OF_A_LINE]
    reason = f"prompt of {n_prompt:,} tokens without history and context; its longest line begins {line!r}"
    return n_prompt + n_text + around, reason


def _without_history_and_context(row: dict[str, Any]) -> str:
    prompt: str = row["prompt"]
    # Start from the end, so that earlier offsets stay valid.
    for offsets in sorted(filter(None, (row["history_offsets"], row["context_offsets"])), reverse=True):
        prompt = prompt[: offsets[0]] + prompt[offsets[-1] :]
    return prompt
