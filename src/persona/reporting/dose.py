"""How much history, and how many samples a user, are enough: the effect against the dose, with a saturating curve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from persona.evaluation.comparison import per_target
from persona.evaluation.metrics.intervals import Floats, codes, joint_draws
from persona.reporting.evidence import Bilingual, Evidence
from persona.reporting.plots import DASHES, MARKERS, STYLE, Picture, Say, chinese, english, svg
from persona.reporting.stages import Stage

MIN_DOSES = 3
DRAWS = 2000
HALVES = 600  # half-doses that are tried
TITLE = ("How much history is enough", "多少历史才够")


@dataclass(frozen=True)
class Fit:
    """A saturating curve, and what it predicts for twice the largest dose, with 95 % intervals.

    The curve is g(k) = most * k / (k + half).
    """

    most: float
    half: float
    half_range: tuple[float, float]
    next_dose: float
    predicted: float
    predicted_range: tuple[float, float]

    def at(self, doses: Floats) -> Floats:
        """The value of the curve."""
        return np.asarray(self.most * doses / (doses + self.half))


@dataclass(frozen=True)
class Curve:
    """An effect against the dose: `[doses]`, intervals, and the fit or the reason why there is none."""

    doses: Floats
    values: Floats
    ranges: list[tuple[float, float]]
    fit: Fit | Bilingual


@dataclass(frozen=True)
class Line:
    """Stages that differ only in the dose.

    Attributes:
        label: what they have in common.
        doses: ascending, `[doses]`.
        stages: one per dose.
        zeros: for each stage the one without any history entry, which has the same samples.
    """

    label: Bilingual
    doses: list[int]
    stages: list[Stage]
    zeros: list[Stage]


def pictures(evidence: Evidence) -> list[Picture]:
    """The picture of the doses, if there are stages with three numbers of entries that differ in nothing else."""
    by_entries = list(entry_lines(evidence.stages))
    if not by_entries:
        return []
    panels = [[(line, _curve(line, metric)) for line in lines] for lines in (by_entries, list(sample_lines(by_entries)))
              for metric in ("swap_gap", "nll")]  # fmt: skip
    with matplotlib.rc_context(STYLE):
        drawn = {say: svg(_figure(panels, say), name) for say, name in ((english, "dose"), (chinese, "dose-zh"))}
    caption = (_caption(panels, english), _caption(panels, chinese))
    return [Picture("history_dose", TITLE, caption, drawn[english], drawn[chinese])]


def n_entries(stage: Stage) -> int | None:
    """History entries of a stage's prompts at most; None if there is no limit."""
    return stage.history.max_entries if "history" in stage.parts else 0


def entry_lines(stages: Sequence[Stage]) -> Iterator[Line]:
    """Stages with at least three numbers of entries, 0 among them: one line per sample and kind of history."""
    groups: dict[tuple[Any, ...], dict[int, Stage]] = {}
    for stage in sorted((s for s in stages if n_entries(s)), key=lambda s: (s.counts["train_samples"], n_entries(s))):
        groups.setdefault((*_common(stage), _kind(stage)), {}).setdefault(n_entries(stage) or 0, stage)
    zeros = {_common(stage): stage for stage in reversed(stages) if n_entries(stage) == 0}
    kinds = {key[1:] for key in groups}
    for key, by_dose in groups.items():
        zero = zeros.get(key[:-1])
        if zero and len(by_dose) + 1 >= MIN_DOSES:
            members = [zero, *by_dose.values()]
            yield Line(_label(members[-1], len(kinds) > 1), [0, *by_dose], members, [zero] * len(members))


def _common(stage: Stage) -> tuple[Any, ...]:
    """What stages have in common that differ only in their history."""
    return stage.sample, stage.recipe, stage.prompt_style, stage.n_seeds, stage.parts - {"history"}


def _kind(stage: Stage) -> tuple[str, int]:
    """Which entries are shown, besides how many."""
    return stage.history.select, stage.history.seed


def _label(stage: Stage, are_several: bool) -> Bilingual:
    most, count = stage.max_samples_per_user, stage.counts["train_samples"]
    more = f", {stage.recipe}, {stage.history.select}" if are_several else ""
    one = (
        (f"{most} samples a user", f"每用户 {most} 条") if most else (f"all, {count:,} samples", f"全部，{count:,} 条")
    )
    return one[0] + more, one[1] + more


def sample_lines(lines: Sequence[Line]) -> Iterator[Line]:
    """The same stages the other way: one line per number of entries above 0, against the number of samples."""
    groups: dict[tuple[Any, ...], list[tuple[Stage, Stage]]] = {}
    are_several = len({line.stages[-1].history.select for line in lines}) > 1
    for line in lines:
        for dose, stage, zero in zip(line.doses, line.stages, line.zeros, strict=True):
            groups.setdefault((dose, _kind(stage), *_common(stage)[1:]), []).append((stage, zero))
    for (dose, *_), members in groups.items():
        if dose and len(members) > 1:
            stages, zeros = zip(*members, strict=True)
            kind = f", {stages[0].history.select}" if are_several else ""
            label = (f"{dose} entries{kind}" if dose > 1 else f"1 entry{kind}", f"{dose} 条历史{kind}")
            yield Line(label, [stage.counts["train_samples"] for stage in stages], list(stages), list(zeros))


