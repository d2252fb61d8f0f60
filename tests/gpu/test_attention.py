"""Attention without padding against dense attention in float32: windows, shared heads, gradients, dropout."""

import pytest
import torch
from torch import nn

from unmask.backbone.fast import operators, varlen
from unmask.backbone.fast.varlen import FlatLayout, attend

pytestmark = pytest.mark.gpu
LENGTHS = (70, 33, 33, 8, 1)


@pytest.fixture
def row(device, dtype):
    """key heads, width -> query, key, value of texts in a row, with gradients."""

    def build(key_heads, width):
        generator = torch.Generator().manual_seed(0)
        rows = [torch.randn(1, n, sum(LENGTHS), width, generator=generator) for n in (4, key_heads, key_heads)]
        return [x.to(device, dtype).requires_grad_() for x in rows]

    return build


def dense(query, key, value, causal, window, scale):
    """Who sees whom as one mask over the whole row, on the CPU."""
    text = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    ahead = torch.arange(len(text))[None] - torch.arange(len(text))[:, None]
    mask = text[:, None] == text[None]
    if causal:
        mask &= ahead <= 0
    if window is not None:
        mask &= (ahead > -window) if causal else (ahead.abs() <= window)
    states = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )
    return states[0].transpose(0, 1)


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("scale", [None, 0.2])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("window", [None, 16, 1000])
@pytest.mark.parametrize("causal", [False, True])
def test_values_and_gradients_are_those_of_dense_attention(
    device, row, near, off, causal, window, key_heads, scale, width
):
    given = row(key_heads, width)
    found = attend(*given, FlatLayout(LENGTHS, device, causal), window=window, scale=scale)
    weights = torch.linspace(-1, 1, found.numel(), device=device).view_as(found)
    (found * weights).sum().backward()
    exact = [x.detach().float().cpu().requires_grad_() for x in given]
    expected = dense(*exact, causal, window, scale)
    (expected * weights.float().cpu()).sum().backward()
    assert off(found, expected) < near
    for x, y in zip(given, exact, strict=True):
        assert off(x.grad, y.grad) < near


def test_the_kernel_without_padding_is_the_one_that_runs(device, row, monkeypatch):
    """Where its conditions hold, that is: the test above would not see another way taken."""
    if device.type != "cuda":
        pytest.skip("the kernel is of GPUs")
    query, key, value = row(2, 64)
    assert varlen._suits_varlen(query, value)
    kernel, calls = operators.varlen_attention(), []

    def noted(*arguments, **options):
        calls.append(options)
        return kernel.function(*arguments, **options)

    monkeypatch.setattr(operators, "varlen_attention", lambda: operators.VarlenAttention(noted, kernel.names))
    attend(query, key, value, FlatLayout(LENGTHS, device))
    assert len(calls) == 1


def test_dropout_keeps_the_mean_and_follows_the_seed(device, row):
    """GradCache makes every pass twice, from the same seed."""
    query, key, value = row(2, 64)
    with torch.no_grad():
        value.fill_(1)
    layout, found = FlatLayout(LENGTHS, device), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(attend(query, key, value, layout, dropout=0.3).detach().float())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert float(found[0].mean()) == pytest.approx(1, abs=0.05)
    assert float(found[0][: LENGTHS[0]].std()) > 0.02
