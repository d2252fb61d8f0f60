"""Exports: what is written for each runtime, what is refused, and that what is read back is the encoder."""

import copy
import json
import re

import numpy as np
import pytest
import torch

from unmask import ArtifactError, ExportError, TextEncoder, convert, export_encoder
from unmask.backbone.locate import model_files
from unmask.backbone.opened import plain_model, plain_tokenizer
from unmask.backbone.written_tokenizer import hold_to_itself
from unmask.export.graph import EncoderGraph
from unmask.export.samples import cosines
from unmask.export.targets import TARGETS
from unmask.settings import EncoderSettings

LONG = "A long text about trains, stations and the people who wait there. " * 8
TEXTS = ["Hello world.", "a", LONG, "", "naïve 日本語", " in spaces "]


@pytest.fixture
def encoder_of(tiny, tokenizer):
    """family -> an encoder of a tiny random two-sided model of it, which pools all that it reads."""

    def build(family, *, window="keep", **settings):
        sizes = {"sliding_window": 16} if family in ("mistral", "gemma3_text") else {}
        model = tiny(family, head=False, **sizes)
        convert(model, window=window)
        settings = {"max_length": 100, "include_special_tokens": True} | settings
        return TextEncoder(model, copy.deepcopy(tokenizer), EncoderSettings(**settings))

    return build


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    ("family", "runtime", "written"),
    [
        ("qwen3", "tei", {"use_bidirectional_attention": True, "use_sliding_window": False, "eos_token_id": 2}),
        ("qwen3", "vllm", {"is_causal": False, "architectures": ["Qwen3ForCausalLM"]}),
        ("qwen3", "llama.cpp", {"is_causal": False, "architectures": ["Qwen3Model"], "rope_theta": 10000.0}),
        ("gemma3_text", "tei", {"use_bidirectional_attention": True, "sliding_window": 32, "rope_theta": 1e6}),
        ("gemma3_text", "llama.cpp", {"is_causal": False, "sliding_window": 32, "rope_local_base_freq": 10000.0}),
        ("gemma3_text", "transformers", {"is_causal": False, "sliding_window": 16, "rope_local_base_freq": 10000.0}),
    ],
)
def test_the_config_says_what_the_runtime_reads(encoder_of, tmp_path, family, runtime, written):
    encoder = encoder_of(family)
    encoder.model.config.eos_token_id = [2, 3]
    report = export_encoder(encoder, tmp_path / "out", runtime)
    assert report.cosine > 0.9999
    assert report.samples > 10
    found = config_of(tmp_path / "out")
    assert {key: found.get(key) for key in written} == written
    assert json.loads((tmp_path / "out" / "unmask.json").read_text())["export"]["for"] == runtime
    assert TARGETS[runtime].title in (tmp_path / "out" / "README.md").read_text()


def test_a_window_that_was_lifted_is_wide_enough_where_it_is_halved(encoder_of, tmp_path):
    encoder = encoder_of("gemma3_text", window="lift")
    export_encoder(encoder, tmp_path / "out", "vllm")
    assert config_of(tmp_path / "out")["sliding_window"] == 2 * 128
    model = plain_model(tmp_path / "out")  # transformers halves it by itself
    assert model.config.sliding_window > 100


def test_llama_cpp_knows_mistral_by_its_head_and_the_tokenizer_by_its_older_names(encoder_of, tmp_path):
    encoder = encoder_of("mistral", window="lift")
    encoder.tokenizer.add_special_tokens({"extra_special_tokens": ["<x>"]})
    encoder.model.resize_token_embeddings(len(encoder.tokenizer))
    report = export_encoder(encoder, tmp_path / "out", "llama.cpp")
    assert config_of(tmp_path / "out")["architectures"] == ["MistralForCausalLM"]
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["additional_special_tokens"] == ["<x>"]
    assert "extra_special_tokens" not in config
    assert config["model_max_length"] == 100
    named = json.loads((tmp_path / "out" / "special_tokens_map.json").read_text())
    assert named["eos_token"] == "</s>"
    assert any("--kv-unified" in line and "-ub 100" in line for line in report.serve)


