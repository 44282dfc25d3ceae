"""The stages side by side: one page that needs no network, in English and Chinese, and the same tables as files."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from persona.reporting import plots
from persona.reporting.stages import Stage, shapley_values

EXAMPLES = 6


@dataclass(frozen=True)
class Evidence:
    """All that the report is made of."""

    stages: list[Stage]
    baselines: dict[str, Any]
    targets: pl.DataFrame
    authors: pl.DataFrame
    guesses: pl.DataFrame
    contrasts: list[dict[str, Any]]
    candidates: int
    caution: tuple[str, str] | None
    ingested: dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """A plot in both languages with its title and what to see in it."""

    name: str
    title: tuple[str, str]
    caption: tuple[str, str]
    english: str
    chinese: str


def pictures(evidence: Evidence) -> list[Picture]:
    """All plots that the data allows."""
    stages, baselines, targets = evidence.stages, evidence.baselines, evidence.targets
    # Resampled once, and drawn in two languages.
    curves = plots.author_curves(stages, targets, evidence.authors, evidence.candidates)
    shares = shapley_values(stages)
    makers: dict[str, Any] = {
        "swap_gap": lambda say: plots.swap_gap(stages, baselines, say),
        "nll_by_stage": lambda say: plots.nll_by_stage(stages, baselines, say),
        "author_by_history": lambda say: plots.author_by_history(curves, evidence.candidates, say),
        "dose_response": lambda say: plots.dose_response(stages, say),
        "shapley": lambda say: plots.shapley_bars(shares, say),
        "reliability": lambda say: plots.reliability(stages, targets, say),
        "error_by_star": lambda say: plots.error_by_star(stages, targets, evidence.guesses, say),
        "lengths": lambda say: plots.lengths(stages, targets, say),
        "copying": lambda say: plots.copying(stages, say),
        "loss_curves": lambda say: plots.loss_curves(stages, say),
        "cost": lambda say: plots.cost(stages, say),
    }
    made = []
    for name, make in makers.items():
        both: list[Figure | None] = [make(plots.english), make(plots.chinese)]
        if both[0] is not None and both[1] is not None:
            title, caption = WORDS[name]
            made.append(Picture(name, title, caption, plots.svg(both[0], name), plots.svg(both[1], f"{name}-zh")))
    return made


def page(evidence: Evidence, made: list[Picture], table: pl.DataFrame, methods: pl.DataFrame) -> str:
    """The whole page; `table` is `stage_table`, `methods` is `baseline_table`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["svg"] = Markup
    template = environment.get_template("page.html.j2")
    return template.render(
        stages=table.to_dicts(),
        claims={stage.name: stage.claim for stage in evidence.stages},
        answer=answer(evidence),
        caution=evidence.caution,
        pictures=made,
        contrasts=evidence.contrasts,
        methods=methods.to_dicts(),
        examples=examples(evidence),
        candidates=evidence.candidates,
        untrained=table["untrained_test_nll"].to_list(),
        counts=evidence.stages[0].metrics["counts"],
        conditions=CONDITIONS,
        ingested=evidence.ingested,
    )


def answer(evidence: Evidence) -> tuple[str, str]:
    """Two sentences: whether personalisation may be claimed, and what the primary contrast or best stage says."""
    allowed = [stage.name for stage in evidence.stages if stage.claim.allowed]
    total = len(evidence.stages)
    if allowed:
        first = (
            f"{len(allowed)} of {total} stages may be said to write as a particular user does: {', '.join(allowed)}.",
            f"{total} 个阶段中有 {len(allowed)} 个可以说学会了像特定用户那样写：{'、'.join(allowed)}。",
        )
    else:
        first = (
            f"None of the {total} stages may be said to write as a particular user does; the table says which of the "
            "conditions each one misses.",
            f"{total} 个阶段都不能说学会了像特定用户那样写；下表列出各自没有满足哪些条件。",
        )
    second = _primary(evidence.contrasts[0]) if evidence.contrasts else _best(evidence.stages)
    return f"{first[0]} {second[0]}", f"{first[1]}{second[1]}"


