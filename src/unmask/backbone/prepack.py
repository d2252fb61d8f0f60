"""Weights laid out once as the CPU's matrix kernels read them, instead of at every product.

oneDNN turns a plain bfloat16 weight into its own layout whenever it multiplies by it: a tenth of the time of large
batches, a third of that of a single query. In float32, where torch takes another library's products, they save as
much. The laid-out copies take as much memory as the weights.
"""

import platform
import weakref
from typing import Any

import torch
from torch import nn

from unmask.backbone.structure import decoder_modules

_MOST_BYTES = 4 << 30  # of weights that a second copy is made of
_ROWS = 1024  # what the layout is chosen for; it serves any number
_SAMPLE = 32  # values of a weight that are compared before every use


def _dtypes() -> tuple[torch.dtype, ...]:
    """What this CPU's kernels multiply faster so."""
    if not torch._C._has_mkldnn:
        return ()
    single = (torch.float32,) if platform.machine().lower() in ("x86_64", "amd64") else ()  # measured nowhere else
    return (*single, torch.bfloat16) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else single


_DTYPES = _dtypes()


class PrepackedLinear(nn.Linear):
    """A linear layer that multiplies by a laid-out copy in inference mode, and is itself otherwise."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Like nn.Linear, up to the order of sums."""
        weight = self.weight
        alike = input.dtype == weight.dtype and weight.dtype in _DTYPES and not torch.is_autocast_enabled("cpu")
        if weight.device.type != "cpu" or not alike or torch.is_grad_enabled() or not _is_plain(weight):
            return super().forward(input)
        multiply = torch.ops.unmask.prepacked_linear.default if torch.compiler.is_compiling() else _multiply
        return multiply(input, weight, self.bias)


# By weight and not by module, so that copying and saving modules know nothing of it: id -> (state, copy).
_COPIES: dict[int, tuple[tuple[int, int], torch.Tensor]] = {}


def _multiply(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Input times the copy of a weight, which is made anew when the weight has changed.

    Only in inference mode, not merely without gradients: GradCache's first pass multiplies as its second does.
    """
    if not torch.is_inference_mode_enabled():  # asked here, because dynamo cannot
        return nn.functional.linear(input, weight, bias)
    state = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
    found = _COPIES.get(id(weight))
    if found is None or found[0] != state:
        if found is None:
            weakref.finalize(weight, _COPIES.pop, id(weight), None)
        found = (state, torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS))
        _COPIES[id(weight)] = found
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(input, found[1], bias, "none", [], "")
    return result


# The same as one step of a compiled layer; defined without the wrapper of `custom_op`, which costs more than a product.
_LIBRARY = torch.library.Library("unmask", "FRAGMENT")
_LIBRARY.define("prepacked_linear(Tensor input, Tensor weight, Tensor? bias) -> Tensor")
_LIBRARY.impl("prepacked_linear", _multiply, "CPU")


def _shape_only(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return input.new_empty(*input.shape[:-1], weight.shape[0])


torch.library.register_fake("unmask::prepacked_linear", _shape_only)


class PrepackedLayers:
    """The linear layers of one model, multiplying by laid-out copies, unless those would be large.

    Args:
        model: the backbone; only one on a CPU is changed, in bfloat16 or float32.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._layers: list[PrepackedLinear] = []
        self._places: list[int] = []
        self._samples: list[torch.Tensor] = []  # views of the weights
        self._seen = torch.empty(0)

    def refresh(self) -> None:
        """Called before every use: copies of weights that were written to through `.data` are dropped.

        Such a write, as peft merges an adapter, leaves no other trace than the values.
        """
        place = next(self._model.parameters())
        if place.device.type != "cpu" or place.dtype not in _DTYPES:
            return
        if not self._layers:
            self._layers = _plain_layers(self._model)
        weights = [layer.weight for layer in self._layers if _is_plain(layer.weight)]
        places = [weight.data_ptr() for weight in weights]
        if places != self._places:
            self._places = places
            self._samples = [_sample(weight) for weight in weights]
        elif weights and torch.equal(torch.cat(self._samples), self._seen):
            return
        for weight in weights:
            found = _COPIES.get(id(weight))
            if found is not None:  # no state of a weight is this one
                _COPIES[id(weight)] = ((0, -1), found[1])
        self._seen = torch.cat(self._samples) if self._samples else self._seen


def _plain_layers(model: nn.Module) -> list[PrepackedLinear]:
    linear: list[Any] = [m for m in decoder_modules(model) if type(m) in (nn.Linear, PrepackedLinear)]
    if sum(layer.weight.nbytes for layer in linear) > _MOST_BYTES:
        return []
    for layer in linear:
        layer.__class__ = PrepackedLinear
    return linear


def _is_plain(weight: torch.Tensor) -> bool:
    """Not one that torchao, say, has put an integer weight in the place of."""
    return type(weight) is nn.Parameter


def _sample(weight: torch.Tensor) -> torch.Tensor:
    flat = weight.detach().flatten()
    return flat[:: max(1, len(flat) // _SAMPLE)]
