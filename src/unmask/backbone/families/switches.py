"""The switches between causal and bidirectional attention, each kind can be found, set and restored; and windows.

Three kinds of switches turn attention (transformers >= 5.2): `config.is_causal`, from which the mask is built; the
attribute `is_causal` on the attention modules, which some families and the sdpa kernel consult when there is no mask;
and in the oldest families (GPT-Neo, GPT) a triangular buffer inside each attention module. A family may have more of
its own. Passing `is_causal=False` to `from_pretrained` is silently ignored, so all are set on the live objects.
Nothing here proves that a model obeys: that is `verify`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from unmask.backbone.families import PICK_KEYS, WINDOW_KEYS, Switch, facts
from unmask.backbone.structure import LIFTED_KEY, decoder_layers, decoder_modules, family, text_config
from unmask.errors import ConversionError
from unmask.settings import AttentionMode, Window

_WAS_CAUSAL = "_unmask_was_causal"
_TRIANGLES = "_unmask_triangles"
_BEFORE_LIFT = "_unmask_before_lift"
_LIMITS = (*WINDOW_KEYS, *PICK_KEYS)
_WIDE = 1 << 20  # tokens; a window of families that name no longest text


class ConfigFlag:
    """`is_causal` in the text config."""

    def find(self, model: nn.Module) -> bool:
        """Every config can have it."""
        return True

    def set(self, model: nn.Module) -> None:
        """False."""
        text_config(model).is_causal = False

    def restore(self, model: nn.Module) -> None:
        """True."""
        text_config(model).is_causal = True


class ModuleFlag:
    """`is_causal` on attention modules; only those that were True, because some encoders' are False by design."""

    def find(self, model: nn.Module) -> bool:
        """True if some module has the flag, or had it."""
        return any(_has_flag(module) for module in decoder_modules(model))

    def set(self, model: nn.Module) -> None:
        """False, and remember which."""
        for module in filter(_has_flag, decoder_modules(model)):
            setattr(module, _WAS_CAUSAL, True)
            module.is_causal = False  # type: ignore[assignment]

    def restore(self, model: nn.Module) -> None:
        """True where it was."""
        for module in filter(_has_flag, decoder_modules(model)):
            module.is_causal = True  # type: ignore[assignment]


class MaskBuffer:
    """Buffers of attention modules that hold a triangular mask."""

    def find(self, model: nn.Module) -> bool:
        """True if some module has such a buffer, or had it."""
        return any(getattr(m, _TRIANGLES, ()) or any(_triangles(m)) for m in decoder_modules(model))

    def set(self, model: nn.Module) -> None:
        """Mirror each at its diagonal, which keeps windows and makes them two-sided."""
        for module in decoder_modules(model):
            if triangles := list(_triangles(module)):
                setattr(module, _TRIANGLES, [*getattr(module, _TRIANGLES, ()), *triangles])
                for name in triangles:
                    buffer = module.get_buffer(name)
                    buffer.copy_(torch.maximum(buffer, buffer.transpose(-1, -2)))

    def restore(self, model: nn.Module) -> None:
        """The lower triangle of each."""
        for module in decoder_modules(model):
            for name in getattr(module, _TRIANGLES, ()):
                buffer = module.get_buffer(name)
                buffer.copy_(buffer.tril())


_ATTENTION: tuple[Switch, ...] = (ConfigFlag(), ModuleFlag(), MaskBuffer())


def attention_mode(model: nn.Module) -> AttentionMode:
    """What the config says; it may not be what the layers do."""
    return "causal" if getattr(text_config(model), "is_causal", True) else "bidirectional"


def set_attention_mode(model: nn.Module, mode: AttentionMode) -> None:
    """Set every switch, in place, on the config and on each attention module of the decoder layers."""
    decoder_layers(model)  # may refuse, and then nothing has been touched
    for switch in (*_ATTENTION, *facts(family(model)).switches):
        switch.restore(model) if mode == "causal" else switch.set(model)


