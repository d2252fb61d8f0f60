"""Pairs for contrastive training: a query, its positive, any number of hard negatives, perhaps its document."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

from unmask.data.records import Quoting, as_name
from unmask.data.sources import is_hub, open_mappings
from unmask.errors import DataError
from unmask.text.chunks import chunks

_ROWS_AT_ONCE = 4096
# What a column is called where nobody says.
_USUAL = {
    "query": ("query", "anchor", "question", "sentence1"),
    "positive": ("positive", "pos", "answer", "sentence2"),
    "negatives": ("negatives", "negative", "neg"),
    "document": ("document", "doc", "document_id"),
}
_NUMBERED = re.compile(
    r"neg(ative)?s?[_-]?(?P<number>[0-9]+)", re.IGNORECASE
)  # negative_1, negative_2: a hard negative each
# What a column is called, or what stands in it, that says how well a query and a text belong together.
_JUDGEMENT = re.compile(
    r"(.*[_\W])?(labels?|scores?|sim|similar(ity)?|dup|duplicates?|paraphrases?|entail(s|ed|ment)|judge?ments?|gold|truth"
    r"|grades?|relevan(t|ce)|related(ness)?|ratings?|class|target|correct|match(es)?|quality|relation|verdict)([_\W].*)?"
)
_VERDICT = re.compile(
    r"true|false|yes|no|neutral|contradict(s|ion|ory)|((not|non|un|ir)[ _-]?)?"
    r"(duplicates?|paraphrases?|relevant|related|similar|match|entail(s|ed|ment)|correct)|[-+]?[0-9]+([.,][0-9]+)?"
)
# Columns whose numbers and short words say nothing of that kind: ids, places, sizes, dates, titles, other texts, and
# what `unmask mine` writes.
_HARMLESS = re.compile(
    r"(.*[_\W])?(q?id|idx|index|nr|no|num|number|count|len|length|start|end|offset|line|page|row|year|date|time(stamp)?"
    r"|tokens|words|titles?|names?|topic|category|source|url|lang(uage)?|split|subset|type|text|context|passage|question"
    r"|answers?)([0-9]*|[_\W].*)|(positive_cosine|negative_cosines)"
)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class PairColumns:
    """Which columns hold what; None looks for the usual names.

    Those are query, anchor; positive, pos; negatives, negative, neg, or negative_1, negative_2 ...

    Attributes:
        query: column of the query.
        positive: column of a text or a list of texts that belong to the query; each makes a row.
        negatives: columns of hard negatives, each a text or a list.
        document: column that names the document of the positive; positives of one document are no negatives of each
            other.
        where: column -> value; rows that have another one there are left out.
    """

    query: str | None = None
    positive: str | None = None
    negatives: Sequence[str] | None = None
    document: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)


class Pair(NamedTuple):
    """One training row."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    document: str | None = None


class PairSet:
    """A data set of pairs, kept as one Arrow table, with the instructions that its texts get.

    Args:
        name: for messages and lineage.
        pairs: the rows.
        query_prompt: in front of every query.
        document_prompt: in front of every positive and negative; symmetric sets have the same on both sides.
        weight: how often it is drawn, relative to its size.

    Raises:
        DataError: no row.
    """

    def __init__(
        self,
        name: str,
        pairs: Iterator[Pair],
        *,
        query_prompt: str = "",
        document_prompt: str = "",
        weight: float = 1.0,
    ) -> None:
        self.name = name
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.weight = weight
        self._table = _table(pairs)
        if not len(self._table):
            raise DataError(f"{name}: no pair found.")

    def __len__(self) -> int:
        return len(self._table)

    def take(self, rows: Sequence[int]) -> list[Pair]:
        """Rows by number."""
        found = self._table.take(list(rows)).to_pylist()
        return [Pair(r["query"], r["positive"], tuple(r["negatives"]), r["document"]) for r in found]


def read_pairs(
    sources: Sequence[str],
    columns: PairColumns | None = None,
    limit: int | None = None,
    *,
    quoting: Quoting = "standard",
) -> Iterator[Pair]:
    """The pairs of files (csv, tsv, JSON, Parquet) and hub data sets (`name[:config]@split`), in order.

    Args:
        sources: read one after the other.
        columns: what the columns are called.
        limit: at most so many pairs.
        quoting: of csv and tsv.

    Raises:
        DataError: a row without query or positive, an empty text, a column that is not there; with its place. Columns
            that nobody named, where another one judges the pairs.
    """
    rows = (pair for source in sources for pair in _pairs_of(source, columns or PairColumns(), quoting))
    yield from islice(rows, limit)


