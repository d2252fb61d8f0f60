"""Models with their weights, whole or layer by layer from disk; their shapes alone; small random ones like them."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn

from unmask.backbone.families.switches import lift_windows
from unmask.backbone.fast.operators import fake_tensors
from unmask.backbone.forward import token_states
from unmask.backbone.locate import resolve_model
from unmask.backbone.structure import (
    LIFTED_KEY,
    MODEL_ERRORS,
    RECURRENT_KEY,
    decoder_layers,
    first_line,
    position_offset,
    text_config,
)
from unmask.backbone.truth.recurrent import install_reading, restore_reading
from unmask.backbone.truth.twins import tiny_config, tiny_model
from unmask.backbone.unsaved import require_unsaved
from unmask.errors import ArtifactError
from unmask.settings import Dtype

UNREADABLE = (*MODEL_ERRORS, SafetensorError)  # what is raised on a broken or foreign folder
MODELS = ("AutoModel", "AutoModelForCausalLM")
_POSITIONS = ("wpe", "position_embeddings", "position_embedding", "embed_positions", "positions_embed")
_ENCODER_HALF = "AutoModelForTextEncoding"  # T5 and its like


def load_model(
    name: str,
    *,
    head: bool,
    dtype: Dtype = "auto",
    attention_implementation: str | None = None,
    device: str | torch.device | None = "cpu",
    **extra: Any,
) -> Any:
    """A transformers model in evaluation mode, with or without its language-model head.

    Args:
        name: see `resolve_model`.
        head: with its language-model head.
        dtype: of the weights.
        attention_implementation: for example sdpa; None for transformers' choice.
        device: where it goes; None leaves that to `extra`.
        extra: further arguments of `from_pretrained`.

    Raises:
        ArtifactError: missing, unreadable, or (with `head`) not a causal language model; buffers that are not saved
            and not what the config says.
    """
    source = resolve_model(name)
    loader = getattr(transformers, MODELS[head] if head or not _has_two_halves(source) else _ENCODER_HALF)
    if attention_implementation:
        extra["attn_implementation"] = attention_implementation
    try:
        model, report = loader.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **extra
        )
        model = model if device is None else model.to(device)
    except UNREADABLE as error:
        raise ArtifactError(f"{name}: cannot be loaded ({first_line(error)})") from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))  # nothing here runs it
    if missing:
        lacking = ", ".join(missing[:3])
        raise ArtifactError(f"{name}: its files lack weights of {type(model).__name__} ({lacking}).")
    require_unsaved(model, name)
    restore_reading(model)
    return model.eval()


def _has_two_halves(source: str) -> bool:
    """True for an encoder-decoder, whose encoder is what makes vectors, and for such an encoder by itself."""
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    except UNREADABLE as error:
        raise ArtifactError(f"{source}: no usable config ({first_line(error)})") from error
    # An encoder half that was saved alone says that it is no encoder-decoder; its architecture still tells.
    alone = any(str(name).endswith("EncoderModel") for name in getattr(config, "architectures", None) or ())
    halves = type(config) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
    return bool(getattr(config, "is_encoder_decoder", False)) or (alone and halves)


def empty_model(name: str, *, head: bool) -> Any:
    """The model's shape without its weights (on the meta device), from its config alone.

    Raises:
        ArtifactError: there is no readable config.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(resolve_model(name), trust_remote_code=False)
        with torch.device("meta"):
            return getattr(transformers, MODELS[head]).from_config(config)
    except UNREADABLE as error:
        raise ArtifactError(f"{name}: no usable config ({first_line(error)})") from error


@contextmanager
def shapes_only(model: nn.Module) -> Iterator[None]:
    """Run an empty model on tensors that have shapes and no data, for as long as the block lasts; it costs nothing.

    Unlike those of the meta device, such tensors are treated as the CPU's: kernels and precision are chosen as there.

    Args:
        model: what `empty_model` made, in place.
    """
    with fake_tensors():
        known: dict[int, torch.Tensor] = {}
        for module in model.modules():
            for own in (module._parameters, module._buffers):
                for name, tensor in own.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in known:  # tied weights stay one
                        empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                        is_weight = isinstance(tensor, nn.Parameter)
                        known[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_weight else empty
                    own[name] = known[id(tensor)]  # type: ignore[assignment]
        yield


def load_twin(name: str) -> Any:
    """A small random model without head, with all its layers, from a model's config alone.

    Windows are lifted and mixers read as the config says. A folder needs no more than its config.json.

    Raises:
        ArtifactError: there is no readable config, or its sizes do not shrink together.
    """
    source = name if (Path(name) / "config.json").is_file() else resolve_model(name)
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False).get_text_config()
        twin = tiny_model(tiny_config(config, layers=config.num_hidden_layers))
        token_states(twin, torch.arange(20, 28)[None])
    except UNREADABLE as error:
        raise ArtifactError(f"{name}: no small model can be made from its config ({first_line(error)})") from error
    if getattr(config, LIFTED_KEY, None) is not None:
        lift_windows(twin)
    reading = getattr(config, RECURRENT_KEY, None)
    if reading:
        install_reading(twin, reading["mixers"], reading["mode"])
    return twin


