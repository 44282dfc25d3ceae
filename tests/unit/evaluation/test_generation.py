"""Which texts are written at once."""

from __future__ import annotations

import pytest

from persona.evaluation.generation import _batches
from persona.evaluation.settings import BATCH, n_batches


@pytest.mark.parametrize("n_texts", [1, 7, 8, 40, 200, 400, 1000])
def test_batches_are_as_many_for_each_process_and_nearly_as_large(n_texts: int) -> None:
    batches = _batches({target: [1] * target for target in range(n_texts)}, n_samples=0)
    assert sorted(target for batch in batches for target, _, _ in batch) == list(range(n_texts))
    sizes = {len(batch) for batch in batches}
    assert max(sizes) <= BATCH and max(sizes) - min(sizes) <= 1
    assert len(batches) == n_batches(n_texts) and (n_texts < 8 or len(batches) % 8 == 0)


def test_without_texts_there_is_no_batch() -> None:
    assert _batches({}, n_samples=1) == []
