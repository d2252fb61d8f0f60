"""What each layer can see, proven by gradients.

For every decoder layer alone: the gradient of its output at a text's first token with respect to its input at the
text's last token. Zero means the layer reads left to right, whatever the config says. Measured for a batch of one
and of several, unpadded, padded left and padded right, in each attention backend, because families are known that
turn in one of these cases and not in another. The gradient with respect to padding must be exactly zero.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from unmask.backbone.structure import decoder_layers, family, first_tensor, text_config, token_states
from unmask.text.batching import PaddedBatch

BACKENDS = ("eager", "sdpa")
_LENGTH = 8  # tokens; short enough to lie inside any sliding window


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


@dataclass(slots=True)
class LayerCheck:
    """One layer in one backend.

    Attributes:
        layer: index from 0.
        mixer: class name of the layer's attention (or other sequence-mixing) module.
        backend: attention implementation it ran in.
        sees_future: case -> whether the first token depends on the last.
        sees_padding: case -> whether any text token depends on padding.
    """

    layer: int
    mixer: str
    backend: str
    sees_future: dict[str, bool] = field(default_factory=dict)
    sees_padding: dict[str, bool] = field(default_factory=dict)

    @property
    def bidirectional(self) -> bool:
        """True if the layer sees the future in every case and padding in none."""
        return all(self.sees_future.values()) and not any(self.sees_padding.values())

    def reason(self) -> str:
        """Why the layer does not pass, in words; empty if it does."""
        blind = [case for case, sees in self.sees_future.items() if not sees]
        leaks = [case for case, sees in self.sees_padding.items() if sees]
        if blind:
            everywhere = len(blind) == len(self.sees_future)
            return "reads left to right" + ("" if everywhere else f" when the batch is {', '.join(blind)}")
        return f"lets text depend on padding when the batch is {', '.join(leaks)}" if leaks else ""


@dataclass(slots=True)
class VerificationReport:
    """What `verify` found: `bidirectional` overall, the checks by layer and backend, and the backends that failed.

    Attributes:
        family: model type, for example `llama`.
        checks: one entry a layer and backend.
        unusable: backend -> why the model does not run in it at all.
    """

    family: str
    checks: list[LayerCheck]
    unusable: dict[str, str]

    @property
    def backends(self) -> list[str]:
        """The backends that ran."""
        return sorted({check.backend for check in self.checks})

    @property
    def bidirectional(self) -> bool:
        """True if something ran and every layer passed in every backend that ran."""
        return bool(self.checks) and all(check.bidirectional for check in self.checks)

    def failures(self, backend: str | None = None) -> list[LayerCheck]:
        """The checks that did not pass, of one backend or all."""
        return [c for c in self.checks if not c.bidirectional and backend in (None, c.backend)]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "family": self.family,
            "bidirectional": self.bidirectional,
            "backends": self.backends,
            "unusable_backends": self.unusable,
            "layers": [asdict(check) | {"bidirectional": check.bidirectional} for check in self.checks],
        }

    def table(self) -> str:
        """The per-layer table as text: does the first token see the last?"""
        width = max([len(c.mixer) for c in self.checks], default=5)
        heads = [case.short.center(7) for case in CASES]
        lines = [f"{'layer':>5}  {'mixer':<{width}}  backend  {' '.join(heads)}  verdict"]
        for c in self.checks:
            marks = [
                ("leaks" if c.sees_padding.get(str(k)) else "yes" if c.sees_future[str(k)] else "NO").center(7)
                for k in CASES
            ]
            verdict = "bidirectional" if c.bidirectional else c.reason()
            lines.append(f"{c.layer:>5}  {c.mixer:<{width}}  {c.backend:<7}  {' '.join(marks)}  {verdict}")
        lines += [f"{backend}: does not run ({why})" for backend, why in self.unusable.items()]
        lines.append("(columns: a batch of 1 or n texts, unpadded, padded left, padded right)")
        return "\n".join(lines)


def verify(model: nn.Module, *, backends: Sequence[str] | None = None) -> VerificationReport:
    """Measure, layer by layer, whether a model's first token can see its last.

    Works on any transformers model with a stack of layers, decoder or encoder, and leaves it as it was.

    Args:
        model: with or without a head.
        backends: attention implementations to try; by default the one in use, and eager and sdpa besides.

    Raises:
        ConversionError: the stack of layers cannot be found.
    """
    current = backend_in_use(model)
    if backends is None:
        backends = [current, *(b for b in BACKENDS if b != current)]
    report = VerificationReport(family(model), [], {})
    was_training = model.training
    model.eval()
    try:
        for backend in backends:
            try:
                _set_backend(model, backend)
                report.checks += _check_backend(model, backend)
            except Exception as error:  # a backend that a class does not support fails in many ways
                message = str(error).strip()
                report.unusable[backend] = message.splitlines()[0][:200] if message else type(error).__name__
    finally:
        _set_backend(model, current)
        model.train(was_training)
    return report


@torch.no_grad()
def first_sees_last(model: nn.Module) -> bool:
    """The quick look, for loading: does the first token's final state change with the last token?"""
    ids = _probe_batch(model, CASES[0]).input_ids.repeat(2, 1)
    ids[1, -1] = ids[0, 1]
    was_training = model.training
    model.eval()
    states = token_states(model, ids)
    model.train(was_training)
    return not torch.equal(states[0, 0], states[1, 0])


