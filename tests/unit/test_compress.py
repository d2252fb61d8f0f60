"""What training changed, as a LoRA folder: right at a rank that holds it, less below, opened like any adapter."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from unmask import ArtifactError, TextEncoder
from unmask.backbone.low_rank import as_low_rank, input_moments
from unmask.cli.main import main
from unmask.encoder.compress import compress

TEXTS = ["a short text", "one that is longer than the other, so that a batch of both is padded", "third", "Привет, мир"]


@pytest.fixture
def trained(tmp_path):
    """name -> the pocket decoder after a change of all its matrices and norms, as full training leaves it."""

    def build(change_of=lambda weight: torch.randn(weight.shape[0], 4) @ torch.randn(4, weight.shape[1])):
        encoder = TextEncoder.load("pocket", attention="bidirectional", dtype="float32")
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in encoder.model.parameters():
                step = change_of(parameter) if parameter.dim() == 2 else torch.randn(parameter.shape)
                parameter += 0.3 * parameter.norm() * step / step.norm()
        encoder.save(tmp_path / "trained")
        return tmp_path / "trained"

    return build


def test_a_change_of_low_rank_comes_back_with_norms_and_embeddings(trained, tmp_path):
    folder = trained()
    found = compress(folder, tmp_path / "lora", TEXTS, rank=4)
    assert found.kept > 0.999
    assert min(found.cosines) > 0.999
    bare = TextEncoder.load("pocket", attention="bidirectional", dtype="float32").encode(TEXTS, normalize=True)
    full, small = (TextEncoder.load(one, dtype="float32") for one in (folder, tmp_path / "lora"))
    expected = full.encode(TEXTS, normalize=True)
    assert ((bare * expected).sum(1) < 0.99).all()  # the change is seen in vectors
    np.testing.assert_allclose((small.encode(TEXTS, normalize=True) * expected).sum(1), 1, atol=1e-3)
    assert small.settings == full.settings
    assert small.lineage["base"] == "pocket"
    size = sum(weight.numel() for weight in load_file(tmp_path / "lora" / "adapter_model.safetensors").values())
    assert size < sum(parameter.numel() for parameter in full.model.parameters()) / 5


def test_a_rank_too_low_loses_and_says_how_much(trained, tmp_path):
    folder = trained(lambda weight: torch.randn_like(weight))
    kept = [compress(folder, tmp_path / f"r{rank}", TEXTS, rank=rank) for rank in (1, 8, 64)]
    assert kept[0].kept < kept[1].kept < kept[2].kept < 0.95
    assert kept[0].megabytes < kept[1].megabytes < kept[2].megabytes


def test_what_layers_are_given_says_what_of_a_change_counts(trained, articles):
    """Weighed by its inputs, a change of full rank is kept better than evenly, on other texts, too."""
    texts = [text[:300] for text in articles[:24]]
    after = TextEncoder.load(trained(lambda weight: torch.randn_like(weight)), dtype="float32")
    expected, distances = after.encode(texts[:8]), []
    with input_moments(after.model) as moments:
        after.encode(texts[8:], compile=False)
    assert set(moments) == {name for name, part in after.model.named_modules() if isinstance(part, torch.nn.Linear)}
    for given in ({}, moments):
        small = TextEncoder.load("pocket", attention="bidirectional", dtype="float32")
        as_low_rank(small.model, after.model, 32, moments=given)
        distances.append(np.linalg.norm(small.encode(texts[:8]) - expected))
    assert distances[1] < 0.9 * distances[0]


def test_the_command_prints_what_is_lost(trained, tmp_path, capsys):
    folder, texts = trained(), tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    asked = ["compress", str(folder), "--out", str(tmp_path / "lora"), "--texts", str(texts), "--rank", "4", "--json"]
    assert main(asked) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cosine_min"] > 0.999
    assert len(found["cosines"]) == len(TEXTS)
    card = (tmp_path / "lora" / "README.md").read_text()
    assert "--rank 4" in card
    assert f"{found['kept']:.1%}" in card
    assert "- base: pocket" in card


def test_a_change_of_a_few_small_steps_is_no_rounding(tmp_path):
    encoder = TextEncoder.load("pocket", attention="bidirectional", dtype="float32")
    weight = encoder.model.layers[0].self_attn.q_proj.weight
    with torch.no_grad():
        weight += 1e-4 * weight.std() * torch.sign(weight[:, :1]) * torch.sign(weight[:1])
    encoder.save(tmp_path / "trained")
    assert compress(tmp_path / "trained", tmp_path / "lora", TEXTS, rank=1).matrices == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_was_not_trained_is_refused(tmp_path, dtype):
    TextEncoder.load("pocket", attention="bidirectional", dtype=dtype).save(tmp_path / "bare")
    with pytest.raises(ArtifactError, match="No weight matrix differs"):
        compress(tmp_path / "bare", tmp_path / "lora", TEXTS)
    assert not (tmp_path / "lora").exists()


def test_another_base_is_refused(trained, tmp_path, tiny, tokenizer):
    tiny("llama").save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(ArtifactError, match="other names or shapes"):
        compress(trained(), tmp_path / "lora", TEXTS, base=str(tmp_path / "other"))
