"""Files of texts to one Parquet file of ids and vectors, in bounded memory."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unmask.data.records import check_file, read_records
from unmask.encoder import TextEncoder
from unmask.errors import DataError
from unmask.files import new_file


def check_inputs(inputs: Sequence[Path], out: Path, *, field: str, id_field: str | None) -> None:
    """Look at every file and its first record, before a model is loaded.

    Raises:
        DataError: a file that cannot be used, or an output that exists or has no folder.
    """
    for path in inputs:
        check_file(path)
        if next(iter(read_records(path, field=field, id_field=id_field)), None) is None:
            raise DataError(f"{path}: no text found.")
    if out.exists():
        raise DataError(f"{out} exists already; choose another --out or remove it.")
    if not out.parent.is_dir():
        raise DataError(f"{out.parent} is not a folder, so {out.name} cannot be written there.")


def encode_files(
    encoder: TextEncoder,
    inputs: Sequence[Path],
    out: Path,
    *,
    field: str = "text",
    id_field: str | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    normalize: bool | None = None,
    batch_tokens: int | None = None,
    progress: bool = False,
) -> int:
    """Encode all texts of `inputs` in order; `out` appears only when it is whole.

    Columns: `id` (string) and `vector` (fixed-size list of float32). Returns the number of texts.

    Raises:
        DataError: a line that cannot be used (file and line).
        EncodingError: a vector that is not finite.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32(), encoder.dimension))])
    records = chain.from_iterable(read_records(path, field=field, id_field=id_field) for path in inputs)
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
