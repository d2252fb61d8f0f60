"""Every fact about a family of models, in one table; what holds for all families by name of a key or module, below it.

The kinds of switches are in `switches`, the names of sizes in `sizes`. Nothing here is believed: `convert` measures.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from unmask.backbone.families.alibi import LinearBias
from unmask.errors import ConversionError


class Switch(Protocol):
    """One kind of switch, wherever a model has it."""

    def find(self, model: nn.Module) -> bool:
        """True if the model has one of this kind."""
        ...

    def set(self, model: nn.Module) -> None:
        """Let tokens see what they did not see: the future, or what lies beyond a window."""
        ...

    def restore(self, model: nn.Module) -> None:
        """Put back what `set` changed."""
        ...


@dataclass(frozen=True, slots=True)
class Family:
    """What is known of one model type.

    Attributes:
        refused: why no option converts it, as the message says.
        flag_elsewhere: other runtimes read `use_bidirectional_attention` in its config instead of `is_causal`.
        switches: kinds of switches that only this family has, besides those that all have.
        twin: config values of a tiny twin, where shrinking each size by itself gives what the class refuses.
        twin_layers: fewest layers of a twin, where weights are shared between layers far apart.
    """

    refused: str = ""
    flag_elsewhere: bool = False
    switches: tuple[Switch, ...] = ()
    twin: Mapping[str, Any] = field(default_factory=dict)
    twin_layers: int = 0


FAMILIES: dict[str, Family] = {
    "bloom": Family(switches=(LinearBias(),)),
    "cpmant": Family(refused="It puts prompt tokens of its own before every text."),
    "deepseek_v4": Family(
        refused="It attends to compressed blocks of the past, which shift with padding and know no future."
    ),
    "mpt": Family(refused="Its class in transformers fails on a batch without padding once no causal mask is built."),
    "reformer": Family(
        refused="Its reversible layers hash the tokens and hide their gradients, so nothing can be proven."
    ),
    "llama": Family(flag_elsewhere=True),
    "mistral": Family(flag_elsewhere=True),
    "qwen2": Family(flag_elsewhere=True),
    "qwen3": Family(flag_elsewhere=True),
    "zamba": Family(twin={"attention_head_dim": 32}, twin_layers=9),
    "zamba2": Family(twin={"n_mamba_heads": 8}),
}
_UNKNOWN = Family()

# Config keys of windows, and of counts of tokens that a layer picks.
WINDOW_KEYS = ("sliding_window", "sliding_window_size", "attention_window_size", "window_size")
PICK_KEYS = ("index_topk", "index_topk_blocks", "indexer_budget", "keep_window_size")
# Names under which decoders keep the rate of attention dropout (config keys and module attributes).
DROPOUT_KEYS = ("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "attn_dropout", "dropout_prob")
ATTENTION_NAMES = ("attn", "attention")
# Parts of the names of modules that mix the tokens of a text.
MIXER_NAMES = (*ATTENTION_NAMES, "mixer", "mamba", "conv", "temporal")
# Config keys of factors on the logits (Cohere multiplies; Granite and Inkling divide), and of their cap (Gemma 2).
LOGIT_FACTORS = ("logit_scale",)
LOGIT_DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")
LOGIT_CAP = "final_logit_softcapping"
LOGIT_COUNT = "unpadded_vocab_size"


def facts(model_type: str) -> Family:
    """What is known of a model type; most have nothing of their own."""
    return FAMILIES.get(model_type, _UNKNOWN)


def register_family(model_type: str, family: Family) -> None:
    """Add what is known of a model type.

    Raises:
        ConversionError: the table has it already.
    """
    if model_type in FAMILIES:
        raise ConversionError(f"The table of families has {model_type!r} already.")
    FAMILIES[model_type] = family
