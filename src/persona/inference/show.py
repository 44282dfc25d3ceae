"""What the results hold of a user or of one text, whatever the stage: a look-up, which computes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from persona.inference.lookup import find_target, user_range
from persona.ingestion.formats import FORMATS
from persona.ingestion.settings import Options
from persona.study import Stage, Study
from persona.tables import schemas
from persona.tables.parquet import read_table
from persona.tables.schemas import TableSchema
from persona.tables.splits import read_split
from persona.tokenization.tokenize import trimmed_prompt


@dataclass(frozen=True)
class StageResult:
    """What a stage has of a text. What was not made yet, or does not concern the text, is None.

    Attributes:
        prompt: as the model reads it.
        n_tokens: of the prompt and of the text with its end.
        n_dropped: history entries that did not fit.
        score: the row of `schemas.SCORES`.
        written: the texts of `schemas.GENERATIONS`.
    """

    stage: Stage
    prompt: str | None
    n_tokens: tuple[int, int] | None
    n_dropped: int
    score: dict[str, Any] | None
    written: list[dict[str, Any]]

    @property
    def nll(self) -> float | None:
        """Nats per character."""
        return self.score["nll"] / self.score["n_characters"] if self.score else None

    @property
    def swap_gap(self) -> float | None:
        """Mean NLL with the impostors as users minus that with the own user, in nats per character."""
        if not self.score or not self.score["nll_impostors"]:
            return None
        others = self.score["nll_impostors"]
        return float((sum(others) / len(others) - self.score["nll"]) / self.score["n_characters"])

    @property
    def rank(self) -> tuple[int, int] | None:
        """The place of the own user among all whose prompts the text was scored under, and their number."""
        if not self.score or not self.score["nll_impostors"]:
            return None
        others = self.score["nll_impostors"]
        return 1 + sum(other <= self.score["nll"] for other in others), 1 + len(others)


def texts_of(study: Study, user_id: str) -> pl.DataFrame:
    """The user's texts in time order, with title and split, and the list of samples that each is a target of."""
    texts = read_table(study.table("interactions"), schemas.INTERACTIONS, users=user_range(user_id))
    titles = read_table(study.table("items"), schemas.ITEMS, ["item_id", "title"])
    split = read_split(study.table("split"), user_range(user_id))
    key = [name for name in split.columns if name != "split"]
    samples = [
        _of_user(path, schemas.SAMPLES, user_id).select("interaction_id", sample=pl.lit(path.stem))
        for path in sorted((study.folder / "samples").glob("*.parquet"))
    ]
    empty = pl.DataFrame(schema={"interaction_id": pl.Int64, "sample": pl.String})
    named = pl.concat([empty, *samples]).group_by("interaction_id").agg(pl.col("sample").sort())
    return (
        texts.join(titles, on="item_id", how="left")
        .join(split, on=key, how="left")
        .join(named, on="interaction_id", how="left")
        .sort("position")
    )


def scores_of(study: Study, user_id: str) -> Iterator[StageResult]:
    """The scores of a user's texts, stage by stage in the order of the configuration; nothing else is read."""
    for stage in study.stages.values():
        scores = _of_user(stage.evaluated() / "scores.parquet", schemas.SCORES, user_id)
        for row in scores.iter_rows(named=True):
            yield StageResult(stage, None, None, 0, row, [])


def stage_results(study: Study, target: pl.DataFrame, samples: list[str]) -> Iterator[StageResult]:
    """What each stage has of a text, in the order of the configuration.

    Args:
        target: its row of `schemas.INTERACTIONS`.
        samples: the samples that it is a target of.
    """
    interaction_id, user_id = int(target["interaction_id"][0]), str(target["user_id"][0])

    def row_of(path: Path, schema: TableSchema) -> dict[str, Any] | None:
        rows = _of_user(path, schema, user_id).filter(pl.col("interaction_id") == interaction_id)
        return rows.row(0, named=True) if rows.height else None

    for stage in study.stages.values():
        sample = next((name for name in samples if name in (stage.sample, "val", "test")), None)
        prompt = row_of(stage.prompts(sample), schemas.PROMPTS) if sample else None
        tokens = row_of(stage.tokens(sample), schemas.TOKENS) if sample else None
        written = _of_user(stage.evaluated() / "generations.parquet", schemas.GENERATIONS, user_id)
        yield StageResult(
            stage,
            trimmed_prompt(prompt | tokens) if prompt and tokens else None,
            (tokens["prompt_length"], len(tokens["input_ids"]) - tokens["text_start"]) if tokens else None,
            tokens["n_history_dropped"] if tokens else 0,
            row_of(stage.evaluated() / "scores.parquet", schemas.SCORES),
            written.filter(pl.col("interaction_id") == interaction_id).sort("method", "draw").to_dicts(),
        )


def _of_user(path: Path, schema: TableSchema, user_id: str) -> pl.DataFrame:
    """The rows of a user; none if the file was not made yet."""
    if not path.is_file():
        return pl.DataFrame(schema=schema.columns)
    return read_table(path, schema, users=user_range(user_id))


def raw_row(study: Study, file: str, row: int) -> str | None:
    """The row of the raw data that a text comes from, as it is written there; None if the raw data is gone.

    The file is read until the row, as the ingestion reads it.
    """
    path = Path(study.data["path"])
    if not path.exists():
        return None
    options = Options.model_validate(study.data["options"])
    for batch in FORMATS[study.data["format"]].read(path, options):
        found = batch.rows.filter(pl.col("file") == file, pl.col("row") == row)
        if found.height:
            return str(found["raw"][0])
    return None


def target_and_samples(study: Study, interaction_id: int) -> tuple[pl.DataFrame, list[str], str | None]:
    """A text's row of `schemas.INTERACTIONS`, the samples that it is a target of, and its split.

    Raises:
        PersonaError: there is no such text.
    """
    target = find_target(study, interaction_id)
    known = texts_of(study, str(target["user_id"][0])).filter(pl.col("interaction_id") == interaction_id)
    row = known.row(0, named=True)
    return target, row["sample"] or [], row["split"]
