"""Swap gaps without the noise of prompts under which every text is unlikely."""

from __future__ import annotations

import numpy as np
import polars as pl

from persona.evaluation.metrics.intervals import Floats

# By target, the likelihoods under its impostors' prompts.
Block = dict[int, dict[int, float]]


def add_balanced_gaps(scores: pl.DataFrame) -> pl.DataFrame:
    """Add `swap_gap_balanced` and `format_gap_balanced`: the gaps with each prompt's effect put down to its own user.

    The NLL of review i under prompt j is taken to be a_i + p_j besides what is specific to the two. The swap gap of i
    then holds (mean of the others' p) - p_i. Over a block this cancels, so intervals from the raw gaps would be too
    wide. The format gap holds minus the mean of the others' p, and its balanced form holds -p_i. Both have the same
    sums over a block as the raw gaps, so their means are the same.

    p_j is the mean over the block of the NLL under prompt j minus the review's mean under its impostors' prompts, by
    1 - 1 / (k - 1)^2 with k the size of the block (additive least squares without the diagonal). Gaps of blocks of two,
    or of blocks of which rows are missing, stay as they are.

    Args:
        scores: with `interaction_id`, `impostor_ids`, `nll_impostors`, `swap_gap` and `format_gap`.
    """
    blocks: dict[tuple[int, ...], Block] = {}
    known = scores.select("interaction_id", "impostor_ids", "nll_impostors").drop_nulls()
    for target, others, nll in known.iter_rows():
        blocks.setdefault(tuple(sorted([target, *others])), {})[target] = dict(zip(others, nll, strict=True))
    shifts = dict.fromkeys(scores["interaction_id"], 0.0)
    for members, rows in blocks.items():
        if len(members) > 2 and len(rows) == len(members):
            shifts |= dict(zip(members, _shifts(members, rows), strict=True))
    shift = pl.Series([shifts[target] for target in scores["interaction_id"]], dtype=pl.Float64)
    return scores.with_columns(
        swap_gap_balanced=pl.col("swap_gap") + shift, format_gap_balanced=pl.col("format_gap") - shift
    )


def _shifts(members: tuple[int, ...], rows: Block) -> Floats:
    """p_i minus the mean of the others' p, in nats `[members]`; they sum to 0."""
    k = len(members)
    block = np.array([[rows[i].get(j, np.nan) for j in members] for i in members])
    deviations = block - np.nanmean(block, axis=1, keepdims=True)
    effects = np.nanmean(deviations, axis=0) / (1 - 1 / (k - 1) ** 2)
    return np.asarray((k * effects - effects.sum()) / (k - 1))
