"""The raw formats, and how to recognise which of them a file has."""

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
        read: reads the data set in batches.
        recognises: whether a file that begins with these bytes is of the format.
        description: what such a file looks like, for error messages.
        files: the names of the files if the data set is a folder; `recognises` is given the first one.
        repeat_reason: why a second row of a user with the same key is rejected.
        has_context: whether texts may have a conversation before them.
    """

    read: Callable[[Path, Options], Iterator[Batch]]
    recognises: Callable[[bytes], bool]
    description: str
    files: tuple[str, ...] = ()
    repeat_reason: str = REPEATED
    has_context: bool = True


FORMATS: dict[str, Format] = {
    "dmsc_csv": Format(
        dmsc_csv.read,
        dmsc_csv.recognises,
        f"a CSV with the columns {','.join(dmsc_csv.FORM.columns)}",
        repeat_reason=dmsc.SECOND_REVIEW,
        has_context=False,
    ),
    "dmsc_v2": Format(
        dmsc_v2.read,
        dmsc_v2.recognises,
        f"a folder with {dmsc_v2.RATINGS} ({','.join(dmsc_v2.FORM.columns)}) and {dmsc_v2.MOVIES}",
        files=(dmsc_v2.RATINGS, dmsc_v2.MOVIES),
        repeat_reason=dmsc.SECOND_REVIEW,
        has_context=False,
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
    """Check that the first bytes of a data set are of a format.

    Raises:
        PersonaError: there is no such file, or it is of another format, which the message names if it is known.
    """
    form = FORMATS[data_format]
    if not path.exists():
        raise PersonaError(f"{path}: no such file; set the data set's `path` to the raw data")
    if _has_format(path, form):
        return
    others = [name for name, other in FORMATS.items() if _has_format(path, other)]
    hint = (
        f"it looks like {others[0]}: set the data set's `format`"
        if others
        else f"it begins with {_read_head(path, form)!r:.120}"
    )
    raise PersonaError(f"{path}: not {data_format}, which is {form.description}; {hint}")


def _has_format(path: Path, form: Format) -> bool:
    try:
        return form.recognises(_read_head(path, form))
    except PersonaError:
        return False


def _read_head(path: Path, form: Format) -> bytes:
    """The first bytes of the file, or of the first file of a folder."""
    with open_raw(path, form.files[0] if form.files else None) as raw:
        return raw.read(HEAD)
