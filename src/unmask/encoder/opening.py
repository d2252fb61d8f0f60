"""Opening what an encoder is made of: a model as it should attend, its tokenizer, and what the folder says of both."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unmask.backbone.devices import checked_device, saved_dtype, working_dtype
from unmask.backbone.loading import check_vocabulary, learned_positions, load_model, max_positions, short_positions
from unmask.backbone.locate import find_adapters, layout_folder, load_tokenizer
from unmask.backbone.truth.opening import AttentionSpec, apply_attention, attach_adapters
from unmask.encoder.layout import fit_tokenizer, read_layout
from unmask.encoder.saved import (
    is_foreign,
    last_that_says,
    read_attention,
    read_chat,
    read_lineage,
    read_scores,
    read_settings,
)
from unmask.settings import Dtype, EncoderSettings
from unmask.text.prompts import ChatWrapper
from unmask.text.reader import Reader

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedModel:
    """A model ready to encode, and where it came from.

    Attributes:
        model: without head, on its device, attending as asked for.
        tokenizer: its fast tokenizer.
        settings: as saved; those of a bare model are defaults.
        chat: what was put around every text, as saved.
        folder: that says so.
        lineage: where the weights came from, as saved.
        scores: what they scored, as saved.
        base: the model that the lineage begins with.
        adapter: the peft wrapper of adapters that were not merged.
        stored: dtype of the weights in the folder, where they run in another.
    """

    model: Any
    tokenizer: Any
    settings: EncoderSettings
    chat: ChatWrapper | None
    folder: Path
    lineage: dict[str, Any]
    scores: dict[str, Any]
    base: str
    adapter: Any | None
    stored: torch.dtype | None


def reader_for(model: Any, tokenizer: Any, settings: EncoderSettings | None, chat: ChatWrapper | None = None) -> Reader:
    """How texts become what a model reads, once it is sure that the model has what the tokenizer and settings need.

    Raises:
        ArtifactError: tokens without an embedding; texts longer than the positions that the model learned.
    """
    check_vocabulary(model, tokenizer)
    settings = settings or EncoderSettings(max_length=max_positions(model, tokenizer))
    limits = {"positions": learned_positions(model), "short": short_positions(model)}
    return Reader(tokenizer, settings, **limits, chat=chat)


def open_model(
    name: str,
    adapters: Sequence[str],
    asked: AttentionSpec,
    *,
    merge: bool,
    dtype: Dtype,
    device: str | torch.device | None,
    attention_implementation: str | None,
) -> OpenedModel:
    """See `TextEncoder.load`."""
    source, folders = find_adapters(name, adapters)
    tokenizer = load_tokenizer(source, folders)
    place = checked_device(device)
    working = working_dtype(source, dtype, place)
    model = load_model(
        source, head=False, dtype=working, attention_implementation=attention_implementation, device=place
    )
    layout = last_that_says([layout_folder(source), *folders])
    said = next((found for folder in reversed(folders) if (found := read_attention(folder))), {})
    spec = asked.over(said)
    apply_attention(model, spec, verified=(layout / "unmask.json").is_file())
    wrapper = attach_adapters(model, folders, merge=merge)
    settings, chat = settings_of_folder(model, tokenizer, layout)
    lineage = read_lineage(layout)
    return OpenedModel(
        model=model,
        tokenizer=tokenizer,
        settings=settings,
        chat=chat,
        folder=layout,
        lineage=lineage,
        scores=read_scores(layout),
        base=str(lineage.get("base") or source),
        adapter=wrapper,
        stored=saved_dtype(source, dtype) if working != dtype and not folders else None,
    )


def settings_of_folder(model: Any, tokenizer: Any, folder: Path) -> tuple[EncoderSettings, ChatWrapper | None]:
    """What a folder says of how texts become vectors, defaults for a bare model; its tokenizer is made to read so."""
    longest = max_positions(model, tokenizer)
    if not is_foreign(folder):
        return read_settings(folder, longest) or EncoderSettings(max_length=longest), read_chat(folder)
    layout = read_layout(folder, longest)
    chat = fit_tokenizer(tokenizer, layout)
    positions = learned_positions(model)
    if positions is not None and layout.settings.max_length > positions:
        logger.warning(
            f"{folder} asks for {layout.settings.max_length} tokens, but its model learned {positions} positions; "
            f"texts are cut to {positions} tokens."
        )
        return layout.settings.changed(max_length=positions), chat
    return layout.settings, chat
