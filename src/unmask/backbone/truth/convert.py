"""Step 1: turn a decoder bidirectional and prove it, or refuse; and what other runtimes make of it then."""

import logging
from collections.abc import Sequence

import torch
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from unmask.backbone.families import facts
from unmask.backbone.families.switches import (
    attention_mode,
    has_limits,
    lift_windows,
    restore_windows,
    set_attention_mode,
    window_mode,
)
from unmask.backbone.forward import token_states
from unmask.backbone.loading import learned_positions, short_positions
from unmask.backbone.structure import MODEL_ERRORS, backend_in_use, body, family, first_line, text_config
from unmask.backbone.truth.probes import LONG, layer_reach, padding_shift
from unmask.backbone.truth.recurrent import (
    install_reading,
    installed_mixers,
    layers_with,
    one_sided_mixers,
    recurrent_mode,
    remove_reading,
    restore_reading,
)
from unmask.backbone.truth.twins import tiny_config, tiny_model
from unmask.backbone.truth.verify import VerificationReport, named, verify
from unmask.errors import ConversionError
from unmask.settings import Recurrent, Window

logger = logging.getLogger(__name__)

_ENCODER = "there is nothing to convert. TextEncoder.load opens encoders as they are."


def convert(
    model: nn.Module,
    *,
    recurrent: Recurrent | None = None,
    window: Window | None = None,
    backends: Sequence[str] | None = None,
) -> VerificationReport:
    """Make a transformers decoder bidirectional, in place, and verify every layer.

    BehnamGhader et al. 2024 (arXiv 2404.05961), section 2.1: the causal mask is replaced by an all-ones mask. The
    weights are not touched. A model that is already bidirectional by its config is only verified.

    Args:
        model: a decoder-only transformers model, with or without a language-model head.
        recurrent: what to do with recurrences and convolutions, which follow no mask: `refuse`, `forward` (they go on
            reading left to right) or `two-way` (each reads the text and the reversed text, and the mean is used). By
            default what the config says of an earlier conversion, else refuse.
        window: `keep` sliding windows, which become two-sided, or `lift` them. By default what the config says.
        backends: attention implementations to verify in; by default eager, sdpa and the one in use.

    Returns:
        The verification report. The backend in use passed in every layer (but for those that `forward` leaves);
        backends that did not are listed in it.

    Raises:
        ConversionError: not a decoder, or a layer that stays causal; the model is left as it was.
    """
    require_decoder(model)
    attention, lifted, reading = attention_mode(model), window_mode(model), recurrent_mode(model)
    mixers = installed_mixers(model)
    try:
        return _turn(model, recurrent or reading or "refuse", window or lifted, backends)
    except BaseException:
        remove_reading(model)
        if reading is not None:
            install_reading(model, mixers, reading)
        if lifted == "keep":
            restore_windows(model)
        set_attention_mode(model, attention)
        raise


def require_decoder(model: nn.Module) -> None:
    """Refuse what is not a causal decoder.

    Raises:
        ConversionError: an encoder, an encoder-decoder, or a family outside transformers' causal-LM mapping.
    """
    name = family(model)
    if getattr(text_config(model), "is_encoder_decoder", False):
        raise ConversionError(f"{name} is an encoder-decoder; convert takes decoder-only language models.")
    if name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ConversionError(f"{name} is not a causal language model that transformers knows; {_ENCODER}")
    # BERT and its kin are in the causal-LM mapping too, so what a model does counts, not where it is listed.
    if attention_mode(model) == "causal" and verify(model, backends=[backend_in_use(model)]).bidirectional:
        raise ConversionError(f"{name} is an encoder: its attention is bidirectional already; {_ENCODER}")


def refuse_bias(model: nn.Module) -> None:
    """Refuse ALiBi where its class has it inside the mask.

    Raises:
        ConversionError: it has.
    """
    if getattr(text_config(model), "alibi", False):
        raise ConversionError(
            f"{family(model)} with alibi: true cannot be converted: its class adds a bias that grows with the place of "
            "the key, so that without a causal mask every token looks at the end of the text."
        )


