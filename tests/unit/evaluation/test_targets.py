"""Who stands in for whom, and what is known of a target."""

from __future__ import annotations

import polars as pl
import pytest

from persona.evaluation.targets import build_targets
from persona.ingestion.ingest import Ingested
from persona.tables import schemas


@pytest.fixture(scope="module")
def targets(tables: Ingested) -> pl.DataFrame:
    keys = tables.interactions.select("interaction_id", "user_id", "item_id")
    val, test = (keys.filter(pl.col("user_id").hash() % 3 == n) for n in (0, 1))
    return build_targets({"val": val, "test": test}, tables.interactions, 5, 42)


def test_blocks_are_reviews_of_one_film_by_different_users(targets: pl.DataFrame) -> None:
    blocks = (
        targets.drop_nulls("block")
        .group_by("block")
        .agg(pl.col("item_id").n_unique().alias("films"), pl.col("user_id").n_unique().alias("users"), size=pl.len())
    )
    assert (blocks["films"] == 1).all()
    assert (blocks["users"] == blocks["size"]).all()
    assert blocks["size"].max() < 10
    # Only a film with fewer targets than candidates has a smaller block, and then one.
    small = targets.join(blocks.filter(pl.col("size") < 5), on="block")
    assert (small.group_by("item_id").agg(pl.col("block").n_unique())["block"] == 1).all()
    assert targets.filter(pl.col("cohort") == "val")["block"].null_count() == (targets["cohort"] == "val").sum()


def test_users_of_a_block_are_alike_in_stars(targets: pl.DataFrame) -> None:
    """Much more so than users of a film are."""
    blocked = targets.drop_nulls("block")

    def spread(by: str) -> float:
        return float(blocked.select((pl.col("rating") - pl.col("rating").mean().over(by)).abs().mean()).item())

    assert spread("block") < 0.6 * spread("item_id")


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