def backend_in_use(model: nn.Module) -> str:
    """The attention implementation a model runs with now."""
    return str(getattr(text_config(model), "_attn_implementation", None) or "eager")


def _set_backend(model: nn.Module, backend: str) -> None:
    """Switch the attention implementation; some classes ignore the request with a warning only."""
    if backend_in_use(model) != backend:
        model.set_attn_implementation(backend)  # type: ignore[operator]
    if backend_in_use(model) != backend:
        raise ValueError(f"{type(model).__name__} keeps {backend_in_use(model)!r}")


def _check_backend(model: nn.Module, backend: str) -> list[LayerCheck]:
    """Run every case in one backend."""
    checks = [LayerCheck(i, _mixer_name(layer), backend) for i, layer in enumerate(decoder_layers(model))]
    for case in CASES:
        batch = _probe_batch(model, case)
        for check, gradient in zip(checks, layer_gradients(model, batch), strict=True):
            real = batch.attention_mask.bool()
            last = torch.where(real, batch.position_ids, -1).argmax(dim=1)
            strength = gradient.abs().amax(dim=-1)  # [rows, tokens]
            seen = strength.gather(1, last[:, None]).squeeze(1) > 0
            check.sees_future[str(case)] = bool(seen.all())
            if case.padding != "none":
                check.sees_padding[str(case)] = bool((strength.masked_fill(real, 0) > 0).any())
    return checks


def layer_gradients(model: nn.Module, batch: PaddedBatch) -> list[torch.Tensor]:
    """d(output at each row's first token) / d(layer input), one [rows, tokens, width] tensor a layer.

    Every layer is cut loose from the one before it, so a gradient speaks of that layer alone. The output is
    projected on a fixed random direction, because a plain sum is constant behind some norms.
    """
    layers = decoder_layers(model)
    inputs: dict[int, torch.Tensor] = {}
    outputs: dict[int, torch.Tensor] = {}
    with torch.enable_grad(), _probes(layers, inputs, outputs):
        token_states(model, batch.input_ids, batch.attention_mask, batch.position_ids)
    real = batch.attention_mask.bool()
    first = real.int().argmax(dim=1)
    rows = torch.arange(len(first), device=first.device)
    gradients = []
    for i in range(len(layers)):
        generator = torch.Generator().manual_seed(i)
        direction = torch.randn(outputs[i].shape[-1], generator=generator).to(outputs[i])
        target = (outputs[i][rows, first] * direction).sum()
        (gradient,) = torch.autograd.grad(target, inputs[i], allow_unused=True)
        gradients.append(torch.zeros_like(inputs[i]) if gradient is None else gradient)
    return gradients


@contextmanager
def _probes(
    layers: list[nn.Module], inputs: dict[int, torch.Tensor], outputs: dict[int, torch.Tensor]
) -> Iterator[None]:
    """Hooks that give each layer a fresh leaf as its input and keep its output."""

    def cut(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden = args[0] if args else kwargs["hidden_states"]
        inputs[index] = hidden.detach().requires_grad_(True)
        fresh = inputs[index].clone()  # some layers write in place, which a leaf does not allow
        return ((fresh, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": fresh})

    handles = []
    for index, layer in enumerate(layers):
        handles.append(layer.register_forward_pre_hook(lambda _, a, k, i=index: cut(i, a, k), with_kwargs=True))
        handles.append(
            layer.register_forward_hook(lambda _, __, out, i=index: outputs.__setitem__(i, first_tensor(out)))
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _probe_batch(model: nn.Module, case: Case) -> PaddedBatch:
    """Random ids in rows of unlike length, padded as the case says."""
    config = text_config(model)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    low = min(16, config.vocab_size // 2)  # above the usual special tokens
    input_ids = torch.randint(low, config.vocab_size, (case.rows, _LENGTH), generator=generator)
    positions = torch.arange(_LENGTH).expand(case.rows, -1).clone()
    mask = torch.ones_like(input_ids)
    if case.padding != "none":
        for row in range(case.rows):
            cut = 2 + row % 2
            if case.padding == "right":
                mask[row, _LENGTH - cut :] = 0
                positions[row, _LENGTH - cut :] = 0
            else:
                mask[row, :cut] = 0
                positions[row] = (positions[row] - cut).clamp(min=0)
    return PaddedBatch(input_ids, mask, positions, mask.bool()).to(device)


def _mixer_name(layer: nn.Module) -> str:
    """Class name of the module that mixes tokens in a layer."""
    for name, child in layer.named_children():
        if any(part in name.lower() for part in ("attn", "attention", "mixer", "mamba", "conv", "temporal")):
            inner = [c for _, c in child.named_children() if "SelfAttention" in type(c).__name__]
            return type(inner[0] if inner else child).__name__
    return type(layer).__name__
