"""Layers that are not attention: recurrences and convolutions that read left to right whatever the mask says.

Hybrids (Qwen3-Next, Jamba, LFM2 ...) and recurrent models (Mamba, RWKV ...) have mixers that no mask can turn. Two
things can be done with them. `forward`: each text is given to the mixer alone and from its own first token, so that
neither padding nor a neighbour in a packed row leaks into it; it still reads one way. `two-way`: it reads the text and
the reversed text, and the mean of both is used, so that every layer sees both sides.

Which modules those are is not looked up but measured, on the model at hand: a module is one-sided if its output at the
last token depends on its input at the first, and not the other way round.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import signature
from types import MethodType
from typing import Any

import torch
from torch import nn

from unmask.backbone.forward import token_states
from unmask.backbone.structure import RECURRENT_KEY, body, decoder_layers, evaluation_mode, first_tensor, text_config
from unmask.backbone.truth.probes import LENGTH, each_layer_alone
from unmask.settings import Recurrent

_READING = "_unmask_reading"
_OWN = "_unmask_had_own_forward"
_PLAIN = "_unmask_plain_forward"
_HOOK = "_unmask_reading_hook"
_CHECKPOINT = "_gradient_checkpointing_func"
_POINTWISE = (nn.Linear, nn.Embedding, nn.Dropout, nn.LayerNorm, nn.ModuleList)


@dataclass(eq=False)
class _Layout:
    """Where the texts of a batch lie: flat token positions, one row a text, left-aligned.

    Attributes:
        index: [texts, longest] positions in the flattened batch; anything where `real` is False.
        reverse: the same with each text back to front.
        real: [texts, longest].
    """

    index: torch.Tensor
    reverse: torch.Tensor
    real: torch.Tensor


class _Reading:
    """What the mixers of one model share: how they read, and the layout of the batch that is under way."""

    def __init__(self, mode: Recurrent, layers: Sequence[nn.Module]) -> None:
        self.mode = mode
        self.layers = layers
        self.layout: _Layout | None = None  # None: every row is one text without padding

    def look(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the body: take the layout from the attention mask."""
        mask = kwargs.get("attention_mask")
        if mask is None and len(args) > 1 and isinstance(args[1], torch.Tensor):
            mask = args[1]
        self.layout = None if mask is None else _layout(_pieces(mask))
        for layer in self.layers:
            self.keep_for_recomputing(layer)

    def keep_for_recomputing(self, layer: nn.Module) -> None:
        """Let a checkpointed layer, run again in the backward pass, find the layout of its own forward pass."""
        func = getattr(layer, _CHECKPOINT, None)
        if func is None or getattr(func, _READING, None) is self:
            return

        def checkpoint(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            layout = self.layout

            def run_with_layout(*inputs: Any) -> Any:
                self.layout = layout
                return run(*inputs)

            return func(run_with_layout, *args, **kwargs)

        setattr(checkpoint, _READING, self)
        setattr(checkpoint, _PLAIN, func)
        setattr(layer, _CHECKPOINT, checkpoint)


def recurrent_mode(model: nn.Module) -> Recurrent | None:
    """How a converted model's one-sided mixers read, as its config says; None for models without any."""
    saved = getattr(text_config(model), RECURRENT_KEY, None)
    return saved["mode"] if saved else None


def installed_mixers(model: nn.Module) -> list[str]:
    """Names of the modules that `install_reading` was given."""
    saved = getattr(text_config(model), RECURRENT_KEY, None)
    return list(saved["mixers"]) if saved else []


def layers_with(model: nn.Module, mixers: list[str]) -> set[int]:
    """Numbers of the layers that hold one of the named modules."""
    modules = {body(model).get_submodule(name) for name in mixers}
    return {number for number, layer in enumerate(decoder_layers(model)) if modules & set(layer.modules())}


def install_reading(model: nn.Module, mixers: list[str], mode: Recurrent) -> None:
    """Make the named mixers read texts alone, forward or two-way, and note it in the config.

    Args:
        model: in place.
        mixers: module names within the body, as `one_sided_mixers` gives them.
        mode: forward or two-way.
    """
    remove_reading(model)
    reading = _Reading(mode, decoder_layers(model))
    decoder = body(model)
    hook = decoder.register_forward_pre_hook(reading.look, with_kwargs=True)
    for name in mixers:
        mixer = decoder.get_submodule(name)
        setattr(mixer, _READING, reading)
        setattr(mixer, _PLAIN, mixer.forward)
        setattr(mixer, _OWN, "forward" in mixer.__dict__)  # of a library that moves weights, for example
        mixer.forward = MethodType(_read, mixer)  # type: ignore[method-assign]
    setattr(text_config(model), RECURRENT_KEY, {"mode": mode, "mixers": mixers})
    decoder.__dict__[_HOOK] = hook


def restore_reading(model: nn.Module) -> None:
    """Install on a freshly loaded model what its config says."""
    saved = getattr(text_config(model), RECURRENT_KEY, None)
    if saved and _HOOK not in body(model).__dict__:
        install_reading(model, saved["mixers"], saved["mode"])


def remove_reading(model: nn.Module) -> None:
    """Undo `install_reading`."""
    decoder = body(model)
    hook = decoder.__dict__.pop(_HOOK, None)
    if hook is not None:
        hook.remove()
    for module in decoder.modules():
        if module.__dict__.pop(_READING, None) is not None:
            plain, own = module.__dict__.pop(_PLAIN), module.__dict__.pop(_OWN)
            del module.forward
            if own:
                module.forward = plain
    for layer in decoder_layers(model):
        func = layer.__dict__.get(_CHECKPOINT)
        if hasattr(func, _READING):
            setattr(layer, _CHECKPOINT, getattr(func, _PLAIN))
    if recurrent_mode(model) is not None:
        delattr(text_config(model), RECURRENT_KEY)


def one_sided_mixers(model: nn.Module) -> list[str]:
    """Names (in the body) of the outermost modules inside layers that pass on the past but not the future.

    Measured by gradients on one text of eight tokens, each module alone, in the attention backend in use.
    """
    decoder = body(model)
    names = {module: name for name, module in decoder.named_modules()}
    layers = decoder_layers(model)
    turned = [m for m in decoder.modules() if hasattr(m, _READING) and getattr(m, _READING).mode == "two-way"]
    inside = {child for m in turned for child in m.modules() if child is not m}
    candidates = {
        *(m for layer in layers for m in layer.modules() if m is not layer and not isinstance(m, _POINTWISE))
    } - inside
    config, device = text_config(model), next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size // 2, config.vocab_size, (1, LENGTH), generator=generator).to(device)
    with evaluation_mode(model), torch.enable_grad(), _added_leaves([*candidates]) as calls:
        one_sided: set[nn.Module] = set()

        def measure(*_: Any) -> None:
            one_sided.update(m for m, (leaf, output) in calls.items() if _is_one_sided(leaf, output))
            calls.clear()

        with each_layer_alone(layers, measure):
            token_states(model, ids, torch.ones_like(ids), torch.arange(LENGTH, device=device)[None])
    inner = {child for m in one_sided for child in m.modules() if child is not m}
    return sorted(names[m] for m in one_sided - inner)


@contextmanager
def _added_leaves(modules: list[nn.Module]) -> Iterator[dict[nn.Module, tuple[torch.Tensor, torch.Tensor]]]:
    """Hooks that add zeros to each module's states, and keep the zeros and the output: its own dependence.

    Adding cuts nothing, so a module within a module does not hide what the outer one does.
    """
    calls: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}
    leaves: dict[nn.Module, torch.Tensor] = {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place = _hidden_place(args, kwargs)
        if place is None:
            return None
        hidden = args[place] if isinstance(place, int) else kwargs[place]
        leaves[module] = torch.zeros_like(hidden, requires_grad=True)
        fresh = hidden + leaves[module]
        if isinstance(place, int):
            return (*args[:place], fresh, *args[place + 1 :]), kwargs
        return args, kwargs | {place: fresh}

    def after(module: nn.Module, _: Any, output: Any) -> None:
        leaf = leaves.pop(module, None)
        if leaf is None or not isinstance(output, torch.Tensor | tuple):
            return
        found = first_tensor(output)
        if isinstance(found, torch.Tensor) and found.requires_grad and found.shape[:2] == leaf.shape[:2]:
            calls[module] = (leaf, found)

    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_pre_hook(before, with_kwargs=True))
            hooks.enter_context(module.register_forward_hook(after))
        yield calls


