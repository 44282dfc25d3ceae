"""The plan as people read it."""

from __future__ import annotations

from typing import Any

from persona.planning.settings import Hardware
from persona.planning.stage import COUNTED
from persona.planning.table import plan_table

HARDWARE = Hardware(memory_gib=79, peak_tflops=989, utilisation=0.28, interconnect_gb_s=450, micro_step_overhead_s=0)


def stage(**changed: Any) -> dict[str, Any]:
    return {
        "samples": 1234,
        "tokens_per_epoch": 5_000_000,
        "computed_tokens_per_epoch": 4_000_000,
        "computed_tokens_per_epoch_by_user": 3_900_000,
        "steps_per_epoch": 10,
        "micro_steps_per_step": 1.5,
        "seconds_per_step": 2.25,
        "hours_per_epoch": 1.5,
        "max_epochs": 3,
        "gpu_hours_per_epoch": 12.0,
        "memory_gib": {"weights": 50.0, "activations": 10.0, "total": 60.0},
        "fits": True,
        "advice": "",
        "disk_gb": {"checkpoints": 310.0, "model": 60.0},
        "host_memory_gb": {"best weights": 60.0, "copies for a checkpoint": 420.0},
        "phases": {
            "at_least": {"epochs": 1, "seconds": {"loading": 100.0, "steps": 5400.0, "scoring": 20.0}},
            "at_most": {"epochs": 3, "seconds": {"loading": 100.0, "steps": 16200.0, "scoring": 20.0}},
        },
        "prefix_sharing": "prefixes are shared",
        "tokens_per_micro_step": 812.0,
        "max_tokens_per_gpu": 8192,
        "bound_by": "host",
        "larger_steps": {256: 0.5},
        "layouts": None,
    } | changed


def test_the_table_is_markdown_with_a_row_per_stage() -> None:
    table = plan_table({"quick": stage(), "all_data": stage(samples=99)}, HARDWARE, 1000, 0.1)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    assert rows[0][:3] == ["stage", "samples", "tokens/epoch"]
    assert set("".join(rows[1])) == {"-"}
    assert rows[2] == ["quick", "1,234", "5,000,000", "4,000,000", "10", "1.50", "2.25", "1:30:00",
                       "12:00:00", "60.0 of 79", "370.0", "480.0"]  # fmt: skip
    assert [row[0] for row in rows[2:4]] == ["quick", "all_data"]


def test_both_ways_to_divide_experts_are_compared() -> None:
    figures = {
        "zero3": {"gb_moved_per_step": 160.3, "traffic_seconds_per_step": 0.356, "seconds_per_step": 0.8,
                  "memory_gib": 68.0},
        "expert_parallel": {"gb_moved_per_step": 12.2, "traffic_seconds_per_step": 0.027, "seconds_per_step": 0.8,
                            "memory_gib": 66.5},
    }  # fmt: skip
    layouts = {"degree": 8, "figures": figures, "advised": "expert_parallel", "reason": "because it moves fewer bytes"}
    table = plan_table({"quick": stage(layouts=layouts)}, HARDWARE, 1000, 0.1)
    assert (
        "quick: a step with ZeRO-3: 160 GB moved in 0.36 s, 0.8 s in all, 68 GiB; with expert_parallel: 8 and ZeRO-1: "
        "12.2 GB moved in 0.027 s, 0.8 s in all, 66.5 GiB. Advised: expert_parallel: 8 and ZeRO-1, because it moves "
        "fewer bytes" in table
    )


def test_a_stage_that_does_not_fit_is_marked_with_advice() -> None:
    plan = stage(memory_gib={"total": 90.0}, fits=False, advice="set gradient_checkpointing: true")
    table = plan_table({"quick": plan}, HARDWARE, 1000, 0.1)
    assert "90.0 of 79 (!)" in table
    assert "quick: does not fit, 90.0 of 79 GiB: set gradient_checkpointing: true" in table


def test_ordering_by_user_is_mentioned_where_it_computes_much_less() -> None:
    much = plan_table({"quick": stage(computed_tokens_per_epoch_by_user=1_000_000)}, HARDWARE, 1000, 0.1)
    assert "with batch_by: user 1,000,000 tokens computed" in much
    assert "batch_by" not in plan_table({"quick": stage()}, HARDWARE, 1000, 0.1)


def test_how_full_rows_are_and_what_larger_steps_cost_is_told() -> None:
    table = plan_table({"quick": stage()}, HARDWARE, 1000, 0.1)
    assert "quick: 812 of 8,192 tokens in a row; a step is bound by the host, which starts the work; " in table
    assert "; steps of an epoch with more samples per step: 0:30:00 with 256" in table


def test_each_phase_is_told_for_each_stage_and_in_sum() -> None:
    table = plan_table({"quick": stage(), "all_data": stage()}, HARDWARE, 1000, 0.1)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"][4:]
    assert rows[0] == ["stage", "epochs", "loading", "steps", "scoring", "total", "longest"]
    assert rows[2] == ["quick", "at least 1", "0:01:40", "1:30:00", "0:00:20", "1:32:00", "steps"]
    assert rows[-1] == ["all stages", "at most", "0:03:20", "9:00:00", "0:00:40", "9:04:00", "steps"]
    assert (
        "quick, all_data: GiB per process in the backward pass of the largest row: weights 50, activations 10" in table
    )


def test_the_plan_says_whether_the_hardware_was_measured() -> None:
    assert "Assumed, not measured here: " in plan_table({"quick": stage()}, HARDWARE, 1000, 0.1)
    measured = HARDWARE.model_copy(update={"measured": "H100, 2026-11-26"})
    assert "Measured (H100, 2026-11-26): " in plan_table({"quick": stage()}, measured, 1000, 0.1)


def test_without_hardware_no_time_is_named() -> None:
    counted = {name: value for name, value in stage().items() if name in COUNTED}
    table = plan_table({"quick": counted}, None, 1000, 0.1)
    assert "| quick" in table and "5,000,000" in table and "python -m persona calibrate" in table
    assert "h/epoch" not in table and "TFLOP/s" not in table


def test_the_plan_says_how_small_a_gap_the_test_users_can_show() -> None:
    table = plan_table({"quick": stage()}, HARDWARE, 2000, 0.2)
    assert f"2,000 test users show a gap of {2.8016 * 0.2 / 2000**0.5:.2g} nats per character" in table
    assert "vary by 0.2 (evaluation.assumed_sd, an assumption)" in table
    assert "no gap can be shown" in plan_table({"quick": stage()}, HARDWARE, 0, 0.2)
