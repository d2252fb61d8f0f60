"""Compiled layers for encoding, where they win back what compiling costs.

Each layer is compiled by itself for any number of tokens, so one compilation serves all layers of a kind, every batch,
and, through the cache that torch keeps on disk, the next process. Attention stays one opaque step (`varlen`).
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from unmask.backbone.fast import operators, trained_attention  # noqa: F401 (a step of compiled layers)
from unmask.backbone.fast.contract import Availability, FastPath
from unmask.backbone.structure import decoder_layers

_LOG = logging.getLogger(__name__)
_AS_WRITTEN = "Layers run as they are written: %s."
Step = TypeVar("Step")
# Compiling takes five to ten seconds; on two cores without AMX it wins a tenth of what it is used on, with it more.
_WORTH_SECONDS = 120.0
_WATCH_SECONDS = 5.0  # how long the layers run as they are written before the rest is estimated


class CompiledTraining(FastPath):
    """Layers compiled for training, forward and backward: norms, gates and masks in one pass with their neighbours.

    On a CPU, for models whose texts lie one after the other, when a stage asks for it. Layers run as they are written
    while they are evaluated.

    Args:
        model: what is trained.
    """

    name = "compile"

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._active = False

    def available(self, model: nn.Module) -> Availability:
        """Where there is a compiler, on a CPU, in one process."""
        device = next(model.parameters()).device
        if device.type != "cpu":
            return Availability(False, "layers are compiled for training on a CPU only")
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            return Availability(False, "several processes train")
        if not operators.has_compiler(device):
            return Availability(False, "no C++ compiler was found")
        return super().available(model)

    def attach(self, model: nn.Module) -> None:
        """Compile every layer at its next call in training."""
        possible = self.available(model)
        if not possible:
            _LOG.warning(_AS_WRITTEN, possible.reason)
            return
        for layer in decoder_layers(model):
            compiled = torch.compile(layer._call_impl, dynamic=True)
            layer._compiled_call_impl = partial(_in_training, layer, compiled)
        self._active = True

    def detach(self, model: nn.Module) -> None:
        """Run the layers as they are written."""
        for layer in decoder_layers(model) if self._active else ():
            layer._compiled_call_impl = None
        self._active = False

    def run(self, step: Callable[[], Step], undo: Callable[[], None]) -> Step:
        """Run a step; where compiling fails, warn, undo what the step had done and run it with layers as written."""
        if not self._active:
            return step()
        try:
            with operators.sizes_stay_apart():
                return step()
        except operators.compile_errors() as error:
            _LOG.warning(_AS_WRITTEN, f"torch.compile failed ({str(error).splitlines()[0]})")
            self.detach(self._model)
            undo()
            return step()

    def self_test(self) -> float:
        """Gradients of a compiled layer against those of the same as it is written."""
        layer, rows = nn.Linear(8, 8), torch.randn(3, 8)
        found = []
        for function in (layer, torch.compile(layer, dynamic=True)):
            found.append(torch.autograd.grad(function(rows).square().sum(), layer.weight)[0])
        return float((found[1] - found[0]).norm() / found[0].norm())


def _in_training(layer: nn.Module, compiled: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return compiled(*args, **kwargs) if layer.training else layer._call_impl(*args, **kwargs)


class CompiledLayers(FastPath):
    """The layers of one model, compiled from the moment on that it is asked for or pays.

    Args:
        model: the backbone.
    """

    name = "compile"

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._active = False
        self._failure = ""

    def available(self, model: nn.Module) -> Availability:
        """Where there is a compiler, and compiling has not failed yet."""
        if not operators.has_compiler(next(model.parameters()).device):
            return Availability(False, "no C++ compiler was found")
        return Availability(not self._failure, self._failure)

    def attach(self, model: nn.Module) -> None:
        """Compile every layer at its next call."""
        if self._active:
            return
        possible = self.available(model)
        if not possible:
            _LOG.warning(_AS_WRITTEN, possible.reason)
            return
        for layer in decoder_layers(model):
            layer.compile(dynamic=True)
        self._active = True

    def detach(self, model: nn.Module) -> None:
        """Run the layers as they are written."""
        for layer in decoder_layers(model) if self._active else ():
            layer._compiled_call_impl = None
        self._active = False

    def self_test(self) -> float:
        """A compiled layer against the same as it is written."""
        layer, rows = nn.Linear(8, 8).eval(), torch.randn(3, 8)
        with torch.inference_mode():
            expected = layer(rows)
            return float((torch.compile(layer, dynamic=True)(rows) - expected).norm() / expected.norm())

    def attach_if_it_pays(self, seconds: float, done: int, left: int) -> None:
        """Compile on a CPU when what is left takes minutes.

        Args:
            seconds: since the work began.
            done: tokens so far.
            left: tokens to come.
        """
        on_cpu = next(self._model.parameters()).device.type == "cpu"
        if on_cpu and seconds > _WATCH_SECONDS and seconds / done * left > _WORTH_SECONDS:
            self.attach(self._model)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call what runs the model; where compiling fails, warn and call it with layers as they are written."""
        if not self._active:
            return function(*arguments)
        try:
            # A first batch with as many tokens as the model is wide would otherwise be taken for a fact about both.
            with operators.sizes_stay_apart():
                return function(*arguments)
        except operators.compile_errors() as error:
            self._failure = f"torch.compile failed ({str(error).splitlines()[0]})"
            _LOG.warning(_AS_WRITTEN, self._failure)
            self.detach(self._model)
            return function(*arguments)
