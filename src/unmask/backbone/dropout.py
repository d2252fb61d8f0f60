"""Dropout for SimCSE's two views: where a decoder has it, and how to add it where it has none.

Decoders of today have attention dropout at most, read from different places by different families, so the settings
are made on the live modules and `views_differ` proves that two passes over one text are not alike.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from unmask.backbone.families import ATTENTION_NAMES, DROPOUT_KEYS
from unmask.backbone.fast.random_masks import drop_added
from unmask.backbone.forward import token_states
from unmask.backbone.structure import decoder_layers, evaluation_mode, first_tensor, text_config


@contextmanager
def attention_dropout(model: nn.Module, rate: float) -> Iterator[int]:
    """Dropout on attention weights at this rate for a while; gives the number of attention modules that took it.

    Config and modules get their own rates back at the end.
    """
    holders = _rates_of(text_config(model))
    in_config = len(holders)
    for layer in decoder_layers(model):
        for path, module in layer.named_modules():
            if any(part in path.lower() for part in ATTENTION_NAMES):
                holders += _rates_of(module)
    before = [(holder, name, getattr(holder, name)) for holder, name in holders]
    for holder, name in holders:
        setattr(holder, name, rate)
    try:
        yield len(holders) - in_config
    finally:
        for holder, name, value in before:
            setattr(holder, name, value)


def _rates_of(owner: object) -> list[tuple[object, str]]:
    """Where a config or an attention module keeps its rate: a number of its own, or in an nn.Dropout child."""
    found: list[tuple[object, str]] = []
    for name in DROPOUT_KEYS:
        current = getattr(owner, name, None)
        if isinstance(current, nn.Dropout):
            found.append((current, "p"))
        elif isinstance(current, float | int) and not isinstance(current, bool):
            found.append((owner, name))
    return found


@contextmanager
def hidden_dropout(model: nn.Module, rate: float) -> Iterator[None]:
    """Drop parts of what each layer adds to the residual stream, while the model is in training mode.

    Works for any family, because it only looks at a layer's input and output. Does nothing at a rate of 0.
    """

    def drop(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> object:
        if not module.training:
            return output
        before = args[0] if args else kwargs["hidden_states"]
        after = first_tensor(output)
        if after.device.type == "cpu":
            dropped = drop_added(before, after, rate)  # type: ignore[arg-type]
        else:
            dropped = before + nn.functional.dropout(after - before, rate)  # type: ignore[operator]
        return dropped if isinstance(output, torch.Tensor) else (dropped, *output[1:])  # type: ignore[index]

    with ExitStack() as hooks:
        for layer in decoder_layers(model) if rate else ():
            hooks.enter_context(layer.register_forward_hook(drop, with_kwargs=True))
        yield


def views_differ(model: nn.Module) -> bool:
    """True if two passes over the same tokens differ in training mode, by more than two in evaluation mode."""
    device = next(model.parameters()).device
    vocabulary = text_config(model).vocab_size
    ids = torch.randint(vocabulary // 2, vocabulary, (2, 8), generator=torch.Generator().manual_seed(0)).to(device)

    @torch.no_grad()
    def difference(training: bool) -> float:
        with evaluation_mode(model):
            model.train(training)
            first, second = (token_states(model, ids).float() for _ in range(2))
        return float((first - second).norm())

    return difference(True) > 10 * difference(False)
