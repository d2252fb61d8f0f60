"""Attention weights of one text, for looking at."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from unmask.backbone.structure import backend_in_use, body
from unmask.encoder import TextEncoder


@dataclass(frozen=True, slots=True)
class AttentionMap:
    """Mean attention over heads and layers: tokens as shown, weights float32 [tokens, tokens], rows sum to 1."""

    tokens: list[str]
    weights: NDArray[np.float32]


@torch.no_grad()
def attention_maps(encoder: TextEncoder, text: str) -> AttentionMap:
    """Attention weights of `text`; only the eager implementation gives them, so it is switched on for the moment."""
    batch = encoder.pad(encoder.tokenize([text]))
    model = encoder.model
    current = backend_in_use(model)
    model.eval()
    model.set_attn_implementation("eager")
    try:
        output = body(model)(input_ids=batch.input_ids, output_attentions=True, use_cache=False)
    finally:
        model.set_attn_implementation(current)
    weights = torch.stack(output.attentions).float().mean(dim=(0, 2))[0]
    tokens = [encoder.tokenizer.decode([i]).strip() or "·" for i in batch.input_ids[0].tolist()]
    return AttentionMap(tokens, weights.cpu().numpy())
