"""The low-rank branch of a LoRA layer, with a backward pass of its own for its first product.

peft casts the layer's input to float32, drops it out, and lets autograd keep every copy: several times the memory and
time of the branch's arithmetic. Here the branch runs in the dtype of the layer, keeps the input it was given (the same
tensor for query, key and value) and a mask of bytes, and its second product is added where the layer's own output lies.
"""

import functools
from typing import Any

import torch
from torch import nn

from unmask.backbone.fast.contract import FastPath
from unmask.backbone.fast.random_masks import dropped_in_compiled, masked, random_mask


class DroppedProduct(torch.autograd.Function):
    """scale * dropout(x) A^T, the first half of LoRA's branch (Hu et al. 2021, arXiv 2106.09685)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, a: torch.Tensor, scale: float, dropout: float) -> torch.Tensor:
        """Rows [rows, rank] of x [rows, in] and a [rank, in], in x's dtype."""
        mask = random_mask(x, dropout) if dropout else None
        ctx.save_for_backward(x, a, mask)
        ctx.scale = scale / (1 - dropout)
        return ((x if mask is None else masked(x, mask)) @ a.to(x.dtype).T) * ctx.scale

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x and a; that of the weight in its own dtype."""
        x, a, mask = ctx.saved_tensors
        given = gradients[0].to(x.dtype) * ctx.scale
        for_a = given.T @ (x if mask is None else masked(x, mask))
        for_x = None
        if ctx.needs_input_grad[0]:
            for_x = given @ a.to(x.dtype)
            for_x = for_x if mask is None else masked(for_x, mask)
        return for_x, for_a.to(a.dtype), None, None


def add_branch(
    result: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, dropout: float
) -> torch.Tensor:
    """The branch's output on top of the frozen layer's `result` [rows, out], in place; b is [out, rank]."""
    if torch.compiler.is_compiling():
        x = dropped_in_compiled(x, dropout) if dropout else x
        return result + (x @ a.to(x.dtype).T * (scale / (1 - dropout))).to(result.dtype) @ b.to(result.dtype).T
    low = DroppedProduct.apply(x, a, scale, dropout)  # type: ignore[no-untyped-call]
    return result.addmm_(low.to(result.dtype), b.to(result.dtype).T)


class LoraBranch(FastPath):
    """The branch as one step, as a fast path of peft's plain LoRA layers; others (DoRA, four bits) stay as they are."""

    name = "lora"

    def attach(self, model: nn.Module) -> None:
        """Let a model's LoRA layers run it in training, in place; `model` is peft's wrapper."""
        from peft.tuners.lora.layer import Linear

        for module in model.modules() if self.available(model) else ():
            if type(module) is Linear:
                module.__class__ = _layer_class()

    def detach(self, model: nn.Module) -> None:
        """Peft's own layers again."""
        for module in model.modules():
            if type(module) is _layer_class():
                module.__class__ = _layer_class().__base__  # type: ignore[assignment]

    def self_test(self) -> float:
        """The branch's gradients against those of the same in single steps."""
        x, a, b = torch.randn(5, 8), torch.randn(2, 8, requires_grad=True), torch.randn(6, 2, requires_grad=True)
        (x @ a.T @ b.T * 2).pow(2).sum().backward()
        expected = torch.cat([a.grad.flatten(), b.grad.flatten()])  # type: ignore[union-attr]
        a.grad = b.grad = None
        add_branch(torch.zeros(5, 6), x, a, b, 2.0, 0.0).pow(2).sum().backward()
        found = torch.cat([a.grad.flatten(), b.grad.flatten()])  # type: ignore[attr-defined]
        return float((found - expected).norm() / expected.norm())


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
            rows = x.flatten(0, -2)
            result = self.base_layer(rows)  # of rows, because adding to a view would cost a copy in the backward pass
            kind = x.device.type
            rows = rows.to(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else result.dtype)
            dropout = getattr(self.lora_dropout[name], "p", 0.0)
            a, b = self.lora_A[name].weight, self.lora_B[name].weight
            return add_branch(result, rows, a, b, self.scaling[name], dropout).unflatten(0, x.shape[:-1])

    return LowRankLinear
