"""What is checked: an encoder that this package or sentence-transformers opened, or vectors in a Parquet file."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unmask.backbone.structure import first_line
from unmask.certificate.cases import Case
from unmask.encoder import Floats, TextEncoder
from unmask.encoder.fingerprint import is_fingerprint
from unmask.errors import DataError, MissingExtraError, UnmaskError

_COLUMNS = ("vector", "embedding", "embeddings")
_ROWS = 4096


class Refused(Exception):
    """A target does not encode some text, and says so."""


class Target(Protocol):
    """Something that encodes texts on request.

    Attributes:
        name: for people.
    """

    name: str

    def embed(self, cases: Sequence[Case]) -> Floats:
        """Vectors [cases, width] of one request, all of one prompt.

        Raises:
            Refused: it does not encode one of them, and says so.
        """


class OpenedHere:
    """An encoder that this package opened."""

    def __init__(self, encoder: TextEncoder, name: str) -> None:
        self.name = name
        self._encoder = encoder

    def embed(self, cases: Sequence[Case]) -> Floats:
        """See `Target`."""
        try:
            return self._encoder.encode([case.text for case in cases], prompt_name=cases[0].prompt_name, compile=False)
        except UnmaskError as error:
            raise Refused(str(error)) from error


class OpenedBySentenceTransformers:
    """The same folder, or hub id, opened by sentence-transformers.

    Raises:
        MissingExtraError: it is not installed.
        DataError: it does not open the folder.
    """

    def __init__(self, name: str) -> None:
        try:
            import sentence_transformers
        except ImportError as error:
            raise MissingExtraError(
                "--runtime sentence-transformers needs that library: pip install 'unmask[sentence-transformers]'."
            ) from error
        self.name = f"{name} in sentence-transformers {sentence_transformers.__version__}"
        try:
            self._model = sentence_transformers.SentenceTransformer(name, device="cpu")
        except Exception as error:  # whatever stands in the folder, told by a library of many
            raise DataError(f"sentence-transformers does not open {name}: {first_line(error)}") from error

    def embed(self, cases: Sequence[Case]) -> Floats:
        """See `Target`."""
        texts = [case.text for case in cases]
        try:
            found = self._model.encode(texts, prompt_name=cases[0].prompt_name, show_progress_bar=False)
        except Exception as error:  # a text that breaks it is what is looked for
            raise Refused(f"sentence-transformers fails: {first_line(error)}") from error
        return np.asarray(found, dtype=np.float32)


def read_vectors(path: Path, *, field: str, vector_field: str | None, most: int | None = None) -> dict[str, Floats]:
    """Texts and their vectors from a Parquet file.

    Args:
        path: of the file.
        field: column of the texts.
        vector_field: column of the vectors; by default the one called vector, embedding or embeddings.
        most: that are taken, evenly spread over the file; None for all.

    Raises:
        DataError: no readable Parquet file, or without such columns, or without rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file ({first_line(error)}).") from error
    columns = file.schema_arrow.names
    own = vector_field or next((name for name in _COLUMNS if name in columns), _COLUMNS[0])
    for name, option in ((field, "--field"), (own, "--vector-field")):
        if name not in columns:
            raise DataError(f"{path} has no column {name!r}, but {', '.join(columns)}; name it by {option}.")
    total = file.metadata.num_rows
    step = 1 if most is None else max(1, total // most)
    found: dict[str, Floats] = {}
    for number, (text, vector) in enumerate(_rows(file, field, own)):
        if number % step == 0 and isinstance(text, str) and vector is not None and len(found) < (most or total):
            found[text] = _numbers(path, number, vector)
    if not found:
        raise DataError(f"{path} holds no row with a text and a vector.")
    return found


def said_fingerprint(path: Path) -> str | None:
    """The fingerprint of the encoder that wrote a Parquet file, as its metadata says; None where they do not."""
    import pyarrow.parquet as pq

    try:
        said = json.loads((pq.read_schema(path).metadata or {}).get(b"unmask", b"{}")).get("fingerprint")
    except (ValueError, AttributeError):  # somebody else's key of that name
        return None
    return said if is_fingerprint(said) else None


def _rows(file: Any, *columns: str) -> Iterator[tuple[Any, ...]]:
    for batch in file.iter_batches(batch_size=_ROWS, columns=list(columns)):
        yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)


def _numbers(path: Path, row: int, vector: Any) -> Floats:
    try:
        found: Floats = np.asarray(vector, dtype=np.float32)
        if found.ndim != 1 or not len(found):
            raise ValueError("expected a list of numbers")
        return found
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}, row {row}: no vector ({first_line(error)}).") from error
