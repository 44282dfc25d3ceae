"""The plots of the report, each with its title and caption, in English and Chinese.

The stages differ by marker, dash and lightness, so the plots are readable without colour.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from persona.evaluation.comparison import swap_gap_by_user
from persona.evaluation.metrics.stars import BINS, expected_star, normalised, star_array
from persona.evaluation.metrics.users import user_shares
from persona.reporting.evidence import AUTHOR_BASELINES, HISTORY_BINS, Bilingual, Evidence, note_in_both
from persona.reporting.stages import Stage

STYLE = {
    "svg.hashsalt": "persona",  # the same bytes every time
    "svg.fonttype": "none",  # text stays text: the reader's fonts have the Chinese characters
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
MARKERS = "osD^vPX*"
DASHES = ["-", "--", "-.", ":"]
MIN_BIN_CASES = 20

# Chooses the English or the Chinese text.
Say = Callable[[str, str], str]
Draw = Callable[[Evidence, Say], Figure | None]


@dataclass(frozen=True)
class Plot:
    """A plot of the report. `draw` returns None if the stages do not have the data."""

    name: str
    title: Bilingual
    caption: Bilingual
    draw: Draw


@dataclass(frozen=True)
class Picture:
    """A plot drawn in both languages as SVG elements."""

    name: str
    title: Bilingual
    caption: Bilingual
    english: str
    chinese: str


PLOTS: list[Plot] = []


def plot(title: Bilingual, caption: Bilingual) -> Callable[[Draw], Draw]:
    """Add a drawing function to `PLOTS`. The page shows the plots in the order of this file."""

    def register(draw: Draw) -> Draw:
        PLOTS.append(Plot(draw.__name__, title, caption, draw))
        return draw

    return register


def pictures(evidence: Evidence) -> list[Picture]:
    """All plots that the stages have the data for."""
    drawn = (picture(plot, evidence) for plot in PLOTS)
    return [one for one in drawn if one is not None]


def picture(plot: Plot, evidence: Evidence) -> Picture | None:
    """Draw a plot in both languages, without changing matplotlib's global settings."""
    with matplotlib.rc_context(STYLE):
        figures = plot.draw(evidence, english), plot.draw(evidence, chinese)
        if figures[0] is None or figures[1] is None:
            return None
        return Picture(
            plot.name, plot.title, plot.caption, svg(figures[0], plot.name), svg(figures[1], f"{plot.name}-zh")
        )


def english(en: str, zh: str) -> str:
    """Choose the English words."""
    return en


def chinese(en: str, zh: str) -> str:
    """Choose the Chinese words."""
    return zh


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element with the reader's fonts. Its ids begin with `name`, so a page can hold several."""
    stream = io.StringIO()
    with warnings.catch_warnings():
        # matplotlib's own font has no Chinese glyphs, but it is only used to measure text.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")
        figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = stream.getvalue()
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text[text.index("<svg") :])
    return text.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans', 'Noto Sans CJK SC'")


def _figure(height: float = 3.6, panels: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(8, height))
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _look(n: int, of: int) -> dict[str, Any]:
    shade = matplotlib.colormaps["viridis"](0.85 * n / max(1, of - 1))
    return {"color": shade, "marker": MARKERS[n % len(MARKERS)], "linestyle": DASHES[n % len(DASHES)], "markersize": 5}


def _interval(axes: Axes, value: dict[str, Any], height: float, say: Say) -> None:
    """A line from the lower to the upper bound, or the words why there is none."""
    if value["low"] is None:
        axes.annotate(say(*note_in_both(value["note"])), (value["value"], height), xytext=(6, 4),
                      textcoords="offset points", fontsize=7)  # fmt: skip
    else:
        axes.plot([value["low"], value["high"]], [height, height], color="black", linewidth=1)


