"""TextEncoder: vectors that do not depend on company, edges of the input, words, saving and loading."""

import copy
import json
import platform

import numpy as np
import pytest
import torch

from unmask import ArtifactError, ConversionError, DataError, EncodingError, TextEncoder
from unmask.backbone.fast.operators import has_compiler
from unmask.backbone.fast.prepack import PrepackedLinear
from unmask.encoder import to_int8
from unmask.settings import EncoderSettings

TEXTS = [
    "Hello world, this is a test.",
    "",
    "short",
    "A much longer sentence about the history of rail transport in Great Britain and its many consequences. " * 3,
    "naïve café _ 日本語",
    " leading space",
]


def cosine(a, b):
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


@pytest.mark.parametrize("pooling", ["mean", "weighted_mean", "last", "eos", "first"])
@pytest.mark.parametrize("side", ["flat", "left", "right"])
def test_a_vector_does_not_depend_on_its_batch_or_padding(pooling, side):
    encoder = TextEncoder.load("pocket", attention="bidirectional", dtype="float32", pooling=pooling)
    alone = np.stack([encoder.encode(text) for text in TEXTS])
    if side == "flat":
        assert encoder.padding_free
    else:
        encoder.padding_free, encoder.padding_side = False, side
    for budget in (64, 8192):
        np.testing.assert_allclose(encoder.encode(TEXTS, batch_tokens=budget), alone, atol=1e-5)


def test_in_bfloat16_the_direction_stays(articles):
    encoder = TextEncoder.load("pocket", attention="bidirectional", dtype="bfloat16")
    texts = [piece for text in articles for piece in text.split(". ") if piece.strip()][:200]
    alone = np.stack([encoder.encode(text) for text in texts])
    together = encoder.encode(texts)
    encoder.padding_free, encoder.padding_side = False, "left"
    assert cosine(alone, together).min() > 0.9999
    assert cosine(alone, encoder.encode(texts)).min() > 0.9999


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gemma"])
def test_absolute_and_rotary_positions_survive_padding(tiny, tokenizer, family):
    model = tiny(family, head=False)
    from unmask import convert

    convert(model)
    encoder = TextEncoder(model, tokenizer, EncoderSettings(max_length=100))
    alone = np.stack([encoder.encode(text) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS), alone, atol=1e-5)
    for side in ("left", "right"):
        encoder.padding_free, encoder.padding_side = False, side
        np.testing.assert_allclose(encoder.encode(TEXTS), alone, atol=1e-5)


def test_one_string_gives_one_vector_and_no_text_none(bidirectional):
    one = bidirectional.encode("Hello")
    assert one.shape == (bidirectional.dimension,)
    assert one.dtype == np.float32
    assert bidirectional.encode([]).shape == (0, bidirectional.dimension)
    np.testing.assert_allclose(bidirectional.encode(["Hello"])[0], one, atol=1e-6)


def test_the_mean_is_over_all_tokens_or_the_texts_own(bidirectional, without_bos):
    text = "Hello world, this is a test."
    ids = torch.tensor([bidirectional.tokenizer(text).input_ids])
    with torch.no_grad():
        states = bidirectional.model(input_ids=ids).last_hidden_state[0]
    np.testing.assert_allclose(bidirectional.encode(text), states.mean(0).numpy(), atol=1e-5)
    np.testing.assert_allclose(without_bos.encode(text), states[1:].mean(0).numpy(), atol=1e-5)


def test_a_prompt_changes_the_vector_but_is_not_pooled(bidirectional):
    prompt, text = "Classify the topic:", "The match ended in a draw."
    ids = torch.tensor([bidirectional.tokenizer(prompt + text).input_ids])
    count = len(bidirectional.tokenizer(text, add_special_tokens=False).input_ids)
    with torch.no_grad():
        states = bidirectional.model(input_ids=ids).last_hidden_state[0]
    vector = bidirectional.encode(text, prompt=prompt)
    np.testing.assert_allclose(vector, states[-count:].mean(0).numpy(), atol=1e-5)
    assert cosine(vector, bidirectional.encode(text)) < 0.9999


def test_unknown_prompts_and_non_strings_are_named(bidirectional):
    with pytest.raises(DataError, match="no prompt named 'query'"):
        bidirectional.encode(["a"], prompt_name="query")
    with pytest.raises(DataError, match="Text 1 is a float"):
        bidirectional.encode(["a", float("nan")])


