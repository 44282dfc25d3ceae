"""Packed training against one sample at a time, padded batches, and TRL's SFTTrainer. See docs/performance.md.

    python -m benchmarks.training                 # two CPU processes, or two GPUs
    python -m benchmarks.training --processes 8 --hidden-size 2048 --layers 8 --experts 64 --row-tokens 8192

Each part runs in one go on the same samples, turn by turn, and the medians are compared. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.corpus import ROOT, prompts_with_history, qwen_tokenizer, synthetic_reviews
from benchmarks.workers import run, run_workers
from persona.files import write_json
from persona.modeling.packing import Row, TokenTable, pack_row, plan_rows
from persona.modeling.tiny import moe_config, train_tokenizer
from persona.planning.cost import model_size
from persona.tables import schemas
from persona.tables.parquet import write_table
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import tokenize

SAMPLES = 64
PADDED_BATCH = 4
EIGHT_GPUS = {"ranks": 8, "max_tokens": 8192}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--row-tokens", type=int, default=2400, help="tokens of a packed row")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each way")
    parser.add_argument("--trl-rounds", type=int, default=2, help="0 leaves TRL out")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of one GPU in bfloat16, for MFU")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    run(args, measure, compare_engines)


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All parts, one after the other."""
    tables = synthetic_reviews(n_users=2000)
    texts = tables.interactions["text"].to_list()
    # Second reviews: one entry of history, about 150 tokens.
    targets = tables.interactions.filter(pl.col("position") == 1).head(SAMPLES)
    prompts = prompts_with_history(tables, "detailed", targets)
    write_model(folder / "small", train_tokenizer(texts, 2048), prompts, args)
    figures = run_workers("benchmarks.training", folder / "small", args)
    qwen = qwen_tokenizer()
    if args.trl_rounds:
        write_model(folder / "qwen", qwen, prompts, args)
        figures |= compare_with_trl(folder / "qwen", args)
    targets = tables.interactions.group_by("user_id").first().sort("interaction_id")
    figures |= count_for_eight_gpus(
        tokenize(prompts_with_history(tables, "simple", targets), qwen, FitSettings(max_length=2048))
    )
    return figures


def write_model(folder: Path, tokenizer: Any, prompts: pl.DataFrame, args: argparse.Namespace) -> None:
    """A random Qwen3-MoE, its tokenizer, and the tokens of the samples."""
    from transformers import Qwen3MoeForCausalLM

    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(moe_config(tokenizer, args.hidden_size, args.layers, args.experts))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_table(tokenize(prompts, tokenizer, FitSettings(max_length=8192)), folder / "tokens.parquet", schemas.TOKENS)


# Part one: the training engine itself, with ZeRO-3.


