"""Attention without padding, by itself: the ways that a row of texts can be attended in, forward and backward.

What the package does is measured beside what it might do. With dropout torch's public function cannot be asked, so
texts of equal length go together, densely; a GPU may prefer padding, or the operator under that function, which drops.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from benchmarks.gpu.setup import Row, Setup, seconds_of
from torch import nn

from unmask.backbone.fast import operators
from unmask.backbone.fast.varlen import FlatLayout, attend

_DROPOUT = 0.3
_OURS = "as the package does it"
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def attention(setup: Setup) -> Iterator[Row]:
    """One row a way: milliseconds of a forward and backward pass of one layer of Qwen3-0.6B's shape."""
    generator = torch.Generator().manual_seed(0)
    count, longest = setup.some(6, 256), setup.some(24, 128)
    lengths = sorted(torch.randint(4, longest, (count,), generator=generator).tolist(), reverse=True)
    heads, shared, width = setup.some(4, 16), setup.some(2, 8), setup.some(16, 128)
    options = {"dtype": getattr(torch, setup.dtype), "device": setup.device, "requires_grad": True}
    row = [torch.randn(1, n, sum(lengths), width, **options) for n in (heads, shared, shared)]
    layout = FlatLayout(tuple(lengths), torch.device(setup.device))
    expected = attend(*row, layout).detach().float()
    for line, way in _ways(layout):
        try:
            with torch.no_grad():
                off = float((way(*row).float() - expected).norm() / expected.norm())
            seconds = seconds_of(partial(_both_ways, way, row), setup.device, setup.some(2, 20))
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            if line.endswith(_OURS):
                raise
            yield {"line": line, "note": f"not here: {str(error).strip().splitlines()[0][:100]}"}
            continue
        note = "" if line.startswith("dropout") else f"off by {off:.1g}"
        yield {"line": line, "milliseconds": 1000 * seconds, "note": note}


def _both_ways(way: Attend, row: list[torch.Tensor]) -> None:
    for tensor in row:
        tensor.grad = None
    way(*row).sum().backward()


def _ways(layout: FlatLayout) -> Iterator[tuple[str, Attend]]:
    """Name, and function [1, heads, tokens, width] x 3 -> [tokens, heads, width]; last what no documentation names."""
    yield _OURS, partial(attend, layout=layout)
    yield f"dropout, {_OURS}", partial(attend, layout=layout, dropout=_DROPOUT)
    yield "padded, with a mask", partial(_padded, layout=layout)
    yield "dropout, padded, with a mask", partial(_padded, layout=layout, dropout=_DROPOUT)
    yield "the kernel, key heads repeated", partial(_varlen, layout=layout, repeated=True)
    yield "the kernel, key heads shared", partial(_varlen, layout=layout, repeated=False)
    yield "the operator under it", partial(_kernel, layout=layout)
    yield "dropout, the operator under it", partial(_kernel, layout=layout, dropout=_DROPOUT)


def _padded(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: FlatLayout, dropout: float = 0.0
) -> torch.Tensor:
    """Filled up to the longest text, attended, taken apart again."""
    longest = max(layout.lengths)
    at = torch.arange(longest, device=layout.device)
    real = at[None] < layout.ends.diff()[:, None]  # [texts, longest]

    def fill(x: torch.Tensor) -> torch.Tensor:
        rows = x.new_zeros(*real.shape, x.shape[1], x.shape[3])
        rows[real] = x[0].transpose(0, 1)
        # With a mask no kernel shares key heads; transformers repeats them then.
        return rows.transpose(1, 2).repeat_interleave(query.shape[1] // x.shape[1], dim=1)

    states = nn.functional.scaled_dot_product_attention(
        *(fill(x) for x in (query, key, value)), attn_mask=real[:, None, None], dropout_p=dropout
    )
    return states.transpose(1, 2)[real]


def _varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: FlatLayout, repeated: bool
) -> torch.Tensor:
    """Torch's public function, with as many key heads as heads or with those there are, said or not."""
    varlen = operators.varlen_attention()
    if varlen is None:
        raise NotImplementedError("this torch has no varlen_attn")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if repeated:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    shared = {"enable_gqa": True} if not repeated and "enable_gqa" in varlen.names else {}
    longest = max(layout.lengths)
    states: torch.Tensor = varlen.function(q, k, v, layout.ends, layout.ends, longest, longest, **shared)
    return states


def _kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: FlatLayout, dropout: float = 0.0
) -> torch.Tensor:
    """The operator that the public function calls; it alone takes a dropout rate."""
    flash = operators.find("torch.ops.aten._flash_attention_forward.default")
    if flash is None:
        raise NotImplementedError("this torch has no such operator")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    longest = max(layout.lengths)
    states: torch.Tensor = flash(q, k, v, layout.ends, layout.ends, longest, longest, dropout, False, False)[0]
    return states
