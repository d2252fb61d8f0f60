"""Sliding windows, chunks and picked tokens: two-sided, or lifted, or refused."""

import pytest
import torch
from transformers import CONFIG_MAPPING

from unmask import ConversionError, TextEncoder, convert
from unmask.backbone.families.switches import lift_windows, restore_windows, set_attention_mode, window_mode
from unmask.backbone.forward import token_states
from unmask.backbone.truth.probes import layer_reach
from unmask.backbone.truth.twins import tiny_config, tiny_model

WHOLE = (24, 23)  # from the middle of 48 tokens


def small(name, **extra):
    return tiny_model(tiny_config(CONFIG_MAPPING[name](), **extra), head=False)


@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "gpt_oss"])
def test_windows_become_two_sided_or_are_lifted(name):
    model = small(name)
    causal = {reach for reach in layer_reach(model) if reach != (24, 0)}
    assert causal == {(15, 0)}
    convert(model)
    assert {reach for reach in layer_reach(model) if reach != WHOLE} == {(16, 16)}
    lifted = small(name)
    convert(lifted, window="lift")
    assert set(layer_reach(lifted)) == {WHOLE}
    assert window_mode(lifted) == "lift"


def test_lifted_windows_keep_each_layer_its_own_rotary_base():
    config = tiny_config(CONFIG_MAPPING["gemma3_text"]())
    config.rope_parameters["sliding_attention"]["rope_theta"] = 7.0
    model = tiny_model(config, head=False)
    kinds = list(model.config.layer_types)
    short = torch.arange(20, 32)[None]  # inside every window
    convert(model)
    expected = token_states(model, short)
    lift_windows(model)
    assert model.config.layer_types == kinds
    assert torch.allclose(token_states(model, short), expected, atol=1e-6)


def test_chunked_attention_is_refused_unless_lifted():
    model = small("llama4_text")
    with pytest.raises(ConversionError, match=r"llama4_text .* reads left to right"):
        convert(model)
    assert convert(model, window="lift").bidirectional
    assert set(layer_reach(model)) == {WHOLE}


def test_what_goes_wrong_beyond_the_window_is_found_on_a_tiny_twin():
    # With 2048 picked tokens the probes of the model itself are too short to show that padding changes the pick.
    model = small("deepseek_v32", index_topk=100, num_experts_per_tok=2)
    with pytest.raises(ConversionError, match=r"longer than its window, states move with padding .*window='lift'"):
        convert(model)
    assert convert(model, window="lift").bidirectional


def test_windows_come_back():
    model = small("mistral")
    ids = torch.arange(20, 80)[None]
    before = token_states(model, ids)
    convert(model, window="lift")
    restore_windows(model)
    set_attention_mode(model, "causal")
    assert torch.equal(token_states(model, ids), before)


def test_a_lifted_window_is_saved(tokenizer, tmp_path):
    model = small("mistral", vocab_size=len(tokenizer))
    convert(model, window="lift")
    encoder = TextEncoder(model, tokenizer)
    encoder.save(tmp_path / "encoder")
    loaded = TextEncoder.load(tmp_path / "encoder")
    assert window_mode(loaded.model) == "lift"
    text = ["word " * 60]
    assert abs(loaded.encode(text) - encoder.encode(text)).max() < 1e-6


def test_sixteen_bits_are_checked_on_a_twin_that_is_lifted_too():
    model = small("deepseek_v32", num_experts_per_tok=2).to(torch.bfloat16)
    with pytest.raises(ConversionError, match="move with padding"):
        convert(model)
    assert convert(model, window="lift").bidirectional


@pytest.mark.parametrize("name", ["inkling_text", "qwen4_exp_text"])
def test_a_lift_that_would_not_survive_saving_is_refused(name):
    picks = {
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
    }
    model = small(name, **(picks if name == "qwen4_exp_text" else {}))
    with pytest.raises(ConversionError, match="would not survive saving"):
        convert(model, recurrent="two-way", window="lift")
    assert convert(model, recurrent="two-way").bidirectional


def test_what_is_asked_for_wins_over_what_was_saved():
    model = small("lfm3")
    convert(model, recurrent="two-way", window="lift")
    convert(model, recurrent="forward", window="keep")
    assert window_mode(model) == "keep"
    assert (16, 16) in layer_reach(model)
    assert model.config.unmask_recurrent["mode"] == "forward"
    with pytest.raises(ConversionError, match="two-way"):
        convert(model, recurrent="refuse")
    assert model.config.unmask_recurrent["mode"] == "forward"