def _bars(values: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Lengths below and above the values for `errorbar`; 0 where there is no interval."""
    known = [v if v["low"] is not None else dict.fromkeys(v, v["value"]) for v in values]
    return [[max(0.0, v["value"] - v["low"]) for v in known], [max(0.0, v["high"] - v["value"]) for v in known]]


def forest(axes: Axes, rows: Sequence[tuple[str, dict[str, Any] | None, bool]], say: Say) -> None:
    """Points with intervals, one row each. Hollow points are not stages."""
    for index, (_, value, is_stage) in enumerate(rows):
        if value is None:
            continue
        _interval(axes, value, index, say)
        axes.plot(value["value"], index, "o", color="black", markerfacecolor="black" if is_stage else "white")
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)


@plot(
    title=("What the prompt contributes: user and format", "提示词的作用：用户信息与形式"),
    caption=(
        "Left (swap gap): how much the likelihood of a text drops under the prompts of other users of the same item. "
        "Above 0, the model uses information that is specific to this user. Right: how much those other prompts "
        "still help compared with a prompt without user information.",
        "左（换人似然差）：换成同一条目其他用户的提示词后，文本的似然下降多少；"
        "大于 0 说明模型用到了该用户特有的信息。右：与不含用户信息的提示词相比，其他用户的提示词还有多大帮助。",
    ),
)
def swap_gap(evidence: Evidence, say: Say) -> Figure:
    stages, baselines = evidence.stages, evidence.baselines
    figure, panels = _figure(0.45 * len(stages) + 1.6, 2)
    titles = [say("identity (swap gap)", "身份（换人似然差）"), say("format", "格式")]
    for axes, name, title in zip(panels, ("swap_gap", "format_gap"), titles, strict=True):
        rows = [(stage.name, stage.metrics["likelihood"].get(name), True) for stage in stages]
        rows.append((say("n-gram + cache", "n 元 + 缓存"), baselines["ngram"].get(name), False))
        forest(axes, rows, say)
        axes.axvline(0, color="black", linewidth=0.8, linestyle=":")
        axes.set_title(title)
        axes.set_xlabel(say("nats per character", "奈特/字"))
    panels[1].set_yticklabels([])
    return figure


@plot(
    title=("Likelihood of the test texts", "测试文本的似然"),
    caption=(
        "Lower is better. All stages are scored on the same targets. Hollow points are not stages.",
        "越低越好。所有阶段在同一批目标上评分。空心点不是训练阶段。",
    ),
)
def nll_by_stage(evidence: Evidence, say: Say) -> Figure:
    stages, baselines = evidence.stages, evidence.baselines
    rows = [(stage.name, stage.metrics["likelihood"]["nll"], True) for stage in stages]
    rows.append((say("n-gram + user cache", "n 元模型 + 用户缓存"), baselines["ngram"]["nll"], False))
    rows.append((say("untrained model", "未训练模型"), stages[0].untrained.metrics["likelihood"]["nll"], False))
    figure, (axes,) = _figure(0.45 * len(rows) + 1)
    forest(axes, rows, say)
    axes.set_xlabel(say("test NLL (nats per character), 95 % interval", "测试集负对数似然（奈特/字），95% 区间"))
    return figure


@plot(
    title=("Author identification by length of history", "作者识别率与历史长度"),
    caption=(
        "How often a text is most likely under its own user's prompt, among users of the same item. Groups of fewer "
        "than 10 targets are not shown.",
        "文本在其作者的提示词下似然最高的比例（候选为同一条目的用户）。目标少于 10 个的组不显示。",
    ),
)
def author_by_history(evidence: Evidence, say: Say) -> Figure:
    curves, candidates = evidence.author_curves, evidence.candidates
    figure, (axes,) = _figure()
    for n, (name, estimates) in enumerate(curves):
        x = [index + 0.08 * (n - len(curves) / 2) for index in estimates]
        bars = _bars([e.as_json() for e in estimates.values()])
        label = name or say(*AUTHOR_BASELINES[evidence.author_baseline[0]])
        axes.errorbar(
            x, [e.value for e in estimates.values()], bars, label=label, elinewidth=0.8, **_look(n, len(curves))
        )
    axes.axhline(1 / candidates, color="black", linewidth=0.8, linestyle=":", label=say("chance", "随机水平"))
    labels = [str(a) if a == b else f"{a}-{b}" if b < 100 else f"{a}+" for a, b in HISTORY_BINS]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel(say("earlier texts of the user", "该用户更早的文本数（条）"))
    axes.set_ylim(-0.03, 1.05)
    axes.set_ylabel(say(f"author found among {candidates} users (share)", f"{candidates} 名用户中认出作者的比例"))
    axes.legend(fontsize=8)
    return figure


@plot(
    title=("Swap gap of each user", "每个用户的换人似然差"),
    caption=(
        "Users in the order of their own mean, stage by stage; the band is one standard error to both sides, for the "
        "last stage. Noise alone spreads the users too, so the legend gives the share above 0 as observed and, in "
        "brackets, corrected for noise.",
        "各阶段的用户按自己的均值排序；阴影为最后一个阶段的正负一个标准误。仅噪声也会使用户分散，"
        "因此图例给出大于 0 的用户比例：观测值，括号内为去除噪声后的估计。",
    ),
)
def users(evidence: Evidence, say: Say) -> Figure | None:
    effects = [(stage, swap_gap_by_user(stage.scores)) for stage in evidence.stages if stage.shows_user]
    effects = [(stage, table.sort("effect")) for stage, table in effects if table.height]
    if not effects:
        return None
    figure, (axes,) = _figure()
    for n, (stage, table) in enumerate(effects):
        look = {name: value for name, value in _look(n, len(effects)).items() if name in ("color", "linestyle")}
        shares = user_shares(table)
        corrected = shares["helped_corrected"]
        share = f"{shares['helped']:.0%}" + ("" if corrected is None else f" ({corrected:.0%})")
        axes.plot(range(1, table.height + 1), table["effect"], label=f"{stage.name}: {share}", **look)
    low, high = (table["effect"] + sign * table["se"] for sign in (-1, 1))
    if not low.null_count():
        axes.fill_between(range(1, table.height + 1), low, high, color=look["color"], alpha=0.2, linewidth=0)
    axes.axhline(0, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlabel(say("users, from the smallest to the largest swap gap", "用户（按换人似然差从小到大）"))
    axes.set_ylabel(say("swap gap (nats per character)", "换人似然差（奈特/字）"))
    axes.legend(fontsize=8, title=say("share of users above 0", "大于 0 的用户比例"), title_fontsize=8)
    return figure


@plot(
    title=("How much training data is needed", "需要多少训练数据"),
    caption=(
        "Stages that differ only in the number of training targets per user.",
        "仅每个用户的训练目标数不同的阶段。",
    ),
)
def dose_response(evidence: Evidence, say: Say) -> Figure | None:
    """NLL against training samples, for stages that differ only in their sample; None if there are not at least two."""
    groups: dict[tuple[str, str, int], list[Stage]] = {}
    for stage in evidence.stages:
        groups.setdefault((stage.ablation, stage.recipe, stage.n_seeds), []).append(stage)
    groups = {key: members for key, members in groups.items() if len({m.sample for m in members}) > 1}
    if not groups:
        return None
    figure, (axes,) = _figure()
    for n, ((ablation, _, _), members) in enumerate(groups.items()):
        members = sorted(members, key=lambda stage: stage.counts["train_samples"])
        values = [stage.metrics["likelihood"]["nll"] for stage in members]
        x = [stage.counts["train_samples"] for stage in members]
        bars = _bars(values)
        axes.errorbar(x, [v["value"] for v in values], bars, label=ablation, **_look(n, len(groups)))
        for samples, stage, value, above in zip(x, members, values, bars[1], strict=True):
            most = stage.max_samples_per_user
            dose = say(f"{most or 'all'} per user", f"每用户 {most} 条" if most else "全部")
            axes.annotate(dose, (samples, value["value"] + above), textcoords="offset points",
                          xytext=(0, 6), ha="center", fontsize=8)  # fmt: skip
    axes.set_xscale("log")
    axes.margins(0.12)
    counts = sorted({stage.counts["train_samples"] for members in groups.values() for stage in members})
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.set_xlabel(say("training samples", "训练样本数（条）"))
    axes.set_ylabel(say("test NLL (nats per character)", "测试集负对数似然（奈特/字）"))
    axes.legend(fontsize=8)
    return figure


@plot(
    title=("Contribution of each part of the prompt", "提示词各部分的贡献"),
    caption=(
        "Shapley values over all eight combinations of profile, history and context.",
        "画像、历史、上下文全部八种组合的 Shapley 值。",
    ),
)
def shapley(evidence: Evidence, say: Say) -> Figure | None:
    values = evidence.shapley
    if not values:
        return None
    names = {"profile": say("profile", "画像"), "history": say("history", "历史"), "context": say("context", "上下文")}
    figure, (axes,) = _figure(2.4)
    for index, value in enumerate(values.values()):
        axes.barh(index, value["value"], color=str(0.35 + 0.2 * index), edgecolor="black")
        _interval(axes, value, index, say)
    axes.set_yticks(range(len(values)), [names[part] for part in values])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(say("NLL reduction (nats per character), 95 % interval", "降低的负对数似然（奈特/字），95% 区间"))
    return figure


def _star_rows(evidence: Evidence) -> dict[str, pl.DataFrame]:
    """By stage the test targets whose star is known (`truth`) and was asked for; no stage without any."""
    known = evidence.targets.select("interaction_id", truth="rating").drop_nulls()
    rows = {
        stage.name: stage.scores.filter(pl.col("cohort") == "test").drop_nulls("stars").join(known, on="interaction_id")
        for stage in evidence.stages
    }
    return {name: table for name, table in rows.items() if table.height}


@plot(
    title=("Calibration of the star probabilities", "星级概率的校准"),
    caption=(
        "The stars before the text. Of a model that was trained on texts alone they are a zero-shot probe: it is asked "
        "for them and was not trained to answer. Groups of fewer than 20 cases are not shown.",
        "正文之前的星级。只用正文训练的模型没有学过回答星级，因此是零样本探测。少于 20 例的组不显示。",
    ),
)
def reliability(evidence: Evidence, say: Say) -> Figure | None:
    stages = _star_rows(evidence)
    if not stages:
        return None
    figure, (axes,) = _figure()
    for n, (name, rows) in enumerate(stages.items()):
        p = normalised(star_array(rows)).ravel()
        hit = (rows["truth"].to_numpy()[:, None] == np.arange(1, 6)).ravel()
        index = np.minimum((p * BINS).astype(int), BINS - 1)
        count = np.bincount(index, minlength=BINS)
        shown = count >= MIN_BIN_CASES
        x, y = (np.bincount(index, v, minlength=BINS)[shown] / count[shown] for v in (p, hit))
        axes.plot(x, y, label=name, **_look(n, len(stages)))
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":", label=say("perfect", "理想"))
    axes.set_xlabel(say("predicted probability of a star", "预测的星级概率"))
    axes.set_ylabel(say("observed share", "实际发生的比例"))
    axes.legend(fontsize=8)
    return figure


@plot(
    title=("Rating error by star", "各星级的评分误差"),
    caption=(
        "The damped bias only knows the item's mean and the user's earlier stars.",
        "阻尼偏置只知道条目均分和用户以前的星级。",
    ),
)
def error_by_star(evidence: Evidence, say: Say) -> Figure | None:
    stages = _star_rows(evidence)
    if not stages:
        return None
    figure, (axes,) = _figure()
    tables = [
        (name, rows.with_columns(guess=pl.Series(expected_star(star_array(rows))))) for name, rows in stages.items()
    ]
    bias = evidence.guesses.filter(pl.col("method") == "damped_bias").select("interaction_id", guess="rating")
    first = next(iter(stages.values())).select("interaction_id", "truth")
    tables.append((say("damped bias", "阻尼偏置"), bias.join(first, on="interaction_id")))
    for n, (name, table) in enumerate(tables):
        errors = table.group_by("truth").agg(rmse=((pl.col("guess") - pl.col("truth")) ** 2).mean().sqrt())
        errors = errors.sort("truth")
        axes.plot(errors["truth"].to_list(), errors["rmse"].to_list(), label=name, **_look(n, len(tables)))
    axes.set_xticks(range(1, 6))
    axes.set_xlabel(say("actual stars", "实际星级"))
    axes.set_ylabel(say("RMSE of the expected star (stars)", "期望星级的均方根误差（星）"))
    axes.legend(fontsize=8)
    return figure


@plot(
    title=("Lengths of sampled and real texts", "采样文本与真实文本的长度"),
    caption=(
        "On the same targets.",
        "在同一批目标上。",
    ),
)
def lengths(evidence: Evidence, say: Say) -> Figure:
    stages, targets = evidence.stages, evidence.targets
    figure, (axes,) = _figure()
    ids = stages[0].generations["interaction_id"]
    real = targets.filter(pl.col("interaction_id").is_in(ids.implode()))["text"].str.len_chars().to_numpy()
    edges = np.geomspace(1, 400, 16)
    tables = [
        (stage.name, stage.generations.filter(pl.col("method") == "sample")["text"].str.len_chars().to_numpy())
        for stage in stages
    ]
    tables.append((say("real texts", "真实文本"), real))
    middle = [(a * b) ** 0.5 for a, b in pairwise(edges)]
    for n, (name, values) in enumerate(tables):
        share = np.histogram(values, edges)[0] / max(1, len(values))
        axes.plot(middle, share, label=name, **_look(n, len(tables)))
    axes.set_xscale("log")
    axes.set_xlabel(say("length (characters)", "长度（字）"))
    axes.set_ylabel(say("share of texts", "文本比例"))
    axes.legend(fontsize=8)
    return figure


@plot(
    title=("Copying from the training texts", "对训练文本的照抄"),
    caption=(
        "The share of sampled texts with at least this many characters in a row from the stage's training texts. For "
        "comparison: real texts of the test set, against the last stage's training texts.",
        "采样文本中，至少有这么多个连续字符与该阶段训练文本相同的比例。作为对照："
        "测试集的真实文本（与最后一个阶段的训练文本相比）。",
    ),
)
def copying(evidence: Evidence, say: Say) -> Figure:
    stages = evidence.stages
    figure, (axes,) = _figure()
    tables = [(stage.name, stage.metrics["copying"]["generated"]["curve"]) for stage in stages]
    tables.append((say("real texts", "真实文本"), stages[-1].metrics["copying"]["real"]["curve"]))
    for n, (name, curve) in enumerate(tables):
        x = sorted(int(length) for length in curve)
        axes.plot(x, [curve[str(length)] for length in x], label=name, **_look(n, len(tables)))
    axes.set_xlabel(say("characters in a row shared with the training texts", "与训练文本连续相同的字数"))
    axes.set_ylabel(say("share of sampled texts", "采样文本的比例"))
    axes.legend(fontsize=8)
    return figure


@plot(
    title=("Loss during training", "训练过程中的损失"),
    caption=(
        "The training loss is averaged over fiftieths of the training.",
        "训练损失按全程的五十分之一取平均。",
    ),
)
def loss_curves(evidence: Evidence, say: Say) -> Figure:
    stages = evidence.stages
    figure, panels = _figure(panels=2)
    for n, stage in enumerate(stages):
        look = _look(n, len(stages))
        steps = [record for record in stage.log if record["type"] == "step"]
        width = max(1, len(steps) // 50)
        loss = [float(np.mean([r["loss"] for r in steps[i : i + width]])) for i in range(0, len(steps), width)]
        at = [steps[min(i + width, len(steps)) - 1]["step"] for i in range(0, len(steps), width)]
        panels[0].plot(at, loss, label=stage.name, **(look | {"marker": None}))
        val = [record for record in stage.log if record["type"] == "val"]
        panels[1].plot([r["step"] for r in val], [r["val_loss"] for r in val], label=stage.name, **look)
    for axes, title in zip(panels, (say("training", "训练"), say("validation", "验证")), strict=True):
        axes.set_title(title)
        axes.set_xlabel(say("optimizer step", "优化步"))
    panels[0].set_ylabel(say("NLL (nats per token)", "负对数似然（奈特/词元）"))
    panels[1].legend(fontsize=8)
    return figure


@plot(
    title=("Planned and actual cost", "计划成本与实际成本"),
    caption=(
        "Planned from token counts and the configured hardware, for the number of epochs that were run.",
        "计划值由词元数和配置的硬件估算，按实际运行的轮数计。",
    ),
)
def cost(evidence: Evidence, say: Say) -> Figure | None:
    planned = [stage for stage in evidence.stages if stage.plan]
    if not planned:
        return None
    figure, (axes,) = _figure(0.6 * len(planned) + 1.2)
    for index, stage in enumerate(planned):
        planned_seconds = (stage.plan or {})["hours_per_epoch"] * stage.counts["epoch"] * 3600
        axes.barh(index - 0.2, planned_seconds, 0.36, color="0.8", edgecolor="black", hatch="//",
                  label=say("planned", "计划") if not index else None)  # fmt: skip
        axes.barh(index + 0.2, stage.counts["seconds"], 0.36, color="0.3", edgecolor="black",
                  label=say("actual", "实际") if not index else None)  # fmt: skip
    axes.set_yticks(range(len(planned)), [stage.name for stage in planned])
    axes.invert_yaxis()
    axes.set_xlabel(say("seconds of training for the epochs that were run", "训练秒数（按实际轮数）"))
    axes.legend(fontsize=8)
    return figure
