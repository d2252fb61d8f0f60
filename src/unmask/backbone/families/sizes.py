"""The names that transformers' configs give to sizes, and how small each becomes in a tiny twin.

Widths, head counts, experts and vocabulary shrink; what decides who sees whom is not among them.
"""

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
SMALL = {name: size for size, names in _SIZES.items() for name in names}
SHARED_HEADS = {  # these keep their relation to another count: equal, one for all, or in between
    "num_key_value_heads": "num_attention_heads",
    "kv_n_heads": "n_heads",
    "num_kv_heads": "num_attention_heads",
    "swa_num_key_value_heads": "swa_num_attention_heads",
    "linear_num_key_heads": "linear_num_value_heads",
}
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks")
LAYER_KINDS = ("layer_types", "mlp_layer_types", "layers_block_type", "attention_layers", "no_rope_layers")