def _turn(model: nn.Module, recurrent: Recurrent, window: Window, backends: Sequence[str] | None) -> VerificationReport:
    """Set all that is asked for, and prove it.

    Raises:
        ConversionError: it cannot be done; the model may be half turned.
    """
    refuse_bias(model)
    left = _set(model, recurrent, window)
    if left and recurrent == "refuse":
        raise ConversionError(
            f"{family(model)} has {len(left)} modules that read left to right whatever the mask: {named(left)} "
            f"({_classes(model, left)}). Choose recurrent='two-way' to let each read in both directions, or 'forward' "
            "to leave them as they are."
        )
    report = verify(model, backends=backends)
    backend = backend_in_use(model)
    if recurrent == "forward" and left:
        _allow(report, left, model)
    elif report.one_sided:
        raise ConversionError(f"{family(model)}: {named(report.one_sided)} still read left to right.")
    problem = _problem(report, backend) or _problem_of_twin(model, recurrent, window)
    if problem:
        known = f" {facts(family(model)).refused}".rstrip()
        raise ConversionError(
            f"{family(model)} with attn_implementation={backend!r} cannot be converted: {problem}{known}"
        )
    for check in report.failures():
        if check.backend != backend:
            logger.warning(
                "%s with attn_implementation=%r: layer %d (%s) %s; use %r.",
                *(report.family, check.backend, check.layer, check.mixer, check.reason(), backend),
            )
    return report


def _set(model: nn.Module, recurrent: Recurrent, window: Window) -> list[str]:
    """Turn attention, windows and mixers; returns the modules that read left to right by themselves."""
    remove_reading(model)
    set_attention_mode(model, "bidirectional")
    if window == "lift":
        lift_windows(model)
    else:
        restore_windows(model)
    try:
        left = one_sided_mixers(model)
    except MODEL_ERRORS as error:  # a family whose class fails in this backend: verify says how, and refuses
        logger.debug("%s: mixers not measured (%s)", family(model), error)
        return []
    if left and recurrent != "refuse":
        install_reading(model, left, recurrent)
    return left


def _classes(model: nn.Module, names: list[str]) -> str:
    return ", ".join(sorted({type(body(model).get_submodule(name)).__name__ for name in names}))


def _allow(report: VerificationReport, left: list[str], model: nn.Module) -> None:
    """Mark the layers that `forward` leaves one-sided, and say how many they are."""
    blind = layers_with(model, left) & {check.layer for check in report.failures(backend_in_use(model)) if check.blind}
    total = len({check.layer for check in report.checks})
    logger.warning(
        "%s: %d of %d layers still read left to right (recurrent='forward'; %s).",
        *(report.family, len(blind), total, _classes(model, left)),
    )
    for check in report.checks:
        check.allowed = check.blind and check.layer in blind


def _problem(report: VerificationReport, backend: str) -> str:
    """Layer and reason, in one sentence; empty if there is nothing to object to."""
    if backend in report.unusable:
        return f"it does not run ({report.unusable[backend]})."
    passing = [b for b in report.backends if not report.failures(b) and not report.depends_on_padding(b)]
    advice = f" Load it with attn_implementation={passing[0]!r}." if passing else ""
    failures = report.failures(backend)
    if failures:
        total = len([c for c in report.checks if c.backend == backend])
        first = failures[0]
        return f"layer {first.layer} ({first.mixer}) {first.reason()} ({len(failures)} of {total} layers fail).{advice}"
    if report.depends_on_padding(backend):
        return f"the states of a text move with padding, by {report.padding_shift[backend]:.2g} of their size.{advice}"
    return "" if any(c.looks_back for c in report.checks) else "no layer was seen to mix tokens."


