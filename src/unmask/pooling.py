"""Pooling: a pure function from token states and spans to one vector a text.

Texts lie one after the other: states [tokens, width], pooled [tokens], lengths [texts]; vectors [texts, width] come
in float32.
"""

from typing import Literal, get_args

import torch

Pooling = Literal["mean", "weighted_mean", "last", "eos", "first"]
POOLINGS: tuple[str, ...] = get_args(Pooling)


def pool(states: torch.Tensor, lengths: torch.Tensor, pooled: torch.Tensor, how: Pooling) -> torch.Tensor:
    """Pool token states into vectors.

    `mean` and `weighted_mean` average the span, the latter with weights that grow by one a token, counted from the
    first token the model reads (Muennighoff 2022, arXiv 2202.08904; as sentence-transformers does); `last` takes
    the last token of the span; `first` and `eos` take the first and last token that the model reads.
    Sums run in float32 whatever the states are.
    """
    texts, tokens = torch.arange(len(lengths), device=states.device), torch.arange(len(states), device=states.device)
    ends = lengths.cumsum(0)
    starts = ends - lengths
    if how == "first":
        return states[starts].float()
    if how == "eos":
        return states[ends - 1].float()
    text = torch.repeat_interleave(texts, lengths, output_size=len(states))
    if how == "last":
        found = torch.where(pooled, tokens, -1)
        return states[torch.zeros_like(texts).scatter_reduce(0, text, found, "amax", include_self=False)].float()
    weights = pooled.float()
    if how == "weighted_mean":
        weights = weights * (tokens - starts[text] + 1)
    weighted = states.float() * weights[:, None]
    sums = weighted.new_zeros(len(texts), states.shape[1]).index_add_(0, text, weighted)
    return sums / weights.new_zeros(len(texts)).index_add_(0, text, weights)[:, None]
