"""Batches without padding: texts one after the other in a single row, each attending to itself alone.

A transformers model reads the row as one text with positions that start again; only attention must know where a text
ends. So there is an attention implementation of its own, which is set on the models that read flat batches: while a
layout is in force (a context variable: threads do not see each other's) it builds no mask and attends text by text,
on CUDA by torch's variable-length kernel, elsewhere by dense attention on texts of equal length together. Outside a
layout it is transformers' sdpa. Nothing is believed of a family: `reads_flat` (truth/flat.py) compares with texts read
alone, on a tiny twin.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from unmask.backbone.families.switches import attention_mode
from unmask.backbone.fast import operators
from unmask.backbone.fast.buckets import Bucket, band, make_buckets
from unmask.backbone.fast.contract import Availability, FastPath
from unmask.backbone.fast.cpu_attention import ByProducts, suits_products
from unmask.backbone.structure import FLAT_ATTENTION, backend_in_use, text_config
from unmask.text.batching import send

_SPECIAL = ("position_bias", "softcap", "s_aux")  # what dense attention text by text does not do


class FlatUnsupportedError(RuntimeError):
    """A model that cannot read texts one after the other was given them so; says why."""


@dataclass(frozen=True, eq=False)
class FlatLayout:
    """Where the texts of a row lie.

    Attributes:
        lengths: of the texts, in their order; equal ones next to each other are computed together.
        device: of the row.
        causal: whether tokens see only what came before.
        future: what weights on later tokens are multiplied by before they are normalised: 1 as they are, 0 causal.
    """

    lengths: tuple[int, ...]
    device: torch.device
    causal: bool = False
    future: float = 1.0

    @cached_property
    def groups(self) -> list[tuple[int, int, int]]:
        """(first token, texts, length) of each run of equal lengths."""
        runs = [(length, len(list(same))) for length, same in groupby(self.lengths)]
        starts = accumulate((length * count for length, count in runs), initial=0)
        return [(start, count, length) for start, (length, count) in zip(starts, runs, strict=False)]

    @cached_property
    def buckets(self) -> tuple[list[Bucket], torch.Tensor | None]:
        """See `make_buckets`."""
        return make_buckets(self.lengths)

    @cached_property
    def ends(self) -> torch.Tensor:
        """0 and where each text ends, int32 [texts + 1]."""
        return send(torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32), self.device)

    @cached_property
    def positions(self) -> torch.Tensor:
        """0, 1, 2 ... within each text, int64 [1, tokens]."""
        return send(torch.cat([torch.arange(length) for length in self.lengths])[None], self.device)


_LAYOUT: ContextVar[FlatLayout | None] = ContextVar("layout", default=None)


@contextmanager
def flat(layout: FlatLayout) -> Iterator[None]:
    """Read rows by this layout inside."""
    token = _LAYOUT.set(layout)
    try:
        yield
    finally:
        _LAYOUT.reset(token)


def layout_in_force() -> FlatLayout | None:
    """The layout that rows are read by here."""
    return _LAYOUT.get()


def keep_layout() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts for gradient checkpointing (`context_fn`): a layer that is run again reads its row as the first time."""
    layout = _LAYOUT.get()
    return nullcontext(), nullcontext() if layout is None else flat(layout)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: FlatLayout,
    *,
    scale: float | None = None,
    window: int | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Attention of each text to itself.

    Args:
        query: [1, heads, tokens, width of a head].
        key: [1, key heads, tokens, width]; heads may share one.
        value: as key, its width may differ.
        layout: of the row.
        scale: factor on the products; 1/sqrt(width) if None.
        window: how far a token sees, as transformers counts: to both sides and inclusive, or `window` - 1 back.
        dropout: on the weights.

    Returns:
        [tokens, heads, width of a value].
    """
    if window is not None and window >= max(layout.lengths):
        window = None
    plain = layout.future == 1  # what is faster than torch's dense attention takes no bias
    varlen = operators.varlen_attention() if plain and not dropout and _suits_varlen(query, value) else None
    if varlen is not None and (window is None or varlen.knows_windows):
        return _attend_by_varlen(varlen, query, key, value, layout, scale, window)
    if plain and suits_products(query, max(layout.lengths), dropout):
        options = (scale, window, layout.causal, dropout)
        return ByProducts.apply(query, key, value, *layout.buckets, options)  # type: ignore[no-any-return, no-untyped-call]
    found = []
    for start, count, length in layout.groups:
        q, k, v = (_texts(x, start, count, length) for x in (query, key, value))
        narrow = window is not None and length > window
        seen = band(length, window, layout.causal, layout.device) if narrow else None
        seen = seen if plain else _future_bias(query, length, layout.future, seen)
        states = nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=seen,
            is_causal=layout.causal and seen is None and length > 1,
            scale=scale,
            dropout_p=dropout,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        found.append(states.transpose(1, 2).flatten(0, 1))
    return found[0] if len(found) == 1 else torch.cat(found)


def _texts(x: torch.Tensor, start: int, count: int, length: int) -> torch.Tensor:
    """Some texts of one length out of a row, [texts, heads, tokens, width]."""
    if length == x.shape[2]:
        return x
    return x[0, :, start : start + count * length].unflatten(1, (count, length)).transpose(0, 1)


def _future_bias(query: torch.Tensor, length: int, share: float, seen: torch.Tensor | None) -> torch.Tensor:
    """What is added to scores [tokens, tokens] so that weights on later tokens are multiplied by `share`."""
    ones = torch.ones(length, length, device=query.device)
    weights = ones.tril() + share * ones.triu(1)
    return (weights if seen is None else weights * seen).log().to(query.dtype)


def _suits_varlen(query: torch.Tensor, value: torch.Tensor) -> bool:
    """What torch's kernel takes: sixteen bits, heads of a multiple of eight, a GPU of compute capability 8."""
    width = query.shape[-1]
    fits = query.is_cuda and query.dtype != torch.float32 and width == value.shape[-1] <= 256 and width % 8 == 0
    return fits and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _attend_by_varlen(
    varlen: operators.VarlenAttention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: FlatLayout,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    back = -1 if window is None else window - int(layout.causal)
    seen = (back, 0 if layout.causal else back)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return varlen(q, k, v, layout.ends, max(layout.lengths), scale=scale, window=seen)


def _opaque_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float | None,
    window: int | None,
    causal: bool,
) -> torch.Tensor:
    """Attention as one step of a compiled layer, which need not know the layout: it changes with every batch."""
    layout = _LAYOUT.get()
    if layout is not None:
        return attend(query, key, value, layout, scale=scale, window=window)[None]
    states = nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=causal and mask is None and query.shape[2] > 1,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return states.transpose(1, 2).contiguous()


