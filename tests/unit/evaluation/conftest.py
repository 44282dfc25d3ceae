"""Data shared by the tests of claims and of stars."""

from __future__ import annotations

import polars as pl
import pytest


@pytest.fixture(scope="module")
def hundred() -> pl.DataFrame:
    """Ten films of ten users, all of whom have history and gave five stars."""
    ids = list(range(100))
    others = [[o for o in range(10 * (n // 10), 10 * (n // 10) + 10) if o != n] for n in ids]
    keys = {"interaction_id": ids, "user_id": [f"u{n:03}" for n in ids], "item_id": [f"f{n // 10}" for n in ids]}
    n_history = pl.Series([1] * 100, dtype=pl.Int32)
    return pl.DataFrame(keys | {"others": others, "rating": [5.0] * 100, "n_history": n_history})
