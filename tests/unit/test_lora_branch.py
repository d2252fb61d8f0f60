"""The LoRA branch of our own against peft's, whose layers it stands in for."""

import peft
import pytest
import torch
from peft.tuners.lora.layer import Linear

from unmask.backbone.fast.lora_branch import add_branch
from unmask.backbone.fast.random_masks import random_mask
from unmask.backbone.forward import token_states
from unmask.backbone.lora import add_lora
from unmask.errors import RecipeError

IDS = torch.arange(40, 56)[None]


def trained(model):
    """Loss and gradients of the adapter, after B was made to do something."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn_like(parameter) * 0.05
    model.train()
    loss = token_states(model, IDS).float().square().mean()
    loss.backward()
    return loss, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def pair(tiny, dtype, own):
    """A tiny model with adapters, all the same numbers whatever the dtype."""
    model = tiny("llama", head=False).to(dtype)
    model.load_state_dict(tiny("llama", head=False).to(torch.bfloat16).state_dict())
    torch.manual_seed(0)
    if own:
        add_lora(model, rank=4, alpha=8, dropout=0.0)
    else:
        peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    assert any(type(m) is Linear for m in model.modules()) == (not own)
    return trained(model)


def test_experts_take_no_dropout_and_the_message_says_so(tiny):
    with pytest.raises(RecipeError, match=r"lora_dropout(.|\n)*lora: {dropout: 0} takes it away"):
        add_lora(tiny("mixtral", head=False), rank=4, alpha=8, dropout=0.1)


def test_without_dropout_loss_and_gradients_are_those_of_peft(tiny):
    (loss, gradients), (expected_loss, expected) = (pair(tiny, torch.float32, own) for own in (True, False))
    torch.testing.assert_close(loss, expected_loss)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


def test_in_bfloat16_gradients_are_as_near_to_the_exact_ones_as_those_of_peft(tiny):
    _, exact = pair(tiny, torch.float32, True)
    errors = []
    for own in (True, False):
        _, gradients = pair(tiny, torch.bfloat16, own)
        errors.append(sum(float((gradients[name].float() - exact[name]).square().sum()) for name in exact) ** 0.5)
    assert errors[0] <= 1.5 * errors[1]


def test_gradients_with_dropout_are_those_of_the_same_mask_by_hand():
    torch.manual_seed(0)
    x, a, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((10, 6), (3, 6), (4, 3)))
    torch.manual_seed(7)
    out = add_branch(torch.zeros(10, 4, dtype=torch.float64), x, a, b, 1.5, 0.3)
    torch.manual_seed(7)
    keep = -random_mask(x, 0.3)
    by_hand = ((x * keep / 0.7) @ a.T @ b.T) * 1.5
    torch.testing.assert_close(out, by_hand)
    wanted = torch.randn_like(out)
    for found, expected in zip(
        torch.autograd.grad(out, (x, a, b), wanted), torch.autograd.grad(by_hand, (x, a, b), wanted), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_less_is_kept_for_the_backward_pass_than_by_peft(tiny):
    """Bytes that autograd saves, the layer's input counted once."""
    kept = []
    for own in (True, False):
        model = tiny("llama", head=False, hidden_size=64, intermediate_size=256)
        if own:
            add_lora(model, rank=4, alpha=8, dropout=0.1)
        else:
            config = peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear")
            peft.get_peft_model(model.to(torch.bfloat16), config)
        model.to(torch.bfloat16)
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.data = parameter.data.float()
        model.train()
        saved = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=saved: s.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t,
            lambda t: t,
        ):
            states = token_states(model, IDS.repeat(1, 6))
        kept.append(sum(saved.values()))
        assert states.requires_grad
    assert kept[0] < 0.75 * kept[1]
