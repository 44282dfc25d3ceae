"""Score the val and test targets with a model and let it write reviews. Started by torchrun, once a process."""

import argparse
import json
from pathlib import Path

from persona.errors import run_command
from persona.evaluation.evaluate import evaluate
from persona.evaluation.scoring.cohort import CohortFiles
from persona.evaluation.settings import GenerationSettings
from persona.modeling.processes import distributed_processes, require_gpus
from persona.tables import schemas
from persona.tables.parquet import read_table, write_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--gpus", type=int, required=True, help="GPUs of this machine; 0 for CPU processes")
    for name in ("val-tokens", "test-tokens", "empty-tokens", "targets", "generations", "scores"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--max-tokens", type=int, required=True, help="tokens a row")
    parser.add_argument("--cues", type=json.loads, required=True, help="JSON list: the prompt's last line, the star's")
    parser.add_argument("--generation", type=json.loads, required=True, help="JSON of GenerationSettings")
    args = parser.parse_args()
    require_gpus(args.gpus)
    cohorts = {"val": CohortFiles(args.val_tokens, None), "test": CohortFiles(args.test_tokens, args.empty_tokens)}
    targets = read_table(args.targets, schemas.TARGETS)
    settings = GenerationSettings.model_validate(args.generation)
    with distributed_processes(deepspeed=False):
        tables = evaluate(args.model, cohorts, targets, args.max_tokens, (args.cues[0], args.cues[1]), settings)
    if tables is not None:
        write_table(tables[0], args.scores, schemas.SCORES)
        write_table(tables[1], args.generations, schemas.GENERATIONS)


if __name__ == "__main__":
    run_command(main)
