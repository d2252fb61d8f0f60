"""The only room that touches transformers and peft internals: attention, verification, loading, LoRA, dropout."""
