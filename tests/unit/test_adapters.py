"""LoRA folders remember how their model looked at texts; merged or not they give the same vectors; and the way back."""

import json
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING

from unmask import ArtifactError, TextEncoder
from unmask.backbone.families.switches import attention_mode
from unmask.backbone.loading import load_model
from unmask.backbone.lora import add_lora
from unmask.backbone.truth.recurrent import recurrent_mode
from unmask.backbone.truth.twins import tiny_config, tiny_model

TEXTS = ["a short text", "one that is longer than the other, so that a batch of both is padded", "third"]


def adapter(base, folder, seed, **own):
    """A LoRA with random weights, as a stage leaves it."""
    wrapped = add_lora(load_model(str(base), head=False, dtype="float32"), rank=4, alpha=8, dropout=0.0)
    torch.manual_seed(seed)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    wrapped.save_pretrained(str(folder))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base)}))
    if own:
        (folder / "unmask.json").write_text(json.dumps({"settings": {}, **own}))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("base")
    config = tiny_config(CONFIG_MAPPING["llama"](), vocab_size=len(tokenizer), tie_word_embeddings=False)
    tiny_model(config, head=True).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_adapter_brings_its_attention_mode_over_a_causal_base(base, tmp_path):
    one = adapter(base, tmp_path / "one", 1, attention="bidirectional")
    over = TextEncoder.load(base, adapters=[one], dtype="float32")
    assert attention_mode(over.model) == "bidirectional"
    alone = TextEncoder.load(one, dtype="float32")  # its base is opened under it
    assert abs(over.encode(TEXTS) - alone.encode(TEXTS)).max() == 0
    plain = TextEncoder.load(base, attention="bidirectional", dtype="float32")
    assert abs(over.encode(TEXTS) - plain.encode(TEXTS)).max() > 1e-3


def test_merged_or_not_the_vectors_are_equal(base, tmp_path):
    two = [adapter(base, tmp_path / name, seed, attention="bidirectional") for seed, name in enumerate("ab")]
    merged = TextEncoder.load(base, adapters=two, dtype="float32")
    apart = TextEncoder.load(base, adapters=two, merge=False, dtype="float32")
    assert abs(merged.encode(TEXTS) - apart.encode(TEXTS)).max() < 1e-5
    first = TextEncoder.load(base, adapters=two[:1], dtype="float32")
    assert abs(merged.encode(TEXTS) - first.encode(TEXTS)).max() > 1e-3
    with pytest.raises(ArtifactError, match="merge=True"):
        apart.save(tmp_path / "out")


@pytest.mark.parametrize("adapted", [False, True])
def test_as_decoder_gives_the_untouched_base_back(base, tmp_path, adapted):
    expected = load_model(str(base), head=True, dtype="float32")
    ids = torch.arange(20, 32)[None]
    folders = [adapter(base, tmp_path / "one", 1, attention="bidirectional")] if adapted else []
    encoder = TextEncoder.load(base, adapters=folders, merge=False, attention="bidirectional", dtype="float32")
    vectors = encoder.encode(TEXTS)
    with encoder.as_decoder() as decoder:
        assert decoder.base_model is encoder.model
        assert torch.equal(decoder(input_ids=ids).logits, expected(input_ids=ids).logits)
        greedy = {"max_new_tokens": 8, "do_sample": False}
        assert torch.equal(decoder.generate(ids, **greedy), expected.generate(ids, **greedy))
    assert abs(encoder.encode(TEXTS) - vectors).max() == 0


def test_as_decoder_of_a_converted_hybrid_with_lifted_windows(tokenizer, tmp_path):
    base = tmp_path / "base"
    config = tiny_config(CONFIG_MAPPING["lfm3"](), vocab_size=len(tokenizer))
    tiny_model(config, head=True).save_pretrained(base)
    tokenizer.save_pretrained(base)
    expected = load_model(str(base), head=True, dtype="float32")
    ids = torch.arange(20, 80)[None]
    encoder = TextEncoder.load(base, attention="bidirectional", recurrent="two-way", window="lift", dtype="float32")
    encoder.lineage = {"base": str(base)}
    encoder.save(tmp_path / "encoder")
    encoder = TextEncoder.load(tmp_path / "encoder")
    vectors = encoder.encode(TEXTS)
    with encoder.as_decoder() as decoder:
        assert torch.allclose(decoder(input_ids=ids).logits, expected(input_ids=ids).logits, atol=1e-6)
    assert recurrent_mode(encoder.model) == "two-way"
    assert abs(encoder.encode(TEXTS) - vectors).max() == 0


