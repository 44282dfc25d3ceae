"""Everything that the report is made of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from persona.evaluation.metrics.intervals import Estimate, codes, estimate
from persona.evaluation.metrics.summary import mean_ranks
from persona.reporting.stages import Stage, shapley_values

# Numbers of earlier texts, from and to.
HISTORY_BINS = [(0, 0), (1, 1), (2, 3), (4, 7), (8, 10**9)]
MIN_BIN_TARGETS = 10

# A text in English and Chinese.
Bilingual = tuple[str, str]
# Baselines of author identification, by their names in `metrics.json`.
AUTHOR_BASELINES: dict[str, Bilingual] = {
    "ngram": ("n-gram model with a user cache", "带用户缓存的 n 元模型"),
    "tfidf_authors": ("character TF-IDF", "字符 TF-IDF"),
}
# A name (None for the free baseline), and acc@1 by index of `HISTORY_BINS`.
Curve = tuple[str | None, dict[int, Estimate]]

NOTES = {
    r"no interval: only (\d+) users?": r"无区间：仅 \1 名用户",
    r"no interval: only (\d+) items?": r"无区间：仅 \1 个条目",
    r"no interval: most targets are of few of the (\d+) users": r"无区间：多数目标来自 \1 名用户中的少数几名",
    r"no interval: most targets are of few of the (\d+) items": r"无区间：多数目标属于 \1 个条目中的少数几个",
    "no interval: no targets": "无区间：没有目标",
    "no interval: the value cannot be computed": "无区间：无法计算",
}


def note_in_both(note: str) -> Bilingual:
    """Why an estimate has no interval (`Estimate.note`), in English and Chinese."""
    return note, next((re.sub(p, words, note) for p, words in NOTES.items() if re.fullmatch(p, note)), note)


@dataclass(frozen=True)
class Evidence:
    """The stages with their rows and metrics, the baselines and the counts of the data.

    Args:
        baselines: their `metrics.json`.
        targets, guesses: `schemas.TARGETS` and `RATINGS`.
        author_baseline: the free baseline that finds authors best on val, from `best_author_baseline`.
        contrasts: from `comparison.compare`; the first is the primary one.
        candidates: number of users among whom an author is identified.
        caution: what a reader must know first, in English and Chinese.
        dataset: its name in the configuration.
        titles: of the items that have one.
        ingested: the counts of `ingest.json`, and `left_out`: users in no split.
    """

    stages: list[Stage]
    baselines: dict[str, Any]
    targets: pl.DataFrame
    author_baseline: tuple[str, pl.DataFrame]
    guesses: pl.DataFrame
    contrasts: list[dict[str, Any]]
    candidates: int
    caution: Bilingual | None
    dataset: str
    titles: dict[str, str]
    ingested: dict[str, Any]

    # Both are computed once and drawn in two languages.
    @cached_property
    def author_curves(self) -> list[Curve]:
        """acc@1 by length of history, for each stage and for the best free baseline."""
        tables: list[tuple[str | None, list[pl.DataFrame]]] = [
            (stage.name, [table.filter(pl.col("cohort") == "test") for table in stage.seeds])
            for stage in self.stages
            if stage.shows_user
        ]
        tables.append((None, [self.author_baseline[1]]))
        return [(name, self._acc_by_history(table)) for name, table in tables]

    @cached_property
    def shapley(self) -> dict[str, dict[str, Any]]:
        """Shapley values of the parts of the prompt; empty if the stages are not enough."""
        return shapley_values(self.stages)

    def _acc_by_history(self, seeds: list[pl.DataFrame]) -> dict[int, Estimate]:
        """acc@1, the mean of the seeds, in each of `HISTORY_BINS` with at least `MIN_BIN_TARGETS` targets."""
        known = self.targets.select("interaction_id", "user_id", "item_id", "n_history")
        ranks = mean_ranks(seeds, self.candidates).join(known, on="interaction_id")
        estimates = {}
        for index, (least, most) in enumerate(HISTORY_BINS):
            subset = ranks.filter(pl.col("n_history").is_between(least, most))
            if subset.height >= MIN_BIN_TARGETS:
                features = np.column_stack([subset["acc"], np.ones(subset.height)])
                estimates[index] = estimate(features, codes(subset["user_id"]), codes(subset["item_id"]))
        return estimates
