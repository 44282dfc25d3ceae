"""Loads a tokenizer and takes its chat template apart around one prompt and its completion."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from persona.base_model import advice, source
from persona.errors import PersonaError

PLAIN = ("PreTrainedTokenizerFast", "TokenizersBackend")
_PROMPT, _COMPLETION = "\x02prompt\x03", "\x02completion\x03"


@dataclass(frozen=True)
class ChatFrame:
    """The text of the chat template around one prompt and its completion.

    Attributes:
        before: the text before the prompt.
        between: the text between the prompt and the completion.
        end: the special token after the completion.
    """

    before: str
    between: str
    end: str


def load_tokenizer(path: str) -> Any:
    """Load a fast Hugging Face tokenizer with a chat template.

    Args:
        path: see `persona.base_model`.

    Raises:
        PersonaError: it cannot be loaded, is not a fast one, or has no chat template.
    """
    try:
        tokenizer = _tokenizer_class(path).from_pretrained(**source(path))
    except (OSError, ValueError) as error:
        raise PersonaError(
            f"{path}: the tokenizer cannot be loaded ({str(error).splitlines()[0]}){advice(path)}"
        ) from error
    if not tokenizer.is_fast:
        raise PersonaError(f"{path}: the tokenizer has no fast version; use a model with a tokenizer.json")
    if not tokenizer.chat_template:
        raise PersonaError(f"{path}: the tokenizer has no chat template; use a chat model")
    return tokenizer


def _tokenizer_class(path: str) -> Any:
    """The class that a folder names, if it is the plain one: to import what can load any takes four times as long."""
    config = Path(path) / "tokenizer_config.json"
    if config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("tokenizer_class") in PLAIN:
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer


def chat_frame(tokenizer: Any) -> ChatFrame:
    """Take the chat template apart around one prompt and its completion.

    Raises:
        PersonaError: the template changes the texts, the turn does not end with one special token, or the
            template's markers are not tokens.
    """
    from jinja2 import TemplateError

    user, assistant = {"role": "user", "content": _PROMPT}, {"role": "assistant", "content": _COMPLETION}
    try:
        opened = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
        closed = tokenizer.apply_chat_template([user, assistant], tokenize=False, add_generation_prompt=False)
    except TemplateError as error:
        raise PersonaError(f"the tokenizer's chat template cannot be rendered: {error}") from error
    if opened.count(_PROMPT) != 1 or closed.count(_COMPLETION) != 1:
        raise PersonaError("the tokenizer's chat template changes the texts; use another model")
    before, between = opened.split(_PROMPT)
    after = closed.split(_COMPLETION)[1]
    end = next((token for token in tokenizer.all_special_tokens if after.startswith(token)), None)
    if end is None:
        raise PersonaError(
            f"the chat template must end the assistant's turn with a special token, but writes {after!r}"
        )
    for marker in re.findall(r"<\|[^|<>]+\|>", before + between):
        if len(encode(tokenizer, [marker], special=True)[0]) != 1:
            raise PersonaError(f"the chat template writes {marker}, which this tokenizer does not have as a token")
    return ChatFrame(before, between, end)


def encode(tokenizer: Any, texts: list[str], special: bool) -> list[list[int]]:
    """Tokenize texts to token ids, without adding tokens at their start or end.

    Args:
        special: whether the names of special tokens in a text stand for those tokens. This must be False for texts
            of users: `<|im_end|>` in a review does not end the turn.
    """
    return [encoding.ids for encoding in encode_batch(tokenizer, texts, special)]


def encode_batch(tokenizer: Any, texts: list[str], special: bool) -> list[Any]:
    """Tokenize texts as `encode` does, to `Encoding` objects of the library `tokenizers`."""
    backend = tokenizer.backend_tokenizer if special else _drop_added_tokens(tokenizer)
    return list(backend.encode_batch_fast(texts, add_special_tokens=False))


@lru_cache(maxsize=2)
def _drop_added_tokens(tokenizer: Any) -> Any:
    """Copy a tokenizer without its added tokens such as `<|im_end|>` and `<think>`, for texts of users."""
    from tokenizers import Tokenizer

    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    return Tokenizer.from_str(json.dumps(settings | {"added_tokens": [], "post_processor": None}))
