"""The plan as a table for people."""

from __future__ import annotations

import math
from typing import Any

from persona.planning.settings import Hardware


def plan_table(stages: dict[str, dict[str, Any]], hardware: Hardware) -> str:
    """The plan as Markdown, and readable on a terminal."""
    header = ["stage", "samples", "tokens/epoch", "computed", "steps/epoch", "micro-steps/step", "s/step", "h/epoch",
              "at most", "GPU-h/epoch", "GiB/process", "disk GB"]  # fmt: skip
    rows = [header]
    for name, plan in stages.items():
        most = plan["hours_per_epoch"] * plan["max_epochs"]
        rows.append(
            [
                name,
                f"{plan['samples']:,}",
                f"{plan['tokens_per_epoch']:,}",
                f"{plan['computed_tokens_per_epoch']:,}",
                f"{plan['steps_per_epoch']:,}",
                f"{plan['micro_steps_per_step']:.2f}",
                f"{plan['seconds_per_step']:.2f}",
                _hours(plan["hours_per_epoch"]),
                f"{_hours(most)} ({plan['max_epochs']} epochs)",
                _hours(plan["gpu_hours_per_epoch"]),
                f"{plan['memory_gib']['total']:.1f} of {hardware.memory_gib:g}{'' if plan['fits'] else ' (!)'}",
                f"{plan['disk_gb']:,.1f}",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    warnings = [
        f"{name}: does not fit, {plan['memory_gib']['total']:.1f} GiB of {hardware.memory_gib:g}: {plan['advice']}"
        for name, plan in stages.items()
        if not plan["fits"]
    ]
    return "\n".join([*lines, "", *_sharing(stages), *warnings, _assumptions(hardware)]) + "\n"


def _sharing(stages: dict[str, dict[str, Any]]) -> list[str]:
    """Whether prefixes are shared, and what the order by user would share where that is much more."""
    notes = []
    for name, plan in stages.items():
        computed, by_user = plan["computed_tokens_per_epoch"], plan["computed_tokens_per_epoch_by_user"]
        more = f"; with batch_by: user {by_user:,} tokens computed" if by_user < 0.9 * computed else ""
        notes.append(f"{name}: {plan['prefix_sharing']}{more}")
    return notes


def _assumptions(hardware: Hardware) -> str:
    return (
        "Counted: samples, tokens, those of them that are computed, steps, micro-steps. Assumed, not measured: "
        f"{hardware.peak_tflops:g} TFLOP/s a process used to {hardware.utilisation:.0%}, "
        f"{hardware.interconnect_gb_s:g} GB/s between processes, {hardware.micro_step_overhead_s:g} s overhead a "
        "micro-step, compute and traffic overlapping. Early stopping may end a training before `at most`."
    )


def _hours(hours: float) -> str:
    seconds = math.ceil(hours * 3600)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
