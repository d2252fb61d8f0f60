"""What a model computes from its config and does not save, rotary frequencies above all: is it what it should be?

Such buffers are filled once, when a model is made. Loading over empty shapes leaves them to chance where a family
forgets them, and casting a model rounds them; every vector is then off by a little or by much, and no weight is wrong.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from unmask.errors import ArtifactError

_STEPS = 8  # of rounding in a buffer's dtype by which it may differ; the same operations are done twice


def require_unsaved(model: Any, name: str) -> None:
    """Compare the buffers of a freshly loaded model that are in no file with what its config says.

    Each module that has any is filled anew, as transformers fills it while it loads, on a copy without weights: no
    second model is made. A module of frequencies that transformers does not know is made anew from its config.

    Args:
        model: of transformers; as it was.
        name: it was loaded by.

    Raises:
        ArtifactError: one differs, or rotary frequencies are in less than float32.
    """
    for place, module, owner in _modules(model, model, ""):
        own = [key for key in module._non_persistent_buffers_set if _compared(module._buffers.get(key))]
        if not own:
            continue
        anew = _hollow(module)
        owner._init_weights(anew)
        if any(anew._buffers[key].isnan().any() for key in own):  # type: ignore[union-attr]
            if next(module.parameters(), None) is not None or not hasattr(module, "config"):
                continue  # this family computes it elsewhere
            anew = type(module)(module.config)
        for key in own:
            _require_equal(module._buffers[key], anew._buffers[key], f"{place}.{key}".lstrip("."), name)


def _require_equal(held: Any, computed: Any, key: str, name: str) -> None:
    is_frequencies = key.endswith("inv_freq")
    if is_frequencies and held.dtype.itemsize < 4:
        raise ArtifactError(
            f"{name}: {key} is in {str(held.dtype).removeprefix('torch.')}, and rotary positions need float32; cast "
            "the weights alone, not the whole model."
        )
    computed = computed.to(held)
    near = _STEPS * torch.finfo(held.dtype).eps
    if held.shape != computed.shape or not torch.allclose(held, computed, rtol=near, atol=0):
        raise ArtifactError(
            f"{name}: {key}, which is in no file, was loaded as {_first(held)} and is {_first(computed)} by the "
            "config, so every vector would be wrong; load it with another version of transformers, or without a "
            "device map."
        )


def _modules(module: nn.Module, owner: Any, place: str) -> Iterator[tuple[str, nn.Module, Any]]:
    """Every module with its name and the model of transformers around it, whose family knows how to fill it."""
    owner = module if hasattr(module, "_init_weights") else owner
    yield place, module, owner
    for name, child in module.named_children():
        yield from _modules(child, owner, f"{place}.{name}")


def _compared(buffer: torch.Tensor | None) -> bool:
    return buffer is not None and buffer.is_floating_point() and not buffer.is_meta


def _hollow(module: nn.Module) -> nn.Module:
    """A copy whose weights are shapes alone and whose numbers are unknown: filling it changes nothing."""
    twin = copy.copy(module)
    twin._parameters = {
        name: None if weight is None else nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=False)
        for name, weight in module._parameters.items()
    }
    twin._buffers = {name: _unknown(buffer) for name, buffer in module._buffers.items()}
    twin._modules = {name: None if child is None else _hollow(child) for name, child in module._modules.items()}
    return twin


def _unknown(buffer: torch.Tensor | None) -> torch.Tensor | None:
    if buffer is None or not buffer.is_floating_point():
        return None if buffer is None else buffer.clone()
    return torch.full_like(buffer, torch.nan, dtype=torch.float32)


def _first(numbers: torch.Tensor) -> str:
    return f"[{', '.join(f'{number:.6g}' for number in numbers.flatten()[:3].tolist())}, ...]"
