"""The tokenizer and the chat template around one exchange."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError

from persona.errors import PersonaError

_PROMPT, _COMPLETION = "\x02prompt\x03", "\x02completion\x03"


@dataclass(frozen=True)
class ChatFrame:
    """The chat template around one exchange: before the prompt, between, and the token that ends the turn."""

    before: str
    between: str
    end: str


def load_tokenizer(path: str) -> Any:
    """A fast Hugging Face tokenizer with a chat template, from a folder or a hub id.

    Raises:
        PersonaError: there is none, or it does not have what is needed.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise PersonaError(f"{path}: no tokenizer could be loaded: {str(error).splitlines()[0]}") from error
    if not tokenizer.is_fast:
        raise PersonaError(f"{path}: its tokenizer has no fast version (tokenizer.json)")
    if not tokenizer.chat_template:
        raise PersonaError(f"{path}: its tokenizer has no chat template")
    return tokenizer


def chat_frame(tokenizer: Any) -> ChatFrame:
    """Take the chat template apart around one prompt and its completion.

    Raises:
        PersonaError: the template changes the texts, the turn does not end with one special token, or the
            template's markers are not tokens.
    """
    user, assistant = {"role": "user", "content": _PROMPT}, {"role": "assistant", "content": _COMPLETION}
    try:
        opened = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
        closed = tokenizer.apply_chat_template([user, assistant], tokenize=False, add_generation_prompt=False)
    except TemplateError as error:
        raise PersonaError(f"the tokenizer's chat template does not work: {error}") from error
    if opened.count(_PROMPT) != 1 or closed.count(_COMPLETION) != 1:
        raise PersonaError("the tokenizer's chat template does not keep the texts as they are")
    before, between = opened.split(_PROMPT)
    after = closed.split(_COMPLETION)[1]
    end = next((token for token in tokenizer.all_special_tokens if after.startswith(token)), None)
    if end is None:
        raise PersonaError(f"after the assistant's turn the chat template writes {after!r}, not a special token")
    for marker in re.findall(r"<\|[^|<>]+\|>", before + between):
        if len(encode(tokenizer, [marker], special=True)[0]) != 1:
            raise PersonaError(f"the chat template writes {marker}, which is not a token of this tokenizer")
    return ChatFrame(before, between, end)


def encode(tokenizer: Any, texts: list[str], special: bool) -> list[list[int]]:
    """Token ids of texts, without added ones.

    Args:
        special: whether the names of special tokens in the text mean those tokens. For texts of users they
            must not: a review that contains `<|im_end|>` does not end the turn.
    """
    return [encoding.ids for encoding in encodings(tokenizer, texts, special)]


def encodings(tokenizer: Any, texts: list[str], special: bool) -> list[Any]:
    backend = tokenizer.backend_tokenizer if special else _without_added_tokens(tokenizer)
    return list(backend.encode_batch_fast(texts, add_special_tokens=False))


@lru_cache(maxsize=2)
def _without_added_tokens(tokenizer: Any) -> Any:
    """The same tokenizer for texts of users: it knows no `<|im_end|>`, `<think>` or other added token."""
    from tokenizers import Tokenizer

    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    return Tokenizer.from_str(json.dumps(settings | {"added_tokens": [], "post_processor": None}))
