"""Layers that keep less for the backward pass and compute it again there: all of it, or all but what products give."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import create_selective_checkpoint_contexts

from unmask.backbone.fast.varlen import keep_layout

_PRODUCTS = [
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
]
Contexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]


def compute_again(model: Any, *, keep_products: bool) -> None:
    """Let a model's layers keep what they were given and compute the rest again (Chen et al. 2016, arXiv 1604.06174).

    Args:
        model: the body, in place.
        keep_products: also keep what matrix products and attention gave, which leaves norms, gates and rotations to
            compute. Nothing may be added to a product in place, as adapters do.
    """
    contexts = _keep_products if keep_products else keep_layout
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False, "context_fn": contexts})


def _keep_products() -> Contexts:
    first, again = create_selective_checkpoint_contexts(_PRODUCTS)  # type: ignore[no-untyped-call]
    by_layout, again_by_layout = keep_layout()
    return _both(by_layout, first), _both(again_by_layout, again)


@contextmanager
def _both(one: AbstractContextManager[Any], other: AbstractContextManager[Any]) -> Iterator[None]:
    with one, other:
        yield
