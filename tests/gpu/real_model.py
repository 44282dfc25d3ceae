"""The architecture of Qwen3-30B-A3B at full width, with random weights and as many layers as a check needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.distributed.expert_parallel import AllToAllEP
from transformers.integrations import HfDeepSpeedConfig

from persona.modeling.attention import BY_PREFIX
from persona.modeling.expert_parallel import DEGREE
from persona.modeling.loading import default_device
from persona.modeling.packing import TokenTable
from persona.modeling.tiny import train_tokenizer
from persona.training.engine import deepspeed_config, engine_around
from persona.training.settings import Optimization

VOCABULARY = 151_936
H100_TFLOPS = 989.0  # NVIDIA's data sheet: dense bfloat16 of the H100 SXM; the H200 has the same


def real_config(n_layers: int, vocabulary: int = VOCABULARY) -> Any:
    """The published configuration of Qwen3-30B-A3B-Instruct-2507 with fewer layers."""
    return Qwen3MoeConfig(
        vocab_size=vocabulary,
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=n_layers,
        num_attention_heads=32,
        num_key_value_heads=4,
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
        norm_topk_prob=True,
        max_position_embeddings=262_144,
        tie_word_embeddings=False,
    )


def partitioned_engine(n_layers: int, settings: Optimization, deepspeed: Path) -> Any:
    """The engine that trains all weights of the configuration, in bfloat16; this process holds its part alone."""
    config = deepspeed_config(deepspeed, settings, torch.bfloat16)
    partitioning = HfDeepSpeedConfig(config)
    model = AutoModelForCausalLM.from_config(real_config(n_layers), dtype=torch.bfloat16, attn_implementation=BY_PREFIX)
    del partitioning
    # The parts are whatever was in memory; with numbers that are not finite all tokens would choose one expert.
    for parameter in model.parameters():
        parameter.ds_tensor.normal_(0.0, 0.02)
    return engine_around(model, config, settings, epoch_steps=4, max_epochs=1)


def spread_engine(config: Any, settings: Optimization, deepspeed: Path, mesh: DeviceMesh, dtype: torch.dtype) -> Any:
    """The engine that trains all weights of a configuration with spread experts; this process holds its own alone."""
    degree = mesh["experts"].size()
    n_experts, config.num_experts = config.num_experts, config.num_experts // degree
    with torch.device(default_device()):
        model = Qwen3MoeForCausalLM._from_config(config, dtype=dtype, attn_implementation=BY_PREFIX)
        for layer in model.model.layers:
            router = layer.mlp.gate
            router.num_experts = n_experts
            router.weight = nn.Parameter(torch.empty(n_experts, config.hidden_size, dtype=dtype).normal_(0.0, 0.02))
            experts = layer.mlp.experts
            for parameter in experts.parameters():
                setattr(parameter, DEGREE, degree)
            experts.forward = AllToAllEP(experts, mesh["experts"], mesh["same_tokens"])
    settings = settings.model_copy(update={"expert_parallel": degree})
    return engine_around(model, deepspeed_config(deepspeed, settings, dtype), settings, 4, 1, mesh)


def write_real_model(folder: Path, n_layers: int, vocabulary: int = VOCABULARY) -> None:
    """Write random weights of the configuration, and a tokenizer that decodes some of its tokens."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = Qwen3MoeForCausalLM._from_config(real_config(n_layers, vocabulary), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    train_tokenizer(["a film to see again, and once more"] * 20, 300).save_pretrained(folder)


def random_samples(n_samples: int, prompt: int, completion: int, vocabulary: int = VOCABULARY) -> TokenTable:
    """Samples of random tokens, which share nothing."""
    length = prompt + completion
    return TokenTable(
        ids=np.random.default_rng(0).integers(0, vocabulary, n_samples * length).astype(np.int32),
        starts=np.arange(n_samples + 1, dtype=np.int64) * length,
        prompt_lengths=np.full(n_samples, prompt, dtype=np.int32),
        users=np.arange(n_samples),
    )
