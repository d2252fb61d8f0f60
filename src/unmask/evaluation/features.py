"""Word vectors of a whole corpus on disk: the encoder reads it once, any number of probes train on it.

Vectors lie in memory-mapped files whose pages are given back as soon as they were used; what stays in memory is a
label number a word and task.
"""

import mmap
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from unmask.backbone.structure import num_layers
from unmask.data.words import Corpus
from unmask.encoder import Floats, TextEncoder, WordPosition, word_states
from unmask.errors import DataError
from unmask.evaluation.probe import Rows
from unmask.text.chunks import chunks

Labels = NDArray[np.int32]
LabelNumbers = dict[str, dict[str, int]]  # task -> label -> number; training and test corpus share one
View = tuple[WordPosition, int]  # which state of a word: position and layer
_SENTENCES_AT_ONCE = 1024
_CHUNK_BYTES = 8 << 20
_ADVICE = "choose fewer layers, or another place with the environment variable TMPDIR."


class MappedRows(Rows):
    """Vectors in a new file; what was read or written does not stay in memory.

    Attributes:
        array: the memory-mapped rows, float32 [rows, width].
    """

    def __init__(self, path: Path, rows: int, width: int) -> None:
        size = rows * width * 4
        with path.open("w+b") as file:
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # a disk that is full says so now, not by a signal in the middle
                _allocate(file.fileno(), size, path)
            self._map = mmap.mmap(file.fileno(), 0)
        path.unlink()  # the map keeps what is in it; so a process that is killed leaves no gigabytes behind
        super().__init__(np.frombuffer(self._map, dtype=np.float32, count=rows * width).reshape(rows, width))

    def chunks(self) -> Iterator[tuple[int, Floats]]:
        """First row and rows of one piece after the other."""
        rows = max(1, _CHUNK_BYTES // max(1, self.array[:1].nbytes))
        for start in range(0, len(self.array), rows):
            yield start, self.array[start : start + rows]
            self.release()

    def release(self) -> None:
        """Give the pages back; they stay on disk and in the system's cache."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.flush()
            self._map.madvise(mmap.MADV_DONTNEED)


def _allocate(file: int, size: int, path: Path) -> None:
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        raise DataError(f"{path.parent} has no room for {size / 1e9:.1f} GB of word vectors: {_ADVICE}") from error


@dataclass(frozen=True, slots=True)
class CorpusShape:
    """What one look at a corpus tells: words of each sentence, int32 [sentences], and tasks."""

    lengths: Labels
    tasks: tuple[str, ...]

    @property
    def words(self) -> int:
        """Words in all."""
        return int(self.lengths.sum())


@dataclass(frozen=True, slots=True)
class WordFeatures:
    """A corpus as word vectors: a matrix [words, width] a view, and label numbers [words] a task."""

    shape: CorpusShape
    vectors: dict[View, MappedRows]
    labels: dict[str, Labels]


def look_over(corpus: Corpus, names: LabelNumbers) -> CorpusShape:
    """Read a corpus to its end, before any model is loaded: counts, labels, and whatever is wrong with it.

    A label that `names` does not have yet gets the next number there.

    Raises:
        DataError: a broken line, no sentence, or sentences that do not all have the same tasks.
    """
    lengths: list[int] = []
    tasks: tuple[str, ...] = ()
    for sentence in corpus:
        tasks = tasks or tuple(sentence.labels)
        if tuple(sentence.labels) != tasks:
            raise DataError(f"Sentence {len(lengths)} has the tasks {', '.join(sentence.labels)}, not {tasks}.")
        for task, labels in sentence.labels.items():
            known = names.setdefault(task, {})
            for label in labels:
                known.setdefault(label, len(known))
        lengths.append(len(sentence.words))
    if not lengths:
        raise DataError("The corpus has no sentence.")
    return CorpusShape(np.asarray(lengths, dtype=np.int32), tasks)


def extract(
    encoder: TextEncoder,
    corpus: Corpus,
    shape: CorpusShape,
    names: LabelNumbers,
    folder: Path,
    *,
    positions: Sequence[WordPosition],
    layers: Sequence[int] | None = None,
    progress: bool = False,
) -> WordFeatures:
    """Run the encoder once over a corpus and lay its word vectors into files.

    Args:
        encoder: frozen.
        corpus: labelled sentences.
        shape: what `look_over` said about it.
        names: where its labels were numbered.
        folder: for the files; must exist and have room.
        positions: see `word_states`.
        layers: by default the last.
        progress: show a bar.

    Raises:
        DataError: too little disk, or a sentence that is too long.
    """
    wanted = list(dict.fromkeys(layers)) if layers is not None else [num_layers(encoder.model)]
    views: list[View] = [(position, layer) for position in positions for layer in wanted]
    check_room(folder, shape.words * encoder.dimension * 4 * len(views))
    matrices = {view: MappedRows(folder / f"{view[0]}-{view[1]}.f32", shape.words, encoder.dimension) for view in views}
    labels = {task: np.empty(shape.words, dtype=np.int32) for task in shape.tasks}
    starts = np.concatenate([[0], np.cumsum(shape.lengths, dtype=np.int64)])
    done = unwritten = 0
    with tqdm(total=shape.words, unit="word", desc=folder.name, disable=not progress) as bar:
        for sentences in chunks(corpus, _SENTENCES_AT_ONCE):
            for offset, sentence in enumerate(sentences):
                where = slice(starts[done + offset], starts[done + offset + 1])
                for task, own in sentence.labels.items():
                    labels[task][where] = [names[task][label] for label in own]
            words = [sentence.words for sentence in sentences]
            for row, vectors in word_states(encoder, words, positions=positions, layers=wanted, first=done):
                where = slice(starts[done + row], starts[done + row + 1])
                flat = vectors.reshape(len(views), *vectors.shape[2:])
                for matrix, own_vectors in zip(matrices.values(), flat, strict=True):
                    matrix.array[where] = own_vectors
                unwritten += vectors.nbytes
                if unwritten > _CHUNK_BYTES:
                    _release(matrices.values())
                    unwritten = 0
                bar.update(len(words[row]))
            done += len(sentences)
    _release(matrices.values())
    return WordFeatures(shape, matrices, labels)


def _release(matrices: Iterable[MappedRows]) -> None:
    for matrix in matrices:
        matrix.release()


def check_room(folder: Path, needed: int) -> None:
    """Refuse to begin what will not fit.

    Raises:
        DataError: fewer than `needed` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"Word vectors will take {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB left: {_ADVICE}"
        )
