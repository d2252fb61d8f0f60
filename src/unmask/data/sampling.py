"""Which rows belong to which step: a pure function of seed and step, so that a resumed run needs no state."""

from functools import lru_cache

import numpy as np

from unmask.errors import DataError


class EpochSampler:
    """Rows in a fresh random order each epoch, `batch_size` of them a step; an epoch's short rest is dropped.

    Args:
        num_rows: rows there are.
        batch_size: rows a step.
        seed: decides every order.
        what: for the error message.
    """

    def __init__(self, num_rows: int, batch_size: int, seed: int, what: str = "rows") -> None:
        if num_rows < batch_size:
            raise DataError(f"{num_rows} {what} are fewer than one batch of {batch_size}; add data or lower the batch.")
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = num_rows // batch_size
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def rows(self, step: int) -> list[int]:
        """Row numbers of a step, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        chosen: list[int] = self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size].tolist()
        return chosen

    def _shuffle(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.random.default_rng((self.seed, epoch)).permutation(self.num_rows)
