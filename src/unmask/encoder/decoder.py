"""The way back: an encoder's model as the causal language model that its base was, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from unmask.backbone.loading import load_model
from unmask.backbone.structure import replace_body
from unmask.backbone.truth.opening import as_causal


@contextmanager
def causal_decoder(model: Any, base: str, adapter: Any | None) -> Iterator[Any]:
    """The base's head on an encoder's body, adapters switched off; see `TextEncoder.as_decoder`."""
    device = next(model.parameters()).device
    causal_lm = load_model(base, head=True, device=device).to(model.dtype)
    try:
        with as_causal(model), adapter.disable_adapter() if adapter else nullcontext():
            replace_body(causal_lm, model)
            yield causal_lm
    finally:
        if adapter:
            model.requires_grad_(False)  # peft turns its weights' gradients on again
