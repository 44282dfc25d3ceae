"""The plan as a Markdown table."""

from __future__ import annotations

import math
from typing import Any

from tabulate import tabulate

from persona.planning.settings import Hardware

BOUNDS = {"compute": "computing", "traffic": "the traffic between GPUs", "host": "the host, which starts the work"}


def plan_table(stages: dict[str, dict[str, Any]], hardware: Hardware) -> str:
    """The plan as Markdown that is also readable on a terminal.

    Args:
        stages: `cost.plan_stage` by stage.
    """
    header = ["stage", "samples", "tokens/epoch", "computed", "steps/epoch", "micro-steps/step", "s/step", "h/epoch",
              "at most", "GPU-h/epoch", "GiB/process", "disk GB"]  # fmt: skip
    rows = []
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
    table = tabulate(rows, header, tablefmt="github", disable_numparse=True)
    warnings = [
        f"{name}: does not fit, {plan['memory_gib']['total']:.1f} of {hardware.memory_gib:g} GiB: {plan['advice']}"
        for name, plan in stages.items()
        if not plan["fits"]
    ]
    return "\n".join([table, "", *_sharing(stages), *_fill(stages), *warnings, _assumptions(hardware)]) + "\n"


def _sharing(stages: dict[str, dict[str, Any]]) -> list[str]:
    """Whether prefixes are shared, and the tokens with `batch_by: user` if that would compute at least 10 % fewer."""
    notes = []
    for name, plan in stages.items():
        computed, by_user = plan["computed_tokens_per_epoch"], plan["computed_tokens_per_epoch_by_user"]
        more = f"; with batch_by: user {by_user:,} tokens computed" if by_user < 0.9 * computed else ""
        notes.append(f"{name}: {plan['prefix_sharing']}{more}")
    return notes


def _fill(stages: dict[str, dict[str, Any]]) -> list[str]:
    """How full rows are, what a step is bound by, and what larger steps would cost."""
    notes = []
    for name, plan in stages.items():
        larger = ", ".join(f"{_hours(hours)} with {n} samples per step" for n, hours in plan["larger_steps"].items())
        tokens, room = plan["tokens_per_micro_step"], plan["max_tokens_per_gpu"]
        notes.append(
            f"{name}: {tokens:,.0f} of {room:,} tokens in a row; a step is bound by {BOUNDS[plan['bound_by']]}"
            + (f"; steps of an epoch: {larger}" if larger else "")
        )
    return notes


def _assumptions(hardware: Hardware) -> str:
    return (
        "Counted: samples, tokens, computed tokens, steps, micro-steps. Assumed, not measured: "
        f"{hardware.peak_tflops:g} TFLOP/s per process at {hardware.utilisation:.0%} utilisation, "
        f"{hardware.interconnect_gb_s:g} GB/s between processes, {hardware.micro_step_overhead_s:g} s overhead per "
        f"micro-step, {hardware.host_s_per_micro_step:g} s of the host per micro-step; computation, communication and "
        "host overlap. Early stopping may end a training before `at most`."
    )


def _hours(hours: float) -> str:
    seconds = math.ceil(hours * 3600)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
