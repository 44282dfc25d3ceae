"""Tiny random models of other structures are trained, exported and scored as transformers computes them, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import transformers
from benchmarks.corpus import gpt2_tokenizer
from torch.nn import functional

from persona.errors import PersonaError
from persona.ingestion.ingest import Ingested
from persona.modeling.loading import load_model
from persona.modeling.loss import CompletionLoss
from persona.modeling.packing import TokenTable, plan_rows
from persona.modeling.packing import pack_row as packed
from persona.modeling.tiny import train_tokenizer
from persona.planning.cost import model_size
from persona.prompts import Parts
from persona.tables import schemas
from persona.tables.parquet import read_table, write_table
from persona.tokenization.chat import load_tokenizer
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import tokenize
from persona.training.logs import read_log
from persona.training.settings import ExportSettings, Optimization
from persona.training.train import Files, train
from tests.unit.rendering import prompts_of
from tests.workflow.training import schedule

ROOT = Path(__file__).parents[3]
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = SMALL | {"num_key_value_heads": 2}
# The structures of the models that docs/models.md names.
WORKING: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3Config", GROUPED | {"head_dim": 16}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        GROUPED | {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
    "mixtral": ("MixtralConfig", GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    # Its choice of experts has a bias that is not trained.
    "ernie4_5_moe": (
        "Ernie4_5_MoeConfig",
        GROUPED | {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "moe_num_shared_experts": 1},
    ),
    "qwen2": ("Qwen2Config", GROUPED | {"use_sliding_window": False}),
    "llama3": ("LlamaConfig", GROUPED | {"rope_theta": 500000.0}),
    "smollm2": ("LlamaConfig", GROUPED | {"tie_word_embeddings": True}),
    "mistral": ("MistralConfig", GROUPED | {"sliding_window": None}),
    "gpt_neox": ("GPTNeoXConfig", SMALL),
    "olmo2": ("Olmo2Config", GROUPED),
    "phi3": ("Phi3Config", GROUPED),
    "gemma": ("GemmaConfig", GROUPED | {"head_dim": 16}),
    "gpt2": (
        "GPT2Config",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    ),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "gemma3": ("Gemma3TextConfig", GROUPED | {"head_dim": 16, "sliding_window": 8}, "attention has .*sliding_"),
    "gemma2": ("Gemma2Config", GROUPED | {"head_dim": 16}, "attention has .*softcapping"),
    "mistral_sliding": ("MistralConfig", GROUPED | {"sliding_window": 8}, "attention has sliding_window"),
    "granite": ("GraniteConfig", GROUPED | {"logits_scaling": 8.0}, "differ by .* architecture is not supported"),
    "cohere": ("CohereConfig", GROUPED | {"logit_scale": 0.0625}, "differ by .* architecture is not supported"),
    "bloom": ("BloomConfig", {"hidden_size": 64, "n_layer": 2, "n_head": 4}, "architecture is not supported"),
}


@pytest.fixture(scope="module")
def make(tables: Ingested, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, dict[str, Any]], Path]:
    """Makes a folder with a random model and its tokens."""
    texts = tables.interactions["text"].to_list()
    targets = tables.interactions.filter(tables.interactions["position"] > 0).head(24)

    def build(kind: str, sizes: dict[str, Any]) -> Path:
        folder = tmp_path_factory.mktemp("structure")
        tokenizer = gpt2_tokenizer(texts, 400) if kind == "LlamaConfig" else train_tokenizer(texts, 400)
        tokens = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
        config = getattr(transformers, kind)(**tokens, pad_token_id=tokenizer.pad_token_id, **sizes)
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(4)  # so that it matters what is computed
        model.save_pretrained(folder / "base")
        tokenizer.save_pretrained(folder / "base")
        prompts = prompts_of(tables, "detailed", Parts(profile=True, history=True, context=False), targets)
        table = tokenize(prompts, load_tokenizer(str(folder / "base")), FitSettings(max_length=400))
        write_table(table, folder / "tokens.parquet", schemas.TOKENS)
        return folder

    return build


def train_in(folder: Path, cpu_dtype: Literal["float32", "bfloat16"] = "float32") -> Path:
    """Train for some steps in this process; the folder of the exported model."""
    files = Files(
        train_tokens=folder / "tokens.parquet",
        val_tokens=folder / "tokens.parquet",
        base_model=str(folder / "base"),
        deepspeed=ROOT / "config" / "deepspeed" / "zero3_cpu.json",
        run_folder=folder / "run",
        model=folder / "model",
        train_log=folder / "train_log.jsonl",
        manifest=folder / "manifest.json",
    )
    plan = schedule(2000, max_epochs=2, early_stopping_patience=2, seed=0)
    optimization = Optimization(learning_rate=3e-3, warmup_ratio=0.0, cpu_dtype=cpu_dtype)
    train(files, optimization, plan, ExportSettings(merge_adapter=False, keep_training_state=False), factors={})
    return folder / "model"


@pytest.mark.parametrize("name", WORKING)
def test_a_structure_is_trained_exported_and_scored(name: str, make: Callable[[str, dict[str, Any]], Path]) -> None:
    folder = make(*WORKING[name])
    assert model_size(str(folder / "base"), None).parameters > 0
    exported = train_in(folder)
    losses = [record["val_loss"] for record in read_log(folder / "train_log.jsonl") if record["type"] == "val"]
    assert losses[1] < losses[0]
    # As an ordinary model, each sample by itself.
    model = transformers.AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    table = TokenTable.from_frame(read_table(folder / "tokens.parquet", schemas.TOKENS))
    plain = {}
    for n in range(len(table)):
        ids = torch.from_numpy(table[n]).long()
        with torch.no_grad():
            logits = model(ids[None, :-1]).logits[0]
        plain[n] = functional.cross_entropy(logits, ids[1:], reduction="none")[table.prompt_lengths[n] - 1 :].sum()
    loss = CompletionLoss(load_model(str(exported), torch.float32, torch.device("cpu")).eval())
    [rows] = plan_rows(table, torch.arange(len(table)).numpy(), 1, 2000, True)
    assert any(sum(row.shared) for row in rows)
    for row in rows:
        made = packed(table, row.members, row.shared)
        with torch.no_grad():
            sums = torch.zeros(len(row.members)).index_add_(0, made.samples, loss(made))
        assert torch.allclose(sums, torch.stack([plain[n] for n in row.members]), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_a_structure_that_would_be_computed_wrongly_is_refused(
    name: str, make: Callable[[str, dict[str, Any]], Path]
) -> None:
    kind, sizes, message = REFUSED[name]
    folder = make(kind, sizes)
    with pytest.raises((PersonaError, ValueError), match=message):
        train_in(folder)
    assert not (folder / "model").exists()


def test_in_bfloat16_the_losses_are_those_of_float32_within_five_percent(
    make: Callable[[str, dict[str, Any]], Path],
) -> None:
    losses = {}
    for dtype in ("float32", "bfloat16"):
        folder = make(*WORKING["smollm2"])
        exported = train_in(folder, dtype)  # type: ignore[arg-type]
        losses[dtype] = [record.get("loss") or record["val_loss"] for record in read_log(folder / "train_log.jsonl")
                         if record["type"] in ("step", "val")]  # fmt: skip
        weights = transformers.AutoModelForCausalLM.from_pretrained(exported)
        assert {weight.dtype for weight in weights.parameters()} == {getattr(torch, dtype)}
    assert len(losses["float32"]) == 8 and losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
