"""Attention on a CPU as two matrix products around a softmax, for training.

Torch's kernel for the CPU never writes the scores down, which pays for long texts only: at 100 tokens its backward pass
in bfloat16 takes three times as long as these products in float32, and with dropout torch leaves the kernel and draws
one number at a time. Texts of like length are multiplied together (`buckets`); nothing but queries, keys and values is
kept for the backward pass, which computes the rest again. Longer texts are multiplied in bfloat16. Their scores are
rounded, as they are in transformers' eager attention; keys less their mean, which no softmax can see (Zhang et al.
2024, arXiv 2410.02367), keep them small.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from unmask.backbone.fast import operators
from unmask.backbone.fast.buckets import Bucket
from unmask.backbone.fast.contract import Availability, FastPath, wanted
from unmask.backbone.fast.random_masks import Dropout, draw_seed

_SHORT = 128  # tokens; up to here float32 products are faster than torch's kernel, in bfloat16 by far
_LONGEST = 512  # tokens; the scores of longer texts are not written down

Options = tuple[float | None, int | None, bool, float]  # scale, window, whether it is causal, dropout on the weights


def suits_products(query: torch.Tensor, longest: int, dropout: float) -> bool:
    """True where products are faster than torch's kernel in training; `longest` in tokens, of the texts of a row."""
    if query.device.type != "cpu" or not wanted("products"):
        return False
    trained = not torch.is_inference_mode_enabled()  # GradCache's first pass, without gradients, must round alike
    return bool(dropout) or (trained and longest <= (_LONGEST if query.dtype == torch.bfloat16 else _SHORT))


class ByProducts(torch.autograd.Function):
    """Attention of texts in buckets: query, key and value [1, heads, tokens, width] to [tokens, heads, width]."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        buckets: Sequence[Bucket],
        order: torch.Tensor | None,
        options: Options,
    ) -> torch.Tensor:
        """The states."""
        ctx.save_for_backward(query, key, value)
        if operators.is_fake(query):  # for those who ask what is kept
            return query.new_empty(query.shape[2], query.shape[1], value.shape[3])
        seed = draw_seed() if options[-1] else 0
        ctx.rest = (buckets, order, options, seed)
        return products_in_buckets((query, key, value), *ctx.rest)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of query, key and value."""
        return (*gradients_in_buckets(gradients[0], ctx.saved_tensors, *ctx.rest), None, None, None)


def products_in_buckets(
    inputs: Sequence[torch.Tensor],
    buckets: Sequence[Bucket],
    order: torch.Tensor | None,
    options: Options,
    seed: int,
) -> torch.Tensor:
    """States [tokens, heads, width]; see `ByProducts`. The seed is that of the dropout."""
    rows = [x[0].transpose(0, 1) for x in inputs]
    with torch.autocast("cpu", enabled=False):  # the backward pass, which computes it again, knows no autocast
        found = [_attend(bucket, [bucket.take(row) for row in rows], options, seed) for bucket in buckets]
    return _in_order([bucket.give(states) for bucket, states in zip(buckets, found, strict=True)], order)


def gradients_in_buckets(
    given: torch.Tensor,
    inputs: Sequence[torch.Tensor],
    buckets: Sequence[Bucket],
    order: torch.Tensor | None,
    options: Options,
    seed: int,
) -> list[torch.Tensor]:
    """Gradients of query, key and value from that of the states."""
    rows = [x[0].transpose(0, 1) for x in inputs]
    found: list[list[torch.Tensor]] = [[], [], []]
    for bucket in buckets:
        with torch.enable_grad():  # type: ignore[no-untyped-call]
            own = [bucket.take(row).detach().requires_grad_() for row in rows]
            states = bucket.give(_attend(bucket, own, options, seed))
        wanted = given.index_select(0, bucket.tokens)
        for parts, one in zip(found, torch.autograd.grad(states, own, wanted), strict=True):
            parts.append(bucket.give(one))
    return [_in_order(parts, order).transpose(0, 1)[None] for parts in found]


def _in_order(parts: Sequence[torch.Tensor], order: torch.Tensor | None) -> torch.Tensor:
    together = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    return together if order is None else together.index_select(0, order)


def _attend(bucket: Bucket, inputs: Sequence[torch.Tensor], options: Options, seed: int) -> torch.Tensor:
    scale, window, causal, dropout = options
    query, key, value = inputs
    visible = bucket.sight(window, causal)
    # Each bucket draws other masks: its first token tells them apart.
    own = seed ^ int(bucket.index[0]) if dropout else None
    return attend_by_products(query, key, value, scale=scale, visible=visible, dropout=dropout, seed=own)


def attend_by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float | None,
    visible: torch.Tensor | None,
    dropout: float,
    seed: int | None = None,
) -> torch.Tensor:
    """Attention of texts of one length.

    Args:
        query: [texts, heads, tokens, width of a head].
        key: [texts, key heads, tokens, width]; the query heads that share one are rows of one product.
        value: as key, its width may differ.
        scale: factor on the products; 1/sqrt(width) if None.
        visible: who sees whom, bool [texts or 1, tokens, tokens]; None: all see all.
        dropout: on the weights.
        seed: of the dropout; by default the next of torch's random state.

    Returns:
        [texts, heads, tokens, width of a value].
    """
    given = query.dtype
    texts, heads, length, width = query.shape
    if given == torch.bfloat16 and (length <= _SHORT or dropout):
        query, key, value = query.float(), key.float(), value.float()
    elif given == torch.bfloat16:
        key = key - key.mean(dim=2, keepdim=True)
    shared = key.shape[1]
    rows = (query * (width**-0.5 if scale is None else scale)).reshape(texts * shared, -1, width)
    scores = torch.bmm(rows, key.reshape(texts * shared, length, width).transpose(1, 2))
    if visible is not None:
        scores = scores.unflatten(0, (texts, shared)).unflatten(2, (heads // shared, length))
        scores = scores.masked_fill_(~visible[:, None, None], -torch.inf).view(texts * shared, -1, length)
    weights = torch.softmax(scores, dim=-1)
    if dropout:
        weights = Dropout.apply(weights, dropout, seed)
        value = value / (1 - dropout)
    states = torch.bmm(weights, value.reshape(texts * shared, length, -1))
    return states.view(texts, heads, length, -1).to(given)


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
