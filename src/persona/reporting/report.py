"""The report: one page that compares the stages in English and Chinese and needs no network."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from persona.evaluation.metrics.stars import why_no_stars
from persona.evaluation.targets import choose_targets
from persona.reporting.evidence import AUTHOR_BASELINES, Bilingual, Evidence, note_in_both
from persona.reporting.legend import TERMS, legend
from persona.reporting.plots import Picture
from persona.reporting.stages import Stage
from persona.reporting.verdict import METRICS, verdict

EXAMPLES = 6
PHASES = {
    "loading": ("loading", "加载"),
    "steps": ("steps", "训练步"),
    "validation": ("validation", "验证"),
    "saving": ("saving", "保存检查点"),
    "export": ("export", "导出模型"),
    "loading for evaluation": ("loading for evaluation", "评测前加载"),
    "scoring": ("scoring", "打分"),
    "writing texts": ("writing texts", "生成文本"),
}
SUBGROUPS = {
    "with_history": ("with earlier texts", "有更早的文本"),
    "without_history": ("without earlier texts", "没有更早的文本"),
    "with_context": ("with a conversation", "有对话"),
    "without_context": ("without a conversation", "没有对话"),
}
CONDITIONS = {
    "swap_gap": ("swap gap", "换人似然差"),
    "author": ("author", "作者"),
    "rating": ("stars", "星级"),
}


def page(
    evidence: Evidence, pictures: list[Picture], table: pl.DataFrame, methods: pl.DataFrame, phases: pl.DataFrame
) -> str:
    """The page as HTML.

    Args:
        pictures: from `plots.pictures`.
        table: from `stages.stage_table`.
        methods: from `stages.baseline_table`.
        phases: from `stages.phase_table`.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"svg": Markup, "note": note_in_both}
    english, chinese = zip(*verdict(evidence), strict=True)
    return environment.get_template("page.html.j2").render(
        stages=table.to_dicts(),
        claims={stage.name: stage.claim for stage in evidence.stages},
        without_user={stage.name for stage in evidence.stages if not stage.shows_user},
        verdict=(" ".join(english), "".join(chinese)),
        caution=evidence.caution,
        pictures=pictures,
        contrasts=evidence.contrasts,
        methods=methods.to_dicts(),
        phases=phases.to_dicts(),
        examples=examples(evidence),
        facts=_facts(evidence),
        no_stars=_no_stars(evidence.targets["rating"]),
        trainings=[_training(stage) for stage in evidence.stages],
        versions=_versions(evidence.stages),
        terms=TERMS,
        legend=legend(["personal", "nll", *methods.columns], evidence.candidates),
        author_baseline=AUTHOR_BASELINES[evidence.author_baseline[0]],
        metric_names=METRICS,
        subgroups=_subgroups(evidence.stages),
        counts=evidence.stages[0].metrics["counts"],
        conditions=CONDITIONS,
        phase_names=PHASES,
        ingested=evidence.ingested,
    )


def _facts(evidence: Evidence) -> Bilingual:
    """Data, models, date and code in one line."""
    stages = evidence.stages
    models = ", ".join(sorted({stage.model for stage in stages}))
    days = sorted({str(stage.manifest["finished"])[:10] for stage in stages if "finished" in stage.manifest})
    commits = ", ".join(sorted({str(stage.manifest["commit"]) for stage in stages if stage.manifest.get("commit")}))
    day = " – ".join(sorted({days[0], days[-1]})) if days else ""
    return (
        f"Data set {evidence.dataset}; model {models}"
        + (f"; trained {day}" if day else "")
        + (f"; code {commits}" if commits else ""),
        f"数据集 {evidence.dataset}；模型 {models}"
        + (f"；训练于 {day}" if day else "")
        + (f"；代码 {commits}" if commits else ""),
    )


def _no_stars(ratings: pl.Series) -> Bilingual | None:
    reason = why_no_stars(ratings)
    return (f"{reason[0].upper()}{reason[1:]}.", "未询问星级：评分不全是 1 到 5 的整数。") if reason else None


def _subgroups(stages: list[Stage]) -> list[dict[str, Any]]:
    """Swap gap and author identification of each stage in each group of targets that it has."""
    return [
        {"stage": stage.name, "group": SUBGROUPS[name], **metrics}
        for stage in stages
        for name, metrics in stage.metrics["subgroups"].items()
    ]


def _training(stage: Stage) -> dict[str, Any]:
    """How a stage was trained, from its manifest."""
    manifest, recipe = stage.manifest, stage.manifest["parameters"]
    epochs, most, lora = stage.counts["epoch"], recipe["max_epochs"], recipe["lora"]
    rate, samples = f"{recipe['learning_rate']:g}", recipe["samples_per_step"]
    return {
        "stage": stage.name,
        "model": f"{stage.model} ({stage.base_model})",
        "recipe": (
            f"{stage.recipe}: learning rate {rate}, {samples} samples a step, {epochs} of at most {most} epochs"
            + (", LoRA" if lora else ""),
            f"{stage.recipe}：学习率 {rate}，每步 {samples} 个样本，最多 {most} 轮，训练了 {epochs} 轮"
            + ("，LoRA" if lora else ""),
        ),
        "hardware": manifest["hardware"],
        "finished": str(manifest.get("finished", ""))[:16].replace("T", " "),
        "commit": manifest.get("commit"),
    }


def _versions(stages: list[Stage]) -> str:
    """Versions of the packages; several where trainings had different ones."""
    names = stages[0].manifest["versions"]
    found = {name: sorted({stage.manifest["versions"].get(name, "?") for stage in stages}) for name in names}
    writers = sorted({name for stage in stages for name in stage.generations["written_by"].drop_nulls().unique()})
    texts = [f"texts written by {' / '.join(writers)}"] if writers else []
    return ", ".join([*(f"{name} {' / '.join(versions)}" for name, versions in found.items()), *texts])


def examples(evidence: Evidence) -> list[dict[str, Any]]:
    """Some of the targets for which texts were written, chosen at random: the real text, and what each model wrote.

    Users are named by the first digits of a hash of their id.
    """
    ids = evidence.stages[0].generations["interaction_id"].unique()
    written_for = evidence.targets.filter(pl.col("interaction_id").is_in(ids.implode()))
    # Another seed than that of the evaluation: the first of its order have their texts written.
    return [_example(evidence, target) for target in choose_targets(written_for, EXAMPLES, 1).iter_rows(named=True)]


def _example(evidence: Evidence, target: dict[str, Any]) -> dict[str, Any]:
    stages = evidence.stages
    tables = {f"untrained, {s.model}, {s.ablation}": s.untrained.generations for s in stages}
    tables |= {stage.name: stage.generations for stage in stages}
    is_target = pl.col("interaction_id") == target["interaction_id"]
    written = {}
    for name, table in tables.items():
        rows = table.filter(is_target & (pl.col("draw") == 0))
        written[name] = dict(rows.select("method", "text").iter_rows())
    return {
        "title": evidence.titles.get(target["item_id"]) or target["item_id"],
        "user": hashlib.sha256(target["user_id"].encode()).hexdigest()[:8],
        "n_history": target["n_history"],
        "rating": target["rating"],
        "real": target["text"],
        "prompt": stages[-1].prompts.filter(is_target)["prompt"][0],
        "written": written,
    }
