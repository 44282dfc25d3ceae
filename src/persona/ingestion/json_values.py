"""What the two JSON formats have in common: values checked one by one, each mistake with its reason."""

from __future__ import annotations

import json
import re
from datetime import date
from typing import Any

from persona.ingestion.settings import Options

NAME_FIELDS = {"name", "username", "user_name", "nickname", "nick", "screen_name"}
SELF, OTHER = "SELF", "OTHER"
FIRST_DAY = date(1970, 1, 1)


class Unusable(Exception):
    """A row cannot be used, and why."""


def as_json(value: Any) -> str:
    """A value as one line of JSON that can be written, whatever is in it."""
    line = json.dumps(value, ensure_ascii=False, default=str)
    return line if _is_unicode(line) else json.dumps(value, default=str)


def as_text(value: Any, name: str) -> str:
    """A text, stripped."""
    if not isinstance(value, str):
        raise Unusable(f"{name} is not text")
    if not _is_unicode(value):
        raise Unusable(f"{name} is not Unicode")
    return value.strip()


def _is_unicode(text: str) -> bool:
    """JSON can spell halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_name(value: Any, name: str) -> str:
    """What something is called: a text, or a whole number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not (text := as_text(value, name)):
        raise Unusable(f"{name} is empty")
    return text


def as_day(value: Any, name: str) -> date:
    """A day from text that begins with YYYY-MM-DD."""
    text = as_text(value, name)
    try:
        if re.match(r"\d{4}-\d{2}-\d{2}(?:$|[ T])", text, re.ASCII):
            return date.fromisoformat(text[:10])
    except ValueError:
        pass
    raise Unusable(f"{name} is not YYYY-MM-DD")


def as_profile(value: Any, options: Options) -> tuple[list[dict[str, str]], str | None]:
    """A mapping as fields in its order, and the name among them; with `pseudonymise` names are left out."""
    if not isinstance(value, dict):
        raise Unusable("profile is not a mapping")
    fields = {as_text(key, "profile"): _field(entry) for key, entry in value.items()}
    names = [entry for key, entry in fields.items() if key.lower() in NAME_FIELDS and entry]
    kept = {k: v for k, v in fields.items() if v and not (options.pseudonymise and k.lower() in NAME_FIELDS)}
    return [{"field": key, "value": entry} for key, entry in kept.items()], names[0] if names else None


def _field(value: Any) -> str:
    if value is None or isinstance(value, str):
        return as_text(value or "", "profile")
    if isinstance(value, list):
        return ", ".join(filter(None, map(_field, value)))
    return as_json(value)


def as_context(value: Any, speaker: str, text: str, own_name: str | None, options: Options) -> list[dict[str, str]]:
    """The last turns before, from mappings with the keys `speaker` and `text`."""
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise Unusable(f"context is not a list of {{{speaker}, {text}}}")
    turns = [
        (as_text(turn.get(speaker), f"context.{speaker}"), as_text(turn.get(text), f"context.{text}")) for turn in value
    ]
    if options.pseudonymise:
        turns = [(SELF if name == own_name else OTHER, said) for name, said in turns]
    return [{"speaker": name, "text": said} for name, said in turns if said][-options.max_context_turns :]
