"""Attention on a CPU as two matrix products around a softmax, for training.

Torch's kernel for the CPU never writes the scores down, which pays for long texts only: at 100 tokens its backward pass
in bfloat16 takes three times as long as these products in float32, and with dropout torch leaves the kernel and draws
one number at a time. Products in bfloat16 are faster still, but oneDNN makes and keeps a kernel for every size, so
they are left to lengths that come again and again, as those of full blocks do. Scores are then rounded, as they are in
transformers' eager attention; keys less their mean, which no softmax can see (Zhang et al. 2024, arXiv 2410.02367),
keep them small.
"""

from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from unmask.backbone.random_masks import Dropout

_SHORT = 128  # tokens; up to here float32 products are faster than torch's kernel in bfloat16
_LONGEST = 512  # tokens; the scores of longer texts are not written down
_COMMON = 64  # longer texts of a multiple of so many tokens are multiplied in bfloat16
_LONGEST_KEPT = 64  # scores of longer texts are computed again for the backward pass; they outgrow what they came from


def suits_products(query: torch.Tensor, dropout: float) -> bool:
    """True where products are faster than torch's kernel, query [texts, heads, tokens, width]."""
    if query.device.type != "cpu":
        return False
    trained = torch.is_grad_enabled() and query.requires_grad
    short = query.shape[2] <= _SHORT or _in_sixteen_bits(query, dropout)
    return bool(dropout) or (query.dtype == torch.bfloat16 and trained and short)


def _in_sixteen_bits(query: torch.Tensor, dropout: float) -> bool:
    length = query.shape[2]
    common = _SHORT < length <= _LONGEST and length % _COMMON == 0
    return query.dtype == torch.bfloat16 and common and not dropout


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
    shared, given = key.shape[1], query.dtype
    if not _in_sixteen_bits(query, dropout) and given == torch.bfloat16:
        query, key, value = query.float(), key.float(), value.float()
    rows = (query * (width**-0.5 if scale is None else scale)).reshape(texts * shared, -1, width)
    centred = key - key.mean(dim=2, keepdim=True)
    scores = torch.bmm(rows, centred.reshape(texts * shared, length, width).transpose(1, 2))
    if visible is not None:
        scores = scores.masked_fill_(~visible.repeat(heads // shared, 1), -torch.inf)
    weights = torch.softmax(scores, dim=-1)
    if dropout:
        weights = Dropout.apply(weights, dropout)
        value = value / (1 - dropout)
    states = torch.bmm(weights, value.reshape(texts * shared, length, -1))
    return states.view(texts, heads, length, -1).to(given)
