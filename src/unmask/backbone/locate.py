"""Where a model, tokenizer or adapter is: a hub id, a folder, a GGUF file; `pocket` and `smollm2` are names of such.

So are those of the adapters over `smollm2` that come along (pretrained.py).
"""

from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from unmask.backbone.gguf import is_gguf, smollm2_file, unpacked
from unmask.backbone.pieces import as_sentencepiece, is_sentencepiece, require_sentencepiece
from unmask.backbone.pretrained import pretrained_folder
from unmask.backbone.structure import first_line
from unmask.errors import ArtifactError
from unmask.files import read_json, refuse_pointers
from unmask.text.control import read_spellings_as_text
from unmask.text.promises import keep_promises

_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"),
    *("spm.model", "sentencepiece.model"),
)
_WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json")
_MODEL_WEIGHTS = ("model*.safetensors", "pytorch_model*")
_READ_SUFFIXES = (".safetensors", ".json", ".model", ".txt", ".jinja")
SCORES = "scores.json"  # in an encoder folder; nothing that is computed follows from it
_GRAPHS = ("onnx", "openvino")
_GGUF = ".gguf"
_BUNDLED = ("pocket", "smollm2")
_ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# All that is read beside the weights of a model or adapter; a hub id's are fetched together, before any is looked at.
_SMALL_FILES = ("*.json", "*.jinja", "merges.txt", "bpe.codes", *_TOKENIZER_FILES, "pooling.safetensors")


def resolve_model(name: str) -> str:
    """A local folder as it is, a GGUF file as the folder it is unpacked into, `pocket` as the bundled decoder.

    Anything else is a hub id.

    Raises:
        ArtifactError: a path that is not there, or a folder that holds no model, or one without tokenizer; a file that
            is no GGUF, or one that cannot be read right.
        MissingExtraError: `smollm2`, or what reads GGUF files, is not installed.
    """
    folder = pretrained_folder(name) or Path(name)
    refuse_pointers([folder])
    file = gguf_file(name)
    if file is not None:
        return str(unpacked(file))
    if name == "pocket" and not folder.exists():
        with as_file(files("unmask") / "demo" / "pocket") as bundled:
            return str(bundled)
    if folder.is_file():
        raise ArtifactError(
            f"{name} is a file, and no GGUF; give such a file, or a folder with config.json, weights and tokenizer."
        )
    if folder.is_dir():
        _check_folder(folder)
        return str(folder)
    if looks_like_path(name):
        kind = "file" if folder.suffix == _GGUF else "folder"
        raise ArtifactError(f"No {kind} {name!r}. Give a model folder, a GGUF file, a hub id, or `pocket`.")
    return name


def gguf_file(name: str) -> Path | None:
    """The GGUF file that a name stands for, `smollm2` among them; None for other names.

    Raises:
        MissingExtraError: `smollm2` is not installed.
    """
    path = Path(name)
    if name == "smollm2" and not path.exists():
        return smollm2_file()
    return path if is_gguf(path) else None


