"""Loads a tokenizer and takes its chat template apart around one prompt and its completion."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from persona.base_model import advice, source
from persona.errors import PersonaError

PLAIN = ("PreTrainedTokenizerFast", "TokenizersBackend")
NO_PREFIX = {"add_prefix_space": False, "prepend_scheme": "never"}
# With what a template that escapes or reformats texts would change.
_PROMPT, _COMPLETION = '[\x02prompt]\n1. <b> & "x"\n\ncue：', "\x02 <completion>\n& it's"
DAY = datetime(2024, 7, 26)  # the day that Llama 3's template writes where it cannot ask for one
DATE_CODES = "aAbBcdeHIjmMpSuUwWxXyY"
THOUGHT, END_OF_THOUGHT = "<think>", "</think>"
MARKERS = re.compile(r"<[|｜][^|｜<>]+[|｜]>|<(?:start|end)_of_turn>")
SHOWN, SHOWN_BEFORE = 100, 40  # characters of a template's text in a message


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

    The frame is what the template writes around a reply. That may be an empty, closed thought. A reply must go on where
    the template asks for one: otherwise a model that is asked by its template would go on from a text that it was not
    trained on.

    Raises:
        PersonaError: the template changes the texts or the beginning of a reply, leaves a thought open, does not end
            the turn with one special token, or has markers that are not tokens.
    """
    name = _name(tokenizer)
    user, assistant = {"role": "user", "content": _PROMPT}, {"role": "assistant", "content": _COMPLETION}
    opened = _written(tokenizer, [user], add_generation_prompt=True)
    closed = _written(tokenizer, [user, assistant], add_generation_prompt=False)
    if opened.count(_PROMPT) != 1 or [closed.count(text) for text in (_PROMPT, _COMPLETION)] != [1, 1]:
        raise PersonaError(f"{name}: the chat template changes the texts; use another model")
    if not closed.startswith(opened):
        asked, replied = _where_they_differ(opened, closed)
        raise PersonaError(
            f"{name}: the chat template asks for a reply with {asked}, but writes a reply as {replied}; "
            "use a model whose replies begin as they are asked for"
        )
    before, rest = closed.split(_PROMPT)
    between, after = rest.split(_COMPLETION)
    if between.rfind(THOUGHT) > between.rfind(END_OF_THOUGHT):
        raise PersonaError(f"{name}: the chat template writes the reply into an open thought, after {between!r}")
    end = _end_of_turn(tokenizer, after)
    if end is None:
        raise PersonaError(
            f"{name}: the chat template must end the assistant's turn with a special token, but writes {after!r}"
        )
    for marker in MARKERS.findall(before + between):
        if len(encode(tokenizer, [marker], special=True)[0]) != 1:
            raise PersonaError(
                f"{name}: the chat template writes {marker}, which this tokenizer does not have as a token"
            )
    return ChatFrame(before, between, end)


def _written(tokenizer: Any, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
    """What the template writes for messages. Where it asks for the date it always gets the same one."""
    from jinja2 import TemplateError

    try:
        template = tokenizer.get_chat_template()
        text: str = tokenizer.apply_chat_template(
            messages,
            chat_template=_fixed_date() + template if "strftime_now" in template else template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise PersonaError(
            f"{_name(tokenizer)}: the chat template cannot be rendered: {' '.join(str(error).split())}"
        ) from error
    return text


def _fixed_date() -> str:
    """A macro in the place of the function `strftime_now`, which gives a template today's date."""
    codes = "".join(f" | replace('%{code}', '{DAY.strftime(f'%{code}')}')" for code in DATE_CODES)
    # The last part keeps a line break at the start of the template.
    return "{%- macro strftime_now(format) -%}{{ format | replace('%-', '%')" + codes + " }}{%- endmacro %}{{ '' }}"


def _name(tokenizer: Any) -> str:
    return str(tokenizer.name_or_path) or "the tokenizer"


def _where_they_differ(opened: str, closed: str) -> tuple[str, str]:
    """Both texts from a little before their first difference, for a message."""
    texts = [text.replace(_PROMPT, "PROMPT").replace(_COMPLETION, "REPLY") for text in (opened, closed)]
    same = next((n for n, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    start = max(0, same - SHOWN_BEFORE)
    asked, replied = (repr(text[start : start + SHOWN]) for text in texts)
    return asked, replied


def _end_of_turn(tokenizer: Any, after: str) -> str | None:
    """The special token at the start of a text: the longest, if several have a common beginning."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    fitting = [token for token in {*tokenizer.all_special_tokens, *added} if after.startswith(token)]
    return max(fitting, key=len, default=None)


def frame_ids(tokenizer: Any) -> tuple[list[int], list[int], list[int]]:
    """The token ids of a tokenizer's `ChatFrame`: before, between and end."""
    frame = chat_frame(tokenizer)
    before, between, end = encode(tokenizer, [frame.before, frame.between, frame.end], special=True)
    return before, between, end


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
    """Copy a tokenizer for texts of users: without added tokens such as `<|im_end|>` and `<think>`.

    Also without the space that some tokenizers put before a text, because these texts stand inside of others.
    """
    from tokenizers import Tokenizer

    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    changed = {name: _without_prefix(settings[name]) for name in ("normalizer", "pre_tokenizer")}
    return Tokenizer.from_str(json.dumps(settings | changed | {"added_tokens": [], "post_processor": None}))


def _without_prefix(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer that adds no space at the start."""
    if part is None or part["type"] == "Prepend":
        return None
    if part["type"] == "Sequence":
        key = "normalizers" if "normalizers" in part else "pretokenizers"
        return part | {key: [kept for each in part[key] if (kept := _without_prefix(each))]}
    return part | {key: value for key, value in NO_PREFIX.items() if key in part}