def _hidden_place(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | str | None:
    """Which argument carries the states: the first floating-point tensor of three dimensions."""
    places: tuple[tuple[int | str, Any], ...] = (*enumerate(args), *kwargs.items())
    for place, value in places:
        if isinstance(value, torch.Tensor) and value.dim() == 3 and value.is_floating_point():
            return place
    return None


def _is_one_sided(given: torch.Tensor, output: torch.Tensor) -> bool:
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(output.shape[2:], generator=generator).to(output)

    def depends(at: int, on: int) -> bool:
        target = (output[0, at] * direction).sum()
        (gradient,) = torch.autograd.grad(target, given, retain_graph=True, allow_unused=True)
        return gradient is not None and bool((gradient[0, on] != 0).any())

    # The neighbour is enough for a convolution, whose reach may be shorter than the text.
    return (depends(-1, 0) or depends(-1, -2)) and not (depends(0, -1) or depends(0, 1))


def _pieces(mask: torch.Tensor) -> torch.Tensor | None:
    """Number of the text each token belongs to, 0 on padding, [rows, tokens]; None if rows are whole texts."""
    if mask.dim() == 4:  # a prepared mask of packed rows: tokens of one text see the same first token
        allowed = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] >= 0
        return allowed.int().argmax(dim=-1) + 1
    return None if bool(mask.all()) else (mask != 0).long()


