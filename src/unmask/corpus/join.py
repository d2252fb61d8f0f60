"""Shards of a small output put together in one file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from numpy.lib.format import open_memmap

from unmask.corpus.manifest import owner
from unmask.corpus.table import Layout, Totals, parquet_writer, write_totals
from unmask.files import new_file


def join(shards: Sequence[Path], out: Path, layout: Layout, totals: Totals) -> None:
    """Write one Parquet file, or an array where the name ends in .npy; it appears when it is whole.

    Args:
        shards: in order.
        out: the file.
        layout: of the shards.
        totals: of all of them.
    """
    if out.suffix == ".npy":
        _write_array(shards, out, layout, totals.rows)
    elif len(shards) == 1:
        os.replace(shards[0], out)
    else:
        with parquet_writer(out, layout) as writer:
            for shard in shards:
                for batch in _batches(shard, None):
                    writer.write_batch(batch)
            write_totals(writer, totals)


def _write_array(shards: Sequence[Path], out: Path, layout: Layout, rows: int) -> None:
    with new_file(out, owner()) as partial:
        kind = layout.schema.field("vector").type.value_type.to_pandas_dtype()
        array = open_memmap(partial, mode="w+", dtype=kind, shape=(rows, layout.width))
        at = 0
        for shard in shards:
            for batch in _batches(shard, ["vector"]):
                vectors = batch.column(0).flatten().to_numpy(zero_copy_only=False)
                array[at : at + len(batch)] = vectors.reshape(len(batch), layout.width)
                at += len(batch)
        array.flush()


def _batches(shard: Path, columns: list[str] | None) -> Any:
    """The row groups of a shard, each as one batch."""
    file = pq.ParquetFile(shard)
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        yield from file.iter_batches(rows, [group], columns)