def _problem_of_twin(model: nn.Module, recurrent: Recurrent, window: Window) -> str:
    """What a tiny twin in float32 shows and the model cannot.

    Its windows are short enough to be crossed, and sixteen-bit rounding does not cover a dependence on padding.
    """
    limited = window == "lift" or has_limits(model)
    if not limited and next(model.parameters()).dtype == torch.float32:
        return ""
    advice = "" if window == "lift" else " Choose window='lift' to let every layer look at the whole text."
    try:
        twin = tiny_model(tiny_config(text_config(model)))
        if hasattr(model, "set_attn_implementation"):
            twin.set_attn_implementation(backend_in_use(model))
        _set(twin, recurrent, window)
        uneven = [(i, *both) for i, both in enumerate(layer_reach(twin)) if both[0] > both[1] + 1]
        shift = padding_shift(twin)
        lost = window == "lift" and not _lift_survives_saving(twin)
    except MODEL_ERRORS as error:
        return f"what only a tiny twin of it shows cannot be proven: {first_line(error)}."
    if lost:
        return "its windows are part of its weights or of its modules' own state, so a lift would not survive saving."
    if uneven and recurrent != "forward":
        layer, back, ahead = uneven[0]
        return (
            f"in texts longer than its window, layer {layer} looks further back than ahead "
            f"({back} to {ahead} tokens in a tiny twin).{advice}"
        )
    if shift > 1e-3:
        where = "in texts longer than its window, " if limited else ""
        return f"{where}states move with padding (by {shift:.2g} of their size in a tiny twin).{advice}"
    return ""


def _lift_survives_saving(twin: nn.Module) -> bool:
    """True if a model built from the lifted config takes the same weights and gives the same states."""
    again = tiny_model(text_config(twin), seed=1)
    try:
        again.load_state_dict(twin.state_dict())
    except RuntimeError:  # other shapes
        return False
    set_attention_mode(again, "bidirectional")
    restore_reading(again)
    ids = torch.arange(LONG)[None] + 20
    with torch.no_grad():
        return bool(torch.allclose(token_states(twin, ids), token_states(again, ids), atol=1e-5))


def compatibility_gaps(model: nn.Module) -> list[str]:
    """Where plain transformers (and sentence-transformers on it) reads a saved model unlike we do, in words.

    Found out by building a tiny twin from the config alone, without any of our switches, and measuring it.
    """
    if attention_mode(model) == "causal":
        return []
    gaps = []
    if recurrent_mode(model) == "two-way":
        gaps.append(
            f"Only unmask reads {len(installed_mixers(model))} modules of this {family(model)} in both directions "
            f"({named(installed_mixers(model))}); other runtimes run them left to right and give other vectors."
        )
    try:
        twin = tiny_model(tiny_config(text_config(model)))
        if window_mode(model) == "lift":
            lift_windows(twin)
            twin = tiny_model(text_config(twin))
        report = verify(twin, backends=[backend_in_use(twin)])
        alike = reads_alike(twin)
    except MODEL_ERRORS as error:
        return [*gaps, f"Not checked how other runtimes read this {family(model)}: {first_line(error)}."]
    short = short_positions(model)
    if short is not None and short < max(getattr(text_config(model), "max_position_embeddings", 0), short):
        gaps.append(
            f"In plain transformers a text of more than {short} tokens changes the frequencies of shorter ones in its "
            "batch (LongRoPE); keep them apart there."
        )
    mixed = layers_with(model, installed_mixers(model))
    blind = [check for check in report.failures() if check.layer not in mixed]
    if blind:
        gaps.append(
            f"Plain transformers does not obey `is_causal: false` for {family(model)}: layer {blind[0].layer} "
            f"{blind[0].reason()}. Other runtimes will give other vectors; load this folder with unmask.TextEncoder."
        )
    elif not alike:
        gaps.append(
            f"Plain transformers computes other states of {family(model)} than unmask, which counts distances to both "
            "sides; load this folder with unmask.TextEncoder."
        )
    elif any(map(report.depends_on_padding, report.backends)):
        gaps.append(
            f"In plain transformers padding moves the states of a text in {family(model)}; encode one text at a time "
            "there."
        )
    return gaps


def reads_alike(plain: nn.Module) -> bool:
    """Whether our switches change no state of a model that its config alone makes bidirectional."""
    length = min(LONG, learned_positions(plain) or LONG)
    ids = (torch.arange(length)[None] + 20) % text_config(plain).vocab_size
    with torch.no_grad():
        before = token_states(plain, ids)
        set_attention_mode(plain, "bidirectional")
        return bool(torch.allclose(before, token_states(plain, ids), atol=1e-5, equal_nan=True))
