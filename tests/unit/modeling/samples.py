"""Token tables, rows and a model for the tests of this folder."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from persona.modeling.packing import RowPlan, TokenTable, plan_rows

VOCABULARY = 11
Samples = list[tuple[list[int], list[int]]]
# So few different tokens that prompts share prefixes, are prefixes of each other, or are the same.
TOKENS = st.lists(st.sampled_from([3, 5]), min_size=1, max_size=9)
SAMPLES = st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=9)
GROWING: Samples = [([3, 5] * n, [5, 3, 5]) for n in (4, 2, 7, 5)]
TIES: Samples = [([3, 5], [5, 5, 3])] * 3
RAGGED: Samples = [([3], [5]), ([3, 5, 3, 3], [3]), ([3, 5], [3, 3, 5]), ([5] * 12, [3])]


def table_of(samples: Samples) -> TokenTable:
    documents = [prompt + completion for prompt, completion in samples]
    return TokenTable(
        ids=np.concatenate(documents).astype(np.int32),
        starts=np.concatenate([[0], np.cumsum([len(document) for document in documents])]),
        prompt_lengths=np.array([len(prompt) for prompt, _ in samples], dtype=np.int32),
        users=np.zeros(len(samples), dtype=np.int64),
    )


def shared_rows(samples: Samples, max_tokens: int = 1000, n_ranks: int = 1) -> tuple[TokenTable, list[RowPlan]]:
    table = table_of(samples)
    planned = plan_rows(table, np.arange(len(table)), n_ranks, max_tokens, prefix_sharing=True)
    return table, [row for of_rank in planned for row in of_rank if row.members]


def new_model(attention: str = "sdpa", vocab_size: int = 97) -> Qwen3MoeForCausalLM:
    torch.manual_seed(0)
    return Qwen3MoeForCausalLM._from_config(
        Qwen3MoeConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=64,
            moe_intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            num_experts=4,
            num_experts_per_tok=2,
            # No part of the loss here, whatever the config says.
            output_router_logits=True,
        ),
        attn_implementation=attention,
    )
