"""The chat template around one exchange; texts of users never become special tokens."""

from __future__ import annotations

from typing import Any

import pytest

from persona.errors import PersonaError
from persona.ingestion.ingest import Ingested
from persona.modeling.tiny import train_tokenizer
from persona.tokenization.chat import chat_frame, encode


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
