"""Score the val and test targets with one model after another and let each write texts.

Started by torchrun, once per process.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from persona.errors import run_command
from persona.evaluation.evaluate import evaluate
from persona.evaluation.scoring.cohort import CohortFiles
from persona.evaluation.settings import GenerationSettings
from persona.modeling.processes import distributed_processes, require_gpus
from persona.progress import progress_bar
from persona.tables import schemas
from persona.tables.parquet import read_table, write_table


@dataclass(frozen=True)
class Evaluation:
    """One model, the tokens that it is evaluated on, and where its rows go."""

    name: str
    model: str
    val_tokens: Path
    test_tokens: Path
    empty_tokens: Path
    max_tokens: int
    scores: Path
    generations: Path

    @property
    def cohorts(self) -> dict[str, CohortFiles]:
        """The token files of each cohort."""
        return {"val": CohortFiles(self.val_tokens, None), "test": CohortFiles(self.test_tokens, self.empty_tokens)}


def parse_evaluations(text: str) -> list[Evaluation]:
    """A JSON list of objects with the fields of `Evaluation`."""
    paths = ("val_tokens", "test_tokens", "empty_tokens", "scores", "generations")
    return [Evaluation(**fields | {name: Path(fields[name]) for name in paths}) for fields in json.loads(text)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=parse_evaluations, required=True, help="JSON list of Evaluation")
    parser.add_argument("--gpus", type=int, required=True, help="GPUs of this machine; 0 for CPU processes")
    parser.add_argument("--targets", type=Path, required=True)
    parser.add_argument("--cues", type=json.loads, required=True, help="JSON list: the prompt's last line, the star's")
    parser.add_argument("--generation", type=json.loads, required=True, help="JSON of GenerationSettings")
    args = parser.parse_args()
    require_gpus(args.gpus)
    with distributed_processes(deepspeed=False):
        evaluate_all(args)


def evaluate_all(args: Any) -> None:
    targets = read_table(args.targets, schemas.TARGETS)
    settings = GenerationSettings.model_validate(args.generation)
    bar = progress_bar(len(args.evaluations), 0, "evaluating", "model", is_shown=dist.get_rank() == 0)
    for evaluation in args.evaluations:
        bar.set_postfix(model=evaluation.name)
        tables = evaluate(
            evaluation.model, evaluation.cohorts, targets, evaluation.max_tokens, tuple(args.cues), settings
        )
        if tables is not None:
            write_table(tables[0], evaluation.scores, schemas.SCORES)
            write_table(tables[1], evaluation.generations, schemas.GENERATIONS)
        bar.update()
    bar.close()


if __name__ == "__main__":
    run_command(main)