def compare_engines(folder: Path, args: argparse.Namespace) -> None:
    """In every process: the same step of `SAMPLES` targets done in three ways."""
    import deepspeed
    import torch.distributed as dist

    from persona.training.engine import build_engine
    from persona.training.settings import Optimization

    torch.set_num_threads(1)
    file = "zero3" if torch.cuda.is_available() else "zero3_cpu"
    optimization = Optimization(learning_rate=1e-4, warmup_ratio=0.0)
    engine = build_engine(str(folder), ROOT / "config" / "deepspeed" / f"{file}.json", optimization, 100, 1, False)
    table = TokenTable.read(folder / "tokens.parquet")
    ways: dict[str, Callable[[], int]] = {
        "single": lambda: packed_step(engine, table, 1),
        "padded": lambda: padded_step(engine, table),
        "packed": lambda: packed_step(engine, table, args.row_tokens),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    memory, figures = {name: 0.0 for name in ways}, {}
    for round_number in range(args.rounds + 1):
        for name, step in ways.items():
            forget_peak_memory()
            dist.barrier()
            started = time.perf_counter()
            step()
            dist.barrier()
            if round_number > 0:  # the first one warms up
                seconds[name].append(time.perf_counter() - started)
                memory[name] = max(memory[name], peak_memory_gib())
    for name, step in ways.items():
        micro_steps, gathered = count_gathered_bytes(deepspeed.comm, step)
        figures[name] = {
            "seconds_per_step": statistics.median(seconds[name]),
            "samples_per_s": SAMPLES / statistics.median(seconds[name]),
            "tokens_per_s": int(table.lengths.sum()) / statistics.median(seconds[name]),
            "micro_steps": micro_steps,
            "gathered_mb_per_step": gathered / 1e6,
            "peak_memory_gib": memory[name],
        }
        if torch.cuda.is_available():
            flops = 6 * model_size(str(folder), None).active_parameters * int(table.lengths.sum())
            peak = args.peak_tflops * 1e12 * args.processes
            figures[name]["mfu"] = flops / statistics.median(seconds[name]) / peak
    if dist.get_rank() == 0:
        result = {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
            "processes": args.processes,
            "mean_tokens_per_sample": float(table.lengths.mean()),
            "parameters": sum(p.ds_numel for p in engine.module.parameters()),
            "zero3": figures,
            "packed_over_single_samples_per_s": figures["packed"]["samples_per_s"] / figures["single"]["samples_per_s"],
            "packed_over_padded_samples_per_s": figures["packed"]["samples_per_s"] / figures["padded"]["samples_per_s"],
        }
        write_json(result, folder / "figures.json")
    dist.barrier()


def packed_step(engine: Any, table: TokenTable, max_tokens: int) -> int:
    """One optimizer step as the training does it without shared prefixes; its micro-steps."""
    import torch.distributed as dist

    from persona.training.loop import accumulate

    samples = np.arange(len(table))
    rows = plan_rows(table, samples, dist.get_world_size(), max_tokens, prefix_sharing=False)
    accumulate(engine, table, samples, rows)
    engine.step()
    return len(rows[0])


def padded_step(engine: Any, table: TokenTable) -> int:
    """The same step in padded batches of `PADDED_BATCH` with an attention mask, lengths as they come."""
    import torch.distributed as dist

    loss = engine.module
    own = np.arange(len(table))[dist.get_rank() :: dist.get_world_size()]
    batches = [own[start : start + PADDED_BATCH] for start in range(0, len(own), PADDED_BATCH)]
    n_tokens = int(table.completion_lengths.sum())
    engine.train()
    packed_forward = loss.forward
    loss.forward = lambda batch: padded_nll(loss, table, batch, engine.device)
    for n, batch in enumerate(batches):
        engine.set_gradient_accumulation_boundary(n == len(batches) - 1)
        engine.backward(engine(batch).sum() * (dist.get_world_size() / n_tokens))
    loss.forward = packed_forward
    engine.step()
    return len(batches)


def padded_nll(loss: Any, table: TokenTable, batch: np.ndarray, device: torch.device) -> torch.Tensor:
    rows = [pack_row(table, [int(i)]) for i in batch]
    longest = max(row.input_ids.shape[1] for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for n, row in enumerate(rows):
        ids[n, : row.input_ids.shape[1]] = row.input_ids[0]
        mask[n, : row.input_ids.shape[1]] = 1
    hidden = loss.model.model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)[0]
    chosen = torch.cat([hidden[n, row.positions.to(device)] for n, row in enumerate(rows)])
    nll: torch.Tensor = loss.head_nll(chosen, torch.cat([row.labels for row in rows]).to(device))
    return nll


def count_gathered_bytes(comm: Any, step: Callable[[], int]) -> tuple[int, int]:
    """Micro-steps of a step, and bytes that all-gathers of it gave this process, as DeepSpeed's logger counts them."""
    comm.configure(enabled=True, prof_all=True)
    logger = comm.comm.comms_logger
    logger.comms_dict.clear()
    micro_steps = step()
    comm.configure(enabled=False)
    sizes = [size_counts for name, size_counts in logger.comms_dict.items() if "all_gather" in name]
    return micro_steps, sum(size * found[0] for counts in sizes for size, found in counts.items())


def forget_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_gib() -> float:
    """Of the GPU, or of this process since `forget_peak_memory`."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**20


# Part two: one process, Qwen's vocabulary, against TRL.


def compare_with_trl(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Samples a second of an epoch of `SAMPLES` in one optimizer step, ours and TRL's, turn by turn."""
    try:
        import trl  # noqa: F401
    except ImportError:
        return {"packed_over_trl_samples_per_s": None, "trl": "not installed"}
    table = TokenTable.read(folder / "tokens.parquet")
    ways: dict[str, Callable[[], float]] = {
        "packed": lambda: plain_step_seconds(folder, table, args.row_tokens),
        "trl_single": lambda: trl_seconds(folder, table, None),
        "trl_packed": lambda: trl_seconds(folder, table, args.row_tokens),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.trl_rounds):
        for name, way in ways.items():
            seconds[name].append(way())
    speed = {name: SAMPLES / statistics.median(values) for name, values in seconds.items()}
    return {
        "mean_qwen_tokens_per_sample": float(table.lengths.mean()),
        "mean_qwen_completion_tokens": float(table.completion_lengths.mean()),
        "one_process_samples_per_s": speed,
        "packed_over_trl_samples_per_s": speed["packed"] / max(speed["trl_single"], speed["trl_packed"]),
    }


def new_model(folder: Path) -> Any:
    from persona.modeling.loading import default_device, dtype_on, load_model

    device = default_device()
    return load_model(str(folder), dtype_on(device), device)


def plain_step_seconds(folder: Path, table: TokenTable, max_tokens: int) -> float:
    """The second of two optimizer steps with packed rows and the chunked loss, without DeepSpeed."""
    from persona.modeling.loss import CompletionLoss

    loss = CompletionLoss(new_model(folder)).train()
    device = loss.model.device
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-4, fused=torch.cuda.is_available())
    n_tokens = int(table.completion_lengths.sum())
    for _ in range(2):
        started = time.perf_counter()
        for row in rows_of(table, max_tokens):
            (loss(row.to(device)).sum() / n_tokens).backward()
        torch.nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return seconds


