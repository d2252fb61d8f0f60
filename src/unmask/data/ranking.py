"""Data for retrieval and reranking: the BEIR folder, and queries with their candidates."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.data.formats import read_head, read_lines
from unmask.data.records import as_name
from unmask.data.sources import open_mappings, open_rows
from unmask.errors import DataError

_GRADE = re.compile(r"(-?[0-9]{1,9})(\.0+)?")
_TITLES = re.compile(r"(score|grade|label|rel(evance)?|judge?ment|rating)s?", re.IGNORECASE)
Judgements = dict[str, dict[str, int]]  # query id -> document id -> grade


@dataclass(frozen=True, slots=True)
class Beir:
    """A folder with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, or a hub data set of that form.

    Attributes:
        corpus: where the documents are.
        queries: id -> text, those that have judgements.
        judgements: grades of judged documents.
        left_out: queries of the file that the split does not judge.
    """

    corpus: str
    queries: dict[str, str]
    judgements: Judgements
    left_out: int

    def documents(self) -> Iterator[tuple[str, str]]:
        """Id and text (title in front) of every document, read as they are asked for.

        Raises:
            DataError: a line that cannot be used; two documents of one id.
        """
        for place, name, row in _distinct(open_mappings(self.corpus), "documents"):
            title, text = _string(row, "title", place, default=""), _string(row, "text", place)
            yield name, f"{title} {text}".strip()


@dataclass(frozen=True, slots=True)
class Candidates:
    """A query with the documents to be put in order: those that answer it, and others."""

    query: str
    positive: list[str]
    negative: list[str]


def read_beir(source: str | Path, split: str = "test") -> Beir:
    """Read queries and judgements, and look whether the corpus has every judged document.

    Args:
        source: a BEIR folder; or a hub data set, or a folder in the layout of one, as `mteb` publishes them: with the
            configs `corpus`, `queries` and `default`, the last of which holds query-id, corpus-id and score.
        split: whose judgements.

    Raises:
        DataError: a file or line that cannot be used; a judged query or document that is not there; a query none of
            whose documents is relevant; two documents, queries or judgements of one id.
    """
    folder = Path(source)
    name, _, own_split = str(source).partition("@")
    if not own_split and not folder.is_dir():
        raise DataError(
            f"{source} is no folder with corpus.jsonl, queries.jsonl and qrels/{split}.tsv, and no hub data set "
            "(write name@split)."
        )
    if own_split and split not in ("test", own_split):
        raise DataError(f"{source} names the split {own_split!r}, and {split!r} was asked for; say one of them.")
    if own_split:
        corpus, listed = f"{name}:corpus@corpus", f"{name}:queries@queries"
        judgements, judged_in = _hub_judgements(f"{name}:default@{own_split}"), f"{name}@{own_split}"
    else:
        corpus, listed = str(folder / "corpus.jsonl"), str(folder / "queries.jsonl")
        judgements, judged_in = _read_judgements(folder / "qrels" / f"{split}.tsv"), f"qrels/{split}.tsv"
    rows = _distinct(open_mappings(listed), "queries")
    queries = {name: _string(row, "text", place) for place, name, row in rows}
    for query, grades in judgements.items():
        if query not in queries:
            raise DataError(f"{source}: {judged_in} judges query {query!r}, which {listed} does not have.")
        if not any(grade > 0 for grade in grades.values()):
            raise DataError(f"{source}: query {query!r} has no relevant document in {judged_in}.")
    chosen = {query: queries[query] for query in judgements}
    beir = Beir(corpus, chosen, judgements, len(queries) - len(chosen))
    judged = {document for grades in judgements.values() for document in grades}
    for document, _ in beir.documents():
        judged.discard(document)
    if judged:
        raise DataError(f"{source}: {len(judged)} judged documents are not in the corpus, {min(judged)!r} for one.")
    return beir


def read_candidates(source: str | Path) -> list[Candidates]:
    """Read rows of `query`, `positive` (a list) and `negative` (a list): a jsonl file, or a hub data set.

    Raises:
        DataError: a line that is not of that form, or whose query has no positive or no negative document.
    """
    found = []
    for place, row in open_mappings(str(source)):
        lists = []
        for name in ("positive", "negative"):
            texts = row.get(name)
            if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
                raise DataError(f"{place}: {name!r} must be a list of one or more texts.")
            lists.append(texts)
        found.append(Candidates(_string(row, "query", place), *lists))
    return found


def _hub_judgements(source: str) -> Judgements:
    columns = ("query-id", "corpus-id", "score")
    return _gather(source, ((place, *map(str, row)) for place, row in open_rows(source, columns)))  # type: ignore[misc]


def _read_judgements(path: Path) -> Judgements:
    """`query-id TAB corpus-id TAB score`, usually with a header line."""
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.tsv"))
        raise DataError(f"{path} is not there; splits with judgements: {', '.join(known) or 'none'}.")
    return _gather(str(path), _judged_lines(path))


def _judged_lines(path: Path) -> Iterator[tuple[str, str, str, str]]:
    read_head(path)
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            (columns,) = csv.reader([line], delimiter="\t", strict=True)
        except csv.Error as error:
            raise DataError(f"{path}:{number}: broken line ({error}).") from error
        if number == 1 and columns[2:] and _TITLES.fullmatch(columns[2].strip()):
            continue
        if len(columns) != 3:
            raise DataError(f"{path}:{number}: expected query id, document id and a whole number, found {line!r}.")
        yield f"{path}:{number}", columns[0], columns[1], columns[2]


def _gather(source: str, rows: Iterable[tuple[str, str, str, str]]) -> Judgements:
    """Judgements of rows of place, query id, document id and grade."""
    found: Judgements = {}
    for place, query, document, grade in rows:
        whole = _GRADE.fullmatch(grade)
        if whole is None:
            raise DataError(f"{place}: expected query id, document id and a whole number, found {grade!r} as the last.")
        own = found.setdefault(query, {})
        if document in own:
            raise DataError(f"{place}: document {document!r} is judged a second time for query {query!r}.")
        own[document] = int(whole[1])
    if not found:
        raise DataError(f"{source} judges nothing.")
    return found


def _distinct(rows: Iterable[tuple[str, Mapping[str, Any]]], what: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Place, id and row; refuses two rows of one `_id`."""
    seen: set[str] = set()
    for place, row in rows:
        name = as_name(row.get("_id"))
        if name is None:
            raise DataError(f"{place}: '_id' is missing, or no word or whole number.")
        if name in seen:
            raise DataError(f"{place}: two {what} have the id {name!r}; ids must be different.")
        seen.add(name)
        yield place, name, row


def _string(row: Mapping[str, Any], key: str, place: str, default: str | None = None) -> str:
    value = row.get(key)
    value = default if value is None else value
    if not isinstance(value, str):
        raise DataError(f"{place}: {key!r} is missing or no string.")
    return value
