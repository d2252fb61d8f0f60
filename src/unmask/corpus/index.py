"""A LanceDB index: approximate search for vectors that are too many to be read at every query."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from unmask.corpus.origin import Origin
from unmask.corpus.search import Hit, nearest
from unmask.corpus.vectors import COLUMN, Vectors
from unmask.encoder import Floats
from unmask.errors import ArtifactError, CorpusError, DataError, MissingExtraError, UnmaskError
from unmask.files import new_folder, read_json, write_json

FACTS = "unmask-index.json"
_TABLE = "vectors"
_PARTITION = 8192  # vectors of a partition; with fewer than two partitions nothing is won by an index
_NUMBERS = 8  # of a vector that one byte of the index stands for
_EFFORTS = ((20, 10), (40, 20), (80, 40), (160, 80), (320, 160))  # probes and refine, until recall is as wanted
_SAMPLE, _NEIGHBOURS = 100, 10  # rows that recall is measured on, and how many of their neighbours count
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """What is known of an index.

    Attributes:
        rows: vectors in it.
        dimension: numbers of a vector.
        encoder: as in the files of vectors.
        fingerprint: as there.
        partitions: groups of near vectors; 0 where there are too few for any, and all are compared.
        probes: how many of them a search looks into.
        refine: rows that are compared by their true vectors for each one wanted.
        recall: share of the ten nearest that it finds so, on sample rows.
    """

    rows: int
    dimension: int
    encoder: str | None
    fingerprint: str | None
    partitions: int
    probes: int
    refine: int
    recall: float


def build_index(vectors: Vectors, out: Path, *, recall: float = 0.95, progress: bool = False) -> IndexFacts:
    """Copy vectors and what is kept of them into a LanceDB table with an index; the folder appears when it is whole.

    A search looks into as many partitions as it takes to find `recall` of the ten nearest of sample rows, by comparison
    with exact search.

    Args:
        vectors: any but bits, which are searched exactly.
        out: new folder.
        recall: wanted, from 0 to 1; what is reached is in the facts.
        progress: show bars.

    Raises:
        DataError: bits.
        ArtifactError: the folder exists.
        CorpusError: LanceDB cannot write it.
        MissingExtraError: lancedb is not installed.
    """
    lancedb = _lancedb()
    if vectors.precision == "binary":
        raise DataError(f"{vectors.path} holds bits; those are small enough for `unmask search` without an index.")
    partitions = vectors.rows // _PARTITION if vectors.rows >= 2 * _PARTITION else 0
    with new_folder(out) as partial:
        with _told(out, CorpusError):
            table = lancedb.connect(partial).create_table(_TABLE, _reader(vectors, progress=progress))
            if partitions:
                from lancedb.index import IvfPq

                bytes_each = vectors.dimension // _NUMBERS if vectors.dimension % _NUMBERS == 0 else None
                index = IvfPq(distance_type="cosine", num_partitions=partitions, num_sub_vectors=bytes_each)
                table.create_index(COLUMN, config=index)
            (probes, refine), reached = _tuned(table, vectors, recall, progress=progress)
        facts = IndexFacts(
            rows=vectors.rows,
            dimension=vectors.dimension,
            encoder=vectors.origin.encoder,
            fingerprint=vectors.origin.fingerprint,
            partitions=partitions,
            probes=min(probes, partitions),
            refine=refine,
            recall=reached,
        )
        write_json(partial / FACTS, asdict(facts))
    return facts


class Index:
    """A folder that `build_index` wrote, opened.

    Raises:
        ArtifactError: not such a folder, or a broken one.
        MissingExtraError: lancedb is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.facts = IndexFacts(**read_json(path / FACTS))
        except TypeError as error:
            raise ArtifactError(f"{path / FACTS} is not what this version writes ({error}).") from error
        self.rows, self.dimension = self.facts.rows, self.facts.dimension
        self.origin = Origin(self.facts.encoder, self.facts.fingerprint)
        lancedb = _lancedb()
        with _told(path, ArtifactError):
            self._table = lancedb.connect(path).open_table(_TABLE)

    @property
    def method(self) -> str:
        """How a search goes about it, in words."""
        if not self.facts.partitions:
            return "exact search by LanceDB"
        part = f"{self.facts.probes} of {self.facts.partitions} partitions"
        return f"approximate search by LanceDB in {part}, recall@10 {self.facts.recall:.3f} on sample rows"

    def search(self, queries: Floats, count: int) -> list[list[Hit]]:
        """Like `search_vectors`, and approximate."""
        with _told(self.path, ArtifactError):
            names = [name for name in self._table.schema.names if name != COLUMN]
            effort = (max(1, self.facts.probes), self.facts.refine)
            return [
                [
                    Hit(1 - row.pop("_distance"), row)
                    for row in _lookup(self._table, query, count, effort, names).to_pylist()
                ]
                for query in queries
            ]


def _lookup(table: Any, query: Floats, count: int, effort: tuple[int, int], columns: list[str]) -> Any:
    probes, refine = effort
    found = table.search(query, vector_column_name=COLUMN).distance_type("cosine").select([*columns, "_distance"])
    return found.nprobes(probes).refine_factor(refine).limit(count).to_arrow()


def _tuned(table: Any, vectors: Vectors, wanted: float, *, progress: bool) -> tuple[tuple[int, int], float]:
    """As many probes as it takes, and the recall with them.

    Every sample row is a query. It finds itself, so that is taken off; rows that are as near as the tenth are as good.
    """
    rows = vectors.sample(_SAMPLE)
    queries = vectors.floats(vectors.take(rows))
    neighbours = min(_NEIGHBOURS, vectors.rows - 1)
    cosines, _ = nearest(vectors, queries, neighbours + 1, progress=progress)
    for effort in _EFFORTS:
        found = [_lookup(table, query, neighbours + 1, effort, []).column("_distance").to_numpy() for query in queries]
        near = [np.sum(1 - own >= least - 1e-5) - 1 for own, least in zip(found, cosines[:, -1], strict=True)]
        reached = float(np.mean(near)) / max(1, neighbours)
        if reached >= wanted:
            break
    return effort, reached


def _reader(vectors: Vectors, *, progress: bool) -> Any:
    """All rows for LanceDB: what is kept, and vectors in float32, or float16 where they have no more digits."""
    kind = np.float32 if vectors.precision == "float32" else np.float16

    def batches() -> Iterator[Any]:
        with tqdm(total=vectors.rows, unit="row", desc="copying", disable=not progress) as bar:
            for _, kept, numbers in vectors.batches(_ROWS_AT_ONCE):
                flat = pa.array(np.ascontiguousarray(numbers, dtype=kind).ravel())
                column = pa.FixedSizeListArray.from_arrays(flat, vectors.dimension)
                yield from kept.append_column(COLUMN, column).combine_chunks().to_batches()
                bar.update(len(numbers))

    made = batches()
    first = next(made)

    def all_batches() -> Iterator[Any]:
        yield first
        yield from made

    return pa.RecordBatchReader.from_batches(first.schema, all_batches())


def _lancedb() -> Any:
    try:
        import lancedb
    except ImportError as missing:
        raise MissingExtraError("An index needs the package lancedb: pip install 'unmask[lancedb]'") from missing
    return lancedb


@contextmanager
def _told(path: Path, kind: type[UnmaskError]) -> Iterator[None]:
    """LanceDB's errors as ours."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, UnmaskError):
            raise
        raise kind(f"{path}: LanceDB fails ({str(error).splitlines()[0]}).") from error
