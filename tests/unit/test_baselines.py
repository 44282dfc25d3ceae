"""Baselines against independent computations, and what they see and do not see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from persona.evaluation.baselines.baselines import Baselines, all_baselines
from persona.evaluation.baselines.ngram import ALPHABET, NgramModel, UserCache
from persona.evaluation.metrics.authors import author_ranks
from persona.evaluation.metrics.summary import likelihood_metrics
from persona.evaluation.targets import build_targets
from persona.ingestion.synthetic import write_dmsc_csv
from persona.sampling import sample_targets
from persona.splitting import split_users
from tests.ingesting import ingested


def prepared(folder: Path, habits: str, users: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Interactions, split and targets of a synthetic release."""
    write_dmsc_csv(folder / "DMSC.csv", users, 11, habits)  # type: ignore[arg-type]
    tables = ingested(folder / "DMSC.csv")
    split = split_users(tables.users, 0.15, 0.3, 42)
    cohorts = {name: sample_targets(tables.interactions, split, name, 2, None, 42) for name in ("val", "test")}
    return tables.interactions, split, build_targets(cohorts, tables.interactions, 10, 42)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, pl.DataFrame, Baselines]:
    interactions, split, targets = prepared(tmp_path_factory.mktemp("own"), "own", 1500)
    return interactions, targets, all_baselines(interactions, split, targets, 42)


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


def test_star_baselines_beat_the_mean_and_the_damped_bias_is_its_formula(
    own: tuple[pl.DataFrame, pl.DataFrame, Baselines],
) -> None:
    _, targets, baselines = own
    test = targets.filter(pl.col("cohort") == "test")
    errors = {
        method: float(((rows["rating"] - rows["truth"]) ** 2).mean())  # type: ignore[arg-type]
        for (method,), rows in baselines.ratings.join(
            test.select("interaction_id", truth=pl.col("rating").cast(pl.Float64)), on="interaction_id"
        ).group_by(["method"])
    }
    assert errors["film_mean"] < errors["global_mean"]
    assert max(errors[m] for m in ("damped_bias", "matrix_factorisation", "tfidf_ridge")) < errors["film_mean"]
    # A user without history gets the film's mean.
    new = test.filter(pl.col("n_history") == 0)["interaction_id"]
    guesses = baselines.ratings.filter(pl.col("interaction_id").is_in(new.implode()))
    by_method = {m: rows.sort("interaction_id")["rating"] for (m,), rows in guesses.group_by(["method"])}
    for method in ("damped_bias", "tfidf_ridge"):
        np.testing.assert_allclose(by_method[method], by_method["film_mean"])


def test_text_baselines_are_what_their_names_say(own: tuple[pl.DataFrame, pl.DataFrame, Baselines]) -> None:
    interactions, targets, baselines = own
    texts = {
        m: dict(r.select("interaction_id", "text").iter_rows()) for (m,), r in baselines.texts.group_by(["method"])
    }
    assert len(set(texts["commonest"].values())) == 1
    by_film = {(film, star): set(rows["text"]) for (film, star), rows in interactions.group_by(["item_id", "rating"])}
    rows = targets.filter(pl.col("cohort") == "test")
    for row in rows.iter_rows(named=True):
        if row["interaction_id"] in texts["same_film_and_star"]:
            chosen = texts["same_film_and_star"][row["interaction_id"]]
            assert chosen in by_film[row["item_id"], row["rating"]]
    assert set(texts["last_review"]) == set(rows.filter(pl.col("n_history") > 0)["interaction_id"])


def test_baselines_do_not_depend_on_val_and_test_users_of_the_future(
    own: tuple[pl.DataFrame, pl.DataFrame, Baselines],
) -> None:
    """Every target's own text and star may be changed without changing what is guessed for it."""
    interactions, targets, baselines = own
    assert set(baselines.authors["interaction_id"]) == set(targets.drop_nulls("block")["interaction_id"])
    last = baselines.texts.filter(pl.col("method") == "last_review").join(
        targets.select("interaction_id", own="text"), on="interaction_id"
    )
    texts = interactions.select("interaction_id", "user_id", "day", "text")
    days = last.join(texts.select("interaction_id", target_day="day"), on="interaction_id").join(
        texts.select("user_id", "text", "day"), on=["user_id", "text"]
    )
    earliest = days.group_by("interaction_id").agg(pl.col("day").min(), pl.col("target_day").first())
    assert (earliest["day"] < earliest["target_day"]).all()


def test_a_user_without_history_is_neither_favoured_nor_ruled_out(
    own: tuple[pl.DataFrame, pl.DataFrame, Baselines],
) -> None:
    _, targets, baselines = own
    new = targets.filter(pl.col("n_history") == 0)["interaction_id"]
    ranks = author_ranks(baselines.authors, 10)
    assert 0.02 < ranks.filter(pl.col("interaction_id").is_in(new.implode()))["acc"].mean() < 0.3  # type: ignore[operator]
    assert ranks.filter(~pl.col("interaction_id").is_in(new.implode()))["acc"].mean() > 0.5  # type: ignore[operator]


def test_the_protocol_finds_users_who_have_a_style(own: tuple[pl.DataFrame, pl.DataFrame, Baselines]) -> None:
    found = likelihood_metrics([own[2].ngram], 10)
    assert found["swap_gap_films"]["low"] > 0
    assert found["acc"]["low"] > 0.15 and found["acc_centred"]["low"] > 0.15


def test_the_protocol_finds_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    interactions, split, targets = prepared(tmp_path, "independent", 1500)
    baselines = all_baselines(interactions, split, targets, 42)
    # Tuned, the cache may be off; the gap must be none with it on as well.
    from persona.evaluation.baselines import ngram as module

    histories_on = pytest.MonkeyPatch()
    histories_on.setattr(module, "CACHE_WEIGHTS", (0.1,))
    forced = all_baselines(interactions, split, targets, 42)
    histories_on.undo()
    for table in (baselines.ngram, forced.ngram):
        found = likelihood_metrics([table], 10)
        assert found["swap_gap"]["low"] <= 0 <= found["swap_gap"]["high"]
        assert found["acc"]["low"] <= 0.1 <= found["acc"]["high"]