def weights_fit(name: str) -> bool:
    """True unless the weights of a local folder would take more than half of the machine's memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return sum(path.stat().st_size for path in Path(name).glob("*.safetensors")) < memory / 2


def load_from_disk(name: str, *, attention_implementation: str | None = None) -> Any:
    """A model without head whose layers stay on disk; each is read when it runs, and dropped again.

    For models that do not fit into memory and are only looked at.

    Raises:
        ArtifactError: missing or unreadable.
    """
    shape = empty_model(name, head=False)
    layers = {id(layer) for layer in decoder_layers(shape)}
    places = _places(shape, "", layers)
    with tempfile.TemporaryDirectory() as scratch:  # for weights that the checkpoint holds in another form
        return load_model(
            name,
            head=False,
            attention_implementation=attention_implementation,
            device=None,
            device_map=places,
            offload_folder=scratch,
        )


def _places(module: nn.Module, name: str, layers: set[int]) -> dict[str, str]:
    """A device map: layers on disk, everything else in memory."""
    if id(module) in layers:
        return {name: "disk"}
    inside = {id(child) for child in module.modules()}
    if not inside & layers:
        return {name: "cpu"}
    found: dict[str, str] = {n: "cpu" for n, _ in module.named_parameters(name, recurse=False)}
    for child_name, child in module.named_children():
        found |= _places(child, f"{name}.{child_name}" if name else child_name, layers)
    return found


def max_positions(model: Any, tokenizer: Any) -> int:
    """The longest text, in tokens, that both the model's positions and its tokenizer allow; 512 if neither says."""
    positions = getattr(text_config(model), "max_position_embeddings", None)
    limits = [positions and positions - position_offset(model), tokenizer.model_max_length]
    known = [int(limit) for limit in limits if limit and limit < 10**8]
    return min(known, default=512)


def learned_positions(model: nn.Module) -> int | None:
    """The most tokens of a text where a model has a learned vector for each position; None where it has none.

    Dynamic rotary positions end there, too: beyond, one text would change the frequencies of all that come after it.
    """
    positions = getattr(text_config(model), "max_position_embeddings", None)
    if positions and any("dynamic" in rope["rope_type"] for rope in _rotary(model)):
        return int(positions)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _POSITIONS and positions:
            # Some (OPT) keep rows in front for padding, and do not count them.
            in_front = int(getattr(module, "offset", 0))
            if module.num_embeddings in (positions, positions + in_front):
                return int(module.num_embeddings - (in_front or position_offset(model)))
    return None


def short_positions(model: nn.Module) -> int | None:
    """The most tokens of a text that has the short frequencies of LongRoPE (Ding et al. 2024, arXiv 2402.13753).

    transformers chooses between short and long for a whole batch, so texts of both kinds may not share one.
    """
    lengths = [r["original_max_position_embeddings"] for r in _rotary(model) if r["rope_type"] == "longrope"]
    return min(map(int, lengths), default=None)


def _rotary(model: nn.Module) -> list[dict[str, Any]]:
    """The config's rotary positions: one set, or one for each kind of layer."""
    given = getattr(text_config(model), "rope_parameters", None) or {}
    sets = [given] if "rope_type" in given else [one for one in given.values() if isinstance(one, dict)]
    return [one for one in sets if isinstance(one.get("rope_type"), str)]


def check_vocabulary(model: nn.Module, tokenizer: Any) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding for.

    Raises:
        ArtifactError: there are such tokens.
    """
    try:
        table = model.get_input_embeddings()  # type: ignore[operator]
    except NotImplementedError:
        return
    rows = getattr(table, "num_embeddings", None)
    vocabulary = tokenizer.get_vocab()
    needed = max(vocabulary.values(), default=-1) + 1
    if rows is not None and needed > rows:
        token = max(vocabulary, key=vocabulary.__getitem__)
        raise ArtifactError(
            f"The tokenizer has tokens up to number {needed - 1} ({token!r}), but the model's embedding table has only "
            f"{rows} rows; use the tokenizer that the model was trained with, or resize the table and train it."
        )
