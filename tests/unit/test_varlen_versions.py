"""Torch's variable-length attention as each version spells it, computed densely: one adapter, the same attention."""

import inspect

import pytest
import torch
from torch import nn

from unmask.backbone.fast import operators, varlen
from unmask.backbone.fast.operators import VarlenAttention
from unmask.backbone.fast.varlen import FlatLayout, attend

LENGTHS = (5, 5, 2)


def dense(query, key, value, ends, longest, *, scale, window, shared):
    """What the kernel computes, and refuses."""
    assert ends.dtype == torch.int32
    assert longest == int(ends.diff().max())
    if not shared and query.shape[1] != key.shape[1]:
        raise ValueError("Expect query and key/value to have the same number of heads")
    text = torch.bucketize(torch.arange(len(query)), ends[1:].long(), right=True)
    ahead = torch.arange(len(query))[None] - torch.arange(len(query))[:, None]
    back, forth = (len(query) if side < 0 else side for side in window)
    mask = (text[:, None] == text[None]) & (ahead >= -back) & (ahead <= forth)
    rows = (x.transpose(0, 1)[None] for x in (query, key, value))
    states = nn.functional.scaled_dot_product_attention(*rows, attn_mask=mask, scale=scale, enable_gqa=shared)
    return states[0].transpose(0, 1)


def torch_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
    window = (-1, 0) if is_causal else (-1, -1)
    return dense(query, key, value, cu_seq_q, max_q, scale=None, window=window, shared=False)


def torch_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
):
    return dense(query, key, value, cu_seq_q, max_q, scale=scale, window=window_size, shared=False)


def torch_2_12(
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    return_aux=None,
    scale=None,
    window_size=(-1, -1),
    enable_gqa=False,
    seqused_k=None,
    block_table=None,
    num_splits=None,
):
    return dense(query, key, value, cu_seq_q, max_q, scale=scale, window=window_size, shared=enable_gqa)


def torch_2_13(*arguments, **options):
    """The installed one's own signature: whatever this torch is, its arguments are what the adapter gives."""
    from torch.nn.attention.varlen import varlen_attn

    bound = inspect.signature(varlen_attn).bind(*arguments, **options)
    known = inspect.signature(torch_2_12).parameters
    return torch_2_12(**{name: value for name, value in bound.arguments.items() if name in known})


def installed():
    from torch.nn.attention.varlen import varlen_attn

    torch_2_13.__signature__ = inspect.signature(varlen_attn)
    return torch_2_13


@pytest.mark.parametrize("version", [torch_2_10, torch_2_11, torch_2_12, "installed"])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_every_version_gives_the_same_attention(monkeypatch, version, key_heads, scale, window, causal):
    adapter = VarlenAttention.of(installed() if version == "installed" else version)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, n, 12, 8, generator=generator) for n in (4, key_heads, key_heads))
    layout = FlatLayout(LENGTHS, torch.device("cpu"), causal)
    expected = attend(query, key, value, layout, scale=scale, window=window)
    calls = []

    def noted(*arguments, **options):
        calls.append(options)
        return adapter.function(*arguments, **options)

    monkeypatch.setattr(varlen, "_suits_varlen", lambda *_: True)
    monkeypatch.setattr(operators, "varlen_attention", lambda: VarlenAttention(noted, adapter.names))
    found = attend(query, key, value, layout, scale=scale, window=window)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    # The one thing a version cannot do at all is done without it.
    assert bool(calls) == (version is not torch_2_10 or window is None)


def test_a_window_wider_than_the_texts_is_none(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 4, 12, 8, generator=generator) for _ in range(3))
    layout = FlatLayout(LENGTHS, torch.device("cpu"))
    expected = attend(query, key, value, layout)
    monkeypatch.setattr(varlen, "_suits_varlen", lambda *_: True)
    monkeypatch.setattr(operators, "varlen_attention", lambda: VarlenAttention.of(torch_2_10))
    torch.testing.assert_close(attend(query, key, value, layout, window=5), expected)


def test_this_torch_has_it():
    """Its floor is 2.10, which has; a later one that renames what is asked for here is to be noticed."""
    found = operators.varlen_attention()
    assert found is not None
    assert found.names >= {"query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"}
    assert found.names & {"is_causal", "window_size"}
