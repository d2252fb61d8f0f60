"""What a model computes from its config and does not save: compared after loading, refused where it differs."""

import json

import pytest
import torch
import transformers
from torch import nn
from transformers import LlamaConfig, LlamaModel

from unmask import ArtifactError, convert
from unmask.backbone.loading import load_model
from unmask.backbone.truth.opening import AttentionSpec
from unmask.backbone.unsaved import require_unsaved
from unmask.settings import EncoderSettings
from unmask.training.building import Origin, StageContext
from unmask.training.stages.run import _save

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = [
    ("llama", {"rope_parameters": LLAMA3}, ["inv_freq", "original_inv_freq"]),
    ("qwen3", {}, ["inv_freq", "original_inv_freq"]),
    # two sets, one a kind of layer
    (
        "gemma3_text",
        {"layer_types": ["full_attention", "sliding_attention"]},
        ["full_attention_inv_freq", "sliding_attention_inv_freq"],
    ),
    ("gpt2", {}, []),
]


@pytest.mark.parametrize(("family", "extra", "buffers"), FAMILIES, ids=[one[0] for one in FAMILIES])
def test_each_wrong_buffer_is_refused_and_right_ones_pass(tiny, tmp_path, family, extra, buffers):
    tiny(family, head=False, **extra).save_pretrained(tmp_path)
    model = transformers.AutoModel.from_pretrained(tmp_path, dtype="bfloat16")
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    require_unsaved(model, "mine")
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    for key in buffers:
        held = getattr(model.rotary_emb, key)
        right = held.clone()
        held[-1] *= 1.0001
        with pytest.raises(ArtifactError, match=rf"mine: rotary_emb.{key}, which is in no file, was loaded as"):
            require_unsaved(model, "mine")
        held.copy_(right)
    require_unsaved(model, "mine")


def test_another_base_than_the_configs_is_refused(tiny):
    model = tiny("llama", head=False)
    model.config.rope_parameters["rope_theta"] = 500000.0
    with pytest.raises(ArtifactError, match=r"was loaded as .* by the config"):
        require_unsaved(model, "mine")


def test_frequencies_that_were_cast_are_refused(tiny):
    with pytest.raises(ArtifactError, match=r"rotary_emb.*inv_freq is in bfloat16, and rotary positions need float32"):
        require_unsaved(tiny("llama", head=False).to(torch.bfloat16), "mine")


class Positions(nn.Module):
    """Rotary positions that transformers does not know as such, so that it leaves them empty when it loads."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        steps = torch.arange(0, config.head_dim, 2).float() / config.head_dim
        self.register_buffer("inv_freq", 10000.0**-steps, persistent=False)

    def forward(self, x, position_ids):
        angles = (position_ids[..., None].float() * self.inv_freq).repeat(1, 1, 2)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class ForgetfulConfig(LlamaConfig):
    model_type = "forgetful"


class ForgetfulModel(LlamaModel):
    config_class = ForgetfulConfig

    def __init__(self, config):
        super().__init__(config)
        self.rotary_emb = Positions(config)


def test_a_family_that_transformers_leaves_empty_is_not_loaded(tokenizer, tmp_path):
    transformers.AutoConfig.register("forgetful", ForgetfulConfig)
    transformers.AutoModel.register(ForgetfulConfig, ForgetfulModel)
    config = ForgetfulConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    config.vocab_size = len(tokenizer)
    model = ForgetfulModel(config).eval()
    require_unsaved(model, "mine")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match=r"rotary_emb\.inv_freq, which is in no file, was loaded as"):
        load_model(str(tmp_path), head=False)


def test_a_stage_saved_in_another_dtype_keeps_its_frequencies(tiny, tmp_path):
    model = tiny("llama", head=False)
    convert(model)
    origin = Origin("pocket", "pocket", None, None, AttentionSpec("bidirectional"), "bfloat16", None)
    _save(model, StageContext(origin, EncoderSettings(max_length=64), data={}, seed=0), tmp_path / "encoder")
    require_unsaved(model, "mine")
    assert json.loads((tmp_path / "encoder" / "config.json").read_text())["dtype"] == "bfloat16"
