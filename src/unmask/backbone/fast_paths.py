"""What makes one model faster on its machine without changing what it computes."""

from torch import nn

from unmask.backbone.compiling import CompiledLayers
from unmask.backbone.prepack import PrepackedLayers


class FastPaths:
    """The fast paths of one model.

    Attributes:
        prepacked: its weights as the CPU's kernels read them.
        compiled: its layers, compiled when that pays.
    """

    def __init__(self, model: nn.Module) -> None:
        self.prepacked = PrepackedLayers(model)
        self.compiled = CompiledLayers(model)
