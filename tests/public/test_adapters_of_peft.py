"""LoRA folders that peft left around a causal model give the states that peft gives; what is no LoRA is refused."""

import json
import logging
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM, AutoTokenizer

from unmask import ArtifactError, TextEncoder
from unmask.backbone.loading import load_model
from unmask.backbone.locate import load_tokenizer
from unmask.backbone.truth.opening import attach_adapters
from unmask.backbone.truth.twins import tiny_config, tiny_model
from unmask.cli.main import main
from unmask.settings import EncoderSettings

IDS = torch.arange(20, 44).reshape(2, 12)
LONG = ["a short text", "one that is longer than the other, so that it is cut"]
NEW = ["<new-a>", "<new-b>", "<new-c>"]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 132\n"


@pytest.fixture(scope="module", params=["llama", "gpt2", "tied"])
def base(request, tmp_path_factory, tokenizer):
    return build_base(tmp_path_factory.mktemp("base"), tokenizer, request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory, tokenizer):
    return build_base(tmp_path_factory.mktemp("base"), tokenizer, "llama")


def build_base(folder, tokenizer, kind):
    family = CONFIG_MAPPING["llama" if kind == "tied" else kind]()
    config = tiny_config(family, vocab_size=len(tokenizer), tie_word_embeddings=kind in ("gpt2", "tied"))
    tiny_model(config, head=True).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trained(base, folder, *, grown=0, seed=0, **options):
    """A LoRA with random weights, as peft saves it around the model with its head."""
    model = AutoModelForCausalLM.from_pretrained(base)
    if grown:
        model.resize_token_embeddings(len(load_tokenizer(str(base))) + grown, mean_resizing=False)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **options))
    torch.manual_seed(seed)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    wrapped.save_pretrained(folder)
    return folder


@torch.no_grad()
def by_peft(base, folder, ids, rows=None):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    wrapped = peft.PeftModel.from_pretrained(model, folder).eval()
    return wrapped(input_ids=ids, output_hidden_states=True).hidden_states[-1]


@torch.no_grad()
def by_us(base, folders, ids, merge):
    model = load_model(str(base), head=False, dtype="float32")
    attach_adapters(model, folders, merge=merge)
    return model(input_ids=ids).last_hidden_state


def options(base, kind):
    """The options of a kind of adapter, for this base, and by how many tokens it grows the vocabulary."""
    is_gpt2 = json.loads((base / "config.json").read_text())["model_type"] == "gpt2"
    place, embeddings = ("transformer", "wte") if is_gpt2 else ("model", "embed_tokens")
    linear, last = ["q_proj", "up_proj", "c_attn"], len(load_tokenizer(str(base)))
    layer = f"{place}.h.0.attn.c_attn" if is_gpt2 else f"{place}.layers.0.self_attn.q_proj"
    saved = [embeddings, "lm_head"]
    plain = {"target_modules": linear}
    return {
        "plain": (plain, 0),
        "saved modules": (plain | {"modules_to_save": saved}, 0),
        "grown": (plain, 3),
        "grown and saved": (plain | {"modules_to_save": saved}, 3),
        "shrunk": (plain, -64),
        "some layers": (plain | {"layers_to_transform": [1]}, 0),
        "full paths": ({"target_modules": [layer]}, 0),
        "one expression": ({"target_modules": rf"{place}\.\w+\.1\..*(q_proj|c_attn)"}, 0),
        "all linear": ({"target_modules": "all-linear"}, 0),
        "embeddings": ({"target_modules": [*linear, *saved]}, 0),
        "grown embeddings": ({"target_modules": [*linear, *saved]}, 3),
        "tokens": (plain | {"trainable_token_indices": [20, 25]}, 0),
        "tokens by layer": (plain | {"trainable_token_indices": {embeddings: [21], "lm_head": [21]}}, 0),
        "new tokens": (plain | {"trainable_token_indices": [last, last + 1, last + 2]}, 3),
        "patterns": (plain | {"rank_pattern": {layer: 2}, "alpha_pattern": {layer: 32}}, 0),
        "dora": (plain | {"use_dora": True}, 0),
        "norms": (plain | {"modules_to_save": ["norm", "ln_f"]}, 0),
    }[kind]