def test_an_adapter_trained_around_the_head_fits_too(base, tmp_path):
    body = adapter(base, tmp_path / "body", 1, attention="bidirectional")
    whole = tmp_path / "whole"
    whole.mkdir()
    from safetensors.torch import load_file, save_file

    weights = load_file(body / "adapter_model.safetensors")
    renamed = {k.replace("base_model.model.", "base_model.model.model."): v for k, v in weights.items()}
    save_file(renamed, whole / "adapter_model.safetensors")
    config = json.loads((body / "adapter_config.json").read_text())
    (whole / "adapter_config.json").write_text(json.dumps(config | {"task_type": "CAUSAL_LM"}))
    (whole / "unmask.json").write_text((body / "unmask.json").read_text())
    vectors = [TextEncoder.load(base, adapters=[folder], dtype="float32").encode(TEXTS) for folder in (body, whole)]
    assert abs(vectors[0] - vectors[1]).max() == 0


def test_adapters_that_do_not_fit_are_refused(base, tmp_path, tokenizer):
    with pytest.raises(ArtifactError, match="is no LoRA adapter"):
        TextEncoder.load(base, adapters=[base])
    other = tmp_path / "other"
    tiny_model(tiny_config(CONFIG_MAPPING["gpt2"](), vocab_size=len(tokenizer)), head=True).save_pretrained(other)
    tokenizer.save_pretrained(other)
    foreign = adapter(other, tmp_path / "foreign", 1)
    with pytest.raises(ArtifactError, match="does not fit this model"):
        TextEncoder.load(base, adapters=[foreign])
    orphan = adapter(base, tmp_path / "orphan", 1)
    config = json.loads((orphan / "adapter_config.json").read_text())
    (orphan / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ArtifactError, match="names no base model"):
        TextEncoder.load(orphan)


def test_a_folder_of_the_released_package_brings_its_settings(base, tmp_path):
    folder = adapter(base, tmp_path / "released", 1)
    config = {"pooling_mode": "eos_token", "max_length": 77, "doc_max_length": 400, "skip_instruction": True}
    (folder / "llm2vec_config.json").write_text(json.dumps(config))
    encoder = TextEncoder.load(Path(folder))
    assert (encoder.settings.pooling, encoder.settings.max_length) == ("last", 77)
    assert attention_mode(encoder.model) == "bidirectional"


def test_an_adapter_of_a_causal_stage_stays_causal(base, tmp_path):
    one = adapter(base, tmp_path / "one", 1, attention="causal")
    assert attention_mode(TextEncoder.load(base, adapters=[one]).model) == "causal"
    two = adapter(base, tmp_path / "two", 1, attention="bidirectional", window="keep")
    assert attention_mode(TextEncoder.load(base, adapters=[two], attention="causal").model) == "causal"


def test_unmerged_adapters_neither_drop_nor_train(base, tmp_path):
    folder = adapter(base, tmp_path / "one", 1, attention="bidirectional")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_dropout": 0.5}))
    encoder = TextEncoder.load(base, adapters=[folder], merge=False, dtype="float32")
    batch = encoder.pad(encoder.tokenize(TEXTS))
    assert torch.equal(encoder.module(batch), encoder.module(batch))
    with encoder.as_decoder():
        pass
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())


def test_the_head_is_the_base_models_also_after_saving(base, tmp_path):
    expected = load_model(str(base), head=True, dtype="float32")
    ids = torch.arange(20, 32)[None]
    TextEncoder.load(base, attention="bidirectional", dtype="float32").save(tmp_path / "encoder")
    with TextEncoder.load(tmp_path / "encoder").as_decoder() as decoder:
        assert torch.equal(decoder(input_ids=ids).logits, expected(input_ids=ids).logits)
    with pytest.raises(ArtifactError, match="lack weights of LlamaForCausalLM"):
        load_model(str(tmp_path / "encoder"), head=True)
