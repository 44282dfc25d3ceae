"""Score the val and test cohorts with a model, one row a target."""

import argparse
import json
from pathlib import Path

from persona import artefacts
from persona.errors import run_command
from persona.evaluation.evaluate import evaluate
from persona.evaluation.generation import GenerationSettings
from persona.evaluation.statistics import nll_metrics

COHORTS = ("val", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=Path, nargs=2, required=True, help="of val and of test")
    parser.add_argument("--prompts", type=Path, nargs=2, required=True, help="of val and of test")
    parser.add_argument("--max-tokens", type=int, required=True, help="tokens a row")
    parser.add_argument("--cues", type=json.loads, required=True, help="JSON list: the prompt's last line, the star's")
    parser.add_argument("--generation", type=json.loads, required=True, help="JSON of GenerationSettings")
    parser.add_argument("--generations", type=Path, required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    args = parser.parse_args()
    files = list(zip(COHORTS, args.tokens, args.prompts, strict=True))
    scores, generated, stars = evaluate(
        args.model, files, args.max_tokens, args.cues[0], args.cues[1], GenerationSettings(**args.generation)
    )
    artefacts.write_table(scores, args.scores, artefacts.SCORES)
    artefacts.write_table(generated, args.generations, artefacts.GENERATIONS)
    metrics = {cohort: nll_metrics(scores, cohort) for cohort in COHORTS}
    artefacts.write_json({**metrics, "stars_zero_shot": stars}, args.metrics)


if __name__ == "__main__":
    run_command(main)
