"""Who stands in for whom, and what is known of a target."""

from __future__ import annotations

import polars as pl
import pytest

from persona.evaluation.metrics.summary import subgroup_metrics
from persona.evaluation.targets import build_targets, count_blocks, impostor_pairs, too_few_candidates
from persona.ingestion.ingest import Ingested
from persona.tables import schemas


@pytest.fixture(scope="module")
def targets(tables: Ingested) -> pl.DataFrame:
    keys = tables.interactions.select("interaction_id", "user_id", "item_id")
    val, test = (keys.filter(pl.col("user_id").hash() % 3 == n) for n in (0, 1))
    return build_targets({"val": val, "test": test}, tables.interactions, 5, 42)


def test_blocks_are_reviews_of_one_film_by_different_users_all_with_history_or_all_without(
    targets: pl.DataFrame,
) -> None:
    known = targets.with_columns(has_history=pl.col("n_history") > 0)
    blocks = (
        known.drop_nulls("block")
        .group_by("block")
        .agg(pl.col("item_id", "user_id", "cohort", "has_history").n_unique(), size=pl.len())
    )
    assert (blocks["item_id"] == 1).all() and (blocks["has_history"] == 1).all() and (blocks["cohort"] == 1).all()
    assert (blocks["user_id"] == blocks["size"]).all()
    assert blocks["size"].min() == 2 and blocks["size"].max() < 10  # type: ignore[operator]
    # Each user reviews a film once, so only one target that is alone has no block, and fewer than 5 are one block.
    group = ["cohort", "item_id", "has_history"]
    groups = known.group_by(group).agg(
        pl.col("block").n_unique(), pl.col("block").null_count().alias("alone"), size=pl.len()
    )
    assert (groups.filter(pl.col("size") > 1)["alone"] == 0).all()
    assert (groups.filter(pl.col("size") < 5)["block"] == 1).all()
    assert set(known.drop_nulls("block")["cohort"]) == {"val", "test"}


def test_users_of_a_block_are_alike_in_length_of_history_and_those_without_in_stars(targets: pl.DataFrame) -> None:
    blocked = targets.drop_nulls("block").with_columns(length=pl.col("n_history").cast(pl.Float64).log1p())

    def spread(column: str, by: str, rows: pl.DataFrame) -> float:
        return float(rows.select((pl.col(column) - pl.col(column).mean().over(by)).abs().mean()).item())

    for column, condition, share in [
        ("length", pl.col("n_history") > 0, 0.7),
        ("rating", pl.col("n_history") == 0, 0.9),
    ]:
        rows = blocked.filter(condition)
        assert spread(column, "block", rows) < share * spread(column, "item_id", rows)


def test_a_second_target_of_a_user_and_item_is_in_another_block() -> None:
    """Two lines each of two characters of a film, and one line of a third."""
    rows = [("a", 0), ("a", 0), ("b", 0), ("b", 0), ("c", 0)]
    lines = pl.DataFrame(
        {
            "interaction_id": range(5),
            "user_id": [user for user, _ in rows],
            "item_id": "film",
            "day": None,
            "session": [session for _, session in rows],
            "position": [0, 1, 0, 1, 0],
            "rating": None,
            "text": [f"line {n}" for n in range(5)],
            "likes": None,
            "context": [[], [{"speaker": "b", "text": "hello"}], [], [], []],
        },
        schema_overrides=schemas.INTERACTIONS.columns,
    )
    targets = build_targets({"test": lines.select("interaction_id", "user_id", "item_id")}, lines, 10, 42)
    members = {tuple(sorted(users)) for users in targets.group_by("block").agg("user_id")["user_id"]}
    assert members == {("a", "b", "c"), ("a", "b")}
    assert targets.sort("interaction_id")["n_context"].to_list() == [0, 1, 0, 0, 0]
    assert count_blocks(targets, 3).rows() == [("test", False, 5, 5, 3)]
    assert too_few_candidates(targets, 3) is None
    assert "only 0 of 5 test targets have texts of 4 test users on the same item" in str(too_few_candidates(targets, 4))
    # The one with a conversation under the others, and the others under it: nobody's own prompt serves.
    block = targets.filter(pl.col("interaction_id") == 1)["block"].item()
    others = targets.filter(pl.col("block") == block, pl.col("interaction_id") != 1)
    expected = {(1, user, other) for user, other in others.select("user_id", "interaction_id").iter_rows()}
    expected |= {(other, "a", 1) for other in others["interaction_id"]}
    assert set(impostor_pairs(targets).rows()) == expected


