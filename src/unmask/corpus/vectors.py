"""Files of vectors as they lie: Parquet, a folder of Parquet shards, or .npy, of which a block of rows is in memory."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unmask.corpus.manifest import KEY, read_manifest
from unmask.corpus.origin import Origin, common_origin
from unmask.corpus.table import OWN_COLUMNS, Precision, read_said
from unmask.data.formats import find_format
from unmask.encoder import Floats
from unmask.errors import DataError

Rows = NDArray[np.int64]
COLUMN = "vector"
logger = logging.getLogger(__name__)
_ROWS_AT_ONCE = 8192  # of which kept columns are read
_PRECISIONS: dict[str, Precision] = {"float32": "float32", "float16": "float16", "int8": "int8", "uint8": "binary"}
_EXPECTED = "rows of float32, float16, int8, or uint8 that hold bits"


@dataclass(frozen=True, slots=True)
class Form:
    """What all files of one search have in common: the kind of numbers, and how many a vector has."""

    precision: Precision
    dimension: int

    def __str__(self) -> str:
        return f"{self.dimension} numbers in {self.precision}"


class _Part(Protocol):
    """One file."""

    path: Path
    rows: int
    form: Form
    origin: Origin

    def batches(self, rows: int, *, kept: bool) -> Iterator[tuple[Any, NDArray[Any]]]:
        """In order, at most so many rows at a time: an Arrow table of what is kept, if that is wanted, and vectors."""

    def take(self, rows: Rows) -> NDArray[Any]:
        """Vectors of rows, whose numbers rise."""

    def kept(self, rows: Rows) -> Any:
        """An Arrow table of what is kept of rows, whose numbers rise."""


class Vectors:
    """Vectors of one encoder, in one file or several.

    Args:
        path: as it was given.
        parts: the files, in order.

    Raises:
        DataError: no row; files that do not belong together.
    """

    def __init__(self, path: Path, parts: Sequence[_Part]) -> None:
        self.path = path
        self.paths = [part.path for part in parts]
        self.form = parts[0].form
        self.precision, self.dimension = self.form.precision, self.form.dimension
        self._parts = parts
        self._ends: Rows = np.cumsum([part.rows for part in parts], dtype=np.int64)
        self.rows = int(self._ends[-1])
        if not self.rows:
            raise DataError(f"{path} holds no vectors.")
        for part in parts[1:]:
            if part.form != self.form:
                raise DataError(
                    f"{parts[0].path} holds vectors of {parts[0].form}, {part.path} of {part.form}; one search "
                    "needs one kind."
                )
        self.origin = common_origin([(part.path, part.origin) for part in parts])

    def batches(self, rows: int, *, kept: bool = True) -> Iterator[tuple[int, Any, NDArray[Any]]]:
        """All rows in order, at most so many at a time.

        Yields:
            The number of the first row; what is kept of them, an Arrow table that begins with their ids, or nothing;
            vectors as stored, [rows, numbers].
        """
        first = 0
        for part in self._parts:
            for table, vectors in part.batches(rows, kept=kept):
                yield first, _with_ids(table, np.arange(first, first + len(vectors))) if kept else None, vectors
                first += len(vectors)

    def take(self, rows: Rows) -> NDArray[Any]:
        """The vectors of rows, whose numbers rise, as stored."""
        return np.concatenate([part.take(own) for part, own, _ in self._split(rows)])

    def columns(self, rows: Rows) -> list[dict[str, Any]]:
        """What is kept of rows, whose numbers rise; each begins with its id."""
        tables = [_with_ids(part.kept(own), numbers) for part, own, numbers in self._split(rows)]
        return [row for table in tables for row in table.to_pylist()]

    def sample(self, count: int) -> Rows:
        """The numbers of so many rows, or of all, drawn at random and always the same."""
        drawn = np.random.default_rng(0).choice(self.rows, min(count, self.rows), replace=False, shuffle=False)
        return np.sort(drawn)

    def floats(self, stored: NDArray[Any]) -> Floats:
        """Vectors as stored, in float32, up to a factor of each; bits are the signs 1 and -1."""
        if self.precision == "binary":
            return 2 * np.unpackbits(stored, axis=-1, count=self.dimension).astype(np.float32) - 1
        return stored.astype(np.float32, copy=False)

    def place(self, row: int) -> str:
        """File and row, for messages."""
        ((part, own, _),) = self._split(np.array([row]))
        return f"{part.path}: row {int(own[0]) + 1}"

    def _split(self, rows: Rows) -> Iterator[tuple[_Part, Rows, Rows]]:
        """Each file that holds some of the rows, their numbers in it, and in all."""
        for part, end, own in zip(
            self._parts, self._ends, np.split(rows, np.searchsorted(rows, self._ends)), strict=False
        ):
            if len(own):
                yield part, own - (end - part.rows), own


def open_vectors(path: Path) -> Vectors:
    """Look at the files and what they say of themselves.

    Raises:
        DataError: missing, no vectors in it, or files of several encoders.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file.")
    if not path.is_dir():
        return Vectors(path, [_Array(path) if path.suffix == ".npy" else _Shard(path)])
    files = sorted(path.glob("*.parquet"), key=lambda file: (len(file.name), file.name))
    if not files:
        raise DataError(f"{path} holds no Parquet files; give a file or folder that `unmask encode` wrote.")
    manifest = read_manifest(path)
    if manifest is not None and len(files) < len(manifest.shards):
        logger.warning(f"{path} is not whole yet: {len(files)} of {len(manifest.shards)} shards are there.")
    return Vectors(path, [_Shard(file) for file in files])


