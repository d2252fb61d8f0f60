"""What saved folders say of an encoder: ours, any sentence-transformers one, and those of the released llm2vec."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unmask.backbone.locate import SCORES
from unmask.encoder.fingerprint import is_fingerprint
from unmask.encoder.layout import read_layout
from unmask.errors import ArtifactError
from unmask.files import read_json
from unmask.settings import EncoderSettings
from unmask.text.prompts import ChatWrapper

_RELEASED = "llm2vec_config.json"


def last_that_says(folders: Sequence[Path]) -> Path:
    """Of a model's folder and those of its adapters the last that says how texts become vectors; else the model's."""
    names = ("unmask.json", _RELEASED, "modules.json")
    saying = [folder for folder in folders if any((folder / name).is_file() for name in names)]
    return [folders[0], *saying][-1]


def as_saved(settings: EncoderSettings, lineage: Mapping[str, Any], chat: ChatWrapper | None) -> dict[str, Any]:
    """What `unmask.json` says of an encoder; what a template wrote stays as it is now, for some write the date."""
    wrapped = {} if chat is None else {"chat": asdict(chat)}
    return {"settings": settings.model_dump(), "lineage": dict(lineage), **wrapped}


def read_lineage(folder: Path) -> dict[str, Any]:
    """Where an encoder's weights came from, as saved; empty for folders that say nothing about it."""
    own = folder / "unmask.json"
    if own.is_file():
        return dict(read_json(own).get("lineage") or {})
    if (folder / _RELEASED).is_file():  # every adapter that the paper's authors published went through MNTP
        return {"stages": [{"name": "mntp", "settings": {"objective": "mntp"}}]}
    return {}


def all_stages(lineage: Mapping[str, Any]) -> list[Any]:
    """What an encoder went through, in the runs before the one that made it and in that."""
    return [stage for key in ("base_stages", "stages") for stage in lineage.get(key) or []]


def objectives(lineage: Mapping[str, Any]) -> set[str]:
    """What an encoder was trained by."""
    return {str(stage.get("settings", {}).get("objective")) for stage in all_stages(lineage)}


def read_fingerprint(folder: Path) -> str | None:
    """The fingerprint that an encoder had when it was saved; None where none was written. Weights may have changed."""
    saved = read_json(folder / "unmask.json", missing={}).get("fingerprint")
    return saved if is_fingerprint(saved) else None


def read_scores(folder: Path) -> dict[str, Any]:
    """What an encoder scored: `figures` by rung and name, its `fingerprint`, what they were `found_by`; or nothing."""
    return dict(read_json(folder / SCORES, missing={}))


def read_attention(folder: Path) -> dict[str, Any]:
    """How the model of an adapter folder attends: attention, recurrent, window; empty if it does not say."""
    own = folder / "unmask.json"
    if own.is_file():
        saved = read_json(own)
        return {key: saved[key] for key in ("attention", "recurrent", "window") if saved.get(key)}
    return {"attention": "bidirectional"} if (folder / _RELEASED).is_file() else {}


def read_chat(folder: Path) -> ChatWrapper | None:
    """What an encoder put around every text when it was saved; None if it says nothing.

    Raises:
        ArtifactError: something else stands there.
    """
    own = folder / "unmask.json"
    saved = read_json(own).get("chat") if own.is_file() else None
    if saved is None:
        return None
    try:
        return ChatWrapper(**saved)
    except TypeError as error:
        raise ArtifactError(f"{own} is not what this version writes ({error}).") from error


def is_foreign(folder: Path) -> bool:
    """True for a sentence-transformers folder that this package did not write."""
    ours = any((folder / name).is_file() for name in ("unmask.json", _RELEASED))
    return (folder / "modules.json").is_file() and not ours


def read_settings(folder: Path, default_length: int) -> EncoderSettings | None:
    """The settings of an encoder folder, ours or any sentence-transformers one; None for a bare model.

    Raises:
        ArtifactError: something that this package does not do (see `layout`), or a broken file.
    """
    if (folder / _RELEASED).is_file():
        return _released_settings(read_json(folder / _RELEASED))
    own = folder / "unmask.json"
    if own.is_file():
        try:
            return EncoderSettings(**read_json(own)["settings"])
        except (TypeError, KeyError, ArtifactError) as error:
            raise ArtifactError(f"{own} is not what this version writes ({error}).") from error
    return read_layout(folder, default_length).settings if is_foreign(folder) else None


def _released_settings(config: dict[str, Any]) -> EncoderSettings:
    """What the released `llm2vec` writes into its folders; its `eos_token` is a text's last token, none is added."""
    names = {"eos_token": "last", "last_token": "last", "bos_token": "first"}
    mode = str(config.get("pooling_mode", "mean"))
    return EncoderSettings(
        pooling=names.get(mode, mode),
        max_length=int(config.get("max_length", 512)),
        include_special_tokens=False,
        include_prompt=not config.get("skip_instruction", True),
    )
