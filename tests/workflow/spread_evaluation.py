"""Started by torchrun: likelihoods and texts of a model whose experts are spread, and of the same model whole.

python -m torch.distributed.run ... spread_evaluation.py FOLDER DEGREE
"""

from __future__ import annotations

import sys
import weakref
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

# Three texts are three batches: the last one is of one process. With this seed one of them ends sooner than the others.
SETTINGS = GenerationSettings(n_targets=1, n_samples=2, max_new_tokens=40, seed=3)


def results(folder: Path, degree: int) -> dict[str, Any]:
    tokens = read_table(folder / "tokens.parquet", schemas.TOKENS)
    texts = [(np.array(row["input_ids"], dtype=np.int32), row["prompt_length"]) for row in tokens.iter_rows(named=True)]
    prompts, completions = [ids[:n] for ids, n in texts], [ids[n:] for ids, n in texts]
    requests = np.column_stack([np.arange(len(texts))] * 2)
    model = EvaluatedModel(str(folder / "base"), expert_parallel=degree)
    work = resumable_work(model, None)
    pairs = Pairs(prompts, completions, requests)
    found = {
        "nll": score_pairs(model, pairs, 600, work, "test"),
        "texts": generate_reviews(model, tokens.head(SETTINGS.n_targets), SETTINGS, work).rows(),
        "parameters": sum(p.numel() for p in model.loss.parameters()),
    }
    weights = [weakref.ref(p) for p in model.loss.parameters()]
    model.unload()
    return found | {"left_in_memory": sum(weight() is not None for weight in weights)}


if __name__ == "__main__":
    folder, degree = Path(sys.argv[1]), int(sys.argv[2])
    with distributed_processes():
        found = {n: results(folder, n) for n in (1, degree)}
        if dist.get_rank() == 0:
            torch.save(found, folder / f"spread_evaluation_{dist.get_world_size()}")
        dist.barrier()
