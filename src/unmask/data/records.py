"""Records of txt, csv, tsv, JSON and Parquet files, one a line or row."""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unmask.data.formats import find_format, read_lines
from unmask.errors import DataError

Quoting = Literal["standard", "none"]  # of csv and tsv; none: a quotation mark is a character like others
_FOLLOWING = re.compile(r"\s*([,\]])\s*")


@dataclass(frozen=True, slots=True)
class Record:
    """One text and its id; where a file has no id column, the id is `path:line`."""

    id: str
    text: str


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
    for line, row in read_rows(path, quoting):
        if isinstance(row, str):
            if id_field is not None:
                raise DataError(f"{path} is text, a record a line; it has no {id_field!r}.")
            if row.strip():
                yield Record(f"{path}:{line}", row)
            continue
        text = _value(row, field, path, line)
        if not isinstance(text, str):
            raise DataError(f"{path}:{line}: {field!r} is a {type(text).__name__}, expected a string.")
        identity = f"{path}:{line}" if id_field is None else _value(row, id_field, path, line)
        name = as_name(identity)
        if name is None:
            raise DataError(
                f"{path}:{line}: {id_field!r} is {identity!r}, which is no id; expected a word or a number."
            )
        yield Record(name, text)


def as_name(value: object) -> str | None:
    """An id or a label as text: a word or a whole number, which is the same as 1 and as 1.0; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int) and str(value).strip() else None


def read_rows(path: Path, quoting: Quoting = "standard") -> Iterator[tuple[int, str | Mapping[str, Any]]]:
    """Line numbers from 1 (rows of Parquet files are counted) and rows: a string for text, else a mapping.

    Args:
        path: text, csv or tsv with a header line, JSON objects (one a line, or an array of them), or Parquet.
        quoting: of csv and tsv.

    Raises:
        DataError: see `find_format`; also a broken line.
    """
    kind = find_format(path)
    if kind == "parquet":
        yield from _parquet_rows(path)
    elif kind in ("csv", "tsv"):
        yield from _csv_rows(path, quoting)
    elif kind == "lines":
        yield from _json_lines(path)
    elif kind == "array":
        yield from _json_array(path)
    elif kind == "words":
        raise DataError(f"{path} holds a word a line; `unmask tag` and `unmask eval words` read such files.")
    else:
        yield from read_lines(path)


def _json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in read_lines(path):
        if line.strip():
            try:
                row = _JSON.decode(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}:{number}: broken JSON ({error}).") from error
            yield number, _checked_object(row, line, f"{path}:{number}")


def _json_array(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Elements, each with the line it begins in."""
    text = "\n".join(line for _, line in read_lines(path))
    number, counted, at = 1, 0, text.index("[") + 1
    at += len(text[at:]) - len(text[at:].lstrip())
    closed = text.startswith("]", at)
    while not closed:
        number, counted = number + text.count("\n", counted, at), at
        try:
            row, end = _JSON.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: broken JSON ({error}).") from error
        yield number, _checked_object(row, text[at:end], f"{path}:{number}")
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


def _checked_object(row: Any, source: str, place: str) -> Mapping[str, Any]:
    r"""A JSON value as a row: an object, without half of a surrogate pair (`\ud83d` alone) in any string."""
    if not isinstance(row, dict):
        raise DataError(f"{place}: expected a JSON object, found a {type(row).__name__}.")
    if "\\u" in source:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise DataError(f"{place}: half of a surrogate pair ({half!a}), which is no character.") from error
    return row


def csv_lists(path: Path, quoting: Quoting = "standard") -> Iterator[tuple[int, list[str]]]:
    """Line numbers and columns of a csv or tsv file, blank lines left out; a row may run over several lines.

    Raises:
        DataError: a line that is no CSV; in a tsv file, a quoted cell that runs over lines and holds tabs.
    """
    csv.field_size_limit(2**31 - 1)  # the default refuses texts of more than 131,072 characters
    delimiter = "\t" if find_format(path) == "tsv" else ","
    how: Literal[0, 3] = csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL
    lines = (line + "\n" for _, line in read_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, quoting=how, strict=True)
    first = 1
    try:
        for row in reader:
            if delimiter == "\t" and reader.line_num > first and any("\n" in cell and "\t" in cell for cell in row):
                raise csv.Error(f"a quoted cell runs to line {reader.line_num} and holds tabs")
            if row:
                yield first, row
            first = reader.line_num + 1
    except csv.Error as error:
        hint = " If quotation marks are ordinary characters here, say quoting none." if quoting == "standard" else ""
        raise DataError(f"{path}:{first}: broken CSV ({error}).{hint}") from error


def _csv_rows(path: Path, quoting: Quoting) -> Iterator[tuple[int, Mapping[str, Any]]]:
    header: list[str] = []
    for line, row in csv_lists(path, quoting):
        if not header:
            header = row
            _check_distinct(header, f"{path}:{line}")
        elif len(row) != len(header):
            raise DataError(f"{path}:{line}: {len(row)} columns, the header has {len(header)} columns.")
        else:
            yield line, dict(zip(header, row, strict=True))


def _parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        _check_distinct(file.schema_arrow.names, str(path))
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except DataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{path}: not a readable Parquet file ({reason}).") from error


def _check_distinct(names: list[str], place: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{place}: two columns are called {twice!r}; give them different names.")


def _value(row: Mapping[str, Any], field: str, path: Path, line: int) -> Any:
    if field not in row:
        raise DataError(f"{path}:{line}: no {field!r} here; found {', '.join(map(repr, row))}.")
    return row[field]
