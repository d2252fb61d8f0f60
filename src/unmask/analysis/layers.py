"""How far two-sided attention moves the states of each layer (section 4.2 of the paper, Figures 5, 8 and 9).

And the attention weights of one text, for looking at.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from unmask.backbone.forward import layer_states
from unmask.backbone.structure import backend_in_use, body, num_layers
from unmask.encoder import Floats, TextEncoder
from unmask.errors import DataError


@dataclass(frozen=True, slots=True)
class LayerSimilarity:
    """Cosine between two models' states of one text.

    Attributes:
        tokens: as shown, special tokens included.
        cosines: float32 [layers + 1, tokens]. Entry 0 is the embedding output, where both models agree by construction;
            the last comes after the final norm. The paper plots entries 0 to layers - 1 and leaves that last one out.
    """

    tokens: list[str]
    cosines: Floats

    def means(self) -> list[float]:
        """Mean over tokens of each entry."""
        return [float(value) for value in self.cosines.mean(axis=1)]


def layer_similarity(first: TextEncoder, second: TextEncoder, text: str) -> LayerSimilarity:
    """Compare the states of one text, layer by layer and token by token; usually one base, causal and bidirectional.

    Raises:
        DataError: models of different depth or width, or tokenizers that read the text differently.
    """
    if num_layers(first.model) != num_layers(second.model) or first.dimension != second.dimension:
        raise DataError("Layers can be compared only between models of the same depth and width.")
    states, ids = zip(*(_all_states(encoder, text) for encoder in (first, second)), strict=True)
    if not np.array_equal(*ids):
        raise DataError("Layers can be compared only between models that read the same tokens.")
    cosines: Floats = torch.nn.functional.cosine_similarity(states[0], states[1], dim=-1).cpu().numpy()
    tokens = [first.tokenizer.decode([i]).strip() or "·" for i in ids[0].tolist()]
    return LayerSimilarity(tokens, cosines)


@torch.inference_mode()
def _all_states(encoder: TextEncoder, text: str) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """States [layers + 1, tokens, width] in float32, and the token ids."""
    encoder.model.eval()
    batch = encoder.pad(encoder.tokenize([text]))
    layers = range(num_layers(encoder.model) + 1)
    states = layer_states(encoder.model, batch.input_ids, batch.attention_mask, batch.position_ids, layers)
    return torch.stack([state[0].float() for state in states]), batch.input_ids[0].cpu().numpy()


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
