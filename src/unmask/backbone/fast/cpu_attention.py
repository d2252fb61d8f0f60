"""Attention on a CPU as two matrix products around a softmax, for training.

Torch's kernel for the CPU never writes the scores down, which pays for long texts only: at 100 tokens its backward pass
in bfloat16 takes three times as long as these products in float32, and with dropout torch leaves the kernel and draws
one number at a time. Texts of like length are multiplied together (`buckets`); nothing but queries, keys and values is
kept for the backward pass, which computes the rest again, a few texts at a time: scores that stay in the cache from
product to softmax to product are read at several times the speed of memory. Longer texts are multiplied in bfloat16.
Their scores are rounded, as they are in transformers' eager attention; keys less their mean, which no softmax can see
(Zhang et al. 2024, arXiv 2410.02367), keep them small.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from unmask.backbone.fast import operators
from unmask.backbone.fast.buckets import Bucket, make_buckets
from unmask.backbone.fast.contract import Availability, FastPath, wanted
from unmask.backbone.fast.random_masks import draw_seed, masked, random_mask

_SHORT = 128  # tokens; up to here float32 products are faster than torch's kernel, in bfloat16 by far
_LONGEST = 512  # tokens; the scores of longer texts are not written down
_CACHED = 5_000_000  # bytes of scores at a time; from 2 to 5 million took the same time with 2 MB of cache a core

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
        return _in_order([_states(bucket, rows, options, seed) for bucket in buckets], order)


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
    with torch.autocast("cpu", enabled=False):
        found = [_gradients(bucket, given, rows, options, seed) for bucket in buckets]
    return [_in_order(parts, order).transpose(0, 1)[None] for parts in zip(*found, strict=True)]


def _in_order(parts: Sequence[torch.Tensor], order: torch.Tensor | None) -> torch.Tensor:
    together = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    return together if order is None else together.index_select(0, order)


def _states(bucket: Bucket, rows: Sequence[torch.Tensor], options: Options, seed: int) -> torch.Tensor:
    """States of a bucket's tokens, [tokens, heads, width of a value]."""
    query, key, value = _operands(bucket, rows, options)
    states = value.new_empty(*query.shape[:-1], value.shape[-1])
    for part, own in _parts(bucket, query, seed):
        weights = _weights(bucket, query, key, part, options)
        if options[-1]:
            weights = masked(weights, random_mask(weights, options[-1], own))
        torch.bmm(weights.flatten(0, 1), value[part].flatten(0, 1), out=states[part].flatten(0, 1))
    return bucket.give(_by_heads(states, bucket)).to(rows[0].dtype)


def _gradients(
    bucket: Bucket, given: torch.Tensor, rows: Sequence[torch.Tensor], options: Options, seed: int
) -> list[torch.Tensor]:
    """Gradients of a bucket's queries, keys and values, each [tokens, heads, width]."""
    dropout = options[-1]
    query, key, value = _operands(bucket, rows, options)
    upper = bucket.take_zeros(given).to(query.dtype).reshape(*query.shape[:-1], -1)
    found = for_query, for_key, for_value = [torch.empty_like(x) for x in (query, key, value)]
    for part, own in _parts(bucket, query, seed):
        q, k, v, g = (x[part].flatten(0, 1) for x in (query, key, value, upper))
        weights = kept = _weights(bucket, query, key, part, options).flatten(0, 1)
        if dropout:
            mask = random_mask(weights, dropout, own)
            kept = masked(weights, mask)
        torch.bmm(kept.mT, g, out=for_value[part].flatten(0, 1))
        for_weights = torch.bmm(g, v.mT)
        if dropout:
            for_weights = masked(for_weights, mask)
        for_scores = torch.ops.aten._softmax_backward_data.default(for_weights, weights, -1, weights.dtype)
        torch.bmm(for_scores, k, out=for_query[part].flatten(0, 1))
        torch.bmm(for_scores.mT, q, out=for_key[part].flatten(0, 1))
    for_query.mul_(_factor(rows[0], options[0]))
    if dropout:
        for_value.div_(1 - dropout)
    return [bucket.give(_by_heads(x, bucket)).to(row.dtype) for x, row in zip(found, rows, strict=True)]


def _operands(bucket: Bucket, rows: Sequence[torch.Tensor], options: Options) -> tuple[torch.Tensor, ...]:
    """What is multiplied: scaled queries [texts, key heads, heads that share one * length, width], keys and values."""
    scale, dropout = options[0], options[-1]
    query, key, value = (bucket.take(row) for row in rows)
    if query.dtype == torch.bfloat16 and (bucket.length <= _SHORT or dropout):
        query, key, value = query.float(), key.float(), value.float()
    elif query.dtype == torch.bfloat16:
        key = key - key.mean(dim=2, keepdim=True)
    query = (query * _factor(query, scale)).reshape(*key.shape[:2], -1, query.shape[-1])
    value = value / (1 - dropout) if dropout else value
    return query.contiguous(), key.contiguous(), value.contiguous()  # what is written into views of the like of them


def _factor(query: torch.Tensor, scale: float | None) -> float:
    return query.shape[-1] ** -0.5 if scale is None else scale


def _parts(bucket: Bucket, query: torch.Tensor, seed: int) -> Iterator[tuple[slice, int]]:
    """Some texts at a time, and the seed of their dropout: by their first token, or all would draw the same masks."""
    bytes_of_a_text = query[0, :, :, 0].numel() * bucket.length * query.element_size()
    count = max(1, _CACHED // bytes_of_a_text)
    for first in range(0, bucket.texts, count):
        yield slice(first, min(first + count, bucket.texts)), seed ^ int(bucket.index[first * bucket.length])


def _weights(bucket: Bucket, query: torch.Tensor, key: torch.Tensor, part: slice, options: Options) -> torch.Tensor:
    """Attention weights of some texts before dropout, [texts, key heads, heads that share one * length, length]."""
    scores = torch.bmm(query[part].flatten(0, 1), key[part].flatten(0, 1).mT).unflatten(0, (-1, key.shape[1]))
    bucket.hide(scores, part, options[1], options[2])
    return torch.softmax(scores, dim=-1)


def _by_heads(x: torch.Tensor, bucket: Bucket) -> torch.Tensor:
    """[texts, heads, length, width] of what lies by key heads."""
    return x.reshape(bucket.texts, -1, bucket.length, x.shape[-1])


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
        query, key, value = torch.randn(1, 4, 18, 8), torch.randn(1, 2, 18, 8), torch.randn(1, 2, 18, 8)
        q, k, v = (x[0].unflatten(1, (2, 9)).transpose(0, 1) for x in (query, key, value))
        expected = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(0, 1)
        found = products_in_buckets((query, key, value), *make_buckets((9, 9)), (None, None, False, 0.0), 0)
        return float((found - expected).norm() / expected.norm())
