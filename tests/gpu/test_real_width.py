"""Layers of the 30B at full width with random weights: seconds, memory, saving, export, scoring, writing reviews."""

from __future__ import annotations

import gc
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from persona.evaluation.generation import generate_reviews
from persona.evaluation.model import EvaluatedModel
from persona.evaluation.resumable import ResumableWork
from persona.evaluation.scoring.pairs import Pairs, score_pairs
from persona.evaluation.settings import GenerationSettings
from persona.modeling.packing import RowPlan
from persona.modeling.processes import process_group
from persona.planning.cost import GIB, Launch, Work, flops, memory, model_size
from persona.tokenization.chat import load_tokenizer
from persona.training.checkpoints import LoopState, RunFolder
from persona.training.engine import build_engine
from persona.training.export import export_model
from persona.training.loop import accumulate
from persona.training.saving import BestWeights, CheckpointWriter
from persona.training.settings import Optimization
from tests.gpu.real_model import H100_TFLOPS, random_samples, write_real_model

ROOT = Path(__file__).parents[2]
DEEPSPEED = ROOT / "config" / "deepspeed" / "zero3.json"
N_LAYERS = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "model"
    write_real_model(folder, N_LAYERS)
    return folder


def test_a_training_of_four_layers(model: Path, tmp_path: Path, device: torch.device, figures: dict[str, Any]) -> None:
    gc.collect()  # what earlier tests, and the model that was written, have left on the GPU
    torch.cuda.reset_peak_memory_stats()
    row_tokens = 8192
    with process_group():
        started = time.perf_counter()
        engine = build_engine(str(model), DEEPSPEED, Optimization(gradient_checkpointing=True), 10, 1, True)
        figures["four_layers_load_s"] = round(time.perf_counter() - started, 1)
        table = random_samples(row_tokens // 256, 192, 64)
        targets = np.arange(len(table))
        row = RowPlan(targets.tolist(), [0] * len(table))
        seconds = []
        for _ in range(5):
            torch.cuda.synchronize()
            started = time.perf_counter()
            accumulate(engine, table, targets, [[row]])
            engine.step()
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        peak = torch.cuda.max_memory_allocated() / GIB
        started = time.perf_counter()
        export_model(engine, load_tokenizer(str(model)), tmp_path / "export")
        figures["four_layers_export_s"] = round(time.perf_counter() - started, 1)
        del engine
    files = sum(file.stat().st_size for file in (tmp_path / "export").glob("*.safetensors"))
    figures["four_layers_export_gb"] = round(files / 1e9, 2)
    size = model_size(str(model), None)
    planned = memory(size, Launch.from_deepspeed(DEEPSPEED, 1, 2), row_tokens, recompute=True)
    work = Work(table.computed_lengths, np.zeros(len(table), dtype=np.int64), int(table.completion_lengths.sum()))
    reached = flops(size, work, True) / 1e12 / float(np.median(seconds[1:]))
    figures["four_layers_step_s"] = [round(s, 3) for s in seconds]
    figures["four_layers_utilisation"] = round(reached / H100_TFLOPS, 3)
    figures["four_layers_peak_gib"], figures["four_layers_planned_gib"] = round(peak, 1), round(planned.total, 1)
    assert files == pytest.approx(2 * size.parameters, rel=0.01)
    assert peak == pytest.approx(planned.total, rel=0.1)


def test_scoring_and_writing_reviews(model: Path, device: torch.device, figures: dict[str, Any]) -> None:
    table = random_samples(200, 192, 64)
    prompts, completions = [table[n][:192] for n in range(200)], [table[n][192:] for n in range(200)]
    own = np.arange(200)
    with process_group(deepspeed=False):
        started = time.perf_counter()
        evaluated, work = EvaluatedModel(str(model)), ResumableWork(None, {})
        loaded = evaluated.loss.model
        figures["four_layers_load_whole_s"] = round(time.perf_counter() - started, 1)
        pairs = Pairs(prompts, completions, np.column_stack([own, own]))
        score_pairs(evaluated, pairs, 8192, work, "test")  # compiles
        started = time.perf_counter()
        scored = score_pairs(evaluated, pairs, 8192, work, "test")
        figures["four_layers_scored_tokens_per_s"] = round(200 * 255 / (time.perf_counter() - started))
        assert np.isfinite(scored).all()
        with torch.inference_mode():
            ids = torch.from_numpy(table[7][:-1].astype(np.int64))[None].to(device)
            log_probs = torch.log_softmax(loaded(ids).logits[0, 191:].float(), -1).cpu()
        labels = torch.from_numpy(completions[7].astype(np.int64))
        assert scored[7] == pytest.approx(-float(log_probs.gather(1, labels[:, None]).sum()), rel=1e-2)

        import polars as pl

        tokens = pl.DataFrame(
            {
                "interaction_id": own[:64],
                "input_ids": [table[n].tolist() for n in range(64)],
                "prompt_length": [192] * 64,
            }
        )
        settings = GenerationSettings(n_targets=64, n_samples=1, max_new_tokens=32)
        started = time.perf_counter()
        written = generate_reviews(evaluated, tokens, settings, work)
        seconds = time.perf_counter() - started
        assert len(written) == 128
        figures["four_layers_decode_s_per_token_of_32"] = round(seconds / (4 * 32), 4)


def test_a_checkpoint_is_written_behind_the_steps(
    tmp_path: Path, device: torch.device, figures: dict[str, Any]
) -> None:
    """One layer: how long the training waits, how long the disk takes, and what steps take meanwhile."""
    write_real_model(tmp_path / "model", 1, vocabulary=4096)
    with process_group(), closing(RunFolder(tmp_path / "run")) as folder:
        settings = Optimization(gradient_checkpointing=True)
        engine = build_engine(str(tmp_path / "model"), DEEPSPEED, settings, 100, 1, prefix_sharing=True)
        folder.claim({})
        writer, best = CheckpointWriter(engine), BestWeights()
        table = random_samples(8, 192, 64, vocabulary=4096)
        row = RowPlan(list(range(8)), [0] * 8)

        def step() -> float:
            torch.cuda.synchronize()
            started = time.perf_counter()
            accumulate(engine, table, np.arange(8), [[row]])
            engine.step()
            torch.cuda.synchronize()
            return time.perf_counter() - started

        alone = [step() for _ in range(8)][3:]
        started = time.perf_counter()
        best.keep(engine.module)
        figures["best_weights_gb_per_s"] = round(best.n_bytes / 1e9 / (time.perf_counter() - started), 1)
        started = time.perf_counter()
        folder.save(engine, writer, best, LoopState(global_step=8), behind=True)
        waited = time.perf_counter() - started
        meanwhile = []
        while writer.is_writing:
            meanwhile.append(step())
        folder.conclude(writer)
        took = time.perf_counter() - started
        again = BestWeights()
        assert folder.load(engine, again).global_step == 8
        assert again.n_bytes == best.n_bytes
    size = sum(file.stat().st_size for file in (tmp_path / "run" / "checkpoints").rglob("*.pt"))
    figures |= {
        "checkpoint_gb": round(size / 1e9, 2),
        "checkpoint_waited_s": round(waited, 2),
        "checkpoint_took_s": round(took, 2),
        "steps_meanwhile": len(meanwhile),
        "step_meanwhile_over_alone": round(float(np.median(meanwhile) / np.median(alone)), 2),
    }
    n_parameters = best.n_bytes / 2
    assert size == pytest.approx(14 * n_parameters, rel=0.02)  # 12 of DeepSpeed, 2 of the best weights
    assert waited < took / 2
