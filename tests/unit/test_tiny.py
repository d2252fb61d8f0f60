"""Tiny twins of published shapes: they run, and keep what decides who sees whom."""

import pytest
import torch
from transformers import CONFIG_MAPPING

from unmask import verify
from unmask.backbone.forward import token_states
from unmask.backbone.structure import decoder_layers
from unmask.backbone.truth.twins import tiny_config, tiny_model

PUBLISHED = {
    "llama-3.1-8b": (
        "llama",
        {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336}
        | {"num_hidden_layers": 32, "vocab_size": 128256, "max_position_embeddings": 131072, "pad_token_id": None}
        | {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }
        }
        | {"bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009]},
    ),
    "smollm2-135m": (
        "llama",
        {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "num_hidden_layers": 30}
        | {"tie_word_embeddings": True, "vocab_size": 49152},
    ),
    "qwen2.5-0.5b": (
        "qwen2",
        {"hidden_size": 896, "num_attention_heads": 14, "num_key_value_heads": 2, "num_hidden_layers": 24}
        | {"max_window_layers": 21, "use_sliding_window": False, "vocab_size": 151936},
    ),
    "qwen3-0.6b": (
        "qwen3",
        {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
        | {"num_hidden_layers": 28, "vocab_size": 151936},
    ),
    "phi-3-mini-128k": (
        "phi3",
        {"hidden_size": 3072, "num_attention_heads": 32, "num_key_value_heads": 32, "num_hidden_layers": 32}
        | {"max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "sliding_window": 262144}
        | {
            "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}
            | {"short_factor": [1.0] * 48, "long_factor": [1.5] * 48}
        },
    ),
    "phi-4-mini": (
        "phi3",
        {"hidden_size": 3072, "num_attention_heads": 24, "num_key_value_heads": 8, "num_hidden_layers": 32}
        | {"max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75}
        | {
            "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75}
            | {"short_factor": [1.0] * 48, "long_factor": [1.5] * 48}
        },
    ),
    "gemma-3-1b": (
        "gemma3_text",
        {"hidden_size": 1152, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256}
        | {"num_hidden_layers": 26, "sliding_window": 512, "query_pre_attn_scalar": 256, "vocab_size": 262144},
    ),
    "qwen3.5-0.8b": (
        "qwen3_5_text",
        {"hidden_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256}
        | {"num_hidden_layers": 24, "linear_num_key_heads": 16, "linear_num_value_heads": 16, "vocab_size": 248320}
        | {"linear_key_head_dim": 128, "linear_value_head_dim": 128, "partial_rotary_factor": 0.25}
        | {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e7,
                "partial_rotary_factor": 0.25,
                "mrope_section": [11, 11, 10],
            }
        },
    ),
    "lfm2-350m": (
        "lfm2",
        {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8, "num_hidden_layers": 16}
        | {"full_attn_idxs": [2, 5, 8, 10, 12, 14], "vocab_size": 65536},
    ),
    "falcon-h1-0.5b": (
        "falcon_h1",
        {"hidden_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "mamba_d_ssm": 1536}
        | {"num_hidden_layers": 36, "mamba_n_heads": 24, "mamba_d_head": 64, "mamba_n_groups": 1, "mamba_d_state": 128},
    ),
    "granite-4.0-h-350m": (
        "granitemoehybrid",
        {"hidden_size": 768, "num_attention_heads": 12, "num_key_value_heads": 4, "num_hidden_layers": 32}
        | {"mamba_n_heads": 48, "mamba_d_head": 32, "mamba_d_state": 128, "num_local_experts": 0}
        | {"layer_types": (["linear_attention"] * 10 + ["full_attention"]) * 2 + ["linear_attention"] * 10},
    ),
    "mamba2-130m": (
        "mamba2",
        {
            "hidden_size": 768,
            "num_heads": 24,
            "head_dim": 64,
            "state_size": 128,
            "num_hidden_layers": 24,
            "n_groups": 1,
        },
    ),
    "mistral-7b-v0.1": (
        "mistral",
        {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32}
        | {"sliding_window": 4096},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_twin_of_a_published_shape_runs_and_is_small(name):
    family, values = PUBLISHED[name]
    config = CONFIG_MAPPING[family](**values)
    twin = tiny_model(tiny_config(config), head=False)
    assert sum(p.numel() for p in twin.parameters()) < 2e6
    assert token_states(twin, torch.arange(20, 60)[None]).isfinite().all()
    assert verify(twin).checks
    whole = tiny_model(tiny_config(config, layers=config.num_hidden_layers), head=False)
    assert len(decoder_layers(whole)) == config.num_hidden_layers
    kinds = getattr(config, "layer_types", None)
    if kinds:
        assert whole.config.layer_types == kinds
        assert set(twin.config.layer_types) == set(kinds)


def test_the_same_seed_gives_the_same_weights():
    config = tiny_config(CONFIG_MAPPING["llama"]())
    one, two = (tiny_model(config, head=False, seed=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
