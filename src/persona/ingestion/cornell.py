"""Cornell Movie-Dialogs ("Chameleons in imagined conversations", Danescu-Niculescu-Mizil and Lee, 2011).

A folder of four files whose fields are separated by ` +++$+++ `. A row is a line of a character: its context is the
lines before it in the conversation, its history the character's lines of earlier conversations.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persona.ingestion.json_values import OTHER, SELF
from persona.ingestion.rows import Batch, batch
from persona.ingestion.settings import Options
from persona.ingestion.sources import open_raw

LINES, CONVERSATIONS = "movie_lines.txt", "movie_conversations.txt"
CHARACTERS, TITLES = "movie_characters_metadata.txt", "movie_titles_metadata.txt"
SEPARATOR = " +++$+++ "
TAG = re.compile(r"</?(?:u|b|i|pre)>", re.IGNORECASE)
GENDERS = {"m": "male", "f": "female"}
NOT_CREDITED = "1000"  # not among the first credits
MASK = "NAME"
# Parts of names that are no names.
COMMON_WORDS = {"THE", "AND", "OF", "MR", "MRS", "MS", "DR", "VOICE"}
BATCH = 20_000

Reject = tuple[str, int, str, str]


@dataclass(frozen=True)
class Line:
    number: int  # of the record in its file
    raw: str
    character: str
    film: str
    name: str
    text: str


@dataclass(frozen=True)
class Record:
    """Fields of a record, and where it stands."""

    file: str
    number: int
    raw: str
    fields: tuple[str, ...]


def recognises(head: bytes) -> bool:
    first = head.split(b"\n", 1)[0].decode("latin-1").removesuffix("\r")
    return re.match(r"L\d+ \+{3}\$\+{3} u\d+ \+{3}\$\+{3} m\d+ \+{3}\$\+{3}", first) is not None


def read(path: Path, options: Options) -> Iterator[Batch]:
    """Read the four files. Rows are the records of `movie_lines.txt`; damaged ones of the others are rejects too."""
    rejected: list[Reject] = []
    films = {r.fields[0]: r.fields for r in _records(path, TITLES, 6, rejected)}
    characters = {r.fields[0]: r.fields for r in _records(path, CHARACTERS, 6, rejected)}
    lines = _lines(path, films, rejected)
    conversations = _conversations(path, lines, rejected)
    names = _name_patterns(lines) if options.mask_names else {}
    sessions = _sessions(conversations, lines)
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for conversation, session in zip(conversations, sessions, strict=True):
        turns = [lines[line] for line in conversation]
        texts = [_clean(turn, names) for turn in turns]
        for n, line in enumerate(conversation):
            if line in seen:
                continue
            seen.add(line)
            row = _row(turns[: n + 1], texts[: n + 1], films, characters, options)
            rows.append(row | {"key": line, "moment": session, "place": n})
        if len(rows) >= BATCH:
            yield batch(rows, rejected)
            rows, rejected = [], []
    alone = [(LINES, line.number, "in no conversation", line.raw) for key, line in lines.items() if key not in seen]
    yield batch(rows, rejected + alone)


def _records(path: Path, name: str, n_fields: int, rejected: list[Reject]) -> Iterator[Record]:
    with open_raw(path, name) as raw:
        for number, line in enumerate(raw.lines(), start=1):
            text = _decoded(line)
            # An empty last field may have lost its blank.
            fields = f"{text} ".split(SEPARATOR, n_fields - 1)
            if len(fields) == n_fields:
                yield Record(name, number, text, tuple(field.strip() for field in fields))
            elif text.strip():
                rejected.append((name, number, f"{len(fields)} fields instead of {n_fields}", text))


def _decoded(line: bytes) -> str:
    """The corpus is ISO-8859-1 with some marks of Windows; there are copies in UTF-8."""
    for encoding in ("utf-8", "cp1252"):
        try:
            return line.decode(encoding)
        except UnicodeDecodeError:
            continue
    return line.decode("latin-1")


def _lines(path: Path, films: dict[str, tuple[str, ...]], rejected: list[Reject]) -> dict[str, Line]:
    lines: dict[str, Line] = {}
    for record in _records(path, LINES, 5, rejected):
        key, character, film, name, text = record.fields
        reason = None
        if not re.fullmatch(r"L\d+", key):
            reason = "the first field is not a line's id"
        elif key in lines:
            reason = "another line of this id"
        elif film not in films:
            reason = f"film is not in {TITLES}"
        if reason:
            rejected.append((LINES, record.number, reason, record.raw))
        else:
            lines[key] = Line(record.number, record.raw, character, film, name, text)
    return lines


def _conversations(path: Path, lines: dict[str, Line], rejected: list[Reject]) -> list[list[str]]:
    """Each conversation's lines in their order, films one after the other, in the order of the script."""
    found = []
    for record in _records(path, CONVERSATIONS, 4, rejected):
        keys = re.findall(r"L\d+", record.fields[3])
        known = [key for key in keys if key in lines]
        if len(known) < len(keys) or not keys:
            missing = sorted(set(keys) - set(known))
            reason = f"lines that are not there: {', '.join(missing[:3])}" if keys else "no lines"
            rejected.append((CONVERSATIONS, record.number, reason, record.raw))
        if known:
            found.append(known)
    return sorted(found, key=lambda keys: (lines[keys[0]].film, min(map(_place, keys))))


