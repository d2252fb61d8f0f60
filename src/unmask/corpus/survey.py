"""The first look at all rows, before a model is loaded: broken rows, repeated ids, kinds of columns, cuts into shards.

Which rows a shard has follows from this look alone, so that whoever encodes it, in whatever order, writes the same.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import islice
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from unmask.corpus.ids import SeenIds
from unmask.corpus.inputs import Input, Reading, Rejected, stop
from unmask.corpus.kinds import Kinds
from unmask.data.records import BrokenRowError, Record
from unmask.errors import DataError

KNOWN, REPEATED = 1, 2  # marks of rows that are not encoded


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row is.

    Attributes:
        input: number of the input.
        line: in which the row begins.
        nth: of the rows that begin in that line, from 0.
    """

    input: int = 0
    line: int = 1
    nth: int = 0


@dataclass(frozen=True, slots=True)
class Shard:
    """A run of rows that one file is made of.

    Attributes:
        place: of its first row.
        first: number of that row among all that could be read.
        span: rows that could be read.
        rows: of those, the rows that are encoded.
    """

    place: Place
    first: int
    span: int
    rows: int

    def listed(self) -> list[int]:
        """As a manifest has it."""
        return [*astuple(self.place), self.first, self.span, self.rows]

    @classmethod
    def of(cls, listed: Sequence[int]) -> "Shard":
        """As a manifest has it."""
        return cls(Place(*listed[:3]), *listed[3:])


@dataclass(frozen=True, slots=True)
class Survey:
    """What the first look found.

    Attributes:
        shards: with at least one row each.
        kinds: of kept columns.
        rejected: rows and files that cannot be used.
        known: rows that were encoded before.
        marks: `KNOWN` or `REPEATED` for rows that are not encoded; None where all are.
        rejects: a line of JSON for each that was rejected.
    """

    shards: list[Shard]
    kinds: dict[str, str]
    rejected: int
    known: int
    marks: NDArray[np.uint8] | None
    rejects: "Rejects"

    @property
    def rows(self) -> int:
        """That are encoded."""
        return sum(shard.rows for shard in self.shards)


class Rejects:
    """Rows that cannot be used, in a temporary file until it is known where they belong."""

    def __init__(self) -> None:
        self.count = 0
        self.last = ""
        self._file: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  closed with this object

    def add(self, name: str, line: int, reason: str) -> None:
        """One more; line 0 stands for a whole file."""
        self.count += 1
        self.last = f"{name}:{line}: {reason}"
        self._file.write(json.dumps({"file": name, "line": line, "reason": reason}, ensure_ascii=False) + "\n")

    def lines(self) -> Iterator[str]:
        """All of them."""
        self._file.seek(0)
        yield from self._file


def read_from(
    inputs: Sequence[Input], reading: Reading, kinds: Kinds, rejected: Rejected, place: Place
) -> Iterator[tuple[Place, Record]]:
    """All rows that can be used from a place on, and where each is."""
    for number in range(place.input, len(inputs)):
        here = number == place.input
        line = nth = 0
        for record in inputs[number].records(reading, rejected, start=place.line if here else 1):
            try:
                kinds.look(record.kept)
            except BrokenRowError as error:
                rejected(inputs[number].name, record.line, str(error))
                continue
            line, nth = record.line, nth + 1 if record.line == line else 0
            if not here or line > place.line or nth >= place.nth:
                yield Place(number, line, nth), record