def rows_of(table: TokenTable, max_tokens: int) -> Iterator[Row]:
    for row in plan_rows(table, np.arange(len(table)), 1, max_tokens, prefix_sharing=False)[0]:
        yield pack_row(table, row.members)


def trl_seconds(folder: Path, table: TokenTable, pack_to: int | None) -> float:
    """The second of two optimizer steps of TRL's SFTTrainer: one sample a micro-step, or packed rows."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.steps: list[float] = []

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.steps.append(time.perf_counter() - self.started)

    spans = list(zip(table.starts[:-1], table.starts[1:], table.prompt_lengths, strict=True))
    dataset = Dataset.from_dict(
        {
            "input_ids": [table.ids[start:end].tolist() for start, end, _ in spans],
            "completion_mask": [[0] * int(n) + [1] * int(end - start - n) for start, end, n in spans],
        }
    )
    n_rows = sum(1 for _ in rows_of(table, pack_to)) if pack_to else len(table)
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        trainer = SFTTrainer(
            model=new_model(folder),
            args=SFTConfig(
                output_dir=out,
                per_device_train_batch_size=1,
                gradient_accumulation_steps=n_rows,
                max_steps=2,
                max_length=pack_to or int(table.lengths.max()),
                packing=pack_to is not None,
                completion_only_loss=True,
                gradient_checkpointing=False,
                learning_rate=1e-4,
                bf16=torch.cuda.is_available(),
                optim="adamw_torch_fused" if torch.cuda.is_available() else "adamw_torch",
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
            ),
            train_dataset=dataset,
            processing_class=AutoTokenizer.from_pretrained(folder),
            callbacks=[clock],
        )
        trainer.train()
    # An epoch is all samples, in one optimizer step.
    return clock.steps[1]


# Part three: what the 8-GPU recipe will do, counted on Qwen's tokens.


def count_for_eight_gpus(tokens: pl.DataFrame) -> dict[str, Any]:
    """Micro-steps an optimizer step of 64 samples, packed and one sample at a time, over all steps of an epoch."""
    table = TokenTable.from_frame(tokens)
    order = np.random.default_rng(0).permutation(len(table))
    steps = [order[start : start + SAMPLES] for start in range(0, len(order) - SAMPLES, SAMPLES)]

    def micro_steps(max_tokens: int) -> int:
        return sum(len(plan_rows(table, step, EIGHT_GPUS["ranks"], max_tokens, False)[0]) for step in steps)

    single, packed = micro_steps(1), micro_steps(EIGHT_GPUS["max_tokens"])
    return {
        "eight_gpus_mean_tokens_per_sample": float(table.lengths.mean()),
        "eight_gpus_micro_steps_per_step": {"single": single / len(steps), "packed": packed / len(steps)},
        "eight_gpus_single_over_packed_micro_steps": single / packed,
    }


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
