"""LoRA folders as peft writes them, around a body or around the model with its head: read, and fitted to a body.

peft finds layers by their names, so the body is put where it was when the adapter was trained; what the folder holds of
the head, or of other parts that are not here, is left aside.
"""

import logging
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from unmask.backbone.locate import ADAPTER_WEIGHTS, check_adapter
from unmask.errors import ArtifactError

logger = logging.getLogger(__name__)

PREFIX = "base_model.model."  # what peft puts in front of the names of weights
_DEEPEST = 3  # a body lies at most so many names deep in the model that an adapter was trained around
_EMBEDDINGS = ("weight", "base_layer.weight", "token_adapter.base_layer.weight", "original_module.weight")
_BEHIND_MODULE = re.compile(r"\.(lora_|modules_to_save|original_module|base_layer|token_adapter|weight$|bias$).*")


class Around(nn.Module):
    """Stands for the model around a body, for peft: the body is found under its name there, and there is no head.

    Args:
        inner: the body.
        place: its name in that model, for example `model`.
    """

    is_gradient_checkpointing = False
    _tied_weights_keys = None

    def __init__(self, inner: nn.Module, place: str) -> None:
        super().__init__()
        self.place, self.config = place, inner.config
        self.name_or_path = getattr(inner, "name_or_path", None)
        first, _, rest = place.partition(".")
        self.base_model_prefix = first
        self.add_module(first, Around(inner, rest) if rest else inner)

    def get_input_embeddings(self) -> Any:
        """Those of the body."""
        return self.inner.get_input_embeddings()  # type: ignore[operator]

    @property
    def inner(self) -> nn.Module:
        """The body."""
        return self.get_submodule(self.place)


@dataclass(frozen=True, slots=True)
class SavedLora:
    """What an adapter folder holds.

    Attributes:
        folder: where.
        config: of peft.
        place: of the body in the model it was trained around; empty for the body itself.
        weights: of the body, by their names there.
    """

    folder: Path
    config: Any
    place: str
    weights: dict[str, torch.Tensor]


def read_lora(folder: Path, body: nn.Module) -> SavedLora:
    """The part of an adapter folder that belongs to a body.

    Raises:
        ArtifactError: no readable LoRA in safetensors.
    """
    import peft

    check_adapter(folder)
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        weights = load_file(folder / ADAPTER_WEIGHTS)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ArtifactError(f"{folder} holds no readable adapter in safetensors ({error}).") from error
    place = place_of_body(folder, body)
    inside = PREFIX + (f"{place}." if place else "")
    aside = sorted({_BEHIND_MODULE.sub("", key.removeprefix(PREFIX)) for key in weights if not key.startswith(inside)})
    if aside:
        logger.info("%s: what it holds of %s is left aside; vectors do not need it.", folder, ", ".join(aside[:3]))
    config.task_type = None  # the head is not here
    config.ensure_weight_tying = False  # of the head's part to that of the embeddings
    if isinstance(config.trainable_token_indices, dict):
        names = [f".{place}.{name}" for name, _ in body.named_modules()]
        tokens = config.trainable_token_indices.items()
        here = {module: ids for module, ids in tokens if any(name.endswith(f".{module}") for name in names)}
        config.trainable_token_indices = here or None
    own = {key.removeprefix(inside): weight for key, weight in weights.items() if key.startswith(inside)}
    return SavedLora(folder, config, place, own)


def place_of_body(folder: Path, body: nn.Module) -> str:
    """Where the body was in the model that an adapter was trained around: empty, or for example `model`.

    Raises:
        ArtifactError: no readable weights.
    """
    try:
        with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
            names = [key.removeprefix(PREFIX).split(".") for key in file.keys()]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{folder} holds no readable adapter in safetensors ({error}).") from error
    parts = {name for name, _ in body.named_children()}
    depths = [next((at for at, part in enumerate(name[:_DEEPEST]) if part in parts), None) for name in names]
    places = Counter(".".join(name[:at]) for name, at in zip(names, depths, strict=True) if at is not None)
    return places.most_common(1)[0][0] if places else ""


def fit_embeddings(body: Any, saved: SavedLora, *, alone: bool) -> None:
    """Give a body the token embeddings that an adapter was trained on, where its folder holds them or has more tokens.

    Args:
        body: in place.
        saved: in place too: embeddings that are the base's, not the adapter's, are taken out.
        alone: no other adapter is on the body, so its embeddings may change.

    Raises:
        ArtifactError: embeddings of another size beside other adapters; tokens that have no embeddings anywhere.
    """
    embeddings = body.get_input_embeddings()
    name = next(name for name, module in body.named_modules() if module is embeddings)
    saved.weights.pop(f"{name}.modules_to_save.weight", None)  # peft writes these twice
    found = {key: saved.weights[key] for end in _EMBEDDINGS if (key := f"{name}.{end}") in saved.weights}
    rows = _rows(saved, [len(weight) for weight in found.values()], len(embeddings.weight))
    if rows != len(embeddings.weight):
        if not alone:
            raise ArtifactError(f"{saved.folder} changes the size of the vocabulary, so it can only be merged.")
        _resize(body, rows)
    trained = any(f"{saved.place}.{name}".endswith(module) for module in saved.config.modules_to_save or ())
    for key, weight in found.items():
        if trained and key == f"{name}.weight":
            continue  # the adapter's own
        del saved.weights[key]
        if alone:
            with torch.no_grad():
                body.get_input_embeddings().weight.copy_(weight)


def _rows(saved: SavedLora, found: list[int], present: int) -> int:
    """How many tokens an adapter's vocabulary has."""
    if found:
        return found[0]
    listed = saved.config.trainable_token_indices or []
    tokens = {one for ids in (listed.values() if isinstance(listed, dict) else [listed]) for one in ids}
    rows = max([present - 1, *tokens]) + 1
    if not tokens.issuperset(range(present, rows)):
        raise ArtifactError(
            f"{saved.folder} trains tokens up to number {rows - 1}, but the base model has {present} and the folder "
            "holds no embeddings of those between; save it with save_embedding_layers=True."
        )
    return rows


def _resize(body: Any, rows: int) -> None:
    """Fewer token embeddings, or more, which are zero until they are written."""
    before = len(body.get_input_embeddings().weight)
    body.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        body.get_input_embeddings().weight[before:] = 0