def _pairs_of(source: str, columns: PairColumns, quoting: Quoting) -> Iterator[Pair]:
    names: dict[str, list[str]] | None = None
    for place, row in open_mappings(source, quoting):
        if names is None or not is_hub(source):  # the lines of a jsonl file need not be alike
            names = {kind: _columns(kind, getattr(columns, kind), row, place) for kind in _USUAL}
        _check_judgements(columns, names, row, place)
        if any(not _same(row[name], value) for name, value in columns.where.items()):
            continue
        (query,) = _texts(row, names["query"], place)
        negatives = tuple(_texts(row, names["negatives"], place, many=True))
        document = _document(row[names["document"][0]], place) if names["document"] else None
        positives = _texts(row, names["positive"], place, many=True)
        if not positives:
            raise DataError(f"{place}: {names['positive'][0]!r} is empty; every row needs a positive.")
        for positive in positives:
            yield Pair(query, positive, negatives, document)


def _columns(kind: str, asked: str | Sequence[str] | None, row: Mapping[str, Any], place: str) -> list[str]:
    """The columns of one kind that a row has."""
    wanted = [asked] if isinstance(asked, str) else list(asked or ())
    if wanted:
        missing = [name for name in wanted if name not in row]
        if missing:
            raise DataError(f"{place}: no {missing[0]!r} here; found {', '.join(map(repr, row))}.")
        return wanted
    usual = [name for name in _USUAL[kind] if name in row][:1]
    if kind == "negatives" and not usual:
        numbered = {name: found for name in row if (found := _NUMBERED.fullmatch(name))}
        return sorted(numbered, key=lambda name: int(numbered[name]["number"]))
    if not usual and kind in ("query", "positive"):
        raise DataError(
            f"{place}: no {kind} ({', '.join(_USUAL[kind])}) here; found {', '.join(map(repr, row))}. "
            "Name the columns of query and positive."
        )
    return usual


def _check_judgements(columns: PairColumns, names: Mapping[str, list[str]], row: Mapping[str, Any], place: str) -> None:
    """Refuse guessed columns where another one says which pairs belong together, and a condition on no column."""
    missing = [name for name in columns.where if name not in row]
    if missing:
        raise DataError(f"{place}: no {missing[0]!r} here, which `where` asks for; found {', '.join(map(repr, row))}.")
    if columns.query and columns.positive:
        return
    known = {*columns.where, *(name for own in names.values() for name in own)}
    judging = [name for name, value in row.items() if name not in known and _judges(name, value)]
    if judging:
        query, positive = names["query"][0], names["positive"][0]
        raise DataError(
            f"{place}: column {judging[0]!r} seems to say which pairs belong together. Keep those by a condition such "
            f"as where {judging[0]}=1, or name the columns ({query!r}, {positive!r}) to train on every row."
        )


def _judges(name: str, value: Any) -> bool:
    """True for a column that is called like a judgement, or holds one and is not called like something harmless."""
    called, harmless = _meaning(name)
    if called or harmless or not isinstance(value, str | int | float):
        return called
    return not isinstance(value, str) or _VERDICT.fullmatch(value.strip().lower()) is not None


@lru_cache(maxsize=256)
def _meaning(name: str) -> tuple[bool, bool]:
    """Whether a column is called like a judgement, and like something harmless."""
    words = _CAMEL.sub("_", name).lower()
    return _JUDGEMENT.fullmatch(words) is not None, _HARMLESS.fullmatch(words) is not None


def _same(found: Any, wanted: Any) -> bool:
    """True where a cell is the value asked for, however it is written (1, 1.0, true, "1")."""
    try:
        return float(found) == float(wanted)
    except (TypeError, ValueError):
        return str(found).strip().lower() == str(wanted).strip().lower()


def _document(value: Any, place: str) -> str | None:
    """The name of a document; None where a cell is empty, for rows of unknown documents do not share one."""
    if isinstance(value, list | dict):
        raise DataError(f"{place}: the document is a {type(value).__name__}; expected its name or number.")
    return as_name(value)


def _texts(row: Mapping[str, Any], names: Sequence[str], place: str, *, many: bool = False) -> list[str]:
    """The texts of some columns; lists are laid out flat where many are allowed."""
    found: list[str] = []
    for name in names:
        value = row[name]
        listed = value if many and isinstance(value, list) else [] if many and value is None else [value]
        for text in listed:
            if not isinstance(text, str) or not text.strip():
                what = "empty" if isinstance(text, str) or text is None else f"a {type(text).__name__}"
                raise DataError(f"{place}: {name!r} is {what}; expected a text.")
            found.append(text)
    return found


def _table(pairs: Iterator[Pair]) -> Any:
    import pyarrow as pa

    text = pa.large_string()
    schema = pa.schema({"query": text, "positive": text, "negatives": pa.large_list(text), "document": text})
    batches = [
        pa.record_batch([pa.array(c, f.type) for c, f in zip(zip(*part, strict=True), schema, strict=True)], schema)
        for part in chunks(pairs, _ROWS_AT_ONCE)
    ]
    return pa.Table.from_batches(batches, schema).combine_chunks()
