"""Rows by column name from a local file or a hub data set, and texts with labels made of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.data.hub import HubSplit
from unmask.data.records import read_rows
from unmask.errors import DataError


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
    source: str, columns: Sequence[str], *, labelled: Sequence[str] = ()
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The named columns of every row, with the place of the row for messages.

    Args:
        source: .csv, .tsv, .jsonl or .parquet file, or a hub data set `name[:config]@split`.
        columns: which.
        labelled: those of them whose class numbers are to become names (hub data sets know them).

    Raises:
        DataError: a file or line that cannot be used, or a column that is not there.
    """
    if is_hub(source):
        plain = [column for column in columns if column not in labelled]
        for number, row in enumerate(HubSplit.parse(source).rows(labelled=labelled, needed=plain)):
            yield f"{source} row {number}", tuple(row[column] for column in columns)
        return
    path = Path(source)
    for line, found in read_rows(path):
        place = f"{path}:{line}"
        if not isinstance(found, Mapping):
            raise DataError(f"{path} has no columns; give .csv, .tsv, .jsonl or .parquet.")
        missing = [column for column in columns if column not in found]
        if missing:
            raise DataError(f"{place}: no {missing[0]!r} here; found {', '.join(map(repr, found))}.")
        yield place, tuple(found[column] for column in columns)


def read_labelled_texts(source: str, columns: tuple[str, str] = ("text", "label")) -> LabelledTexts:
    """Texts with one label each.

    Raises:
        DataError: a row without text or label, named; or fewer than two different labels.
    """
    found = LabelledTexts([], [])
    for place, (text, label) in open_rows(source, columns, labelled=columns[1:]):
        if not isinstance(text, str):
            raise DataError(f"{place}: {columns[0]!r} is a {type(text).__name__}, expected a string.")
        if label is None or not str(label).strip():
            raise DataError(f"{place}: empty {columns[1]}.")
        found.texts.append(text)
        found.labels.append(str(label))
    if len(set(found.labels)) < 2:
        raise DataError(f"{source}: {len(set(found.labels))} different labels; at least two are needed.")
    return found
