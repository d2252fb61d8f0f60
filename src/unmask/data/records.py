"""Texts from txt, csv, tsv, jsonl and Parquet files, one record a line or row."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.errors import DataError

FORMATS = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")
_PROBE = 8192  # bytes looked at to tell text from binary


@dataclass(frozen=True, slots=True)
class Record:
    """One text and its id; where a file has no id column, the id is `path:line`."""

    id: str
    text: str


def check_file(path: Path) -> None:
    """Refuse a file that no reader can use.

    Raises:
        DataError: missing, a folder, empty, or binary where text is expected.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file.")
    if path.is_dir():
        raise DataError(f"{path} is a folder; give files ({', '.join(FORMATS)}).")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty.")
    if path.suffix != ".parquet":
        with path.open("rb") as file:
            if b"\0" in file.read(_PROBE):
                raise DataError(f"{path} is a binary file; expected UTF-8 text.")


def read_records(path: Path, *, field: str = "text", id_field: str | None = None) -> Iterator[Record]:
    """The texts of one file, in order.

    Args:
        path: .txt holds one text a line, blank lines left out; .csv and .tsv have a header line; .jsonl one object
            a line; .parquet a column.
        field: column or key that holds the text.
        id_field: column or key that holds the id.

    Raises:
        DataError: a file or line that cannot be used, named.
    """
    for line, row in read_rows(path):
        if isinstance(row, str):
            if row.strip():
                yield Record(f"{path}:{line}", row)
            continue
        text = _value(row, field, path, line)
        if not isinstance(text, str):
            raise DataError(f"{path}:{line}: {field!r} is a {type(text).__name__}, expected a string.")
        identity = f"{path}:{line}" if id_field is None else _value(row, id_field, path, line)
        if identity is None:
            raise DataError(f"{path}:{line}: {id_field!r} is null, so the text has no id.")
        yield Record(str(identity), text)


def read_rows(path: Path) -> Iterator[tuple[int, str | Mapping[str, Any]]]:
    """Line numbers from 1 and rows: a string for .txt, a mapping for everything else.

    Raises:
        DataError: see `check_file`; also a broken line.
    """
    check_file(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet_rows(path)
    elif suffix in (".csv", ".tsv"):
        yield from _csv_rows(path)
    elif suffix == ".jsonl":
        yield from _jsonl_rows(path)
    else:
        yield from ((number, line.rstrip("\n")) for number, line in read_lines(path))


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file.

    Raises:
        DataError: a byte that is not UTF-8, with its line.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}:{number}: not UTF-8 text ({error.reason}).") from error
            yield number, line.rstrip("\r\n")


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: broken JSON ({error}).") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, found a {type(row).__name__}.")
        yield number, row


def csv_lists(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and columns of a csv or tsv file, blank lines left out.

    Raises:
        DataError: a line that is no CSV.
    """
    csv.field_size_limit(2**31 - 1)  # the default refuses texts of more than 131,072 characters
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader((line + "\n" for _, line in read_lines(path)), delimiter=delimiter)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: broken CSV ({error}).") from error


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    header: list[str] = []
    for line, row in csv_lists(path):
        if not header:
            header = row
        elif len(row) != len(header):
            raise DataError(f"{path}:{line}: {len(row)} columns, the header has {len(header)} columns.")
        else:
            yield line, dict(zip(header, row, strict=True))


def _parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]}).") from error


def _value(row: Mapping[str, Any], field: str, path: Path, line: int) -> Any:
    if field not in row:
        raise DataError(f"{path}:{line}: no {field!r} here; found {', '.join(map(repr, row))}.")
    return row[field]
