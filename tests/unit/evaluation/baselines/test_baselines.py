"""The protocol finds users who have a style, and nothing where there is nothing."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from persona.evaluation.baselines import ngram
from persona.evaluation.baselines.baselines import Baselines, all_baselines, best_author_baseline
from persona.evaluation.metrics.authors import author_ranks
from persona.evaluation.metrics.summary import baseline_metrics, likelihood_metrics
from persona.evaluation.targets import build_targets, past_of_cohorts
from persona.ingestion.ingest import Ingested
from persona.sampling import sample_targets
from persona.splitting import split_by_item, split_by_time
from persona.tables import schemas
from persona.tables.parquet import read_table, write_table
from persona.tables.splits import reviews_in
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


@pytest.mark.parametrize("by", ["time", "item"])
def test_baselines_see_nothing_of_val_and_test_but_the_history_of_a_target(tables: Ingested, by: str) -> None:
    """All other texts and stars of val and test may be others without changing a guess."""
    reviews = tables.interactions
    days = reviews["day"].sort()
    split = (
        split_by_item(reviews, 0.2, 0.3, 42)
        if by == "item"
        else split_by_time(reviews, days[int(0.6 * len(days))], days[int(0.8 * len(days))])
    )
    cohorts = {name: sample_targets(reviews, split, name, 1, 60, 42) for name in ("val", "test")}
    targets = build_targets(cohorts, reviews, 10, 42, split)
    known = targets.select("interaction_id", "user_id", "cohort").join(
        reviews.select("interaction_id", "session"), on="interaction_id"
    )
    seen = pl.concat(
        [past_of_cohorts(known, reviews, split)["history_id"], reviews_in(reviews, split, "train")["interaction_id"]]
    )
    is_seen = pl.col("interaction_id").is_in(seen.implode())
    changed = reviews.with_columns(
        text=pl.when(is_seen).then("text").otherwise(pl.format("改{}", "interaction_id")),
        rating=pl.when(is_seen).then("rating").otherwise(pl.lit(6) - pl.col("rating")),
    )
    assert (changed["text"] != reviews["text"]).sum() > 50
    before, after = (all_baselines(table, split, targets, 42) for table in (reviews, changed))
    for name in ("ratings", "texts", "authors", "ngram"):
        assert getattr(before, name).equals(getattr(after, name)), name
    guessed = before.ratings.filter(pl.col("method") == "item_mean")["rating"].unique()
    assert by == "time" or guessed.to_list() == [reviews_in(reviews, split, "train")["rating"].mean()]


def test_a_val_prompt_and_what_is_known_of_its_target_hide_test_items(tables: Ingested) -> None:
    reviews = tables.interactions
    split = split_by_item(reviews, 0.2, 0.3, 42)
    val = sample_targets(reviews, split, "val", None, None, 42)
    targets = build_targets({"val": val}, reviews, 10, 42, split)
    in_test = reviews_in(reviews, split, "test")["interaction_id"].implode()
    shown = reviews.filter(~pl.col("interaction_id").is_in(in_test)).select("user_id", "session")
    pairs = val.join(reviews.select("interaction_id", "session"), on="interaction_id").join(shown, on="user_id")
    n = pairs.filter(pl.col("session_right") < pl.col("session")).group_by("interaction_id").len("n")
    counted = targets.join(n, on="interaction_id", how="left")
    assert counted["n_history"].to_list() == counted["n"].fill_null(0).to_list()
    with_hidden = build_targets({"val": val}, reviews, 10, 42)
    assert with_hidden["n_history"].sum() > targets["n_history"].sum()


def ranked(cohort: str, n_history: int, finds: bool, start: int) -> pl.DataFrame:
    """Two targets of two users; the author is found or not."""
    ids = [start, start + 1]
    return pl.DataFrame(
        {
            "interaction_id": ids,
            "user_id": [f"u{n}" for n in ids],
            "cohort": cohort,
            "n_history": n_history,
            "impostor_ids": [ids[1:], ids[:1]],
            "nll": 1.0,
            "nll_impostors": [[2.0 if finds else 0.0]] * 2,
        }
    )


def table(val: bool, val_without_history: bool, test: bool) -> pl.DataFrame:
    """Of a method that finds the authors of these targets or not."""
    return pl.concat([ranked("val", 3, val, 0), ranked("val", 0, val_without_history, 2), ranked("test", 3, test, 4)])


def test_the_baseline_of_authors_is_chosen_on_the_val_targets_with_history() -> None:
    good_on_val, good_on_test = table(True, False, False), table(False, True, True)
    name, rows = best_author_baseline(good_on_val, good_on_test, 2)
    assert name == "tfidf_authors" and rows.equals(good_on_val.tail(2))
    name, rows = best_author_baseline(good_on_test, good_on_val, 2)
    assert name == "ngram" and rows.equals(good_on_val.tail(2))
    assert best_author_baseline(good_on_val, good_on_val, 2)[0] == "ngram"
    assert best_author_baseline(good_on_val.filter(cohort="test"), good_on_test.filter(cohort="test"), 2)[0] == "ngram"


def test_baselines_score_val_targets_against_their_blocks(own: tuple[pl.DataFrame, pl.DataFrame, Baselines]) -> None:
    _, targets, baselines = own
    blocked = targets.drop_nulls("block")
    for scored in (baselines.authors, baselines.ngram.filter(pl.col("impostor_ids").list.len() > 0)):
        assert set(scored["interaction_id"]) == set(blocked["interaction_id"])
        ranks = author_ranks(scored.filter(pl.col("cohort") == "val"), 10)
        assert 100 < ranks.height < targets.filter(pl.col("cohort") == "val").height
    name, rows = best_author_baseline(baselines.authors, baselines.ngram, 10)
    assert name in ("tfidf_authors", "ngram") and set(rows["cohort"]) == {"test"}


@pytest.mark.parametrize("block", [None, 0])
def test_two_test_users_are_enough(tmp_path: Path, block: int | None) -> None:
    """With a block of two they have a swap gap, and nobody is picked out of ten."""
    interactions, split, targets = prepared(tmp_path, "own", 200)
    few = pl.concat([targets.filter(cohort="val").head(2), targets.filter(cohort="test").head(2)])
    few = few.with_columns(block=pl.when(cohort="test").then(pl.lit(block, pl.Int32)))
    made = all_baselines(interactions, split, few, 42)
    written = {"ngram": (made.ngram, schemas.SCORES), "authors": (made.authors, schemas.AUTHORS),
               "ratings": (made.ratings, schemas.RATINGS), "texts": (made.texts, schemas.GENERATIONS)}  # fmt: skip
    tables = []
    for name, (rows, schema) in written.items():
        write_table(rows, tmp_path / f"{name}.parquet", schema)
        tables.append(read_table(tmp_path / f"{name}.parquet", schema))
    ids = few.filter(cohort="test")["interaction_id"].to_list()
    metrics = baseline_metrics(tables[0], tables[1], tables[2], tables[3], few, ids, 10)
    assert ("swap_gap" in metrics["ngram"]) == (block is not None)
    assert "acc" not in metrics["ngram"] and metrics["tfidf_authors"] == {}
    assert metrics["ratings"]["damped_bias"]["rmse"]["value"] > 0
    assert best_author_baseline(tables[1], tables[0], 10)[0] == "ngram"
