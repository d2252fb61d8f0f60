"""Records of txt, csv, tsv, JSON and Parquet files, one a line or row."""

import csv
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from unmask.data.formats import (
    LONGEST_LINE,
    UNREADABLE,
    Broken,
    find_format,
    is_packed,
    open_bytes,
    read_lines,
    refuse,
)
from unmask.errors import DataError

Quoting = Literal["standard", "none"]  # of csv and tsv; none: a quotation mark is a character like others
_FOLLOWING = re.compile(r"\s*([,\]])\s*")


@dataclass(frozen=True, slots=True)
class Record:
    """One text and its id; where a file has no id column, the id is `path:line`.

    Attributes:
        line: in which it begins; rows of Parquet files are counted.
        kept: the values of further columns that were asked for.
    """

    id: str
    text: str
    line: int = 0
    kept: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns or keys that a record is made of."""

    field: str = "text"
    id_field: str | None = None
    keep: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys([self.field, *([self.id_field] if self.id_field else []), *self.keep]))


class BrokenRowError(ValueError):
    """Why a row is none; told with its place by whoever knows that."""


def read_records(
    path: Path, *, field: str = "text", id_field: str | None = None, quoting: Quoting = "standard"
) -> Iterator[Record]:
    """The texts of one file, in order.

    Args:
        path: see `read_rows`; blank lines of a .txt file are left out.
        field: column or key that holds the text.
        id_field: column or key that holds the id.
        quoting: of csv and tsv.

    Raises:
        DataError: a file or line that cannot be used, named.
    """
    yield from read_columns(path, Columns(field, id_field), quoting=quoting)


def read_columns(
    path: Path,
    columns: Columns,
    *,
    name: str | None = None,
    quoting: Quoting = "standard",
    start: int = 1,
    broken: Broken = refuse,
) -> Iterator[Record]:
    """The records of one file with the columns that were asked for, in order.

    Args:
        path: see `read_rows`; blank lines of a .txt file are left out.
        columns: which.
        name: what ids begin with; by default the path.
        quoting: of csv and tsv.
        start: the first line that is wanted.
        broken: what becomes of a row that cannot be used; where it returns, the row is left out.

    Raises:
        DataError: a file that cannot be used; a row too, by default.
    """
    called = name or str(path)
    for line, row in read_rows(path, quoting, start=start, broken=broken, wanted=columns.names):
        if isinstance(row, str):
            if len(columns.names) > 1:
                raise DataError(f"{path} is text, a record a line; it has no {columns.names[1]!r}.")
            if row.strip():
                yield Record(f"{called}:{line}", row, line)
            continue
        try:
            yield as_record(row, columns, f"{called}:{line}", line)
        except BrokenRowError as error:
            broken(path, line, str(error))


def as_record(row: Mapping[str, Any], columns: Columns, place: str, line: int) -> Record:
    """A row as a record; `place` is its id where it has none of its own.

    Raises:
        BrokenRowError: a column is not there, the text is no string, the id is none.
    """
    text = _value(row, columns.field)
    if not isinstance(text, str):
        raise BrokenRowError(f"{columns.field!r} is a {type(text).__name__}, expected a string.")
    kept = tuple(_value(row, name) for name in columns.keep)
    if columns.id_field is None:
        return Record(place, text, line, kept)
    identity = _value(row, columns.id_field)
    name = as_name(identity)
    if name is None:
        raise BrokenRowError(f"{columns.id_field!r} is {identity!r}, which is no id; expected a word or a number.")
    return Record(name, text, line, kept)


def as_name(value: object) -> str | None:
    """An id or a label as text: a word or a whole number, which is the same as 1 and as 1.0; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int) and str(value).strip() else None


def read_rows(
    path: Path, quoting: Quoting = "standard", *, start: int = 1, broken: Broken = refuse, wanted: Sequence[str] = ()
) -> Iterator[tuple[int, str | Mapping[str, Any]]]:
    """Line numbers from 1 (rows of Parquet files are counted) and rows: a string for text, else a mapping.

    Args:
        path: text, csv or tsv with a header line, JSON objects (one a line, or an array of them), or Parquet; gzip or
            zstd may have packed it.
        quoting: of csv and tsv.
        start: the first line that is wanted; one where a row begins.
        broken: what becomes of a row that cannot be read; where it returns, the row is left out. Broken CSV, and arrays
            and Parquet files that cannot be read on, are always an error.
        wanted: columns of a Parquet file that are enough; all, where one of them is not there.

    Raises:
        DataError: see `find_format`; also a broken line.
    """
    kind = find_format(path)
    if kind == "parquet":
        yield from _parquet_rows(path, start, wanted)
    elif kind in ("csv", "tsv"):
        yield from _csv_rows(path, quoting, start, broken)
    elif kind == "lines":
        yield from _json_lines(path, start, broken)
    elif kind == "array":
        yield from (row for row in _json_array(path, broken) if row[0] >= start)
    elif kind == "words":
        raise DataError(f"{path} holds a word a line; `unmask tag` and `unmask eval words` read such files.")
    else:
        yield from read_lines(path, start=start, broken=broken)


def _json_lines(path: Path, start: int, broken: Broken) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in read_lines(path, start=start, broken=broken):
        if line.strip():
            try:
                row = _checked_object(_JSON.decode(line), line)
            except BrokenRowError as error:
                broken(path, number, str(error))
            except (ValueError, RecursionError) as error:
                broken(path, number, f"broken JSON ({error}).")
            else:
                yield number, row


