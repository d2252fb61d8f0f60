"""Files of texts in every format and packing, and what `unmask encode` made of them, read back."""

import gzip
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TEXTS = [f"text number {n}, about {word}" for n, word in enumerate(["rivers", "stocks", "cats", "bread"] * 10)]


def zstd(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(content)
    return sink.getvalue().to_pybytes()


PACKINGS = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


def content(suffix, texts=TEXTS):
    """A file of that kind: a text, its number as the id, and its length."""
    rows = [{"id": n, "text": text, "length": len(text), "tags": ["a", n]} for n, text in enumerate(texts)]
    if suffix == ".txt":
        return "".join(text + "\n" for text in texts).encode()
    if suffix == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if suffix == ".parquet":
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([{k: row[k] for k in ("id", "text", "length")} for row in rows]), file)
        return file.getvalue()
    mark = "," if suffix == ".csv" else "\t"
    lines = [mark.join(["id", "text", "length"])]
    lines += [mark.join([str(row["id"]), f'"{row["text"]}"', str(row["length"])]) for row in rows]
    return ("\n".join(lines) + "\n").encode()


def write(folder, name, data):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def table(path):
    """A file, or all shards of a folder."""
    files = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]
    return pa.concat_tables([pq.read_table(file) for file in files])


def vectors(found):
    return np.stack(found["vector"].to_numpy())


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*.parquet"))}
