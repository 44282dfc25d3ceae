"""The pictures of the report, each in English and Chinese. Stages differ by marker, dash and lightness."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from persona.evaluation.metrics.authors import author_ranks
from persona.evaluation.metrics.bootstrap import Estimate, codes, estimate
from persona.evaluation.metrics.stars import BINS, expected_star, normalised, star_array
from persona.reporting.stages import Stage

matplotlib.rcParams["svg.hashsalt"] = "persona"  # the same bytes every time
matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text: the reader's fonts have the Chinese
matplotlib.rcParams["font.family"] = "sans-serif"
matplotlib.rcParams["axes.spines.top"] = matplotlib.rcParams["axes.spines.right"] = False

MARKERS = "osD^vPX*"
DASHES = ["-", "--", "-.", ":"]
HISTORY_BINS = [(0, 0), (1, 1), (2, 3), (4, 7), (8, 10**9)]
Say = Callable[[str, str], str]


def english(en: str, zh: str) -> str:
    return en


def chinese(en: str, zh: str) -> str:
    return zh


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element with the reader's fonts; its ids begin with `name`, to be one of many on a page."""
    picture = io.StringIO()
    with warnings.catch_warnings():
        # matplotlib's own font lacks Chinese glyphs; it only measures with it.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")
        figure.savefig(picture, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = picture.getvalue()
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text[text.index("<svg") :])
    return text.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans', 'Noto Sans CJK SC'")


def _figure(height: float = 3.6, panels: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(8, height))
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _look(n: int, of: int) -> dict[str, Any]:
    shade = matplotlib.colormaps["viridis"](0.85 * n / max(1, of - 1))
    return {"color": shade, "marker": MARKERS[n % len(MARKERS)], "linestyle": DASHES[n % len(DASHES)], "markersize": 5}


def _forest(axes: Axes, rows: Sequence[tuple[str, dict[str, Any] | None, bool]]) -> None:
    """Points with intervals, one row each; hollow ones are not stages."""
    for place, (_, value, is_stage) in enumerate(rows):
        if value is None:
            continue
        axes.plot([value["low"], value["high"]], [place, place], color="black", linewidth=1)
        axes.plot(value["value"], place, "o", color="black", markerfacecolor="black" if is_stage else "white")
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)


def nll_by_stage(stages: list[Stage], baselines: dict[str, Any], say: Say) -> Figure:
    rows = [(stage.name, stage.metrics["likelihood"]["nll"], True) for stage in stages]
    rows.append((say("n-gram + user cache", "n 元模型 + 用户缓存"), baselines["ngram"]["nll"], False))
    rows.append((say("untrained model", "未训练模型"), stages[0].untrained["likelihood"]["nll"], False))
    figure, (axes,) = _figure(0.45 * len(rows) + 1)
    _forest(axes, rows)
    axes.set_xlabel(say("test NLL (nats per character), 95 % interval", "测试集负对数似然（奈特/字），95% 区间"))
    return figure


def swap_gap(stages: list[Stage], baselines: dict[str, Any], say: Say) -> Figure:
    figure, panels = _figure(0.45 * len(stages) + 1.6, 2)
    titles = [say("identity (swap gap)", "身份（换人差）"), say("format", "格式")]
    for axes, name, title in zip(panels, ("swap_gap", "format_gap"), titles, strict=True):
        rows = [(stage.name, stage.metrics["likelihood"].get(name), True) for stage in stages]
        rows.append((say("n-gram + cache", "n 元 + 缓存"), baselines["ngram"].get(name), False))
        _forest(axes, rows)
        axes.axvline(0, color="black", linewidth=0.8, linestyle=":")
        axes.set_title(title)
        axes.set_xlabel(say("nats per character", "奈特/字"))
    panels[1].set_yticklabels([])
    return figure


def author_curves(
    stages: list[Stage], targets: pl.DataFrame, authors: pl.DataFrame, candidates: int
) -> list[tuple[str | None, dict[int, Estimate]]]:
    """For each stage, and for TF-IDF (no name), acc@1 in each of `HISTORY_BINS` with at least 10 targets."""
    tables: list[tuple[str | None, pl.DataFrame]] = [
        (stage.name, stage.scores.filter(pl.col("cohort") == "test")) for stage in stages
    ]
    curves: list[tuple[str | None, dict[int, Estimate]]] = []
    for name, scores in [*tables, (None, authors)]:
        ranks = author_ranks(scores, candidates).join(
            targets.select("interaction_id", "user_id", "n_history"), on="interaction_id"
        )
        found = {}
        for place, (least, most) in enumerate(HISTORY_BINS):
            some = ranks.filter(pl.col("n_history").is_between(least, most))
            if some.height >= 10:
                features = np.column_stack([some["acc"], np.ones(some.height)])
                found[place] = estimate(features, codes(some["user_id"]), n=2000)
        curves.append((name, found))
    return curves


