"""Every name in transformers' causal-LM mapping: which are text decoders, and how to build a tiny one."""

from functools import cache
from typing import Any

from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from unmask.backbone.truth.twins import tiny_config, tiny_model
from unmask.backbone.truth.verify import verify

# What a default config leaves open and every published checkpoint of the family sets, or what makes a tiny one whole.
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("full_attention", "sliding_attention")
        }
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots3_note_text": {"per_layer_config": {}, "head_dim": 32},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_d_head": 16},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"]},
    "hrm_text": {"num_layers_per_stack": 2, "num_hidden_layers": 16},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "lfm2": {"layer_types": ["conv", "conv", "full_attention", "conv"]},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"]},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp_text": {
        **{"indexer_budget": 16, "indexer_compress_ratio": 4, "indexer_n_heads": 2, "indexer_kv_heads": 1},
        "indexer_head_dim": 16,
    },
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [32, 32], "axial_pos_shape": [8, 16]},
    "xlstm": {"qk_dim_factor": 1.0},
}
_ENCODERS = "an encoder (bidirectional as it comes); as a decoder only with is_decoder=True"
_SEQ2SEQ = "the decoder half of an encoder-decoder"
_OTHER_MODALITY = "not a text decoder (audio, vision or music)"
ASIDE: dict[str, str] = {
    "blt": "reads raw bytes in patches that a second model cuts; there are no text tokens to pool",
    "gemma4_assistant": "a drafting head that reads another model's states",
    "gemma4_unified_assistant": "a drafting head that reads another model's states",
    "xlm": _ENCODERS.replace("is_decoder=True", "causal=True"),
    "xmod": _ENCODERS,
    "xlnet": "a permutation model: bidirectional as it comes",
    **dict.fromkeys(("git", "mllama", "trocr", "whisper", "musicgen", "musicgen_melody", "moshi"), _OTHER_MODALITY),
}


def text_decoders() -> list[str]:
    """The families of the sweep."""
    return [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if reason_aside(name) is None]


def reason_aside(name: str) -> str | None:
    """Why a name of the mapping is not in the sweep; None if it is."""
    if name in ASIDE:
        return ASIDE[name]
    config = CONFIG_MAPPING[name]()
    text = config.get_text_config()
    if text is not config or hasattr(config, "vision_config"):
        return f"a multimodal model around the text model `{text.model_type}`"
    if getattr(config, "is_encoder_decoder", False) or hasattr(config, "encoder_layers"):
        return _SEQ2SEQ
    return _ENCODERS if not getattr(config, "is_decoder", True) and _sees_both_sides(name) else None


@cache
def _sees_both_sides(name: str) -> bool:
    """True for BERT and its kin: bidirectional as they come, though listed among the causal models."""
    return bool(verify(tiny_model(family_config(name), head=False)).bidirectional)


def family_config(name: str) -> Any:
    """A tiny config of a family."""
    return tiny_config(CONFIG_MAPPING[name](), **OVERRIDES.get(name, {}))
