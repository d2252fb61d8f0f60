"""What each layer can see, proven by gradients, and that padding changes nothing.

For every decoder layer alone: the gradient of its output at a text's first token with respect to its input at the
text's last token. Zero means the layer reads left to right, whatever the config says. Measured for a batch of one
and of several, unpadded, padded left and padded right, in each attention backend, because families are known that
turn in one of these cases and not in another. The gradient with respect to padding must be exactly zero, and the final
states of texts must be the same in a padded batch and alone. Where the layers pass, the modules inside them are
measured too: a recurrence beside attention hides behind it otherwise.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from unmask.backbone.families import MIXER_NAMES
from unmask.backbone.forward import token_states
from unmask.backbone.structure import (
    MODEL_ERRORS,
    backend_in_use,
    decoder_layers,
    evaluation_mode,
    family,
    first_line,
)
from unmask.backbone.truth.probes import (
    CASES,
    LENGTH,
    alone_states,
    distance,
    layer_gradients,
    layer_reach,
    padding_shift,
    probe_batch,
)
from unmask.backbone.truth.recurrent import one_sided_mixers
from unmask.errors import ConversionError

BACKENDS = ("eager", "sdpa")
_EXACT = 1e-3  # largest shift in float32 that is no dependence on padding
# In sixteen bits rounding adds up over layers: this much at least, or three times what the model itself shows between
# two attention implementations. `convert` looks closer, at a float32 twin.
_HALF, _HALF_FACTOR = 0.1, 3.0


@dataclass(slots=True)
class LayerCheck:
    """One layer in one backend.

    Attributes:
        layer: index from 0.
        mixer: class name of the layer's attention (or other sequence-mixing) module.
        backend: attention implementation it ran in.
        looks_back: how many tokens back the last token of the probe sees: 7 in attention, 2 in a convolution over three
            tokens, 0 in a layer that is an MLP alone.
        sees_future: case -> whether the first token sees as many tokens ahead (or the text's last).
        sees_padding: case -> whether the first token depends on padding.
        allowed: it reads left to right, and that was asked for (`recurrent: forward`).
    """

    layer: int
    mixer: str
    backend: str
    looks_back: int
    sees_future: dict[str, bool] = field(default_factory=dict)
    sees_padding: dict[str, bool] = field(default_factory=dict)
    allowed: bool = False

    @property
    def blind(self) -> bool:
        """True if some case hides the future."""
        return not all(self.sees_future.values())

    @property
    def bidirectional(self) -> bool:
        """True if the layer sees as far ahead as back in every case, and padding in none."""
        return not self.blind and not any(self.sees_padding.values())

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
        padding_shift: backend -> how far padding moves a text's final states, relative to their size.
        padding_limit: the largest shift that rounding explains.
        one_sided: modules inside layers that see both sides which themselves read left to right (recurrences and
            convolutions beside attention), in the backend in use.
    """

    family: str
    checks: list[LayerCheck]
    unusable: dict[str, str]
    padding_shift: dict[str, float] = field(default_factory=dict)
    padding_limit: float = _EXACT
    one_sided: list[str] = field(default_factory=list)

    @property
    def backends(self) -> list[str]:
        """The backends that ran."""
        return sorted({check.backend for check in self.checks})

    @property
    def bidirectional(self) -> bool:
        """True if tokens mix, every layer passed in every backend that ran, and padding changed no text."""
        proven = bool(self.checks) and all(check.bidirectional for check in self.checks)
        mixes = any(check.looks_back for check in self.checks)
        return proven and mixes and not any(map(self.depends_on_padding, self.backends))

    def failures(self, backend: str | None = None) -> list[LayerCheck]:
        """The checks that did not pass and were not allowed to fail, of one backend or all."""
        return [c for c in self.checks if not c.bidirectional and not c.allowed and backend in (None, c.backend)]

    def depends_on_padding(self, backend: str) -> bool:
        """True if the states of a text change with the padding around it."""
        return self.padding_shift[backend] > self.padding_limit

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "family": self.family,
            "bidirectional": self.bidirectional,
            "backends": self.backends,
            "unusable_backends": self.unusable,
            "padding_shift": self.padding_shift,
            "one_sided_modules": self.one_sided,
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
            verdict = c.reason() or ("bidirectional" if c.looks_back else "mixes no tokens")
            lines.append(f"{c.layer:>5}  {c.mixer:<{width}}  {c.backend:<7}  {' '.join(marks)}  {verdict}")
        lines += [f"{backend}: does not run ({why})" for backend, why in self.unusable.items()]
        lines += [
            f"{backend}: the states of a text move with padding, by {shift:.2g} of their size"
            for backend, shift in self.padding_shift.items()
            if self.depends_on_padding(backend)
        ]
        if self.one_sided:
            lines.append(
                f"{len(self.one_sided)} modules inside these layers read left to right: {named(self.one_sided)}"
            )
        lines.append("(columns: a batch of 1 or n texts, unpadded, padded left, padded right)")
        return "\n".join(lines)


def named(modules: Sequence[str], most: int = 3) -> str:
    """A few names of many."""
    more = f" and {len(modules) - most} more" if len(modules) > most else ""
    return ", ".join(modules[:most]) + more


def verify(model: nn.Module, *, backends: Sequence[str] | None = None) -> VerificationReport:
    """Measure, layer by layer, whether a model's first token can see its last, and whether padding changes a text.

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
    with evaluation_mode(model):
        try:
            for backend in backends:
                try:
                    _set_backend(model, backend)
                    checks = _check_backend(model, backend)
                    report.padding_shift[backend] = padding_shift(model)
                    report.checks += checks
                except ConversionError:
                    raise
                except MODEL_ERRORS as error:  # a backend that a class does not support fails in many ways
                    report.unusable[backend] = first_line(error)[:200]
            if next(model.parameters()).dtype in (torch.bfloat16, torch.float16):
                report.padding_limit = max(_HALF, _HALF_FACTOR * _rounding(model, current))
            _set_backend(model, current)
            if report.checks and not report.failures(current) and current not in report.unusable:
                report.one_sided = one_sided_mixers(model)
        finally:
            _set_backend(model, current)
    return report


@torch.no_grad()
def first_sees_last(model: nn.Module) -> bool:
    """The quick look, for loading: does the first token's final state change with the last token?"""
    ids = probe_batch(model, CASES[0]).input_ids.repeat(3, 1)
    ids[2, -1] = ids[0, 1]
    with evaluation_mode(model):
        same, again, changed = token_states(model, ids)[:, 0].float()
    # Rows of a batch may be rounded differently: two equal ones show by how much.
    return bool((changed - same).norm() > 10 * (again - same).norm())


def _rounding(model: nn.Module, current: str) -> float:
    """How far the states of lone texts are apart in two attention implementations; 0 where only one runs."""
    states = []
    for backend in dict.fromkeys((current, *BACKENDS)):
        try:
            _set_backend(model, backend)
            states.append(alone_states(model))
        except MODEL_ERRORS:  # of no consequence: the limit is then the smallest
            continue
    return max((distance(a, b) for a, b in zip(states[0], states[1], strict=True)), default=0.0) if states[1:] else 0.0


def _set_backend(model: nn.Module, backend: str) -> None:
    """Switch the attention implementation; some classes ignore the request with a warning only."""
    if backend_in_use(model) != backend:
        model.set_attn_implementation(backend)  # type: ignore[operator]
    if backend_in_use(model) != backend:
        raise ValueError(f"{type(model).__name__} keeps {backend_in_use(model)!r}")


def _check_backend(model: nn.Module, backend: str) -> list[LayerCheck]:
    reach = layer_reach(model, LENGTH, LENGTH - 1)
    checks = [
        LayerCheck(i, _mixer_name(layer), backend, back)
        for i, (layer, (back, _)) in enumerate(zip(decoder_layers(model), reach, strict=True))
    ]
    for case in CASES:
        batch = probe_batch(model, case)
        real = batch.attention_mask.bool()
        first, length = real.int().argmax(dim=1), real.sum(dim=1)
        for check, gradient in zip(checks, layer_gradients(model, batch), strict=True):
            strength = gradient.abs().amax(dim=-1)  # [rows, tokens]
            ahead = first + (length - 1).clamp(max=check.looks_back)
            seen = strength.gather(1, ahead[:, None]).squeeze(1) > 0
            check.sees_future[str(case)] = check.looks_back == 0 or bool(seen.all())
            if case.padding != "none":
                check.sees_padding[str(case)] = bool((strength.masked_fill(real, 0) > 0).any())
    return checks


def _mixer_name(layer: nn.Module) -> str:
    for name, child in layer.named_children():
        mixing = any(part in name.lower() for part in MIXER_NAMES)
        if mixing and not type(child).__name__.endswith("Norm"):
            inner = [c for _, c in child.named_children() if "SelfAttention" in type(c).__name__]
            found = child[0] if isinstance(child, nn.ModuleList) else inner[0] if inner else child
            return type(found).__name__
    return type(layer).__name__
