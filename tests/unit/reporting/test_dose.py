"""Curves against the dose are those of another fit, are claimed only where there is an effect, and are drawn."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET

import numpy as np
import polars as pl
import pytest
from scipy.optimize import curve_fit

from persona.entries.settings import HistorySettings
from persona.evaluation.comparison import difference
from persona.reporting.dose import Fit, effects, entry_lines, fit_curve, pictures, sample_lines
from persona.reporting.evidence import Evidence
from persona.reporting.stages import Stage
from tests.conftest import ROOT
from tests.unit.reporting.conftest import scores

DOSES = np.array([0.0, 1, 2, 4, 8, 16])


def simulated(most: float, half: float, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values with errors as large as those of their draws."""
    rng = np.random.default_rng(seed)
    spread = noise * np.array([1, 1, 2, 1, 3, 1])
    values = most * DOSES / (DOSES + half) + spread * rng.normal(size=6)
    return values, values + spread * rng.normal(size=(500, 6))


def test_the_curve_is_that_of_another_fit() -> None:
    values, draws = simulated(0.5, 3, 0.02)
    fit = fit_curve(DOSES, values, draws)
    assert isinstance(fit, Fit)
    (most, half), _ = curve_fit(
        lambda k, most, half: most * k / (k + half), DOSES[1:], values[1:], (1, 1), sigma=draws.std(0)[1:]
    )
    assert (fit.most, fit.half) == pytest.approx((most, half), rel=0.02)
    assert fit.next_dose == 32 and fit.predicted == pytest.approx(most * 32 / (32 + half), rel=0.01)
    assert fit.predicted_range[0] < fit.predicted < fit.predicted_range[1]
    assert fit.at(np.array([half])) == pytest.approx(fit.most / 2, rel=0.02)


def test_intervals_hold_the_truth() -> None:
    """95 % of them, within the chance of 60 simulations."""
    held = []
    for seed in range(60):
        fit = fit_curve(DOSES, *simulated(0.5, 3, 0.01, seed))
        assert isinstance(fit, Fit)
        low, high = fit.predicted_range
        held.append(low <= 0.5 * 32 / 35 <= high)
    assert 0.88 <= np.mean(held) <= 1


def test_no_effect_is_no_curve() -> None:
    """In nearly all simulations without an effect; the bound is one-sided 97.5 %."""
    reasons = [fit_curve(DOSES, *simulated(0, 3, 0.02, seed)) for seed in range(100)]
    assert sum(isinstance(reason, Fit) for reason in reasons) <= 7
    assert ("no effect at the largest dose", "最大剂量处没有效应") in reasons


def test_what_the_doses_cannot_tell_is_said() -> None:
    straight, draws = simulated(50, 1000, 0.001)
    assert fit_curve(DOSES, straight, draws)[0].startswith("half of the effect lies beyond")  # type: ignore[index]
    flat, draws = simulated(0.5, 0.001, 0.001)
    assert fit_curve(DOSES, flat, draws)[0].startswith("the smallest dose has nearly")  # type: ignore[index]
    values, draws = simulated(0.5, 3, 0.02)
    dented = values - np.array([0, 0, -0.2, 0, 0, 0])
    reason = fit_curve(DOSES, dented, draws - values + dented)
    assert reason[0] == "a saturating curve does not fit the values"  # type: ignore[index]
    few = fit_curve(DOSES[:3], values[:3], draws[:, :3])
    assert few[0] == "fewer than three doses above 0"  # type: ignore[index]


@pytest.fixture
def stages(evidence: Evidence) -> list[Stage]:
    """Two samples with four doses each; the first dose has no history, once as an ablation without it."""
    made = []
    for n, (sample, most) in enumerate({"two": 0.5, "all": 1.5}.items()):
        for k in (0, 1, 4, 16):
            stage = dataclasses.replace(
                evidence.stages[0],
                name=f"{sample}_{k}",
                sample=sample,
                parts=frozenset() if (k, n) == (0, 0) else frozenset({"history"}),
                history=HistorySettings(max_entries=k),
                manifest={"counts": {"train_samples": 80 + 200 * n}},
                scores=scores(evidence.targets, most * k / (k + 2)),
            )
            made.append(stage)
    return made


