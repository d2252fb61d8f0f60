"""Opening models and tokenizers: a hub id, a folder, or `pocket`, the decoder that comes with the package."""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from unmask.backbone.attention import lift_windows
from unmask.backbone.recurrent import install_reading, restore_reading
from unmask.backbone.structure import (
    LIFTED_KEY,
    RECURRENT_KEY,
    decoder_layers,
    position_offset,
    text_config,
    text_part,
    token_states,
)
from unmask.backbone.tiny import tiny_config, tiny_model
from unmask.errors import ArtifactError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json")
_MODEL_WEIGHTS = ("model*.safetensors", "pytorch_model*")
_ADAPTER = "adapter_config.json"
_LAYOUT_FILES = ("*.json", "*/config.json")
_UNREADABLE = (  # what transformers and its friends raise on a broken or foreign folder
    *(OSError, ValueError, KeyError, RuntimeError, ImportError, AssertionError, TypeError, AttributeError),
    *(SafetensorError, StrictDataclassError),
)
_MODELS = ("AutoModel", "AutoModelForCausalLM")
_ENCODER_HALF = "AutoModelForTextEncoding"  # T5 and its like


def resolve_model(name: str) -> str:
    """A local folder as it is, `pocket` as the bundled decoder, anything else as a hub id.

    Raises:
        ArtifactError: a path that is not there, or a folder that holds no model, or one without tokenizer.
    """
    folder = Path(name)
    if name == "pocket" and not folder.exists():
        with as_file(files("unmask") / "demo" / "pocket") as bundled:
            return str(bundled)
    if folder.is_file():
        raise ArtifactError(f"{name} is a file; give the folder that holds config.json, weights and tokenizer.")
    if folder.is_dir():
        _check_folder(folder)
        return str(folder)
    if looks_like_path(name):
        raise ArtifactError(f"No folder {name!r}. Give a model folder, a hub id, or `pocket`.")
    return name


def looks_like_path(name: str) -> bool:
    """True for what cannot be a hub id."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip()


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ArtifactError(f"{folder} holds no config.json, so it is not a model folder.")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ArtifactError(
            f"{folder} holds a model but no tokenizer (looked for {', '.join(_TOKENIZER_FILES)}). "
            "Save the tokenizer beside it with tokenizer.save_pretrained."
        )
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHT_FILES):
        raise ArtifactError(f"{folder} holds no .safetensors weights. Pickled weights are not read; convert them.")


def load_tokenizer(name: str) -> Any:
    """The fast tokenizer of a model; where it has no pad token, EOS stands in (padding is masked everywhere).

    Raises:
        ArtifactError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve_model(name), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{name}: no usable tokenizer ({_first_line(error)})") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token or tokenizer.unk_token
    return tokenizer


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
        ArtifactError: missing, unreadable, or (with `head`) not a causal language model.
    """
    import transformers

    source = resolve_model(name)
    loader = getattr(transformers, _MODELS[head] if head or not _has_two_halves(source) else _ENCODER_HALF)
    if attention_implementation:
        extra["attn_implementation"] = attention_implementation
    try:
        model, report = loader.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **extra
        )
        model = model if device is None else model.to(device)
    except _UNREADABLE as error:
        raise ArtifactError(f"{name}: cannot be loaded ({_first_line(error)})") from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))  # nothing here runs it
    if missing:
        lacking = ", ".join(missing[:3])
        raise ArtifactError(f"{name}: its files lack weights of {type(model).__name__} ({lacking}).")
    restore_reading(model)
    return model.eval()


def _has_two_halves(source: str) -> bool:
    """True for an encoder-decoder, whose encoder is what makes vectors, and for such an encoder by itself."""
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except _UNREADABLE as error:
        raise ArtifactError(f"{source}: no usable config ({_first_line(error)})") from error
    # An encoder half that was saved alone says that it is no encoder-decoder; its architecture still tells.
    alone = any(str(name).endswith("EncoderModel") for name in getattr(config, "architectures", None) or ())
    halves = type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
    return bool(getattr(config, "is_encoder_decoder", False)) or (alone and halves)


def load_twin(name: str) -> Any:
    """A small random model without head, with all its layers, from a model's config alone.

    Windows are lifted and mixers read as the config says. A folder needs no more than its config.json.

    Raises:
        ArtifactError: there is no readable config, or its sizes do not shrink together.
    """
    import transformers

    source = name if (Path(name) / "config.json").is_file() else resolve_model(name)
    try:
        config = text_part(transformers.AutoConfig.from_pretrained(source, trust_remote_code=False))
        twin = tiny_model(tiny_config(config, layers=config.num_hidden_layers), head=False)
        token_states(twin, torch.arange(20, 28)[None])
    except _UNREADABLE as error:
        raise ArtifactError(f"{name}: no small model can be made from its config ({_first_line(error)})") from error
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


def adapter_folder(name: str) -> Path | None:
    """The folder of a LoRA adapter, local or fetched from the hub; None if the name stands for a whole model.

    Raises:
        ArtifactError: the hub does not know the name, or cannot be reached and has nothing cached.
    """
    folder = Path(name)
    if not folder.is_dir():
        if name == "pocket" or looks_like_path(name):
            return None
        folder = layout_folder(name)
    if not (folder / _ADAPTER).is_file() or any(any(folder.glob(pattern)) for pattern in _MODEL_WEIGHTS):
        return None
    if Path(name).is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=[*_LAYOUT_FILES, "adapter_model.safetensors"]))


def find_adapters(name: str, adapters: Sequence[str]) -> tuple[str, list[Path]]:
    """The base model and the adapter folders that a name and further adapters stand for.

    Raises:
        ArtifactError: an adapter is not there, or one given as the model does not say what its base is.
    """
    folders = []
    for adapter in adapters:
        folder = adapter_folder(adapter)
        if folder is None:
            raise ArtifactError(f"{adapter} is no LoRA adapter: a folder with adapter_config.json was expected.")
        folders.append(folder)
    own = adapter_folder(name)
    if own is None:
        return resolve_model(name), folders
    try:
        base = json.loads((own / _ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except ValueError as error:
        raise ArtifactError(f"{own / _ADAPTER} cannot be read as JSON ({error}).") from error
    if not base:
        raise ArtifactError(f"{name} is a LoRA adapter that names no base model; give the base, and it in `adapters`.")
    return resolve_model(base), [own, *folders]


def layout_folder(name: str) -> Path:
    """A local folder with the small layout files of an encoder: the folder itself, or fetched from the hub.

    Raises:
        ArtifactError: the hub does not know the name, or cannot be reached and has nothing cached.
    """
    folder = Path(resolve_model(name))
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(_LAYOUT_FILES)))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{name}: not found as a folder or on the hub ({_first_line(error)})") from error


def empty_model(name: str, *, head: bool) -> Any:
    """The model's shape without its weights (on the meta device), from its config alone.

    Raises:
        ArtifactError: there is no readable config.
    """
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(resolve_model(name), trust_remote_code=False)
        with torch.device("meta"):
            return getattr(transformers, _MODELS[head]).from_config(config)
    except _UNREADABLE as error:
        raise ArtifactError(f"{name}: no usable config ({_first_line(error)})") from error


@contextmanager
def shapes_only(model: nn.Module) -> Iterator[None]:
    """Run an empty model on tensors that have shapes and no data, for as long as the block lasts; it costs nothing.

    Unlike those of the meta device, such tensors are treated as the CPU's: kernels and precision are chosen as there.

    Args:
        model: what `empty_model` made, in place.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
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


