"""CSV, record by record, so that a damaged record does not take others with it and none is read shifted.

Records are parsed by pyarrow. What goes to it is looked at before, on the bytes: quotes stand only around whole
fields, every quote is closed, the text is UTF-8. Records are counted there as well, so that the sum is a check.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.csv

from persona.errors import PersonaError
from persona.ingestion.rows import rejects
from persona.ingestion.sources import RawFile

Positions = npt.NDArray[np.int64]

QUOTE, COMMA, LINE_FEED, RETURN = b'",\n\r'
RETURN_OUTSIDE = "a carriage return outside quotes"
HEADER_LIMIT = 4096
LONGEST_RECORD = 64 << 20  # of a record whose quote is still open


@dataclass(frozen=True)
class CsvForm:
    """A CSV of known columns, and how a record begins: what no line of a text is likely to begin like."""

    columns: tuple[str, ...]
    start: re.Pattern[bytes]

    def has_header(self, head: bytes) -> bool:
        line = head.split(b"\n", 1)[0].removesuffix(b"\r")
        return [name.strip('"') for name in line.decode(errors="replace").split(",")] == list(self.columns)


@dataclass(frozen=True)
class Records:
    """Some records: a table of text columns with `row` and `raw`, what is malformed, and how many there are."""

    table: pl.DataFrame
    malformed: pl.DataFrame
    n_rows: int


@dataclass(frozen=True)
class _Run:
    """Records that are parsed together, with the ends of their lines outside of quotes; or a damaged one and why."""

    text: bytes
    ends: Positions
    reason: str | None = None


def read_records(raw: RawFile, form: CsvForm, file: str) -> Iterator[Records]:
    """The records after the header, some megabytes at a time. The first is row 1; it may run over several lines."""
    n_rows = 0
    for block in _blocks(raw, form):
        tables, malformed, n_before = [], [], n_rows
        for run in block:
            if run.reason is not None:
                n_rows += 1
                malformed.append((file, n_rows, run.reason, run.text.decode(errors="backslashreplace").rstrip("\r\n")))
                continue
            table, invalid, n = _parse(run, form, file)
            malformed += [(file, n_rows + number, reason, text) for number, reason, text in invalid]
            tables.append(table.with_columns(pl.col("row") + n_rows))
            n_rows += n
        empty = pl.DataFrame(schema={**dict.fromkeys(form.columns, pl.String), "row": pl.Int64, "raw": pl.String})
        yield Records(pl.concat([empty, *tables]), rejects(malformed), n_rows - n_before)


def _blocks(raw: RawFile, form: CsvForm) -> Iterator[list[_Run]]:
    carried = raw.read(HEADER_LIMIT)
    header, _, carried = carried.partition(b"\n")
    if not form.has_header(header):
        raise PersonaError(f"{raw.name}: its first line is not {','.join(form.columns)}")
    while chunk := raw.read():
        carried += chunk
        cut = _last_start(carried, form)
        runs, open_from = _runs(carried[:cut], form, last=False)
        carried = carried[open_from:]
        yield runs
    if carried.strip():
        yield _runs(carried, form, last=True)[0]


def _last_start(block: bytes, form: CsvForm) -> int:
    """Where the last line begins that looks like a record; 0 without one."""
    end = len(block)
    while (place := block.rfind(b"\n", 0, end)) >= 0:
        if form.start.match(block, place + 1):
            return place + 1
        end = place
    return 0


def _runs(block: bytes, form: CsvForm, last: bool) -> tuple[list[_Run], int]:
    """Cut a block into well-formed runs and damaged records; and where a record begins that may go on after it."""
    if not block:
        return [], 0
    quotes = _Quotes(block, np.zeros(1, dtype=np.int64))
    # The usual case, without a look at each line: all quotes match, and no text has a line like a record in it.
    inner_start = any(form.start.match(block, place) for place in quotes.inner_lines())
    if not quotes.damaged[0] and not inner_start and _is_utf8(block):
        return [_Run(block, quotes.record_ends())], len(block)
    return _mend(block, form, last)


def _mend(block: bytes, form: CsvForm, last: bool) -> tuple[list[_Run], int]:
    """Take every line that looks like a record for one, unless it lies within the quotes of a well-formed one."""
    line_starts = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == LINE_FEED) + 1
    starts = np.array([0, *(p for p in line_starts.tolist() if form.start.match(block, p))], dtype=np.int64)
    damaged = _Quotes(block, starts).damaged
    known = set(starts.tolist())
    runs: list[_Run] = []
    begin = n = 0

    def close(until: int) -> None:
        if until > begin:
            text = block[begin:until]
            runs.append(_Run(text, _Quotes(text, np.zeros(1, dtype=np.int64)).record_ends()))

    while n < len(starts):
        first = place = int(starts[n])
        reason, walked = damaged[n], False
        while reason:
            # Record by record, until one ends where another begins: all lines before lie within their quotes.
            following, has_return = _end_of_record(block, place, len(form.columns))
            if following < 0 and not last and len(block) - place < LONGEST_RECORD:
                close(place)
                return runs, place
            if following <= 0:
                break
            if has_return:
                close(place)
                runs.append(_Run(block[place:following], starts[:0], RETURN_OUTSIDE))
                begin = following
            place, walked = following, True
            if place in known or place == len(block):
                reason = None
        # What is damaged reaches to the next line that looks like a record.
        n = int(np.searchsorted(starts, place, side="left" if walked and not reason else "right"))
        end = int(starts[n]) if n < len(starts) else len(block)
        if not reason and not _is_utf8(block[first:end]):
            place, reason = max(first, begin), "not UTF-8"
        if reason:
            close(place)
            runs.append(_Run(block[place:end], starts[:0], reason))
            begin = end
    close(len(block))
    return runs, len(block)


class _Quotes:
    """Where the quotes of each segment stand, and what is wrong with them."""

    def __init__(self, block: bytes, starts: Positions) -> None:
        characters = np.frombuffer(block, dtype=np.uint8)
        self.places = np.flatnonzero(characters == QUOTE)
        self.lines = np.flatnonzero(characters == LINE_FEED)
        first = np.searchsorted(self.places, starts)
        segment = np.searchsorted(starts, self.places, side="right") - 1
        opens = (np.arange(self.places.size) - first[segment]) % 2 == 0
        before, after = _neighbour(characters, self.places, -1), _neighbour(characters, self.places, 1)
        # Of two quotes in a row within a field the one closes and the other opens.
        misplaced = np.where(
            opens, ~np.isin(before, [COMMA, LINE_FEED, QUOTE]), ~np.isin(after, [COMMA, LINE_FEED, RETURN, QUOTE])
        )
        returns = np.flatnonzero(characters == RETURN)
        returns = returns[_neighbour(characters, returns, 1) != LINE_FEED]
        around = np.searchsorted(starts, returns, side="right") - 1
        outside = (np.searchsorted(self.places, returns) - first[around]) % 2 == 0
        counts = np.diff(np.append(first, self.places.size))
        self.damaged: dict[int, str | None] = dict.fromkeys(range(len(starts)))
        for n in np.unique(around[outside]).tolist():
            self.damaged[n] = RETURN_OUTSIDE
        for n in np.unique(segment[misplaced]).tolist():
            self.damaged[n] = "a quote inside a field"
        for n in np.flatnonzero(counts % 2).tolist():
            self.damaged[n] = "a quote is not closed"

    def inner_lines(self) -> list[int]:
        """Where lines begin inside of quotes, if the block is one segment."""
        inside = np.searchsorted(self.places, self.lines) % 2 == 1
        return [int(place) + 1 for place in self.lines[inside]]

    def record_ends(self) -> Positions:
        """The line feeds outside of quotes, if the block is one segment."""
        return np.asarray(self.lines[np.searchsorted(self.places, self.lines) % 2 == 0], dtype=np.int64)


def _neighbour(characters: npt.NDArray[np.uint8], places: Positions, by: int) -> npt.NDArray[np.uint8]:
    """The character before or after each place; a line feed beyond the ends."""
    wanted = places + by
    inside = (wanted >= 0) & (wanted < characters.size)
    return np.asarray(np.where(inside, characters[np.where(inside, wanted, 0)], LINE_FEED), dtype=np.uint8)


def _end_of_record(block: bytes, start: int, n_columns: int) -> tuple[int, bool]:
    """Where the record at `start` ends: 0 if it is not well-formed, -1 if the block ends before.

    And whether a carriage return stands outside of its quotes, by which others would take it for two.
    """
    place, has_return = start, False
    for column in range(n_columns):
        is_last = column == n_columns - 1
        if block[place : place + 1] == b'"':
            place = block.find(b'"', place + 1)
            while place >= 0 and block[place + 1 : place + 2] == b'"':
                place = block.find(b'"', place + 2)
            if place < 0:
                return -1, has_return
            place += 1
        else:
            end = place + len(_UNQUOTED.match(block, place)[0])  # type: ignore[index]
            if is_last and block[place:end].endswith(b"\r"):
                end -= 1
            has_return |= b"\r" in block[place:end]
            place = end
        if is_last:
            line_end = _LINE_END.match(block, place)
            return (line_end.end() if line_end else 0), has_return
        if place >= len(block):
            return -1, has_return
        if block[place] != COMMA:
            return 0, has_return
        place += 1
    return 0, has_return


_UNQUOTED = re.compile(rb'[^",\n]*')
_LINE_END = re.compile(rb"(?:\r?\n)+|\Z")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _parse(run: _Run, form: CsvForm, file: str) -> tuple[pl.DataFrame, list[tuple[int, str, str]], int]:
    """Parse well-formed records; those with a wrong number of columns are returned as number, reason and text."""
    text, raw = run.text, _record_texts(run)
    invalid: list[tuple[int, str]] = []

    def set_aside(row: pa.csv.InvalidRow) -> str:
        invalid.append((row.number, f"{row.actual_columns} columns instead of {row.expected_columns}"))
        return "skip"

    try:
        # One thread, because only then do malformed rows come with their number.
        table = pa.csv.read_csv(
            pa.BufferReader(text),
            read_options=pa.csv.ReadOptions(
                use_threads=False, block_size=len(text) + 1, column_names=list(form.columns)
            ),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=set_aside),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(form.columns, pa.large_string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise PersonaError(f"{file}: cannot be read as CSV: {error}") from error
    numbers = np.delete(np.arange(table.num_rows + len(invalid)), [number - 1 for number, _ in invalid])
    if table.num_rows + len(invalid) != len(raw):
        raise PersonaError(f"{file}: {len(raw)} records in, but {table.num_rows + len(invalid)} read")
    rows = pl.DataFrame(pl.from_arrow(table)).with_columns(row=pl.Series(numbers + 1), raw=raw.gather(numbers))
    return rows, [(number, reason, raw[number - 1].rstrip("\r\n")) for number, reason in invalid], len(raw)


def _record_texts(run: _Run) -> pl.Series:
    """Each record as it stands in the text, with its line end; empty lines are none."""
    text, ends = run.text, run.ends + 1
    if not ends.size or ends[-1] < len(text):
        ends = np.append(ends, len(text))
    starts = np.concatenate([[0], ends[:-1]])
    characters = np.frombuffer(text, dtype=np.uint8)
    length = ends - starts
    blank = ((length == 1) & (characters[starts] == LINE_FEED)) | ((length == 2) & (characters[starts] == RETURN))
    array = pa.LargeStringArray.from_buffers(
        len(ends), pa.py_buffer(np.append(starts[:1], ends).astype(np.int64)), pa.py_buffer(text)
    )
    return pl.Series(array).filter(pl.Series(~blank))
