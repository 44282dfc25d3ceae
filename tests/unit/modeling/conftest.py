"""A table of tokens for the tests of rows and of the loss."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from persona.modeling.packing import TokenTable


@pytest.fixture
def table() -> TokenTable:
    rng = np.random.default_rng(0)
    lengths = [int(n) for n in rng.integers(5, 40, 12)]
    return TokenTable.from_frame(
        pl.DataFrame(
            {
                "input_ids": [rng.integers(0, 97, n).tolist() for n in lengths],
                "prompt_length": [int(rng.integers(2, n - 1)) for n in lengths],
                "user_id": [str(n) for n in range(len(lengths))],
            },
            schema={"input_ids": pl.List(pl.Int32), "prompt_length": pl.Int32, "user_id": pl.String},
        )
    )
