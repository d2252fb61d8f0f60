"""The fast paths of one model, under one switch."""

from collections.abc import Collection

from torch import nn

from unmask.backbone.fast.compiling import CompiledLayers
from unmask.backbone.fast.contract import Availability, chosen
from unmask.backbone.fast.prepack import PrepackedLayers


class FastPaths:
    """What an encoder's model may be sped up by.

    Args:
        model: the backbone.
        asked: see `chosen`.

    Attributes:
        prepacked: its weights as the CPU's kernels read them.
        compiled: its layers, compiled when that pays.
    """

    def __init__(self, model: nn.Module, asked: bool | Collection[str] | None = None) -> None:
        self._model = model
        self._asked = asked
        self.prepacked = PrepackedLayers(model)
        self.compiled = CompiledLayers(model)

    def wants(self, name: str) -> Availability:
        """Whether a path may be taken at all."""
        if name in chosen(self._asked):
            return Availability(True)
        return Availability(False, "UNMASK_FAST leaves it out" if self._asked is None else "fast leaves it out")

    def report(self) -> dict[str, Availability]:
        """Whether each path is taken, and if not why."""
        paths = (self.prepacked, self.compiled)
        return {path.name: self.wants(path.name) and path.available(self._model) for path in paths}

    def refresh(self) -> None:
        """Called before every use: what is available is attached, and follows weights that have changed."""
        path = self.prepacked
        if self.wants(path.name) and path.available(self._model):
            path.attach(self._model)
