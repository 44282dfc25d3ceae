"""The page: whole, escaped, and without anything from the network."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from persona.evaluation.claims import NOT_ASKED
from persona.evaluation.metrics.summary import point_metrics, stage_metrics, star_metrics
from persona.reporting.evidence import Evidence
from persona.reporting.report import EXAMPLES, examples, page
from persona.reporting.stages import baseline_table, phase_table, stage_table


def test_the_page_holds_everything_and_escapes_texts(evidence: Evidence) -> None:
    table, methods = stage_table(evidence.stages), baseline_table(evidence.stages, evidence.baselines)
    html = page(evidence, [], table, methods, phase_table(evidence.stages))
    assert "In the primary comparison history is better than quick" in html and "换人似然差" in html
    assert "greedy &lt;b&gt;text" in html and "<b>text" not in html
    assert "42 rows were read: 40 were kept, of 40 users and 10 items, and 2 were rejected." in html
    assert "7 of these users have fewer texts than min_reviews_per_user" in html
    assert "Data set dmsc; model tiny; trained 2026-11-26; code 1953a857c37a" in html
    assert "tiny: learning rate 0.001, 32 samples a step, 1 of at most 4 epochs" in html
    assert 'src="http' not in html and 'href="http' not in html


def test_ratings_of_another_scale_have_a_page_without_measures_of_stars(evidence: Evidence) -> None:
    """As where ratings are half stars: baselines guess them, no stage is asked for stars."""
    half = evidence.targets.with_columns(pl.col("rating") - 0.5)
    guesses = point_metrics(evidence.guesses, half)
    stages = []
    for stage in evidence.stages:
        rows = stage.scores.with_columns(stars=pl.lit(None, pl.List(pl.Float64)))
        metrics = stage.metrics | {"stars": star_metrics([rows], half)}
        untrained = replace(stage.untrained, scores=rows, metrics=metrics)
        stages.append(replace(stage, scores=rows, seeds=[rows], metrics=metrics, untrained=untrained))
    baselines = evidence.baselines | {"ratings": {"damped_bias": guesses}}
    other = replace(evidence, stages=stages, targets=half, baselines=baselines)
    table, methods = stage_table(stages), baseline_table(stages, baselines)
    html = page(other, [], table, methods, phase_table(stages))
    assert guesses.keys() == {"rmse", "mae", "tau"} and "rmse" not in table.columns
    assert "damped_bias" in html


def test_of_a_stage_that_shows_nothing_of_the_user_nothing_is_asked(evidence: Evidence) -> None:
    """The likelihoods under other users' prompts are there, and would find authors by their hash, or by chance."""
    written = evidence.stages[1].generations
    stages = [evidence.stages[0]]
    for stage in evidence.stages[1:]:
        metrics = stage_metrics(
            stage.seeds, written, evidence.targets, stage.prompts, ["a training text"], evidence.candidates, False
        )
        assert not {"swap_gap", "format_gap", "acc", "mrr_pooled"} & set(metrics["likelihood"])
        assert {"swap_gap", "acc"} <= set(stage.metrics["likelihood"])
        assert metrics["likelihood"]["nll"] == stage.metrics["likelihood"]["nll"]
        stages.append(replace(stage, metrics=metrics, claim=NOT_ASKED, shows_user=False))
    other = replace(evidence, stages=stages)
    table = stage_table(stages)
    html = page(other, [], table, baseline_table(stages, evidence.baselines), phase_table(stages))
    assert html.count("not asked: its prompts show nothing of the user") == 1
    assert table.filter(pl.col("stage") == "history").select("swap_gap", "acc", "claim").row(0) == (None, None, False)
    assert [name for name, _ in other.author_curves] == ["quick", None]


def test_examples_are_drawn_without_a_look_at_them(evidence: Evidence) -> None:
    rows = examples(evidence)
    assert len({row["real"] for row in rows}) == EXAMPLES
    assert rows == examples(evidence)
    # About a third of the targets has no history; the draw does not prefer the others.
    assert any(row["n_history"] == 0 for row in rows)
    assert not any(user in str(row["user"]) for row in rows for user in evidence.targets["user_id"])
    both = {"greedy": "greedy <b>text", "sample": "sample <b>text"}
    assert rows[0]["written"] == {"untrained, tiny, history": both, "quick": both, "history": both}