def author_by_history(curves: list[tuple[str | None, dict[int, Estimate]]], candidates: int, say: Say) -> Figure:
    figure, (axes,) = _figure()
    for n, (name, found) in enumerate(curves):
        x = [place + 0.08 * (n - len(curves) / 2) for place in found]
        low = [max(0.0, e.value - e.low) for e in found.values()]
        high = [max(0.0, e.high - e.value) for e in found.values()]
        label = name or say("TF-IDF of characters", "字符 TF-IDF")
        axes.errorbar(
            x, [e.value for e in found.values()], [low, high], label=label, elinewidth=0.8, **_look(n, len(curves))
        )
    axes.axhline(1 / candidates, color="black", linewidth=0.8, linestyle=":", label=say("chance", "随机水平"))
    labels = [str(a) if a == b else f"{a}-{b}" if b < 100 else f"{a}+" for a, b in HISTORY_BINS]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel(say("earlier texts of the user", "该用户更早的文本数（条）"))
    axes.set_ylabel(say(f"author found among {candidates} (share)", f"{candidates} 人中认出作者的比例"))
    axes.legend(fontsize=8)
    return figure


def dose_response(stages: list[Stage], say: Say) -> Figure | None:
    """NLL against training targets, for stages that differ in nothing but their sample; None without two such."""
    groups: dict[tuple[str, str, int], list[Stage]] = {}
    for stage in stages:
        groups.setdefault((stage.ablation, stage.recipe, stage.n_seeds), []).append(stage)
    groups = {key: members for key, members in groups.items() if len({m.sample for m in members}) > 1}
    if not groups:
        return None
    figure, (axes,) = _figure()
    for n, ((ablation, _, _), members) in enumerate(groups.items()):
        members = sorted(members, key=lambda stage: stage.counts["train_samples"])
        values = [stage.metrics["likelihood"]["nll"] for stage in members]
        x = [stage.counts["train_samples"] for stage in members]
        spread = [[v["value"] - v["low"] for v in values], [v["high"] - v["value"] for v in values]]
        axes.errorbar(x, [v["value"] for v in values], spread, label=ablation, **_look(n, len(groups)))
        for place, stage in zip(x, members, strict=True):
            most = stage.max_samples_per_user
            dose = say(f"{most or 'all'} a user", f"每人 {most} 条" if most else "全部")
            axes.annotate(dose, (place, stage.metrics["likelihood"]["nll"]["high"]), textcoords="offset points",
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


def reliability(stages: list[Stage], targets: pl.DataFrame, say: Say) -> Figure | None:
    known = targets.select("interaction_id", "rating").drop_nulls()
    if not known.height:
        return None
    figure, (axes,) = _figure()
    for n, stage in enumerate(stages):
        rows = stage.scores.filter(pl.col("cohort") == "test").join(known, on="interaction_id")
        p = normalised(star_array(rows)).ravel()
        hit = (rows["rating"].to_numpy()[:, None] == np.arange(1, 6)).ravel()
        place = np.minimum((p * BINS).astype(int), BINS - 1)
        count = np.bincount(place, minlength=BINS)
        shown = count >= 20
        x, y = (np.bincount(place, v, minlength=BINS)[shown] / count[shown] for v in (p, hit))
        axes.plot(x, y, label=stage.name, **_look(n, len(stages)))
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":", label=say("perfect", "理想"))
    axes.set_xlabel(say("probability given to a star", "给某个星级的概率"))
    axes.set_ylabel(say("share of such cases that came true", "实际发生的比例"))
    axes.legend(fontsize=8)
    return figure


