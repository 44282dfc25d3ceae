"""Low-rank adapters, trained instead of the weights."""

from __future__ import annotations

from typing import Any

import torch

from persona.errors import PersonaError
from persona.training.settings import Lora


def add_adapters(model: Any, lora: Lora, seed: int) -> None:
    """Freeze the weights and add adapters, initialised from the seed, to what `lora.target_modules` names.

    Experts are fused into one tensor for each projection of a layer. peft understands the names of the single experts'
    projections (`gate_proj` with `up_proj`, `down_proj`) and adapts the fused tensors.

    Raises:
        PersonaError: a name is of no module, is the head, whose forward pass the loss replaces, or is of experts that
            ZeRO-3 has partitioned.
    """
    from peft import LoraConfig

    head = model.get_output_embeddings()
    name = next(name for name, module in model.named_modules() if module is head)
    if name in lora.target_modules:
        raise PersonaError(f"lora.target_modules: {name} cannot have adapters here; leave it out")
    torch.manual_seed(seed)
    try:
        model.add_adapter(
            LoraConfig(
                r=lora.r,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=lora.target_modules,
                task_type="CAUSAL_LM",
                base_model_name_or_path=model.config._name_or_path,
            )
        )
    except ValueError as error:
        raise PersonaError(f"lora.target_modules: {str(error).splitlines()[0]}") from error
    config = next(iter(model.peft_config.values()))
    if config.target_parameters and any(hasattr(p, "ds_id") for p in model.parameters()):
        raise PersonaError(
            "lora.target_modules: adapters of experts need whole weights, and ZeRO-3 partitions them; take the "
            "DeepSpeed file zero2, or name modules of the attention alone"
        )
    adapted = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if hasattr(module, "lora_A")}
    without = sorted(set(config.target_modules) - adapted)
    if without:
        raise PersonaError(f"lora.target_modules: the model has no module named {', '.join(without)}")