def test_stages_are_lines_by_entries_and_by_samples(stages: list[Stage]) -> None:
    other = dataclasses.replace(stages[-1], name="other", recipe="large")
    lines = list(entry_lines([other, *reversed(stages)]))
    assert [line.doses for line in lines] == [[0, 1, 4, 16]] * 2
    assert [stage.name for stage in lines[1].stages] == ["all_0", "all_1", "all_4", "all_16"]
    assert {zero.name for zero in lines[0].zeros} == {"two_0"}
    across = list(sample_lines(lines))
    assert [line.label[0] for line in across] == ["1 entry", "4 entries", "16 entries"]
    assert across[2].doses == [80, 280] and [s.name for s in across[2].stages] == ["two_16", "all_16"]
    # All entries have no number, and two doses are no curve.
    unlimited = dataclasses.replace(stages[0], parts=frozenset({"history"}), history=HistorySettings())
    assert not list(entry_lines([*stages[:2], unlimited]))


def test_effects_are_those_of_a_contrast(stages: list[Stage]) -> None:
    """Paired with the stage without history, over users and items."""
    values, draws = effects(stages[4:], [stages[4]] * 4, "nll")
    expected = difference([stages[4].scores], [stages[7].scores], "nll")
    assert values[0] == 0 and values[3] == pytest.approx(expected.value)
    assert draws is not None and np.quantile(draws[:, 3], 0.025) == pytest.approx(expected.low, rel=0.05)
    gaps, _ = effects(stages[4:], [stages[4]] * 4, "swap_gap")
    # Nats for each of ten characters.
    assert gaps == pytest.approx([0, 0.05, 0.1, 1.5 * 16 / 18 / 10])


def test_what_the_profile_does_is_no_effect_of_the_history(stages: list[Stage], evidence: Evidence) -> None:
    """Without history there is a swap gap as well, which each point has less."""
    shown = [
        dataclasses.replace(stage, scores=scores(evidence.targets, 2.0 + 1.5 * k / (k + 2)))
        for stage, k in zip(stages[4:], (0, 1, 4, 16), strict=True)
    ]
    gaps, draws = effects(shown, [shown[0]] * 4, "swap_gap")
    assert gaps == pytest.approx([0, 0.05, 0.1, 1.5 * 16 / 18 / 10])
    # The targets have no impostors: nothing to draw, and no crash.
    alone = [dataclasses.replace(stage, scores=stage.scores.with_columns(nll_impostors=None)) for stage in shown]
    alone = [dataclasses.replace(s, scores=s.scores.cast({"nll_impostors": pl.List(pl.Float64)})) for s in alone]
    gaps, draws = effects(alone, [alone[0]] * 4, "swap_gap")
    assert np.isnan(gaps).all() and draws is None
    assert pictures(dataclasses.replace(evidence, stages=alone))


def test_the_picture_is_drawn_where_there_are_doses(evidence: Evidence, stages: list[Stage]) -> None:
    assert pictures(evidence) == []
    [picture] = pictures(dataclasses.replace(evidence, stages=stages))
    assert picture.english != picture.chinese
    # Of one sample there is nothing to draw against the number of samples.
    [one] = pictures(dataclasses.replace(evidence, stages=stages[:4]))
    assert "training samples" in picture.english and "training samples" not in one.english
    assert ET.fromstring(picture.english).tag.endswith("svg")
    assert "2 samples a user: half of the effect at 2.0" in picture.caption[0] and "外推到 32 条" in picture.caption[1]
    assert f'"{picture.name}":' in (ROOT / "workflow" / "report" / "plot.rst").read_text(encoding="utf-8")
