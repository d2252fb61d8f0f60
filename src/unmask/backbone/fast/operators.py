"""Torch's private operators, and what its versions spell differently, looked up one by one.

Nothing else in the package names them. Where a torch has renamed one, its path is not available: it is None, and the
log says so once.
"""

import inspect
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from unmask.errors import ArtifactError

logger = logging.getLogger(__name__)


@cache
def find(path: str) -> Any | None:
    """What a path such as `torch.ops.mkldnn._linear_pointwise` leads to; None if this torch has no such thing."""
    found: Any = torch
    try:
        for name in path.split(".")[1:]:
            found = getattr(found, name)
    except (AttributeError, RuntimeError):
        logger.info("This torch (%s) has no %s; what needs it is done the plain way.", torch.__version__, path)
        return None
    return found


def knows_bf16_on_cpu() -> bool:
    """True where oneDNN has kernels for bfloat16 products on this CPU."""
    supported = find("torch.ops.mkldnn._is_mkldnn_bf16_supported")
    return torch.backends.mkldnn.is_available() and supported is not None and bool(supported())


def has_amx() -> bool:
    """True where this CPU multiplies matrices in hardware."""
    supported = find("torch.cpu._is_amx_tile_supported")
    return supported is not None and bool(supported())


@cache
def multiplies_bf16_on_cpu() -> bool:
    """True where bfloat16 products are faster than float32 ones on this CPU.

    Measured once, in about 50 ms: there are processors whose bfloat16 instructions take twice as long as float32's. On
    one thread, because of several one may find its core busy.
    """
    if not knows_bf16_on_cpu():
        return False
    pairs = [(torch.ones(256, 512, dtype=d), torch.ones(1024, 512, dtype=d)) for d in (torch.bfloat16, torch.float32)]
    seconds = [math.inf, math.inf]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(8):  # by turns, and the best of each: other work comes and goes
            for number, (rows, weight) in enumerate(pairs):
                started = time.perf_counter()
                torch.nn.functional.linear(rows, weight)
                seconds[number] = min(seconds[number], time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return seconds[0] < seconds[1]


@cache
def packed_product() -> tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]] | None:
    """OneDNN's own layout of a linear weight, (weight, rows) -> copy, and the product by such a copy."""
    if not torch.backends.mkldnn.is_available():
        return None
    reorder = find("torch.ops.mkldnn._reorder_linear_weight")
    product = find("torch.ops.mkldnn._linear_pointwise.default")
    return None if reorder is None or product is None else (reorder, product)


@dataclass(frozen=True, slots=True)
class VarlenAttention:
    """Torch's variable-length FlashAttention in one form; each version since 2.10 has given it other arguments.

    Attributes:
        function: `torch.nn.attention.varlen.varlen_attn`.
        names: of its arguments.
    """

    function: Callable[..., Any]
    names: frozenset[str]

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "VarlenAttention":
        """Know a version by the names of its arguments."""
        return cls(function, frozenset(inspect.signature(function).parameters))

    @property
    def knows_windows(self) -> bool:
        """False in torch 2.10, which can only look at all of a text or at what came before."""
        return "window_size" in self.names

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        ends: torch.Tensor,
        longest: int,
        *,
        scale: float | None = None,
        window: tuple[int, int] = (-1, -1),
    ) -> torch.Tensor:
        """Attention of each text of a row to itself.

        Args:
            query: [tokens, heads, width of a head], in sixteen bits on a GPU.
            key: [tokens, key heads, width]; heads may share one.
            value: as key.
            ends: 0 and where each text ends, int32 [texts + 1].
            longest: tokens of the longest text.
            scale: factor on the products; 1/sqrt(width) if None.
            window: how many tokens back and ahead a token sees; -1 for all, so that (-1, 0) is causal.

        Returns:
            [tokens, heads, width].
        """
        options: dict[str, Any] = {}
        if self.knows_windows:
            options["window_size"] = window
        else:
            options["is_causal"] = window == (-1, 0)
        shared = query.shape[1] // key.shape[1]
        if "enable_gqa" in self.names:
            options["enable_gqa"] = shared > 1
        elif shared > 1:  # before torch 2.12 as many key heads as heads are asked for
            key, value = (x.repeat_interleave(shared, dim=1) for x in (key, value))
        if "scale" in self.names:
            options["scale"] = scale
        elif scale is not None:
            query = query * (scale * query.shape[2] ** 0.5)
        attended: torch.Tensor = self.function(query, key, value, ends, ends, longest, longest, **options)
        return attended


@cache
def varlen_attention() -> VarlenAttention | None:
    """Torch's variable-length FlashAttention; None where torch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return VarlenAttention.of(varlen_attn)


def sizes_stay_apart() -> AbstractContextManager[Any]:
    """While compiling: two sizes that happen to be equal in the first batch are not taken for one."""
    try:
        from torch.fx.experimental import _config
    except ImportError:
        return nullcontext()
    return _config.patch(use_duck_shape=False)  # type: ignore[attr-defined]


def compile_errors() -> tuple[type[Exception], ...]:
    """What torch.compile raises where it cannot compile."""
    known = find("torch._dynamo.exc.TorchDynamoException")
    return (known,) if isinstance(known, type) else (RuntimeError,)


def has_compiler(device: torch.device) -> bool:
    """What torch compiles for a CPU with."""
    names = [os.environ.get("CXX", "g++"), "g++", "clang++"]
    return device.type != "cpu" or any(shutil.which(name) for name in names)


def compiler_cache() -> Path | None:
    """The folder where torch keeps what it has compiled; None if there is none to be had."""
    try:
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        return Path(cache_dir())
    except (ImportError, OSError):
        return None


def is_fake(tensor: torch.Tensor) -> bool:
    """True for tensors that have a shape and no data, as those that memory is estimated with."""
    kind = find("torch._subclasses.FakeTensor")
    return kind is not None and isinstance(tensor, kind)


def fake_tensors() -> AbstractContextManager[Any]:
    """Inside, new tensors have a shape and no data.

    Raises:
        ArtifactError: this torch has no such mode.
    """
    mode = find("torch._subclasses.fake_tensor.FakeTensorMode")
    if mode is None:
        raise ArtifactError(
            f"torch {torch.__version__} cannot run a model without its weights, so nothing is estimated."
        )
    return mode()


def define(
    schema: str,
    function: Callable[..., Any],
    shape_only: Callable[..., Any],
    kinds: Sequence[str],
    *,
    random: bool = False,
    backward: tuple[Callable[..., None], Callable[..., Any]] | None = None,
) -> None:
    """Make a function one opaque step of compiled layers: `torch.ops.unmask.NAME`.

    Without the wrapper of `torch.library.custom_op`, which takes longer than a product. What torch keeps compiled on
    disk knows a step by its schema alone: give it another name where shape or backward pass change.

    Args:
        schema: name, arguments and results.
        function: what it does.
        shape_only: the same on tensors without data.
        kinds: of devices.
        random: each call gives something else.
        backward: what is kept (context, inputs, output), and gradients of the inputs (context, gradients).
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.nondeterministic_seeded,) if random else ())
    for kind in kinds:
        _LIBRARY.impl(name, function, kind)
    torch.library.register_fake(f"unmask::{name}", shape_only)
    if backward is not None:
        keep, gradients = backward
        torch.library.register_autograd(f"unmask::{name}", gradients, setup_context=keep, lib=_LIBRARY)


_LIBRARY = torch.library.Library("unmask", "FRAGMENT")
