"""The raw formats, and how a file is recognised as one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from persona.errors import PersonaError
from persona.ingestion import cornell, dmsc, dmsc_csv, dmsc_v2, jsonl, twin_json
from persona.ingestion.rows import Batch
from persona.ingestion.settings import Options
from persona.ingestion.sources import open_raw

HEAD = 65_536
REPEATED = "the same record again"
FILES = (cornell.LINES, cornell.CONVERSATIONS, cornell.CHARACTERS, cornell.TITLES)


@dataclass(frozen=True)
class Format:
    """A raw format.

    Attributes:
        recognises: whether a file that begins so is of the format.
        looks: what such a file is, for people.
        files: their names where a data set is a folder; the first is looked at.
        repeated: why a second row of a user with the same key is set aside.
    """

    read: Callable[[Path, Options], Iterator[Batch]]
    recognises: Callable[[bytes], bool]
    looks: str
    files: tuple[str, ...] = ()
    repeated: str = REPEATED


FORMATS: dict[str, Format] = {
    "dmsc_csv": Format(
        dmsc_csv.read,
        dmsc_csv.recognises,
        f"a CSV with the columns {','.join(dmsc_csv.FORM.columns)}",
        repeated=dmsc.SECOND_REVIEW,
    ),
    "dmsc_v2": Format(
        dmsc_v2.read,
        dmsc_v2.recognises,
        f"a folder with {dmsc_v2.RATINGS} ({','.join(dmsc_v2.FORM.columns)}) and {dmsc_v2.MOVIES}",
        files=(dmsc_v2.RATINGS, dmsc_v2.MOVIES),
        repeated=dmsc.SECOND_REVIEW,
    ),
    "twin_json": Format(
        twin_json.read, twin_json.recognises, "JSON of users with task.task_behavior_collections[].data"
    ),
    "cornell": Format(
        cornell.read,
        cornell.recognises,
        f"a folder with {', '.join(FILES)}, fields separated by '{cornell.SEPARATOR}'",
        files=FILES,
    ),
    "jsonl": Format(jsonl.read, jsonl.recognises, "a JSON object with user, item and text on each line"),
}


def check_format(path: Path, data_format: str) -> None:
    """Look at the first bytes.

    Raises:
        PersonaError: they are not of the format; says of which one they are.
    """
    form = FORMATS[data_format]
    if not path.exists():
        raise PersonaError(f"{path}: no such file; set the data set's `path` to the raw data")
    if _is(path, form):
        return
    others = [name for name, other in FORMATS.items() if _is(path, other)]
    found = (
        f"it looks like {others[0]}: set the data set's `format`"
        if others
        else f"it begins with {_head(path, form)!r:.120}"
    )
    raise PersonaError(f"{path}: not {data_format}, which is {form.looks}; {found}")


def _is(path: Path, form: Format) -> bool:
    try:
        return form.recognises(_head(path, form))
    except PersonaError:
        return False


def _head(path: Path, form: Format) -> bytes:
    """How the (first) file of a format begins."""
    with open_raw(path, form.files[0] if form.files else None) as raw:
        return raw.read(HEAD)
