"""The likelihood of every target under a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

from persona import artefacts
from persona.modeling.loss import CompletionLoss
from persona.modeling.packing import TokenTable, fill_rows, pack_row


def score_cohorts(model: CompletionLoss, files: list[tuple[str, Path, Path]], max_tokens: int) -> pl.DataFrame:
    """Score cohorts, each given by name, tokens file and prompts file.

    Returns:
        The columns of `artefacts.SCORES`: `nll` is the sum over the completion's tokens, end token included, in
        nats.
    """
    tables = []
    for cohort, tokens_file, prompts_file in files:
        tokens = artefacts.read_table(tokens_file, artefacts.TOKENS)
        prompts = artefacts.read_table(prompts_file, artefacts.PROMPTS)
        table = TokenTable.from_frame(tokens)
        scored = tokens.select("interaction_id").with_columns(
            cohort=pl.lit(cohort),
            nll=pl.Series(target_nll(model, table, max_tokens)),
            n_tokens=pl.Series(table.completion_lengths),
        )
        texts = prompts.select(
            "interaction_id", "user_id", "item_id", n_characters=pl.col("completion").str.len_chars()
        )
        tables.append(scored.join(texts, on="interaction_id", how="left"))
    return pl.concat(tables)


def target_nll(model: CompletionLoss, table: TokenTable, max_tokens: int) -> np.ndarray:
    """Negative log-likelihood of each target's completion, `[targets]` float64, in nats."""
    nll = torch.zeros(len(table), dtype=torch.float64)
    with torch.inference_mode():
        for members in fill_rows(table.lengths, list(range(len(table))), max_tokens):
            row = pack_row(table, members).to(model.model.device)
            nll.index_add_(0, row.targets.cpu(), model(row).double().cpu())
    return nll.numpy()
