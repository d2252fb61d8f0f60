"""The engine of an objective without accelerate, for tests."""

from contextlib import contextmanager

import torch


class LocalEngine:
    """One process, plain torch; `seed` is that of the step."""

    processes = 1

    def __init__(self, seed=0):
        self.seed = seed

    @contextmanager
    def part(self, number, *, last=True):
        torch.manual_seed(2 * (1000 * self.seed + number))
        yield

    def generator(self, number):
        return torch.Generator().manual_seed(2 * (1000 * self.seed + number) + 1)

    def backward(self, loss):
        loss.backward()

    def total(self, values):
        return values.detach()
