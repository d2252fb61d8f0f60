"""Weights laid out once as the CPU's matrix kernels read them, instead of at every product.

oneDNN turns a plain bfloat16 weight into its own layout whenever it multiplies by it: a tenth of the time of large
batches, a quarter of that of a single query. The laid-out copies take as much memory as the weights.
"""

from functools import cache

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from unmask.backbone.structure import decoder_modules

_MOST_BYTES = 4 << 30  # of weights that a second copy is made of
_ROWS = 1024  # what the layout is chosen for; it serves any number


class PrepackedLinear(nn.Linear):
    """A linear layer that multiplies by a laid-out copy where no gradient is wanted, and is itself otherwise."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Like nn.Linear, up to the order of sums."""
        plain = self.weight.dtype != torch.bfloat16 or input.dtype != torch.bfloat16
        if plain or torch.is_grad_enabled() or type(self.weight) is not nn.Parameter:
            return super().forward(input)
        multiply = _multiply_compiled if torch.compiler.is_compiling() else _multiply
        return multiply(input, self.weight, self.bias)


# By weight and not by module, so that copying and saving modules know nothing of it.
_COPIES: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _multiply(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Input times the copy of a weight, which is made anew when the weight has changed."""
    state = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
    found = _COPIES.get(weight)
    if found is None or found[0] != state:
        found = (state, torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS), _sample(weight))
        _COPIES[weight] = found
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, found[1], bias, "none", [], "")
    return result


@torch.library.custom_op("unmask::prepacked_linear", mutates_args=())
def _multiply_compiled(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The same as one step of a compiled layer."""
    return _multiply(input, weight, bias)


@_multiply_compiled.register_fake
def _(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return input.new_empty(*input.shape[:-1], weight.shape[0])


def prepack(model: nn.Module) -> None:
    """Let the plain linear layers of a bfloat16 model on a CPU use laid-out copies, unless those would be large.

    Called before every use: a copy whose weight was written to through `.data`, which leaves no other trace, is
    dropped here, by a sample of its values.
    """
    place = next(model.parameters())
    if place.device.type != "cpu" or place.dtype != torch.bfloat16 or not _has_kernels():
        return
    linear = [m for m in decoder_modules(model) if isinstance(m, nn.Linear)]
    layers = [m for m in linear if type(m) in (nn.Linear, PrepackedLinear)]
    for layer in layers:
        found = _COPIES.get(layer.weight)
        if found is not None and not torch.equal(found[2], _sample(layer.weight)):
            del _COPIES[layer.weight]
    if sum(layer.weight.nbytes for layer in layers) <= _MOST_BYTES:
        for layer in layers:
            layer.__class__ = PrepackedLinear


@cache
def _has_kernels() -> bool:
    return bool(torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _sample(weight: torch.Tensor) -> torch.Tensor:
    flat = weight.detach().flatten()
    return flat[:: max(1, len(flat) // 32)].clone()
