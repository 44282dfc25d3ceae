"""Compares two runs, or two configurations, on the same targets: paired differences, tables and a plot."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import matplotlib
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from persona.errors import PersonaError
from persona.evaluation.comparison import NLL, better_by_user, difference
from persona.evaluation.metrics.intervals import Estimate, holm
from persona.evaluation.metrics.users import user_shares
from persona.reporting.plots import STYLE, forest, svg
from persona.reporting.stages import bounds_of
from persona.study import Stage, Study
from persona.tables import schemas
from persona.tables.parquet import read_table

Metric = Literal["nll", "swap_gap"]
METRICS: tuple[Metric, ...] = ("nll", "swap_gap")
NAMES = {"nll": "test NLL", "swap_gap": "swap gap"}
SHOWN_SETTINGS = 4


@dataclass(frozen=True)
class Run:
    """A stage of one of the two results folders, with its rows."""

    study: Study
    stage: Stage

    @property
    def name(self) -> str:
        """As a message names it."""
        return f"{self.study.folder}:{self.stage.name}"

    @cached_property
    def seeds(self) -> list[pl.DataFrame]:
        """`schemas.SCORES` of the test targets, one table per seed.

        Raises:
            PersonaError: the stage was not evaluated.
        """
        paths = [self.stage.evaluated(run) / "scores.parquet" for run in self.stage.runs]
        for path in paths:
            if not path.is_file():
                raise PersonaError(f"{self.name} was not evaluated ({path} is missing); run snakemake evaluate_all")
        tables = [read_table(path, schemas.SCORES) for path in paths]
        return [table.filter(pl.col("cohort") == "test").sort("interaction_id") for table in tables]

    @cached_property
    def texts(self) -> pl.DataFrame:
        """`interaction_id` and `text` of the test targets."""
        targets = read_table(self.study.table("targets"), schemas.TARGETS, ["interaction_id", "text"])
        return self.seeds[0].select("interaction_id").join(targets, on="interaction_id", how="left")

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Its `metrics.json`; empty if it is not there.

        Raises:
            PersonaError: it is damaged.
        """
        if not self.stage.metrics.is_file():
            return {}
        try:
            metrics: dict[str, Any] = json.loads(self.stage.metrics.read_text(encoding="utf-8"))
        except ValueError as error:
            raise PersonaError(f"{self.stage.metrics}: not JSON; delete it and run snakemake evaluate_all") from error
        return metrics


@dataclass(frozen=True)
class Difference:
    """How a stage of B differs from its partner in A in one metric; the estimate says why it was not computed."""

    name: str
    folders: tuple[str, str]
    metric: Metric
    estimate: Estimate
    per_user: dict[str, Any]
    p_adjusted: float | None


def pairs_of(a: Study, b: Study, stage: str | None, against: str | None) -> list[tuple[Run, Run]]:
    """Which stages of the two results are compared: those of one name, or one of A with another of B.

    Args:
        stage: a stage of A; by default all that B has as well.
        against: its partner in B; by default that of the same name.

    Raises:
        PersonaError: there is no such stage, or none is in both.
    """
    if against is not None and stage is None:
        raise PersonaError("--against names the partner of a stage; name that one with --stage")
    if stage is not None:
        return [(Run(a, a.stage(stage)), Run(b, b.stage(against or stage)))]
    names = [name for name in a.stages if name in b.stages]
    if not names:
        raise PersonaError(
            f"{a.folder} has the stages {', '.join(a.stages)} and {b.folder} has {', '.join(b.stages)}: none in both; "
            "name one of each with --stage and --against"
        )
    return [(Run(a, a.stages[name]), Run(b, b.stages[name])) for name in names]


def check_same_targets(one: Run, other: Run) -> None:
    """Check that two stages were scored on the same texts.

    Raises:
        PersonaError: they were not; the message says how they differ, and which settings do.
    """
    ids = [run.texts for run in (one, other)]
    only = [len(mine.join(others, on="interaction_id", how="anti")) for mine, others in (ids, ids[::-1])]
    both = ids[0].join(ids[1], on="interaction_id", suffix="_other")
    changed = both.filter(pl.col("text") != pl.col("text_other")).height
    if not (any(only) or changed):
        return
    settings = [
        found
        for key in ("name", "format", "synthetic", "min_reviews_per_user", "split", "cohorts", "options")
        for found in _differing(one.stage.data[key], other.stage.data[key], key)
    ]
    because = "; ".join(f"{key}: {a!r} and {b!r}" for key, a, b in settings[:SHOWN_SETTINGS])
    how = f"{both.height:,} test targets are in both, {only[0]:,} only in the first, {only[1]:,} only in the second"
    if changed:
        how += f", and {changed:,} have another text of the same id"
    raise PersonaError(
        f"{one.name} and {other.name} have different cohorts, so they cannot be compared: {how}. "
        + (
            f"Settings that differ: {because}"
            if because
            else "Split and cohorts are set alike; the raw data or the version of this program differs"
        )
    )


