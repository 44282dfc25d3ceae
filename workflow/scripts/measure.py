"""Turn the rows of one model into metrics with intervals."""

import argparse
from pathlib import Path

from persona import artefacts
from persona.errors import run_command
from persona.evaluation.metrics import stage_metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="of one training, or of several seeds")
    for name in ("generations", "targets", "prompts", "interactions", "trained-on"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--candidates", type=int, required=True)
    args = parser.parse_args()
    trained_on = artefacts.read_table(args.trained_on, artefacts.SAMPLES, ["interaction_id"])
    reviews = artefacts.read_table(args.interactions, artefacts.INTERACTIONS, ["interaction_id", "text"])
    metrics = stage_metrics(
        [artefacts.read_table(path, artefacts.SCORES) for path in args.scores],
        artefacts.read_table(args.generations, artefacts.GENERATIONS),
        artefacts.read_table(args.targets, artefacts.TARGETS),
        artefacts.read_table(args.prompts, artefacts.PROMPTS, ["interaction_id", "prompt"]),
        reviews.join(trained_on, on="interaction_id", how="semi")["text"].to_list(),
        args.candidates,
    )
    artefacts.write_json(metrics, args.output)


if __name__ == "__main__":
    run_command(main)