def looks_like_path(name: str) -> bool:
    """True for what cannot be a hub id."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip() or name.endswith(_GGUF)


def _check_folder(folder: Path) -> None:
    refuse_pointers(model_files(folder))
    _refuse_adapter(folder, str(folder))
    if not (folder / "config.json").is_file():
        raise ArtifactError(f"{folder} holds no config.json, so it is not a model folder.")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ArtifactError(
            f"{folder} holds a model but no tokenizer (looked for {', '.join(_TOKENIZER_FILES)}). "
            "Save the tokenizer beside it with tokenizer.save_pretrained."
        )
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHT_FILES):
        if any((folder / name).is_dir() for name in _GRAPHS):
            raise ArtifactError(
                f"{folder} is an export for ONNX Runtime or OpenVINO, which read it; give the encoder it was made from."
            )
        raise ArtifactError(f"{folder} holds no .safetensors weights. Pickled weights are not read; convert them.")


def _holds_adapter(folder: Path) -> bool:
    """True for an adapter without a model beside it."""
    weights = any(any(folder.glob(pattern)) for pattern in _MODEL_WEIGHTS)
    return (folder / _ADAPTER).is_file() and not weights


def _refuse_adapter(folder: Path, name: str) -> None:
    if _holds_adapter(folder):
        check_adapter(folder)
        raise ArtifactError(
            f"{name} is a LoRA adapter, and a whole model is needed here; TextEncoder.load(...).save(...) makes one."
        )


def check_adapter(folder: Path) -> None:
    """Refuse an adapter folder that holds another kind than LoRA, or no adapter.

    Raises:
        ArtifactError: what it holds instead.
    """
    refuse_pointers(model_files(folder))
    config = read_json(folder / _ADAPTER)
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise ArtifactError(f"{folder} is an adapter of the type {kind}; only LoRA adapters are read.")


def model_files(folder: Path) -> list[Path]:
    """What is read of a model, encoder or adapter folder: weights, configs, tokenizer."""
    found = [p for pattern in ("*", "*/config.json") for p in folder.glob(pattern)]
    return sorted(p for p in found if p.suffix in _READ_SUFFIXES and p.name != SCORES)


def load_tokenizer(name: str, adapters: Sequence[Path] = ()) -> Any:
    """The fast tokenizer of a model; where it has no pad token, EOS stands in (padding is masked everywhere).

    What a text spells is text, `<s>` too, unless an encoder's own tokenizer_config.json says otherwise. BOS and EOS are
    put around texts where that file promises it.

    Args:
        name: of the model.
        adapters: folders of its adapters, which may bring a tokenizer with tokens that the base's has not.

    Raises:
        ArtifactError: there is none, or it cannot be read, or it does not do what its files promise.
    """
    from transformers import AutoConfig, AutoTokenizer

    source = resolve_model(name)
    layout = layout_folder(name)
    own = [folder for folder in adapters if any((folder / file).is_file() for file in _TOKENIZER_FILES)]
    folder = own[-1] if own else layout
    pieces = folder / "tokenizer.model"
    has_pieces = pieces.is_file() and is_sentencepiece(pieces)
    serialized = folder / "tokenizer.json" if (folder / "tokenizer.json").is_file() else None
    if has_pieces and serialized is None:
        require_sentencepiece(pieces)
    try:
        if own:  # an adapter folder has no config.json that would say which tokenizer it is
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(str(folder), config=config, trust_remote_code=False)
        else:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{folder if own else name}: no usable tokenizer ({first_line(error)})") from error
    fast = getattr(tokenizer, "is_fast", False)
    # An encoder of sentence-transformers is read as that library reads it.
    if fast and has_pieces and not (folder / "modules.json").is_file():
        tokenizer = as_sentencepiece(tokenizer, pieces, serialized)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token or tokenizer.unk_token
    if not fast:
        return tokenizer
    # Tools write this key into the configs of bare models, unasked; an encoder's own means it.
    asked = not tokenizer.init_kwargs.get("split_special_tokens", True) and (layout / "modules.json").is_file()
    if not asked:
        read_spellings_as_text(tokenizer)
    keep_promises(tokenizer, read_json(folder / "tokenizer_config.json", missing={}), name)
    return tokenizer


def adapter_folder(name: str) -> Path | None:
    """The folder of a LoRA adapter, local or fetched from the hub; None if the name stands for a whole model.

    Raises:
        ArtifactError: an adapter of another kind; a name that the hub does not know, or cannot be asked for.
    """
    local = pretrained_folder(name) or Path(name)
    if local.is_dir():
        folder = local
    elif name in _BUNDLED or Path(name).is_file() or looks_like_path(name):
        return None
    else:
        folder = _fetched(name)
    if not _holds_adapter(folder):
        return None
    check_adapter(folder)
    return folder if local.is_dir() else _fetched(name, ADAPTER_WEIGHTS)


def find_adapters(name: str, adapters: Sequence[str]) -> tuple[str, list[Path]]:
    """The base model, as it was named, and the adapter folders that a name and further adapters stand for.

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
        resolve_model(name)
        return name, folders
    base = read_json(own / _ADAPTER).get("base_model_name_or_path")
    if not base:
        raise ArtifactError(f"{name} is a LoRA adapter that names no base model; give the base, and it in `adapters`.")
    resolve_model(base)
    return base, [own, *folders]


def layout_folder(name: str) -> Path:
    """A local folder with all of a model or encoder but its weights: the folder itself, or fetched from the hub.

    Raises:
        ArtifactError: an adapter; the hub does not know the name, or cannot be reached and has nothing cached.
    """
    folder = Path(resolve_model(name))
    if folder.is_dir():
        return folder
    folder = _fetched(name)
    _refuse_adapter(folder, name)
    return folder


def _fetched(name: str, *more: str) -> Path:
    """The small files of a hub id, and more."""
    try:
        return Path(snapshot_download(name, allow_patterns=[*_SMALL_FILES, *more]))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{name}: not found as a folder or on the hub ({first_line(error)})") from error


def sentencepiece_file(name: str) -> Path | None:
    """The tokenizer.model of a model folder or of a hub id whose files are here; None if there is none."""
    try:
        file = layout_folder(name) / "tokenizer.model"
    except ArtifactError:
        return None
    return file if file.is_file() and is_sentencepiece(file) else None


def revision(name: str) -> str | None:
    """The hub commit that a hub id stands for now; None for folders."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(resolve_model(name), trust_remote_code=False)
    return getattr(config, "_commit_hash", None)