def _layout(pieces: torch.Tensor | None) -> _Layout | None:
    if pieces is None:
        return None
    rows, tokens = pieces.shape
    row = torch.arange(rows, device=pieces.device)[:, None]
    flat = (pieces + row * (tokens + 1)).masked_fill(pieces == 0, 0).flatten()  # unlike numbers in unlike rows
    places = flat.nonzero().squeeze(1)
    _, which, lengths = torch.unique(flat[places], return_inverse=True, return_counts=True)
    order = torch.sort(which, stable=True).indices
    longest = int(lengths.max())
    column = torch.arange(longest, device=pieces.device)[None]
    real = column < lengths[:, None]
    index = torch.zeros(real.shape, dtype=torch.long, device=pieces.device)
    index[real] = places[order]
    reverse = index.gather(1, (lengths[:, None] - 1 - column).clamp(min=0))
    return _Layout(index, reverse, real)


def _read(self: Any, *args: Any, **kwargs: Any) -> Any:
    """The forward pass of a one-sided mixer: each text alone, left-aligned, in one direction or in both."""
    reading: _Reading = getattr(self, _READING)
    plain = getattr(self, _PLAIN)
    both = reading.mode == "two-way"
    place = _hidden_place(args, kwargs)
    if place is None or (reading.layout is None and not both):
        return plain(*args, **kwargs)
    hidden = args[place] if isinstance(place, int) else kwargs[place]
    rows, tokens = hidden.shape[:2]
    layout = reading.layout or _whole_rows(rows, tokens, hidden.device)
    index = torch.cat([layout.index, layout.reverse]) if both else layout.index
    real = torch.cat([layout.real, layout.real]) if both else layout.real

    def arrange(name: str, value: Any) -> Any:
        if "mask" in name and not isinstance(value, tuple):
            return None if value is None or bool(real.all()) else real.to(value.dtype)
        if "position_ids" in name and value is not None:
            return torch.arange(index.shape[1], device=index.device).expand_as(index)
        if isinstance(value, tuple):
            return tuple(arrange(name, part) for part in value)
        if not isinstance(value, torch.Tensor) or value.dim() < 2 or value.shape[1] != tokens:
            return value
        states = value.expand(rows, *value.shape[1:]).reshape(rows * tokens, *value.shape[2:])[index]
        return states * real.view(*real.shape, *[1] * (states.dim() - 2)).to(states.dtype)  # zero on padding

    def restore(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.shape[:2] != index.shape:
            return value
        count = len(layout.index)
        flat = value.new_zeros(rows * tokens, *value.shape[2:])
        flat[layout.index[layout.real]] = value[:count][layout.real]
        if both:
            back = torch.zeros_like(flat)
            back[layout.reverse[layout.real]] = value[count:][layout.real]
            flat = (flat + back) / 2
        return flat.reshape(rows, tokens, *value.shape[2:])

    names = signature(plain).parameters
    output = plain(
        *[arrange(name, value) for name, value in zip(names, args, strict=False)],
        **{name: arrange(name, value) for name, value in kwargs.items()},
    )
    return tuple(restore(part) for part in output) if isinstance(output, tuple) else restore(output)


def _whole_rows(rows: int, tokens: int, device: torch.device) -> _Layout:
    index = torch.arange(rows * tokens, device=device).reshape(rows, tokens)
    return _Layout(index, index.flip(1), torch.ones_like(index, dtype=torch.bool))
