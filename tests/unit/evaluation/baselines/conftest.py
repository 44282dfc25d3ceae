"""The baselines of a synthetic release whose users have their own habits."""

from __future__ import annotations

import polars as pl
import pytest

from persona.evaluation.baselines.baselines import Baselines, all_baselines
from tests.unit.evaluation.baselines.prepared import prepared


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, pl.DataFrame, Baselines]:
    interactions, split, targets = prepared(tmp_path_factory.mktemp("own"), "own", 1500)
    return interactions, targets, all_baselines(interactions, split, targets, 42)
