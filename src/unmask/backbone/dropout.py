"""Dropout for SimCSE's two views: where a decoder has it, and how to add it where it has none.

Decoders of today have attention dropout at most, read from different places by different families, so the settings
are made on the live modules and `views_differ` proves that two passes over one text are not alike.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from unmask.backbone.families import ATTENTION_NAMES, DROPOUT_KEYS
from unmask.backbone.forward import token_states
from unmask.backbone.structure import decoder_layers, evaluation_mode, first_tensor, text_config


@contextmanager
def attention_dropout(model: nn.Module, rate: float) -> Iterator[int]:
    """Dropout on attention weights at this rate for a while; gives the number of attention modules that took it.

    Config and modules get their own rates back at the end.
    """
    holders: list[tuple[object, str, float]] = []
    config = text_config(model)
    for name in DROPOUT_KEYS:
        if _is_rate(getattr(config, name, None)):
            holders.append((config, name, rate))
    in_config = len(holders)
    for layer in decoder_layers(model):
        for path, module in layer.named_modules():
            if any(part in path.lower() for part in ATTENTION_NAMES):
                holders += _rates_of(module, rate)
    before = [(holder, name, getattr(holder, name)) for holder, name, _ in holders]
    for holder, name, value in holders:
        setattr(holder, name, value)
    try:
        yield len(holders) - in_config
    finally:
        for holder, name, value in before:
            setattr(holder, name, value)


def _rates_of(module: nn.Module, rate: float) -> list[tuple[object, str, float]]:
    """Where one attention module keeps its rate: a number of its own, or in an nn.Dropout child."""
    found: list[tuple[object, str, float]] = []
    for name in DROPOUT_KEYS:
        current = getattr(module, name, None)
        if isinstance(current, nn.Dropout):
            found.append((current, "p", rate))
        elif _is_rate(current):
            found.append((module, name, rate))
    return found


def _is_rate(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


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
        dropped = before + nn.functional.dropout(after - before, rate)  # type: ignore[operator]
        return dropped if isinstance(output, torch.Tensor) else (dropped, *output[1:])  # type: ignore[index]

    layers = decoder_layers(model) if rate else []
    handles = [layer.register_forward_hook(drop, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
