"""One model on the frozen cohorts: likelihoods, stars, reviews."""

from __future__ import annotations

from typing import Any

import polars as pl
import torch.distributed as dist

from persona.evaluation.generation import choose_targets, generate_reviews
from persona.evaluation.scoring.cohort import CohortFiles, score_cohort
from persona.evaluation.settings import GenerationSettings
from persona.modeling.loading import default_device, default_dtype, load_model
from persona.modeling.loss import CompletionLoss
from persona.modeling.processes import end_with_the_launcher, start_processes
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
    """Score all cohorts and write reviews for some targets of `test`. Every process of torchrun calls it.

    Every process holds the whole model and does its share of the texts.

    Returns:
        The tables `schemas.SCORES` and `schemas.GENERATIONS`, on rank 0 alone.
    """
    end_with_the_launcher()
    start_processes()
    device = default_device()
    model = load_model(model_path, default_dtype(device), device).eval()
    tokenizer = load_tokenizer(model_path)
    generated = _generations(model, tokenizer, cohorts["test"], targets, settings)
    # After that, because it makes the lm_head return likelihoods instead of logits.
    loss = CompletionLoss(model)
    scores = pl.concat(
        [score_cohort(loss, tokenizer, name, files, targets, max_tokens, cues) for name, files in cohorts.items()]
    )
    rank = dist.get_rank()
    dist.destroy_process_group()
    return (scores, generated) if rank == 0 else None


def _generations(
    model: Any, tokenizer: Any, files: CohortFiles, targets: pl.DataFrame, settings: GenerationSettings
) -> pl.DataFrame:
    tokens = read_table(files.tokens, schemas.TOKENS)
    chosen = choose_targets(tokens, settings.n_targets, settings.seed)
    written = generate_reviews(model, tokenizer, chosen, settings)
    keys = targets.select("interaction_id", "user_id", "item_id")
    return written.join(keys, on="interaction_id").select(list(schemas.GENERATIONS.columns))
