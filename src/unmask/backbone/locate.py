"""Where a model, tokenizer or adapter is: a hub id, a folder, or `pocket`, the decoder that comes with the package."""

from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from unmask.backbone.structure import first_line
from unmask.errors import ArtifactError
from unmask.files import read_json
from unmask.text.control import read_spellings_as_text
from unmask.text.pieces import as_sentencepiece, is_sentencepiece, require_sentencepiece
from unmask.text.promises import keep_promises

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json")
_MODEL_WEIGHTS = ("model*.safetensors", "pytorch_model*")
_ADAPTER = "adapter_config.json"
_LAYOUT_FILES = ("*.json", "*/config.json")


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

    What a text spells is text, `<s>` too, unless an encoder's own tokenizer_config.json says otherwise. BOS and EOS are
    put around texts where that file promises it.

    Raises:
        ArtifactError: there is none, or it cannot be read, or it does not do what its files promise.
    """
    from transformers import AutoTokenizer

    alone = _pieces(name)
    if alone and _fetched(name, "tokenizer.json") is None:
        require_sentencepiece(alone)
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve_model(name), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{name}: no usable tokenizer ({first_line(error)})") from error
    fast = getattr(tokenizer, "is_fast", False)
    # An encoder of sentence-transformers is read as that library reads it.
    if fast and (pieces := _pieces(name)) and _fetched(name, "modules.json") is None:
        tokenizer = as_sentencepiece(tokenizer, pieces, _fetched(name, "tokenizer.json"))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token or tokenizer.unk_token
    if not fast:
        return tokenizer
    if not _says_how_to_read_spellings(tokenizer, name):
        read_spellings_as_text(tokenizer)
    said = _fetched(name, "tokenizer_config.json")
    keep_promises(tokenizer, read_json(said) if said else {}, name)
    return tokenizer


def _pieces(name: str) -> Path | None:
    """The sentencepiece file of a tokenizer, if it has one."""
    found = _fetched(name, "tokenizer.model")
    return found if found is not None and is_sentencepiece(found) else None


def _fetched(name: str, file: str) -> Path | None:
    """A file of a model's folder, or of the hub's cache; None if it is not there."""
    source = resolve_model(name)
    if Path(source).is_dir():
        return Path(source) / file if (Path(source) / file).is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, file)
    return Path(found) if isinstance(found, str) else None


def _says_how_to_read_spellings(tokenizer: Any, name: str) -> bool:
    """True for an encoder whose tokenizer_config.json says it; tools write the key into bare models unasked."""
    if "split_special_tokens" not in tokenizer.init_kwargs:
        return False
    return (layout_folder(name) / "modules.json").is_file()


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
    base = read_json(own / _ADAPTER).get("base_model_name_or_path")
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
        raise ArtifactError(f"{name}: not found as a folder or on the hub ({first_line(error)})") from error


def revision(name: str) -> str | None:
    """The hub commit that a hub id stands for now; None for folders."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(resolve_model(name), trust_remote_code=False)
    commit: str | None = getattr(config, "_commit_hash", None)
    return commit
