"""All keys of the configuration as a JSON schema and as a table, from the descriptions of the settings.

python -m persona.config.reference SCHEMA.json PAGE.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from persona.config.models import Config
from persona.settings import Settings

BEGIN, END = "<!-- begin: settings, by `make schema` -->\n", "<!-- end: settings -->\n"


def settings_of(annotation: Any) -> type[Settings] | None:
    """The settings in a type such as `X`, `X | None`, `dict[Name, X]` or `list[X]`; None if there are none."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next((found for part in get_args(annotation) if (found := settings_of(part))), None)


def settings_table() -> str:
    """A Markdown table with a row per key: its path, its meaning, and its default."""
    lines = ["| key | meaning | default |", "|---|---|---|"]
    for path, field in _fields(Config, ""):
        cells = (f"`{path}`", _meaning(field), _default(field))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def with_settings_table(page: str) -> str:
    """A page whose table between the marks is a new one."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + "\n" + settings_table() + "\n" + END + rest.split(END)[1]


def _fields(model: type[Settings], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    """All fields below a model that hold a value, not settings; the own ones of a model before the nested ones."""
    for name, field in model.model_fields.items():
        inner = settings_of(field.annotation)
        path = f"{prefix}{name}"
        if inner is None:
            yield path, field
            continue
        if type(None) in get_args(field.annotation) or (not prefix and _is_named(field.annotation)):
            yield path, field
        star = ".*" if _is_named(field.annotation) or get_origin(field.annotation) is list else ""
        yield from _fields(inner, f"{path}{star}.")


def _is_named(annotation: Any) -> bool:
    return get_origin(annotation) is dict


def _meaning(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split())
    choices = [choice for part in (field.annotation, *get_args(field.annotation)) for choice in _choices(part)]
    missing = [choice for choice in choices if f"`{choice}`" not in text]
    return f"{text} Allowed: {', '.join(f'`{choice}`' for choice in choices)}." if missing else text


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, float):
        # YAML reads 1e-05 as text.
        return f"`{value:g}`" if value >= 1e-3 or not value else f"`{value:.1e}`"
    if isinstance(value, Settings):
        return ""
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def schema_text() -> str:
    """The JSON schema of the configuration, for editors."""
    return json.dumps(Config.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    schema, page = map(Path, sys.argv[1:])
    schema.write_text(schema_text(), encoding="utf-8")
    page.write_text(with_settings_table(page.read_text(encoding="utf-8")), encoding="utf-8")
