"""Choose the targets of a sample."""

import argparse
import json
from pathlib import Path

from persona import artefacts
from persona.errors import run_command
from persona.sampling import sample_targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("interactions", type=Path)
    parser.add_argument("split", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--settings", type=json.loads, required=True)
    args = parser.parse_args()
    targets = sample_targets(
        artefacts.read_table(args.interactions, artefacts.INTERACTIONS, ["interaction_id", "user_id", "item_id"]),
        artefacts.read_table(args.split, artefacts.SPLIT),
        args.settings["split_name"],
        args.settings["max_samples_per_user"],
        args.settings["max_users"],
        args.settings["sample_seed"],
    )
    artefacts.write_table(targets, args.output, artefacts.SAMPLES)


if __name__ == "__main__":
    run_command(main)
