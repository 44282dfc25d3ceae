"""Stages side by side in tables."""

from __future__ import annotations

import dataclasses

import pytest

from persona.reporting.evidence import Evidence
from persona.reporting.stages import baseline_table, phase_table, stage_table


def test_a_row_per_stage_with_the_difference_from_the_first(evidence: Evidence) -> None:
    quick, history = stage_table(evidence.stages).to_dicts()
    assert quick["test_nll_less_first"] == 0.0
    assert history["test_nll_less_first"] == pytest.approx(-0.2)
    assert (quick["swap_gap"], history["swap_gap"]) == pytest.approx((0.0, 0.2))


def test_columns_of_stars_are_left_out_without_stars(evidence: Evidence) -> None:
    metrics = evidence.stages[0].metrics | {"stars": {"all": {}, "no_star_named": {}}}
    untrained = dataclasses.replace(evidence.stages[0].untrained, metrics=metrics)
    stages = [dataclasses.replace(stage, metrics=metrics, untrained=untrained) for stage in evidence.stages]
    assert {"rmse", "rmse_low", "leaked"} <= set(stage_table(evidence.stages).columns)
    assert not {"rmse", "rmse_low", "rmse_high", "leaked"} & set(stage_table(stages).columns)
    assert "rmse" not in baseline_table(stages, evidence.baselines | {"ratings": {}}).columns


def test_stages_untrained_models_and_baselines_stand_in_one_table(evidence: Evidence) -> None:
    methods = baseline_table(evidence.stages, evidence.baselines)
    assert methods["method"].to_list() == ["quick", "history", "untrained tiny, history", "n-gram with user cache",
                                           "TF-IDF author", "damped_bias", "commonest"]  # fmt: skip


def test_planned_time_is_that_of_the_epochs_that_were_run(evidence: Evidence) -> None:
    """One of four planned epochs; phases that were not measured are left out."""
    rows = phase_table(evidence.stages).filter(stage="quick").rows()
    assert rows == [("quick", "loading", 5.0, 4.0), ("quick", "steps", 10.0, 9.5), ("quick", "scoring", 2.0, 3.0)]
