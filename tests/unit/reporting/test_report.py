"""The page: whole, escaped, and without anything from the network."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from persona.evaluation.metrics.summary import point_metrics, star_metrics
from persona.reporting.evidence import Evidence
from persona.reporting.plots import pictures
from persona.reporting.report import EXAMPLES, examples, page
from persona.reporting.stages import baseline_table, phase_table, stage_table


def test_the_page_holds_everything_and_escapes_texts(evidence: Evidence) -> None:
    table, methods = stage_table(evidence.stages), baseline_table(evidence.stages, evidence.baselines)
    html = page(evidence, [], table, methods, phase_table(evidence.stages))
    assert "In the primary comparison history is better than quick" in html and "换人似然差" in html
    assert "greedy &lt;b&gt;text" in html and "<b>text" not in html
    assert "42 rows were read: 40 were kept, of 40 users and 10 items, and 2 were rejected." in html
    assert "7 of these users have fewer texts than min_reviews_per_user" in html
    assert 'src="http' not in html and 'href="http' not in html


def test_ratings_of_another_scale_have_a_page_without_measures_of_stars(evidence: Evidence) -> None:
    """As where ratings are half stars: baselines guess them, no stage is asked for stars."""
    half = evidence.targets.with_columns(pl.col("rating") - 0.5)
    guesses = point_metrics(evidence.guesses, half)
    stages = []
    for stage in evidence.stages:
        rows = stage.scores.with_columns(stars=pl.lit(None, pl.List(pl.Float64)))
        metrics = stage.metrics | {"stars": star_metrics([rows], half)}
        stages.append(replace(stage, scores=rows, metrics=metrics, untrained=metrics))
    baselines = evidence.baselines | {"ratings": {"damped_bias": guesses}}
    other = replace(evidence, stages=stages, targets=half, baselines=baselines)
    table, methods = stage_table(stages), baseline_table(stages, baselines)
    html = page(other, pictures(other), table, methods, phase_table(stages))
    assert guesses.keys() == {"rmse", "mae", "tau"} and "rmse" not in table.columns
    assert "damped_bias" in html and "error_by_star" not in html


def test_half_of_the_examples_have_the_longest_histories(evidence: Evidence) -> None:
    rows = examples(evidence)
    assert len(rows) == EXAMPLES
    assert [row["real"] for row in rows[:3]] == [f"text {n} & more" for n in (2, 5, 8)]
    assert rows[0]["written"] == {"quick": "greedy <b>text", "history": "greedy <b>text"}
