"""Labelled words from CoNLL column files and CoNLL-U."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unmask.data.records import check_file, read_lines
from unmask.errors import DataError


@dataclass(frozen=True, slots=True)
class LabelledSentence:
    """Words and their labels, of equal number."""

    words: tuple[str, ...]
    labels: tuple[str, ...]


def read_labelled(
    path: Path, *, word_column: int | None = None, label_column: int | None = None, limit: int | None = None
) -> list[LabelledSentence]:
    """Read one word a line, sentences separated by blank lines.

    Args:
        path: .conllu takes FORM and UPOS unless told otherwise; any other file is columns between tabs, or else
            between white space.
        word_column: counted from 0; default 0 (CoNLL-U: 1).
        label_column: counted from 0, negative from the end; default the last (CoNLL-U: 3).
        limit: read so many sentences only.

    Raises:
        DataError: unequal column counts (file and line), or no sentence.
    """
    check_file(path)
    universal = path.suffix == ".conllu"
    word_at = word_column if word_column is not None else (1 if universal else 0)
    label_at = label_column if label_column is not None else (3 if universal else -1)
    sentences: list[LabelledSentence] = []
    words: list[str] = []
    labels: list[str] = []
    for number, columns in _rows(path, universal):
        if limit is not None and len(sentences) >= limit:
            break
        if columns is None:
            if words:
                sentences.append(LabelledSentence(tuple(words), tuple(labels)))
                words, labels = [], []
            continue
        count = len(columns)
        if not -count <= label_at < count or not 0 <= word_at < count:
            raise DataError(f"{path}:{number}: {count} columns; asked for word column {word_at}, label {label_at}.")
        word = columns[word_at].strip()
        if not word:
            raise DataError(f"{path}:{number}: empty word.")
        words.append(word.replace(" ", "\u00a0"))  # a space inside a word would split it
        labels.append(columns[label_at].strip())
    if not sentences:
        raise DataError(f"{path}: no sentence found.")
    return sentences


def _rows(path: Path, universal: bool) -> Iterator[tuple[int, list[str] | None]]:
    """Line numbers and columns; None between sentences and at the end."""
    num_columns = 0
    for number, line in read_lines(path):
        if not line.strip():
            yield number, None
            continue
        if (universal and line.startswith("#")) or line.startswith("-DOCSTART-"):
            continue
        columns = line.split("\t") if "\t" in line else line.split()
        num_columns = num_columns or len(columns)
        if len(columns) != num_columns:
            raise DataError(f"{path}:{number}: {len(columns)} columns, the lines before it have {num_columns}.")
        if universal and not columns[0].isdigit():
            continue  # multi-word ranges (3-4) and empty nodes (5.1) repeat or add no word of the text
        yield number, columns
    yield 0, None
