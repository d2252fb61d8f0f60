"""Step 1: turn a decoder's attention bidirectional and prove it, or refuse."""

import logging

from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from unmask.backbone.attention import attention_mode, set_attention_mode
from unmask.backbone.structure import family, text_config
from unmask.backbone.verify import VerificationReport, backend_in_use, verify
from unmask.errors import ConversionError

logger = logging.getLogger(__name__)

_ENCODER = "there is nothing to convert. TextEncoder.load opens encoders as they are."


def convert(model: nn.Module) -> VerificationReport:
    """Make a transformers decoder bidirectional, in place, and verify every layer.

    BehnamGhader et al. 2024 (arXiv 2404.05961), section 2.1: the causal mask is replaced by an all-ones mask. The
    weights are not touched. A model that is already bidirectional by its config is only verified.

    Args:
        model: a decoder-only transformers model, with or without a language-model head.

    Returns:
        The verification report. The backend in use passed in every layer; backends that did not are listed in it.

    Raises:
        ConversionError: not a decoder, or a layer that stays causal; the model is left as it was.
    """
    require_decoder(model)
    before = attention_mode(model)
    set_attention_mode(model, "bidirectional")
    report = verify(model)
    backend = backend_in_use(model)
    failures = report.failures(backend)
    if failures or backend in report.unusable:
        set_attention_mode(model, before)
        raise ConversionError(_refusal(report, backend))
    for check in report.failures():
        logger.warning(
            "%s with attn_implementation=%r: layer %d (%s) %s; use %r.",
            *(report.family, check.backend, check.layer, check.mixer, check.reason(), backend),
        )
    return report


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


def _refusal(report: VerificationReport, backend: str) -> str:
    """Family, layer and reason, in one sentence."""
    if backend in report.unusable:
        return f"{report.family} with attn_implementation={backend!r} does not run: {report.unusable[backend]}"
    failures = report.failures(backend)
    first = failures[0]
    total = len([c for c in report.checks if c.backend == backend])
    passing = [b for b in report.backends if not report.failures(b)]
    advice = f" Load it with attn_implementation={passing[0]!r}." if passing else ""
    return (
        f"{report.family} with attn_implementation={backend!r} cannot be converted: layer {first.layer} "
        f"({first.mixer}) {first.reason()} ({len(failures)} of {total} layers fail).{advice}"
    )
