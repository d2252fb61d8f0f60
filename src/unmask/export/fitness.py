"""What a runtime cannot serve is refused, with the reason; what it serves otherwise must be asked for."""

from unmask.backbone.families.switches import attention_mode, has_limits
from unmask.backbone.structure import family, text_config
from unmask.backbone.truth.recurrent import recurrent_mode
from unmask.encoder import TextEncoder
from unmask.errors import ArtifactError
from unmask.export.targets import Target, family_name, listed
from unmask.pooling import POOLINGS
from unmask.text.spans import special_affixes

_GEMMA3 = "gemma3_text"
_LOCAL_THETA = 10000.0  # of Gemma 3's sliding layers, which llama.cpp takes as given


def require_served(encoder: TextEncoder, target: Target, *, gpu: bool) -> None:
    """Refuse an encoder that a runtime cannot serve.

    Raises:
        ArtifactError: the first reason found.
    """
    for reason in (_of_encoder(encoder, target), _of_family(encoder, target, gpu), _of_config(encoder, target)):
        if reason:
            raise ArtifactError(reason)


def pools_special_tokens(encoder: TextEncoder, target: Target) -> bool:
    """True where a runtime would average BOS or EOS in and the encoder does not."""
    settings = encoder.settings
    left_out = POOLINGS[settings.pooling].averages and not settings.include_special_tokens
    return left_out and target.spans == "none" and any(special_affixes(encoder.tokenizer))


def pools_prompt(encoder: TextEncoder, target: Target) -> bool:
    """True where a runtime would average the saved prompts in and the encoder does not."""
    settings = encoder.settings
    left_out = POOLINGS[settings.pooling].averages and not settings.include_prompt
    return left_out and bool(settings.prompts) and not target.prompts


def kept_window(encoder: TextEncoder) -> int | None:
    """Tokens to each side that some layers see, where texts may be longer; 0: other limits; None: no limits."""
    config = text_config(encoder.model)
    if not has_limits(encoder.model):
        return None
    window = getattr(config, "sliding_window", None) or 0
    return None if window >= encoder.settings.max_length else int(window)


def _of_encoder(encoder: TextEncoder, target: Target) -> str:
    """What no other runtime can do."""
    settings = encoder.settings
    if settings.chat_template:
        return (
            f"{target.title} wraps no text in a chat template, and this encoder does; load it with unmask.TextEncoder."
        )
    if recurrent_mode(encoder.model) == "two-way":
        return (
            f"Some layers of this {family(encoder.model)} read texts in both directions, which only unmask does; "
            f"{target.title} would run them left to right."
        )
    if settings.pooling not in target.poolings:
        return (
            f"{target.title} has no pooling {settings.pooling!r} (it has {', '.join(target.poolings)}); "
            "this encoder was trained with it."
        )
    return ""


def _of_family(encoder: TextEncoder, target: Target, gpu: bool) -> str:
    name = family(encoder.model)
    served = (*target.families, *target.gpu_families) if gpu else target.families
    if not target.families or name in served:
        return ""
    where = f" on a {'GPU' if gpu else 'CPU'}" if target.gpu_families else ""
    more = f" On a CUDA GPU it serves {family_name(name)}, too: --gpu." if name in target.gpu_families else ""
    article = "an" if family_name(name)[0] in "AEIO" else "a"
    return f"{target.title}{where} serves {listed(served)} only; this is {article} {family_name(name)}.{more}"


def _of_config(encoder: TextEncoder, target: Target) -> str:
    """Windows and rotary positions that a runtime reads otherwise."""
    config, name = text_config(encoder.model), family(encoder.model)
    rope = getattr(config, "rope_parameters", None) or {}
    full = rope.get("full_attention", rope)
    if not target.scaled_rope and full.get("rope_type", "default") != "default":
        return f"{target.title} does not read rope scaling ({full['rope_type']}), which this model was trained with."
    if target.families and name == _GEMMA3:
        local = (rope.get("sliding_attention") or {}).get("rope_theta", _LOCAL_THETA)
        if not _every_sixth(config) or (target.title == "llama.cpp" and local != _LOCAL_THETA):
            return (
                f"{target.title} takes every sixth layer of Gemma3 as one of full attention, and llama.cpp 10000 as "
                f"the rotary base of the others; this model has other layers, or {local}."
            )
    window = kept_window(encoder)
    if window is None:
        return ""
    cure = f"convert the model with --window lift, or export with --max-length {window} or less."
    if target.graph and not window:
        return f"Some layers of this {name} pick what they attend to, which is not exported; {cure}"
    if target.graph or not target.families:
        return ""
    if name != _GEMMA3 or attention_mode(encoder.model) == "causal":
        return (
            f"Some layers of this {family_name(name)} see {window} tokens to each side, which {target.title} does not "
            f"read so; {cure}"
        )
    return ""


def _every_sixth(config: object) -> bool:
    """True where layers are of full attention as in every published Gemma 3."""
    kinds = getattr(config, "layer_types", None) or ()
    return all((kind == "full_attention") == ((layer + 1) % 6 == 0) for layer, kind in enumerate(kinds))
