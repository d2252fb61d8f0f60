"""Attention on a CPU as two matrix products around a softmax.

Torch's kernel for the CPU never writes the scores down, which pays for long texts only: at 100 tokens its backward pass
in bfloat16 takes five times as long as these products, and with dropout torch leaves the kernel for products in
float32. In bfloat16 the scores are rounded, as they are in transformers' eager attention; keys less their mean, which
no softmax can see (Zhang et al. 2024, arXiv 2410.02367), keep them small.
"""

from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from unmask.backbone.random_masks import Dropout

_LONGEST = 512  # tokens; the scores of longer texts are not written down
_SHORTEST_READ = 64  # without gradient torch's kernel is faster on what is shorter
_LONGEST_KEPT = 128  # scores of longer texts are computed again for the backward pass; they outgrow what they came from


def suits_products(query: torch.Tensor, dropout: float) -> bool:
    """True where products are faster than torch's kernel, query [texts, heads, tokens, width]."""
    if query.device.type != "cpu":
        return False
    length = query.shape[2]
    trained = torch.is_grad_enabled() and query.requires_grad
    pays = trained or length >= _SHORTEST_READ
    return bool(dropout) or (query.dtype == torch.bfloat16 and length <= _LONGEST and pays)


def attend_by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float | None,
    visible: torch.Tensor | None,
    dropout: float,
) -> torch.Tensor:
    """Attention of texts of one length.

    Args:
        query: [texts, heads, tokens, width of a head].
        key: [texts, key heads, tokens, width]; the query heads that share one are rows of one product.
        value: as key, its width may differ.
        scale: factor on the products; 1/sqrt(width) if None.
        visible: who sees whom, bool [tokens, tokens]; None: all see all.
        dropout: on the weights.

    Returns:
        [texts, heads, tokens, width of a value].
    """
    if query.requires_grad and torch.is_grad_enabled() and query.shape[2] > _LONGEST_KEPT:
        again = partial(_products, scale=scale, visible=visible, dropout=dropout)
        states = checkpoint(again, query, key, value, use_reentrant=False, preserve_rng_state=bool(dropout))
        assert isinstance(states, torch.Tensor)
        return states
    return _products(query, key, value, scale=scale, visible=visible, dropout=dropout)


def _products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float | None,
    visible: torch.Tensor | None,
    dropout: float,
) -> torch.Tensor:
    texts, heads, length, width = query.shape
    shared = key.shape[1]
    scaled = query * (width**-0.5 if scale is None else scale)
    centred = key - key.mean(dim=2, keepdim=True)
    rows = scaled.reshape(texts * shared, -1, width)
    scores = torch.bmm(rows, centred.reshape(texts * shared, length, width).transpose(1, 2))
    if visible is not None:
        scores = scores.masked_fill_(~visible.repeat(heads // shared, 1), -torch.inf)
    weights = torch.softmax(scores, dim=-1)
    if dropout:
        weights = Dropout.apply(weights, dropout)
        value = value / (1 - dropout)
    states = torch.bmm(weights, value.reshape(texts * shared, length, -1))
    return states.view(texts, heads, length, -1)