def _primary(contrast: dict[str, Any]) -> tuple[str, str]:
    """The primary contrast in a sentence. A smaller NLL and a larger swap gap are better."""
    if contrast["low"] is None:
        return (
            f"The primary comparison, {contrast['stage']} with {contrast['against']}, could not be computed.",
            f"主要对比（{contrast['stage']} 与 {contrast['against']}）无法计算。",
        )
    sign = -1 if contrast["metric"] == "nll" else 1
    bounds = sorted((sign * contrast["low"], sign * contrast["high"]))
    verdict = (
        ("is better than", "优于")
        if bounds[0] > 0
        else ("is worse than", "差于")
        if bounds[1] < 0
        else ("is not distinguishable from", "与之无法区分的是")
    )
    name = {"nll": ("test NLL", "测试集负对数似然"), "swap_gap": ("swap gap", "换人差")}[contrast["metric"]]
    figures = f"{contrast['value']:+.4f} [{contrast['low']:+.4f}, {contrast['high']:+.4f}]"
    return (
        f"In the primary comparison {contrast['stage']} {verdict[0]} {contrast['against']} ({name[0]} {figures} nats "
        "per character).",
        f"主要对比中，{contrast['stage']} {verdict[1]} {contrast['against']}（{name[1]}之差 {figures} 奈特/字）。",
    )


def _best(stages: list[Stage]) -> tuple[str, str]:
    best = min(stages, key=lambda stage: float(stage.metrics["likelihood"]["nll"]["value"]))
    value = best.metrics["likelihood"]["nll"]["value"]
    return (
        f"The stage of the smallest test NLL is {best.name}, {value:.3f} nats per character.",
        f"测试集负对数似然最小的阶段是 {best.name}，{value:.3f} 奈特/字。",
    )


def examples(evidence: Evidence) -> list[dict[str, Any]]:
    """A few targets: the prompt of the last stage, the real review, and what each stage's greedy decoding wrote."""
    ids = evidence.stages[0].generations["interaction_id"].unique(maintain_order=True)
    known = evidence.targets.filter(pl.col("interaction_id").is_in(ids.implode()))
    # Half of them with much history, where there is most to be seen.
    most = known.sort("n_history", "interaction_id", descending=[True, False]).head(EXAMPLES // 2)
    chosen = pl.concat([most, known.sort("interaction_id")]).unique("interaction_id", maintain_order=True)
    rows = []
    for target in chosen.head(EXAMPLES).iter_rows(named=True):
        mine = pl.col("interaction_id") == target["interaction_id"]
        written = {
            stage.name: stage.generations.filter(mine & (pl.col("method") == "greedy"))["text"][0]
            for stage in evidence.stages
        }
        prompt = evidence.stages[-1].prompts.filter(mine)["prompt"][0]
        rows.append({"prompt": prompt, "real": target["text"], "rating": target["rating"], "written": written})
    return rows


def short_table(table: pl.DataFrame) -> str:
    """The stages for a terminal."""
    first = table["stage"][0]
    width = max(14, 2 + max(map(len, table["stage"])))
    lines = [
        f"{'stage':<{width}}{'samples':>8}{'seconds':>8}  {'test NLL per character':<22}  {f'less {first}':<24}"
        f"{'swap gap':<24}{'author':>7}"
    ]
    for row in table.iter_rows(named=True):
        less = _interval(row, "test_nll_less_first", "+.3f") if row["stage"] != first else ""
        author = f"{row['acc']:.1%}" if row["acc"] is not None else "-"
        lines.append(
            f"{row['stage']:<{width}}{row['samples']:>8,}{row['seconds']:>8.0f}  "
            f"{_interval(row, 'test_nll', '.3f'):<22}  {less:<24}{_interval(row, 'swap_gap', '+.3f'):<24}"
            f"{author:>7}"
        )
    return "\n".join([*lines, f"untrained model: {table['untrained_test_nll'][0]:.3f}"])


def _interval(row: dict[str, Any], name: str, how: str) -> str:
    if row[name] is None:
        return "-"
    return f"{row[name]:{how}} [{row[f'{name}_low']:{how}}, {row[f'{name}_high']:{how}}]"


def as_markdown(table: pl.DataFrame) -> str:
    """A table as Markdown; numbers with four digits after the point."""

    def cell(value: Any) -> str:
        text = f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
        return html.escape(text, quote=False).replace("|", "\\|")

    lines = [f"| {' | '.join(table.columns)} |", f"|{'---|' * table.width}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(cell, row))} |" for row in table.iter_rows())]) + "\n"


