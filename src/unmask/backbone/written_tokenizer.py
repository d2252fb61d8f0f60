"""The files of a saved tokenizer: they must read texts as the tokenizer did that they were made of."""

from pathlib import Path
from typing import Any

from unmask.backbone.opened import plain_tokenizer
from unmask.backbone.pieces import SAMPLES
from unmask.errors import ArtifactError
from unmask.files import read_json, write_json
from unmask.text.control import special_tokens
from unmask.text.spans import special_affixes

_GENERAL = "PreTrainedTokenizerFast"  # takes tokenizer.json as it is, in transformers 4 and 5
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def hold_to_itself(folder: Path, tokenizer: Any) -> None:
    """Make the files of a saved tokenizer say what it does, to transformers 4 and 5 alike, or refuse.

    They name the general class, because others build some of the tokenizer anew, each version in its own way, and
    special tokens by keys that both know. The flags for BOS and EOS must not contradict what tokenizer.json adds.

    Raises:
        ArtifactError: it reads a text otherwise when it is opened again; names the text.
    """
    path = folder / "tokenizer_config.json"
    config = read_json(path) | {"tokenizer_class": _GENERAL}
    before, after = special_affixes(tokenizer)
    does = {"add_bos_token": tokenizer.bos_token_id in before, "add_eos_token": tokenizer.eos_token_id in after}
    config |= {key: value for key, value in does.items() if key in config}
    named = {key: config[key] for key in _NAMED if config.get(key)}
    if isinstance(config.get("extra_special_tokens"), list):  # of version 5; version 4 does not open such a file
        named["additional_special_tokens"] = config["additional_special_tokens"] = config.pop("extra_special_tokens")
    write_json(path, config)
    write_json(folder / "special_tokens_map.json", named)
    text = _read_otherwise(folder, tokenizer)
    if text is not None:
        raise ArtifactError(
            f"This tokenizer ({type(tokenizer).__name__}) reads {text!r} otherwise once it is saved and opened again."
        )


def cut_at(folder: Path, max_length: int) -> None:
    """Let what reads a saved tokenizer's files alone cut texts where the encoder does."""
    path = folder / "tokenizer_config.json"
    write_json(path, read_json(path) | {"model_max_length": max_length})


def _read_otherwise(folder: Path, tokenizer: Any) -> str | None:
    """The first sample that the saved tokenizer reads otherwise."""
    again = plain_tokenizer(folder)
    texts = [*SAMPLES, *(f"a {token.content} b" for token in special_tokens(tokenizer).values())]
    pairs = zip(texts, tokenizer(texts)["input_ids"], again(texts)["input_ids"], strict=True)
    return next((text for text, ours, theirs in pairs if ours != theirs), None)