def error_by_star(stages: list[Stage], targets: pl.DataFrame, guesses: pl.DataFrame, say: Say) -> Figure | None:
    known = targets.select("interaction_id", truth="rating").drop_nulls()
    if not known.height:
        return None
    figure, (axes,) = _figure()
    tables = []
    for stage in stages:
        rows = stage.scores.filter(pl.col("cohort") == "test")
        guess = pl.Series(expected_star(star_array(rows)))
        tables.append((stage.name, rows.select("interaction_id").with_columns(guess=guess)))
    bias = guesses.filter(pl.col("method") == "damped_bias").select("interaction_id", guess="rating")
    test = stages[0].scores.filter(pl.col("cohort") == "test").select("interaction_id")
    tables.append((say("damped bias", "阻尼偏置"), bias.join(test, on="interaction_id")))
    for n, (name, table) in enumerate(tables):
        errors = (
            table.join(known, on="interaction_id")
            .group_by("truth")
            .agg(rmse=((pl.col("guess") - pl.col("truth")) ** 2).mean().sqrt())
        )
        errors = errors.sort("truth")
        axes.plot(errors["truth"].to_list(), errors["rmse"].to_list(), label=name, **_look(n, len(tables)))
    axes.set_xticks(range(1, 6))
    axes.set_xlabel(say("stars really given", "实际星级"))
    axes.set_ylabel(say("RMSE of the expected star (stars)", "期望星级的均方根误差（星）"))
    axes.legend(fontsize=8)
    return figure


def lengths(stages: list[Stage], targets: pl.DataFrame, say: Say) -> Figure:
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


def copying(stages: list[Stage], say: Say) -> Figure:
    figure, (axes,) = _figure()
    tables = [(stage.name, stage.metrics["copying"]["generated"]["curve"]) for stage in stages]
    tables.append((say("real texts", "真实文本"), stages[-1].metrics["copying"]["real"]["curve"]))
    for n, (name, curve) in enumerate(tables):
        x = sorted(int(length) for length in curve)
        axes.plot(x, [curve[str(length)] for length in x], label=name, **_look(n, len(tables)))
    axes.set_xlabel(say("characters in a row found in the training texts", "与训练文本连续相同的字数"))
    axes.set_ylabel(say("share of sampled texts", "采样文本的比例"))
    axes.legend(fontsize=8)
    return figure


def shapley_bars(values: dict[str, dict[str, Any]], say: Say) -> Figure | None:
    if not values:
        return None
    names = {"profile": say("profile", "画像"), "history": say("history", "历史"), "context": say("context", "上下文")}
    figure, (axes,) = _figure(2.4)
    for place, value in enumerate(values.values()):
        axes.barh(place, value["value"], color=str(0.35 + 0.2 * place), edgecolor="black")
        axes.plot([value["low"], value["high"]], [place, place], color="black")
    axes.set_yticks(range(len(values)), [names[part] for part in values])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(say("NLL saved (nats per character), 95 % interval", "降低的负对数似然（奈特/字），95% 区间"))
    return figure


def loss_curves(stages: list[Stage], say: Say) -> Figure:
    figure, panels = _figure(panels=2)
    for n, stage in enumerate(stages):
        look = _look(n, len(stages))
        steps = [record for record in stage.log if record["type"] == "step"]
        width = max(1, len(steps) // 50)
        loss = [float(np.mean([r["loss"] for r in steps[i : i + width]])) for i in range(0, len(steps), width)]
        place = [steps[min(i + width, len(steps)) - 1]["step"] for i in range(0, len(steps), width)]
        panels[0].plot(place, loss, label=stage.name, **(look | {"marker": None}))
        val = [record for record in stage.log if record["type"] == "val"]
        panels[1].plot([r["step"] for r in val], [r["val_loss"] for r in val], label=stage.name, **look)
    for axes, title in zip(panels, (say("training", "训练"), say("validation", "验证")), strict=True):
        axes.set_title(title)
        axes.set_xlabel(say("optimizer step", "优化步"))
    panels[0].set_ylabel(say("NLL (nats per token)", "负对数似然（奈特/词元）"))
    panels[1].legend(fontsize=8)
    return figure


def cost(stages: list[Stage], say: Say) -> Figure | None:
    planned = [stage for stage in stages if stage.plan]
    if not planned:
        return None
    figure, (axes,) = _figure(0.6 * len(planned) + 1.2)
    for place, stage in enumerate(planned):
        foretold = (stage.plan or {})["hours_per_epoch"] * stage.counts["epoch"] * 3600
        axes.barh(place - 0.2, foretold, 0.36, color="0.8", edgecolor="black", hatch="//",
                  label=say("planned", "计划") if not place else None)  # fmt: skip
        axes.barh(place + 0.2, stage.counts["seconds"], 0.36, color="0.3", edgecolor="black",
                  label=say("spent", "实际") if not place else None)  # fmt: skip
    axes.set_yticks(range(len(planned)), [stage.name for stage in planned])
    axes.invert_yaxis()
    axes.set_xlabel(say("seconds of training, for the epochs that were run", "训练秒数（按实际轮数）"))
    axes.legend(fontsize=8)
    return figure
