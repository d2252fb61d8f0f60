"""How vectors and what is kept beside them lie in a Parquet file, so that any reader of Parquet understands them."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unmask.corpus.kinds import arrow_type, as_kept
from unmask.corpus.manifest import KEY, own_file, owner
from unmask.encoder.stream import Floats
from unmask.errors import CorpusError, EncodingError
from unmask.files import new_file

Precision = Literal["float32", "float16", "int8", "binary"]
OWN_COLUMNS = ("id", "vector", "scale")
TOTALS = b"unmask.totals"  # key of the metadata of each file
_STORED: dict[Precision, Any] = {
    "float32": pa.float32(),
    "float16": pa.float16(),
    "int8": pa.int8(),
    "binary": pa.uint8(),
}
_LARGEST = 127  # of a number in int8


@dataclass(frozen=True, slots=True)
class Totals:
    """Of one file, or of several: rows, tokens that the model read, texts that were longer than it reads."""

    rows: int = 0
    tokens: int = 0
    cut: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(self.rows + other.rows, self.tokens + other.tokens, self.cut + other.cut)


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a file: `id`, `vector`, with int8 `scale`, then those that are kept.

    Attributes:
        precision: of the numbers.
        dimension: numbers of a vector, before bits are packed.
        kinds: of kept columns, as Arrow names them.
        metadata: what a file says of its origin.
    """

    precision: Precision
    dimension: int
    kinds: Mapping[str, str]
    metadata: bytes = b""

    @property
    def width(self) -> int:
        """Stored numbers of a vector: bits lie eight in a byte."""
        return -(-self.dimension // 8) if self.precision == "binary" else self.dimension

    @property
    def schema(self) -> Any:
        """As Arrow has it."""
        own = [pa.field("id", pa.string()), pa.field("vector", pa.list_(_STORED[self.precision], self.width))]
        scale = [pa.field("scale", pa.float32())] if self.precision == "int8" else []
        kept = [pa.field(name, arrow_type(kind)) for name, kind in self.kinds.items()]
        return pa.schema([*own, *scale, *kept], metadata={KEY: self.metadata})

    def batch(self, ids: Sequence[str], kept: Sequence[Sequence[Any]], vectors: Floats) -> Any:
        """Rows as Arrow has them; vectors float32 [rows, dimension]."""
        stored, scale = packed_vectors(vectors, self.precision)
        columns = [pa.array(ids, pa.string()), pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel()), self.width)]
        if scale is not None:
            columns.append(pa.array(scale))
        for number, kind in enumerate(self.kinds.values()):
            values = [as_kept(row[number], kind) for row in kept]
            columns.append(pa.array(values, arrow_type(kind)))
        return pa.record_batch(columns, schema=self.schema)


def shortened(vectors: Floats, dimensions: int | None) -> Floats:
    """The first numbers of each vector, scaled to length 1 (Matryoshka); None: all of them, as they are."""
    if dimensions is None:
        return vectors
    first = vectors[:, :dimensions]
    return first / np.linalg.norm(first, axis=1, keepdims=True).clip(min=1e-12)


def packed_vectors(vectors: Floats, precision: Precision) -> tuple[NDArray[Any], Floats | None]:
    """Vectors as they are stored, and the scale of each row with int8: a number is what is stored times the scale.

    Binary keeps the sign: a bit is 1 above zero, the first number is the highest bit of the first byte, and bits beyond
    the last number are 0, as `numpy.packbits` has them.

    Raises:
        EncodingError: a number too large for float16.
    """
    if precision == "float32":
        return vectors, None
    if precision == "float16":
        if (largest := float(np.abs(vectors).max(initial=0.0))) > float(np.finfo(np.float16).max):
            raise EncodingError(
                f"A vector has the number {largest:,.0f}, more than float16 holds; take another precision."
            )
        return vectors.astype(np.float16), None
    if precision == "binary":
        return np.packbits(vectors > 0, axis=1), None
    scale = np.abs(vectors).max(axis=1, keepdims=True) / _LARGEST
    return np.rint(vectors / scale.clip(min=1e-30)).astype(np.int8), scale[:, 0]


@contextmanager
def parquet_writer(path: Path, layout: Layout) -> Iterator[Any]:
    """A Parquet file that appears whole or not at all.

    Raises:
        CorpusError: it cannot be written.
    """
    with told_of_disk(path), new_file(path, owner()) as partial:
        # Parquet stores a byte in four, but its number in a table of 256 in one. Floats hardly repeat, and hardly pack.
        bytewise = ["vector.list.element"] if layout.precision in ("int8", "binary") else []
        names = [name for name in layout.schema.names if name != "vector"]
        with pq.ParquetWriter(
            partial,
            layout.schema,
            compression=dict.fromkeys(names, "zstd"),
            use_dictionary=[*bytewise, *layout.kinds],
        ) as writer:
            yield writer


@contextmanager
def told_of_disk(path: Path) -> Iterator[None]:
    """Say in one sentence that a file cannot be written.

    Raises:
        CorpusError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error).split("\n")[0]
        raise CorpusError(
            f"{path} cannot be written ({reason}). What was written before stays, and the same command goes on there."
        ) from error


def write_totals(writer: Any, totals: Totals) -> None:
    """Say in a file what is in it."""
    writer.add_key_value_metadata({TOTALS: json.dumps(asdict(totals)).encode()})


def companion(array: Path) -> Path:
    """The file beside an array that says what a Parquet file says of itself."""
    return array.with_name(f"{array.name}.json")


def write_companion(array: Path, metadata: bytes, totals: Totals) -> None:
    """Say beside an array what it is made of, and what is in it."""
    said = {KEY.decode(): json.loads(metadata), TOTALS.decode(): asdict(totals)}
    with own_file(companion(array)) as file:
        file.write(json.dumps(said, indent=2, ensure_ascii=False).encode())


def read_said(path: Path) -> tuple[bytes, Totals] | None:
    """What a file of ours says it is made of, and what is in it; None: it is none of ours, or broken."""
    try:
        if path.suffix == ".npy":
            beside = json.loads(companion(path).read_bytes())
            return json.dumps(beside[KEY.decode()]).encode(), Totals(**beside[TOTALS.decode()])
        said = pq.read_metadata(path).metadata or {}
        return said[KEY], Totals(**json.loads(said[TOTALS]))
    except (OSError, ValueError, KeyError, TypeError):  # Arrow's errors are among them
        return None
