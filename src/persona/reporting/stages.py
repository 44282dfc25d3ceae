"""Read each stage's rows, metrics and manifests, and put the stages side by side in tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs

from persona.entries.settings import ALL_ENTRIES, HistorySettings
from persona.evaluation.claims import NOT_ASKED, Claim
from persona.evaluation.comparison import NLL, PARTS, difference, mean_of_seeds, shapley
from persona.evaluation.metrics.intervals import Estimate
from persona.tables import schemas
from persona.tables.parquet import read_table
from persona.training.logs import read_log


@dataclass(frozen=True)
class Untrained:
    """A stage's model before any training, asked with the stage's prompts."""

    metrics: dict[str, Any]
    scores: pl.DataFrame
    generations: pl.DataFrame


@dataclass(frozen=True)
class Stage:
    """One stage: its settings, rows and metrics.

    `seeds` are the rows of each seed, `scores` their mean; manifest, log and generations are those of the first seed.
    """

    name: str
    sample: str
    ablation: str
    recipe: str
    parts: frozenset[str]
    max_samples_per_user: int | None
    model: str
    base_model: str
    prompt_style: str
    n_seeds: int
    metrics: dict[str, Any]
    untrained: Untrained
    seeds: list[pl.DataFrame]
    scores: pl.DataFrame
    generations: pl.DataFrame
    prompts: pl.DataFrame
    manifest: dict[str, Any]
    log: list[dict[str, Any]]
    plan: dict[str, Any] | None
    claim: Claim
    evaluation_seconds: dict[str, float]
    history: HistorySettings = ALL_ENTRIES
    shows_user: bool = True

    @property
    def counts(self) -> dict[str, Any]:
        """Samples, seconds, epochs of the training."""
        counts: dict[str, Any] = self.manifest["counts"]
        return counts

    @property
    def is_given_stars(self) -> bool:
        """Whether texts are scored given their true stars, so that their NLL cannot be compared with that of others."""
        return bool(self.scores["stars_trained"].any())

    def seconds(self) -> dict[str, float]:
        """What the phases took, by the names of the plan. A training by an earlier version did not note all."""
        names = {
            "loading": "loading_seconds",
            "steps": "seconds",
            "validation": "validation_seconds",
            "saving": "saving_seconds",
            "export": "export_seconds",
        }
        training = {phase: self.counts[name] for phase, name in names.items() if name in self.counts}
        return {**training, **self.evaluation_seconds}


def load_stages(
    settings: dict[str, Any], plan: dict[str, Any], judge: Callable[[list[pl.DataFrame]], Claim]
) -> list[Stage]:
    """Read the stages in the order of `settings`.

    Args:
        settings: by stage, from `report_stages` in `workflow/rules/stages.smk`.
        plan: `plan.json`.
        judge: from a stage's scores, one table per seed, to its claim.
    """
    return [_load(name, stage, _times(plan.get(name)), judge) for name, stage in settings.items()]


def _times(plan: dict[str, Any] | None) -> dict[str, Any] | None:
    """A stage's plan if it names times, which it does not where the hardware was not known."""
    return plan if plan and "phases" in plan else None


def _load(
    name: str, stage: dict[str, Any], plan: dict[str, Any] | None, judge: Callable[[list[pl.DataFrame]], Claim]
) -> Stage:
    training = Path(stage["training"][0])
    seeds = [read_table(path, schemas.SCORES) for path in stage["scores"]]
    return Stage(
        name=name,
        sample=stage["sample"],
        ablation=stage["ablation"],
        recipe=stage["recipe"],
        parts=frozenset(part for part in PARTS if stage["parts"][part]),
        max_samples_per_user=stage["max_samples_per_user"],
        model=stage["model"],
        base_model=stage["base_model"],
        prompt_style=stage["prompt_style"],
        n_seeds=len(stage["scores"]),
        metrics=_json(Path(stage["metrics"])),
        untrained=_untrained(Path(stage["untrained"])),
        seeds=seeds,
        scores=mean_of_seeds(seeds),
        generations=read_table(stage["generations"], schemas.GENERATIONS),
        prompts=read_table(stage["prompts"], schemas.PROMPTS, ["interaction_id", "prompt"]),
        manifest=_json(training / "manifest.json"),
        log=read_log(training / "train_log.jsonl"),
        plan=plan,
        claim=judge(seeds) if stage["shows_user"] else NOT_ASKED,
        evaluation_seconds=_json(Path(stage["evaluation_seconds"])),
        history=HistorySettings.model_validate(stage["history"]),
        shows_user=stage["shows_user"],
    )


def _untrained(folder: Path) -> Untrained:
    return Untrained(
        metrics=_json(folder / "metrics.json"),
        scores=read_table(folder / "scores.parquet", schemas.SCORES),
        generations=read_table(folder / "generations.parquet", schemas.GENERATIONS),
    )


