"""One model on the frozen cohorts: likelihoods, stars, reviews."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import torch.distributed as dist

from persona.code_digest import code_digest
from persona.evaluation.generation import generate_reviews
from persona.evaluation.model import EvaluatedModel
from persona.evaluation.resumable import ResumableWork
from persona.evaluation.scoring.cohort import CohortFiles, score_cohort, star_line_lengths
from persona.evaluation.settings import GenerationSettings
from persona.evaluation.targets import choose_targets
from persona.modeling.processes import process_group
from persona.tables import schemas
from persona.tables.parquet import read_table


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
        model = EvaluatedModel(model_path)
        work = resumable_work(model, None)
        tables = evaluate_model(model, cohorts, targets, max_tokens, cues, settings, work)
        return tables if dist.get_rank() == 0 else None


def resumable_work(model: EvaluatedModel, folder: Path | None) -> ResumableWork:
    """Where finished parts are written, so that a killed evaluation goes on from them.

    Args:
        folder: the caller deletes it when it has written the tables. None writes nothing.
    """
    return ResumableWork(folder, {"model": model.fingerprint(), "code": code_digest(Path(__file__))})


def evaluate_model(
    model: EvaluatedModel,
    cohorts: dict[str, CohortFiles],
    targets: pl.DataFrame,
    max_tokens: int,
    cues: tuple[str, str | None],
    settings: GenerationSettings,
    work: ResumableWork,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """As `evaluate`, within a process group, for a model that may be loaded already.

    Args:
        work: see `resumable_work`.

    Returns:
        The two tables, on every rank.
    """
    generated = _generations(model, cohorts["test"], targets, settings, work)
    scores = [score_cohort(model, name, files, targets, max_tokens, cues, work) for name, files in cohorts.items()]
    return pl.concat(scores), generated


def _generations(
    model: EvaluatedModel, files: CohortFiles, targets: pl.DataFrame, settings: GenerationSettings, work: ResumableWork
) -> pl.DataFrame:
    tokens = read_table(files.tokens, schemas.TOKENS)
    chosen = choose_targets(tokens, settings.n_targets, settings.seed)
    n_star_tokens = max(star_line_lengths(tokens), default=0) if model.is_trained else 0
    written = generate_reviews(model, chosen, settings, work, n_star_tokens)
    keys = targets.select("interaction_id", "user_id", "item_id")
    return written.join(keys, on="interaction_id").select(list(schemas.GENERATIONS.columns))
