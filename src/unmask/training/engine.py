"""How the parts of a step are run: their randomness, their gradients, and the other processes, through accelerate."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate.utils import DistributedType


class StepEngine:
    """The objectives' engine on accelerate; what is random follows from (seed, step, number of the part).

    Args:
        accelerator: of the run.
        model: as accelerate prepared it.
        seed: of the stage.
    """

    def __init__(self, accelerator: Any, model: Any, seed: int) -> None:
        self.processes = int(accelerator.num_processes)
        self.step = 0
        self._accelerator = accelerator
        self._model = model
        self._seed = seed

    @contextmanager
    def part(self, number: int, *, last: bool) -> Iterator[None]:
        """Seed torch on every device; keep gradients at home until the last part."""
        torch.manual_seed(draw(self._seed, 0, self.step, number))
        self._accelerator.sync_gradients = last  # DeepSpeed is told so, and has no other way to wait
        waits = not last and self._accelerator.distributed_type != DistributedType.DEEPSPEED
        with self._accelerator.no_sync(self._model) if waits else nullcontext():
            yield

    def generator(self, number: int) -> torch.Generator:
        """A CPU generator with a stream of its own."""
        return torch.Generator().manual_seed(draw(self._seed, 1, self.step, number))

    def backward(self, loss: torch.Tensor) -> None:
        """Backward under the precision and distribution of the run."""
        self._accelerator.backward(loss)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over all processes."""
        summed: torch.Tensor = self._accelerator.reduce(values.detach().clone(), reduction="sum")
        return summed


def draw(*numbers: int) -> int:
    """A seed that follows from some numbers, from their order and from how many there are."""
    return int(np.random.SeedSequence((len(numbers), *numbers)).generate_state(1, np.uint64)[0] >> 1)
