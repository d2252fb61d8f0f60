"""Linear layers in eight bits: near the plain ones, and a row's product does not depend on the rows beside it."""

import gc
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from unmask.backbone.fast.int8 import Int8Linear, available
from unmask.encoder import TextEncoder, to_int8


@pytest.mark.parametrize(("width", "out"), [(7, 5), (64, 48), (576, 1536)])
def test_products_are_near_and_each_row_stands_alone(width, out):
    torch.manual_seed(0)
    linear = nn.Linear(width, out)
    eight, rows = Int8Linear(linear), torch.randn(3, 17, width)
    rows[0, 0] = 0
    with torch.inference_mode():
        found, expected = eight(rows), linear(rows)
        assert (found - expected).norm() < 0.012 * expected.norm()
        assert torch.equal(found[0, 0], linear.bias)
        for row in (0, 5):
            assert torch.equal(eight(rows[1, row]), found[1, row])
        assert eight(rows.bfloat16()).dtype == torch.bfloat16


def test_a_row_of_zeros_in_the_weights_stays_zero():
    linear = nn.Linear(4, 3, bias=False)
    with torch.no_grad():
        linear.weight[1] = 0
    assert Int8Linear(linear)(torch.randn(2, 4))[:, 1].tolist() == [0, 0]


def test_the_largest_channels_are_not_rounded():
    torch.manual_seed(0)
    linear, rows = nn.Linear(64, 48), torch.randn(40, 64)
    large = [3, 17, 40, 41]  # as many as there are exact ones
    rows[:, large] *= 1000
    eight = Int8Linear(linear, rows.abs().amax(0))
    assert sorted(eight.exact.tolist()) == large
    with torch.inference_mode():
        found, expected = eight(rows), linear(rows)
        assert (found - expected).norm() < 1e-4 * expected.norm()
        torch.testing.assert_close(eight(rows[:1]), found[:1])


def test_other_channels_that_are_large_are_divided_down():
    torch.manual_seed(0)
    linear, rows = nn.Linear(64, 48), torch.randn(40, 64)
    rows[:, 3:11] *= 100
    with torch.inference_mode():
        expected = linear(rows)
        plain, smooth = (
            (Int8Linear(linear, largest)(rows) - expected).norm() / expected.norm()
            for largest in (None, rows.abs().amax(0))
        )
    assert smooth < plain / 2


def test_the_float_weights_and_their_copies_are_given_back(articles):
    encoder = TextEncoder.load("pocket", attention="bidirectional", dtype="float32")
    weights = [weakref.ref(layer.self_attn.q_proj.weight) for layer in encoder.model.layers]
    to_int8(encoder, articles[:2])
    gc.collect()
    assert [weight() for weight in weights] == [None] * len(weights)


def test_adapters_kept_apart_are_refused(tiny):
    model = get_peft_model(tiny("llama"), LoraConfig(target_modules="all-linear"))
    assert "merge=True" in available(model.base_model.model.model).reason


def test_compiled_layers_agree(articles):
    encoder = TextEncoder.load("pocket", attention="bidirectional", dtype="float32")
    to_int8(encoder, articles[:2])
    expected = encoder.encode(articles, normalize=True, compile=False)
    compiled = encoder.encode(articles, normalize=True, compile=True)
    assert (expected * compiled).sum(1).min() > 0.999