KINDS = [
    *("plain", "saved modules", "grown", "grown and saved", "shrunk", "some layers", "full paths", "one expression"),
    *("all linear", "embeddings", "grown embeddings", "tokens", "tokens by layer", "new tokens", "patterns", "dora"),
    "norms",
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_states_are_those_of_peft(base, tmp_path, kind):
    chosen, grown = options(base, kind)
    folder = trained(base, tmp_path / "adapter", grown=grown, **chosen)
    rows = len(load_tokenizer(str(base))) + grown
    ids = IDS.clone()
    if grown > 0:
        ids[0, 3:6] = torch.arange(rows - 3, rows)
    expected = by_peft(base, folder, ids, rows if grown else None)
    for merge in (True, False):
        torch.testing.assert_close(by_us(base, [folder], ids, merge), expected, atol=1e-5, rtol=0)
    if grown <= 0:
        with torch.no_grad():
            plain = load_model(str(base), head=False, dtype="float32")(input_ids=ids).last_hidden_state
        assert (expected - plain).abs().max() > 1e-3


def test_what_belongs_to_the_head_is_named_and_left_aside(llama, tmp_path, caplog):
    folder = trained(
        llama, tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]
    )
    with caplog.at_level(logging.INFO, "unmask"):
        by_us(llama, [folder], IDS, merge=True)
    (message,) = [message for message in caplog.messages if "left aside" in message]
    assert "what it holds of lm_head is left aside" in message


def test_an_adapter_of_the_body_and_one_of_the_model_with_its_head_lie_side_by_side(llama, tmp_path):
    body = load_model(str(llama), head=False, dtype="float32")
    wrapped = peft.get_peft_model(body, peft.LoraConfig(r=4, target_modules=["up_proj"]))
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    wrapped.save_pretrained(tmp_path / "body")
    whole = trained(llama, tmp_path / "whole", target_modules=["q_proj"], layers_to_transform=[1])
    for folders in ([tmp_path / "body", whole], [whole, tmp_path / "body"]):
        both = [by_us(llama, folders, IDS, merge) for merge in (True, False)]
        torch.testing.assert_close(both[0], both[1], atol=1e-5, rtol=0)
        assert (both[0] - by_us(llama, folders[:1], IDS, True)).abs().max() > 1e-3


def test_the_text_part_of_an_adapter_of_a_model_for_pictures_too(llama, tmp_path):
    folder = trained(llama, tmp_path / "adapter", target_modules=["q_proj"], layers_to_transform=[1])
    expected = by_us(llama, [folder], IDS, merge=True)
    weights = load_file(folder / "adapter_model.safetensors")
    deeper = {name.replace(".model.layers.", ".model.language_model.layers."): one for name, one in weights.items()}
    seen = {name.replace(".language_model.layers.", ".vision_tower.blocks."): one for name, one in deeper.items()}
    save_file({**deeper, **{name: one.clone() for name, one in seen.items()}}, folder / "adapter_model.safetensors")
    for merge in (True, False):
        torch.testing.assert_close(by_us(llama, [folder], IDS, merge), expected, atol=1e-5, rtol=0)


def test_what_cannot_be_done_right_is_refused_in_a_sentence(llama, tmp_path):
    chosen = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}
    two = [trained(llama, tmp_path / name, seed=seed, **chosen) for seed, name in enumerate("ab")]
    with pytest.raises(ArtifactError, match="cannot lie side by side; merge them"):
        by_us(llama, two, IDS, merge=False)
    torch.testing.assert_close(by_us(llama, two, IDS, merge=True)[0, 0].isfinite().all(), torch.tensor(True))
    grown = trained(llama, tmp_path / "grown", grown=3, target_modules=["q_proj"])
    with pytest.raises(ArtifactError, match="changes the size of the vocabulary, so it can only be merged"):
        by_us(llama, [two[0], grown], IDS, merge=False)
    last = len(load_tokenizer(str(llama)))
    tokens = trained(llama, tmp_path / "t", grown=3, target_modules=["q_proj"], trainable_token_indices=[last + 2])
    without(tokens, "base_layer")
    with pytest.raises(ArtifactError, match="holds no embeddings of those between"):
        by_us(llama, [tokens], IDS, merge=True)
    lora = trained(llama, tmp_path / "l", grown=3, target_modules=["q_proj", "embed_tokens"])
    without(lora, "base_layer")
    with pytest.raises(ArtifactError, match=r"does not fit this model .*size mismatch"):
        by_us(llama, [lora], IDS, merge=True)


