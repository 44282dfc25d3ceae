"""Which models can be loaded, and with which attention."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from persona.errors import PersonaError
from persona.modeling.attention import BY_PREFIX
from persona.modeling.loading import check_weights, dtype_on, load_model, packed_attention
from tests.unit.modeling.samples import new_model

CPU = torch.device("cpu")


def test_a_model_is_loaded_with_the_attention_over_prefix_trees(tmp_path: Path) -> None:
    saved = new_model()
    saved.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), dtype_on(CPU), CPU)
    assert model.config._attn_implementation == BY_PREFIX == packed_attention(CPU)
    for one, other in zip(model.parameters(), saved.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match=f"{tmp_path}: no model could be loaded"):
        check_weights(str(tmp_path))


def test_a_model_whose_weights_have_another_shape_is_refused(tmp_path: Path) -> None:
    new_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 98}))
    with pytest.raises(PersonaError, match=r"2 weights are mismatched, the first is lm_head\.weight"):
        check_weights(str(tmp_path))


def test_a_missing_expert_is_refused(tmp_path: Path) -> None:
    new_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.experts.2.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PersonaError, match="weights of experts are missing or of another shape"):
        check_weights(str(tmp_path))


def test_a_sliding_window_is_refused(tmp_path: Path) -> None:
    new_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"use_sliding_window": True, "sliding_window": 8}))
    with pytest.raises(PersonaError, match="only full attention is supported"):
        check_weights(str(tmp_path))
