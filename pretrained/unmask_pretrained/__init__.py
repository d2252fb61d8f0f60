"""LoRA folders over SmolLM2-135M-Instruct, which `unmask.TextEncoder.load` opens by their names."""
