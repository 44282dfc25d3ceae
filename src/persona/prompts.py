"""Target + profile, history, context -> the text that the model reads, and the text it has to write.

A prompt style is data: sections in order, each with a heading and an entry. An entry is a list of
fragments with `{placeholders}`; a fragment whose value is unknown is left out, and a section without
entries leaves no trace.
"""

from __future__ import annotations

import difflib
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import polars as pl
import yaml

from persona.errors import PersonaError
from persona.history import earlier_reviews

Part = Literal["always", "profile", "history", "context"]

PLACEHOLDERS: dict[str, frozenset[str]] = {
    "always": frozenset({"user_id", "task", "title", "genres", "cue"}),
    "profile": frozenset({"field", "value"}),
    "history": frozenset({"number", "title", "genres", "rating", "day", "text"}),
    "context": frozenset({"speaker", "text"}),
}
SECTION_SEPARATOR = "\n\n"
GENRE_SEPARATOR = "/"


@dataclass(frozen=True)
class Section:
    """A block of the prompt: an optional heading line, then one line an entry."""

    part: Part
    heading: str | None
    entry: tuple[str, ...]


@dataclass(frozen=True)
class Parts:
    """Which parts of the prompt are switched on; without `user` it does not even say who the user is."""

    profile: bool
    history: bool
    context: bool
    user: bool = True

    def includes(self, section: Section) -> bool:
        if section.part == "always":
            return self.user or not any("{user_id}" in fragment for fragment in section.entry)
        return bool(getattr(self, section.part))