def without(folder, part):
    """Take weights out of an adapter folder."""
    weights = load_file(folder / "adapter_model.safetensors")
    kept = {name: weight for name, weight in weights.items() if part not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "adapter_model.safetensors")


def test_new_tokens_that_are_all_trained_need_no_saved_embeddings(llama, tmp_path):
    last = len(load_tokenizer(str(llama)))
    new = list(range(last, last + 3))
    folder = trained(llama, tmp_path / "adapter", grown=3, target_modules=["q_proj"], trainable_token_indices=new)
    ids = torch.tensor([[30, *new, 31]])
    expected = by_us(llama, [folder], ids, merge=True)
    without(folder, "base_layer")
    torch.testing.assert_close(by_us(llama, [folder], ids, merge=True), expected, atol=1e-5, rtol=0)


def test_the_tokenizer_of_an_adapter_brings_its_tokens(llama, tmp_path):
    folder = trained(llama, tmp_path / "adapter", grown=3, target_modules=["q_proj"])
    own = AutoTokenizer.from_pretrained(llama)
    own.add_tokens(NEW)
    own.save_pretrained(folder)
    tokenizer = load_tokenizer(str(llama), [folder])
    last = len(own)
    assert tokenizer("<new-b>", add_special_tokens=False)["input_ids"] == [last - 2]
    assert tokenizer("some words")["input_ids"] == load_tokenizer(str(llama))("some words")["input_ids"]
    other = trained(llama, tmp_path / "other", target_modules=["q_proj"])
    assert len(load_tokenizer(str(llama), [other])) == last - 3


@pytest.mark.parametrize("merge", [True, False])
def test_an_encoder_reads_the_tokens_that_an_adapter_added(llama, tmp_path, merge):
    own = AutoTokenizer.from_pretrained(llama)
    own.add_tokens(NEW)
    folder = trained(llama, tmp_path / "adapter", grown=3, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    own.save_pretrained(folder)
    encoder = TextEncoder.load(folder, attention="causal", include_special_tokens=True, dtype="float32", merge=merge)
    ids = own("a <new-b> text", return_tensors="pt")["input_ids"]
    assert len(own) - 2 in ids[0]
    expected = by_peft(llama, folder, ids, len(own))[0].mean(0).numpy()
    assert abs(encoder.encode("a <new-b> text") - expected).max() < 1e-5
    if merge:
        encoder.save(tmp_path / "encoder")
        assert abs(TextEncoder.load(tmp_path / "encoder").encode("a <new-b> text") - expected).max() < 1e-5


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(llama, tmp_path):
    own = AutoTokenizer.from_pretrained(llama)
    own.add_tokens(NEW)
    folder = trained(llama, tmp_path / "adapter", target_modules=["q_proj"])
    own.save_pretrained(folder)
    with pytest.raises(ArtifactError, match="embedding table has only"):
        TextEncoder.load(folder)


def test_an_adapter_upon_an_encoder_keeps_what_the_encoder_says(llama, tmp_path):
    plain = TextEncoder.load(llama, attention="bidirectional", dtype="float32")
    settings = EncoderSettings(pooling="last", max_length=7, prompts={"query": "find: "}, normalize=True)
    encoder = TextEncoder(plain.model, plain.tokenizer, settings)
    encoder.lineage = {"base": str(llama), "stages": []}
    encoder.save(tmp_path / "encoder")
    body = AutoModel.from_pretrained(tmp_path / "encoder", dtype=torch.float32)
    wrapped = peft.get_peft_model(body, peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    wrapped.save_pretrained(tmp_path / "adapter")
    expected = TextEncoder(wrapped.merge_and_unload(), plain.tokenizer, settings).encode_query(LONG)
    for merge in (True, False):
        opened = TextEncoder.load(tmp_path / "adapter", dtype="float32", merge=merge)
        assert opened.settings == settings
        assert opened.lineage["base"] == str(llama)
        assert abs(opened.encode_query(LONG) - expected).max() < 1e-5
    again = TextEncoder.load(tmp_path / "encoder", adapters=[tmp_path / "adapter"], dtype="float32")
    assert abs(again.encode_query(LONG) - expected).max() < 1e-5
    assert abs(encoder.encode_query(LONG) - expected).max() > 1e-3


@pytest.mark.data
def test_the_tokenizer_of_an_adapter_is_held_to_its_sentencepiece_file(llama, tokenizer, data_folder, tmp_path):
    folder = trained(llama, tmp_path / "adapter", target_modules=["q_proj"])
    shutil.copy(data_folder / "tokenizers" / "mistral_v1_sp" / "tokenizer.model", folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(ArtifactError, match=r"tokenizer.model splits 'word' into \['▁word'\], but"):
        load_tokenizer(str(llama), [folder])


def test_an_encoder_opens_such_an_adapter_and_gives_the_decoder_back(llama, tmp_path):
    folder = trained(
        llama, tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]
    )
    texts = ["a short text", "one that is longer than the other, so that a batch of both is padded"]
    opened = [TextEncoder.load(folder, attention="bidirectional", merge=m, dtype="float32") for m in (True, False)]
    assert abs(opened[0].encode(texts) - opened[1].encode(texts)).max() < 1e-5
    opened[0].save(tmp_path / "encoder")
    assert abs(TextEncoder.load(tmp_path / "encoder").encode(texts) - opened[0].encode(texts)).max() < 1e-6
    expected = load_model(str(llama), head=True, dtype="float32")
    with opened[1].as_decoder() as decoder:
        torch.testing.assert_close(decoder(input_ids=IDS).logits, expected(input_ids=IDS).logits)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), "PROMPT_TUNING"),
        (peft.IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[]), "IA3"),
    ],
)
def test_another_kind_of_adapter_is_named(llama, tmp_path, capsys, config, kind):
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(llama), config).save_pretrained(tmp_path / "adapter")
    for name, adapters in ((tmp_path / "adapter", []), (llama, [tmp_path / "adapter"])):
        with pytest.raises(ArtifactError, match=f"is an adapter of the type {kind}; only LoRA adapters are read"):
            TextEncoder.load(name, adapters=adapters)
    recipe = tmp_path / "recipe.yaml"
    (tmp_path / "docs.txt").write_text("one text\n" * 50)
    stage = {"objective": "simcse", "data": "docs", "steps": 1, "batch_size": 4}
    model, data = {"name": str(tmp_path / "adapter")}, {"docs": {"files": [str(tmp_path / "docs.txt")]}}
    recipe.write_text(json.dumps({"name": "t", "model": model, "data": data, "stages": [stage]}))
    for command in (
        ["convert", str(tmp_path / "adapter"), "--out", str(tmp_path / "out")],
        ["train", str(recipe), "--out", str(tmp_path / "run"), "--dry-run"],
        ["train", str(recipe), "--out", str(tmp_path / "run")],
    ):
        assert main(command) == 2
        assert f"is an adapter of the type {kind}" in capsys.readouterr().err


