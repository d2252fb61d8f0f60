"""Compiled layers for encoding, where they win back what compiling costs.

Each layer is compiled by itself for any number of tokens, so one compilation serves all layers of a kind, every batch,
and, through the cache that torch keeps on disk, the next process. Attention stays one opaque step (`varlen`).
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from unmask.backbone.fast import operators, trained_attention  # noqa: F401 (a step of compiled layers)
from unmask.backbone.fast.compile_costs import Costs, Trial, costs_file, read_costs, write_costs
from unmask.backbone.fast.contract import Availability, FastPath
from unmask.backbone.structure import decoder_layers

_LOG = logging.getLogger(__name__)
_AS_WRITTEN = "Layers run as they are written: %s."
Step = TypeVar("Step")
_GLANCE_SECONDS = 0.5  # of work before figures are looked up
_WATCH_SECONDS = 5.0  # most work by which the rest is estimated; less where less is enough to pay
_WRITTEN: ContextVar[bool] = ContextVar("layers as they are written", default=False)


@contextmanager
def layers_as_written() -> Iterator[None]:
    """Run layers that are compiled for encoding as they are written inside; other threads do not see it."""
    token = _WRITTEN.set(True)
    try:
        yield
    finally:
        _WRITTEN.reset(token)


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


def _unless_written(layer: nn.Module, compiled: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return layer._call_impl(*args, **kwargs) if _WRITTEN.get() else compiled(*args, **kwargs)


class CompiledLayers(FastPath):
    """The layers of one model, compiled from the moment on that it is asked for or pays.

    Args:
        model: the backbone.

    Attributes:
        worked: seconds that batches have taken so far with layers as written.
    """

    name = "compile"

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._calls: list[tuple[nn.Module, Any]] = []  # each layer and itself compiled, while attached
        self._failure = ""
        self._lock = threading.Lock()
        self._trial: Trial | None = None
        self._costs: Costs | None = None
        self._tokens = 0
        self.worked = 0.0

    def __reduce__(self) -> tuple[type["CompiledLayers"], tuple[nn.Module]]:
        """A copy begins anew: compiled calls are those of the layers they were made for."""
        return CompiledLayers, (self._model,)

    def available(self, model: nn.Module) -> Availability:
        """Where there is a compiler, and compiling has not failed yet."""
        if not operators.has_compiler(next(model.parameters()).device):
            return Availability(False, "no C++ compiler was found")
        return Availability(not self._failure, self._failure)

    def attach(self, model: nn.Module) -> None:
        """Compile every layer at its next call."""
        if self._calls:
            self._trial = None
            self._switch(True)
            return
        possible = self.available(model)
        if not possible:
            _LOG.warning(_AS_WRITTEN, possible.reason)
            return
        for layer in decoder_layers(model):
            compiled = torch.compile(layer._call_impl, dynamic=True)
            self._calls.append((layer, partial(_unless_written, layer, compiled)))
        self._switch(True)

    def detach(self, model: nn.Module) -> None:
        """Run the layers as they are written."""
        self._trial = None
        self._switch(False)
        self._calls = []

    def self_test(self) -> float:
        """A compiled layer against the same as it is written."""
        layer, rows = nn.Linear(8, 8).eval(), torch.randn(3, 8)
        with torch.inference_mode():
            expected = layer(rows)
            return float((torch.compile(layer, dynamic=True)(rows) - expected).norm() / expected.norm())

    def watch(self, step: Callable[[], Step], tokens: int, *, left: int, before: float) -> Step:
        """Run a batch and time it; on a CPU, compile the layers for those after it as soon as that pays.

        It pays when it wins more than it costs on what is left. What this model worked in calls before counts as much:
        who calls again and again is taken to go on as long as he has.

        Args:
            step: runs the batch.
            tokens: of the batch.
            left: tokens to come in this call.
            before: `worked`, when this call began.
        """
        if next(self._model.parameters()).device.type != "cpu":
            return step()
        trial = self._trial
        turn = None if trial is None else trial.turn
        started, busy = time.perf_counter(), time.thread_time()
        found = step()
        seconds, busy = time.perf_counter() - started, time.thread_time() - busy
        with self._lock:
            if trial is not None:
                if trial is self._trial and trial.turn == turn:  # no other thread has turned in the middle of the batch
                    trial.record(tokens, seconds, busy)
                    self._go_on(trial)
            elif not self._calls:
                self.worked, self._tokens = self.worked + seconds, self._tokens + tokens
                pace = self.worked / self._tokens
                if left > 0 and self.worked > _GLANCE_SECONDS and self._pays(max(pace * left, before)):
                    self.attach(self._model)
                    self._trial = Trial(pace)
        return found

    def _pays(self, work: float) -> bool:
        if self._costs is None:
            path = costs_file(self._model)
            self._costs = (path and read_costs(path)) or Costs.assumed(self._model)
        worth = self._costs.worth
        # Whoever did not ask for it is not warned where it cannot be.
        return work > worth and self.worked > min(_WATCH_SECONDS, worth / 10) and bool(self.available(self._model))

    def _go_on(self, trial: Trial) -> None:
        """Turn to the other kind of layers; after the last turn keep what was found, and the faster kind."""
        gain = trial.gain
        if gain is None:
            self._switch(trial.compiled)
            return
        assert self._costs is not None
        self._costs = self._costs.measured(trial.seconds, gain)
        _LOG.info("Compiling took %.1f s; compiled layers are %.2f times as fast.", trial.seconds, gain)
        if (path := costs_file(self._model)) is not None:
            write_costs(path, self._costs)
        if self._costs.gain < 1:
            self.detach(self._model)
        else:
            self.attach(self._model)

    def _switch(self, compiled: bool) -> None:
        for layer, call in self._calls:
            layer._compiled_call_impl = call if compiled else None

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call what runs the model; where compiling fails, warn and call it with layers as they are written."""
        if not self._calls:
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
