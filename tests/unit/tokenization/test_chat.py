"""The chat template around one exchange; texts of users never become special tokens."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from persona.errors import PersonaError
from persona.ingestion.ingest import Ingested
from persona.modeling.tiny import train_tokenizer
from persona.tokenization.chat import chat_frame, encode
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import tokenize_file
from tests.unit.tokenization import templates


def test_a_review_cannot_end_the_turn(tokenizer: Any) -> None:
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert chat_frame(tokenizer).end == "<|im_end|>"
    assert encode(tokenizer, ["<|im_end|>"], special=True) == [[end]]
    assert end not in encode(tokenizer, ["好<|im_end|>看"], special=False)[0]


def test_a_review_cannot_name_any_added_token(tables: Ingested) -> None:
    tokenizer = train_tokenizer(tables.interactions["text"].to_list(), vocab_size=600)
    tokenizer.add_tokens(["<think>"])
    think = tokenizer.convert_tokens_to_ids("<think>")
    assert think in encode(tokenizer, ["<think>"], special=True)[0]
    assert think not in encode(tokenizer, ["好<think>看"], special=False)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("<|im_start|>", "<|turn|>"), r"the chat template writes <\|turn\|>, which this tokenizer does not have"),
        (("<|im_end|>", "<|end|>"), r"must end the assistant's turn with a special token, but writes '<\|end\|>"),
        (("message['content']", "message['content'] | upper"), "changes the texts"),
    ],
)
def test_a_chat_template_that_does_not_fit_the_tokenizer_is_refused(
    tables: Ingested, change: tuple[str, str], message: str
) -> None:
    other = train_tokenizer(tables.interactions["text"].to_list(), vocab_size=600)
    other.chat_template = other.chat_template.replace(*change)
    with pytest.raises(PersonaError, match=message):
        chat_frame(other)


@pytest.fixture(scope="module")
def chat_tokenizer(tables: Ingested) -> Any:
    """A tokenizer with the special tokens of all stand-ins; each test sets a template."""
    tokenizer = train_tokenizer(tables.interactions["text"].to_list(), vocab_size=600)
    # A token that is special, but neither bos, eos nor pad.
    tokenizer.add_special_tokens({"extra_special_tokens": templates.SPECIAL, "bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.name_or_path = "organisation/model"
    return tokenizer


@pytest.mark.parametrize("name", list(templates.HANDLED))
def test_the_frame_is_what_the_template_writes_for_an_exchange(chat_tokenizer: Any, name: str) -> None:
    chat_tokenizer.chat_template = templates.HANDLED[name]
    frame = chat_frame(chat_tokenizer)
    prompt, completion = "[USER_HASH=1]\n\n[TASK]\n写\n\ncue:", '4\nGood <b>film</b>, it\'s "fine"。'
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    today = datetime.now().strftime("%d %b %Y")
    written = chat_tokenizer.apply_chat_template(messages, tokenize=False).replace(today, "26 Jul 2024")
    made = frame.before + prompt + frame.between + completion + frame.end
    assert written.startswith(made) and not written.removeprefix(made).strip()
    assert frame.between.count("<think>") == frame.between.count("</think>")
    assert [len(ids) for ids in encode(chat_tokenizer, [frame.end], special=True)] == [1]
    # A model that is asked through the template goes on as it was trained to.
    asked = chat_tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    asked = asked.replace(today, "26 Jul 2024")
    assert (frame.before + prompt + frame.between).startswith(asked)


@pytest.mark.parametrize(("name", "between"), templates.BETWEEN.items())
def test_what_is_between_prompt_and_reply(chat_tokenizer: Any, name: str, between: str) -> None:
    chat_tokenizer.chat_template = templates.HANDLED[name]
    assert chat_frame(chat_tokenizer).between == between


def test_a_date_is_the_same_on_every_day(chat_tokenizer: Any) -> None:
    chat_tokenizer.chat_template = templates.HANDLED["Llama 3 with a date"]
    assert "Today Date: 26 Jul 2024\n" in chat_frame(chat_tokenizer).before


def test_a_system_message_that_the_template_writes_by_itself_is_part_of_the_frame(chat_tokenizer: Any) -> None:
    chat_tokenizer.chat_template = templates.HANDLED["SmolLM2"]
    assert "You are a helpful" in chat_frame(chat_tokenizer).before


@pytest.mark.parametrize(("name", "shown"), templates.REFUSED.items())
def test_a_template_that_trains_something_else_than_it_asks_for_is_refused(
    chat_tokenizer: Any, name: str, shown: tuple[str, list[str]]
) -> None:
    chat_tokenizer.chat_template, parts = shown
    with pytest.raises(PersonaError) as error:
        chat_frame(chat_tokenizer)
    message = str(error.value)
    assert message.startswith("organisation/model: ") and "\n" not in message and len(message) < 500
    assert all(part in message for part in parts), message


def test_a_template_is_refused_before_prompts_are_read(chat_tokenizer: Any, tmp_path: Path) -> None:
    chat_tokenizer.chat_template = templates.REFUSED["DeepSeek-R1 distillation"][0]
    with pytest.raises(PersonaError, match="organisation/model"):
        next(tokenize_file(tmp_path / "missing.parquet", chat_tokenizer, FitSettings(max_length=100)))
