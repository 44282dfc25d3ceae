"""Swap gaps from which the effects of prompts are taken away."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from persona.evaluation.metrics.authors import add_swap_gaps
from persona.evaluation.metrics.balance import add_balanced_gaps


def blocks(prompt_sd: float, identity: float, sizes: tuple[int, ...] = (5, 8, 2)) -> pl.DataFrame:
    """Likelihoods of reviews under all prompts of their block: review + prompt, minus `identity` under the own one."""
    rng = np.random.default_rng(0)
    rows, start = [], 0
    for size in sizes:
        ids = np.arange(start, start + size)
        nll = rng.normal(30, 10, (size, 1)) + rng.normal(0, prompt_sd, size) - identity * np.eye(size)
        for n, target in enumerate(ids):
            others = np.arange(size) != n
            rows.append((int(target), float(nll[n, n]), ids[others][::-1].tolist(), nll[n, others][::-1].tolist()))
        start += size
    names = ["interaction_id", "nll", "impostor_ids", "nll_impostors"]
    return add_swap_gaps(pl.DataFrame(rows, schema=names, orient="row").with_columns(nll_empty=40.0))


def test_effects_of_prompts_vanish_and_sums_stay() -> None:
    raw = blocks(prompt_sd=3.0, identity=2.0)
    found = add_balanced_gaps(raw)
    assert found["swap_gap"].std() > 2
    assert found["swap_gap_balanced"][:13].to_list() == pytest.approx([2.0] * 13)
    for part in (slice(0, 5), slice(5, 13), slice(13, 15)):
        for gap in ("swap_gap", "format_gap"):
            assert found[f"{gap}_balanced"][part].sum() == pytest.approx(raw[gap][part].sum())


def test_without_effects_of_prompts_or_with_missing_rows_nothing_changes() -> None:
    raw = blocks(prompt_sd=0.0, identity=2.0)
    assert add_balanced_gaps(raw)["swap_gap_balanced"].to_list() == pytest.approx(raw["swap_gap"].to_list())
    part = blocks(prompt_sd=3.0, identity=2.0).slice(0, 12)  # one review of the second block is missing
    found = add_balanced_gaps(part)
    assert found["swap_gap_balanced"][5:].to_list() == part["swap_gap"][5:].to_list()


def test_targets_without_impostors_stay_without_gaps() -> None:
    raw = blocks(prompt_sd=1.0, identity=1.0).with_columns(
        pl.lit(None, pl.List(pl.Int64)).alias("impostor_ids"), pl.lit(None, pl.List(pl.Float64)).alias("nll_impostors")
    )
    assert add_balanced_gaps(add_swap_gaps(raw))["swap_gap_balanced"].null_count() == raw.height
