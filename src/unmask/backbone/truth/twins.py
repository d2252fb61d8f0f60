"""The same architecture, tiny: from any text config to a random model of it that fits a unit test.

Widths, head counts, experts and vocabulary shrink; what decides who sees whom stays: the kinds of layers, windows,
chunks, how positions are given, how many key heads share a query. That is what `verify --config-only` needs, and what
the sweep over all families is built from.
"""

from typing import Any

import torch
import transformers

from unmask.backbone.families import facts
from unmask.backbone.families.sizes import LAYER_COUNTS, LAYER_KINDS, SHARED_HEADS, SMALL
from unmask.backbone.structure import LIFTED_KEY, RECURRENT_KEY

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
    total = next((values[name] for name in LAYER_COUNTS if isinstance(values.get(name), int)), 1)
    known = facts(str(values.get("model_type")))
    keep = min(total, layers or max(known.twin_layers, _layers_to_keep(values, total)))
    small = _shrink(values, total, keep)
    if {"expand", "num_heads", "head_dim"} <= set(values):  # Mamba-2 ties the three together
        small["num_heads"] = small["hidden_size"] * values["expand"] // small["head_dim"]
    parts = ("qk_nope_head_dim", "qk_rope_head_dim")
    if all(values.get(name) for name in parts) and values.get("head_dim") == sum(values[name] for name in parts):
        small["head_dim"] = sum(small[name] for name in parts)  # Dots 3 refuses anything else
    small |= {**known.twin, **overrides}
    for name in ("model_type", "transformers_version", "architectures", "dtype", "layer_types"):
        if name != "layer_types" or small.get(name) is None:
            small.pop(name, None)
    return type(config)(**small)


def tiny_model(config: Any, *, head: bool = False, seed: int = 0) -> Any:
    """A random float32 model of a (tiny) config, in evaluation mode; the same seed gives the same weights."""
    auto = transformers.AutoModelForCausalLM if head else transformers.AutoModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return auto.from_config(config, dtype=torch.float32).eval()


def _layers_to_keep(values: dict[str, Any], total: int) -> int:
    """The shortest prefix of the layers with every kind in it."""
    needed = [_FEWEST_LAYERS]
    for name in LAYER_KINDS:
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
        if name in LAYER_COUNTS:
            small[name] = keep
        elif isinstance(value, list) and len(value) == total:
            small[name] = value[:keep]
        elif isinstance(value, dict):
            small[name] = _shrink_group(name, value, total, keep)
        elif not isinstance(value, int) or isinstance(value, bool) or value < 0:
            small[name] = value
        elif name in SHARED_HEADS:
            others = values.get(SHARED_HEADS[name])
            small[name] = _few(value) if value == others else min(value, 2)
        elif SMALL.get(name) == 4:
            small[name] = _few(value)
        elif name == "attention_hidden_size":  # Zamba attends in twice the width
            small[name] = 64 * value // int(values["hidden_size"])
        else:
            small[name] = min(value, SMALL.get(name, value))
    return small


def _shrink_group(name: str, value: dict[str, Any], total: int, keep: int) -> dict[str, Any]:
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
