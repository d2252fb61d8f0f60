"""A folder opened by transformers alone, with nothing of this package: what others see who open it."""

from pathlib import Path
from typing import Any

import torch

from unmask.files import read_json


def plain_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, as transformers makes it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)


def plain_model(folder: Path, *, halved: bool = False) -> Any:
    """The model of a folder without head, in float32, as transformers makes it.

    Args:
        folder: with weights and config.
        halved: where the config has the flag by which other runtimes know a two-sided Gemma 3, its window is what they
            count, from end to end; transformers counts one token more to each side.
    """
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    if halved and getattr(config, "use_bidirectional_attention", False) and hasattr(config, "sliding_window"):
        window = read_json(folder / "config.json").get("sliding_window")
        if config.model_type == "gemma3_text" and window:
            config.use_bidirectional_attention, config.sliding_window = False, window // 2
    return AutoModel.from_pretrained(str(folder), config=config, dtype=torch.float32).eval()