def test_a_lora_where_a_whole_model_is_needed_is_called_what_it_is(llama, tmp_path, capsys):
    folder = trained(llama, tmp_path / "adapter", target_modules=["q_proj"])
    assert main(["convert", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "is a LoRA adapter, and a whole model is needed here" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_in_place_of_a_models_file_is_told(llama, tmp_path, capsys, file):
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    (folder / file).write_text(POINTER)
    with pytest.raises(ArtifactError, match=f"{file} is a Git LFS pointer.* run `git lfs pull`"):
        TextEncoder.load(folder)
    assert main(["convert", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "is a Git LFS pointer" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_pointer_in_place_of_an_adapters_file_is_told(llama, tmp_path, file):
    folder = trained(llama, tmp_path / "adapter", target_modules=["q_proj"])
    (folder / file).write_text(POINTER)
    for name, adapters in ((folder, []), (llama, [folder])):
        with pytest.raises(ArtifactError, match=f"{file} is a Git LFS pointer.* run `git lfs pull`"):
            TextEncoder.load(name, adapters=adapters)


def test_a_pointer_in_place_of_data_is_told_before_anything_is_read(tmp_path, capsys):
    (tmp_path / "docs.jsonl").write_text(POINTER)
    stage = {"objective": "mntp", "data": "docs", "steps": 1}
    data = {"docs": {"files": [str(tmp_path / "docs.jsonl")]}}
    recipe = {"name": "t", "model": {"name": "pocket"}, "data": data, "stages": [stage]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    assert main(["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"), "--dry-run"]) == 2
    assert "docs.jsonl is a Git LFS pointer" in capsys.readouterr().err
