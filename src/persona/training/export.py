"""Write a trained model as an ordinary Hugging Face folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from persona.files import sync_folder, write_json
from persona.modeling.loading import default_device, default_dtype, load_model
from persona.tokenization.chat import load_tokenizer

_PREFIX = "model."  # CompletionLoss holds the model under this name


def export_model(engine: Any, tokenizer: Any, folder: Path) -> None:
    """Gather the weights of all ranks and write them with config and tokenizer. All ranks must call it."""
    if engine.zero_optimization_stage() == 3:
        gathered = engine._zero3_consolidated_16bit_state_dict()
    else:
        gathered = engine.module.state_dict()
    if dist.get_rank() == 0:
        weights: dict[str, torch.Tensor] = {name.removeprefix(_PREFIX): value for name, value in gathered.items()}
        _write(engine.module.model, tokenizer, folder, state_dict=weights)
    dist.barrier()


def merge_adapter(base_model: str, adapter: Path, folder: Path) -> None:
    """Add the adapter to the weights of the base model and write that as an ordinary Hugging Face folder."""
    from peft import PeftModel

    model = load_model(base_model, default_dtype(default_device()), torch.device("cpu"))
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    _write(merged, load_tokenizer(str(adapter)), folder)


def _write(model: Any, tokenizer: Any, folder: Path, **options: Any) -> None:
    """Write a model and its tokenizer; the folder appears only when it is complete."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    for path in (temporary, folder):
        shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(temporary, **options)
    tokenizer.save_pretrained(temporary)
    _make_readable_by_older_programs(temporary)
    sync_folder(temporary)
    temporary.rename(folder)


def _make_readable_by_older_programs(folder: Path) -> None:
    """Add the names by which transformers 4 and vLLM know the settings that transformers 5 renamed."""
    file = folder / "config.json"
    if file.exists():  # an adapter has none
        config = json.loads(file.read_text(encoding="utf-8"))
        if "num_local_experts" in config:
            config.setdefault("num_experts", config["num_local_experts"])
        if "rope_theta" in (config.get("rope_parameters") or {}):
            config.setdefault("rope_theta", config["rope_parameters"]["rope_theta"])
        if "dtype" in config:
            config.setdefault("torch_dtype", config["dtype"])
        write_json(config, file)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        write_json(settings, file)
