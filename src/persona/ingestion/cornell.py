"""The Cornell Movie-Dialogs corpus ("Chameleons in imagined conversations", Danescu-Niculescu-Mizil and Lee, 2011).

It is a folder of four files whose fields are separated by ` +++$+++ `. A row is a line of a character. Its context is
the lines before it in the conversation, its history the character's lines of earlier conversations.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persona.ingestion.json_values import OTHER, SELF
from persona.ingestion.rows import Batch, Reject, make_batch
from persona.ingestion.settings import Options
from persona.ingestion.sources import open_raw

LINES, CONVERSATIONS = "movie_lines.txt", "movie_conversations.txt"
CHARACTERS, TITLES = "movie_characters_metadata.txt", "movie_titles_metadata.txt"
SEPARATOR = " +++$+++ "
TAG = re.compile(r"</?(?:u|b|i|pre)>", re.IGNORECASE)
GENDERS = {"m": "male", "f": "female"}
NOT_CREDITED = "1000"  # stands for "not among the first credits"
MASK = "NAME"
# Words in the names of characters that are not masked.
COMMON_WORDS = {"THE", "AND", "OF", "MR", "MRS", "MS", "DR", "VOICE"}
BATCH = 20_000


@dataclass(frozen=True)
class Line:
    """A line of dialogue, from a record of `movie_lines.txt`."""

    number: int  # of the record in its file
    raw: str
    character: str
    film: str
    name: str
    text: str


@dataclass(frozen=True)
class Record:
    """The fields of a record, with its file, number and text."""

    file: str
    number: int
    raw: str
    fields: tuple[str, ...]


def recognises(head: bytes) -> bool:
    """Whether a `movie_lines.txt` that begins with `head` is of this format."""
    first = head.split(b"\n", 1)[0].decode("latin-1").removesuffix("\r")
    return re.match(r"L\d+ \+{3}\$\+{3} u\d+ \+{3}\$\+{3} m\d+ \+{3}\$\+{3}", first) is not None


def read(path: Path, options: Options) -> Iterator[Batch]:
    """Read the four files. Rows are the records of `movie_lines.txt`; damaged records of all files are rejected."""
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
            rows.append(row | {"key": line, "moment": session, "row_order": n})
        if len(rows) >= BATCH:
            yield make_batch(rows, rejected)
            rows, rejected = [], []
    unused = [(LINES, line.number, "in no conversation", line.raw) for key, line in lines.items() if key not in seen]
    yield make_batch(rows, rejected + unused)


def _records(path: Path, name: str, n_fields: int, rejected: list[Reject]) -> Iterator[Record]:
    with open_raw(path, name) as raw:
        for number, line in enumerate(raw.lines(), start=1):
            text = _decode(line)
            # The blank after the last separator is missing where the last field is empty.
            fields = f"{text} ".split(SEPARATOR, n_fields - 1)
            if len(fields) == n_fields:
                yield Record(name, number, text, tuple(field.strip() for field in fields))
            elif text.strip():
                rejected.append((name, number, f"{len(fields)} fields instead of {n_fields}", text))


def _decode(line: bytes) -> str:
    """Decode UTF-8, Windows-1252 or ISO-8859-1: the corpus is in the last two, and there are copies in UTF-8."""
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
    """The keys of each conversation's lines. Conversations are sorted by film, then in the order of the script."""
    conversations = []
    for record in _records(path, CONVERSATIONS, 4, rejected):
        keys = re.findall(r"L\d+", record.fields[3])
        known = [key for key in keys if key in lines]
        if len(known) < len(keys) or not keys:
            missing = sorted(set(keys) - set(known))
            reason = f"lines that are not there: {', '.join(missing[:3])}" if keys else "no lines"
            rejected.append((CONVERSATIONS, record.number, reason, record.raw))
        if known:
            conversations.append(known)
    return sorted(conversations, key=lambda keys: (lines[keys[0]].film, min(map(_line_number, keys))))


def _line_number(key: str) -> int:
    """The number in a line's id, which counts the lines of the script."""
    return int(key[1:])


def _sessions(conversations: list[list[str]], lines: dict[str, Line]) -> list[int]:
    """Number the conversations; those of a film that overlap in the script share a number."""
    sessions: list[int] = []
    latest: tuple[str, int] = ("", -1)
    for keys in conversations:
        film, first, last = lines[keys[0]].film, min(map(_line_number, keys)), max(map(_line_number, keys))
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
    """Make a row of the last turn, with the turns before as its context."""
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
    """The known facts about a character, in the order in which prompts show them."""
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
    """For each film a pattern that matches the words of its characters' names within a text."""
    words: dict[str, set[str]] = defaultdict(set)
    for line in lines.values():
        parts = re.findall(r"[^\W\d_]{2,}", line.name)
        words[line.film] |= {part.upper() for part in parts if part.upper() not in COMMON_WORDS}
    forms = {
        film: sorted({form for word in names for form in (word, word.capitalize())}) for film, names in words.items()
    }
    # Matches the name in "Don's", but not in "Don't".
    end = r"\b(?!['’](?!s\b)\w)"
    return {
        film: re.compile(rf"\b(?:{'|'.join(map(re.escape, names))}){end}") for film, names in forms.items() if names
    }


def _clean(turn: Line, names: dict[str, re.Pattern[str]]) -> str:
    """The text of a line without tags, and with `MASK` for names where a film has a pattern."""
    text = TAG.sub("", turn.text).strip()
    return names[turn.film].sub(MASK, text) if turn.film in names else text
