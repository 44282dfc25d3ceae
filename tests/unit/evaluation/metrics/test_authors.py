"""Swap gaps and author identification by hand and against simulations."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from persona.evaluation.metrics.authors import add_swap_gaps, author_ranks, double_centred, expected_ranks, pooled_ranks


def scores(rows: list[tuple[int, str, float, list[int], list[float]]]) -> pl.DataFrame:
    names = ["interaction_id", "user_id", "nll", "impostor_ids", "nll_impostors"]
    return pl.DataFrame(rows, schema=names, orient="row").with_columns(nll_empty=pl.lit(20.0))


def test_gaps_by_hand() -> None:
    row = add_swap_gaps(scores([(1, "a", 10.0, [2, 3], [11.0, 15.0])])).row(0, named=True)
    assert (row["swap_gap"], row["format_gap"]) == (3.0, 7.0)


def test_expected_ranks_by_hand() -> None:
    assert expected_ranks(2.0, np.array([1.0, 3.0, 0.0]), 4) == (0.0, 0.5)
    # Two of three impostors drawn; one is better. It is among them in 2 of 3 draws.
    acc, mrr = expected_ranks(2.0, np.array([1.0, 3.0, 0.0]), 3)
    assert acc == pytest.approx(1 / 3) and mrr == pytest.approx(1 / 3 + 2 / 3 / 2)
    # All tie: chance.
    acc, mrr = expected_ranks(1.0, np.ones(9), 10)
    assert acc == pytest.approx(0.1) and mrr == pytest.approx(0.2929, abs=1e-4)


def test_drawn_impostors_agree_with_a_simulation() -> None:
    rng = np.random.default_rng(0)
    others = rng.normal(size=14)
    ranks = [1 + (rng.choice(others, 9, replace=False) > 0.3).sum() for _ in range(20_000)]
    acc, mrr = expected_ranks(0.3, others, 10)
    assert acc == pytest.approx(np.mean(np.array(ranks) == 1), abs=0.01)
    assert mrr == pytest.approx(np.mean(1 / np.array(ranks)), abs=0.01)


def test_a_prompt_that_suits_every_review_loses_its_advantage_by_centring() -> None:
    # Likelihoods (rows reviews, columns prompts): prompt 3 is 5 nats better for all; each author has 1 nat.
    likelihood = -np.array([[10.0, 11, 6], [11, 10, 6], [11, 11, 5]])
    ids = [1, 2, 3]
    rows = []
    for n, target in enumerate(ids):
        others = [m for m in range(3) if m != n]
        rows.append((target, "abc"[n], -likelihood[n, n], [ids[m] for m in others], (-likelihood[n, others]).tolist()))
    ranks = author_ranks(scores(rows), 3)
    assert ranks["acc"].to_list() == [0.0, 0.0, 1.0]
    assert ranks["acc_centred"].to_list() == [1.0, 1.0, 1.0]
    own, centred_others = double_centred(scores(rows))[1]
    centred = likelihood - likelihood.mean(0) - likelihood.mean(1, keepdims=True) + likelihood.mean()
    assert own == pytest.approx(centred[0, 0])
    np.testing.assert_allclose(centred_others, centred[0, 1:])


def test_reviews_of_a_part_of_a_block_are_centred_among_themselves() -> None:
    table = scores(
        [(1, "a", 10.0, [2, 3], [11.0, 6.0]), (2, "b", 10.0, [1, 3], [12.0, 6.0]), (3, "c", 5.0, [1, 2], [9.0, 9.0])]
    )
    likelihood = -np.array([[10.0, 11, 6], [12, 10, 6]])
    centred = likelihood - likelihood.mean(0) - likelihood.mean(1, keepdims=True) + likelihood.mean()
    found = double_centred(table.head(2))
    assert set(found) == {1, 2}
    assert found[2][0] == pytest.approx(centred[1, 1])
    np.testing.assert_allclose(found[2][1], centred[1, [0, 2]])
    assert author_ranks(table.head(2), 3)["acc"].to_list() == author_ranks(table, 3)["acc"].to_list()[:2]


def simulated(identity: float, prompt_sd: float) -> pl.DataFrame:
    """Two reviews a user in blocks of ten; a user's prompts share an effect on the likelihood of any review."""
    rng = np.random.default_rng(0)
    n = 400
    effect, rows = rng.normal(0, prompt_sd, n), []
    for film in range(2):
        for block in rng.permutation(n).reshape(-1, 10):
            nll = rng.normal(0, 1, (10, 10)) - effect[block] + rng.normal(0, 3, (10, 1))
            nll[np.diag_indices(10)] -= identity
            ids = [film * n + int(user) for user in block]
            for place, target in enumerate(ids):
                others = [m for m in range(10) if m != place]
                rows.append(
                    (target, str(target % n), nll[place, place], [ids[m] for m in others], nll[place, others].tolist())
                )
    return scores(rows)


def test_reviews_of_a_user_are_pooled() -> None:
    some = simulated(identity=1.0, prompt_sd=0.5)
    pooled = pooled_ranks(some, 10)
    assert pooled.height == 400
    assert pooled["acc"].mean() > author_ranks(some, 10)["acc_centred"].mean() + 0.05  # type: ignore[operator]


def test_a_users_prompts_being_alike_is_not_taken_for_identity() -> None:
    pooled = pooled_ranks(simulated(identity=0.0, prompt_sd=3.0), 10)
    assert pooled["acc"].mean() == pytest.approx(0.1, abs=0.03)
    assert pooled["mrr"].mean() == pytest.approx(0.293, abs=0.03)
