"""Linear layers in eight bits for encoding, by torchao's dynamic quantisation: faster, and not the same vectors."""

from importlib.util import find_spec

import torch
from torch import nn

from unmask.backbone.fast.contract import Availability
from unmask.errors import ArtifactError, MissingExtraError


class EightBits:
    """Weights once, a scale a row; what comes in a token at a time."""

    name = "int8"

    def available(self, model: nn.Module) -> Availability:
        """Where torchao is installed."""
        if find_spec("torchao") is None:
            return Availability(False, "int8 needs torchao; install it with pip install 'unmask[int8]'")
        return Availability(True)

    def attach(self, model: nn.Module) -> None:
        """Quantise in place.

        Raises:
            MissingExtraError: torchao is not installed.
        """
        possible = self.available(model)
        if not possible:
            raise MissingExtraError(f"{possible.reason}.")
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(model, Int8DynamicActivationInt8WeightConfig())

    def detach(self, model: nn.Module) -> None:
        """There is no way back.

        Raises:
            ArtifactError: always.
        """
        raise ArtifactError("Weights in eight bits cannot be made whole again; open the encoder anew.")

    def self_test(self) -> float:
        """A quantised layer against the whole one."""
        layer, rows = nn.Sequential(nn.Linear(64, 64, bias=False)), torch.randn(9, 64)
        with torch.inference_mode():
            expected = layer(rows)
            self.attach(layer)
            return float((layer(rows) - expected).norm() / expected.norm())