def saved_dtype(name: str, wanted: Dtype) -> torch.dtype:
    """The dtype asked for; `auto` is the one that the model's config names."""
    if wanted == "auto":
        from transformers import AutoConfig

        return getattr(AutoConfig.from_pretrained(resolve_model(name)), "dtype", None) or torch.float32
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype


def multiplies_bf16(device: torch.device) -> bool:
    """True where bfloat16 products are fast; a CPU without instructions for them is slower by far than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def working_dtype(name: str, wanted: Dtype, device: torch.device) -> Dtype:
    """The dtype to compute in: as asked for; `auto` is as saved, but float32 on a CPU that has nothing shorter."""
    if wanted != "auto" or device.type != "cpu":
        return wanted
    short = saved_dtype(name, "auto") in (torch.bfloat16, torch.float16)
    return "float32" if short and not multiplies_bf16(device) else "auto"


def revision(name: str) -> str | None:
    """The hub commit that a hub id stands for now; None for folders."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(resolve_model(name), trust_remote_code=False)
    commit: str | None = getattr(config, "_commit_hash", None)
    return commit


def default_device() -> torch.device:
    """CUDA, Apple's GPU or the CPU, whichever is there first."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def checked_device(name: str | torch.device | None) -> torch.device:
    """The device of that name; by default the GPU if there is one.

    Raises:
        ArtifactError: there is no such device.
    """
    try:
        device = torch.device(name or default_device())
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ArtifactError(f"device {str(name)!r} is not to be had here ({_first_line(error)}).") from error
    return device


def max_positions(model: Any, tokenizer: Any) -> int:
    """The longest text, in tokens, that both the model's positions and its tokenizer allow; 512 if neither says."""
    positions = getattr(text_config(model), "max_position_embeddings", None)
    limits = [positions and positions - position_offset(model), tokenizer.model_max_length]
    known = [int(limit) for limit in limits if limit and limit < 10**8]
    return min(known, default=512)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
