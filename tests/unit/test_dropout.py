"""Dropout that makes two views differ: real, undone afterwards, and an error where there is none."""

from contextlib import ExitStack

import pytest
import torch

from unmask.backbone.dropout import attention_dropout, hidden_dropout, views_differ
from unmask.backbone.forward import token_states
from unmask.training.config import SupervisedSettings
from unmask.training.stages.contrastive import set_dropout

IDS = torch.arange(10, 20)[None]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "phi3", "mistral"])
def test_attention_dropout_is_applied_and_undone(tiny, family):
    model = tiny(family)
    for module in model.modules():  # the families' own residual dropout is another matter
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert not views_differ(model)
    with attention_dropout(model, 0.3) as taken:
        assert taken >= 2
        assert views_differ(model)
    assert not views_differ(model)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_hidden_dropout_needs_nothing_from_the_family(tiny, family):
    model = tiny(family)
    before = token_states(model, IDS)
    with hidden_dropout(model, 0.2):
        assert views_differ(model)
        assert torch.equal(token_states(model, IDS), before)  # not in evaluation
    assert torch.equal(token_states(model, IDS), before)


def test_hidden_dropout_keeps_the_expectation(tiny):
    model = tiny("llama").train()
    layer = model.model.layers[0]
    seen = []
    handle = layer.register_forward_hook(lambda m, a, out: seen.append(out if torch.is_tensor(out) else out[0]))
    with torch.no_grad():
        token_states(model, IDS)
        clean = seen.pop()
        with hidden_dropout(model, 0.5):
            handle.remove()
            handle = layer.register_forward_hook(lambda m, a, out: seen.append(out if torch.is_tensor(out) else out[0]))
            for _ in range(400):
                token_states(model, IDS)
    handle.remove()
    torch.testing.assert_close(torch.stack(seen).mean(0), clean, atol=0.02, rtol=0.2)


def test_no_attention_dropout_means_none_even_where_the_config_has_some(tiny):
    model = tiny("gpt2")
    assert views_differ(model)
    for path, module in model.named_modules():  # the families' own residual dropout is another matter
        if isinstance(module, torch.nn.Dropout) and not path.endswith("attn_dropout"):
            module.p = 0.0
    assert views_differ(model)
    with ExitStack() as stack:
        set_dropout(model, SupervisedSettings(data="pairs", steps=1), stack)
        assert not views_differ(model)
    assert views_differ(model)