@pytest.mark.parametrize(
    ("family", "settings", "runtime", "options", "message"),
    [
        ("llama", {}, "tei", {}, r"TEI on a CPU serves Qwen3 and Gemma3 only; this is a Llama\..*--gpu"),
        ("gpt2", {}, "vllm", {}, "vLLM serves Llama, .* only; this is a Gpt2"),
        ("gpt2", {}, "tei", {"gpu": True}, "TEI on a GPU serves .* only; this is a Gpt2"),
        ("llama", {"pooling": "weighted_mean"}, "vllm", {}, "vLLM has no pooling 'weighted_mean'"),
        ("mistral", {}, "llama.cpp", {}, "see 16 tokens to each side, which llama.cpp does not .* --window lift"),
        (
            "llama",
            {"include_special_tokens": False},
            "vllm",
            {},
            r"averages special tokens.*cosine.*--pool-special-tokens",
        ),
        ("llama", {"prompts": {"q": "Find: "}}, "vllm", {}, r"averages prompts with the text.*--pool-prompts"),
        ("llama", {}, "mlx", {}, "no export for 'mlx'; choose one of sentence-transformers"),
        ("llama", {}, "openvino", {"precision": "int8"}, "'int8' is written for onnx only"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(
    encoder_of, tmp_path, family, settings, runtime, options, message
):
    with pytest.raises(ArtifactError, match=message):
        export_encoder(encoder_of(family, **settings), tmp_path / "out", runtime, **options)
    assert not any(tmp_path.iterdir())


def test_chat_templates_scaled_positions_and_full_folders_are_refused(encoder_of, tokenizer, tmp_path):
    encoder = encoder_of("qwen3")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    with pytest.raises(ArtifactError, match="full exists already and is not empty"):
        export_encoder(encoder, tmp_path / "full", "transformers")
    encoder.model.config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(ArtifactError, match=r"does not read rope scaling \(linear\)"):
        export_encoder(encoder, tmp_path / "out", "tei")
    wrapped = copy.deepcopy(tokenizer)
    wrapped.chat_template = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"
    chatting = TextEncoder(encoder.model, wrapped, EncoderSettings(max_length=100, chat_template=True))
    with pytest.raises(ArtifactError, match="wraps no text in a chat template"):
        export_encoder(chatting, tmp_path / "out", "sentence-transformers")


def test_layers_read_in_both_directions_are_refused(tiny, tokenizer, tmp_path):
    model = tiny("mamba", head=False)
    convert(model, recurrent="two-way")
    with pytest.raises(ArtifactError, match="in both directions, which only unmask does"):
        export_encoder(TextEncoder(model, tokenizer), tmp_path / "out", "sentence-transformers")


def test_an_export_that_others_read_otherwise_fails_and_leaves_nothing(encoder_of, tmp_path):
    """transformers' StableLM does not obey the flag where a batch has no padding."""
    with pytest.raises(ExportError, match=r"at cosine -?0\.\d+ to the encoder's own vector, and \d+ of \d+ texts"):
        export_encoder(encoder_of("stablelm"), tmp_path / "out", "transformers")
    assert not any(tmp_path.iterdir())


def test_what_is_pooled_more_is_measured_and_the_encoder_stays_as_it_was(without_bos, tmp_path):
    before = without_bos.encode(TEXTS)
    report = export_encoder(without_bos, tmp_path / "out", "vllm", pool_special_tokens=True)
    assert report.cosine > 0.9999
    assert report.cost < 0.99
    assert not without_bos.settings.include_special_tokens
    np.testing.assert_array_equal(without_bos.encode(TEXTS), before)
    again = TextEncoder.load(tmp_path / "out")
    assert again.settings.include_special_tokens
    assert not (tmp_path / "out" / "WordWeights").exists()


def test_the_card_says_how_near_it_is_and_has_the_scores_of_what_still_computes_the_same(without_bos, tmp_path):
    found = {"Bi": {"STS-B": 38.5}}
    without_bos.scores = {"found_by": "`unmask train`", "figures": found, "fingerprint": without_bos.fingerprint()}
    without_bos.save(tmp_path / "scored")
    export_encoder(TextEncoder.load(tmp_path / "scored"), tmp_path / "same", "sentence-transformers")
    export_encoder(without_bos, tmp_path / "other", "vllm", pool_special_tokens=True)
    TextEncoder.load(tmp_path / "scored", pooling="last").save(tmp_path / "last")
    cards = {name: (tmp_path / name / "README.md").read_text() for name in ("scored", "same", "other", "last")}
    assert [name for name, card in cards.items() if "| STS-B | 38.50 |" in card] == ["scored", "same"]
    assert [name for name in cards if (tmp_path / name / "scores.json").is_file()] == ["scored", "same"]
    near = re.compile(r"Compared with the encoder: smallest cosine (0\.9999\d+|1\.0+) of \d+ texts, read by ")
    assert [name for name, card in cards.items() if near.search(card)] == ["same", "other"]
    assert re.search(r"as it was, to which it is at 0\.[89]\d+\.", cards["other"])


def test_the_scores_are_no_input_of_what_is_made_from_an_encoder(without_bos, tmp_path):
    without_bos.scores = {"found_by": "x", "figures": {"Bi": {"a": 1.0}}, "fingerprint": without_bos.fingerprint()}
    without_bos.save(tmp_path / "scored")
    assert (tmp_path / "scored" / "scores.json").is_file()
    assert "scores.json" not in {file.name for file in model_files(tmp_path / "scored")}


def test_weights_are_written_in_the_dtype_they_had(tmp_path):
    encoder = TextEncoder.load("pocket", attention="bidirectional", dtype="bfloat16", include_special_tokens=True)
    export_encoder(encoder, tmp_path / "out", "transformers")
    assert encoder.model.dtype == torch.bfloat16
    assert config_of(tmp_path / "out")["dtype"] == "bfloat16"


def test_saving_in_another_dtype_leaves_the_rotary_frequencies_alone(tmp_path):
    encoder = TextEncoder.load("pocket", attention="bidirectional", dtype="float32")
    encoder.stored = torch.bfloat16
    before = encoder.encode(TEXTS)
    encoder.save(tmp_path / "out")
    np.testing.assert_array_equal(encoder.encode(TEXTS), before)
    assert config_of(tmp_path / "out")["dtype"] == "bfloat16"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", ["mean", "weighted_mean", "last", "eos", "first"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mistral"])
def test_the_graph_is_the_encoder_padded_on_either_side(encoder_of, family, pooling, side):
    """Windows of 16 tokens in texts of 100; BOS (and for eos EOS) left out of means by its place."""
    encoder = encoder_of(family, pooling=pooling, include_special_tokens=False, normalize=pooling == "last")
    graph = EncoderGraph(encoder)
    rows = encoder.tokenize(TEXTS)
    width = max(map(len, rows))
    ids, mask = torch.zeros(2, len(rows), width, dtype=torch.int64)
    for row, text in enumerate(rows):
        place = slice(width - len(text), None) if side == "left" else slice(0, len(text))
        ids[row, place], mask[row, place] = torch.from_numpy(text.ids), 1
    with torch.no_grad():
        states, vectors = graph(ids, mask)
    assert states.shape == (*ids.shape, encoder.dimension)
    np.testing.assert_allclose(vectors.numpy(), encoder.encode(TEXTS), atol=1e-5)


def test_cosines_of_nothing_and_of_no_number_are_none_at_all():
    a = np.array([[1.0, 0.0], [0.0, 0.0], [np.nan, 1.0]], dtype=np.float32)
    assert cosines(a, np.ones_like(a)).tolist() == pytest.approx([0.5**0.5, 0, 0])


def edit(folder, name, **keys):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def test_a_saved_tokenizers_flags_say_what_it_adds(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    edit(tmp_path, "tokenizer_config.json", add_bos_token=False, add_eos_token=True)
    hold_to_itself(tmp_path, tokenizer)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["add_bos_token"] is True
    assert config["add_eos_token"] is False


def test_a_class_that_builds_its_tokenizer_anew_gives_way_to_the_general_one(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    edit(tmp_path, "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")
    assert plain_tokenizer(tmp_path)("1234")["input_ids"] != tokenizer("1234")["input_ids"]
    hold_to_itself(tmp_path, tokenizer)
    assert plain_tokenizer(tmp_path)("1234")["input_ids"] == tokenizer("1234")["input_ids"]


def test_files_that_read_a_text_otherwise_are_refused(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    edit(tmp_path, "tokenizer.json", post_processor=None)
    with pytest.raises(ArtifactError, match="reads 'word' otherwise once it is saved and opened again"):
        hold_to_itself(tmp_path, tokenizer)