def _curve(line: Line, metric: str) -> Curve:
    """By how much the swap gap is larger, or the NLL lower, than without history, in nats per character."""
    values, draws = effects(line.stages, line.zeros, metric)
    doses = np.array(line.doses, dtype=np.float64)
    ranges = [(np.nan, np.nan)] * len(doses) if draws is None else [middle(column) for column in draws.T]
    return Curve(doses, values, ranges, fit_curve(doses, values, draws))


def middle(draws: Floats) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def effects(stages: Sequence[Stage], zeros: Sequence[Stage], metric: str) -> tuple[Floats, Floats | None]:
    """What each stage gains over its zero, and draws with the common uncertainty of all: paired by target.

    Returns:
        `[stages]` and `[draws, stages]`, in nats per character. There are no draws of too few users or items.
    """
    tables = []
    for n, (stage, zero) in enumerate(zip(stages, zeros, strict=True)):
        both = _per_target(stage, metric, f"v{n}").join(_per_target(zero, metric, "zero"), on="interaction_id")
        gain = (pl.col("zero") - pl.col(f"v{n}")) * (1 if metric == "nll" else -1)
        tables.append(both.select("interaction_id", gain.alias(f"v{n}")))
    known = stages[0].scores.select("interaction_id", "user_id", "item_id", "n_characters")
    rows = reduce(lambda a, b: a.join(b, on="interaction_id"), tables, known).sort("user_id", "interaction_id")
    features = rows.select(*[f"v{n}" for n in range(len(stages))], pl.col("n_characters").cast(pl.Float64)).to_numpy()
    total = features.sum(0) if len(features) else np.full(features.shape[1], np.nan)
    draws = joint_draws(features, codes(rows["user_id"]), codes(rows["item_id"]), DRAWS)
    return total[:-1] / total[-1], draws


def _per_target(stage: Stage, metric: str, name: str) -> pl.DataFrame:
    return per_target(stage.scores, metric).select("interaction_id", pl.col(metric).alias(name))


def fit_curve(doses: Floats, values: Floats, draws: Floats | None) -> Fit | Bilingual:
    """Fit g(k) = most * k / (k + half), the hyperbola of Michaelis and Menten (1913), by weighted least squares.

    For each half-dose the best `most` is linear least squares, so only the half-dose is searched, on a grid (variable
    projection: Golub and Pereyra 1973). Weights are the inverse variances of the values over the draws. Each draw
    is fitted as well, which gives the intervals. They know of the choice of test users and items, but not of
    the chance in a training.

    Args:
        doses, values: `[doses]`. Dose 0 is not used, as the curve is 0 there.
        draws: `[draws, doses]`, from `effects`.

    Returns:
        The fit, or why there is none: too few users or items, fewer than three doses above 0, no effect at the largest
        dose, half of the effect is not reached within the doses, or the curve misses a value by more than three
        standard errors.
    """
    if draws is None:
        return "too few users or items for intervals", "用户或条目太少，无法给出区间"
    used = doses > 0
    if used.sum() < MIN_DOSES:
        return "fewer than three doses above 0", "大于 0 的剂量不足三个"
    doses, values, draws = doses[used], values[used], draws[:, used]
    if middle(draws[:, np.argmax(doses)])[0] <= 0:
        return "no effect at the largest dose", "最大剂量处没有效应"
    halves = np.geomspace(doses.min() / 10, doses.max() * 10, HALVES)
    weights = 1 / np.maximum(draws.var(0), 1e-18)
    [most], [half] = _least_squares(doses, values[None], weights, halves)
    if half > doses.max():
        return "half of the effect lies beyond the doses", "半效剂量超出了现有剂量"
    if half == halves[0]:
        return "the smallest dose has nearly the whole effect", "最小剂量已几乎达到全部效应"
    misses = np.abs(most * doses / (doses + half) - values)
    # The grid is 1 % exact.
    if np.any(misses > np.maximum(3 * draws.std(0), 0.01 * np.abs(values).max())):
        return "a saturating curve does not fit the values", "饱和曲线与数值不符"
    mosts, found = _least_squares(doses, draws, weights, halves)
    following = 2 * doses.max()
    return Fit(
        float(most), float(half), middle(found), float(following), float(most * following / (following + half)),
        middle(mosts * following / (following + found)),
    )  # fmt: skip


