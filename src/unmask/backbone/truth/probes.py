"""Measuring what depends on what: gradients through single layers, and states of padded against lone texts."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from unmask.backbone.forward import token_states
from unmask.backbone.structure import decoder_layers, first_tensor, text_config
from unmask.text.batching import PaddedBatch

LENGTH = 8  # tokens of the short probe; inside any sliding window
LONG = 48  # of the long one; beyond the windows and chunks of a tiny model


@dataclass(frozen=True, slots=True)
class Case:
    """One way to feed a batch: `rows` texts, padded on a side or not at all."""

    rows: int
    padding: str

    def __str__(self) -> str:
        count = "one" if self.rows == 1 else "many"
        return f"{count} {'unpadded' if self.padding == 'none' else 'padded ' + self.padding}"

    @property
    def short(self) -> str:
        """Column heading."""
        return ("1" if self.rows == 1 else "n") + ("" if self.padding == "none" else " " + self.padding)


CASES = tuple(Case(rows, padding) for padding in ("none", "left", "right") for rows in (1, 3))


def probe_batch(model: nn.Module, case: Case) -> PaddedBatch:
    """Random ids in rows of unlike length, padded as the case says; every row spans LENGTH tokens with its padding."""
    cuts = [0 if case.padding == "none" else 2 + row % 2 for row in range(case.rows)]
    return _padded(model, [LENGTH - cut for cut in cuts], LENGTH, case.padding)


def _padded(model: nn.Module, lengths: list[int], width: int, side: str) -> PaddedBatch:
    """Random texts of the given lengths in rows of `width` tokens; a text is the same whatever its padding."""
    vocabulary = text_config(model).vocab_size
    low = min(16, vocabulary // 2)  # above the usual special tokens
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(low, vocabulary, (len(lengths), width), generator=generator)
    ids, mask = source.clone(), torch.zeros_like(source)
    for row, length in enumerate(lengths):
        place = slice(width - length, width) if side == "left" else slice(0, length)
        ids[row, place] = source[row, :length]
        mask[row, place] = 1
    device = next(model.parameters()).device
    return PaddedBatch(ids, mask, mask.bool()).to(device)


def layer_gradients(model: nn.Module, batch: PaddedBatch, at: torch.Tensor | None = None) -> list[torch.Tensor]:
    """d(output at one token of each row) / d(layer input), one [rows, tokens, width] tensor a layer.

    Every layer is cut loose from the one before it, so a gradient speaks of that layer alone. The output is
    projected on a fixed random direction, because a plain sum is constant behind some norms.

    Args:
        model: with or without a head.
        batch: what to feed.
        at: the token of each row, [rows]; by default the first that is not padding.
    """
    at = batch.attention_mask.bool().int().argmax(dim=1) if at is None else at
    rows = torch.arange(len(at), device=at.device)
    gradients: dict[int, torch.Tensor] = {}

    def measure(layer: int, given: torch.Tensor, output: torch.Tensor) -> None:
        if not output.requires_grad:  # some families run a stack several times, and the first times without gradient
            return
        target = project(_rows_first(output, batch)[rows, at], seed=layer).sum()
        (gradient,) = torch.autograd.grad(target, given, allow_unused=True)
        gradients[layer] = _rows_first(torch.zeros_like(given) if gradient is None else gradient, batch)

    layers = decoder_layers(model)
    with torch.enable_grad(), each_layer_alone(layers, measure):
        token_states(model, batch.input_ids, batch.attention_mask, batch.position_ids)
    if len(gradients) != len(layers):
        raise ValueError(f"{len(layers) - len(gradients)} of {len(layers)} layers hide their gradients")
    return [gradients[layer] for layer in sorted(gradients)]


def _rows_first(states: torch.Tensor, batch: PaddedBatch) -> torch.Tensor:
    """States of a layer as [rows, tokens, width]; some families carry several streams (Gemma 3n, DeepSeek-V4)."""
    rows, tokens = batch.input_ids.shape
    for place in range(states.dim() - 1):
        if states.shape[place : place + 2] == (rows, tokens):
            return states.movedim((place, place + 1), (0, 1)).flatten(2)
    raise ValueError(f"layers pass states of shape {tuple(states.shape)} for {rows} texts of {tokens} tokens")


def project(states: torch.Tensor, *, seed: int) -> torch.Tensor:
    """States [..., width] on a fixed random direction, [...]."""
    generator = torch.Generator().manual_seed(seed)
    return (states * torch.randn(states.shape[-1], generator=generator).to(states)).sum(dim=-1)


@contextmanager
def each_layer_alone(
    layers: list[nn.Module], measure: Callable[[int, torch.Tensor, torch.Tensor], None]
) -> Iterator[None]:
    """Hooks that give each layer a fresh leaf as its input, and its number, input and output to `measure`.

    What a layer passes on is cut from its graph, so that no more than one layer's graph (and weights, of a model that
    is read from disk layer by layer) is ever held.
    """
    inputs: dict[int, torch.Tensor] = {}

    def before(index: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        inputs[index] = hidden.detach().requires_grad_(True)
        fresh = inputs[index].clone()  # some layers write in place, which a leaf does not allow
        return ((fresh, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": fresh})

    def after(index: int, _: nn.Module, __: Any, output: Any) -> Any:
        measure(index, inputs.pop(index), first_tensor(output))
        if isinstance(output, torch.Tensor):
            return output.detach()
        return type(output)([output[0].detach(), *output[1:]]) if type(output) in (tuple, list) else None

    with ExitStack() as hooks:
        for index, layer in enumerate(layers):
            hooks.enter_context(layer.register_forward_pre_hook(partial(before, index), with_kwargs=True))
            hooks.enter_context(layer.register_forward_hook(partial(after, index)))
        yield


def layer_reach(model: nn.Module, tokens: int = LONG, at: int = LONG // 2) -> list[tuple[int, int]]:
    """How many tokens back and ahead each layer looks from one token of a text; 0 if it is an MLP alone."""
    batch = _padded(model, [tokens], tokens, "none")
    reach = []
    for gradient in layer_gradients(model, batch, torch.tensor([at], device=batch.input_ids.device)):
        seen = gradient[0].abs().amax(dim=-1).nonzero().squeeze(1).tolist() or [at]
        reach.append((at - min(seen), max(seen) - at))
    return reach


@torch.no_grad()
def alone_states(model: nn.Module) -> list[torch.Tensor]:
    """States [1, tokens, width] of three texts, a long one, one within windows and a short one, each by itself."""
    lengths = _lengths(model)
    batch = _padded(model, lengths, lengths[0], "right")
    inputs = (batch.input_ids, batch.attention_mask, batch.position_ids)
    return [token_states(model, *(x[row, None, :length] for x in inputs)) for row, length in enumerate(lengths)]


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """How far states are from others, relative to the size of these (Frobenius norms); 1 where they are not finite."""
    change = (found.float() - expected.float()).norm() / expected.float().norm()
    return float(change.nan_to_num(1.0))


def _lengths(model: nn.Module) -> list[int]:
    longest = min(LONG, int(getattr(text_config(model), "max_position_embeddings", None) or LONG))
    return [longest, longest * 2 // 3 - 1, LENGTH - 1]


@torch.no_grad()
def padding_shift(model: nn.Module) -> float:
    """How far padding moves a text's states, relative to their size: 0 up to rounding."""
    lengths = _lengths(model)
    alone = alone_states(model)
    shift = 0.0
    for side in ("left", "right"):
        batch = _padded(model, lengths, lengths[0], side)
        states = token_states(model, batch.input_ids, batch.attention_mask, batch.position_ids)
        for row, expected in enumerate(alone):
            shift = max(shift, distance(states[row, batch.attention_mask[row].bool()], expected[0]))
    return shift