def test_one_target_alone_has_no_impostors(tables: Ingested) -> None:
    one = tables.interactions.select("interaction_id", "user_id", "item_id").head(1)
    targets = build_targets({"test": one}, tables.interactions, 10, 42)
    assert targets["block"].to_list() == [None]
    assert impostor_pairs(targets).is_empty()
    assert count_blocks(targets, 2).select("targets", "with_impostors", "with_candidates").rows() == [(1, 0, 0)]


def scored_by_length(targets: pl.DataFrame, block: str) -> pl.DataFrame:
    """Scores of a model for which characters are likelier the shorter the prompt's history is, whoever the user is."""
    test = targets.filter(pl.col("cohort") == "test").drop_nulls(block).sort("interaction_id")
    cost = {target: 2 - 1 / (1 + n) for target, n in test.select("interaction_id", "n_history").iter_rows()}
    blocks = dict(test.group_by(block).agg("interaction_id").iter_rows())
    rows = []
    for target, number, text in test.select("interaction_id", block, "text").iter_rows():
        others = [other for other in blocks[number] if other != target]
        rows.append((len(text), len(text) * cost[target], others, [len(text) * cost[other] for other in others]))
    columns = ["n_characters", "nll", "impostor_ids", "nll_impostors"]
    scores = pl.DataFrame(rows, schema=columns, orient="row").with_columns(nll_empty=2 * pl.col("n_characters"))
    return pl.concat([test.select("interaction_id", "user_id", "item_id", "cohort"), scores], how="horizontal")


def test_a_model_that_knows_only_the_length_of_the_prompt_finds_nothing(targets: pl.DataFrame) -> None:
    """It found much in blocks that mix users with and without history."""
    order = ["item_id", "rating", "n_history"]
    number = pl.int_range(pl.len()) // 5
    mixed = targets.filter(pl.col("cohort") == "test").sort(order).with_columns(mixed=number.over("item_id"))
    mixed = mixed.with_columns(mixed=pl.struct("item_id", "mixed").rank("dense")).filter(pl.len().over("mixed") > 1)
    for block, table, finds in [("mixed", mixed, True), ("block", targets, False)]:
        found = subgroup_metrics([scored_by_length(table, block)], table, 5)
        for name, sign in [("without_history", 1), ("with_history", -1)]:
            gap = found[name]["swap_gap"]
            low, high = sorted((sign * gap["low"], sign * gap["high"]))
            assert low > 0 if finds else low <= 1e-9 and high >= -1e-9
            assert finds or found[name]["acc"]["value"] == pytest.approx(0.2)


def test_the_targets_do_not_depend_on_the_order_of_rows(tables: Ingested, targets: pl.DataFrame) -> None:
    cohorts = {name: targets.filter(pl.col("cohort") == name).reverse() for name in ("test", "val")}
    keys = {name: table.select("interaction_id", "user_id", "item_id") for name, table in cohorts.items()}
    again = build_targets(keys, tables.interactions.reverse(), 5, 42)
    columns = list(schemas.TARGETS.columns)
    assert again.sort("interaction_id").select(columns).equals(targets.sort("interaction_id").select(columns))


def test_history_floor_and_ceiling_by_looking_at_the_data(tables: Ingested, targets: pl.DataFrame) -> None:
    reviews = tables.interactions.to_dicts()
    for row in targets.gather_every(17).iter_rows(named=True):
        me = next(r for r in reviews if r["interaction_id"] == row["interaction_id"])
        past = [r for r in reviews if r["user_id"] == me["user_id"] and r["day"] < me["day"]]
        assert row["n_history"] == len(past)
        if past:
            assert row["history_mean"] == pytest.approx(sum(r["rating"] for r in past) / len(past))
        others = [r for r in reviews if r["item_id"] == me["item_id"] and r["user_id"] != me["user_id"]]
        assert row["floor_text"] in [r["text"] for r in others]
        mine = [r["text"] for r in reviews if r["user_id"] == me["user_id"] and r is not me]
        assert (row["ceiling_text"] in mine) if mine else row["ceiling_text"] is None
