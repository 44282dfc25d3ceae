"""Compute the metrics of one model, with intervals, from its rows."""

import argparse
import json
from pathlib import Path

from persona.errors import run_command
from persona.evaluation.metrics.summary import stage_metrics
from persona.files import write_json
from persona.tables import schemas
from persona.tables.parquet import read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="one file per seed")
    for name in ("generations", "targets", "prompts", "interactions", "trained-on"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--candidates", type=int, required=True)
    parser.add_argument("--shows-user", type=json.loads, required=True, help="whether prompts show profile or history")
    args = parser.parse_args()
    trained_on = read_table(args.trained_on, schemas.SAMPLES, ["interaction_id"])
    reviews = read_table(args.interactions, schemas.INTERACTIONS, ["interaction_id", "text"])
    metrics = stage_metrics(
        [read_table(path, schemas.SCORES) for path in args.scores],
        read_table(args.generations, schemas.GENERATIONS),
        read_table(args.targets, schemas.TARGETS),
        read_table(args.prompts, schemas.PROMPTS, ["interaction_id", "prompt"]),
        reviews.join(trained_on, on="interaction_id", how="semi")["text"].to_list(),
        args.candidates,
        args.shows_user,
    )
    write_json(metrics, args.output)


if __name__ == "__main__":
    run_command(main)