CONDITIONS = {
    "swap_gap": ("swap gap", "换人差"),
    "author": ("author", "作者"),
    "rating": ("stars", "星级"),
}
WORDS: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "swap_gap": (
        ("What the prompt is worth: the user, and the form", "提示词的价值：用户本身与形式"),
        (
            "Left: how much less likely a text becomes under the prompts of other users of the same item (swap gap). "
            "Above 0, the model uses what is this user's own. Right: how much those foreign prompts still help against "
            "a prompt that tells nothing of a user.",
            "左：换成同一条目其他用户的提示词后，文本变得多不可能（换人差）；大于 0 说明模型用到了该用户独有的信息。"
            "右：这些别人的提示词相比不含任何用户信息的提示词还有多大帮助。",
        ),
    ),
    "nll_by_stage": (
        ("Likelihood of unseen users' texts", "未见用户文本的似然"),
        (
            "Lower is better. All stages are scored on the same targets. Hollow points are not stages.",
            "越低越好。所有阶段在同一批目标上评分。空心点不是训练阶段。",
        ),
    ),
    "author_by_history": (
        ("Telling the author, by length of history", "按历史长度认作者"),
        (
            "How often a text is likeliest under its own user's prompt, among users of the same item. Bins of under "
            "10 targets are left out.",
            "文本在自己用户的提示词下最可能的比例（候选为同一条目的用户）。少于 10 个目标的组不画。",
        ),
    ),
    "dose_response": (
        ("How much data it takes", "需要多少数据"),
        (
            "Stages that differ in nothing but the number of training targets a user.",
            "仅每用户训练条数不同的阶段。",
        ),
    ),
    "shapley": (
        ("What each part of the prompt contributes", "提示词各部分的贡献"),
        (
            "Shapley values over all eight combinations of profile, history and context.",
            "对画像、历史、上下文全部八种组合计算的 Shapley 值。",
        ),
    ),
    "reliability": (
        ("Are the star probabilities honest?", "星级概率可靠吗？"),
        (
            "A zero-shot probe: the model was asked for the stars before the text and was not trained to answer. Bins "
            "of under 20 cases are left out.",
            "零样本探测：在写文本之前询问星级，模型没有为此训练过。少于 20 例的组不画。",
        ),
    ),
    "error_by_star": (
        ("Rating error by star", "各星级的评分误差"),
        (
            "Damped bias knows only the item's mean and the user's earlier stars.",
            "阻尼偏置只知道条目均分和用户以前的星级。",
        ),
    ),
    "lengths": (
        ("Lengths of sampled and real texts", "采样文本与真实文本的长度"),
        ("On the same targets.", "在同一批目标上。"),
    ),
    "copying": (
        ("Copying from the training texts", "对训练文本的照抄"),
        (
            "The share of sampled texts that have so many characters in a row from the stage's training texts. Real "
            "texts of users never trained on, against the last stage's texts, show what is normal.",
            "采样文本中与该阶段训练文本连续相同若干字的比例。未参与训练用户的真实文本（对照最后阶段的训练文本）显示正常水平。",
        ),
    ),
    "loss_curves": (
        ("Loss while training", "训练过程中的损失"),
        ("Training loss is averaged over fiftieths of the training.", "训练损失按全程五十分之一取平均。"),
    ),
    "cost": (
        ("Cost planned and spent", "计划成本与实际成本"),
        (
            "Planned from token counts and the configured hardware, for as many epochs as were run.",
            "计划值由词元数和配置的硬件估算，按实际运行的轮数计。",
        ),
    ),
}
