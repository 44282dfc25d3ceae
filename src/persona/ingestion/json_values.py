"""Checks of single JSON values, shared by the two JSON formats; each failed check gives the reason of a reject."""

from __future__ import annotations

import json
import math
import re
from datetime import date
from typing import Any

from persona.ingestion.rows import is_visible
from persona.ingestion.settings import Options

NAME_FIELDS = {"name", "username", "user_name", "nickname", "nick", "screen_name"}
SELF, OTHER = "SELF", "OTHER"
FIRST_DAY = date(1970, 1, 1)


class Unusable(Exception):
    """A row cannot be used; the message is the reason of its reject."""


def parse_json(line: bytes) -> Any:
    """Parse a line of JSON. NaN, which pandas and Python write for what is missing, is None.

    Raises:
        Unusable: it is not JSON in UTF-8, or an object has a key twice.
    """
    try:
        return json.loads(line, parse_constant=_constant, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise Unusable("not JSON in UTF-8") from error


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        raise Unusable(f"key {as_json(next(key for key in keys if keys.count(key) > 1))} twice")
    return data


def as_json(value: Any) -> str:
    """Write any value as one line of JSON in valid Unicode."""
    line = json.dumps(value, ensure_ascii=False, default=str)
    return line if _is_unicode(line) else json.dumps(value, default=str)


def as_text(value: Any, name: str) -> str:
    """Return a text without surrounding white space.

    Raises:
        Unusable: it is not text, or not valid Unicode.
    """
    if not isinstance(value, str):
        raise Unusable(f"{name} is not text")
    if not _is_unicode(value):
        raise Unusable(f"{name} is not Unicode")
    return value.strip()


def _is_unicode(text: str) -> bool:
    """Whether a text is valid Unicode: JSON can contain single surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_name(value: Any, name: str) -> str:
    """Return a name, which is a text or a whole number, as a text.

    Raises:
        Unusable: it is neither, or empty.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not is_visible(text := as_text(value, name)):
        raise Unusable(f"{name} is empty")
    return text


def as_day(value: Any, name: str) -> date:
    """Parse a day from a text that begins with YYYY-MM-DD.

    Raises:
        Unusable: it does not, or there is no such day.
    """
    text = as_text(value, name)
    try:
        if re.match(r"\d{4}-\d{2}-\d{2}(?:$|[ T])", text, re.ASCII):
            return date.fromisoformat(text[:10])
    except ValueError:
        pass
    raise Unusable(f"{name} is not YYYY-MM-DD")


def as_profile(value: Any, options: Options) -> tuple[list[dict[str, str]], str | None]:
    """Turn a mapping into a list of fields, in its order, and find the user's name in it.

    Returns:
        The fields, without names if `options.pseudonymise` is set, and the name or None.

    Raises:
        Unusable: it is not a mapping, or holds text that is not valid Unicode.
    """
    if not isinstance(value, dict):
        raise Unusable("profile is not a mapping")
    fields = {as_text(key, "profile"): _field(entry) for key, entry in value.items()}
    names = [entry for key, entry in fields.items() if key.lower() in NAME_FIELDS and is_visible(entry)]
    kept = {
        k: v for k, v in fields.items() if is_visible(v) and not (options.pseudonymise and k.lower() in NAME_FIELDS)
    }
    return [{"field": key, "value": entry} for key, entry in kept.items()], names[0] if names else None


def _field(value: Any) -> str:
    if value is None or isinstance(value, str):
        return as_text(value or "", "profile")
    if isinstance(value, list):
        return ", ".join(filter(None, map(_field, value)))
    if isinstance(value, float) and not math.isfinite(value):
        raise Unusable("profile holds a number that is not finite")
    return as_json(value)


def as_context(value: Any, speaker: str, text: str, own_name: str | None, options: Options) -> list[dict[str, str]]:
    """Turn a list of mappings into the last `options.max_context_turns` turns of the context.

    Args:
        speaker, text: the keys of the mappings.
        own_name: the user's name, which `options.pseudonymise` replaces by SELF.

    Raises:
        Unusable: it is not a list of such mappings.
    """
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise Unusable(f"context is not a list of {{{speaker}, {text}}}")
    turns = [
        (as_text(turn.get(speaker), f"context.{speaker}"), as_text(turn.get(text), f"context.{text}")) for turn in value
    ]
    if options.pseudonymise:
        turns = [(SELF if name == own_name else OTHER, content) for name, content in turns]
    return [{"speaker": name, "text": content} for name, content in turns if is_visible(content)][
        -options.max_context_turns :
    ]