def _json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def stage_table(stages: list[Stage]) -> pl.DataFrame:
    """One row per stage. Likelihoods are in nats per character; `_low` and `_high` are 95 % bounds.

    Data without stars has no columns for them.
    """
    rows = []
    for stage in stages:
        likelihood, stars = stage.metrics["likelihood"], stage.metrics["stars"]["all"]
        alike = stage.is_given_stars == stages[0].is_given_stars
        minus_first = difference(stage.seeds, stages[0].seeds, NLL) if alike else Estimate(np.nan)
        minus_untrained = difference(stage.seeds, [stage.untrained.scores], NLL, fixed=True)
        rows.append(
            {
                "stage": stage.name,
                "sample": stage.sample,
                "ablation": stage.ablation,
                "recipe": stage.recipe,
                "seeds": stage.n_seeds,
                "samples": stage.counts["train_samples"],
                "tokens_seen": stage.counts["tokens"],
                "epochs": stage.counts["epoch"],
                "seconds": stage.counts["seconds"],
                **bounds_of("val_nll", likelihood.get("val_nll")),
                **bounds_of("test_nll", likelihood["nll"]),
                "untrained_test_nll": stage.untrained.metrics["likelihood"]["nll"]["value"],
                **bounds_of("test_nll_less_untrained", minus_untrained.as_json()),
                **bounds_of("test_nll_less_first", minus_first.as_json()),
                **bounds_of("swap_gap", likelihood.get("swap_gap")),
                **bounds_of("format_gap", likelihood.get("format_gap")),
                **bounds_of("acc", likelihood.get("acc")),
                **bounds_of("mrr", likelihood.get("mrr")),
                **bounds_of("acc_centred", likelihood.get("acc_centred")),
                **bounds_of("acc_pooled", likelihood.get("acc_pooled")),
                **bounds_of("rmse", stars.get("rmse")),
                **bounds_of("leaked", stars.get("leaked")),
                **bounds_of("chrf", stage.metrics["texts"]["greedy"]["chrf"]),
                "claim": stage.claim.allowed,
            }
        )
    return _without_empty(pl.DataFrame(rows, infer_schema_length=None), ("rmse", "leaked"))


def phase_table(stages: list[Stage]) -> pl.DataFrame:
    """Seconds of each phase of each stage: as planned for the epochs that were run, and as it took."""
    rows = []
    for stage in stages:
        if not stage.plan:
            continue
        most = stage.plan["phases"]["at_most"]
        share = stage.counts["epoch"] / most["epochs"]
        for phase, seconds in stage.seconds().items():
            grows = phase in ("steps", "validation", "saving")
            rows.append((stage.name, phase, most["seconds"][phase] * (share if grows else 1), seconds))
    schema = {"stage": pl.String, "phase": pl.String, "planned_seconds": pl.Float64, "seconds": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _without_empty(table: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Drop the columns `names` that have no values, with their bounds."""
    empty = [name for name in names if not table[name].count()]
    return table.drop(cs.matches(rf"^(?:{'|'.join(empty)})(?:_low|_high)?$")) if empty else table


def bounds_of(name: str, estimate: dict[str, Any] | None) -> dict[str, float | None]:
    """The columns of an estimate: its value and 95 % bounds, null where there is none."""
    estimate = estimate or {}
    return {name: estimate.get("value"), f"{name}_low": estimate.get("low"), f"{name}_high": estimate.get("high")}


def shapley_values(stages: list[Stage]) -> dict[str, dict[str, Any]]:
    """Shapley values of the parts of the prompt, from the first eight stages that differ only in these parts."""
    groups: dict[tuple[Any, ...], dict[frozenset[str], pl.DataFrame]] = {}
    histories = {stage.history for stage in stages if "history" in stage.parts}
    for stage in stages:
        # A stage without history belongs to every kind of history.
        for history in [stage.history] if "history" in stage.parts else histories:
            key = (stage.sample, stage.recipe, stage.prompt_style, stage.n_seeds, history)
            groups.setdefault(key, {}).setdefault(stage.parts, stage.scores)
    complete = (scores for scores in groups.values() if len(scores) == 2 ** len(PARTS))
    return next((shapley(scores) for scores in complete), {})


def baseline_table(stages: list[Stage], baselines: dict[str, Any]) -> pl.DataFrame:
    """Stages, untrained models and baselines: one row per method, one column per metric."""
    rows: list[dict[str, Any]] = []
    for stage in stages:
        rows.append({"method": stage.name, "kind": "stage", **_model_row(stage.metrics)})
    untrained = {(stage.model, stage.ablation): stage.untrained.metrics for stage in stages}
    for (model, ablation), metrics in untrained.items():
        rows.append({"method": f"untrained {model}, {ablation}", "kind": "untrained", **_model_row(metrics)})
    rows.append({"method": "n-gram with user cache", "kind": "baseline", **_values(baselines["ngram"], LIKELIHOOD)})
    rows.append({"method": "TF-IDF author", "kind": "baseline", **_values(baselines["tfidf_authors"], ["acc", "mrr"])})
    for method, metrics in baselines["ratings"].items():
        rows.append({"method": method, "kind": "baseline", **_values(metrics, ["rmse", "mae", "qwk", "tau"])})
    for method, metrics in baselines["texts"].items():
        rows.append({"method": method, "kind": "baseline", **_values(metrics, TEXT)})
    return _without_empty(pl.DataFrame(rows, infer_schema_length=None), [*STARS, "bleu_zh"])


LIKELIHOOD = ["nll", "swap_gap", "acc", "mrr"]
STARS = ["rmse", "mae", "qwk", "rps", "ece", "tau"]
TEXT = ["targets", "chrf", "rouge_l", "bleu_zh", "style_distance", "distinct_2", "self_bleu"]


def _model_row(metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        **_values(metrics["likelihood"], LIKELIHOOD),
        **_values(metrics["stars"]["all"], STARS),
        **_values(metrics["texts"]["greedy"], TEXT),
    }


def _values(metrics: dict[str, Any], names: list[str]) -> dict[str, float | None]:
    values = {name: metrics.get(name) for name in names}
    return {name: value["value"] if isinstance(value, dict) else value for name, value in values.items()}
