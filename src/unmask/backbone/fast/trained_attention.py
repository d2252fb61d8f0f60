"""Attention as one step of layers that are compiled for training, with its backward pass: `torch.ops.unmask`.

A compiled layer cannot know the layout of its row, which changes with every batch, and the backward pass runs when no
layout is in force. So the forward step gives out a ticket as well, the number of the layout and the seed of the
dropout, which the backward step is handed with queries, keys and values; it computes the rest again.
"""

import itertools
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch

from unmask.backbone.fast import operators
from unmask.backbone.fast.cpu_attention import gradients_in_buckets, products_in_buckets, suits_products
from unmask.backbone.fast.random_masks import draw_seed
from unmask.backbone.fast.varlen import FlatLayout, FlatUnsupportedError, attend, attended_shape, layout_in_force

_NUMBERS = itertools.count(1)
_LAYOUTS: WeakValueDictionary[int, FlatLayout] = WeakValueDictionary()  # held by the graph that needs them
_NUMBER_OF: WeakKeyDictionary[FlatLayout, int] = WeakKeyDictionary()


def _number(layout: FlatLayout) -> int:
    if layout not in _NUMBER_OF:
        _NUMBER_OF[layout] = next(_NUMBERS)
        _LAYOUTS[_NUMBER_OF[layout]] = layout
    return _NUMBER_OF[layout]


def _trained_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float | None,
    window: int | None,
    dropout: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention as one step of a compiled layer in training; also what its backward pass must know: layout and seed."""
    layout = layout_in_force()
    if layout is None:
        raise FlatUnsupportedError("layers compiled for training read texts one after the other")
    seed = draw_seed() if dropout else 0
    inputs, ticket = (query, key, value), torch.tensor([_number(layout), seed])
    if suits_products(query, max(layout.lengths), dropout):
        return products_in_buckets(inputs, *layout.buckets, (scale, window, layout.causal, dropout), seed)[None], ticket
    return attend(*inputs, layout, scale=scale, window=window)[None], ticket


def _trained_gradients(
    given: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ticket: torch.Tensor,
    scale: float | None,
    window: int | None,
    dropout: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    number, seed = ticket.tolist()
    layout, inputs = _LAYOUTS[number], (query, key, value)
    if suits_products(query, max(layout.lengths), dropout):
        options = (scale, window, layout.causal, dropout)
        found = gradients_in_buckets(given[0], inputs, *layout.buckets, options, seed)
    else:
        with torch.enable_grad():  # type: ignore[no-untyped-call]
            own = [x.detach().requires_grad_() for x in inputs]
            states = attend(own[0], own[1], own[2], layout, scale=scale, window=window)
            found = list(torch.autograd.grad(states, own, given[0]))
    return found[0].contiguous(), found[1].contiguous(), found[2].contiguous()


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], output[1])
    ctx.options = inputs[3:]


def _backward(ctx: Any, given: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
    found = torch.ops.unmask.attention_gradients.default(given, *ctx.saved_tensors, *ctx.options)
    return (*found, None, None, None)


operators.define(
    "trained_attention(Tensor query, Tensor key, Tensor value, float? scale, int? window, float dropout)"
    " -> (Tensor, Tensor)",
    _trained_attention,
    lambda query, key, value, *_: (attended_shape(query, key, value), query.new_empty(2, dtype=torch.int64)),
    ("CPU",),
    random=True,
    backward=(_keep, _backward),
)
operators.define(
    "attention_gradients(Tensor given, Tensor query, Tensor key, Tensor value, Tensor ticket,"
    " float? scale, int? window, float dropout) -> (Tensor, Tensor, Tensor)",
    _trained_gradients,
    lambda given, *inputs: tuple(x.new_empty(x.shape) for x in inputs[:3]),
    ("CPU",),
)
