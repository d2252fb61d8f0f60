"""The files of a saved tokenizer: they must read texts as the tokenizer did that they were made of."""

import logging
from pathlib import Path
from typing import Any

from unmask.backbone.opened import plain_tokenizer
from unmask.backbone.pieces import SAMPLES
from unmask.errors import ArtifactError
from unmask.files import read_json, write_json
from unmask.text.control import special_tokens
from unmask.text.spans import special_affixes

logger = logging.getLogger(__name__)

_GENERAL = "PreTrainedTokenizerFast"  # takes tokenizer.json as it is, in transformers 4 and 5
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def hold_to_itself(folder: Path, tokenizer: Any) -> None:
    """Make the files of a saved tokenizer say what it does, or refuse.

    The flags for BOS and EOS must not contradict what tokenizer.json adds: classes of some versions build anew from
    them what is added. Classes that build more anew than that give way to the general one.

    Raises:
        ArtifactError: it still reads a text otherwise when it is opened again; names the text.
    """
    path = folder / "tokenizer_config.json"
    config = read_json(path)
    before, after = special_affixes(tokenizer)
    does = {"add_bos_token": tokenizer.bos_token_id in before, "add_eos_token": tokenizer.eos_token_id in after}
    mended = config | {key: value for key, value in does.items() if key in config}
    if mended != config:
        write_json(path, mended)
    text = _read_otherwise(folder, tokenizer)
    if text is None:
        return
    logger.info(
        f"The class {config.get('tokenizer_class')} reads {text!r} otherwise when it is saved; written as {_GENERAL}."
    )
    write_json(path, mended | {"tokenizer_class": _GENERAL})
    text = _read_otherwise(folder, tokenizer)
    if text is not None:
        raise ArtifactError(
            f"This tokenizer ({type(tokenizer).__name__}) reads {text!r} otherwise once it is saved and opened again."
        )


def write_for_transformers_4(folder: Path, max_length: int) -> None:
    """Let transformers 4 open a saved tokenizer, too, and what reads its files; texts are cut at `max_length`."""
    path = folder / "tokenizer_config.json"
    config = read_json(path) | {"tokenizer_class": _GENERAL, "model_max_length": max_length}
    extra = config.get("extra_special_tokens")
    more = {}
    if isinstance(extra, list):
        more = {"additional_special_tokens": config.pop("extra_special_tokens")}
    write_json(path, config | more)
    write_json(folder / "special_tokens_map.json", {k: config[k] for k in _NAMED if config.get(k)} | more)


def _read_otherwise(folder: Path, tokenizer: Any) -> str | None:
    """The first sample that the saved tokenizer reads otherwise."""
    again = plain_tokenizer(folder)
    texts = [*SAMPLES, *(f"a {token.content} b" for token in special_tokens(tokenizer).values())]
    pairs = zip(texts, tokenizer(texts)["input_ids"], again(texts)["input_ids"], strict=True)
    return next((text for text, ours, theirs in pairs if ours != theirs), None)
