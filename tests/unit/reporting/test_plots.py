"""Every plot has its words, and drawing leaves matplotlib's settings alone."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET

import matplotlib
import polars as pl

from persona.reporting.evidence import Evidence
from persona.reporting.plots import PLOTS, pictures
from tests.conftest import ROOT


def test_plots_are_drawn_in_both_languages_with_the_same_bytes_every_time(evidence: Evidence) -> None:
    before = dict(matplotlib.rcParams)
    drawn = pictures(evidence)
    assert dict(matplotlib.rcParams) == before
    assert [picture.name for picture in drawn] == [plot.name for plot in PLOTS if plot.name != "shapley"]
    assert pictures(evidence) == drawn
    for picture in drawn:
        assert ET.fromstring(picture.english).tag.endswith("svg") and picture.english != picture.chinese
        assert f'id="{picture.name}-' in picture.english


def test_where_there_is_no_interval_the_plots_say_why(evidence: Evidence) -> None:
    none = {"low": None, "high": None, "p": None, "note": "no interval: only 3 items"}
    stages = []
    for stage in evidence.stages:
        likelihood = {name: value | none for name, value in stage.metrics["likelihood"].items()}
        stages.append(dataclasses.replace(stage, metrics=stage.metrics | {"likelihood": likelihood}))
    drawn = {picture.name: picture for picture in pictures(dataclasses.replace(evidence, stages=stages))}
    for name in ("swap_gap", "nll_by_stage"):
        assert drawn[name].english.count("no interval: only 3 items") >= len(stages)
        assert "无区间：仅 3 个条目" in drawn[name].chinese
    assert "dose_response" in drawn


def test_data_without_stars_has_no_plots_of_stars(evidence: Evidence) -> None:
    no_stars = evidence.targets.with_columns(rating=pl.lit(None, pl.Float32))
    names = {picture.name for picture in pictures(dataclasses.replace(evidence, targets=no_stars))}
    assert "nll_by_stage" in names and not names & {"reliability", "error_by_star"}


def test_stages_that_were_not_asked_for_stars_are_not_in_their_plots(evidence: Evidence) -> None:
    asked, other = evidence.stages
    not_asked = dataclasses.replace(other, scores=other.scores.with_columns(stars=pl.lit(None, pl.List(pl.Float64))))
    for plot in PLOTS:
        if plot.name in ("reliability", "error_by_star"):
            figure = plot.draw(dataclasses.replace(evidence, stages=[asked, not_asked]), lambda english, _: english)
            assert figure
            labels = figure.axes[0].get_legend_handles_labels()[1]
            assert asked.name in labels and not_asked.name not in labels
            assert plot.draw(dataclasses.replace(evidence, stages=[not_asked]), lambda english, _: english) is None


def test_snakemakes_report_has_a_caption_for_every_plot() -> None:
    captions = (ROOT / "workflow" / "report" / "plot.rst").read_text(encoding="utf-8")
    assert all(f'"{plot.name}":' in captions for plot in PLOTS)
