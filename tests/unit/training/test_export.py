"""A trained model becomes a folder that other programs read."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen3MoeForCausalLM

from persona.modeling.loading import check_weights, load_config, load_model
from persona.modeling.loss import CompletionLoss
from persona.modeling.processes import process_group
from persona.modeling.tiny import write_tiny_model
from persona.tokenization.chat import load_tokenizer
from persona.training.export import export_model, merge_adapter

CPU = torch.device("cpu")


@pytest.fixture
def base(tmp_path: Path) -> str:
    write_tiny_model(["a film", "一部电影"], tmp_path / "base", 300, 32, num_hidden_layers=1, num_experts=2, seed=0)
    return str(tmp_path / "base")


def export(model: Any, base: str, folder: Path) -> None:
    engine = SimpleNamespace(module=CompletionLoss(model), zero_optimization_stage=lambda: 2, expert_optimizer=None)
    with process_group(deepspeed=False):
        export_model(engine, load_tokenizer(base), folder)


def test_weights_keep_their_names_and_values(base: str, tmp_path: Path) -> None:
    model = load_model(base, torch.float32, CPU)
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "of_a_killed_export").touch()
    export(model, base, tmp_path / "best")
    again = load_model(str(tmp_path / "best"), torch.float32, CPU)
    for (name, one), (other_name, other) in zip(again.named_parameters(), model.named_parameters(), strict=True):
        assert name == other_name
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert not (tmp_path / "best" / "of_a_killed_export").exists()
    (tmp_path / "new").touch()
    modes = {file.stat().st_mode for path in (tmp_path / "best", Path(base)) for file in path.iterdir()}
    assert modes == {(tmp_path / "new").stat().st_mode}
    assert load_tokenizer(str(tmp_path / "best")).chat_template == load_tokenizer(base).chat_template


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_an_export_in_several_shards_is_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool
) -> None:
    write_tiny_model(["a film"], tmp_path / "base", 300, 32, num_hidden_layers=3, num_experts=2, seed=0)
    base = str(tmp_path / "base")
    config = load_config(base)
    config.tie_word_embeddings = tied
    torch.manual_seed(1)
    model = Qwen3MoeForCausalLM(config)
    export(model, base, tmp_path / "whole")
    monkeypatch.setattr("persona.training.export.SHARD_BYTES", 50_000)
    export(model, base, tmp_path / "shards")
    assert [file.name for file in (tmp_path / "whole").glob("*.safetensors")] == ["model.safetensors"]
    shards = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(shards) >= 4  # the embedding, each layer, the head
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    in_shards = {name: tensor for file in shards for name, tensor in load_file(file).items()}
    in_whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert index["weight_map"].keys() == in_shards.keys() == in_whole.keys()
    assert all(torch.equal(in_shards[name], in_whole[name]) for name in in_whole)
    check_weights(str(tmp_path / "shards"))
    loaded = [AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "shards")]
    assert loaded[0].keys() == loaded[1].keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded[0][name], weight) and torch.equal(loaded[1][name], weight), name
    others = [
        {file.name for file in (tmp_path / name).iterdir() if "safetensors" not in file.name}
        for name in ("whole", "shards")
    ]
    assert others[0] == others[1]


def test_older_programs_find_the_settings_under_their_old_names(base: str, tmp_path: Path) -> None:
    export(load_model(base, torch.float32, CPU), base, tmp_path / "best")
    config = json.loads((tmp_path / "best" / "config.json").read_text())
    assert config["num_experts"] == 2 and config["torch_dtype"] == "float32" and config["rope_theta"] > 0
    settings = json.loads((tmp_path / "best" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_merged_adapter_gives_the_logits_of_base_and_adapter(base: str, tmp_path: Path) -> None:
    model = load_model(base, torch.float32, CPU).eval()
    settings = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model.add_adapter(settings)
    export(model, base, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    merge_adapter(base, tmp_path / "adapter", tmp_path / "merged", "float32")
    merged = load_model(str(tmp_path / "merged"), torch.float32, CPU).eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
