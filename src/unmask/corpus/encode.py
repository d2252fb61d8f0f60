"""Files of texts to one Parquet file of ids and vectors, in bounded memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unmask.data.records import Quoting, Record, read_records
from unmask.encoder import TextEncoder
from unmask.errors import DataError
from unmask.files import new_file


def check_inputs(
    inputs: Sequence[Path], out: Path, *, field: str, id_field: str | None, quoting: Quoting = "standard"
) -> None:
    """Look at every file and its first record, before a model is loaded; at all records where they have ids.

    Raises:
        DataError: a file that cannot be used, two texts of one id, or an output that exists or has no folder.
    """
    for path in inputs:
        if next(iter(read_records(path, field=field, id_field=id_field, quoting=quoting)), None) is None:
            raise DataError(f"{path}: no text found.")
    for _ in _records(inputs, field, id_field, quoting) if id_field else ():
        pass
    if out.exists():
        raise DataError(f"{out} exists already; choose another --out or remove it.")
    if not out.parent.is_dir():
        raise DataError(f"{out.parent} is not a folder, so {out.name} cannot be written there.")


def _records(inputs: Sequence[Path], field: str, id_field: str | None, quoting: Quoting) -> Iterator[Record]:
    """Those of all files, whose ids must be different."""
    seen: set[str] = set()
    for path in inputs:
        for number, record in enumerate(read_records(path, field=field, id_field=id_field, quoting=quoting), 1):
            if id_field is not None:
                if record.id in seen:
                    raise DataError(
                        f"{path}: record {number} has the id {record.id!r}, as one before it; ids must differ."
                    )
                seen.add(record.id)
            yield record


def encode_files(
    encoder: TextEncoder,
    inputs: Sequence[Path],
    out: Path,
    *,
    field: str = "text",
    id_field: str | None = None,
    quoting: Quoting = "standard",
    prompt: str | None = None,
    prompt_name: str | None = None,
    normalize: bool | None = None,
    batch_tokens: int | None = None,
    progress: bool = False,
) -> int:
    """Encode all texts of `inputs` in order; `out` appears only when it is whole.

    Columns: `id` (string) and `vector` (fixed-size list of float32). Returns the number of texts.

    Raises:
        DataError: a line that cannot be used (file and line), or two texts of one id.
        EncodingError: a vector that is not finite.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32(), encoder.dimension))])
    records = _records(inputs, field, id_field, quoting)
    count = 0
    with (
        new_file(out) as partial,
        pq.ParquetWriter(partial, schema) as writer,
        tqdm(unit="text", desc="encoding", disable=not progress) as bar,
    ):
        for ids, vectors in encoder.stream_keyed(
            ((record.id, record.text) for record in records),
            prompt=prompt,
            prompt_name=prompt_name,
            normalize=normalize,
            batch_tokens=batch_tokens,
        ):
            values: Any = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), encoder.dimension)
            writer.write_batch(pa.record_batch([pa.array(ids), values], schema=schema))
            count += len(ids)
            bar.update(len(ids))
    return count