def test_a_vector_that_is_not_finite_is_an_error_with_its_row():
    encoder = TextEncoder.load("pocket", dtype="float32")
    token = encoder.tokenizer("zebra", add_special_tokens=False).input_ids[0]
    with torch.no_grad():
        encoder.model.get_input_embeddings().weight[token] = float("nan")
    with pytest.raises(EncodingError, match=r"1 of 3 vectors are not finite \(texts 1; '"):
        encoder.encode(["one", "zebra", "two"])


def test_normalised_vectors_have_length_one(bidirectional):
    vectors = bidirectional.encode(TEXTS, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_token_states_are_those_of_the_text(without_bos):
    (found,) = without_bos.encode_tokens(["Hello world"])
    np.testing.assert_allclose(found.vectors.mean(0), without_bos.encode("Hello world"), atol=1e-5)
    assert found.offsets.tolist()[0][0] == 0
    assert len(found.vectors) == len(found.offsets)


@pytest.mark.parametrize("side", ["flat", "left", "right"])
def test_a_word_is_the_mean_of_its_tokens(bidirectional, side):
    words = ["Unbelievable", "things", "happen", "."]
    (tokens,) = bidirectional.encode_tokens([" ".join(words)])
    bidirectional.padding_free, bidirectional.padding_side = side == "flat", side
    own = bidirectional.encode_words([words, ["Much", "longer", "company", "for", "the", "first", "text", "."] * 3])[0]
    bidirectional.padding_free, bidirectional.padding_side = True, "right"
    starts = np.cumsum([0] + [len(w) + 1 for w in words])
    for i, word in enumerate(words):
        inside = (tokens.offsets[:, 1] > starts[i]) & (tokens.offsets[:, 0] < starts[i] + len(word))
        np.testing.assert_allclose(own[i], tokens.vectors[inside].mean(0), atol=1e-5)


def test_the_previous_position_is_one_token_before(bidirectional):
    text = ["cat", "sat"]
    ids = bidirectional.tokenizer("cat sat").input_ids
    with torch.no_grad():
        states = bidirectional.model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
    (previous,) = bidirectional.encode_words([text], position="previous")
    second = len(bidirectional.tokenizer("cat", add_special_tokens=False).input_ids)
    np.testing.assert_allclose(previous[0], states[0:second].mean(0), atol=1e-5)


def test_saving_and_loading_gives_the_same_vectors(bidirectional, tmp_path):
    settings = EncoderSettings(pooling="last", max_length=64, prompts={"query": "query:"}, normalize=True)
    encoder = TextEncoder(bidirectional.model, bidirectional.tokenizer, settings)
    encoder.save(tmp_path / "encoder")
    again = TextEncoder.load(tmp_path / "encoder")
    assert again.settings == settings
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    np.testing.assert_array_equal(again.encode(TEXTS, prompt_name="query"), encoder.encode(TEXTS, prompt="query:"))
    with pytest.raises(ArtifactError, match="exists already"):
        encoder.save(tmp_path / "encoder")


def test_the_folder_holds_the_keys_that_every_runtime_reads(bidirectional, tmp_path):
    bidirectional.save(tmp_path / "encoder")
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert config["is_causal"] is False
    assert config["use_bidirectional_attention"] is True
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000.0
    pooling = json.loads((tmp_path / "encoder" / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode"] == "mean"
    assert pooling["pooling_mode_mean_tokens"] is True
    assert not list((tmp_path / "encoder").rglob("*.bin"))


def test_a_chat_template_is_used_and_saved(bidirectional, tmp_path):
    import copy

    chatty = copy.deepcopy(bidirectional.tokenizer)
    chatty.chat_template = "{{ bos_token }}{% for m in messages %}User: {{ m['content'] }} Assistant:{% endfor %}"
    plain = TextEncoder(bidirectional.model, chatty, EncoderSettings(max_length=64))
    encoder = TextEncoder(bidirectional.model, chatty, EncoderSettings(max_length=64, chat_template=True))
    by_hand = plain.tokenize(["User: Hello world Assistant:"])[0]
    assert encoder.tokenize(["Hello world"])[0].ids.tolist() == by_hand.ids.tolist()
    assert cosine(encoder.encode("Hello world"), plain.encode("Hello world")) < 0.9999
    encoder.save(tmp_path / "encoder")
    again = TextEncoder.load(tmp_path / "encoder")
    np.testing.assert_array_equal(again.encode("Hello world"), encoder.encode("Hello world"))
    with pytest.raises(ArtifactError, match="exclude each other"):
        EncoderSettings(pooling="eos", chat_template=True)


def test_what_other_runtimes_do_differently_is_said(bidirectional, tokenizer):
    from unmask.encoder.folder import interop_gaps

    assert interop_gaps(tokenizer, EncoderSettings(prompts={"query": "query:"})) == []
    (gap,) = interop_gaps(tokenizer, EncoderSettings(prompts={"query": "query: "}))
    assert "'query'" in gap
    (gap,) = interop_gaps(tokenizer, EncoderSettings(chat_template=True))
    assert "chat template" in gap


def test_a_config_that_lies_is_not_loaded(tiny, tokenizer, tmp_path):
    model = tiny("mamba", head=False)
    model.config.is_causal = False
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    with pytest.raises(ConversionError, match="does not see"):
        TextEncoder.load(tmp_path / "m")


def test_folders_that_are_no_encoders_are_named(tiny, tmp_path):
    with pytest.raises(ArtifactError, match="No folder"):
        TextEncoder.load(tmp_path / "nothing")
    tiny("llama").save_pretrained(tmp_path / "bare")
    with pytest.raises(ArtifactError, match="no tokenizer"):
        TextEncoder.load(tmp_path / "bare")


def test_a_device_that_is_not_there_is_named():
    for name in ("foo", "cuda:99"):
        with pytest.raises(ArtifactError, match=f"device '{name}' is not available"):
            TextEncoder.load("pocket", device=name)


def test_converting_a_trained_encoder_keeps_what_it_was_trained_to_be(tmp_path):
    from unmask.encoder import convert_and_save

    causal = TextEncoder.load("pocket", attention="causal")
    settings = EncoderSettings(pooling="last", max_length=64, prompts={"query": "query:"}, normalize=True)
    encoder = TextEncoder(causal.model, causal.tokenizer, settings)
    encoder.lineage = {"base": "pocket", "stages": [{"name": "mntp", "settings": {"objective": "mntp"}}]}
    encoder.save(tmp_path / "trained")
    convert_and_save(str(tmp_path / "trained"), tmp_path / "bi")
    converted = TextEncoder.load(tmp_path / "bi")
    assert converted.went_through_mntp
    converted.lineage = {"base": "trained", "base_stages": converted.lineage["stages"], "stages": []}
    assert converted.went_through_mntp
    assert converted.settings == settings
    convert_and_save(
        str(tmp_path / "trained"), tmp_path / "mean", pooling="mean", include_special_tokens=True, normalize=False
    )
    other = TextEncoder.load(tmp_path / "mean").settings
    assert other == settings.changed(pooling="mean", include_special_tokens=True, normalize=False)


DTYPES = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


@pytest.mark.parametrize("amx", [True, False])
def test_where_bfloat16_is_faster_eight_bits_say_so(amx, articles, monkeypatch, caplog):
    monkeypatch.setattr("unmask.backbone.fast.operators.has_amx", lambda: amx)
    to_int8(TextEncoder.load("pocket", attention="bidirectional", dtype="bfloat16"), articles[:2])
    assert ("bfloat16 is faster" in caplog.text) == amx


@DTYPES  # weights are laid out, and then replaced
def test_eight_bits_say_what_they_cost_and_are_not_saved(dtype, articles, tmp_path):
    encoder = TextEncoder.load("pocket", attention="bidirectional", dtype=dtype)
    before = encoder.encode(articles)
    cosines = to_int8(encoder, articles[:8])
    assert cosines.shape == (8,)
    assert 0.98 < cosines.min() < 0.999999
    after = encoder.encode(articles)
    assert cosine(before, after).min() > 0.98
    np.testing.assert_allclose(cosine(before, after)[:8], cosines, atol=2e-3)
    alone = np.concatenate([encoder.encode([text]) for text in articles[:4]])
    np.testing.assert_allclose(cosine(after[:4], alone), 1, atol=1e-3 if dtype == "float32" else 5e-3)
    with pytest.raises(ArtifactError, match="eight bits are not saved"):
        encoder.save(tmp_path / "encoder")
    with pytest.raises(ArtifactError, match="no plain linear layers"):
        to_int8(encoder, articles[:1])


COMPILER = has_compiler(torch.device("cpu"))


def compiled_layers(encoder):
    return sum(layer._compiled_call_impl is not None for layer in encoder.model.layers)


def test_compiled_layers_give_the_same_vectors_also_padded(articles):
    encoder = TextEncoder.load("pocket", attention="bidirectional", dtype="float32")
    expected = encoder.encode(articles, compile=False)
    compiled = encoder.encode(articles, compile=True)
    assert cosine(expected, compiled).min() > 0.99999
    assert compiled_layers(encoder) == (len(encoder.model.layers) if COMPILER else 0)  # without one: a warning
    np.testing.assert_allclose(encoder.encode(articles[0]), expected[0], atol=1e-4)
    encoder.padding_free = False
    assert cosine(expected, encoder.encode(articles)).min() > 0.99999


@pytest.mark.skipif(not COMPILER, reason="no compiler")
def test_layers_first_seen_with_as_many_tokens_as_the_model_is_wide_are_compiled_once(articles):
    from torch._dynamo.utils import counters

    encoder = TextEncoder.load("pocket", attention="bidirectional", dtype="float32")
    words = "the " * encoder.dimension
    text = next(words[:n] for n in range(len(words)) if len(encoder.tokenize([words[:n]])[0]) == encoder.dimension)
    torch._dynamo.reset()
    counters.clear()
    encoder.encode([text], compile=True)
    once = counters["stats"]["unique_graphs"]
    encoder.encode(articles[:4])
    assert counters["stats"]["unique_graphs"] == once > 0
    assert not counters["graph_break"]


@pytest.mark.skipif(not COMPILER, reason="no compiler")
def test_who_refuses_compiled_layers_gets_none_though_an_earlier_call_has_compiled_them(articles):
    from torch._dynamo.utils import counters

    encoder = TextEncoder.load("pocket", attention="bidirectional", dtype="float32")
    expected = encoder.encode(articles[:4])
    encoder.runner.compiled.attach(encoder.model)
    counters.clear()
    np.testing.assert_array_equal(encoder.encode(articles[:4], compile=False), expected)
    assert not counters["stats"]
    assert compiled_layers(encoder) == len(encoder.model.layers)  # for the calls that say nothing


@DTYPES
def test_laid_out_weights_follow_the_weights_and_give_gradients(dtype):
    """After an update, a copy or an adapter's merge the next vector is that of the new weights."""
    encoder = TextEncoder.load("pocket", attention="bidirectional", dtype=dtype)
    if not any(isinstance(m, PrepackedLinear) for m in encoder.model.modules()):
        encoder.encode("to lay them out")
    expected = platform.machine() == "x86_64" if dtype == "float32" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert any(isinstance(m, PrepackedLinear) for m in encoder.model.modules()) == expected
    before = encoder.encode(TEXTS[0])
    twin = copy.deepcopy(encoder.model)
    elsewhere = copy.deepcopy(encoder.model.layers[0].mlp).to("meta")  # the copies are for the CPU alone
    with torch.inference_mode():
        assert elsewhere(torch.empty(3, encoder.dimension, dtype=encoder.model.dtype, device="meta")).is_meta
    with torch.no_grad():
        for layer in encoder.model.layers:
            layer.mlp.down_proj.weight.mul_(-1)
    changed = encoder.encode(TEXTS[0])
    assert cosine(before, changed) < 0.99
    plain = encoder.module(encoder.collate(encoder.tokenize(TEXTS[:1])))
    assert plain.requires_grad
    with torch.no_grad():  # as GradCache's first pass
        assert torch.equal(encoder.module(encoder.collate(encoder.tokenize(TEXTS[:1]))), plain)
    assert cosine(plain[0].detach().numpy(), changed) > 0.9999
    unchanged = TextEncoder(twin, encoder.tokenizer, encoder.settings)
    np.testing.assert_allclose(unchanged.encode(TEXTS[0]), before, atol=1e-6)


@DTYPES
def test_laid_out_weights_follow_writes_that_leave_no_trace(dtype):
    """As peft merges an adapter: `weight.data += delta` changes neither the address nor the version."""
    encoder = TextEncoder.load("pocket", attention="bidirectional", dtype=dtype)
    read = [lambda: encoder.encode(TEXTS[0]), lambda: encoder.encode_tokens(TEXTS[:1])[0].vectors.mean(0)]
    before = [vectors() for vectors in read]
    for reading, vectors in zip(read, before, strict=True):
        for layer in encoder.model.layers:
            layer.mlp.down_proj.weight.data += 0.05
        assert cosine(vectors, reading()) < 0.99
