"""What a device can do and what a model asks of it: the measured rate of matrix products, operations of a token."""

import time
from typing import Literal

import torch

_SIZES = {  # rows and width of the products that are tried
    "cpu": ((1024, 1024), (2048, 2048), (4096, 1024)),
    "cuda": ((8192, 8192), (8192, 4096), (16384, 4096)),
}


def matrix_rate(dtype: torch.dtype, seconds: float = 1.0, device: str = "cpu") -> float:
    """Floating-point operations a second that products of random matrices reach on a device, best of several shapes."""
    best = 0.0
    for rows, width in _SIZES[torch.device(device).type]:
        a, b = (torch.randn(size, width, dtype=dtype, device=device) for size in (rows, width))
        torch.nn.functional.linear(a, b)  # what a library sets up at its first call is no part of the rate
        wait_for(device)
        ended = time.perf_counter() + seconds / 3
        while time.perf_counter() < ended:
            started = time.perf_counter()
            torch.nn.functional.linear(a, b)
            wait_for(device)
            best = max(best, 2 * rows * width * width / (time.perf_counter() - started))
    return best


def wait_for(device: str) -> None:
    """Until a device has done all that it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def flops_of_a_token(
    body: float,
    *,
    trained: Literal["nothing", "adapter", "all"] = "nothing",
    adapter: float = 0,
    again: float = 0,
    head: float = 0,
) -> float:
    """Floating-point operations that a token needs; products of attention weights are not counted.

    A weight costs 2 in the forward pass, 2 for the gradient of what it was multiplied with, and 2 for its own gradient
    if it is trained. An adapter's branch costs all three; the frozen head of MNTP the first two.

    Args:
        body: weights that every token is multiplied with.
        trained: which of them are.
        adapter: weights of the adapter, which are trained.
        again: share of the tokens whose forward pass is made twice (GradCache, gradient checkpointing).
        head: weights of the head, times the share of tokens that are predicted.
    """
    passes = {"nothing": 2, "adapter": 4, "all": 6}[trained]
    return passes * body + 6 * adapter + 2 * again * (body + adapter) + 4 * head
