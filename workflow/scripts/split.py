"""Assign every user, or every review, to train, val or test, or to none of them."""

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from persona.errors import run_command
from persona.splitting import split_by_item, split_by_time, split_users
from persona.tables import schemas
from persona.tables.parquet import read_table, write_table
from persona.tables.splits import check_splits
from persona.tables.user_ranges import parse_bucket, user_ranges

COLUMNS = {
    "user": ["user_id"],
    "item": ["user_id", "interaction_id", "item_id"],
    "time": ["user_id", "interaction_id", "day"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("interactions", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--settings", type=json.loads, required=True, help="JSON: the keys of `split`")
    parser.add_argument("--min-reviews", type=int, required=True, help="users with fewer are in no split")
    parser.add_argument("--bucket", type=parse_bucket, help="part of the users, such as 3-of-8; by default all")
    args = parser.parse_args()
    users = user_ranges(1, args.bucket)[0] if args.bucket else None
    by = args.settings["by"]
    split = make_split(
        read_table(args.interactions, schemas.INTERACTIONS, COLUMNS[by], users), args.settings, args.min_reviews
    )
    write_table(split, args.output, schemas.SPLIT if by == "user" else schemas.SPLIT_OF_REVIEWS)
    counts = dict(split["split"].value_counts().sort("split").iter_rows())
    print(f"{'users' if by == 'user' else 'reviews'} by split:", ", ".join(f"{k} {n:,}" for k, n in counts.items()))
    if not args.bucket:
        check_splits(split)


def make_split(interactions: pl.DataFrame, settings: dict[str, Any], min_reviews: int) -> pl.DataFrame:
    if settings["by"] == "time":
        val_from, test_from = (date.fromisoformat(settings[key]) for key in ("val_from", "test_from"))
        return split_by_time(interactions, val_from, test_from, min_reviews)
    split = split_users if settings["by"] == "user" else split_by_item
    return split(interactions, settings["val_ratio"], settings["test_ratio"], settings["seed"], min_reviews)


if __name__ == "__main__":
    run_command(main)
