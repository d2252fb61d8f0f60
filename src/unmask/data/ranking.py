"""Data for retrieval and reranking: the BEIR folder, and queries with their candidates."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.data.records import read_lines, read_rows
from unmask.errors import DataError

Judgements = dict[str, dict[str, int]]  # query id -> document id -> grade


@dataclass(frozen=True, slots=True)
class Beir:
    """A folder with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv.

    Attributes:
        folder: where.
        queries: id -> text, those that have judgements.
        judgements: grades of judged documents.
        left_out: queries of the file that the split does not judge.
    """

    folder: Path
    queries: dict[str, str]
    judgements: Judgements
    left_out: int

    def documents(self) -> Iterator[tuple[str, str]]:
        """Id and text (title in front) of every document, read as they are asked for."""
        for line, row in read_rows(self.folder / "corpus.jsonl"):
            place = f"{self.folder / 'corpus.jsonl'}:{line}"
            title, text = _string(row, "title", place, default=""), _string(row, "text", place)
            yield _string(row, "_id", place), f"{title} {text}".strip()


@dataclass(frozen=True, slots=True)
class Candidates:
    """A query with the documents to be put in order: those that answer it, and others."""

    query: str
    positive: list[str]
    negative: list[str]


def read_beir(folder: Path, split: str = "test") -> Beir:
    """Read queries and judgements, and look whether the corpus has every judged document.

    Raises:
        DataError: a file or line that cannot be used; a judged query or document that is not there; a query none of
            whose documents is relevant.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected corpus.jsonl, queries.jsonl and qrels/{split}.tsv in it.")
    queries: dict[str, str] = {}
    for line, row in read_rows(folder / "queries.jsonl"):
        place = f"{folder / 'queries.jsonl'}:{line}"
        queries[_string(row, "_id", place)] = _string(row, "text", place)
    judgements = _read_judgements(folder / "qrels" / f"{split}.tsv")
    for query, grades in judgements.items():
        if query not in queries:
            raise DataError(f"{folder}: qrels/{split}.tsv judges query {query!r}, which queries.jsonl does not have.")
        if not any(grade > 0 for grade in grades.values()):
            raise DataError(f"{folder}: query {query!r} has no relevant document in qrels/{split}.tsv.")
    chosen = {query: queries[query] for query in judgements}
    beir = Beir(folder, chosen, judgements, len(queries) - len(chosen))
    judged = {document for grades in judgements.values() for document in grades}
    for document, _ in beir.documents():
        judged.discard(document)
    if judged:
        raise DataError(f"{folder}: {len(judged)} judged documents are not in corpus.jsonl, {min(judged)!r} for one.")
    return beir


def read_candidates(path: Path) -> list[Candidates]:
    """Read `{"query": ..., "positive": [...], "negative": [...]}` a line.

    Raises:
        DataError: a line that is not of that form, or whose query has no positive or no negative document.
    """
    found = []
    for line, row in read_rows(path):
        place = f"{path}:{line}"
        lists = []
        for name in ("positive", "negative"):
            texts = row.get(name) if isinstance(row, dict) else None
            if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
                raise DataError(f"{place}: {name!r} must be a list of one or more texts.")
            lists.append(texts)
        found.append(Candidates(_string(row, "query", place), *lists))
    return found


def _read_judgements(path: Path) -> Judgements:
    """`query-id TAB corpus-id TAB score`, usually with a header line."""
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.tsv"))
        raise DataError(f"{path} is not there; splits with judgements: {', '.join(known) or 'none'}.")
    found: Judgements = {}
    for number, line in read_lines(path):
        if not line.strip():
            continue
        (columns,) = csv.reader([line], delimiter="\t")
        if number == 1 and columns[2:] and not columns[2].lstrip("-").isdigit():
            continue  # the header
        if len(columns) != 3 or not columns[2].lstrip("-").isdigit():
            raise DataError(f"{path}:{number}: expected query id, document id and a whole number, found {line!r}.")
        found.setdefault(columns[0], {})[columns[1]] = int(columns[2])
    if not found:
        raise DataError(f"{path} judges nothing.")
    return found


def _string(row: Any, key: str, place: str, default: str | None = None) -> str:
    value = row.get(key, default) if isinstance(row, dict) else None
    if not isinstance(value, str):
        raise DataError(f"{place}: {key!r} is missing or no string.")
    return value
