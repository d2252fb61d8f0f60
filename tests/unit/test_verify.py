"""Step 1: what the layers see, before and after conversion."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from unmask import ConversionError, convert, verify
from unmask.backbone.families.switches import attention_mode, set_attention_mode
from unmask.backbone.forward import token_states
from unmask.backbone.truth.convert import compatibility_gaps
from unmask.backbone.truth.verify import CASES, first_sees_last


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma", "gpt2", "phi3", "stablelm"])
def test_a_decoder_is_causal_before_and_bidirectional_after(tiny, family):
    model = tiny(family)
    before = verify(model)
    assert not before.bidirectional
    assert all(not any(check.sees_future.values()) for check in before.checks)
    after = convert(model)
    assert after.bidirectional
    assert after.backends == ["eager", "sdpa"]
    assert len(after.checks) == 2 * 2
    assert all(set(check.sees_future) == {str(case) for case in CASES} for check in after.checks)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_table_agrees_with_a_changed_last_token(tiny, family):
    model = tiny(family)
    assert not first_sees_last(model)
    convert(model)
    assert first_sees_last(model)
    set_attention_mode(model, "causal")
    assert not first_sees_last(model)


def test_causal_again_gives_the_untouched_logits(tiny):
    model = tiny("llama")
    ids = torch.arange(10, 20)[None]
    before = model(input_ids=ids).logits
    convert(model)
    assert not torch.allclose(model(input_ids=ids).logits, before)
    set_attention_mode(model, "causal")
    assert torch.equal(model(input_ids=ids).logits, before)


@pytest.mark.parametrize("padding", [0, 5])
def test_alibi_counts_distances_to_both_sides(tiny, padding):
    """The text backwards has the states backwards; transformers' bias draws every token to the end of the text."""
    model = tiny("bloom", head=False, initializer_range=0.2)
    ids, mask = torch.arange(10, 40)[None], torch.tensor([[1] * 30 + [0] * padding])

    def states(ids):
        return token_states(model, nn.functional.pad(ids, (0, padding)), mask)[:, :30]

    before = states(ids)
    assert convert(model).bidirectional
    torch.testing.assert_close(states(ids.flip(1)), states(ids).flip(1), atol=1e-4, rtol=1e-4)
    assert "counts distances to both sides" in compatibility_gaps(model)[0]
    set_attention_mode(model, "causal")
    assert torch.equal(states(ids), before)


def test_alibi_within_the_mask_is_refused(tiny):
    with pytest.raises(ConversionError, match="falcon with alibi: true cannot be converted"):
        convert(tiny("falcon", head=False, alibi=True))


def test_masks_that_lie_in_buffers_are_turned_and_turned_back(tiny):
    model = tiny("gpt_neo", attention_types=[[["global", "local"], 1]], attention_layers=["global", "local"])
    ids = torch.arange(10, 30)[None]
    before = model(input_ids=ids).logits
    assert convert(model).bidirectional
    set_attention_mode(model, "causal")
    assert torch.equal(model(input_ids=ids).logits, before)


def test_the_config_flag_alone_is_not_believed(tiny, monkeypatch):
    from transformers.models.llama import modeling_llama

    causal, eager = modeling_llama.create_causal_mask, LlamaConfig(attn_implementation="eager")
    monkeypatch.setattr(modeling_llama, "create_causal_mask", lambda **k: causal(**k | {"config": eager}))
    model = tiny("llama", attention_implementation="eager")
    with pytest.raises(ConversionError, match=r"llama has 2 modules that read left to right .*LlamaAttention"):
        convert(model)
    assert attention_mode(model) == "causal"


def test_a_layer_that_is_half_causal_is_found(tiny):
    model = tiny("llama")
    convert(model)
    second = model.model.layers[1].self_attn
    forward = second.forward

    def causal(hidden_states, attention_mask=None, **kwargs):
        width = hidden_states.shape[1]
        mask = torch.full((width, width), torch.finfo(torch.float32).min).triu(1)[None, None]
        return forward(hidden_states, attention_mask=mask, **kwargs)

    second.forward = causal
    report = verify(model, backends=["sdpa"])
    assert [check.layer for check in report.failures()] == [1]
    assert "reads left to right" in report.failures()[0].reason()


def test_padding_that_leaks_is_found(tiny):
    model = tiny("llama")
    convert(model)
    for layer in model.model.layers:
        forward = layer.self_attn.forward
        layer.self_attn.forward = lambda *a, f=forward, attention_mask=None, **k: f(*a, attention_mask=None, **k)
    report = verify(model, backends=["sdpa"])
    assert not report.bidirectional
    assert "depend on padding" in report.failures()[0].reason()


@pytest.mark.parametrize("family", ["bert", "t5", "mamba"])
def test_what_is_no_attention_decoder_is_refused_by_name(tiny, family):
    model = tiny(family, head=False)
    with pytest.raises(ConversionError, match=family):
        convert(model)


def test_verify_leaves_the_model_as_it_was(tiny):
    model = tiny("llama", attention_implementation="eager").train()
    verify(model)
    assert model.training
    assert model.config._attn_implementation == "eager"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules() if isinstance(m, nn.Module))


def test_an_encoder_verifies_as_it_is(tiny):
    assert verify(tiny("bert", head=False)).bidirectional