def lift_windows(model: nn.Module) -> None:
    """Widen every window (and count of picked tokens) to the longest text, and turn chunked layers into full ones.

    In place, in the config, in modules that copied from it, and in masks. The kinds of the sliding layers stay, because
    families choose their rotary base by them (Gemma 3).
    """
    config = text_config(model)
    if getattr(config, LIFTED_KEY, None) is not None:
        return
    longest = getattr(config, "max_position_embeddings", None) or _WIDE
    before = {n: getattr(config, n) for n in _LIMITS if isinstance(getattr(config, n, None), int)}
    setattr(config, LIFTED_KEY, before)
    _set_limits(model, dict.fromkeys(before, longest))
    kinds = getattr(config, "layer_types", None) or ()
    if "chunked_attention" in kinds:
        before["layer_types"] = list(kinds)
        config.layer_types = ["full_attention" if kind == "chunked_attention" else kind for kind in kinds]
    for module in decoder_modules(model):
        buffers = {name: module.get_buffer(name) for name in getattr(module, _TRIANGLES, ())}
        if buffers:
            setattr(module, _BEFORE_LIFT, {name: buffer.clone() for name, buffer in buffers.items()})
        for buffer in buffers.values():
            buffer.fill_(1)


def restore_windows(model: nn.Module) -> None:
    """Undo `lift_windows`.

    Raises:
        ConversionError: the windows were part of buffers (GPT-Neo), which do not say any more where they ended.
    """
    config = text_config(model)
    before = getattr(config, LIFTED_KEY, None)
    if before is None:
        return
    with_masks = [module for module in decoder_modules(model) if hasattr(module, _TRIANGLES)]
    if any(not hasattr(module, _BEFORE_LIFT) for module in with_masks):
        raise ConversionError("The windows of this family lie in its masks and were lifted; load the base model again.")
    for module in with_masks:
        for name, buffer in module.__dict__.pop(_BEFORE_LIFT).items():
            module.get_buffer(name).copy_(buffer)
    _set_limits(model, before)
    delattr(config, LIFTED_KEY)


def has_limits(model: nn.Module) -> bool:
    """True if some layers look at part of a long text only: a window, a chunk, or tokens that they pick."""
    config = text_config(model)
    kinds = getattr(config, "layer_types", None) or ()
    longest = getattr(config, "max_position_embeddings", None) or _WIDE
    windows = min(getattr(config, name, None) or longest for name in WINDOW_KEYS)
    windowed = windows < longest and (not kinds or any("sliding" in kind for kind in kinds))
    picks = min(getattr(config, name, None) or longest for name in PICK_KEYS)
    return windowed or picks < longest or "chunked_attention" in kinds or hasattr(config, "compress_rates")


def window_mode(model: nn.Module) -> Window:
    """Whether windows were lifted, as the config says."""
    return "keep" if getattr(text_config(model), LIFTED_KEY, None) is None else "lift"


def _has_flag(module: nn.Module) -> bool:
    return getattr(module, "is_causal", None) is True or getattr(module, _WAS_CAUSAL, False)


def _set_limits(model: nn.Module, limits: dict[str, Any]) -> None:
    """Set what `lift_windows` changes, by name, in the config and in every module that has copied a size."""
    for name, value in limits.items():
        setattr(text_config(model), name, value)
        for module in decoder_modules(model):
            if isinstance(module.__dict__.get(name), int):
                setattr(module, name, value)


def _triangles(module: nn.Module) -> Iterator[str]:
    """Names of the module's buffers that hold a causal mask, [..., positions, positions]."""
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.dim() < 2 or not buffer.shape[-1] == buffer.shape[-2] > 1 or buffer.is_meta:
            continue
        ones = buffer == 1
        lower = bool(ones.diagonal(dim1=-2, dim2=-1).all()) and not bool(ones.triu(1).any())
        if lower and bool((ones | (buffer == 0)).all()):
            yield name
