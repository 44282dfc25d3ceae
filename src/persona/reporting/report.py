"""The report: one page that compares the stages in English and Chinese and needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from persona.reporting.evidence import Evidence
from persona.reporting.plots import Picture
from persona.reporting.verdict import verdict

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
    environment.filters["svg"] = Markup
    english, chinese = zip(*verdict(evidence), strict=True)
    return environment.get_template("page.html.j2").render(
        stages=table.to_dicts(),
        claims={stage.name: stage.claim for stage in evidence.stages},
        verdict=(" ".join(english), "".join(chinese)),
        caution=evidence.caution,
        pictures=pictures,
        contrasts=evidence.contrasts,
        methods=methods.to_dicts(),
        phases=phases.to_dicts(),
        examples=examples(evidence),
        candidates=evidence.candidates,
        untrained=table["untrained_test_nll"].to_list(),
        counts=evidence.stages[0].metrics["counts"],
        conditions=CONDITIONS,
        phase_names=PHASES,
        ingested=evidence.ingested,
    )


def examples(evidence: Evidence) -> list[dict[str, Any]]:
    """A few targets: the last stage's prompt, the real text, its star, and the text each stage wrote greedily."""
    ids = evidence.stages[0].generations["interaction_id"].unique(maintain_order=True)
    known = evidence.targets.filter(pl.col("interaction_id").is_in(ids.implode()))
    # Half of them with the longest histories, which have the most information about the user.
    longest = known.sort("n_history", "interaction_id", descending=[True, False]).head(EXAMPLES // 2)
    chosen = pl.concat([longest, known.sort("interaction_id")]).unique("interaction_id", maintain_order=True)
    rows = []
    for target in chosen.head(EXAMPLES).iter_rows(named=True):
        is_target = pl.col("interaction_id") == target["interaction_id"]
        written = {
            stage.name: stage.generations.filter(is_target & (pl.col("method") == "greedy"))["text"][0]
            for stage in evidence.stages
        }
        prompt = evidence.stages[-1].prompts.filter(is_target)["prompt"][0]
        rows.append({"prompt": prompt, "real": target["text"], "rating": target["rating"], "written": written})
    return rows