def attended_shape(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> torch.Tensor:
    """An empty tensor in the shape of the states, [rows, tokens, heads, width]."""
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])


operators.define(
    "attention(Tensor query, Tensor key, Tensor value, Tensor? mask, float? scale, int? window, bool causal) -> Tensor",
    _opaque_attention,
    attended_shape,
    ("CPU", "CUDA"),
)


def _flat_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What a model under this implementation calls: by the layout in force, or else transformers' sdpa."""
    scale, window = kwargs.get("scaling"), kwargs.get("sliding_window")
    if torch.is_autocast_enabled(query.device.type):  # queries and keys may be wider than values: positions were added
        query, key, value = (x.to(torch.get_autocast_dtype(query.device.type)) for x in (query, key, value))
    if torch.compiler.is_compiling() and module.training:
        states, _ = torch.ops.unmask.trained_attention.default(
            query, key, value, scale, window, kwargs.get("dropout", 0.0)
        )
        return states, None
    if torch.compiler.is_compiling() and not torch.is_grad_enabled():
        causal = kwargs.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        attended = torch.ops.unmask.attention.default(query, key, value, attention_mask, scale, window, causal)
        return attended, None
    layout = _LAYOUT.get()
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if attention_mask is not None or any(kwargs.get(name) is not None for name in _SPECIAL):
        raise FlatUnsupportedError(f"{type(module).__name__} gives attention a mask, a bias or a cap on its scores")
    dropout = kwargs.get("dropout", 0.0)
    return attend(query, key, value, layout, scale=scale, window=window, dropout=dropout)[None], None


def _flat_mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    return sdpa_mask(*args, **kwargs) if _LAYOUT.get() is None else None


# Under a name of its own, which only models that read flat batches use: nothing that others use is replaced.
ALL_ATTENTION_FUNCTIONS.register(FLAT_ATTENTION, _flat_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(FLAT_ATTENTION, _flat_mask)


def use_flat_attention(model: nn.Module) -> None:
    """Let a model that attends by sdpa attend by layouts; saved configs name no implementation.

    Raises:
        FlatUnsupportedError: it attends by something else, or its class takes no other implementation.
    """
    config = text_config(model)
    takes_others = getattr(model, "_can_set_attn_implementation", lambda: True)  # asked, because setting it would warn
    if config._attn_implementation == "sdpa" and hasattr(model, "set_attn_implementation") and takes_others():
        model.set_attn_implementation(FLAT_ATTENTION)  # type: ignore[operator]
    if config._attn_implementation != FLAT_ATTENTION:
        raise FlatUnsupportedError(
            f"attn_implementation={backend_in_use(model)!r} does not know where a text of a flat batch ends"
        )


def stop_flat_attention(model: nn.Module) -> None:
    """Undo `use_flat_attention`."""
    if text_config(model)._attn_implementation == FLAT_ATTENTION:
        model.set_attn_implementation("sdpa")  # type: ignore[operator]


def layout_of(lengths: Sequence[int], model: nn.Module, future: float = 1.0) -> FlatLayout:
    """The layout of texts in a row for a model, on its device; a causal one sees no future anyway."""
    causal = attention_mode(model) == "causal" and any(getattr(m, "is_causal", False) is True for m in model.modules())
    return FlatLayout(tuple(lengths), next(model.parameters()).device, causal, 1.0 if causal else future)


class FlatAttention(FastPath):
    """Batches without padding, as a fast path; whether a model can read them is `reads_flat` (truth/flat.py)."""

    name = "flat"

    def available(self, model: nn.Module) -> Availability:
        """Where a model attends by sdpa; whether its family can is for a proof to say."""
        backend = backend_in_use(model)
        if backend != "sdpa":
            return Availability(False, f"attn_implementation={backend!r} pads its batches; sdpa would not have to")
        return super().available(model)

    def attach(self, model: nn.Module) -> None:
        """See `use_flat_attention`."""
        use_flat_attention(model)

    def detach(self, model: nn.Module) -> None:
        """See `stop_flat_attention`."""
        stop_flat_attention(model)

    def self_test(self) -> float:
        """Attention text by text against dense attention with a mask of who sees whom."""
        lengths = (5, 5, 2)
        query, key, value = torch.randn(1, 4, 12, 8), torch.randn(1, 2, 12, 8), torch.randn(1, 2, 12, 8)
        text = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
        mask = text[:, None] == text[None]
        expected = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        found = attend(query, key, value, FlatLayout(lengths, query.device)).transpose(0, 1)
        return float((found - expected[0]).norm() / expected.norm())
