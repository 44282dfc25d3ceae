"""Write a trained model as an ordinary Hugging Face folder."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open

from persona.files import follow_umask, sync_folder, write_json
from persona.modeling.expert_parallel import gather_on_first, parts, whole_numel
from persona.modeling.loading import default_device, dtype_on, load_model
from persona.tokenization.chat import load_tokenizer
from persona.training.experts import ExpertOptimizer

_PREFIX = "model."  # CompletionLoss holds the model under this name
SHARD_BYTES = 5_000_000_000  # in the precision of the training
Named = list[tuple[str, Any]]  # parameters with their names
_LAYER = re.compile(r"(.*?\.\d+\.).*")  # of `model.layers.3.mlp.gate.weight` the part with the number


def export_model(engine: Any, tokenizer: Any, folder: Path) -> None:
    """Write the weights with config and tokenizer. All ranks must call it.

    They are gathered and written one shard at a time, so rank 0 holds a few shards in host memory, not the model.
    """
    named = [(name.removeprefix(_PREFIX), p) for name, p in engine.module.named_parameters()]
    # Of a training of adapters these alone are written, and they are small.
    shards = [_written(named)] if _has_adapters(named) else _shards(named)
    buffers = dict(engine.module.model.named_buffers())
    persistent = {name: buffers[name] for name in engine.module.model.state_dict() if name in buffers}
    with _complete_folder(folder) if dist.get_rank() == 0 else nullcontext(folder) as temporary:
        for n, shard in enumerate(shards):
            weights = _gathered(shard, engine.expert_optimizer) | (persistent if n == 0 else {})
            if dist.get_rank() == 0:
                engine.module.model.save_pretrained(_part(temporary, n), state_dict=weights)
            del weights
            dist.barrier()  # so that no process waits longer than for one shard
        if dist.get_rank() == 0:
            _join(temporary, len(shards))
            tokenizer.save_pretrained(temporary)
            _make_readable_by_older_programs(temporary)
    dist.barrier()


def export_bytes(model: Any) -> int:
    """Bytes of the exported weights."""
    return sum(whole_numel(p) * p.element_size() for _, p in _written(list(model.named_parameters())))


def _has_adapters(named: Named) -> bool:
    """Whether adapters are trained, which peft names so. A model may have frozen weights of its own."""
    return any(".lora_" in name for name, _ in named)


def _written(named: Named) -> Named:
    """The parameters that are exported: adapters alone where there are some."""
    return [(name, p) for name, p in named if p.requires_grad] if _has_adapters(named) else named


def _shards(named: Named) -> list[Named]:
    """The parameters in groups of at most `SHARD_BYTES`. Those of one layer stay together, to be converted together."""
    shards: list[Named] = [[]]
    room = SHARD_BYTES
    for _, group in groupby(named, key=lambda each: _LAYER.sub(r"\1", each[0])):
        layer = list(group)
        size = sum(whole_numel(p) * p.element_size() for _, p in layer)
        if size > room and shards[-1]:
            shards.append([])
            room = SHARD_BYTES
        shards[-1] += layer
        room -= size
    return shards


def _gathered(named: Named, experts: ExpertOptimizer | None) -> dict[str, torch.Tensor]:
    """Whole weights in host memory on rank 0; nothing on other ranks, which take part in the gathering."""
    from deepspeed.runtime.zero import GatheredParameters

    weights = {}
    for name, parameter in named:
        if experts is not None and parts(parameter) > 1:
            whole = gather_on_first(parameter, experts.mesh)
            if whole is not None:
                weights[name] = whole
            continue
        with GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            if dist.get_rank() == 0:
                weights[name] = parameter.detach().to("cpu", copy=True)
    return weights


def _part(folder: Path, n: int) -> Path:
    return folder / f"part_{n}"


def _join(folder: Path, n_parts: int) -> None:
    """Make one model of models that hold parts of the weights."""
    index: dict[str, str] = {}
    for n in range(n_parts):
        part = _part(folder, n)
        for file in list(part.iterdir()):
            if n_parts > 1 and file.suffix == ".safetensors":
                name = f"{file.stem}-{n + 1:05}-of-{n_parts:05}.safetensors"
                with safe_open(file, framework="pt") as weights:
                    index |= dict.fromkeys(weights.keys(), name)
                file.rename(folder / name)
            else:
                file.replace(folder / file.name)
        part.rmdir()
    if n_parts > 1:
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        write_json(
            {"metadata": {"total_size": size}, "weight_map": dict(sorted(index.items()))},
            folder / "model.safetensors.index.json",
        )


def merge_adapter(base_model: str, adapter: Path, folder: Path, cpu_dtype: str) -> None:
    """Add the adapter to the weights of the base model and write that as an ordinary Hugging Face folder."""
    from peft import PeftModel

    model = load_model(base_model, dtype_on(default_device(), cpu_dtype), torch.device("cpu"))
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    with _complete_folder(folder) as temporary:
        merged.save_pretrained(temporary)
        load_tokenizer(str(adapter)).save_pretrained(temporary)
        _make_readable_by_older_programs(temporary)


@contextmanager
def _complete_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes its name when it is complete and on the disk."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    for path in (temporary, folder):
        shutil.rmtree(path, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    follow_umask(temporary)
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
