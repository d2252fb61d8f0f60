"""Dropout with masks from raw random bits.

On a CPU torch draws one number at a time, which takes longer than the products around it. Here one 64-bit draw of
SFC64 makes four elements of a mask, and dropping is an `and` of integers.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from unmask.backbone.fast import operators
from unmask.backbone.fast.contract import Availability, FastPath, wanted

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def draw_seed() -> int:
    """The next seed of torch's random state."""
    return int(torch.randint(2**62, ()))


def random_mask(x: torch.Tensor, dropout: float, seed: int | None = None) -> torch.Tensor:
    """A mask in the shape of x, int8: 0 with probability `dropout` (to 1/32768), else -1.

    Args:
        x: a tensor of the shape.
        dropout: how likely a value is dropped.
        seed: of the draw; by default the next of torch's random state.
    """
    if x.device.type != "cpu" or operators.is_fake(x) or not wanted("masks"):
        own = None if seed is None else torch.Generator(x.device).manual_seed(seed)
        return -(torch.rand(x.shape, device=x.device, generator=own) >= dropout).to(torch.int8)
    count = x.numel()
    drawn = torch.from_numpy(
        np.random.SFC64(draw_seed() if seed is None else seed).random_raw(-(-count // 4)).view(np.int16)[:count]
    )
    # Fifteen random bits less the share's part of their range: the sign says whether to drop, and is spread.
    below = drawn.bitwise_and_(0x7FFF).neg_().add_(round(dropout * 0x8000) - 1)
    return below.bitwise_right_shift_(15).to(torch.int8).view(x.shape)


def masked(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The values of x, zeros where the mask has them; not rescaled."""
    integers = _INTEGERS[x.element_size()]
    return (x.view(integers) & mask.to(integers)).view(x.dtype)


def _mask(x: torch.Tensor, dropout: float) -> torch.Tensor:
    return random_mask(x, dropout)


def _shape_only(x: torch.Tensor, dropout: float) -> torch.Tensor:
    return x.new_empty(x.shape, dtype=torch.int8)


operators.define("random_mask(Tensor x, float dropout) -> Tensor", _mask, _shape_only, ("CPU",), random=True)


def dropped_in_compiled(x: torch.Tensor, dropout: float) -> torch.Tensor:
    """Dropout without rescaling, as layers that are compiled do it: torch drops in one pass with what is around it."""
    return torch.where(torch.ops.unmask.random_mask(x, dropout).bool(), x, 0)


class ResidualDropout(torch.autograd.Function):
    """Dropout on what a layer adds to the residual stream: before + dropout(after - before)."""

    @staticmethod
    def forward(ctx: Any, before: torch.Tensor, after: torch.Tensor, dropout: float) -> torch.Tensor:
        """The stream behind the layer, in the shape of both."""
        added = after - before
        mask = random_mask(added, dropout)
        ctx.save_for_backward(mask)
        ctx.scale = 1 / (1 - dropout)
        return torch.add(before, masked(added, mask), alpha=ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Where a part was dropped, the gradient goes past the layer."""
        (given,) = gradients
        for_after = masked(given.contiguous(), *ctx.saved_tensors).mul_(ctx.scale)
        return given - for_after, for_after, None


def drop_added(before: torch.Tensor, after: torch.Tensor, dropout: float) -> torch.Tensor:
    """Dropout on what a layer adds to the residual stream, on a CPU."""
    if torch.compiler.is_compiling():
        return before + dropped_in_compiled(after - before, dropout) * (1 / (1 - dropout))
    return ResidualDropout.apply(before, after, dropout)  # type: ignore[no-any-return, no-untyped-call]


class RandomMasks(FastPath):
    """Masks from raw random bits, as a fast path; what drops by them asks at each draw."""

    name = "masks"

    def available(self, model: nn.Module) -> Availability:
        """On a CPU."""
        if next(model.parameters()).device.type != "cpu":
            return Availability(False, "a GPU draws fast enough")
        return super().available(model)

    def self_test(self) -> float:
        """What is kept is untouched: the distance of the kept values from their own."""
        values = torch.randn(64, 64)
        mask = random_mask(values, 0.3)
        expected = torch.where(mask == 0, 0.0, values)
        return float((masked(values, mask) - expected).norm() / expected.norm())
