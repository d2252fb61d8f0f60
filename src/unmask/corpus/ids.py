"""Which ids of a long run of ids stood in it before: a digest of each on disk, a bounded number of them in memory."""

import hashlib
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_BYTES = 16  # of a digest: among 10**12 ids the chance that two share one is below 10**-14
_AT_ONCE = 2**20
_PARTS = 64  # files on disk, each with the ids whose digests begin alike, so that one of them is sorted at a time


class SeenIds:
    """Ids in the order in which they come.

    Attributes:
        count: how many there are.
    """

    def __init__(self) -> None:
        self.count = 0
        self._recent = bytearray()
        self._files: list[IO[bytes]] = []

    def add(self, identity: str) -> None:
        """The next id."""
        self._recent += hashlib.blake2b(identity.encode(), digest_size=_BYTES).digest()
        self.count += 1
        if len(self._recent) >= _BYTES * _AT_ONCE:
            self._put_aside()

    def repeated(self, known: int = 0) -> NDArray[np.uint8]:
        """Of each id behind the first `known`: 0 if new, 1 if those have it, 2 if another before it is the same."""
        found = np.zeros(self.count, dtype=np.uint8)
        for part in self._parts():
            part = part[np.lexsort((part[:, 2], part[:, 1], part[:, 0]))]
            same = np.concatenate([[False], (part[1:, :2] == part[:-1, :2]).all(axis=1)])
            first = np.maximum.accumulate(np.where(same, 0, np.arange(len(part))))  # row of part with the id's first
            rows, firsts = part[same, 2], part[first[same], 2]
            found[rows] = np.where(firsts < known, 1, 2)
        return found[known:]

    def _rows(self) -> NDArray[np.uint64]:
        """The recent ids: two halves of a digest, and the number, [ids, 3]."""
        digests = np.frombuffer(bytes(self._recent), dtype=np.uint64).reshape(-1, 2)
        first = self.count - len(digests)
        return np.column_stack([digests, np.arange(first, self.count, dtype=np.uint64)])

    def _put_aside(self) -> None:
        self._files = self._files or [
            tempfile.TemporaryFile()  # noqa: SIM115  closed with this object
            for _ in range(_PARTS)
        ]
        rows = self._rows()
        part = rows[:, 0] % np.uint64(_PARTS)
        for number, file in enumerate(self._files):
            file.write(rows[part == number].tobytes())
        self._recent.clear()

    def _parts(self) -> Iterator[NDArray[Any]]:
        if not self._files:
            yield self._rows()
            return
        self._put_aside()
        for file in self._files:
            file.seek(0)
            yield np.frombuffer(file.read(), dtype=np.uint64).reshape(-1, 3)
