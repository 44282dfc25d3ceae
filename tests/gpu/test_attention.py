"""FlexAttention, FlashAttention and grouped experts on this GPU, against slower computations of the same."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts
from transformers.utils import is_flash_attn_2_available

from persona.modeling.attention import attend_by_prefix, block_mask, bucketed, flex_attention_works
from persona.modeling.experts import empty_experts_get_no_gradient
from persona.modeling.packing import pack_row
from persona.modeling.prefix_tree import Layout
from tests.gpu.real_model import real_config
from tests.unit.modeling.samples import shared_rows
from tests.unit.modeling.test_attention import long_row, states_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flex_attention_gives_the_gradients_of_attention_run_by_run(dtype: torch.dtype, device: torch.device) -> None:
    layout = long_row()
    n_tokens, length = sum(layout.runs), bucketed(sum(layout.runs))
    states = [each.detach().to(device, dtype).requires_grad_() for each in states_of(layout, n_tokens)]
    q, k, v = (functional.pad(each, (0, 0, 0, length - n_tokens)) for each in states)
    flex, _ = attend_by_prefix(None, q, k, v, None, block_mask(layout, length, device), scaling=0.25)
    q, k, v = states
    runs, _ = attend_by_prefix(None, q, k, v, None, layout, scaling=0.25)
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    found, expected = (torch.autograd.grad(out[:, :n_tokens].float().square().sum(), states) for out in (flex, runs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_flex_attention_is_tried_before_it_is_used(device: torch.device, figures: dict[str, Any]) -> None:
    started = time.perf_counter()
    assert flex_attention_works(device, 128)
    figures["flex_trial_s"] = round(time.perf_counter() - started, 1)
    assert not flex_attention_works(device, 8), "FlexAttention needs heads of at least 16"


def branching_row(n_tokens: int) -> Layout:
    """A row of reviews of users of ten reviews each, whose prompts grow by 42 tokens."""
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(n_tokens // 1000):
        history = rng.integers(3, 9000, 420).tolist()
        samples += [(history[: 42 * n], rng.integers(3, 9000, 58).tolist()) for n in range(1, 11)]
    table, [row] = shared_rows(samples, 2 * n_tokens)
    return pack_row(table, row.members, row.shared).layout


@pytest.mark.parametrize("n_tokens", [1000, 8000])
def test_what_flex_attention_costs(n_tokens: int, device: torch.device, figures: dict[str, Any]) -> None:
    """Compiling for a new length, making the mask of a row, and one layer of the 30B forward and backward."""
    layout = branching_row(n_tokens)
    length = bucketed(sum(layout.runs))
    shapes = [(1, heads, length, 128) for heads in (32, 4, 4)]
    states = [torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for shape in shapes]

    def layer(attend: Any) -> None:
        torch.autograd.grad(attend(*states).float().sum(), states)

    def flex(q: Any, k: Any, v: Any) -> Any:
        return attend_by_prefix(None, q, k, v, None, mask, scaling=0.09)[0]

    def causal(q: Any, k: Any, v: Any) -> Any:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    mask = block_mask(layout, length, device)
    started = time.perf_counter()
    layer(flex)
    torch.cuda.synchronize()
    figures[f"flex_compile_s_{length}"] = round(time.perf_counter() - started, 2)
    figures[f"flex_mask_ms_{length}"] = milliseconds(lambda: block_mask(layout, length, device))
    figures[f"flex_layer_ms_{length}"] = milliseconds(lambda: layer(flex))
    # The whole causal square, without a tree: what the mask saves shows beside it.
    figures[f"causal_layer_ms_{length}"] = milliseconds(lambda: layer(causal))


def milliseconds(work: Any, n: int = 5) -> float:
    """The median of some runs after a first one."""
    times = []
    for _ in range(n + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return round(1000 * float(np.median(times[1:])), 2)


# FlashAttention is no dependency: it must be built for the machine, and without it FlexAttention is used.
@pytest.mark.skipif(not is_flash_attn_2_available(), reason="flash_attn is not installed")
def test_flash_attention_keeps_samples_of_a_row_apart(device: torch.device) -> None:
    from transformers import AutoModelForCausalLM

    from persona.modeling.loss import CompletionLoss
    from tests.gpu.real_model import random_samples

    config = real_config(2)
    config.hidden_size, config.vocab_size, config.num_experts, config.moe_intermediate_size = 256, 512, 8, 64
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="flash_attention_2")
    table = random_samples(3, 20, 9, vocabulary=512)
    loss = CompletionLoss(model)
    together = loss(pack_row(table, [0, 1, 2]).to(device))
    alone = torch.cat([loss(pack_row(table, [n]).to(device)) for n in range(3)])
    torch.testing.assert_close(together, alone, rtol=2e-2, atol=2e-2)


def test_grouped_experts_of_which_some_get_no_token(device: torch.device, figures: dict[str, Any]) -> None:
    """Outputs and gradients are those of a loop over the experts, and experts without tokens get no gradient.

    Some versions of torch leave these gradients uninitialised on some GPUs
    (https://github.com/pytorch/pytorch/issues/172439).
    """
    config = real_config(1)
    hidden = torch.randn(64, 2048, device=device, dtype=torch.bfloat16)
    chosen = torch.randint(0, 9, (64, 8), device=device)  # 119 experts get nothing
    shares = torch.rand(64, 8, device=device, dtype=torch.bfloat16)
    results = {}
    torch.manual_seed(0)
    weights = {
        "gate_up_proj": 0.02 * torch.randn(128, 1536, 2048, device=device, dtype=torch.bfloat16),
        "down_proj": 0.02 * torch.randn(128, 2048, 768, device=device, dtype=torch.bfloat16),
    }
    # So that memory handed out again would show.
    poison = [torch.full_like(weight, float("nan")) for weight in weights.values() for _ in range(2)]
    del poison
    for implementation in ("grouped_mm", "eager"):
        config._experts_implementation = implementation
        with device:
            experts = Qwen3MoeExperts(config).to(torch.bfloat16)
        experts.load_state_dict(weights)
        output = experts(hidden, chosen, shares)
        output.float().square().sum().backward()
        results[implementation] = [output, *(p.grad for p in experts.parameters())]
    for grouped, looped in zip(results["grouped_mm"], results["eager"], strict=True):
        assert relative_difference(grouped, looped) < 2e-2
    assert not any(gradient[9:].any() for gradient in results["grouped_mm"][1:])
    assert empty_experts_get_no_gradient(device)
    figures["empty_experts"] = "gradients are those of a loop"


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).float().norm() / other.float().norm())