def _json_array(path: Path, broken: Broken) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Elements, each with the line it begins in."""
    text = "\n".join(line for _, line in read_lines(path, longest=sys.maxsize))
    number, counted, at = 1, 0, text.index("[") + 1
    at += len(text[at:]) - len(text[at:].lstrip())
    closed = text.startswith("]", at)
    while not closed:
        number, counted = number + text.count("\n", counted, at), at
        try:
            row, end = _JSON.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: broken JSON ({error}).") from error
        try:
            yield number, _checked_object(row, text[at:end])
        except BrokenRowError as error:
            broken(path, number, str(error))
        following = _FOLLOWING.match(text, end)
        if following is None:
            raise DataError(f"{path}:{number}: broken JSON (neither a comma nor ] follows on this element).")
        at, closed = following.end(), following[1] == "]"
    if text[at:].strip("] \n\t"):
        raise DataError(f"{path}: something follows on its JSON array; write one array, or one object a line.")


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("one object has two values of one key")
    return found


_JSON = json.JSONDecoder(object_pairs_hook=_distinct_keys)


def _checked_object(row: Any, source: str) -> Mapping[str, Any]:
    r"""A JSON value as a row: an object, without half of a surrogate pair (`\ud83d` alone) in any string."""
    if not isinstance(row, dict):
        raise BrokenRowError(f"expected a JSON object, found a {type(row).__name__}.")
    if "\\u" in source:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise BrokenRowError(f"half of a surrogate pair ({half!a}), which is no character.") from error
    return row


def csv_lists(
    path: Path, quoting: Quoting = "standard", *, start: int = 1, broken: Broken = refuse
) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and columns of a csv or tsv file, blank lines left out; a row may run over several lines.

    Raises:
        DataError: a line that is no CSV; in a tsv file, a quoted cell that runs over lines and holds tabs.
    """
    csv.field_size_limit(LONGEST_LINE)  # the default refuses texts of more than 131,072 characters
    delimiter = "\t" if find_format(path) == "tsv" else ","
    how: Literal[0, 3] = csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL
    lines = _CsvLines(path, start, broken)
    try:
        for row in csv.reader(lines.fed(), delimiter=delimiter, quoting=how, strict=True):
            first, whole = lines.next_row()
            if delimiter == "\t" and lines.last > first and any("\n" in cell and "\t" in cell for cell in row):
                lines.first = first
                raise csv.Error(f"a quoted cell runs to line {lines.last} and holds tabs")
            if row and whole:
                yield first, row
    except csv.Error as error:
        hint = " If quotation marks are ordinary characters here, say quoting none." if quoting == "standard" else ""
        raise DataError(f"{path}:{lines.first}: broken CSV ({error}).{hint}") from error


class _CsvLines:
    """The lines of a file for a reader of CSV; a broken one stands blank in its place, and the row it is of is none.

    Attributes:
        first: line where the row that is being read begins; 0 before it does.
        last: line that was read last.
    """

    def __init__(self, path: Path, start: int, broken: Broken) -> None:
        self.first, self.last, self._whole = 0, start - 1, True
        self._broken = broken
        self._lines = read_lines(path, start=start, broken=self._tell)

    def fed(self) -> Iterator[str]:
        """Every line with an end of its own."""
        for number, line in self._lines:
            for at in range(self.last + 1, number + 1):
                self.first, self.last = self.first or at, at
                yield line + "\n" if at == number else "\n"

    def next_row(self) -> tuple[int, bool]:
        """Where the row that was just read begins, and whether all its lines are whole."""
        found = self.first, self._whole
        self.first, self._whole = 0, True
        return found

    def _tell(self, path: Path, line: int, reason: str) -> None:
        self._broken(path, line, reason)
        self._whole = False


def _csv_rows(path: Path, quoting: Quoting, start: int, broken: Broken) -> Iterator[tuple[int, Mapping[str, Any]]]:
    head, header = next(csv_lists(path, quoting), (0, []))
    _check_distinct(header, f"{path}:{head}")
    for line, row in csv_lists(path, quoting, start=start, broken=broken):
        if line == head:
            continue
        if len(row) != len(header):
            other = " Semicolons do not part columns here." if len(header) == 1 and ";" in header[0] else ""
            broken(path, line, f"{len(row)} columns, the header has {len(header)}.{other}")
        else:
            yield line, dict(zip(header, row, strict=True))


def _parquet_rows(path: Path, start: int, wanted: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with _seekable(path) as source, pyarrow.parquet.ParquetFile(source) as file:
            names = file.schema_arrow.names
            _check_distinct(names, str(path))
            columns = list(wanted) if wanted and set(wanted) <= set(names) else None
            number, groups = 0, list(range(file.num_row_groups))
            while groups and number + (rows := file.metadata.row_group(groups[0]).num_rows) < start:
                number, groups = number + rows, groups[1:]
            for batch in file.iter_batches(batch_size=1024, row_groups=groups, columns=columns):
                behind = min(max(0, start - number - 1), len(batch))  # rows of it that are not wanted
                yield from enumerate(batch.slice(behind).to_pylist(), number + behind + 1)
                number += len(batch)
    except DataError:
        raise
    except (pyarrow.ArrowException, *UNREADABLE, ValueError, OverflowError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{path}: not a readable Parquet file ({reason}).") from error


@contextmanager
def _seekable(path: Path) -> Iterator[Path | IO[bytes]]:
    """A file whose parts can be read in any order: itself, or a temporary copy of what was packed."""
    if not is_packed(path):
        yield path
        return
    with open_bytes(path) as source, tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(source, copy)
        copy.seek(0)
        yield copy


def _check_distinct(names: list[str], place: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{place}: two columns are called {twice!r}; give them different names.")


def _value(row: Mapping[str, Any], field: str) -> Any:
    if field not in row:
        raise BrokenRowError(f"no {field!r} here; found {', '.join(map(repr, row))}.")
    return row[field]
