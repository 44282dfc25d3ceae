"""A real model on real dialogue against what people would use instead: a plain loop, and TRL's SFTTrainer.

    pip install -e '.[benchmarks]'
    python -m benchmarks.smollm2 models/SmolLM2-135M-Instruct       # or a folder from the hub
    python -m benchmarks.real_model models/SmolLM2-135M-Instruct data/cornell

One process with all cores, float32, no time for loading or tokenizing. The samples are all lines of one conversation
after the other, of the film with the most lines, each with the turns before it (up to 15) and without user and history,
until there are `--samples`. Each way makes the same optimizer step on the same tokens, one way after the other, and the
best of `--rounds` counts, after one to warm up. Plain loop and TRL use torch's AdamW as they do by default:

- `plain`: a loop with transformers' model and its logits, one sample a micro-step, AdamW of torch.
- `trl_single`, `trl_packed`: SFTTrainer with one sample a micro-step, and with packing.
- `this`: the engine of this workflow with its recipe's ZeRO-2 and shared prefixes.
- `one_a_user`: samples that share nothing, one line of each of as many users, with `plain` and `this`.
- `one_film_lora`: adapters of the attention instead of all weights, with `plain` (peft) and `this`.

The last line is one JSON object; `peak_gib` is that of the process up to the last of `plain` and `this`.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.corpus import ROOT
from benchmarks.training import trl_seconds
from persona.ingestion.ingest import Ingested, ingest, load
from persona.ingestion.settings import Options
from persona.modeling.packing import TokenTable, plan_rows, tokens_to_compute
from persona.modeling.processes import distributed_processes
from persona.prompts import Parts, PromptSpec, load_style, render
from persona.tokenization.chat import load_tokenizer
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import tokenize
from persona.training.adapters import add_adapters
from persona.training.engine import build_engine
from persona.training.loop import accumulate
from persona.training.settings import Lora, Optimization

TASK, CUE = "Predict what this character says next in the conversation.", "The character says:"
ROW_TOKENS = 1024
LORA = Lora(r=16, alpha=32, dropout=0.0, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
ENGINE = ROOT / "config" / "deepspeed" / "zero2_cpu.json"


def dialogue(data: Path) -> Ingested:
    with tempfile.TemporaryDirectory() as folder:
        ingest(data, "cornell", Path(folder), Options(max_context_turns=15), 1.0)
        return load(Path(folder))


def tokens_of(tables: Ingested, targets: pl.DataFrame, tokenizer: Any) -> TokenTable:
    spec = PromptSpec(
        load_style(ROOT / "config" / "prompts" / "dialogue.yaml"), Parts(False, False, True, False), TASK, CUE
    )
    prompts = render(targets, tables.interactions, tables.users, tables.items, spec)
    return TokenTable.from_frame(tokenize(prompts, tokenizer, FitSettings(max_length=ROW_TOKENS)))


def of_one_film(tables: Ingested, n: int) -> pl.DataFrame:
    films = tables.interactions.group_by("item_id").len().sort("len", "item_id", descending=True)
    lines = tables.interactions.filter(pl.col("item_id") == films["item_id"][0])
    # Raw rows follow each other as the lines of a conversation do.
    return lines.sort("file", "row").head(n)


def one_a_user(tables: Ingested, n: int) -> pl.DataFrame:
    lines = tables.interactions.filter(pl.col("context").list.len() > 2)
    return lines.sort("user_id", "position").unique("user_id", keep="first", maintain_order=True).head(n)


def plain_loop(folder: Path, lora: Lora | None) -> Callable[[TokenTable], None]:
    """An optimizer step as people write it: transformers' loss on all logits, one sample after the other."""
    model = load_plain(folder)
    if lora:
        add_adapters(model, lora, seed=0)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step(table: TokenTable) -> None:
        n_tokens = int(table.completion_lengths.sum())
        for sample in range(len(table)):
            ids = torch.from_numpy(table[sample].astype(np.int64))[None]
            labels = ids.clone()
            labels[:, : table.prompt_lengths[sample]] = -100
            (model(input_ids=ids, labels=labels, num_items_in_batch=n_tokens).loss).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def load_plain(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()


def this(folder: Path, lora: Lora | None) -> Callable[[TokenTable], None]:
    optimization = Optimization(learning_rate=1e-4, warmup_ratio=0.0, lora=lora)
    engine = build_engine(str(folder), ENGINE, optimization, 100, 1, prefix_sharing=True)

    def step(table: TokenTable) -> None:
        samples = np.arange(len(table))
        accumulate(engine, table, samples, plan_rows(table, samples, 1, ROW_TOKENS, prefix_sharing=True))
        engine.step()

    return step


def seconds_of(step: Callable[[TokenTable], None], table: TokenTable, rounds: int) -> float:
    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        step(table)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def compare(name: str, folder: Path, table: TokenTable, rounds: int, lora: Lora | None) -> dict[str, float]:
    """Samples a second of the plain loop and of this."""
    speed = {}
    for way, make in (("plain", plain_loop), ("this", this)):
        speed[way] = len(table) / seconds_of(make(folder, lora), table, rounds)
        print(f"{name}: {way} {speed[way]:.2f} samples/s", flush=True)
    return speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="folder of the Cornell corpus")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    tokenizer = load_tokenizer(str(args.model))
    tables = dialogue(args.data)
    film, users = (tokens_of(tables, chosen(tables, args.samples), tokenizer) for chosen in (of_one_film, one_a_user))
    [rows] = plan_rows(film, np.arange(len(film)), 1, ROW_TOKENS, prefix_sharing=True)
    print(f"one film: {len(film)} samples, {film.lengths.sum():,} tokens, {tokens_to_compute(film, rows):,} computed")
    with distributed_processes():
        speeds = {
            "one_film": compare("one film", args.model, film, args.rounds, None),
            "one_film_lora": compare("one film, LoRA", args.model, film, args.rounds, LORA),
            "one_a_user": compare("one line a user", args.model, users, args.rounds, None),
        }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    for way, pack_to in (("trl_single", None), ("trl_packed", ROW_TOKENS)):
        speeds["one_film"][way] = len(film) / min(trl_seconds(args.model, film, pack_to) for _ in range(args.rounds))
        print(f"one film: {way} {speeds['one_film'][way]:.2f} samples/s", flush=True)
    over_plain = {name: speed["this"] / speed["plain"] for name, speed in speeds.items()}
    best_trl = max(speeds["one_film"]["trl_single"], speeds["one_film"]["trl_packed"])
    figures = {
        "threads": torch.get_num_threads(),
        "samples": args.samples,
        "tokens": int(film.lengths.sum()),
        "computed_tokens": tokens_to_compute(film, rows),
        "samples_per_s": speeds,
        "over_plain_samples_per_s": over_plain,
        "over_trl_samples_per_s": speeds["one_film"]["this"] / best_trl,
        "peak_gib": peak,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
