"""Opening a backbone as an encoder needs it: attention mode, one-sided mixers, windows, adapters; and back again."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from unmask.backbone.adapters import place_of_body
from unmask.backbone.families.switches import (
    attention_mode,
    lift_windows,
    restore_windows,
    set_attention_mode,
    window_mode,
)
from unmask.backbone.lora import load_lora, merge_lora
from unmask.backbone.structure import backend_in_use, first_line, text_config
from unmask.backbone.truth.convert import convert, refuse_bias
from unmask.backbone.truth.recurrent import (
    install_reading,
    installed_mixers,
    one_sided_mixers,
    recurrent_mode,
    remove_reading,
)
from unmask.backbone.truth.verify import first_sees_last, named
from unmask.errors import ArtifactError, ConversionError
from unmask.settings import AttentionMode, Recurrent, Window


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """How a model attends; None is what its config says.

    Attributes:
        attention: causal or bidirectional.
        recurrent: what is done with layers that follow no mask; see `convert`.
        window: keep or lift sliding windows.
    """

    attention: AttentionMode | None = None
    recurrent: Recurrent | None = None
    window: Window | None = None

    def over(self, saved: dict[str, Any]) -> "AttentionSpec":
        """What is asked for here, and where nothing is, what was saved."""
        if (self.attention or saved.get("attention")) == "causal":
            saved = {"attention": "causal"}
        asked = {key: value for key, value in asdict(self).items() if value is not None}
        return AttentionSpec(**{**saved, **asked})


def attention_of(model: nn.Module) -> AttentionSpec:
    """What a model's config says."""
    if attention_mode(model) == "causal":
        return AttentionSpec("causal")
    return AttentionSpec("bidirectional", recurrent_mode(model), window_mode(model))


def apply_attention(model: nn.Module, spec: AttentionSpec, *, verified: bool = False) -> None:
    """Set a freshly loaded model to what is asked for, or else to what its config says, and look whether it obeys.

    Args:
        model: in place.
        spec: what is asked for.
        verified: this package saved it, so its modules need not be searched for one-sided ones again.

    Raises:
        ArtifactError: no stack of layers.
        ConversionError: the layers do not do what they should.
    """
    says = attention_mode(model)
    mode = spec.attention or says
    asked = spec.recurrent or spec.window
    if mode == "causal":
        if asked:
            raise ConversionError(
                "recurrent and window say how a bidirectional model reads; ask for bidirectional attention too."
            )
        if says == "causal":  # a causal decoder as it comes, or an encoder that knows no such switch
            _refuse_encoder(model, spec)
            return
        _make_causal(model)
    elif says == "causal" or asked:
        if first_sees_last(model) and not asked:
            return  # an encoder
        convert(model, recurrent=spec.recurrent, window=spec.window, backends=[backend_in_use(model)])
        return
    else:
        refuse_bias(model)
        try:
            set_attention_mode(model, mode)
        except ConversionError as error:
            raise ArtifactError(str(error)) from error
        if recurrent_mode(model) == "forward":
            return
        unknown = not verified and recurrent_mode(model) is None
        left = one_sided_mixers(model) if unknown and first_sees_last(model) else []
        if left:
            raise ConversionError(
                f"{text_config(model).model_type} is bidirectional by its config, but {named(left)} read left to "
                "right. Say recurrent='forward' to leave it so, or 'two-way'."
            )
    if first_sees_last(model) != (mode == "bidirectional"):
        raise ConversionError(
            f"{text_config(model).model_type} was to be {mode}, but its first token "
            f"{'does not see' if mode == 'bidirectional' else 'sees'} its last. `unmask verify` shows the layers."
        )


def _refuse_encoder(model: nn.Module, spec: AttentionSpec) -> None:
    """An encoder cannot be made causal; one that nobody asked to be is left alone."""
    if spec.attention == "causal" and first_sees_last(model):
        raise ConversionError(f"{text_config(model).model_type} is an encoder; it cannot be made causal.")


def attach_adapters(model: nn.Module, folders: Sequence[Path], *, merge: bool) -> Any | None:
    """Put LoRA adapters on a model, one on top of the other.

    Args:
        model: the body, in place.
        folders: in peft's format, in the order they were trained.
        merge: fold each into the weights; otherwise they stay apart and can be switched off.

    Returns:
        The peft wrapper that shares its modules with `model`, or None after merging.

    Raises:
        ArtifactError: adapters that do not fit the model, or not beside each other.
    """
    wrapped = None
    # Side by side, they share one view of the model: that of the one that was trained around most of it.
    place = None if merge else max((place_of_body(folder, model) for folder in folders), key=len, default=None)
    for number, folder in enumerate(folders):
        wrapped = load_lora(model, folder, name=f"adapter_{number}", onto=wrapped, place=place)
        if merge:
            merge_lora(wrapped)
            wrapped = None
    model.eval()
    if wrapped is not None:
        try:
            wrapped.base_model.set_adapter([f"adapter_{number}" for number in range(len(folders))])
        except ValueError as error:  # two that hold the same module whole, or the same tokens
            raise ArtifactError(f"These adapters cannot lie side by side; merge them ({first_line(error)}).") from error
        wrapped.requires_grad_(False)
    return wrapped


@contextmanager
def as_causal(model: nn.Module) -> Iterator[None]:
    """The model as its base is, for a while: causal, with its own windows, one-sided mixers as they come."""
    before, mixers = attention_of(model), installed_mixers(model)
    _make_causal(model)
    try:
        yield
    finally:
        set_attention_mode(model, before.attention or "causal")
        if before.window == "lift":
            lift_windows(model)
        if before.recurrent is not None:
            install_reading(model, mixers, before.recurrent)


def _make_causal(model: nn.Module) -> None:
    restore_windows(model)
    remove_reading(model)
    set_attention_mode(model, "causal")