class _Shard:
    """A Parquet file, opened when it is read."""

    def __init__(self, path: Path) -> None:
        if find_format(path) != "parquet":
            raise DataError(f"{path} holds no vectors; give a Parquet file, a folder of them, or .npy.")
        self.path = path
        with self._opened() as file:
            schema = file.schema_arrow
            self._groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        self.rows = sum(self._groups)
        self.origin = Origin.of(schema.metadata or {})
        self.form = _form(path, schema, self.origin.dimension)
        self._kept = [name for name in schema.names if name == "id" or name not in OWN_COLUMNS]

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with pq.ParquetFile(self.path, memory_map=True, pre_buffer=False) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} cannot be read as Parquet ({str(error).splitlines()[0]}).") from error

    def batches(self, rows: int, *, kept: bool) -> Iterator[tuple[Any, NDArray[Any]]]:
        columns = [*self._kept, COLUMN] if kept else [COLUMN]
        with self._opened() as file:
            for batch in file.iter_batches(rows, columns=columns):
                yield pa.table(batch.select(self._kept)) if kept else None, self._numbers(batch.column(COLUMN))

    def take(self, rows: Rows) -> NDArray[Any]:
        return self._numbers(self._gathered(rows, [COLUMN]).column(COLUMN).combine_chunks())

    def kept(self, rows: Rows) -> Any:
        return self._gathered(rows, self._kept)

    def _gathered(self, rows: Rows, columns: list[str]) -> Any:
        """Rows out of the groups that hold some."""
        found, first = [], 0
        with self._opened() as file:
            for group, count in enumerate(self._groups):
                wanted = bool(len(_between(rows, first, first + count)))
                at = first
                for batch in file.iter_batches(_ROWS_AT_ONCE, [group], columns) if wanted else ():
                    found.append(batch.take(pa.array(_between(rows, at, at + len(batch)) - at)))
                    at += len(batch)
                first += count
        return pa.Table.from_batches(found)

    def _numbers(self, column: Any) -> NDArray[Any]:
        if column.null_count:
            raise DataError(f"{self.path} has rows without a vector.")
        flat: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(column), -1)


class _Array:
    """A .npy file, memory-mapped; its rows are known by their numbers."""

    def __init__(self, path: Path) -> None:
        self.path, self.origin = path, Origin()
        try:
            self._numbers: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} cannot be read as an array of vectors ({error}).") from error
        kind = _PRECISIONS.get(self._numbers.dtype.name)
        if self._numbers.ndim != 2 or kind is None:
            raise DataError(f"{path} holds {self._numbers.dtype} {list(self._numbers.shape)}; expected {_EXPECTED}.")
        self.rows, width = self._numbers.shape
        said = read_said(path)
        origin = Origin() if said is None else Origin.of({KEY: said[0]})
        if origin.dimension and width == (-(-origin.dimension // 8) if kind == "binary" else origin.dimension):
            self.origin = origin  # else another array was put in the place of ours
        self.form = Form(kind, (self.origin.dimension or 8 * width) if kind == "binary" else width)

    def batches(self, rows: int, *, kept: bool) -> Iterator[tuple[Any, NDArray[Any]]]:
        for at in range(0, self.rows, rows):
            yield pa.table({}) if kept else None, self._numbers[at : at + rows]

    def take(self, rows: Rows) -> NDArray[Any]:
        return self._numbers[rows]

    def kept(self, rows: Rows) -> Any:
        return pa.table({})


def _form(path: Path, schema: Any, dimension: int | None) -> Form:
    """What the column of vectors holds."""
    if COLUMN not in schema.names:
        raise DataError(f"{path} has no column {COLUMN!r}; found {', '.join(map(repr, schema.names)) or 'none'}.")
    kind = schema.field(COLUMN).type
    precision = None
    if pa.types.is_fixed_size_list(kind):
        precision = _PRECISIONS.get(np.dtype(kind.value_type.to_pandas_dtype()).name)
    if precision is None:
        raise DataError(f"{path}: {COLUMN!r} holds {kind}; expected lists of one size, {_EXPECTED}.")
    if precision != "binary":
        return Form(precision, kind.list_size)
    return Form(precision, 8 * kind.list_size if dimension is None else dimension)


def _between(rows: Rows, first: int, end: int) -> Rows:
    """Those from `first` to below `end` of numbers that rise."""
    return rows[np.searchsorted(rows, first) : np.searchsorted(rows, end)]


def _with_ids(table: Any, rows: Rows) -> Any:
    """What is kept of rows, whose ids are their numbers where there are no others."""
    if "id" in table.column_names:
        return table
    ids = pa.array(rows.astype(str), pa.string())
    return pa.table({"id": ids, **{name: table.column(name) for name in table.column_names}})