def survey(
    inputs: Sequence[Input],
    reading: Reading,
    shard_rows: int,
    *,
    known: Iterable[str] | None = None,
    kinds: Mapping[str, str] | None = None,
    progress: bool = False,
) -> Survey:
    """Look at every row.

    Args:
        inputs: in order.
        reading: how rows are read.
        shard_rows: most rows of a shard.
        known: ids that are encoded already; rows that have them are not encoded again. None: there is no such thing.
        kinds: of kept columns, where they are settled.
        progress: show a bar.

    Raises:
        DataError: a row or a file that cannot be used, and two rows of one id, where they may not be skipped; an input
            without any row.
    """
    names = reading.columns.keep
    rejects, found = Rejects(), Kinds(names, kinds)
    rejected = rejects.add if reading.on_error == "skip" else stop
    seen = SeenIds() if known is not None or reading.columns.id_field else None
    for identity in known or ():
        assert seen is not None
        seen.add(identity)
    before = seen.count if seen else 0
    starts: list[Place] = []
    counts = [0] * len(inputs)
    for row, (place, record) in enumerate(
        tqdm(read_from(inputs, reading, found, rejected, Place()), "reading", unit="row", disable=not progress)
    ):
        if row % shard_rows == 0:
            starts.append(place)
        counts[place.input] += 1
        if seen:
            seen.add(record.id)
    _check_counts(inputs, counts, rejects)
    marks = seen.repeated(before) if seen else None
    if marks is not None and (marks == REPEATED).any():
        _tell_repeated(inputs, reading, found, marks, rejected)
    if marks is not None and not marks.any():
        marks = None
    shards = _shards(starts, sum(counts), shard_rows, marks)
    old = 0 if marks is None else int((marks == KNOWN).sum())
    return Survey(shards, found.settled(), rejects.count, old, marks, rejects)


def _check_counts(inputs: Sequence[Input], counts: Sequence[int], rejects: Rejects) -> None:
    """Refuse an input without rows, but for a file that was rejected whole."""
    whole = {found["file"] for found in map(json.loads, rejects.lines()) if found["line"] == 0} if rejects.count else ()
    for source, count in zip(inputs, counts, strict=True):
        if not count and source.name not in whole:
            why = f" The last that was rejected: {rejects.last}" if rejects.count else ""
            raise DataError(f"{source.name}: no text found.{why}")
    if not any(counts):
        raise DataError(f"No text found. {rejects.last}")


def _tell_repeated(
    inputs: Sequence[Input], reading: Reading, kinds: Kinds, marks: NDArray[np.uint8], rejected: Rejected
) -> None:
    """Read again, to name the rows whose id stands before them already."""
    rows = read_from(inputs, reading, kinds, pass_over, Place())
    for mark, (place, record) in zip(marks, rows, strict=True):
        if mark == REPEATED:
            reason = f"the id {record.id!r} is that of a row before it; ids must differ."
            rejected(inputs[place.input].name, place.line, reason)


def pass_over(name: str, line: int, reason: str) -> None:
    """A row that was told of already."""


def _shards(starts: Sequence[Place], rows: int, shard_rows: int, marks: NDArray[np.uint8] | None) -> list[Shard]:
    """Runs of rows, those with few rows to encode put together."""
    shards: list[Shard] = []
    for number, place in enumerate(starts):
        first = number * shard_rows
        end = min(first + shard_rows, rows)
        new = end - first if marks is None else int((marks[first:end] == 0).sum())
        if shards and new and shards[-1].rows + new <= shard_rows:
            shards[-1] = replace(shards[-1], span=end - shards[-1].first, rows=shards[-1].rows + new)
        elif new:
            shards.append(Shard(place, first, end - first, new))
    return shards


def shard_records(
    rows: Iterator[tuple[Place, Record]], shard: Shard, marks: NDArray[np.uint8] | None
) -> Iterator[Record]:
    """The records of a shard that are encoded, out of rows that begin with its first."""
    for number, (_, record) in enumerate(islice(rows, shard.span)):
        if marks is None or not marks[number]:
            yield record


def packed(marks: NDArray[np.uint8]) -> NDArray[Any]:
    """Marks as they are kept: a bit for each row that is not encoded."""
    return np.packbits(marks != 0)


def unpacked(bits: NDArray[Any], shard: Shard) -> NDArray[np.uint8]:
    """The marks of one shard."""
    first, end = shard.first, shard.first + shard.span
    return np.unpackbits(bits[first // 8 : (end + 7) // 8])[first % 8 :][: shard.span]
