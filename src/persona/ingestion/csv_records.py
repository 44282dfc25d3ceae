"""Reads CSV so that a damaged record is rejected alone and no record is read with shifted columns.

pyarrow parses the records. Before that, the bytes are checked: quotes only enclose whole fields, every quote is closed,
and the text is UTF-8. The records are counted on the bytes as well, which checks the number that the parser returns.
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
from persona.ingestion.rows import make_rejects
from persona.ingestion.sources import RawFile

Offsets = npt.NDArray[np.int64]

QUOTE, COMMA, LINE_FEED, RETURN = b'",\n\r'
RETURN_OUTSIDE = "a carriage return outside quotes"
HEADER_LIMIT = 4096
LONGEST_RECORD = 64 << 20  # in bytes; a longer record whose quote is still open counts as damaged


@dataclass(frozen=True)
class CsvForm:
    """The columns of a CSV, and how its records begin.

    Attributes:
        start: matches the beginning of a record, and hardly ever the beginning of a line within a text.
    """

    columns: tuple[str, ...]
    start: re.Pattern[bytes]

    def has_header(self, head: bytes) -> bool:
        """Whether the first line is the header of this CSV."""
        line = head.split(b"\n", 1)[0].removesuffix(b"\r")
        return [name.strip('"') for name in line.decode(errors="replace").split(",")] == list(self.columns)


@dataclass(frozen=True)
class Records:
    """Some records of a CSV.

    Attributes:
        table: the columns as text, and `row` and `raw`.
        malformed: records that could not be parsed, with the columns of `schemas.REJECTS`.
        n_rows: the number of records.
    """

    table: pl.DataFrame
    malformed: pl.DataFrame
    n_rows: int


@dataclass(frozen=True)
class _Run:
    """Records that are parsed together and the line feeds that end them; or a damaged record and the reason."""

    text: bytes
    ends: Offsets
    reason: str | None = None


def read_records(raw: RawFile, form: CsvForm, file: str) -> Iterator[Records]:
    """Read the records after the header, some megabytes at a time. The first record is row 1.

    Args:
        file: the name of the file, for rejects and messages.

    Raises:
        PersonaError: the header is another one, or the parser finds other records than the bytes show.
    """
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
        yield Records(pl.concat([empty, *tables]), make_rejects(malformed), n_rows - n_before)


def _blocks(raw: RawFile, form: CsvForm) -> Iterator[list[_Run]]:
    carried = raw.read(HEADER_LIMIT)
    header, _, carried = carried.partition(b"\n")
    if not form.has_header(header):
        raise PersonaError(
            f"{raw.name}: the first line must be {','.join(form.columns)}; check the file and the data set's `format`"
        )
    while chunk := raw.read():
        carried += chunk
        cut = _last_start(carried, form)
        runs, open_from = _runs(carried[:cut], form, last=False)
        carried = carried[open_from:]
        yield runs
    if carried.strip():
        yield _runs(carried, form, last=True)[0]


def _last_start(block: bytes, form: CsvForm) -> int:
    """The offset of the last line that looks like the start of a record; 0 without one."""
    end = len(block)
    while (line_feed := block.rfind(b"\n", 0, end)) >= 0:
        if form.start.match(block, line_feed + 1):
            return line_feed + 1
        end = line_feed
    return 0


def _runs(block: bytes, form: CsvForm, last: bool) -> tuple[list[_Run], int]:
    """Cut a block into runs of well-formed records and damaged records.

    Args:
        last: whether the file ends with this block.

    Returns:
        The runs, and the offset of a record at the end that may continue in the next block.
    """
    if not block:
        return [], 0
    quotes = _Quotes(block, np.zeros(1, dtype=np.int64))
    # The usual case needs no look at each line: all quotes match, and no text contains a line like a record.
    inner_start = any(form.start.match(block, offset) for offset in quotes.inner_lines())
    if not quotes.damaged[0] and not inner_start and _is_utf8(block):
        return [_Run(block, quotes.record_ends())], len(block)
    return _separate_damaged(block, form, last)


def _separate_damaged(block: bytes, form: CsvForm, last: bool) -> tuple[list[_Run], int]:
    """Cut a block as `_runs` does: a line that looks like a record is one, unless a well-formed record quotes it."""
    line_starts = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == LINE_FEED) + 1
    starts = np.array([0, *(start for start in line_starts.tolist() if form.start.match(block, start))], dtype=np.int64)
    damaged = _Quotes(block, starts).damaged
    known = set(starts.tolist())
    runs: list[_Run] = []
    begin = n = 0

    def close(until: int) -> None:
        if until > begin:
            text = block[begin:until]
            runs.append(_Run(text, _Quotes(text, np.zeros(1, dtype=np.int64)).record_ends()))

    while n < len(starts):
        first = offset = int(starts[n])
        reason, walked = damaged[n], False
        while reason:
            # Go on record by record until one ends where another begins: the lines before are within their quotes.
            following, has_return = _end_of_record(block, offset, len(form.columns))
            if following < 0 and not last and len(block) - offset < LONGEST_RECORD:
                close(offset)
                return runs, offset
            if following <= 0:
                break
            if has_return:
                close(offset)
                runs.append(_Run(block[offset:following], starts[:0], RETURN_OUTSIDE))
                begin = following
            offset, walked = following, True
            if offset in known or offset == len(block):
                reason = None
        # Damage extends to the next line that looks like a record.
        n = int(np.searchsorted(starts, offset, side="left" if walked and not reason else "right"))
        end = int(starts[n]) if n < len(starts) else len(block)
        if not reason and not _is_utf8(block[first:end]):
            offset, reason = max(first, begin), "not UTF-8"
        if reason:
            close(offset)
            runs.append(_Run(block[offset:end], starts[:0], reason))
            begin = end
    close(len(block))
    return runs, len(block)


class _Quotes:
    """The quotes of a block and, for each of its segments, what is wrong with them.

    Attributes:
        quotes, lines: the offsets of all quotes and line feeds.
        damaged: the reason why each segment is damaged, or None.
    """

    def __init__(self, block: bytes, starts: Offsets) -> None:
        characters = np.frombuffer(block, dtype=np.uint8)
        self.quotes = np.flatnonzero(characters == QUOTE)
        self.lines = np.flatnonzero(characters == LINE_FEED)
        first = np.searchsorted(self.quotes, starts)
        segment = np.searchsorted(starts, self.quotes, side="right") - 1
        opens = (np.arange(self.quotes.size) - first[segment]) % 2 == 0
        before, after = _neighbour(characters, self.quotes, -1), _neighbour(characters, self.quotes, 1)
        # An escaped quote within a field is two quotes, of which the first closes and the second opens.
        misplaced = np.where(
            opens, ~np.isin(before, [COMMA, LINE_FEED, QUOTE]), ~np.isin(after, [COMMA, LINE_FEED, RETURN, QUOTE])
        )
        returns = np.flatnonzero(characters == RETURN)
        returns = returns[_neighbour(characters, returns, 1) != LINE_FEED]
        around = np.searchsorted(starts, returns, side="right") - 1
        outside = (np.searchsorted(self.quotes, returns) - first[around]) % 2 == 0
        counts = np.diff(np.append(first, self.quotes.size))
        self.damaged: dict[int, str | None] = dict.fromkeys(range(len(starts)))
        for n in np.unique(around[outside]).tolist():
            self.damaged[n] = RETURN_OUTSIDE
        for n in np.unique(segment[misplaced]).tolist():
            self.damaged[n] = "a quote inside a field"
        for n in np.flatnonzero(counts % 2).tolist():
            self.damaged[n] = "a quote is not closed"

    def inner_lines(self) -> list[int]:
        """The offsets of lines that begin within quotes. The block must be one segment."""
        inside = np.searchsorted(self.quotes, self.lines) % 2 == 1
        return [int(line_feed) + 1 for line_feed in self.lines[inside]]

    def record_ends(self) -> Offsets:
        """The offsets of the line feeds outside of quotes. The block must be one segment."""
        return np.asarray(self.lines[np.searchsorted(self.quotes, self.lines) % 2 == 0], dtype=np.int64)


def _neighbour(characters: npt.NDArray[np.uint8], offsets: Offsets, by: int) -> npt.NDArray[np.uint8]:
    """The byte `by` after each offset; a line feed beyond the ends."""
    wanted = offsets + by
    inside = (wanted >= 0) & (wanted < characters.size)
    return np.asarray(np.where(inside, characters[np.where(inside, wanted, 0)], LINE_FEED), dtype=np.uint8)


def _end_of_record(block: bytes, start: int, n_columns: int) -> tuple[int, bool]:
    """Find the end of the record at `start`.

    Returns:
        The offset of its end, 0 if it is not well-formed, -1 if the block ends before it does. And whether it holds a
        carriage return outside of quotes, which other readers may take for the end of a record.
    """
    offset, has_return = start, False
    for column in range(n_columns):
        is_last = column == n_columns - 1
        if block[offset : offset + 1] == b'"':
            offset = block.find(b'"', offset + 1)
            while offset >= 0 and block[offset + 1 : offset + 2] == b'"':
                offset = block.find(b'"', offset + 2)
            if offset < 0:
                return -1, has_return
            offset += 1
        else:
            end = offset + len(_UNQUOTED.match(block, offset)[0])  # type: ignore[index]
            if is_last and block[offset:end].endswith(b"\r"):
                end -= 1
            has_return |= b"\r" in block[offset:end]
            offset = end
        if is_last:
            line_end = _LINE_END.match(block, offset)
            return (line_end.end() if line_end else 0), has_return
        if offset >= len(block):
            return -1, has_return
        if block[offset] != COMMA:
            return 0, has_return
        offset += 1
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
    """Parse a run.

    Returns:
        The table, the records with a wrong number of columns (number, reason, text), and the number of all records.
    """
    text, raw = run.text, _record_texts(run)
    invalid: list[tuple[int, str]] = []

    def skip(row: pa.csv.InvalidRow) -> str:
        invalid.append((row.number, f"{row.actual_columns} columns instead of {row.expected_columns}"))
        return "skip"

    try:
        # With several threads malformed rows come without their number.
        table = pa.csv.read_csv(
            pa.BufferReader(text),
            read_options=pa.csv.ReadOptions(
                use_threads=False, block_size=len(text) + 1, column_names=list(form.columns)
            ),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(form.columns, pa.large_string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise PersonaError(f"{file}: cannot be read as CSV: {error}") from error
    numbers = np.delete(np.arange(table.num_rows + len(invalid)), [number - 1 for number, _ in invalid])
    if (n_parsed := table.num_rows + len(invalid)) != len(raw):
        raise PersonaError(
            f"{file}: the file has {len(raw)} records, but {n_parsed} were parsed; please report this bug"
        )
    rows = pl.DataFrame(pl.from_arrow(table)).with_columns(row=pl.Series(numbers + 1), raw=raw.gather(numbers))
    return rows, [(number, reason, raw[number - 1].rstrip("\r\n")) for number, reason in invalid], len(raw)


def _record_texts(run: _Run) -> pl.Series:
    """The text of each record with its line end. Empty lines are not records."""
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