def _differing(one: Any, other: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """The settings that differ, by their path."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return [found for key in keys for found in _differing(one.get(key), other.get(key), f"{path}.{key}".strip("."))]
    return [(path, one, other)] if one != other else []


def compare_runs(pairs: list[tuple[Run, Run]]) -> list[Difference]:
    """The differences B - A of each pair in each metric, paired by target; p-values are adjusted by Holm's method.

    Raises:
        PersonaError: the targets of a pair are not the same.
    """
    for one, other in pairs:
        check_same_targets(one, other)
    found = [_difference(one, other, metric) for one, other in pairs for metric in METRICS]
    numbers = [n for n, each in enumerate(found) if np.isfinite(each.estimate.p)]
    adjusted = dict(zip(numbers, holm([found[n].estimate.p for n in numbers]), strict=True))
    return [replace(each, p_adjusted=adjusted.get(n)) for n, each in enumerate(found)]


def _difference(one: Run, other: Run, metric: Metric) -> Difference:
    name = other.stage.name if one.stage.name == other.stage.name else f"{other.stage.name} - {one.stage.name}"
    folders = str(one.study.folder), str(other.study.folder)
    note = _why_not(one, other, metric)
    if note:
        return Difference(name, folders, metric, Estimate(np.nan, note=note), {}, None)
    shares = user_shares(better_by_user(other.seeds, one.seeds, metric))
    return Difference(name, folders, metric, difference(other.seeds, one.seeds, metric), shares, None)


def _why_not(one: Run, other: Run, metric: Metric) -> str | None:
    """Why two stages cannot be compared in a metric, or None."""
    tables = one.seeds[0], other.seeds[0]
    if tables[0]["stars_trained"].any() != tables[1]["stars_trained"].any():
        return "one is scored given the stars and the other is not"
    if metric == NLL:
        return None
    if not (one.stage.shows_user and other.stage.shows_user):
        return "prompts show nothing of the user"
    if not tables[0]["impostor_ids"].equals(tables[1]["impostor_ids"]):
        return "other impostors: evaluation.seed, evaluation.candidates or the targets' blocks differ"
    return None


def difference_table(differences: list[Difference]) -> pl.DataFrame:
    """One row per stage and metric, in nats per character; `p_adjusted` by Holm's method over all rows."""
    rows = [
        {
            "stage": each.name,
            "metric": NAMES[each.metric],
            "a": each.folders[0],
            "b": each.folders[1],
            "b_minus_a": _finite(each.estimate.value),
            "low": _finite(each.estimate.low),
            "high": _finite(each.estimate.high),
            "p": _finite(each.estimate.p),
            "p_adjusted": each.p_adjusted,
            "users_helped": each.per_user.get("helped"),
            "users_harmed": each.per_user.get("harmed"),
            "note": each.estimate.note,
        }
        for each in differences
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def value_table(pairs: list[tuple[Run, Run]]) -> pl.DataFrame:
    """One row per stage and results folder: its main figures with 95 % bounds, from `metrics.json`."""
    rows = []
    for pair in pairs:
        for label, run in zip("ab", pair, strict=True):
            likelihood, texts = run.metrics.get("likelihood", {}), run.metrics.get("texts", {}).get("greedy", {})
            rows.append(
                {
                    "stage": run.stage.name,
                    "run": label,
                    "results": str(run.study.folder),
                    **bounds_of("test_nll", likelihood.get("nll")),
                    **bounds_of("swap_gap", likelihood.get("swap_gap")),
                    **bounds_of("acc", likelihood.get("acc")),
                    **bounds_of("rmse", run.metrics.get("stars", {}).get("all", {}).get("rmse")),
                    **bounds_of("chrf", texts.get("chrf")),
                }
            )
    table = pl.DataFrame(rows, infer_schema_length=None)
    return table.select(column.name for column in table if column.count())


def picture(differences: list[Difference]) -> str:
    """The differences with their intervals, a panel for each metric, as SVG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.2 + 0.5 * len(differences) / len(METRICS)))
        panels = figure.subplots(1, len(METRICS))
        better = {"nll": "below 0: B is better", "swap_gap": "above 0: B is better"}
        for axes, metric in zip(panels, METRICS, strict=True):
            rows = [
                (each.name, each.estimate.as_json() if np.isfinite(each.estimate.value) else None, True)
                for each in differences
                if each.metric == metric
            ]
            forest(axes, rows, lambda english, chinese: english)
            axes.axvline(0, color="black", linewidth=0.8, linestyle=":")
            axes.set_title(f"{NAMES[metric]}, B - A")
            axes.set_xlabel(f"nats per character ({better[metric]})")
        panels[1].set_yticklabels([])
        return svg(figure, "compare")
