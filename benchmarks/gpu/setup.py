"""What the pieces share: the device, models of published shapes with random weights, texts, peak memory."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from benchmarks.peers.timing import peak_mb
from benchmarks.shapes import make_model, workload

from unmask.training.rate import matrix_rate, wait_for

T = TypeVar("T")
Row = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """Where and how large.

    Attributes:
        device: cuda or cpu.
        tiny: two layers and a handful of texts, to try everything out.
        scratch: folder of the models, which the pieces share.
    """

    device: str
    tiny: bool
    scratch: Path

    @property
    def dtype(self) -> str:
        """Of weights and arithmetic."""
        return "bfloat16" if self.device == "cuda" else "float32"

    @property
    def rate(self) -> float:
        """Operations a second that matrix products reach here in that dtype."""
        return _rate(self.device, self.dtype, 0.05 if self.tiny else 1.0)

    def shape(self, name: str) -> str:
        """The shape that stands for one of the published ones."""
        return "tiny" if self.tiny else name

    def some(self, tiny: int, full: int) -> int:
        """A size for trying out and one for measuring."""
        return tiny if self.tiny else full

    def causal_model(self, shape: str) -> Path:
        """A random causal language model; made when first asked for."""
        folder = self.scratch / f"causal-{shape}"
        if not folder.exists():
            make_model(shape, folder, dtype=self.dtype, device=self.device)
        return folder

    def encoder(self, shape: str) -> Path:
        """The same weights as an encoder folder, which sentence-transformers reads too."""
        from unmask import TextEncoder

        folder = self.scratch / f"encoder-{shape}"
        if not folder.exists():
            causal = self.causal_model(shape)
            TextEncoder.load(causal, attention="bidirectional", dtype=self.dtype, device=self.device).save(folder)
        return folder


@cache
def _rate(device: str, dtype: str, seconds: float) -> float:
    return matrix_rate(getattr(torch, dtype), seconds, device)


def texts(name: str, count: int) -> list[str]:
    """So many texts of a workload; where prose runs out they come again, and nothing here remembers a text."""
    found = [text for text in workload(name, count, None) if text]
    return list(islice(cycle(found), count))


def seconds_of(call: Callable[[], Any], device: str, repeats: int) -> float:
    """The median of some calls, each until the device has done it."""
    found = []
    for _ in range(repeats):
        wait_for(device)
        started = time.perf_counter()
        call()
        wait_for(device)
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def with_peak(device: str, call: Callable[[], T]) -> tuple[T, int]:
    """What a call returns, and the bytes it needed at its peak beyond what was there before.

    On a GPU those of torch's allocator, on a CPU those of the process.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.init()  # nobody may have used it yet, and then there are no figures to reset
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found = call()
        return found, torch.cuda.max_memory_allocated() - before
    before = round(peak_mb() * 2**20)
    found = call()
    return found, round(peak_mb() * 2**20) - before


def smallest_cosine(a: Any, b: Any) -> float:
    """Over rows of two arrays."""
    import numpy as np

    products = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(products.min())


def total_tokens(tokenized: Sequence[Sequence[Any]]) -> int:
    """Of all texts."""
    return sum(len(text) for text in tokenized)
