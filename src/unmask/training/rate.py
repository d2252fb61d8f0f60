"""What a device can do and what a model asks of it: products a second, operations of a token, the most memory taken."""

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from unmask.backbone.structure import decoder_layers, text_config
from unmask.training.base_settings import TrainedStage

_SIZES = {  # rows and width of the products that are tried
    "cpu": ((512, 512), (1024, 1024), (2048, 2048), (4096, 1024)),
    "cuda": ((8192, 8192), (8192, 4096), (16384, 4096)),
}


def matrix_rate(dtype: torch.dtype, seconds: float = 1.0, device: torch.device | str = "cpu") -> float:
    """Floating-point operations a second that products of random matrices reach on a device, best of several shapes."""
    best, until = 0.0, time.perf_counter() + seconds
    for rows, width in _SIZES.get(torch.device(device).type, _SIZES["cpu"]):
        if time.perf_counter() > until:  # without instructions for the dtype larger ones take a minute
            break
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


def wait_for(device: torch.device | str) -> None:
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


def training_flops(model: nn.Module, settings: TrainedStage) -> float:
    """Operations of a token in training; of a model whose layers are experts as if all of them were asked."""
    layers = [p for layer in decoder_layers(model) for p in layer.parameters()]
    trained = sum(p.numel() for p in layers if p.requires_grad)
    frozen = sum(p.numel() for p in layers) - trained
    config = text_config(model)
    again = float(settings.gradient_checkpointing is True or settings.runs_again)
    head = settings.label_share * config.vocab_size * config.hidden_size
    if not settings.has_adapter:
        return flops_of_a_token(trained, trained="all", again=again, head=head)
    return flops_of_a_token(frozen, trained="adapter", adapter=trained, again=again, head=head)


def forget_peak(device: torch.device) -> None:
    """Let `peak_bytes` begin anew, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(device: torch.device) -> int:
    """The most memory since `forget_peak`: of a GPU what tensors took, of a CPU all that the process had."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss may be that of the process which started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource  # not on Windows

    return _largest_set(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, sys.platform)


def _largest_set(maxrss: int, platform: str) -> int:
    """`ru_maxrss` in bytes: macOS counts them, other systems units of 1,024."""
    return maxrss if platform == "darwin" else maxrss * 1024
