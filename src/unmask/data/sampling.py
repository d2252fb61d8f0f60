"""Which rows belong to which step: a pure function of seed and step, so that a resumed run needs no state."""

from collections.abc import Mapping
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

    def epoch(self, step: int) -> int:
        """How often all rows came before a step."""
        return step // self.steps_per_epoch

    def rows(self, step: int) -> list[int]:
        """Row numbers of a step, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size].tolist()

    def _shuffle(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.random.default_rng((self.seed, epoch)).permutation(self.num_rows)


class MixedSampler:
    """Several data sets, each step's rows from one of them; the sets take turns in a fresh random order each epoch.

    In an epoch a set has `weight x rows / batch_size` steps. Its own rows go round in epochs of their own, so with a
    weight below 1 the next epoch continues where the last one stopped, and every row comes to its turn.

    Args:
        sizes: rows of each set, by name.
        weights: of each set; 1 where it is not named.
        batch_size: rows a step.
        seed: decides every order.

    Raises:
        DataError: a set that would never be drawn, because it has too few rows for one step of an epoch.
    """

    def __init__(self, sizes: Mapping[str, int], weights: Mapping[str, float], batch_size: int, seed: int) -> None:
        self.names = list(sizes)
        self.seed = seed
        self._own, turns = [], []
        for number, (name, size) in enumerate(sizes.items()):
            weight = weights.get(name, 1.0)
            own_seed = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
            self._own.append(EpochSampler(size, batch_size, own_seed, f"rows of {name}"))
            turns.append(int(weight * size / batch_size))
            if not turns[-1]:
                raise DataError(
                    f"{name}: {size} rows at weight {weight:g} are fewer than one batch of {batch_size}, so it would "
                    "never be drawn; raise its weight, lower the batch, or leave it out."
                )
        self.turns = dict(zip(self.names, turns, strict=True))
        self._flat = np.repeat(np.arange(len(turns)), turns)
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def rows(self, step: int) -> tuple[str, list[int], int]:
        """The set of a step (from 0), the numbers of its rows, and how often the set was gone through before."""
        epoch, place = divmod(step, len(self._flat))
        order = self._order(epoch)
        chosen = int(order[place])
        before = epoch * list(self.turns.values())[chosen] + int((order[:place] == chosen).sum())
        own = self._own[chosen]
        return self.names[chosen], own.rows(before), own.epoch(before)

    def _shuffle(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.random.default_rng((self.seed, epoch, 1)).permutation(self._flat)
