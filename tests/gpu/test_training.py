"""A small model trained on this GPU: its loss and gradients against the CPU, saving, resuming, exporting."""

from __future__ import annotations

import copy
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen3MoeForCausalLM

from persona.errors import PersonaError
from persona.modeling.attention import BY_PREFIX
from persona.modeling.loss import CompletionLoss
from persona.modeling.packing import TokenTable, pack_row, plan_rows
from persona.modeling.tiny import moe_config, write_tiny_model
from persona.tables import schemas
from persona.tables.parquet import write_table
from persona.tokenization.chat import load_tokenizer
from persona.training.logs import read_log
from persona.training.settings import ExportSettings, Optimization, Schedule
from persona.training.stopping import StopRequest
from persona.training.train import Files, train

ROOT = Path(__file__).parents[2]
N_SAMPLES, N_STEPS = 160, 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model, and tokens of users whose prompts grow."""
    folder = tmp_path_factory.mktemp("training")
    write_tiny_model(["a film to see again, and once more"] * 20, folder / "base", 300, 128, 2, 8, seed=0)
    rng = np.random.default_rng(0)
    users = [rng.integers(3, 250, 90).tolist() for _ in range(N_SAMPLES // 4)]
    prompts = [history[: 30 * n + 3] for history in users for n in range(4)]
    write_tokens(folder / "tokens.parquet", prompts, [rng.integers(3, 250, 12).tolist() for _ in prompts])
    # They share their first token alone.
    long = [[3, *rng.integers(4, 250, 500).tolist()] for _ in range(N_SAMPLES)]
    write_tokens(folder / "long.parquet", long, [[5, 6]] * N_SAMPLES)
    return folder


def write_tokens(path: Path, prompts: list[list[int]], completions: list[list[int]]) -> None:
    """Samples of users who have four each."""
    rows = [
        {"interaction_id": n, "user_id": f"{n // 4:03}", "input_ids": prompt + completion,
         "prompt_length": len(prompt), "text_start": len(prompt), "n_history_dropped": 0, "n_context_dropped": 0,
         "is_cut_for_completion": False}
        for n, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
    ]  # fmt: skip
    write_table(pl.DataFrame(rows, schema=dict(schemas.TOKENS.columns)), path, schemas.TOKENS)


def run(
    folder: Path, name: str, stop: StopRequest | None = None, tokens: str = "tokens.parquet", **changes: Any
) -> list[dict[str, Any]]:
    """Train into `folder / name`; the records of the log."""
    out = folder / name
    files = Files(
        train_tokens=folder / tokens,
        val_tokens=folder / "tokens.parquet",
        base_model=str(folder / "base"),
        deepspeed=ROOT / "config" / "deepspeed" / "zero3.json",
        run_folder=out / "run",
        model=out / "model",
        train_log=out / "log.jsonl",
        manifest=out / "manifest.json",
    )
    schedule = Schedule(
        samples_per_step=N_SAMPLES // N_STEPS, max_tokens_per_gpu=2048, max_epochs=2, batch_by="user"
    ).model_copy(update=changes)
    optimization = Optimization(learning_rate=1e-3, warmup_ratio=0.0)
    train(files, optimization, schedule, ExportSettings(), {}, stop)
    return read_log(out / "log.jsonl")


def losses(records: list[dict[str, Any]]) -> list[float]:
    return [record["loss"] for record in records if record["type"] == "step"]


def test_loss_and_gradients_in_bfloat16_are_near_those_in_float32_on_the_cpu(
    folder: Path, device: torch.device, figures: dict[str, Any]
) -> None:
    config = moe_config(load_tokenizer(str(folder / "base")), hidden_size=64, num_hidden_layers=2, num_experts=4)
    torch.manual_seed(0)
    reference = Qwen3MoeForCausalLM._from_config(config, attn_implementation=BY_PREFIX)
    rng = np.random.default_rng(0)
    story = rng.integers(3, 97, 200).tolist()
    samples = [(story[:n], rng.integers(3, 97, 30).tolist()) for n in range(20, 200, 30)]
    table = TokenTable(
        ids=np.concatenate([np.array(p + c) for p, c in samples]).astype(np.int32),
        starts=np.cumsum([0, *(len(p) + len(c) for p, c in samples)]),
        prompt_lengths=np.array([len(p) for p, _ in samples], dtype=np.int32),
        users=np.zeros(len(samples), dtype=np.int64),
    )
    [[row]] = plan_rows(table, np.arange(len(samples)), 1, 10_000, prefix_sharing=True)
    packed = pack_row(table, row.members, row.shared)
    found = {}
    for name, where, dtype in (
        ("cpu", torch.device("cpu"), torch.float32),
        ("float32", device, torch.float32),
        ("bfloat16", device, torch.bfloat16),
    ):
        model = copy.deepcopy(reference).to(where, dtype)
        loss = CompletionLoss(model)(packed.to(where)).mean()
        loss.backward()
        gradient = torch.cat([p.grad.flatten().double().cpu() for p in model.parameters() if p.grad is not None])
        found[name] = (float(loss), gradient)
    for name, loss_bound, gradient_bound in (("float32", 1e-4, 1e-2), ("bfloat16", 1e-2, 0.15)):
        loss_off = abs(found[name][0] - found["cpu"][0]) / found["cpu"][0]
        gradient_off = float((found[name][1] - found["cpu"][1]).norm() / found["cpu"][1].norm())
        figures[f"loss_difference_{name}"], figures[f"gradient_difference_{name}"] = loss_off, gradient_off
        assert loss_off < loss_bound
        assert gradient_off < gradient_bound


def test_a_training_told_to_stop_goes_on_to_the_same_bits(folder: Path, figures: dict[str, Any]) -> None:
    started = time.perf_counter()
    whole = run(folder, "whole")
    figures["tiny_training_s"] = round(time.perf_counter() - started, 1)
    assert losses(whole)[-1] < losses(whole)[0]
    again = run(folder, "again")
    assert losses(again) == losses(whole), "two trainings of the same data differ on this GPU"

    stop = StopRequest(signals=(signal.SIGUSR1,))
    log = folder / "stopped" / "run" / "train_log.jsonl"

    def tell() -> None:
        while not log.exists() or log.read_text().count('"step"') < 3:
            time.sleep(0.01)
        signal.raise_signal(signal.SIGUSR1)

    threading.Thread(target=tell).start()
    with pytest.raises(PersonaError, match="told to stop"):
        run(folder, "stopped", stop)
    assert losses(run(folder, "stopped")) == losses(whole)
    weights = [load_file(folder / name / "model" / "model.safetensors") for name in ("whole", "stopped")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    figures["resumed_to_the_same_bits"] = True


def test_the_exported_model_has_the_validation_loss_of_the_training(folder: Path, device: torch.device) -> None:
    log = folder / "whole" / "log.jsonl"
    records = read_log(log) if log.exists() else run(folder, "whole")
    best = min(record["val_loss"] for record in records if record["type"] == "val")
    model = AutoModelForCausalLM.from_pretrained(folder / "whole" / "model", attn_implementation="sdpa").to(device)
    assert isinstance(model, Qwen3MoeForCausalLM) and model.dtype == torch.bfloat16
    table = TokenTable.read(folder / "tokens.parquet")
    total = n_tokens = 0.0
    with torch.inference_mode():
        for n in range(len(table)):
            ids, prompt = torch.from_numpy(table[n].astype(np.int64)).to(device), int(table.prompt_lengths[n])
            log_probs = torch.log_softmax(model(ids[None, :-1]).logits[0, prompt - 1 :].float(), -1)
            total -= float(log_probs.gather(1, ids[prompt:, None]).sum())
            n_tokens += len(ids) - prompt
    assert total / n_tokens == pytest.approx(best, rel=1e-2)


def test_a_row_that_is_too_long_is_one_clear_line(folder: Path, device: torch.device) -> None:
    """All samples in one row, on a device whose memory is nearly taken."""
    free, _ = torch.cuda.mem_get_info(device)
    taken = torch.empty(free - 3 * 2**30, dtype=torch.uint8, device=device)
    with pytest.raises(PersonaError) as error:
        run(folder, "too_long", tokens="long.parquet", samples_per_step=N_SAMPLES, max_tokens_per_gpu=100_000)
    del taken
    message = str(error.value)
    assert "\n" not in message
    assert "out of memory with rows of 100000 tokens: lower max_tokens_per_gpu" in message


def test_parameters_of_the_manifest_name_the_card(folder: Path, figures: dict[str, Any]) -> None:
    if not (folder / "whole" / "manifest.json").exists():
        run(folder, "whole")
    manifest = json.loads((folder / "whole" / "manifest.json").read_text())
    assert manifest["hardware"] == f"1 x {figures['device']}"
