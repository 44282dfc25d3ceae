"""Score the val and test cohorts with a model, one row a target."""

import argparse
from pathlib import Path

from persona import artefacts
from persona.errors import run_command
from persona.evaluation.scoring import score_cohorts
from persona.evaluation.statistics import nll_metrics

COHORTS = ("val", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=Path, nargs=2, required=True, help="of val and of test")
    parser.add_argument("--prompts", type=Path, nargs=2, required=True, help="of val and of test")
    parser.add_argument("--max-tokens", type=int, required=True, help="tokens a row")
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    args = parser.parse_args()
    files = list(zip(COHORTS, args.tokens, args.prompts, strict=True))
    scores = score_cohorts(args.model, files, args.max_tokens)
    artefacts.write_table(scores, args.scores, artefacts.SCORES)
    artefacts.write_json({cohort: nll_metrics(scores, cohort) for cohort in COHORTS}, args.metrics)


if __name__ == "__main__":
    run_command(main)
