"""Started by torchrun: likelihoods and texts of a model whose experts are spread, and of the same model whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from persona.evaluation.evaluate import resumable_work
from persona.evaluation.generation import generate_reviews
from persona.evaluation.model import EvaluatedModel
from persona.evaluation.scoring.pairs import Pairs, score_pairs
from persona.evaluation.settings import GenerationSettings
from persona.modeling.processes import distributed_processes
from persona.tables import schemas
from persona.tables.parquet import read_table

# Seven texts are seven batches: the last one is of one process. Of random tokens some end a text.
SETTINGS = GenerationSettings(n_targets=1, n_samples=6, max_new_tokens=150)


def results(folder: Path, degree: int) -> dict[str, Any]:
    tokens = read_table(folder / "tokens.parquet", schemas.TOKENS)
    texts = [(np.array(row["input_ids"], dtype=np.int32), row["prompt_length"]) for row in tokens.iter_rows(named=True)]
    prompts, completions = [ids[:n] for ids, n in texts], [ids[n:] for ids, n in texts]
    requests = np.column_stack([np.arange(len(texts))] * 2)
    model = EvaluatedModel(str(folder / "base"), expert_parallel=degree)
    work = resumable_work(model, None)
    pairs = Pairs(prompts, completions, requests)
    return {
        "nll": score_pairs(model, pairs, 600, work, "test"),
        "texts": generate_reviews(model, tokens.head(SETTINGS.n_targets), SETTINGS, work).rows(),
        "parameters": sum(p.numel() for p in model.loss.parameters()),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with distributed_processes():
        found = {degree: results(folder, degree) for degree in (1, dist.get_world_size())}
        if dist.get_rank() == 0:
            torch.save(found, folder / "spread_evaluation")
        dist.barrier()
