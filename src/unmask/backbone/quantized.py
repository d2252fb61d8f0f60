"""Frozen weights in four bits while an adapter is trained on them (QLoRA, Dettmers et al. 2023, arXiv 2305.14314)."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from unmask.errors import MissingExtraError


def four_bit(device: torch.device) -> dict[str, Any]:
    """Arguments for `load_model`: linear layers in 4-bit NormalFloat, computed in bfloat16.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise MissingExtraError("tuning: qlora needs bitsandbytes; install it with pip install 'unmask[qlora]'.")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    place = "cpu" if device.type == "cpu" else device.index or 0
    return {"quantization_config": config, "device_map": {"": place}, "device": None}


def let_gradients_through(model: nn.Module) -> None:
    """Keep bitsandbytes from packing weights for inference at the first pass without gradient, as it does on CPUs.

    Packed weights let no gradient through, in training either, and nothing says so.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
