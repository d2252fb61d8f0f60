"""Attention on a CPU as two matrix products around a softmax, for training.

Torch's kernel for the CPU never writes the scores down, which pays for long texts only: at 100 tokens its backward pass
in bfloat16 takes three times as long as these products in float32, and with dropout torch leaves the kernel and draws
one number at a time. Longer texts are multiplied in bfloat16, filled up to common lengths, because oneDNN makes and
keeps a kernel for every size. Their scores are rounded, as they are in transformers' eager attention; keys less their
mean, which no softmax can see (Zhang et al. 2024, arXiv 2410.02367), keep them small.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from unmask.backbone.fast.contract import Availability, FastPath, wanted
from unmask.backbone.fast.random_masks import Dropout

_SHORT = 128  # tokens; up to here float32 products are faster than torch's kernel in bfloat16
_LONGEST = 512  # tokens; the scores of longer texts are not written down
_COMMON = 64  # a text multiplied in bfloat16 is filled up to a multiple of so many tokens
_LONGEST_KEPT = 64  # scores of longer texts are computed again for the backward pass; they outgrow what they came from


def suits_products(query: torch.Tensor, dropout: float) -> bool:
    """True where products are faster than torch's kernel in training, query [texts, heads, tokens, width]."""
    if query.device.type != "cpu" or not wanted("products"):
        return False
    trained = not torch.is_inference_mode_enabled()  # GradCache's first pass, without gradients, must round alike
    short = query.shape[2] <= _SHORT or _in_sixteen_bits(query, dropout)
    return bool(dropout) or (query.dtype == torch.bfloat16 and trained and short)


def _in_sixteen_bits(query: torch.Tensor, dropout: float) -> bool:
    return query.dtype == torch.bfloat16 and _SHORT < query.shape[2] <= _LONGEST and not dropout


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
    options = (scale, visible, dropout)
    if query.requires_grad and torch.is_grad_enabled() and query.shape[2] > _LONGEST_KEPT:
        return checkpoint(_products, query, key, value, options, use_reentrant=False, preserve_rng_state=bool(dropout))
    return _products(query, key, value, options)


def _products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    options: tuple[float | None, torch.Tensor | None, float],
) -> torch.Tensor:
    scale, visible, dropout = options
    given, real = query.dtype, query.shape[2]
    key = key - key.mean(dim=2, keepdim=True)
    if _in_sixteen_bits(query, dropout):
        query, key, value, visible = _filled(query, key, value, visible)
    elif given == torch.bfloat16:
        query, key, value = query.float(), key.float(), value.float()
    texts, heads, length, width = query.shape
    shared = key.shape[1]
    rows = (query * (width**-0.5 if scale is None else scale)).reshape(texts * shared, -1, width)
    scores = torch.bmm(rows, key.reshape(texts * shared, length, width).transpose(1, 2))
    if visible is not None:
        scores = scores.masked_fill_(~visible.repeat(heads // shared, 1), -torch.inf)
    weights = torch.softmax(scores, dim=-1)
    if dropout:
        weights = Dropout.apply(weights, dropout)
        value = value / (1 - dropout)
    states = torch.bmm(weights, value.reshape(texts * shared, length, -1))
    return states.view(texts, heads, length, -1)[:, :, :real].to(given)


def _filled(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The same with tokens behind each text that none of its own sees, up to a common length."""
    length = query.shape[2]
    filler = -length % _COMMON
    if not filler:
        return query, key, value, visible
    seen = torch.zeros(length + filler, length + filler, dtype=torch.bool)
    seen[:, :length] = True  # what fills up sees the text: a row that sees nothing would not be finite
    if visible is not None:
        seen[:length, :length] = visible
    filled = [nn.functional.pad(x, (0, 0, 0, filler)) for x in (query, key, value)]
    return filled[0], filled[1], filled[2], seen


class Products(FastPath):
    """Attention as products around a softmax, as a fast path; it comes and goes with flat attention."""

    name = "products"

    def available(self, model: nn.Module) -> Availability:
        """On a CPU."""
        if next(model.parameters()).device.type != "cpu":
            return Availability(False, "torch's kernels are faster than products on a GPU")
        return super().available(model)

    def self_test(self) -> float:
        """Products against torch's kernel."""
        query, key, value = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
        expected = nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        found = attend_by_products(query, key, value, scale=None, visible=None, dropout=0.0)
        return float((found - expected).norm() / expected.norm())
