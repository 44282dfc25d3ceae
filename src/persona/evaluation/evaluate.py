"""One model on the frozen cohorts: likelihoods, sampled reviews, stars."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from persona import artefacts
from persona.evaluation.generation import GenerationSettings, generations, rating_metrics
from persona.evaluation.scoring import score_cohorts
from persona.modeling.loading import default_device, default_dtype, load_model
from persona.modeling.loss import CompletionLoss
from persona.tokenization import load_tokenizer


def evaluate(
    model_path: str,
    files: list[tuple[str, Path, Path]],
    max_tokens: int,
    cue: str,
    rating_cue: str,
    settings: GenerationSettings,
) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, float | int]]:
    """Score all cohorts (name, tokens file, prompts file each), and write reviews for some targets of the last.

    Returns:
        The tables `artefacts.SCORES` and `artefacts.GENERATIONS`, and the error of the star predictions.
    """
    device = default_device()
    model = load_model(model_path, default_dtype(device), device).eval()
    _, tokens_file, prompts_file = files[-1]
    tokens = artefacts.read_table(tokens_file, artefacts.TOKENS)
    prompts = artefacts.read_table(prompts_file, artefacts.PROMPTS)
    generated = generations(model, load_tokenizer(model_path), tokens, prompts, cue, rating_cue, settings)
    # Last, because it makes the lm_head return likelihoods instead of logits.
    scores = score_cohorts(CompletionLoss(model), files, max_tokens)
    return scores, generated, rating_metrics(generated, prompts)
