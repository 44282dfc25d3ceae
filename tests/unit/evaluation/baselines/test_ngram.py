"""The n-gram model and its cache by hand."""

from __future__ import annotations

import numpy as np
import pytest

from persona.evaluation.baselines.ngram import ALPHABET, NgramModel, UserCache


def test_the_n_gram_model_by_hand() -> None:
    model = NgramModel(["ab", "ab"])
    (p_a, p_b, p_end) = np.exp(model.log_probabilities(["ab"])[0])
    # Witten-Bell: (count + followers x lower) / (contexts + followers), order by order. Unigrams: 2 of 6, 3 kinds.
    one = (2 + 3 / ALPHABET) / 9
    # After a context that was seen twice and has one follower: (2 + lower) / 3, for orders 2 to 5.
    expected = one
    for _ in range(4):
        expected = (2 + expected) / 3
    assert p_a == pytest.approx(expected) and p_b == pytest.approx(expected) and p_end == pytest.approx(expected)
    # Never seen: the share of the uniform distribution alone.
    unseen = np.exp(model.log_probabilities(["字"])[0][0])
    assert unseen == pytest.approx(3 / ALPHABET / 9 / 3**4)


def test_n_gram_probabilities_add_up_to_one() -> None:
    model = NgramModel(["好看", "很好看", "好听！"])
    known = [*"好看很听！"]
    p = [float(np.exp(model.log_probabilities([f"很{c}"])[0][1])) for c in known]
    end = float(np.exp(model.log_probabilities(["很"])[0][1]))
    unknown = float(np.exp(model.log_probabilities(["很字"])[0][1]))
    assert sum(p) + end + unknown * (ALPHABET - len(known) - 1) == pytest.approx(1.0)


def test_the_cache_by_hand() -> None:
    cache = UserCache(["ab", "ac"], order=2)
    # b after a: 1 of 2; the end after b: always; a at the beginning: always.
    np.testing.assert_allclose(cache.probabilities("ab"), [1.0, 0.5, 1.0])
    np.testing.assert_allclose(cache.probabilities("x"), [0.0, 2 / 6])  # x is unknown, then unigrams
