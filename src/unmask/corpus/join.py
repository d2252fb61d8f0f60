"""Shards of a small output put together in one file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.lib.format import dtype_to_descr, write_array_header_1_0

from unmask.corpus.manifest import own_file
from unmask.corpus.table import Layout, Totals, parquet_writer, write_companion, write_totals


def join(shards: Sequence[Path], out: Path, layout: Layout, totals: Totals) -> None:
    """Write one Parquet file, or an array and its companion where the name ends in .npy; it appears when it is whole.

    Args:
        shards: in order.
        out: the file.
        layout: of the shards.
        totals: of all of them.
    """
    if out.suffix == ".npy":
        write_companion(out, layout.metadata, totals)
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
    """Written, not mapped: where a disk is full, a mapped file ends the process."""
    kind = np.dtype(layout.schema.field("vector").type.value_type.to_pandas_dtype())
    with own_file(out) as file:
        header = {"descr": dtype_to_descr(kind), "fortran_order": False, "shape": (rows, layout.width)}
        write_array_header_1_0(file, header)
        for shard in shards:
            for batch in _batches(shard, ["vector"]):
                file.write(batch.column(0).flatten().to_numpy(zero_copy_only=False))


def _batches(shard: Path, columns: list[str] | None) -> Any:
    """The row groups of a shard, each as one batch."""
    file = pq.ParquetFile(shard)
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        yield from file.iter_batches(rows, [group], columns)
