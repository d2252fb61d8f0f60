"""The one way from a batch to token states and vectors; training, encoding and evaluation go through it."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unmask.backbone.structure import layer_states, num_layers
from unmask.backbone.varlen import flat, layout_of
from unmask.errors import EncodingError
from unmask.pooling import Pooling, pool
from unmask.text.batching import Batch, FlatBatch, send


def text_states(model: nn.Module, batch: Batch, layers: Sequence[int] | None = None) -> list[torch.Tensor]:
    """States of all texts of a batch one after the other, padding left out; a tensor [tokens, width] for each layer.

    Args:
        model: the backbone.
        batch: flat or padded.
        layers: 0 is the embedding output; by default the last alone, after the final norm.
    """
    wanted = [num_layers(model)] if layers is None else layers
    if isinstance(batch, FlatBatch):
        layout = layout_of((*batch.lengths, batch.filler) if batch.filler else batch.lengths, model)
        with flat(layout):
            found = layer_states(model, batch.input_ids, None, layout.positions, wanted)
        return [states[0, : batch.num_tokens] for states in found]
    inside = batch.attention_mask.bool()
    found = layer_states(model, batch.input_ids, batch.attention_mask, batch.position_ids, wanted)
    return [states[inside] for states in found]


class EncoderModule(nn.Module):
    """Backbone and pooling as one module: batch in, vectors [texts, width] float32 out."""

    def __init__(self, model: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling

    def forward(self, batch: Batch) -> torch.Tensor:
        """Vectors of a batch, with gradients if the context asks for them."""
        (states,) = text_states(self.model, batch)
        if isinstance(batch, FlatBatch):
            lengths, pooled = send(torch.tensor(batch.lengths), states.device), batch.pooled
        else:
            lengths, pooled = batch.attention_mask.sum(dim=1), batch.pooled[batch.attention_mask.bool()]
        return pool(states, lengths, pooled, self.pooling)


def check_finite(vectors: NDArray[np.float32], texts: Sequence[str], what: str = "texts") -> None:
    """Refuse vectors that are not finite, by their numbers and the first text that has one."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        shown = ", ".join(map(str, bad[:5])) + (" ..." if len(bad) > 5 else "")
        raise EncodingError(
            f"{len(bad)} of {len(vectors)} vectors are not finite ({what} {shown}; {texts[bad[0]][:60]!r}). "
            "Try dtype float32 or another attention implementation."
        )
