"""A random decoder so small that what is tested is everything else."""


def write_small_encoder(folder):
    """Write its folder, over the pocket vocabulary, and return the name."""
    import torch
    import transformers

    from unmask.backbone.locate import load_tokenizer

    tokenizer = load_tokenizer("pocket")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
