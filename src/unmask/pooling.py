"""Pooling: pure functions from token states and masks to one vector a text.

Shapes: states [rows, tokens, width]; attention_mask, pooled [rows, tokens]; vectors [rows, width], float32.
"""

from typing import Literal, get_args

import torch

Pooling = Literal["mean", "weighted_mean", "last", "eos", "first"]
POOLINGS: tuple[str, ...] = get_args(Pooling)


def pool(states: torch.Tensor, attention_mask: torch.Tensor, pooled: torch.Tensor, how: Pooling) -> torch.Tensor:
    """Pool token states into vectors.

    `mean` and `weighted_mean` average the span, the latter with weights that grow by one a token, counted from the
    first token the model reads (Muennighoff 2022, arXiv 2202.08904; as sentence-transformers does); `last` takes
    the last token of the span; `first` and `eos` take the first and last token that the model reads.
    Sums run in float32 whatever the states are.
    """
    if how in ("mean", "weighted_mean"):
        weights = pooled.to(torch.float32)
        if how == "weighted_mean":
            weights = weights * attention_mask.cumsum(dim=1)
        return torch.einsum("btd,bt->bd", states.float(), weights) / weights.sum(dim=1, keepdim=True)
    chosen = pooled if how == "last" else attention_mask.bool()
    positions = torch.arange(states.shape[1], device=states.device).expand(chosen.shape)
    if how == "first":
        index = positions.masked_fill(~chosen, states.shape[1]).min(dim=1).values
    else:
        index = positions.masked_fill(~chosen, -1).max(dim=1).values
    return states[torch.arange(len(states), device=states.device), index].float()
