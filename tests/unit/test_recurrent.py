"""Layers that no mask turns: refused by name, left forward, or read both ways; padding, packing, saving."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import CONFIG_MAPPING

from unmask import ConversionError, TextEncoder, convert, verify
from unmask.backbone.forward import TokenStates, token_states
from unmask.backbone.truth.opening import as_causal
from unmask.backbone.truth.probes import padding_shift
from unmask.backbone.truth.recurrent import one_sided_mixers, recurrent_mode
from unmask.backbone.truth.twins import tiny_config, tiny_model
from unmask.data.blocks import BlockBatch

HYBRIDS = ["qwen3_5_text", "falcon_h1", "lfm2", "mamba"]
SHAPES = {
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_d_head": 16},
    "lfm2": {"layer_types": ["conv", "conv", "full_attention", "conv"]},
}


def hybrid(name, **extra):
    config = tiny_config(CONFIG_MAPPING[name](), **SHAPES.get(name, {}), **extra)
    return tiny_model(config, head=False)


@pytest.mark.parametrize("name", HYBRIDS)
def test_they_are_refused_by_name_and_left_alone(name):
    model = hybrid(name)
    ids = torch.arange(20, 40)[None]
    before = token_states(model, ids)
    with pytest.raises(ConversionError, match=rf"{name} has \d modules .*two-way"):
        convert(model)
    assert torch.equal(token_states(model, ids), before)
    assert recurrent_mode(model) is None


@pytest.mark.parametrize("name", HYBRIDS)
def test_two_way_lets_every_layer_see_both_sides(name):
    model = hybrid(name)
    report = convert(model, recurrent="two-way")
    assert report.bidirectional
    assert not report.one_sided
    assert not one_sided_mixers(model)
    assert padding_shift(model) < 1e-4


def test_forward_says_how_many_layers_look_one_way(caplog):
    model = hybrid("qwen3_5_text")
    report = convert(model, recurrent="forward")
    assert "3 of 4 layers still read left to right" in caplog.text
    assert not report.bidirectional
    assert not report.failures()
    assert {check.layer for check in report.checks if check.blind} == {0, 1, 2}
    assert padding_shift(model) < 1e-4


def test_a_convolution_beside_attention_does_not_hide():
    model = hybrid("falcon_h1")
    report = convert(model, recurrent="forward")
    assert report.bidirectional  # every layer sees the future, through its attention
    assert report.one_sided == [f"layers.{i}.mamba" for i in range(4)]
    assert "read left to right: layers.0.mamba" in report.table()


def test_two_way_is_the_mean_of_the_text_and_the_reversed_text():
    model = hybrid("qwen3_5_text")
    mixer = model.layers[0].linear_attn
    states = torch.randn(1, 11, model.config.hidden_size)
    expected = (mixer(states) + mixer(states.flip(1)).flip(1)) / 2
    convert(model, recurrent="two-way")
    seen = {}
    mixer.register_forward_hook(lambda _, args, kwargs, out: seen.update(out=out, given=kwargs), with_kwargs=True)
    model.layers[0].input_layernorm.register_forward_hook(lambda *_: states)
    token_states(model, torch.arange(20, 31)[None])
    assert torch.allclose(seen["out"], expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["forward", "two-way"])
@pytest.mark.parametrize("name", HYBRIDS)
def test_packed_texts_are_read_as_if_alone(name, mode):
    model = hybrid(name)
    convert(model, recurrent=mode)
    ids, pieces = torch.arange(20, 44)[None], torch.tensor([[1] * 7 + [2] * 12 + [3] * 5])
    batch = BlockBatch(ids, pieces, torch.zeros_like(ids), pieces > 0, padded_tokens=24)
    with torch.no_grad():
        together = batch.read_by(TokenStates(model), ids)[0]
        apart = torch.cat([token_states(model, part)[0] for part in ids.split([7, 12, 5], dim=1)])
    assert (together - apart).norm() < 1e-4 * apart.norm()


def test_checkpointed_gradients_are_the_same_over_two_batches_of_unlike_layout():
    model = hybrid("qwen3_5_text")
    convert(model, recurrent="two-way")
    batches = [(torch.arange(20, 30)[None].repeat(2, 1), torch.tensor([[1] * 10, [1] * 6 + [0] * 4]))]
    batches.append((torch.arange(40, 47)[None], torch.ones(1, 7, dtype=torch.long)))

    def gradient():
        model.zero_grad()
        losses = [token_states(model, ids, mask, mask.cumsum(1) - 1).square().mean() for ids, mask in batches]
        sum(losses).backward()  # both forward passes come before the first is run again
        return model.layers[0].linear_attn.in_proj_qkv.weight.grad.clone()

    model.train()
    plain = gradient()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert torch.allclose(gradient(), plain, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("mode", ["forward", "two-way"])
def test_the_mode_is_saved_and_restored(tokenizer, tmp_path, mode):
    model = hybrid("qwen3_5_text", vocab_size=len(tokenizer))
    convert(model, recurrent=mode)
    encoder = TextEncoder(model, tokenizer)
    texts = ["a short text", "one that is quite a bit longer than the other, so that there is padding"]
    expected = encoder.encode(texts)
    encoder.save(tmp_path / "encoder")
    loaded = TextEncoder.load(tmp_path / "encoder")
    assert recurrent_mode(loaded.model) == mode
    assert abs(loaded.encode(texts) - expected).max() < 1e-6
    assert abs(loaded.encode(texts[:1]) - expected[:1]).max() < 1e-5
    assert verify(loaded.model).bidirectional == (mode == "two-way")
    if mode == "two-way":  # another runtime would give other vectors
        with pytest.raises(ImportError, match=r"unmask\.TextEncoder alone"):
            SentenceTransformer(str(tmp_path / "encoder"), device="cpu")


def test_a_reading_that_is_put_back_has_its_own_layouts_under_checkpointing():
    model = hybrid("qwen3_5_text")
    convert(model, recurrent="two-way")
    ids = torch.arange(20, 60).view(2, 20)
    masks = [torch.ones(2, 20, dtype=torch.long) for _ in range(2)]
    masks[0][1, 12:], masks[1][0, 12:] = 0, 0

    def gradient():
        model.zero_grad()
        sum(token_states(model, ids, mask, mask.cumsum(1) - 1).square().mean() for mask in masks).backward()
        return model.layers[0].linear_attn.in_proj_qkv.weight.grad.clone()

    model.train()
    plain = gradient()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    gradient()
    with as_causal(model):
        pass
    assert torch.allclose(gradient(), plain, rtol=1e-4, atol=1e-8)


def test_a_model_of_nothing_else_opens_again_as_it_was_left(tokenizer, tmp_path):
    model = hybrid("mamba", vocab_size=len(tokenizer))
    convert(model, recurrent="forward")
    encoder = TextEncoder(model, tokenizer)
    encoder.save(tmp_path / "encoder")
    loaded = TextEncoder.load(tmp_path / "encoder")
    assert abs(loaded.encode(["a text"]) - encoder.encode(["a text"])).max() < 1e-6


def test_a_bidirectional_config_alone_does_not_hide_one_sided_layers(tokenizer, tmp_path):
    model = hybrid("qwen3_5_text", vocab_size=len(tokenizer))
    model.config.is_causal = False
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    with pytest.raises(ConversionError, match=r"bidirectional by its config, but layers\.0\.linear_attn"):
        TextEncoder.load(tmp_path / "m")
    assert verify(TextEncoder.load(tmp_path / "m", recurrent="two-way").model).bidirectional


def test_the_random_state_of_the_caller_is_left_alone():
    model = hybrid("lfm2")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    convert(model, recurrent="two-way")
    assert torch.equal(torch.get_rng_state(), before)
