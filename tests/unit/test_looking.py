"""`verify` without loading a model: from the config alone, or layer by layer from disk."""

import json

import pytest
import torch
from transformers import CONFIG_MAPPING

from unmask import ArtifactError, TextEncoder, verify
from unmask.backbone.loading import load_from_disk, load_model, load_twin
from unmask.backbone.truth.convert import compatibility_gaps
from unmask.backbone.truth.twins import tiny_config, tiny_model
from unmask.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    place = tmp_path_factory.mktemp("hybrid")
    config = tiny_config(CONFIG_MAPPING["qwen3_5_text"](), vocab_size=len(tokenizer))
    tiny_model(config, head=True).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def test_layer_by_layer_finds_what_the_loaded_model_shows(folder):
    loaded, from_disk = load_model(str(folder), head=False), load_from_disk(str(folder))
    assert any(p.is_meta for p in from_disk.parameters())
    expected, found = verify(loaded), verify(from_disk)
    assert found.to_dict() == expected.to_dict()
    assert all(p.is_meta for layer in from_disk.layers for p in layer.parameters())


def test_the_config_alone_is_enough(folder, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    config = json.loads((folder / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps(config | {"hidden_size": 4096, "num_attention_heads": 32}))
    assert main(["verify", str(bare), "--config-only", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["family"] == "qwen3_5_text"
    assert report["config_only"] is True
    assert [layer["bidirectional"] for layer in report["layers"]] == [False] * 8
    (bare / "config.json").write_text(json.dumps({"model_type": "llama", "num_attention_heads": "many"}))
    with pytest.raises(ArtifactError, match="no small model"):
        load_twin(str(bare))


def test_a_two_way_folder_verifies_and_says_what_others_will_do(folder, tmp_path, capsys):
    out = str(tmp_path / "encoder")
    assert main(["convert", str(folder), "--out", out]) == 2
    assert "recurrent='two-way'" in capsys.readouterr().err
    assert main(["convert", str(folder), "--out", out, "--recurrent", "two-way"]) == 0
    capsys.readouterr()
    assert main(["verify", out]) == 0
    assert "Only unmask reads 3 modules" in capsys.readouterr().out
    assert main(["verify", out, "--config-only"]) == 0
    assert main(["verify", out, "--layer-by-layer"]) == 0
    assert "Only unmask reads 3 modules" in (tmp_path / "encoder" / "README.md").read_text()


def test_where_plain_transformers_does_not_obey_the_config(tiny, tokenizer):
    stable = TextEncoder(tiny("stablelm", head=False), tokenizer).model
    stable.config.is_causal = False
    (gap,) = compatibility_gaps(stable)
    assert "does not obey" in gap
    llama = tiny("llama", head=False)
    llama.config.is_causal = False
    assert compatibility_gaps(llama) == []
    assert torch.is_tensor(next(llama.parameters()))
