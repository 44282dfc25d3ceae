"""The plan as a Markdown table."""

from __future__ import annotations

import math
from typing import Any

from tabulate import tabulate

from persona.evaluation.metrics.intervals import detectable_gap
from persona.planning.cost import HOST_WHEN_SPREAD
from persona.planning.layouts import SPREAD, ZERO3
from persona.planning.settings import Hardware

LAYOUTS = {ZERO3: "ZeRO-3", SPREAD: "expert_parallel: {degree} and ZeRO-1"}
BOUNDS = {
    "compute": "computing",
    "traffic": "the traffic between GPUs",
    "host": "the host, which starts the work",
    "exchange": "the exchange of tokens with experts",
}


NOT_MEASURED = (
    "No times, memory or disk: the configuration has no `hardware` section, and this machine's CPUs are not measured. "
    "`python -m persona calibrate` measures them in minutes and prints the section to paste."
)


def plan_table(stages: dict[str, dict[str, Any]], hardware: Hardware | None, test_users: int, assumed_sd: float) -> str:
    """The plan as Markdown that is also readable on a terminal.

    Args:
        stages: `stage.plan_stage` by stage.
        hardware: None names no times.
        test_users: users of the test cohort.
        assumed_sd: standard deviation of the users' effects, in nats per character.
    """
    rows = [_counts(name, plan) | (_estimates(plan, hardware) if hardware else {}) for name, plan in stages.items()]
    table = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    power = _power(test_users, assumed_sd)
    if hardware is None:
        return "\n".join([table, "", *_grouped(_sharing(stages)), NOT_MEASURED, power]) + "\n"
    warnings = [
        f"{name}: does not fit, {plan['memory_gib']['total']:.1f} of {hardware.memory_gib:g} GiB: {plan['advice']}"
        for name, plan in stages.items()
        if not plan["fits"]
    ]
    notes = [
        *_grouped(_sharing(stages)),
        *_fill(stages),
        *_layouts(stages),
        *_grouped(_memory(stages)),
        *warnings,
        _assumptions(hardware),
    ]
    return "\n".join([table, "", _phases(stages), "", *notes, power]) + "\n"


def _counts(name: str, plan: dict[str, Any]) -> dict[str, str]:
    return {
        "stage": name,
        "samples": f"{plan['samples']:,}",
        "tokens/epoch": f"{plan['tokens_per_epoch']:,}",
        "computed": f"{plan['computed_tokens_per_epoch']:,}",
        "steps/epoch": f"{plan['steps_per_epoch']:,}",
        "micro-steps/step": f"{plan['micro_steps_per_step']:.2f}",
    }


def _estimates(plan: dict[str, Any], hardware: Hardware) -> dict[str, str]:
    return {
        "s/step": f"{plan['seconds_per_step']:.2f}",
        "h/epoch": _hours(plan["hours_per_epoch"]),
        "GPU-h/epoch": _hours(plan["gpu_hours_per_epoch"]),
        "GiB/process": f"{plan['memory_gib']['total']:.1f} of {hardware.memory_gib:g}{'' if plan['fits'] else ' (!)'}",
        "GB disk": f"{sum(plan['disk_gb'].values()):,.1f}",
        "GB host memory": f"{sum(plan['host_memory_gb'].values()):,.1f}",
    }


def _phases(stages: dict[str, dict[str, Any]]) -> str:
    """The phases of each stage and of all, at the earliest and the latest end of the training."""
    names = list(next(iter(stages.values()))["phases"]["at_most"]["seconds"])
    rows, sums = [], {"at_least": dict.fromkeys(names, 0.0), "at_most": dict.fromkeys(names, 0.0)}
    for stage, plan in stages.items():
        bounds = plan["phases"]
        for bound, phases in bounds.items():
            if bound == "at_least" and phases == bounds["at_most"]:
                continue
            rows.append(_phase_row(stage, f"{bound.replace('_', ' ')} {phases['epochs']:g}", phases["seconds"]))
        for bound, phases in bounds.items():
            for name, seconds in phases["seconds"].items():
                sums[bound][name] += seconds
    if len(stages) > 1:
        rows += [_phase_row("all stages", bound.replace("_", " "), seconds) for bound, seconds in sums.items()]
    return tabulate(rows, ["stage", "epochs", *names, "total", "longest"], tablefmt="github", disable_numparse=True)


def _phase_row(stage: str, bound: str, seconds: dict[str, float]) -> list[str]:
    longest = max(seconds, key=lambda name: seconds[name])
    return [stage, bound, *map(_clock, seconds.values()), _clock(sum(seconds.values())), longest]


