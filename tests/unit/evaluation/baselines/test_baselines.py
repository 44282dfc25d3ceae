"""The protocol finds users who have a style, and nothing where there is nothing."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from persona.evaluation.baselines import ngram
from persona.evaluation.baselines.baselines import Baselines, all_baselines
from persona.evaluation.metrics.summary import likelihood_metrics
from tests.unit.evaluation.baselines.prepared import prepared


def test_the_protocol_finds_users_who_have_a_style(own: tuple[pl.DataFrame, pl.DataFrame, Baselines]) -> None:
    found = likelihood_metrics([own[2].ngram], 10)
    assert found["swap_gap"]["low"] > 0
    assert found["acc"]["low"] > 0.15 and found["acc_centred"]["low"] > 0.15


def test_the_protocol_finds_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    interactions, split, targets = prepared(tmp_path, "independent", 1500)
    baselines = all_baselines(interactions, split, targets, 42)
    # Tuned, the cache may be off; the gap must be none with it on as well.
    histories_on = pytest.MonkeyPatch()
    histories_on.setattr(ngram, "CACHE_WEIGHTS", (0.1,))
    forced = all_baselines(interactions, split, targets, 42)
    histories_on.undo()
    for table in (baselines.ngram, forced.ngram):
        found = likelihood_metrics([table], 10)
        assert found["swap_gap"]["low"] <= 0 <= found["swap_gap"]["high"]
        assert found["acc"]["low"] <= 0.1 <= found["acc"]["high"]