def load_style(path: Path) -> list[Section]:
    """Read a prompt style.

    Raises:
        PersonaError: the file is missing, is not of this form, or names an unknown placeholder.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PersonaError(f"{path}: no such prompt style file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PersonaError(f"{path}: not YAML in UTF-8: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict) or set(data) != {"sections"} or not isinstance(data["sections"], list):
        raise PersonaError(f"{path}: a prompt style is one key `sections` with a list")
    sections = [_section(path, f"sections[{n}]", section) for n, section in enumerate(data["sections"])]
    if not sections or sections[-1].part != "always" or not sections[-1].entry[-1].endswith("{cue}"):
        raise PersonaError(f"{path}: the last section must be one without `part` that ends with {{cue}}")
    if "{genres}" in sections[-1].entry[-1]:
        raise PersonaError(f"{path}: {{cue}} and {{genres}}, which may be unknown, must be fragments of their own")
    if any("{user_id}" in fragment for fragment in sections[-1].entry):
        raise PersonaError(f"{path}: the last section must not hold {{user_id}}: the evaluation leaves the user out")
    if sum(section.part == "history" for section in sections) > 1:
        raise PersonaError(f"{path}: there is more than one history section")
    return sections


def _section(path: Path, where: str, data: Any) -> Section:
    if not isinstance(data, dict) or "entry" not in data or not set(data) <= {"part", "heading", "entry"}:
        raise PersonaError(f"{path}: {where}: a section has `entry` and may have `part` and `heading`, got {data!r}")
    part, heading = data.get("part", "always"), data.get("heading")
    if not isinstance(part, str) or part not in PLACEHOLDERS:
        raise PersonaError(f"{path}: {where}.part: got {part!r}, allowed are {', '.join(PLACEHOLDERS)}")
    if heading is not None and (not isinstance(heading, str) or not heading.strip()):
        raise PersonaError(f"{path}: {where}.heading: got {heading!r}, allowed is a text, or no heading")
    fragments = data["entry"] if isinstance(data["entry"], list) else [data["entry"]]
    names = [name for fragment in fragments for name in _placeholders(path, where, part, fragment)]
    if not names:
        raise PersonaError(f"{path}: {where}.entry: got {data['entry']!r}, allowed is text with a {{placeholder}}")
    if part == "history" and not {"number", "title"} & set(names):
        raise PersonaError(f"{path}: {where}.entry: a history entry needs {{number}} or {{title}}, or it may be empty")
    return Section(cast(Part, part), heading, tuple(fragments))


def _placeholders(path: Path, where: str, part: str, fragment: Any) -> list[str]:
    """The names in a fragment, each one checked."""
    try:
        fields = [(name, spec or conversion) for _, name, spec, conversion in string.Formatter().parse(fragment)]
    except (ValueError, TypeError) as error:
        raise PersonaError(f"{path}: {where}.entry: {fragment!r} is not a text with {{placeholders}}") from error
    names = [name for name, _ in fields if name is not None]
    if any(how for _, how in fields):
        raise PersonaError(f"{path}: {where}.entry: {fragment!r} formats a value; allowed is {{name}} alone")
    for name in names:
        if name not in PLACEHOLDERS[part]:
            nearest = difflib.get_close_matches(name, PLACEHOLDERS[part], n=1)
            hint = f" (did you mean {{{nearest[0]}}}?)" if nearest else ""
            allowed = ", ".join(f"{{{name}}}" for name in sorted(PLACEHOLDERS[part]))
            raise PersonaError(f"{path}: {where}.entry: unknown {{{name}}}{hint}, a {part} section has {allowed}")
    return names


def render(
    targets: pl.DataFrame,
    interactions: pl.DataFrame,
    users: pl.DataFrame,
    items: pl.DataFrame,
    style: list[Section],
    parts: Parts,
    task: str,
    cue: str,
) -> pl.DataFrame:
    """Render one prompt and completion a target.

    The history of a target is the user's reviews of a strictly earlier day and of other films, oldest first.
    `likes` are never read: they were counted at crawl time, so they know the future.

    Returns:
        The columns of `artefacts.PROMPTS`.
    """
    reviews = interactions.drop("likes", strict=False).join(items, on="item_id", how="left")
    rows = targets.select("interaction_id").join(reviews, on="interaction_id", how="left")
    rows = rows.join(users, on="user_id", how="left").with_columns(task=pl.lit(task), cue=pl.lit(cue))
    has_section = any(section.part == "history" for section in style)
    history = _history(rows, reviews, style) if parts.history and has_section else _no_history(rows)
    rows = rows.join(history, on="interaction_id", how="left")
    return _assemble(rows, [section for section in style if parts.includes(section)], parts)


def _history(rows: pl.DataFrame, reviews: pl.DataFrame, style: list[Section]) -> pl.DataFrame:
    """`history_ids` and rendered `history_entries` of every target, oldest first."""
    entry = next(section.entry for section in style if section.part == "history")
    pairs = earlier_reviews(rows, reviews).with_columns(
        number=pl.int_range(1, pl.len() + 1).over("interaction_id"), history_ids="history_id"
    )
    return pairs.group_by("interaction_id", maintain_order=True).agg(
        "history_ids", history_entries=_entry(entry, pl.col)
    )


def _no_history(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(
        "interaction_id",
        history_ids=pl.lit([], dtype=pl.List(pl.Int64)),
        history_entries=pl.lit([], dtype=pl.List(pl.String)),
    )


def _assemble(rows: pl.DataFrame, sections: list[Section], parts: Parts) -> pl.DataFrame:
    rows = rows.with_columns(pl.col("history_ids", "history_entries").fill_null([]))
    rows = rows.with_columns(_section_text(section).alias(f"section_{n}") for n, section in enumerate(sections))
    names = [f"section_{n}" for n in range(len(sections))]
    history_at = next((n for n, section in enumerate(sections) if section.part == "history"), None)
    offsets = _offsets(names[:history_at], sections[history_at]) if history_at is not None else pl.lit([])
    rows = rows.with_columns(prompt=pl.concat_str(names, separator=SECTION_SEPARATOR, ignore_nulls=True))
    return rows.select(
        "interaction_id",
        "user_id",
        "item_id",
        "rating",
        "history_ids",
        "prompt",
        completion="text",
        history_offsets=offsets.cast(pl.List(pl.Int32)),
        n_context=pl.col("context").list.len() if parts.context else pl.lit(0),
    )


def _section_text(section: Section) -> pl.Expr:
    """The text of a section, or null where it has no entries."""
    if section.part == "always":
        body = _entry(section.entry, pl.col)
    elif section.part == "history":
        body = pl.col("history_entries").list.join("\n")
    else:
        column = "profile" if section.part == "profile" else "context"
        element = _entry(section.entry, lambda name: pl.element().struct.field(name))
        entries = pl.col(column).list.eval(element)
        body = entries.list.eval(pl.element().filter(pl.element() != "")).list.join("\n")
    heading = f"{section.heading}\n" if section.heading else ""
    return pl.when(body != "").then(pl.lit(heading) + body)


def _entry(fragments: tuple[str, ...], field: Any) -> pl.Expr:
    """The fragments one after the other, without those that have an unknown value."""
    return pl.concat_str([_fragment(fragment, field).fill_null("") for fragment in fragments])


def _fragment(fragment: str, field: Any) -> pl.Expr:
    pieces: list[pl.Expr] = []
    for literal, name, _, _ in string.Formatter().parse(fragment):
        if literal:
            pieces.append(pl.lit(literal))
        if name:
            pieces.append(_value(name, field))
    return pl.concat_str(pieces)


def _value(name: str, field: Any) -> pl.Expr:
    value: pl.Expr = field(name)
    if name == "genres":
        value = pl.when(value.list.len() > 0).then(value.list.join(GENRE_SEPARATOR))
    if name == "rating":
        return value.cast(pl.Float64).round(1).cast(pl.String)
    if name == "day":
        return value.dt.to_string("%Y-%m-%d")
    if name == "field":
        return value.str.to_uppercase()
    if name == "number":
        return value.cast(pl.String)
    # An entry is one line, whatever its text.
    return value.str.replace_all(r"\s*[\r\n]+\s*", " ")


def _offsets(before: list[str], section: Section) -> pl.Expr:
    """Character offsets in the prompt: of the history section, of each of its entries, and of what follows."""
    lengths = [pl.col(name).str.len_chars() + len(SECTION_SEPARATOR) for name in before]
    start = pl.sum_horizontal([length.fill_null(0) for length in lengths]) if lengths else pl.lit(0)
    first = start + (len(section.heading) + 1 if section.heading else 0)
    ends = pl.col("history_entries").list.eval((pl.element().str.len_chars() + 1).cum_sum())
    # The last entry is followed by a section separator, which is one character longer than a line's end.
    ends = pl.concat_list(ends.list.slice(0, ends.list.len() - 1), ends.list.last() + len(SECTION_SEPARATOR) - 1)
    offsets = pl.concat_list(start.cast(pl.Int64), first.cast(pl.Int64), ends.cast(pl.List(pl.Int64)) + first)
    return (
        pl.when(pl.col("history_entries").list.len() > 0).then(offsets).otherwise(pl.lit([], dtype=pl.List(pl.Int64)))
    )
