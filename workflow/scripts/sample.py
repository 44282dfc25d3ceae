"""Draw the targets of a sample from one split."""

import argparse
import json
from pathlib import Path

from persona.errors import run_command
from persona.sampling import check_sample, sample_targets
from persona.tables import schemas
from persona.tables.parquet import read_table, write_table
from persona.tables.splits import read_split
from persona.tables.user_ranges import parse_bucket, user_ranges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("interactions", type=Path)
    parser.add_argument("split", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--settings", type=json.loads, required=True, help="JSON: how the sample is drawn")
    parser.add_argument("--bucket", type=parse_bucket, help="part of the users, such as 3-of-8; by default all")
    args = parser.parse_args()
    users = user_ranges(1, args.bucket)[0] if args.bucket else None
    columns = ["interaction_id", "user_id", "item_id", "session"]
    targets = sample_targets(
        read_table(args.interactions, schemas.INTERACTIONS, columns, users),
        read_split(args.split, users),
        args.settings["split_name"],
        args.settings["max_samples_per_user"],
        args.settings["max_users"],
        args.settings["sample_seed"],
        args.settings["min_history"],
    )
    write_table(targets, args.output, schemas.SAMPLES)
    if not args.bucket:
        check_sample(args.output, args.settings["split_name"])


if __name__ == "__main__":
    run_command(main)
