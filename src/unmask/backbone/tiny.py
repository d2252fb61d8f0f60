"""The same architecture, tiny: from any text config to a random model of it that fits a unit test.

Widths, head counts, experts and vocabulary shrink; what decides who sees whom stays: the kinds of layers, windows,
chunks, how positions are given, how many key heads share a query. That is what `verify --config-only` needs, and what
the sweep over all families is built from.
"""

from typing import Any

import torch

from unmask.backbone.structure import LIFTED_KEY, RECURRENT_KEY

_SIZES: dict[int, tuple[str, ...]] = {  # what the names that transformers' configs use shrink to
    64: (
        *("hidden_size", "n_embd", "d_model", "embedding_dim", "lru_width", "word_embed_proj_dim", "emb_dim"),
        *("ple_embed_dim", "dim_model_base", "prompt_mid_dim", "embedding_size"),
        *("intermediate_size", "moe_intermediate_size", "ffn_dim", "ffn_hidden_size", "dff", "dim_ff", "n_inner"),
        *("shared_expert_intermediate_size", "shared_experts_intermediate_size", "shared_intermediate_size"),
        *("expert_ffn_hidden_size", "intermediate_size_mlp", "dense_intermediate_size", "router_hidden_size"),
        *("moe_shared_expert_intermediate_size", "d_inner", "feed_forward_size"),
    ),
    128: (
        *("vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size", "ngram_vocab_size_base", "mamba_d_ssm"),
        *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"),
    ),
    16: (
        *("head_dim", "swa_head_dim", "dim_head", "linear_head_dim", "linear_key_head_dim", "d_head"),
        *("linear_value_head_dim", "index_head_dim", "mamba_d_head", "mamba_head_dim", "mamba_headdim", "kv_channels"),
        *("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "global_head_dim", "attention_head_size"),
        *("mamba_chunk_size", "chunk_size", "block_size", "hidden_size_per_layer_input", "o_lora_rank"),
        *("q_lora_rank", "kv_lora_rank", "laurel_rank", "mamba_d_state", "ssm_state_size", "state_size"),
        *("lsh_attn_chunk_length", "local_attn_chunk_length", "attention_chunk_size"),
        *("sliding_window", "sliding_window_size", "attention_window_size", "window_size", "local_attention"),
        "keep_window_size",
    ),
    8: (
        *("index_topk", "indexer_budget", "index_block_size"),
        *("rotary_dim", "gated_norm_rank", "hc_lowrank", "adapter_rank", "d_rel", "mamba_dt_rank", "time_step_rank"),
        *("mamba_n_heads", "mamba_num_heads"),
    ),
    4: (
        *("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "swa_num_attention_heads"),
        *("linear_num_heads", "linear_num_value_heads", "index_n_heads", "num_query_groups"),
        *("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", "zero_expert_num"),
    ),
    2: (
        *("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k", "mamba_n_groups"),
        *("n_groups", "mamba_ngroups", "hc_mult", "hc_count", "n_mamba_heads", "o_groups"),
        *("index_topk_blocks", "indexer_compress_ratio"),
    ),
    32: ("qk_head_dim", "attention_head_dim"),
    0: ("num_kv_shared_layers",),
    1: (
        *("n_group", "num_expert_group", "topk_group", "n_shared_experts", "num_shared_experts"),
        *("moe_num_shared_experts", "bos_token_id", "eos_token_id", "pad_token_id"),
    ),
}
_SMALL = {name: size for size, names in _SIZES.items() for name in names}
_SHARED_HEADS = {  # these keep their relation to another count: equal, one for all, or in between
    "num_key_value_heads": "num_attention_heads",
    "kv_n_heads": "n_heads",
    "num_kv_heads": "num_attention_heads",
    "swa_num_key_value_heads": "swa_num_attention_heads",
    "linear_num_key_heads": "linear_num_value_heads",
}
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks")
_KINDS = ("layer_types", "mlp_layer_types", "layers_block_type", "attention_layers", "no_rope_layers")
_FEWEST_LAYERS = 4


def tiny_config(config: Any, *, layers: int | None = None, **overrides: Any) -> Any:
    """A copy of a text config with small sizes and the same kinds of layers.

    Args:
        config: of a transformers text model.
        layers: how many layers to keep from the first on; by default the shortest run that holds every kind the
            config lists, and four at least.
        overrides: config values that win over all of this.

    Returns:
        A config of the same class.
    """
    values = config.to_dict()
    values.pop(RECURRENT_KEY, None)
    values |= values.pop(LIFTED_KEY, None) or {}  # the windows as they were
    total = next((values[name] for name in _LAYERS if isinstance(values.get(name), int)), 1)
    keep = min(total, layers or _layers_to_keep(values, total))
    small = _shrink(values, total, keep)
    if {"expand", "num_heads", "head_dim"} <= set(values):  # Mamba-2 ties the three together
        small["num_heads"] = small["hidden_size"] * values["expand"] // small["head_dim"]
    small |= overrides
    for name in ("model_type", "transformers_version", "architectures", "dtype", "layer_types"):
        if name != "layer_types" or small.get(name) is None:
            small.pop(name, None)
    return type(config)(**small)


def tiny_model(config: Any, *, head: bool, seed: int = 0) -> Any:
    """A random float32 model of a (tiny) config, in evaluation mode; the same seed gives the same weights."""
    import transformers

    auto = transformers.AutoModelForCausalLM if head else transformers.AutoModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return auto.from_config(config, dtype=torch.float32).eval()


def _layers_to_keep(values: dict[str, Any], total: int) -> int:
    """The shortest prefix of the layers with every kind in it."""
    needed = [_FEWEST_LAYERS]
    for name in _KINDS:
        kinds = values.get(name)
        if isinstance(kinds, list) and len(kinds) == total:
            needed.append(1 + max(kinds.index(kind) for kind in kinds))
    for name in ("attn_layer_period", "attn_layer_offset", "layer_group_size"):
        needed.append(int(values.get(name) or 0) + 1)
    return max(needed)


def _shrink(values: dict[str, Any], total: int, keep: int) -> dict[str, Any]:
    """Every known size made small, every list of one entry a layer cut."""
    small: dict[str, Any] = {}
    for name, value in values.items():
        if name in _LAYERS:
            small[name] = keep
        elif isinstance(value, list) and len(value) == total:
            small[name] = value[:keep]
        elif isinstance(value, dict):
            small[name] = _shrink_group(name, value, total, keep)
        elif not isinstance(value, int) or isinstance(value, bool) or value < 0:
            small[name] = value
        elif name in _SHARED_HEADS:
            others = values.get(_SHARED_HEADS[name])
            small[name] = _few(value) if value == others else min(value, 2)
        elif _SMALL.get(name) == 4:
            small[name] = _few(value)
        elif name == "attention_hidden_size":  # Zamba attends in twice the width
            small[name] = 64 * value // int(values["hidden_size"])
        else:
            small[name] = min(value, _SMALL.get(name, value))
    return small


def _shrink_group(name: str, value: dict[str, Any], total: int, keep: int) -> dict[str, Any]:
    """A config within the config."""
    if name == "per_layer_config":
        return {k: _shrink(v, total, keep) for k, v in value.items() if int(k) < keep}
    if name == "rope_parameters":
        return _plain_rope(value)
    if name == "compress_rates":
        return {kind: min(rate, 8) for kind, rate in value.items()}
    return _shrink(value, total, keep) if name.endswith("_config") else value


def _plain_rope(rope: dict[str, Any]) -> dict[str, Any]:
    """Rotary positions without tables that fit one head width only; they have no say in who sees whom."""
    if "rope_type" not in rope:  # one set a kind of layer
        return {kind: _plain_rope(value) if isinstance(value, dict) else value for kind, value in rope.items()}
    if rope["rope_type"] != "longrope":
        return rope
    return {name: value for name, value in rope.items() if not isinstance(value, list)} | {"rope_type": "default"}


def _few(count: int) -> int:
    """Heads or experts: four, two or one, which divide every small width."""
    return 4 if count >= 4 else min(count, 2)
