"""The result of the comparison in sentences, in English and Chinese."""

from __future__ import annotations

from typing import Any

from persona.evaluation.settings import UNTRAINED
from persona.reporting.evidence import AUTHOR_BASELINES, Bilingual, Evidence, note_in_both
from persona.reporting.legend import TERMS
from persona.reporting.stages import Stage

METRICS: dict[str, Bilingual] = {"nll": ("test NLL", "测试集负对数似然"), "swap_gap": ("swap gap", "换人似然差")}


def verdict(evidence: Evidence) -> list[Bilingual]:
    """Which stages are personal, the primary contrast (or the best stage), and where a baseline is better than all."""
    contrasts = evidence.contrasts
    sentences = [_personal(evidence.stages), _primary(contrasts[0]) if contrasts else _best(evidence.stages)]
    return sentences + [sentence for sentence in [_better_baselines(evidence)] if sentence]


def _personal(stages: list[Stage]) -> Bilingual:
    allowed = [stage.name for stage in stages if stage.claim.allowed]
    total = len(stages)
    if not allowed:
        return (
            f"None of the {total} stages can be said to write like a particular user; the report shows which "
            "conditions each stage fails.",
            f"{total} 个阶段都还不能说学会了像特定用户那样写作；报告列出了每个阶段未满足的条件。",
        )
    return (
        f"{len(allowed)} of {total} stages can be said to write like a particular user: {', '.join(allowed)}.",
        f"{total} 个阶段中有 {len(allowed)} 个可以说学会了像特定用户那样写作：{'、'.join(allowed)}。",
    )


def _primary(contrast: dict[str, Any]) -> Bilingual:
    """The primary contrast. A smaller NLL and a larger swap gap are better."""
    stage, against = contrast["stage"], contrast["against"]
    chinese = "未训练模型" if against == UNTRAINED else against
    if contrast["low"] is None:
        note = note_in_both(contrast.get("note") or "no interval")
        return (
            f"The primary comparison of {stage} with {against} has {note[0]}.",
            f"主要对比（{stage} 与 {chinese}）{note[1]}。",
        )
    sign = -1 if contrast["metric"] == "nll" else 1
    low, high = sorted((sign * contrast["low"], sign * contrast["high"]))
    if low > 0:
        relation = f"{stage} is better than {against}", f"{stage} 优于 {chinese}"
    elif high < 0:
        relation = f"{stage} is worse than {against}", f"{stage} 差于 {chinese}"
    else:
        relation = f"{stage} is not distinguishable from {against}", f"{stage} 与 {chinese} 没有可分辨的差别"
    metric = METRICS[contrast["metric"]]
    figures = f"{contrast['value']:+.4f} [{contrast['low']:+.4f}, {contrast['high']:+.4f}]"
    return (
        f"In the primary comparison {relation[0]} (difference in {metric[0]}: {figures} nats per character).",
        f"主要对比中，{relation[1]}（{metric[1]}相差 {figures} 奈特/字）。",
    )


def _best(stages: list[Stage]) -> Bilingual:
    # The NLL given the stars cannot be compared with the others.
    stages = [stage for stage in stages if stage.is_given_stars == stages[0].is_given_stars]
    best = min(stages, key=lambda stage: float(stage.metrics["likelihood"]["nll"]["value"]))
    value = best.metrics["likelihood"]["nll"]["value"]
    return (
        f"The stage with the smallest test NLL is {best.name}: {value:.3f} nats per character.",
        f"测试集负对数似然最小的阶段是 {best.name}：{value:.3f} 奈特/字。",
    )


def _better_baselines(evidence: Evidence) -> Bilingual | None:
    """The measures in which a baseline that costs nothing is better than every stage; None if there are none."""
    likelihoods = {name: evidence.baselines[name] for name in AUTHOR_BASELINES}
    stars = evidence.baselines["ratings"]
    found = [
        _better_baseline(evidence, "acc", "likelihood", likelihoods, 1),
        _better_baseline(evidence, "nll", "likelihood", likelihoods, -1),
        _better_baseline(evidence, "rmse", "stars", stars, -1),
    ]
    words = [each for each in found if each]
    if not words:
        return None
    return (
        f"A baseline that costs nothing is better than every stage in {'; '.join(en for en, _ in words)}.",
        f"零成本基线优于所有阶段：{'；'.join(zh for _, zh in words)}。",
    )


def _better_baseline(
    evidence: Evidence, name: str, kind: str, baselines: dict[str, Any], sign: int
) -> Bilingual | None:
    """The best baseline in a measure, if it is better than every stage.

    Args:
        sign: 1 if larger values are better, -1 if smaller ones are.
    """
    free = {method: value for method, metrics in baselines.items() if (value := _value(metrics, name)) is not None}
    # The baselines are not given the stars.
    stages = [stage for stage in evidence.stages if name != "nll" or not stage.is_given_stars]
    own = [value for stage in stages if (value := _value(_metrics(stage, kind), name)) is not None]
    if not free or not own:
        return None
    best = max(free, key=lambda method: sign * free[method])
    best_stage = sign * max(sign * value for value in own)
    if sign * free[best] <= sign * best_stage:
        return None
    label, method = TERMS[name].label, AUTHOR_BASELINES.get(best, (best, best))
    return (
        f"{label[0]} ({method[0]} {free[best]:.3f}, best stage {best_stage:.3f})",
        f"{label[1]}（{method[1]} {free[best]:.3f}，最好的阶段 {best_stage:.3f}）",
    )


def _metrics(stage: Stage, kind: str) -> dict[str, Any]:
    metrics: dict[str, Any] = stage.metrics[kind]
    return metrics["all"] if kind == "stars" else metrics


def _value(metrics: dict[str, Any], name: str) -> float | None:
    estimate = metrics.get(name)
    return None if estimate is None else estimate["value"]
