"""Score the val and test targets with one model after another and let each write texts.

Started by torchrun, once per process. Neighbours in the list that have the same model share it. After a kill the same
command goes on from the parts that are beside the outputs.
"""

import argparse
import json
import logging
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from persona.errors import run_command
from persona.evaluation.evaluate import evaluate_model, resumable_work
from persona.evaluation.model import EvaluatedModel
from persona.evaluation.resumable import ResumableWork
from persona.evaluation.scoring.cohort import CohortFiles
from persona.evaluation.settings import GenerationSettings
from persona.files import write_json
from persona.modeling.processes import distributed_processes, require_gpus, seconds_since_launch
from persona.progress import progress_bar
from persona.tables import schemas
from persona.tables.parquet import read_table, write_table

logger = logging.getLogger("persona")  # the library's too


@dataclass(frozen=True)
class Evaluation:
    """One model, the tokens that it is evaluated on, and where its rows go."""

    name: str
    model: str
    is_trained: bool
    cpu_dtype: str
    expert_parallel: int
    val_tokens: Path
    test_tokens: Path
    empty_tokens: Path
    impostor_tokens: Path | None
    max_tokens: int
    scores: Path
    generations: Path
    seconds: Path

    @property
    def parts(self) -> Path:
        """The folder of what is finished, until all is."""
        return self.scores.parent / ".parts"

    def load(self) -> EvaluatedModel:
        """The model, whose weights are not loaded yet. Its experts are spread as far as there are processes for it."""
        degree = math.gcd(self.expert_parallel, dist.get_world_size())
        return EvaluatedModel(self.model, self.is_trained, self.cpu_dtype, degree)

    @property
    def cohorts(self) -> dict[str, CohortFiles]:
        """The token files of each cohort."""
        test = CohortFiles(self.test_tokens, self.empty_tokens, self.impostor_tokens)
        return {"val": CohortFiles(self.val_tokens, None), "test": test}


def parse_evaluations(text: str) -> list[Evaluation]:
    """A JSON list of objects with the fields of `Evaluation`."""
    files = ("val_tokens", "test_tokens", "empty_tokens", "impostor_tokens", "scores", "generations", "seconds")
    evaluations = json.loads(text)
    return [Evaluation(**e | {name: Path(e[name]) for name in files if e[name] is not None}) for e in evaluations]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=parse_evaluations, required=True, help="JSON list of Evaluation")
    parser.add_argument("--gpus", type=int, required=True, help="GPUs of this machine; 0 for CPU processes")
    parser.add_argument("--targets", type=Path, required=True)
    parser.add_argument("--cues", type=json.loads, required=True, help="JSON list: the prompt's last line, the star's")
    parser.add_argument("--generation", type=json.loads, required=True, help="JSON of GenerationSettings")
    args = parser.parse_args()
    require_gpus(args.gpus)
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    # DeepSpeed divides weights while they load.
    with distributed_processes(deepspeed=any(evaluation.expert_parallel > 1 for evaluation in args.evaluations)):
        evaluate_all(args)


def evaluate_all(args: Any) -> None:
    targets = read_table(args.targets, schemas.TARGETS)
    settings = GenerationSettings.model_validate(args.generation)
    bar = progress_bar(len(args.evaluations), 0, "evaluating", "model", is_shown=dist.get_rank() == 0)
    model = args.evaluations[0].load()
    for n, evaluation in enumerate(args.evaluations, start=1):
        bar.set_postfix(model=evaluation.name)
        if dist.get_rank() == 0:
            logger.info("evaluation %d of %d: %s", n, len(args.evaluations), evaluation.name)
        if evaluation.model != model.path:
            model.unload()
            model = evaluation.load()
        starting = seconds_since_launch() if n == 1 else 0.0
        work = resumable_work(model, evaluation.parts)
        scores, generations = evaluate_model(
            model, evaluation.cohorts, targets, evaluation.max_tokens, tuple(args.cues), settings, work
        )
        if dist.get_rank() == 0:
            write_table(scores, evaluation.scores, schemas.SCORES)
            write_table(generations, evaluation.generations, schemas.GENERATIONS)
            write_json(phases(work, starting), evaluation.seconds)
        bar.update()
    bar.close()
    if dist.get_rank() == 0:
        # Not before all is written: Snakemake deletes all outputs of a job that fails.
        for evaluation in args.evaluations:
            shutil.rmtree(evaluation.parts)


def phases(work: ResumableWork, starting: float) -> dict[str, float]:
    """Seconds of this start by the names that the plan has for the phases."""
    scoring = sum(seconds for task, seconds in work.seconds.items() if task.startswith("scores"))
    return {
        "loading for evaluation": starting + work.loading_seconds,
        "scoring": scoring,
        "writing texts": sum(work.seconds.values()) - scoring,
    }


if __name__ == "__main__":
    run_command(main)
