"""Assign every user to train, val or test, or to none of them."""

import argparse
from pathlib import Path

from persona.errors import run_command
from persona.splitting import split_users
from persona.tables import schemas
from persona.tables.parquet import read_table, write_table
from persona.tables.user_ranges import parse_bucket, user_ranges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("interactions", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--by", choices=["user", "item"], required=True)
    parser.add_argument("--val-ratio", type=float, required=True)
    parser.add_argument("--test-ratio", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--min-reviews", type=int, required=True, help="users with fewer are in no split")
    parser.add_argument("--bucket", type=parse_bucket, help="part of the users, such as 3-of-8; by default all")
    args = parser.parse_args()
    users = user_ranges(1, args.bucket)[0] if args.bucket else None
    columns = ["user_id"] if args.by == "user" else ["user_id", "item_id"]
    interactions = read_table(args.interactions, schemas.INTERACTIONS, columns, users)
    split = split_users(interactions, args.val_ratio, args.test_ratio, args.seed, args.by, args.min_reviews)
    write_table(split, args.output, schemas.SPLIT)
    counts = dict(split["split"].value_counts().sort("split").iter_rows())
    print("users by split:", ", ".join(f"{name} {count:,}" for name, count in counts.items()))


if __name__ == "__main__":
    run_command(main)
