"""Compiled layers for encoding, where they win back what compiling costs.

Each layer is compiled by itself for any number of tokens, so one compilation serves all layers of a kind, every batch,
and, through the cache that torch keeps on disk, the next process. Attention stays one opaque step (`varlen`).
"""

import logging
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx.experimental import _config as shapes_config

from unmask.backbone.structure import decoder_layers, decoder_modules
from unmask.backbone.varlen import OPAQUE

_LOG = logging.getLogger(__name__)
# Compiling takes five to ten seconds; on two cores without AMX it wins a tenth of what it is used on, with it more.
_WORTH_SECONDS = 120.0
_WATCH_SECONDS = 5.0  # how long the layers run as they are written before the rest is foretold


class CompiledLayers:
    """The layers of one model, compiled from the moment on that it is asked for or pays.

    Args:
        model: the backbone.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._active = False
        self._possible = True

    def compile(self) -> None:
        """Compile every layer at its next call."""
        if self._active or not self._possible:
            return
        self._possible = _has_compiler(next(self._model.parameters()).device)
        if not self._possible:
            _LOG.warning("No C++ compiler was found, so layers run as they are written.")
            return
        for module in decoder_modules(self._model):
            setattr(module, OPAQUE, True)
        for layer in decoder_layers(self._model):
            layer.compile(dynamic=True)
        self._active = True

    def compile_if_it_pays(self, seconds: float, done: int, left: int) -> None:
        """Compile on a CPU when what is left takes minutes.

        Args:
            seconds: since the work began.
            done: tokens so far.
            left: tokens to come.
        """
        on_cpu = next(self._model.parameters()).device.type == "cpu"
        if on_cpu and seconds > _WATCH_SECONDS and seconds / done * left > _WORTH_SECONDS:
            self.compile()

    def run(self, module: Callable[..., torch.Tensor], batch: Any) -> torch.Tensor:
        """Call what holds the model; where compiling fails, warn and call it as it is written."""
        if not self._active:
            return module(batch)
        try:
            # A first batch with as many tokens as the model is wide would otherwise be taken for a fact about both.
            with shapes_config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
                return module(batch)
        except torch._dynamo.exc.TorchDynamoException as error:
            _LOG.warning("torch.compile failed, so layers run as they are written: %s", str(error).splitlines()[0])
            for layer in decoder_layers(self._model):
                layer._compiled_call_impl = None
            self._active = self._possible = False
            return module(batch)


def _has_compiler(device: torch.device) -> bool:
    """What torch compiles for a CPU with."""
    names = [os.environ.get("CXX", "g++"), "g++", "clang++"]
    return device.type != "cpu" or any(shutil.which(name) for name in names)
