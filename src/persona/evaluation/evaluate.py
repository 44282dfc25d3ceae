"""One model on the frozen cohorts: likelihoods, stars, reviews."""

from __future__ import annotations

from typing import Any

import polars as pl
import torch.distributed as dist

from persona.evaluation.generation import generate_reviews
from persona.evaluation.scoring.cohort import CohortFiles, score_cohort
from persona.evaluation.settings import GenerationSettings
from persona.evaluation.targets import choose_targets
from persona.modeling.loading import default_device, default_dtype, load_model
from persona.modeling.loss import CompletionLoss
from persona.modeling.processes import process_group
from persona.tables import schemas
from persona.tables.parquet import read_table
from persona.tokenization.chat import load_tokenizer


def evaluate(
    model_path: str,
    cohorts: dict[str, CohortFiles],
    targets: pl.DataFrame,
    max_tokens: int,
    cues: tuple[str, str | None],
    settings: GenerationSettings,
) -> tuple[pl.DataFrame, pl.DataFrame] | None:
    """Score all cohorts and write reviews for some targets of `test`.

    Every rank of the process group calls it, holds the whole model and does its share of the texts; without a process
    group this process does all of them.

    Args:
        targets: `schemas.TARGETS`.
        max_tokens: of a packed row.
        cues: see `score_cohort`.

    Returns:
        The tables `schemas.SCORES` and `schemas.GENERATIONS`, on rank 0 alone.
    """
    with process_group(deepspeed=False):
        device = default_device()
        model = load_model(model_path, default_dtype(device), device).eval()
        tokenizer = load_tokenizer(model_path)
        generated = _generations(model, tokenizer, cohorts["test"], targets, settings)
        loss = CompletionLoss(model)
        scores = pl.concat(
            [score_cohort(loss, tokenizer, name, files, targets, max_tokens, cues) for name, files in cohorts.items()]
        )
        return (scores, generated) if dist.get_rank() == 0 else None


def _generations(
    model: Any, tokenizer: Any, files: CohortFiles, targets: pl.DataFrame, settings: GenerationSettings
) -> pl.DataFrame:
    tokens = read_table(files.tokens, schemas.TOKENS)
    chosen = choose_targets(tokens, settings.n_targets, settings.seed)
    written = generate_reviews(model, tokenizer, chosen, settings)
    keys = targets.select("interaction_id", "user_id", "item_id")
    return written.join(keys, on="interaction_id").select(list(schemas.GENERATIONS.columns))
