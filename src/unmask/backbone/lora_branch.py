"""The low-rank branch of a LoRA layer as one step with a backward pass of its own.

peft casts the layer's input to float32, drops it out, and lets autograd keep every copy: several times the memory and
time of the branch's arithmetic. Here the branch runs in the dtype of the layer, keeps the input it was given (the
same tensor for query, key and value) and a mask of bytes, and draws that mask from raw random bits.
"""

import functools
from typing import Any

import numpy as np
import torch
from torch._subclasses import FakeTensor


def drop_mask(shape: torch.Size, dropout: float, device: torch.device) -> torch.Tensor:
    """Bool, True with probability `dropout` (to 1/65536), from torch's random state.

    On a CPU torch draws one number at a time; here one 64-bit draw of SFC64 makes four.
    """
    drawn = torch.randint(2**62, ())
    if device.type != "cpu" or isinstance(drawn, FakeTensor):
        return torch.rand(shape, device=device) < dropout
    count = shape.numel()
    bits = np.random.SFC64(int(drawn)).random_raw(-(-count // 4)).view(np.int16)[:count]
    return (torch.from_numpy(bits) < round(dropout * 65536) - 32768).view(shape)


class LowRankBranch(torch.autograd.Function):
    """scale * dropout(x) A^T B^T (Hu et al. 2021, arXiv 2106.09685)."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, dropout: float
    ) -> torch.Tensor:
        """Branch output [..., out] of x [..., in], a [rank, in], b [out, rank], in x's dtype."""
        gone = drop_mask(x.shape, dropout, x.device) if dropout else None
        own_a, own_b = a.to(x.dtype), b.to(x.dtype)
        dropped = x if gone is None else x.masked_fill(gone, 0)
        scale = scale / (1 - dropout)
        low = dropped @ own_a.T
        ctx.save_for_backward(x, a, b, low, gone)
        ctx.scale = scale
        return (low @ own_b.T) * scale

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x, a and b; those of the weights in their own dtype."""
        x, a, b, low, gone = ctx.saved_tensors
        given = gradients[0].to(x.dtype) * ctx.scale
        given_low = given @ b.to(x.dtype)
        flat, flat_low = given.flatten(0, -2), given_low.flatten(0, -2)
        dropped = x if gone is None else x.masked_fill(gone, 0)
        for_a = flat_low.T @ dropped.flatten(0, -2)
        for_b = flat.T @ low.flatten(0, -2)
        for_x = None
        if ctx.needs_input_grad[0]:
            for_x = given_low @ a.to(x.dtype)
            for_x = for_x if gone is None else for_x.masked_fill_(gone, 0)
        return for_x, for_a.to(a.dtype), for_b.to(b.dtype), None, None


def use_own_branch(wrapped: Any) -> None:
    """Let peft's plain LoRA layers run the branch this way, in place; others (DoRA, four bits) stay as they are."""
    from peft.tuners.lora.layer import Linear

    for module in wrapped.modules():
        if type(module) is Linear:
            module.__class__ = _layer_class()


@functools.cache
def _layer_class() -> type:
    from peft.tuners.lora.layer import Linear

    class LowRankLinear(Linear):  # type: ignore[misc]
        """A peft LoRA layer; everything but its forward pass in training is peft's."""

        def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            """The frozen layer's output plus the branch's."""
            names = self.active_adapters
            one = len(names) == 1 and names[0] in self.lora_A and names[0] not in self.lora_variant
            as_peft = not self.training or self.disable_adapters or self.merged
            if as_peft or not one or self.lora_bias.get(names[0]) or args or kwargs:
                return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]
            (name,) = names
            result = self.base_layer(x)
            kind = x.device.type
            x = x.to(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else result.dtype)
            dropout = getattr(self.lora_dropout[name], "p", 0.0)
            a, b = self.lora_A[name].weight, self.lora_B[name].weight
            return result + LowRankBranch.apply(x, a, b, self.scaling[name], dropout).to(result.dtype)  # type: ignore[no-any-return]

    return LowRankLinear
