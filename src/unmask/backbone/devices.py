"""Where a model runs and in which dtype it computes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Literal

import torch
from torch import nn

from unmask.backbone.fast.operators import multiplies_bf16_on_cpu
from unmask.backbone.locate import resolve_model
from unmask.backbone.structure import first_line
from unmask.errors import ArtifactError
from unmask.settings import Dtype


def saved_dtype(name: str, wanted: Dtype) -> torch.dtype:
    """The dtype asked for; `auto` is the one that the model's config names."""
    if wanted == "auto":
        from transformers import AutoConfig

        return getattr(AutoConfig.from_pretrained(resolve_model(name)), "dtype", None) or torch.float32
    return getattr(torch, wanted)


def multiplies_bf16(device: torch.device) -> bool:
    """True where bfloat16 products are fast; a CPU without instructions for them is slower by far than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return multiplies_bf16_on_cpu()


def precision_here(wanted: Literal["auto", "bf16", "fp32"]) -> Literal["bf16", "fp32"]:
    """The arithmetic asked for; `auto` is bfloat16 where the hardware multiplies it fast, else float32."""
    if wanted != "auto":
        return wanted
    return "bf16" if multiplies_bf16(default_device()) else "fp32"


def working_dtype(name: str, wanted: Dtype, device: torch.device) -> Dtype:
    """The dtype to compute in: as asked for; `auto` is as saved, but float32 on a CPU that has nothing shorter."""
    if wanted != "auto" or device.type != "cpu":
        return wanted
    short = saved_dtype(name, "auto") in (torch.bfloat16, torch.float16)
    return "float32" if short and not multiplies_bf16(device) else "auto"


def default_device() -> torch.device:
    """CUDA, Apple's GPU or the CPU, whichever is there first."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def checked_device(name: str | torch.device | None) -> torch.device:
    """The device of that name; by default the GPU if there is one.

    Raises:
        ArtifactError: there is no such device.
    """
    try:
        device = torch.device(name or default_device())
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ArtifactError(f"device {str(name)!r} is not available here ({first_line(error)}).") from error
    return device


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Change the dtype of what a model saves, in place.

    What transformers loads in float32 whatever is asked for (biases of routers, decays) is float32 here, too.
    """
    for tensor, wanted in _to_cast(model, dtype):
        tensor.data = tensor.data.to(wanted)


@contextmanager
def weights_in(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """A model whose weights are of another dtype for as long as the block lasts, and afterwards what they were.

    What is computed from the config and not saved (rotary frequencies) stays as it is: `model.to` would round it, and
    nothing would bring it back. Weights that the other dtype cannot hold exactly are kept beside it meanwhile.
    """
    before: list[tuple[torch.Tensor, torch.dtype, torch.Tensor | None]] = []
    for tensor, wanted in _to_cast(model, dtype):
        held, tensor.data = tensor.data, tensor.data.to(wanted)
        exact = torch.equal(tensor.data.to(held.dtype), held)
        before.append((tensor, held.dtype, None if exact else held))
    try:
        yield
    finally:
        for tensor, own, held_back in before:
            tensor.data = tensor.data.to(own) if held_back is None else held_back


def _to_cast(model: nn.Module, dtype: torch.dtype) -> Iterator[tuple[torch.Tensor, torch.dtype]]:
    """What a model saves in another dtype than it should, and that dtype."""
    held, kept = set(model.state_dict()), _kept_in_float32(model, dtype)
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        wanted = torch.float32 if kept is not None and kept.search(name) else dtype
        if name in held and tensor.is_floating_point() and tensor.dtype != wanted:
            yield tensor, wanted


def _kept_in_float32(model: nn.Module, dtype: torch.dtype) -> re.Pattern[str] | None:
    """Names of weights that a model's class keeps in float32 where the others are of another dtype."""
    keys = {torch.bfloat16: ("_strict",), torch.float16: ("_strict", "")}.get(dtype, ())
    names = {name for key in keys for name in getattr(model, f"_keep_in_fp32_modules{key}", None) or ()}
    return re.compile("|".join(sorted(names)).replace("*", ".*")) if names else None  # as transformers reads them