def _grouped(notes: dict[str, str]) -> list[str]:
    """One line for all stages with the same note."""
    stages: dict[str, list[str]] = {}
    for stage, note in notes.items():
        stages.setdefault(note, []).append(stage)
    return [f"{', '.join(names)}: {note}" for note, names in stages.items()]


def _memory(stages: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What the memory of a GPU is for. The peak is in the backward pass of the row with the most tokens."""
    notes = {}
    for name, plan in stages.items():
        kinds = {kind: gib for kind, gib in plan["memory_gib"].items() if kind not in ("total", "available")}
        parts = ", ".join(f"{kind} {gib:.2g}" for kind, gib in kinds.items())
        notes[name] = f"GiB per process in the backward pass of the largest row: {parts}"
    return notes


def _sharing(stages: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Whether prefixes are shared, and the tokens with `batch_by: user` if that would compute at least 10 % fewer."""
    notes = {}
    for name, plan in stages.items():
        computed, by_user = plan["computed_tokens_per_epoch"], plan["computed_tokens_per_epoch_by_user"]
        more = f"; with batch_by: user {by_user:,} tokens computed" if by_user < 0.9 * computed else ""
        notes[name] = f"{plan['prefix_sharing']}{more}"
    return notes


def _fill(stages: dict[str, dict[str, Any]]) -> list[str]:
    """How full rows are, what a step is bound by, and what larger steps would cost."""
    notes = []
    for name, plan in stages.items():
        larger = ", ".join(f"{_hours(hours)} with {n}" for n, hours in plan["larger_steps"].items())
        tokens, room = plan["tokens_per_micro_step"], plan["max_tokens_per_gpu"]
        notes.append(
            f"{name}: {tokens:,.0f} of {room:,} tokens in a row; a step is bound by {BOUNDS[plan['bound_by']]}"
            + (f"; steps of an epoch with more samples per step: {larger}" if larger else "")
        )
    return notes


def _layouts(stages: dict[str, dict[str, Any]]) -> list[str]:
    """What experts that are gathered cost and what spread ones would, where there is a choice."""
    notes = []
    for name, plan in stages.items():
        if plan["layouts"] is not None:
            parts = [
                f"{LAYOUTS[layout].format(degree=plan['layouts']['degree'])}: {figures['gb_moved_per_step']:,.3g} GB "
                f"moved in {figures['traffic_seconds_per_step']:.2g} s, {figures['seconds_per_step']:.2g} s in all, "
                f"{figures['memory_gib']:.3g} GiB"
                for layout, figures in plan["layouts"]["figures"].items()
            ]
            advised = LAYOUTS[plan["layouts"]["advised"]].format(degree=plan["layouts"]["degree"])
            notes.append(
                f"{name}: a step with {'; with '.join(parts)}. Advised: {advised}, {plan['layouts']['reason']}"
            )
    if notes:
        notes.append(
            f"With expert_parallel the host is assumed to need {HOST_WHEN_SPREAD:g} of its time under ZeRO-3, as was "
            "measured on a CPU, and tokens to choose experts evenly."
        )
    return notes


def _assumptions(hardware: Hardware) -> str:
    return (
        "Counted: samples, tokens, computed tokens, steps, micro-steps. "
        + (f"Measured ({hardware.measured}): " if hardware.measured else "Assumed, not measured here: ")
        + f"{hardware.peak_tflops:g} TFLOP/s per process at {hardware.utilisation:.0%} utilisation, "
        f"{hardware.interconnect_gb_s:g} GB/s between processes, {hardware.micro_step_overhead_s:g} s overhead per "
        f"micro-step, {hardware.host_s_per_layer:g} s of the host per layer and micro-step; computation, "
        "traffic of weights and host overlap. A training ends between `at least`, where no validation is better than "
        "the first, and `at most`."
    )


def _power(test_users: int, assumed_sd: float) -> str:
    """The smallest gap that the test cohort can show."""
    if not test_users:
        return "No test users: no gap can be shown."
    gap = detectable_gap(assumed_sd, test_users)
    return (
        f"{test_users:,} test users show a gap of {gap:.2g} nats per character in 4 of 5 studies (two-sided 5 %), if "
        f"users' effects vary by {assumed_sd:g} (evaluation.assumed_sd, an assumption) and items and seeds do not."
    )


def _hours(hours: float) -> str:
    return _clock(hours * 3600)


def _clock(seconds: float) -> str:
    whole = math.ceil(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