def _place(key: str) -> int:
    """Line ids count through the script."""
    return int(key[1:])


def _sessions(conversations: list[list[str]], lines: dict[str, Line]) -> list[int]:
    """A number for each conversation; the same one for conversations of a film that overlap in the script."""
    sessions: list[int] = []
    latest: tuple[str, int] = ("", -1)
    for keys in conversations:
        film, first, last = lines[keys[0]].film, min(map(_place, keys)), max(map(_place, keys))
        overlaps = latest[0] == film and first <= latest[1]
        sessions.append(sessions[-1] if overlaps else len(sessions))
        latest = (film, max(latest[1], last) if overlaps else last)
    return sessions


def _row(
    turns: list[Line],
    texts: list[str],
    films: dict[str, tuple[str, ...]],
    characters: dict[str, tuple[str, ...]],
    options: Options,
) -> dict[str, Any]:
    """The last of the turns as a row, those before as its context."""
    own = turns[-1]
    _, title, year, _, _, genres = films[own.film]
    before = list(zip(turns[:-1], texts[:-1], strict=True))[-options.max_context_turns :]
    return {
        "file": LINES,
        "row": own.number,
        "raw": own.raw,
        "user": own.character,
        "item_id": own.film,
        "title": title,
        "genres": re.findall(r"'([^']+)'", genres),
        "text": texts[-1],
        "context": [{"speaker": _speaker(turn, own, options), "text": text} for turn, text in before if text],
        "profile": _profile(own, films[own.film], characters.get(own.character), year, options),
    }


def _speaker(turn: Line, own: Line, options: Options) -> str:
    if options.mask_names or options.pseudonymise:
        return SELF if turn.character == own.character else OTHER
    return turn.name or turn.character


def _profile(
    own: Line, film: tuple[str, ...], character: tuple[str, ...] | None, year: str, options: Options
) -> list[dict[str, str]]:
    """What is known of a character, in the order in which it is shown."""
    gender, credit = (character[4].lower(), character[5]) if character else ("?", "?")
    fields = {
        "name": "" if options.mask_names or options.pseudonymise else own.name,
        "movie": film[1],
        "genre": "/".join(re.findall(r"'([^']+)'", film[5])),
        "year": year.split("/")[0],
        "gender": GENDERS.get(gender, ""),
        "credit": credit if credit.isdigit() and credit != NOT_CREDITED else "",
    }
    return [{"field": field, "value": value} for field, value in fields.items() if value]


def _name_patterns(lines: dict[str, Line]) -> dict[str, re.Pattern[str]]:
    """For each film its characters' names and the words of them, as they are written within a text."""
    words: dict[str, set[str]] = defaultdict(set)
    for line in lines.values():
        parts = re.findall(r"[^\W\d_]{2,}", line.name)
        words[line.film] |= {part.upper() for part in parts if part.upper() not in COMMON_WORDS}
    forms = {film: sorted({f for w in some for f in (w, w.capitalize())}) for film, some in words.items()}
    # Not the Don of "Don't", but that of "Don's".
    end = r"\b(?!['’](?!s\b)\w)"
    return {film: re.compile(rf"\b(?:{'|'.join(map(re.escape, some))}){end}") for film, some in forms.items() if some}


def _clean(turn: Line, names: dict[str, re.Pattern[str]]) -> str:
    text = TAG.sub("", turn.text).strip()
    return names[turn.film].sub(MASK, text) if turn.film in names else text
