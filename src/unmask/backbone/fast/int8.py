"""Linear layers in eight bits for encoding on a CPU: a scale for each row of the weights, one for each token.

What a token's product is rounded to depends on that token alone, so a vector does not depend on its batch. oneDNN
multiplies bytes with the VNNI or AMX instructions of the processor; compiled layers take rounding and scaling in the
same pass as the norms and gates beside them.

Decoders have a few input channels that are a hundred times as large as the rest, so that bytes would be left for these
alone. The largest that some texts show are multiplied as they are (LLM.int8(), arXiv 2208.07339); the others are
divided down, and the weights of the channel multiplied up (SmoothQuant, arXiv 2211.10438).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from unmask.backbone.fast import operators
from unmask.backbone.fast.contract import Availability
from unmask.backbone.fast.prepack import PrepackedLinear
from unmask.backbone.structure import decoder_modules

_MOST = 127  # of a signed byte; symmetric, so that no zero point is needed
_SHARE = 0.5  # of a channel's size that goes from the input into the weights
_EXACT = 32  # channels that are not rounded, or one of so many if that is fewer:
_ONE_OF = 16
_LEAST = 1e-5


class Int8Linear(nn.Module):
    """Stands in for a linear layer: products of bytes, summed in integers, scaled back to the dtype of the input.

    Args:
        linear: whose weights are rounded, [out, in]; a layer of zeros stays one.
        largest: the largest size of each input channel that was seen, [in]; None if no text came here.

    Attributes:
        weight: int8 [in, out].
        scale: float32 [out]; of a row of the weights.
        smooth: float32 [in]; what inputs are multiplied by, zero for those that are not rounded.
        exact: int64 [channels]; the inputs that are not rounded.
        exact_weight: float32 [channels, out]; theirs.
        bias: as in the linear layer.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    smooth: torch.Tensor
    exact: torch.Tensor
    exact_weight: torch.Tensor

    def __init__(self, linear: nn.Linear, largest: torch.Tensor | None = None) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        seen = torch.ones(linear.in_features) if largest is None else largest
        grown, exact = torch.ones_like(seen), torch.empty(0, dtype=torch.int64)
        if largest is not None:
            grown, exact = smoothing(weight, seen)
        self.register_buffer("exact", exact)
        self.register_buffer("exact_weight", weight[:, exact].t().contiguous())
        rounded = (weight * grown).index_fill_(1, exact, 0)
        scale = _scale(rounded)
        self.register_buffer("weight", (rounded / scale).round().to(torch.int8).t().contiguous())
        self.register_buffer("scale", scale.flatten())
        self.register_buffer("smooth", (1 / grown).index_fill_(0, exact, 0))
        self.bias = linear.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Like the linear layer, to about a hundredth; input [..., in]."""
        rows = input.reshape(-1, input.shape[-1]).float()
        smooth = rows * self.smooth
        scale = _scale(smooth)
        product = torch._int_mm((smooth / scale).round_().to(torch.int8), self.weight)
        scaled = (product * self.scale).mul_(scale)
        scaled += rows[:, self.exact] @ self.exact_weight
        if self.bias is not None:
            scaled += self.bias
        return scaled.to(input.dtype).view(*input.shape[:-1], -1)


def available(model: nn.Module) -> Availability:
    """On a CPU, where torch multiplies bytes, for layers that are plain linear ones, adapters merged."""
    if next(model.parameters()).device.type != "cpu":
        return Availability(False, "eight bits are for CPUs alone")
    if operators.find("torch._int_mm") is None:
        return Availability(False, f"torch {torch.__version__} multiplies no eight-bit matrices")
    if any(hasattr(module, "base_layer") for module in decoder_modules(model)):  # peft's
        return Availability(False, "its adapters are kept apart; load it with merge=True")
    if not _linear_children(model):
        return Availability(False, "the model has no plain linear layers")
    return Availability(True)


@contextmanager
def largest_inputs(model: nn.Module) -> Iterator[dict[nn.Module, torch.Tensor]]:
    """The largest size of each input channel [in] of every linear layer, of all that is encoded inside."""
    found: dict[nn.Module, torch.Tensor] = {}

    def look(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        sizes = inputs[0].detach().float().abs().flatten(0, -2).amax(0)
        found[layer] = torch.maximum(found[layer], sizes) if layer in found else sizes

    hooks = [linear.register_forward_pre_hook(look) for _, _, linear in _linear_children(model)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def put_in_int8(model: nn.Module, largest: Mapping[nn.Module, torch.Tensor]) -> None:
    """Put the linear layers of the decoder layers into eight bits, in place, by what `largest_inputs` has seen."""
    for parent, name, linear in _linear_children(model):
        setattr(parent, name, Int8Linear(linear, largest.get(linear)))


def _linear_children(model: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """Plain linear layers with where they are; those of other libraries, in four bits for example, are their own."""
    children = [(parent, *child) for parent in decoder_modules(model) for child in parent.named_children()]
    return [
        (parent, name, child)
        for parent, name, child in children
        if isinstance(child, nn.Linear) and type(child) in (nn.Linear, PrepackedLinear)
    ]


def smoothing(weight: torch.Tensor, largest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How input channels are brought to like sizes before they are rounded.

    Args:
        weight: [out, in], of all layers that read these inputs.
        largest: the largest size of each input channel that was seen, [in].

    Returns:
        What the weights of each channel are multiplied by, and its inputs divided by, [in]; 1 in the (geometric) mean.
        And the channels that are too large all the same and not rounded.
    """
    own = weight.abs().amax(0).clamp(min=_LEAST)
    grown = largest.clamp(min=_LEAST) ** _SHARE / own ** (1 - _SHARE)
    grown /= grown.log().mean().exp()
    exact = (largest / grown).topk(min(_EXACT, len(largest) // _ONE_OF)).indices
    return grown, exact


def _scale(rows: torch.Tensor) -> torch.Tensor:
    """What a row's largest value is divided by to be 127, [rows, 1]; a row of zeros has 1."""
    largest = torch.linalg.vector_norm(rows, ord=float("inf"), dim=1, keepdim=True) / _MOST
    return largest.masked_fill_(largest == 0, 1)
