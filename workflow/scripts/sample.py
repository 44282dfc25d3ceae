"""Choose the targets of a sample."""

import argparse
import json
from pathlib import Path

from persona import artefacts
from persona.errors import run_command
from persona.sampling import check_sample, sample_targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("interactions", type=Path)
    parser.add_argument("split", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--bucket", type=artefacts.bucket, help="which part of the users, 3-of-8; by default all")
    args = parser.parse_args()
    users = artefacts.user_ranges(1, args.bucket)[0] if args.bucket else None
    columns = ["interaction_id", "user_id", "item_id"]
    targets = sample_targets(
        artefacts.read_table(args.interactions, artefacts.INTERACTIONS, columns, users),
        artefacts.read_table(args.split, artefacts.SPLIT, users=users),
        args.settings["split_name"],
        args.settings["max_samples_per_user"],
        args.settings["max_users"],
        args.settings["sample_seed"],
    )
    artefacts.write_table(targets, args.output, artefacts.SAMPLES)
    if not args.bucket:
        check_sample(args.output, args.settings["split_name"])


if __name__ == "__main__":
    run_command(main)
