"""Rows by column name from a local file or a hub data set, and texts with labels made of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from unmask.data.hub import HubSplit
from unmask.data.records import Quoting, as_name, read_records, read_rows
from unmask.errors import DataError

_SHORTEST = 200  # characters of a paragraph


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """Texts and a label of each, of equal number."""

    texts: list[str]
    labels: list[str]


def is_hub(source: str) -> bool:
    """True for `name[:config]@split`, and for a folder in the layout of a data set."""
    path = Path(source)
    return not path.is_file() and (path.is_dir() or "@" in source)


def open_rows(
    source: str, columns: Sequence[str], *, labelled: Sequence[str] = (), quoting: Quoting = "standard"
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The named columns of every row, with the place of the row for messages.

    Args:
        source: a csv, tsv, JSON or Parquet file, or a hub data set `name[:config]@split`.
        columns: which.
        labelled: those of them whose class numbers are to become names (hub data sets know them).
        quoting: of csv and tsv.

    Raises:
        DataError: a file or line that cannot be used, or a column that is not there.
    """
    if is_hub(source):
        plain = [column for column in columns if column not in labelled]
        for number, row in enumerate(_split(source, quoting).rows(labelled=labelled, needed=plain)):
            yield f"{source} row {number}", tuple(row[column] for column in columns)
        return
    for place, found in open_mappings(source, quoting):
        missing = [column for column in columns if column not in found]
        if missing:
            raise DataError(f"{place}: no {missing[0]!r} here; found {', '.join(map(repr, found))}.")
        yield place, tuple(found[column] for column in columns)


def open_mappings(source: str, quoting: Quoting = "standard") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every row with all its columns, and its place for messages.

    Args:
        source: a csv, tsv, JSON or Parquet file, or a hub data set `name[:config]@split`.
        quoting: of csv and tsv.

    Raises:
        DataError: a file or line that cannot be used.
    """
    if is_hub(source):
        for number, row in enumerate(_split(source, quoting).rows()):
            yield f"{source} row {number}", row
        return
    path = Path(source)
    for line, found in read_rows(path, quoting):
        if not isinstance(found, Mapping):
            raise DataError(f"{path} has no columns; give .csv, .tsv, .jsonl or .parquet.")
        yield f"{path}:{line}", found


def _split(source: str, quoting: Quoting) -> HubSplit:
    if quoting != "standard":
        raise DataError(
            f"{source}: quoting {quoting} is for csv and tsv files; name the files instead of the data set."
        )
    return HubSplit.parse(source)


def read_texts(
    sources: Sequence[str | Path], *, field: str = "text", limit: int | None = None, quoting: Quoting = "standard"
) -> list[str]:
    """The non-empty texts of several files or hub data sets.

    Raises:
        DataError: a file or line that cannot be used, or nothing in them.
    """
    texts: list[str] = []
    for source in sources:
        for text in _texts_of(str(source), field, quoting):
            if limit is not None and len(texts) >= limit:
                return texts
            if text.strip():
                texts.append(text)
    if not texts:
        raise DataError(f"{', '.join(map(str, sources))}: no text found.")
    return texts


def _texts_of(source: str, field: str, quoting: Quoting) -> Iterator[str]:
    if not is_hub(source) or "@" not in source:
        yield from (record.text for record in read_records(Path(source), field=field, quoting=quoting))
        return
    for place, (text,) in open_rows(source, [field], quoting=quoting):
        if not isinstance(text, str):
            raise DataError(f"{place}: {field!r} is a {type(text).__name__}, expected a string.")
        yield text


def read_labelled_texts(
    source: str, columns: tuple[str, str] = ("text", "label"), *, quoting: Quoting = "standard"
) -> LabelledTexts:
    """Texts with one label each.

    Raises:
        DataError: a row without text or label, named; or fewer than two different labels.
    """
    found = LabelledTexts([], [])
    for place, (text, label) in open_rows(source, columns, labelled=columns[1:], quoting=quoting):
        if not isinstance(text, str):
            raise DataError(f"{place}: {columns[0]!r} is a {type(text).__name__}, expected a string.")
        found.texts.append(text)
        found.labels.append(label_name(label, columns[1], place))
    if len(set(found.labels)) < 2:
        raise DataError(f"{source}: {len(set(found.labels))} different labels; at least two are needed.")
    return found


def label_name(label: object, name: str, place: str) -> str:
    """A label as text: a word, a whole number, true or false.

    Raises:
        DataError: nothing, a number that stands for "no label" (-100) or is not whole, a list or a structure.
    """
    if label is None or (isinstance(label, str) and not label.strip()):
        raise DataError(f"{place}: empty {name}.")
    found = (as_name(label) or "").strip()
    if found in ("", "-100", "-100.0"):
        raise DataError(f"{place}: {name} is {label!r}, which is no label; expected a word or a whole number.")
    return found


def read_paragraphs(path: Path, count: int = 400) -> list[str]:
    """The first long lines of a file's texts."""
    lines = (line.strip() for record in read_records(path) for line in record.text.splitlines())
    return list(islice((line for line in lines if len(line) > _SHORTEST), count))
