"""The result of the comparison in sentences, in English and Chinese."""

from __future__ import annotations

from typing import Any

from persona.reporting.evidence import Bilingual, Evidence
from persona.reporting.stages import Stage

METRICS: dict[str, Bilingual] = {"nll": ("test NLL", "测试集负对数似然"), "swap_gap": ("swap gap", "换人似然差")}


def verdict(evidence: Evidence) -> list[Bilingual]:
    """Two sentences: which stages are personal, and the primary contrast, or the best stage if there is none."""
    contrasts = evidence.contrasts
    return [_personal(evidence.stages), _primary(contrasts[0]) if contrasts else _best(evidence.stages)]


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
    if contrast["low"] is None:
        return (
            f"The primary comparison of {stage} with {against} could not be computed.",
            f"主要对比（{stage} 与 {against}）无法计算。",
        )
    sign = -1 if contrast["metric"] == "nll" else 1
    low, high = sorted((sign * contrast["low"], sign * contrast["high"]))
    if low > 0:
        relation = f"{stage} is better than {against}", f"{stage} 优于 {against}"
    elif high < 0:
        relation = f"{stage} is worse than {against}", f"{stage} 差于 {against}"
    else:
        relation = f"{stage} is not distinguishable from {against}", f"{stage} 与 {against} 没有可分辨的差别"
    metric = METRICS[contrast["metric"]]
    figures = f"{contrast['value']:+.4f} [{contrast['low']:+.4f}, {contrast['high']:+.4f}]"
    return (
        f"In the primary comparison {relation[0]} (difference in {metric[0]}: {figures} nats per character).",
        f"主要对比中，{relation[1]}（{metric[1]}相差 {figures} 奈特/字）。",
    )


def _best(stages: list[Stage]) -> Bilingual:
    best = min(stages, key=lambda stage: float(stage.metrics["likelihood"]["nll"]["value"]))
    value = best.metrics["likelihood"]["nll"]["value"]
    return (
        f"The stage with the smallest test NLL is {best.name}: {value:.3f} nats per character.",
        f"测试集负对数似然最小的阶段是 {best.name}：{value:.3f} 奈特/字。",
    )
