"""Shards of an output, encoded one after the other on one stream; the only way in which vectors get into files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unmask.corpus.inputs import Input, Reading
from unmask.corpus.kinds import Kinds
from unmask.corpus.manifest import Manifest
from unmask.corpus.survey import Place, Shard, pass_over, read_from, shard_records, unpacked
from unmask.corpus.table import Layout, Totals, parquet_writer, read_said, shortened, write_totals
from unmask.data.records import Record
from unmask.encoder import TextEncoder
from unmask.encoder.stream import StreamOptions, stream_windows, windows
from unmask.errors import DataError

_Rows = Iterator[tuple[Place, Record]]


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that encoding a shard needs beside the encoder; the same in every process.

    Attributes:
        folder: of the shards.
        inputs: of the addition whose shards are encoded.
        reading: how rows are read.
        manifest: what the output is made of.
        addition: its number in the manifest.
        metadata: what each file says of itself.
        batch_tokens: most tokens in a batch; None for what suits the device.
    """

    folder: Path
    inputs: tuple[Input, ...]
    reading: Reading
    manifest: Manifest
    addition: int = 0
    metadata: bytes = b""
    batch_tokens: int | None = None

    @property
    def layout(self) -> Layout:
        """The columns of its files."""
        manifest = self.manifest
        return Layout(manifest.settings["precision"], manifest.dimension, manifest.kinds, self.metadata)

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"part-{number:05d}.parquet"

    def numbers(self) -> range:
        """The shards of the addition."""
        first = sum(len(addition.shards) for addition in self.manifest.additions[: self.addition])
        return range(first, first + len(self.manifest.additions[self.addition].shards))

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Those of some shards that are not there yet."""
        return [number for number in numbers if not self.path(number).exists()]

    def totals(self, numbers: Iterable[int]) -> Totals:
        """What is in some shards that are there.

        Raises:
            DataError: one is not what the manifest says.
        """
        found = Totals()
        for number in numbers:
            said = read_said(self.path(number))
            if said is None or (said[0], said[1].rows) != (self.metadata, self.manifest.shards[number].rows):
                raise DataError(
                    f"{self.path(number)} is not the shard that the manifest tells of; remove it, and the same command "
                    "encodes it again."
                )
            found += said[1]
        return found

    def tidy(self, numbers: Iterable[int]) -> None:
        """Remove what killed processes left of some shards."""
        names = {self.path(number).name for number in numbers}
        for path in self.folder.glob("part-*.partial"):
            if path.name[: path.name.index(".parquet") + len(".parquet")] in names:
                path.unlink(missing_ok=True)

    def marks_path(self) -> Path:
        """The file that says which rows of the addition are not encoded; only where there are some."""
        return self.folder / f".passed-over-{self.addition}.npy"


def encode_shards(
    encoder: TextEncoder, job: Job, numbers: Sequence[int], advance: Callable[[int], object] | None = None
) -> Iterator[Totals]:
    """Encode shards of an addition, and write each; yields what was in it when it is there.

    Texts are put together in windows that end where a shard ends, so that its vectors do not depend on those before it.

    Args:
        encoder: that of the manifest.
        job: see there.
        numbers: of the shards, in order.
        advance: called with a number of texts whenever so many more are encoded.

    Raises:
        DataError: a text that cannot be encoded; inputs that changed while they were read.
        EncodingError: a vector that is not finite.
        CorpusError: a shard that cannot be written.
    """
    settings, shards, layout = job.manifest.settings, job.manifest.shards, job.layout
    options = StreamOptions(
        prompt=settings["prompt"],
        max_length=settings["max_length"],
        normalize=settings["normalize"],
        batch_tokens=job.batch_tokens,
        total=sum(shards[number].rows for number in numbers),
        advance=advance,
    )
    stream = stream_windows(encoder.reader, encoder.runner, _windows(job, numbers), options)
    for number in numbers:
        totals = Totals()
        with parquet_writer(job.path(number), layout) as writer:
            while totals.rows < shards[number].rows:
                found = next(stream, None)
                if found is None:
                    raise DataError("The inputs changed while they were read: they have fewer rows than before.")
                vectors = shortened(found.vectors, settings["dimensions"])
                ids, kept = zip(*found.keys, strict=True)
                writer.write_batch(layout.batch(ids, kept, vectors))
                totals += Totals(len(ids), found.tokens, found.cut)
                del found, vectors, ids, kept  # before the next window is encoded
            write_totals(writer, totals)
        yield totals


def _windows(job: Job, numbers: Sequence[int]) -> Iterator[tuple[list[Any], list[str]]]:
    """Windows of all shards; inputs are read on from shard to shard, and opened anew only where some are left out."""
    shards, bits = job.manifest.shards, None
    if job.marks_path().exists():
        bits = np.load(job.marks_path(), mmap_mode="r", allow_pickle=False)
    elif any(shards[number].rows < shards[number].span for number in numbers):
        raise DataError(f"{job.marks_path()} is missing, which says what rows are not encoded; copy it, too.")
    rows: _Rows = iter(())
    at = -1  # number of the row that `rows` gives next
    for number in numbers:
        shard = shards[number]
        if shard.first != at:
            rows = _rows_from(job, shard)
        marks = None if bits is None else unpacked(bits, shard)
        records = shard_records(rows, shard, marks)
        yield from windows(((record.id, record.kept), record.text) for record in records)
        at = shard.first + shard.span


def _rows_from(job: Job, shard: Shard) -> _Rows:
    kinds = Kinds(job.reading.columns.keep, job.manifest.kinds)
    return read_from(job.inputs, job.reading, kinds, pass_over, shard.place)
