"""Causal <-> bidirectional attention, through the switches that transformers itself reads.

Two of them matter (transformers >= 5.2): `config.is_causal`, from which the mask is built, and the attribute
`is_causal` on the attention modules, which some families and the sdpa kernel consult when there is no mask. Passing
`is_causal=False` to `from_pretrained` is silently ignored, so both are set on the live objects. Nothing here proves
that a model turned: that is `verify`.
"""

from typing import Literal

from torch import nn

from unmask.backbone.structure import decoder_layers, text_config

AttentionMode = Literal["causal", "bidirectional"]

_WAS_CAUSAL = "_unmask_was_causal"


def attention_mode(model: nn.Module) -> AttentionMode:
    """What the config says; it may not be what the layers do."""
    return "causal" if getattr(text_config(model), "is_causal", True) else "bidirectional"


def set_attention_mode(model: nn.Module, mode: AttentionMode) -> None:
    """Set every switch, in place, on the config and on each attention module of the decoder layers."""
    layers = decoder_layers(model)  # may refuse, and then nothing has been touched
    text_config(model).is_causal = mode == "causal"
    for layer in layers:
        for module in layer.modules():
            if getattr(module, "is_causal", None) is True:
                setattr(module, _WAS_CAUSAL, True)
            if getattr(module, _WAS_CAUSAL, False):
                module.is_causal = mode == "causal"  # type: ignore[assignment]
