"""Weights in another dtype for a while, or for good."""

import torch
from torch import nn

from unmask.backbone.devices import cast_weights, weights_in


class Router(nn.Linear):
    """As the routers of DeepSeek-V3 and its kin: their bias decides between experts, so it is never rounded."""

    _keep_in_fp32_modules_strict = frozenset({"bias"})


def test_weights_come_back_as_they_were():
    model = nn.Sequential(nn.Linear(8, 8))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with weights_in(model, torch.bfloat16):
        assert {weight.dtype for weight in model.state_dict().values()} == {torch.bfloat16}
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_what_a_class_keeps_in_float32_is_not_rounded():
    model = Router(8, 8)
    bias = model.bias.clone()
    with weights_in(model, torch.bfloat16):
        assert model.weight.dtype == torch.bfloat16
        assert torch.equal(model.bias, bias)
    cast_weights(model, torch.bfloat16)
    assert model.weight.dtype == torch.bfloat16
    assert torch.equal(model.bias, bias)
    cast_weights(model, torch.float32)
    assert model.weight.dtype == torch.float32
