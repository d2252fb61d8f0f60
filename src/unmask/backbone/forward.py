"""The one way from tokens to states: training, encoding, evaluation and the proofs run a model through here.

A batch is flat (texts one after the other, each attending to itself alone) or padded; what comes out is the same.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from unmask.backbone.fast.varlen import flat, layout_of, use_flat_attention
from unmask.backbone.structure import body, family, num_layers, position_offset
from unmask.errors import ConversionError
from unmask.text.batching import Batch, FlatBatch


def token_states(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Last hidden states after the final norm, [rows, tokens, width]. The one forward path of the package.

    Args:
        model: with or without a language-model head; the head is not run.
        input_ids: [rows, tokens].
        attention_mask: [rows, tokens], or a prepared [rows, 1, tokens, tokens] mask.
        position_ids: [rows, tokens]; left out for the families that take none (ALiBi).
    """
    return _forward(model, input_ids, attention_mask, position_ids)[0]


def layer_states(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    layers: Sequence[int] | None = None,
) -> list[torch.Tensor]:
    """Hidden states [rows, tokens, width] of chosen layers: 0 is the embedding output, the last comes after the norm.

    By default the last alone; everything else is as for `token_states`.

    Raises:
        ConversionError: the family does not give out the states of its layers.
    """
    last = num_layers(model)
    layers = [last] if layers is None else layers
    if all(layer == last for layer in layers):
        return [token_states(model, input_ids, attention_mask, position_ids)] * len(layers)
    output = _forward(model, input_ids, attention_mask, position_ids, output_hidden_states=True)
    states = getattr(output, "hidden_states", None)
    if states is None or len(states) <= last:
        raise ConversionError(f"{family(model)} gives out {len(states or ())} layer states, expected {last + 1}.")
    return [output[0] if layer == last else states[layer] for layer in layers]


def _forward(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    **extra: Any,
) -> Any:
    decoder = body(model)
    accepted = inspect.signature(decoder.forward).parameters
    if position_ids is not None and "position_ids" in accepted:
        extra["position_ids"] = position_ids + position_offset(model)
    if "use_cache" in accepted:
        extra["use_cache"] = False
    return decoder(input_ids=input_ids, attention_mask=attention_mask, **extra)


def flat_states(
    model: nn.Module,
    input_ids: torch.Tensor,
    lengths: Sequence[int],
    layers: Sequence[int] | None = None,
    future: float = 1.0,
) -> list[torch.Tensor]:
    """States [tokens, width] of texts in one row, for each layer.

    Args:
        model: the backbone.
        input_ids: [1, tokens]; what lies behind the texts is filler, read as if it were one more and left out.
        lengths: of the texts.
        layers: as in `layer_states`.
        future: as in `FlatBatch`.

    Raises:
        FlatUnsupportedError: the model's attention implementation does not know where a text ends.
    """
    tokens = sum(lengths)
    filler = input_ids.shape[1] - tokens
    layout = layout_of((*lengths, filler) if filler else lengths, model, future)
    use_flat_attention(model)
    with flat(layout):
        whole = layer_states(model, input_ids, None, layout.positions, layers)
    if whole[-1].grad_fn is not None:
        whole[-1].grad_fn.metadata["layout"] = layout  # type: ignore[index]  # held until the backward pass is over
    return [states[0][:tokens] for states in whole]


def text_states(model: nn.Module, batch: Batch, layers: Sequence[int] | None = None) -> list[torch.Tensor]:
    """States of all texts of a batch one after the other, padding left out; a tensor [tokens, width] for each layer.

    Args:
        model: the backbone.
        batch: flat or padded.
        layers: as in `layer_states`.
    """
    if isinstance(batch, FlatBatch):
        return flat_states(model, batch.input_ids, batch.lengths, layers, batch.future)
    inside = batch.attention_mask.bool()
    padded = layer_states(model, batch.input_ids, batch.attention_mask, batch.position_ids, layers)
    return [states[inside] for states in padded]


class TokenStates(nn.Module):
    """A backbone without pooling: batch in, the states of its texts' tokens [tokens, width] out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> torch.Tensor:
        """States of all texts one after the other."""
        return text_states(self.model, batch)[0]
