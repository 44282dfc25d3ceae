"""Prompts tokenized in pieces have the tokens of their whole text, and the oldest entries are dropped first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest

import persona.tokenization.tokenize as tokenize_module
from persona import prompts
from persona.ingestion.ingest import Ingested
from persona.prompts import Parts, PromptSpec, load_style, render_file
from persona.tables import schemas
from persona.tables.parquet import table_writer, write_table
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import check_assembly, tokenize, tokenize_file
from tests.unit.rendering import STYLES, prompts_of

STYLE = STYLES / "detailed.yaml"


@pytest.mark.parametrize("style", ["simple", "detailed", "detailed_with_stars"])
def test_tokens_of_the_pieces_are_those_of_the_whole_text(tables: Ingested, tokenizer: Any, style: str) -> None:
    prompts = prompts_of(tables, style, Parts(profile=True, history=True, context=True))
    tokens = tokenize(prompts, tokenizer, FitSettings(max_length=100_000))
    check_assembly(prompts, tokens, tokenizer)
    row = prompts.join(tokens, on="interaction_id").sort(pl.col("history_ids").list.len()).row(-1, named=True)
    messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False).removesuffix("\n")
    assert tokenizer(whole, add_special_tokens=False)["input_ids"] == row["input_ids"]
    assert tokenizer.decode(row["input_ids"][row["prompt_length"] :]) == row["completion"] + "<|im_end|>"
    text = row["completion"][row["text_offset"] :]
    assert tokenizer.decode(row["input_ids"][row["text_start"] :]) == text + "<|im_end|>"
    assert (row["text_start"] > row["prompt_length"]) == (style == "detailed_with_stars")


def test_qwen_reads_a_line_of_stars_as_two_tokens(small: Ingested, qwen: Any) -> None:
    """One for the star and one for the line break, whatever the text begins with."""
    texts = pl.Series(["好", " x", "5", "？"])
    rows = small.interactions.sort("position").with_columns(text=texts)
    made = prompts_of(replace(small, interactions=rows), "detailed_with_stars", Parts(True, True, False))
    tokens = tokenize(made, qwen, FitSettings(max_length=4096))
    check_assembly(made, tokens, qwen)
    for ids, prompt, text in tokens.select("input_ids", "prompt_length", "text_start").iter_rows():
        star, line_break = (qwen.decode([token]) for token in ids[prompt:text])
        assert star in "12345" and line_break == "\n"


@pytest.mark.parametrize("window", ["anchored", "recent"])
def test_history_is_dropped_oldest_first_at_whole_entries(
    tables: Ingested, tokenizer: Any, window: Literal["anchored", "recent"]
) -> None:
    prompts = prompts_of(tables, "detailed", Parts(profile=True, history=True, context=True))
    tokens = tokenize(prompts, tokenizer, FitSettings(max_length=400, history_window=window))
    check_assembly(prompts, tokens.filter(pl.col("n_history_dropped") > 0), tokenizer)
    assert tokens["input_ids"].list.len().max() <= 400
    row = prompts.join(tokens, on="interaction_id").sort("n_history_dropped").row(-1, named=True)
    dropped, total = row["n_history_dropped"], len(row["history_ids"])
    assert 0 < dropped < total
    text = tokenizer.decode(row["input_ids"])
    assert f"\n{dropped + 1}. [" in text and f"\n{dropped}. [" not in text and f"\n{total}. [" in text
    assert row["completion"] in text


def test_a_target_is_the_same_prompt_whatever_else_is_tokenized(long_histories: pl.DataFrame, tokenizer: Any) -> None:
    whole = tokenize(long_histories, tokenizer, FitSettings(max_length=1000))
    some = tokenize(long_histories.gather_every(7), tokenizer, FitSettings(max_length=1000))
    assert some.equals(whole.join(some.select("interaction_id"), on="interaction_id", how="semi"))


def test_what_is_dropped_does_not_depend_on_the_target_within_the_reserve(tables: Ingested, tokenizer: Any) -> None:
    """History and context of every target are the same beside a text of any length up to the reserve."""
    turns = [{"speaker": "甲", "text": "话" * 12}] * 4
    interactions = tables.interactions.with_columns(context=pl.lit(turns))
    prompts = prompts_of(replace(tables, interactions=interactions), "detailed", Parts(True, True, True))
    fit = FitSettings(max_length=256, completion_reserve=60)
    tables_of = [tokenize(prompts.with_columns(completion=pl.lit("。" * n)), tokenizer, fit) for n in (1, 30, 59)]
    for column in ("prompt_length", "n_history_dropped", "n_context_dropped"):
        assert tables_of[0][column].equals(tables_of[1][column]) and tables_of[0][column].equals(tables_of[2][column])
    assert (tables_of[0]["n_history_dropped"] > 0).any() and (tables_of[0]["n_context_dropped"] > 0).any()
    assert not any(table["is_cut_for_completion"].any() for table in tables_of)


def test_more_is_dropped_for_a_longer_text_and_counted(tables: Ingested, tokenizer: Any) -> None:
    """Against the rule written for one target after the other: no sample is lost, and all fit."""
    prompts = prompts_of(tables, "detailed", Parts(True, True, True))
    fit = FitSettings(max_length=256, completion_reserve=20)
    tokens, within = tokenize(prompts, tokenizer, fit), prompts.with_columns(completion=pl.lit("。"))
    assert tokens.height == prompts.height and tokens["input_ids"].list.len().max() <= 256  # type: ignore[operator]
    check_assembly(prompts, tokens, tokenizer)
    both = tokens.join(tokenize(within, tokenizer, fit), on="interaction_id", suffix="_within")
    is_longer = pl.col("input_ids").list.len() - pl.col("prompt_length") > 20
    more = pl.col("n_history_dropped") > pl.col("n_history_dropped_within")
    assert both.filter(pl.col("is_cut_for_completion") != more).is_empty()
    assert both.filter(more & ~is_longer).is_empty() and both.filter(more).height > 10
    assert both.filter(is_longer & ~more).height > 10


def test_a_turn_that_is_dropped_for_the_target_alone_is_counted(small: Ingested, tokenizer: Any) -> None:
    turn = [{"speaker": "甲", "text": "话" * 40}]
    interactions = small.interactions.with_columns(context=pl.lit(turn))
    prompts = prompts_of(replace(small, interactions=interactions), "detailed", Parts(False, False, True))
    whole = tokenize(prompts, tokenizer, FitSettings(max_length=4096))
    limit = max(whole["prompt_length"]) + 40
    fit = FitSettings(max_length=limit, completion_reserve=30)
    long = prompts.with_columns(completion=pl.Series(["。" * n for n in (5, 20, 60, 80)]))
    tokens = long.select("interaction_id").join(
        tokenize(long, tokenizer, fit), on="interaction_id", maintain_order="left"
    )
    assert tokens["n_context_dropped"].to_list() == [0, 0, 1, 1]
    assert tokens["is_cut_for_completion"].to_list() == [False, False, True, True]


def test_targets_that_cannot_fit_are_left_out_and_the_others_stay_the_same(tables: Ingested, tokenizer: Any) -> None:
    prompts = prompts_of(tables, "simple", Parts(profile=True, history=True, context=True))
    fit = FitSettings(max_length=200)
    whole = tokenize(prompts, tokenizer, fit)
    is_long = pl.int_range(pl.len()) % 7 == 3
    some_long = prompts.with_columns(completion=pl.when(is_long).then(pl.lit("长" * 300)).otherwise("completion"))
    tokens = tokenize(some_long, tokenizer, fit)
    rest = prompts.filter(~is_long).select("interaction_id")
    assert tokens.equals(whole.join(rest, on="interaction_id", how="semi").sort("user_id", "interaction_id"))


def test_prompts_and_tokens_do_not_depend_on_chunks_or_buckets(
    tables: Ingested, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schemas, "PROMPTS", replace(schemas.PROMPTS, row_group_size=20))
    for name in ("interactions", "users", "items"):
        table_schema = getattr(schemas, name.upper())
        write_table(getattr(tables, name), tmp_path / f"{name}.parquet", table_schema)
    write_table(tables.interactions, tmp_path / "sample.parquet", schemas.SAMPLES)
    sample, reviews, users, items = (
        tmp_path / f"{name}.parquet" for name in ("sample", "interactions", "users", "items")
    )

    def make(folder: Path, buckets: list[tuple[int, int]]) -> tuple[bytes, bytes]:
        spec = PromptSpec(load_style(STYLE), Parts(profile=True, history=True, context=True), "任务", "影评：")
        spec = replace(spec, max_history_characters=200)
        with table_writer(folder / "p", schemas.PROMPTS) as writer:
            for bucket in buckets:
                for table in render_file(sample, reviews, users, items, spec, bucket):
                    writer.write(table)
        with table_writer(folder / "t", schemas.TOKENS) as writer:
            for bucket in buckets:
                for table in tokenize_file(folder / "p", tokenizer, FitSettings(max_length=256), bucket):
                    writer.write(table)
        return (folder / "p").read_bytes(), (folder / "t").read_bytes()

    whole = make(tmp_path, [(1, 1)])
    monkeypatch.setattr(prompts, "CHUNK", 50)
    monkeypatch.setattr(prompts, "ENTRIES_AT_ONCE", 20)
    monkeypatch.setattr(tokenize_module, "CHUNK", 30)
    assert make(tmp_path, [(1, 1)]) == whole
    assert make(tmp_path, [(k, 8) for k in range(1, 9)]) == whole


def test_the_oldest_turns_are_dropped_where_history_is_not_enough(tables: Ingested, tokenizer: Any) -> None:
    """Oldest first and whole ones, so that the last turns and the whole completion stay."""
    turns = [{"speaker": "甲", "text": f"第{n}句" + "话" * 30} for n in range(10)]
    some = tables.interactions.filter(pl.col("position") == 3).head(20).with_columns(context=pl.lit(turns))
    others = tables.interactions.filter(~pl.col("interaction_id").is_in(some["interaction_id"].implode()))
    interactions = pl.concat([some.cast(others.schema), others])  # type: ignore[arg-type]
    spec = PromptSpec(load_style(STYLE), Parts(True, True, True), "任务", "影评：")
    made = prompts.render(some, interactions, tables.users, tables.items, spec)
    long = tokenize(made, tokenizer, FitSettings(max_length=10_000))
    assert long["n_context_dropped"].sum() == 0
    limit = 250
    short = tokenize(made, tokenizer, FitSettings(max_length=limit))
    check_assembly(made, short, tokenizer)
    assert short["n_context_dropped"].min() > 0  # type: ignore[operator]
    assert short["input_ids"].list.len().max() <= limit  # type: ignore[operator]
    for row in made.join(short, on="interaction_id").iter_rows(named=True):
        text = tokenizer.decode(row["input_ids"])
        first = row["n_context_dropped"]
        assert f"第{first}句" in text and f"第{first - 1}句" not in text and "第9句" in text
        assert row["n_history_dropped"] == len(row["history_ids"]) > 0 and "[HISTORY]" not in text
        assert row["completion"] in text