def _least_squares(doses: Floats, values: Floats, weights: Floats, halves: Floats) -> tuple[Floats, Floats]:
    """The best `most` and half-dose for each row of values `[rows, doses]`, among the half-doses."""
    shapes = doses / (doses + halves[:, None])
    norms = (weights * shapes**2).sum(1)
    products = (values * weights) @ shapes.T
    # The sum of squares is that of the values minus products^2 / norms.
    best = np.argmax(products**2 / norms, axis=1)
    return products[np.arange(len(values)), best] / norms[best], halves[best]


def _figure(panels: Sequence[Sequence[tuple[Line, Curve]]], say: Say) -> Figure:
    panels = [lines for lines in panels if lines]  # with one sample there is nothing against samples
    figure = Figure(figsize=(9, 1.8 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels) // 2, 2).ravel()
    for n, (panel, lines) in enumerate(zip(axes, panels, strict=True)):
        for index, (line, curve) in enumerate(lines):
            _draw(panel, curve, say(*line.label), index, len(lines))
        panel.axhline(0, color="black", linewidth=0.8, linestyle=":")
        titles = (
            ("gain in swap gap over no history", "换人似然差比无历史时的增加"),
            ("NLL saved by the history", "历史降低的负对数似然"),
        )
        panel.set_title(say(*titles[n % 2]))
        panel.set_xlabel(
            say("history entries at most", "历史条数上限") if n < 2 else say("training samples", "训练样本数")
        )
        panel.set_ylabel(say("nats per character", "奈特/字"))
        if n % 2 == 0:
            panel.set_ylim(top=1.4 * panel.get_ylim()[1])  # room for the legend
            panel.legend(fontsize=8, loc="upper left", ncols=2)
    for panel in axes[2:]:
        counts = sorted({dose for line, _ in panels[2] for dose in line.doses})
        panel.set_xscale("log")
        panel.set_xticks(counts, [f"{count:,}" for count in counts])
        panel.minorticks_off()
    return figure


def _draw(axes: Axes, curve: Curve, label: str, index: int, of: int) -> None:
    color = matplotlib.colormaps["viridis"](0.85 * index / max(1, of - 1))
    low, high = np.array(curve.ranges).T
    spread = [np.maximum(0, curve.values - low), np.maximum(0, high - curve.values)]
    is_fitted = isinstance(curve.fit, Fit)
    axes.errorbar(curve.doses, curve.values, spread, label=label, color=color, marker=MARKERS[index % len(MARKERS)],
                  markersize=5, elinewidth=0.8, linestyle="none" if is_fitted else DASHES[3])  # fmt: skip
    if not isinstance(curve.fit, Fit):
        return
    inside = np.linspace(curve.doses.min(), curve.doses.max(), 100)
    beyond = np.linspace(curve.doses.max(), curve.fit.next_dose, 30)
    axes.plot(inside, curve.fit.at(inside), color=color, linewidth=1.2)
    axes.plot(beyond, curve.fit.at(beyond), color=color, linewidth=1.2, linestyle="--")
    axes.plot([curve.fit.next_dose] * 2, curve.fit.predicted_range, color=color, linewidth=0.8, linestyle="--")


def _caption(panels: Sequence[Sequence[tuple[Line, Curve]]], say: Say) -> str:
    """What is drawn, and of each curve against the number of entries what it says, or why there is none."""
    parts = [
        say(
            "Test targets are the same for all points, intervals are 95 % over users and items. Lines are fitted: "
            "g(k) = most × k / (k + half). Dashed is an extrapolation to twice the largest dose; its interval knows "
            "of the choice of test users and items, not of the chance in a training. Dotted: no curve could be fitted.",
            "各点的测试目标相同，区间为按用户和条目的 95% 区间。实线为拟合曲线 g(k) = 上限 × k / (k + 半效剂量)。"
            "虚线是外推到最大剂量的两倍，其区间只反映测试用户与条目的抽样，不含训练的随机性。点线：无法拟合。",
        )
    ]
    names = (("Gain in swap gap", "换人似然差的增加"), ("NLL saved", "降低的负对数似然"))
    for lines, name in zip(panels[:2], names, strict=True):
        sentences = [f"{say(*line.label)}: {_sentence(curve.fit, say)}" for line, curve in lines]
        parts.append(f"{say(*name)}: {'; '.join(sentences)}.")
    return " ".join(parts)


def _sentence(fit: Fit | Bilingual, say: Say) -> str:
    if not isinstance(fit, Fit):
        return say(f"no curve ({fit[0]})", f"无曲线（{fit[1]}）")
    low, high = fit.predicted_range
    half = f"{fit.half:.1f} [{fit.half_range[0]:.1f}, {fit.half_range[1]:.1f}]"
    value = f"{fit.predicted:+.3f} [{low:+.3f}, {high:+.3f}]"
    return say(
        f"half of the effect at {half} entries, {value} extrapolated to {fit.next_dose:.0f}",
        f"半效剂量 {half} 条，外推到 {fit.next_dose:.0f} 条为 {value}",
    )
