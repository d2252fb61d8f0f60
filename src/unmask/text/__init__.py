"""From a text to padded batches of tokens: prompts, spans, batching. Knows tokenizers, not models."""
