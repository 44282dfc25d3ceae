"""The tiny model is an ordinary Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from persona.errors import PersonaError
from persona.modeling.loading import load_model
from persona.modeling.tiny import write_tiny_model
from persona.tokenization.chat import chat_frame, load_tokenizer

TEXTS = ["一部很好看的电影，值得再看一遍。", "A film to see twice!", "太长了"] * 20


def write(folder: Path, seed: int = 0, hidden_size: int = 32) -> int:
    return write_tiny_model(TEXTS, folder, 300, hidden_size, num_hidden_layers=1, num_experts=2, seed=seed)


def test_it_is_loaded_as_any_other_model(tmp_path: Path) -> None:
    n_parameters = write(tmp_path)
    model = load_model(str(tmp_path), torch.float32, torch.device("cpu"))
    assert n_parameters == sum(parameter.numel() for parameter in model.parameters())
    tokenizer = load_tokenizer(str(tmp_path))
    assert chat_frame(tokenizer).end == "<|im_end|>"
    assert [tokenizer.decode(tokenizer.encode(text)) for text in TEXTS[:3]] == TEXTS[:3]


def test_the_seed_determines_its_weights(tmp_path: Path) -> None:
    weights = []
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        write(tmp_path / name, seed)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_a_model_that_is_not_tiny_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match=r"would have .* parameters, more than 3,000,000"):
        write(tmp_path, hidden_size=1024)
    assert not list(tmp_path.iterdir())
