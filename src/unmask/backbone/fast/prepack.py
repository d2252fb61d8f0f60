"""Weights laid out once as the CPU's matrix kernels read them, instead of at every product.

oneDNN turns a plain bfloat16 weight into its own layout whenever it multiplies by it: a tenth of the time of large
batches, a third of that of a single query. In float32, where torch takes another library's products, they save as
much. The laid-out copies take as much memory as the weights.
"""

import platform
import threading
import weakref
from typing import Any

import torch
from torch import nn

from unmask.backbone.fast import operators
from unmask.backbone.fast.contract import Availability, FastPath
from unmask.backbone.structure import decoder_modules

_MOST_BYTES = 4 << 30  # of weights that a second copy is made of
_ROWS = 1024  # what the layout is chosen for; it serves any number
_SAMPLE = 32  # values of a weight that are compared before every use


def _dtypes() -> tuple[torch.dtype, ...]:
    if operators.packed_product() is None:
        return ()
    single = (torch.float32,) if platform.machine().lower() in ("x86_64", "amd64") else ()  # measured nowhere else
    return (*single, torch.bfloat16) if operators.knows_bf16_on_cpu() else single


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

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies are plain linear layers."""
        made: Any = super().__reduce_ex__(protocol)
        return made[0], (nn.Linear, *made[1][1:]), *made[2:]


# By weight and not by module, so that copying and saving modules know nothing of it: id -> (state, copy).
_COPIES: dict[int, tuple[tuple[int, int], torch.Tensor]] = {}


def _multiply(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Input times the copy of a weight, which is made anew when the weight has changed.

    Only in inference mode, not merely without gradients: GradCache's first pass multiplies as its second does.
    """
    if not torch.is_inference_mode_enabled():  # asked here, because dynamo cannot
        return nn.functional.linear(input, weight, bias)
    packed = operators.packed_product()
    assert packed is not None
    reorder, product = packed
    state = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
    found = _COPIES.get(id(weight))
    if found is None or found[0] != state:
        if found is None:
            weakref.finalize(weight, _COPIES.pop, id(weight), None)
        found = (state, reorder(weight.detach(), _ROWS))
        _COPIES[id(weight)] = found
    return product(input, found[1], bias, "none", [], "")


def _shape_only(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return input.new_empty(*input.shape[:-1], weight.shape[0])


operators.define(
    "prepacked_linear(Tensor input, Tensor weight, Tensor? bias) -> Tensor", _multiply, _shape_only, ("CPU",)
)


_USERS: dict[int, int] = {}  # encoders of a model, by the identity of its first linear layer
_LOCK = threading.RLock()  # collecting garbage inside may end another encoder of the same thread


class PrepackedLayers(FastPath):
    """The linear layers of one model, multiplying by laid-out copies as long as an encoder of it is there.

    Args:
        model: the backbone.
    """

    name = "prepack"

    def __init__(self, model: nn.Module) -> None:
        self._layers: list[Any] = []
        self._places: list[int] = []
        self._samples: list[torch.Tensor] = []  # views of the weights
        self._seen = torch.empty(0)
        self._release: Any = None

    @property
    def _attached(self) -> bool:
        return self._release is not None and bool(self._release.alive)  # that of a copied encoder is not

    def available(self, model: nn.Module) -> Availability:
        """On a CPU, in the dtypes whose kernels gain by it, unless the copies would be large."""
        place = next(model.parameters())
        if place.device.type != "cpu":
            return Availability(False, "weights are laid out for CPUs alone")
        if place.dtype not in _DTYPES:
            return Availability(False, f"this CPU and torch have no laid-out products in {place.dtype}")
        if self._attached:
            return Availability(True)
        size = sum(layer.weight.nbytes for layer in _linear(model))
        if size > _MOST_BYTES:
            return Availability(False, f"a second copy of the weights would take {size / 1e9:.0f} GB")
        return Availability(True)

    def attach(self, model: nn.Module) -> None:
        """Called before every use; copies of weights that were written to through `.data` are dropped.

        Such a write, as peft merges an adapter, leaves no other trace than the values.
        """
        with _LOCK:
            if not self._attached:
                self._layers = _linear(model)
                for layer in self._layers:
                    layer.__class__ = PrepackedLinear
                if self._layers:
                    key = id(self._layers[0])
                    _USERS[key] = _USERS.get(key, 0) + 1
                    self._release = weakref.finalize(self, _make_plain, self._layers)
            self._drop_changed()

    def detach(self, model: nn.Module) -> None:
        """Plain layers again, unless another encoder of the model needs them; done by itself when the encoder goes."""
        if self._attached:
            self._release()
        self._layers, self._places, self._samples, self._seen = [], [], [], torch.empty(0)

    def self_test(self) -> float:
        """A product by a laid-out copy against the plain one."""
        weight, rows = torch.randn(64, 48), torch.randn(9, 48)
        with torch.inference_mode():
            expected = rows @ weight.T
            return float((_multiply(rows, weight, None) - expected).norm() / expected.norm())

    def _drop_changed(self) -> None:
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


def _make_plain(layers: list[Any]) -> None:
    with _LOCK:
        key = id(layers[0])
        _USERS[key] -= 1
        if not _USERS[key]:
            del _USERS[key]
            for layer in layers:
                if type(layer) is PrepackedLinear:
                    layer.__class__ = nn.Linear  # type: ignore[assignment]


def _linear(model: nn.Module) -> list[Any]:
    linear: list[Any] = [m for m in decoder_modules(model) if type(m) in (nn.Linear, PrepackedLinear)]
    return [layer for layer in linear if _is_plain(layer.weight)]


def _is_plain(weight: torch.Tensor) -> bool:
    """Not one that a library of quantisation has put an integer weight in the place of."""
    return type(weight) is nn.Parameter


def _sample(weight: torch.Tensor) -> torch.Tensor:
    flat = weight.detach().flatten()
    return flat[:: max(1, len(flat) // _SAMPLE)]
