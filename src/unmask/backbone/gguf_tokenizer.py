"""The tokenizer of a GGUF file, split as the published one.

A file names its pre-tokenizer (`tokenizer.ggml.pre`) and holds no rule. transformers knows some of the names and
splits by GPT-2's rule where it does not; here a name without a rule is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.backbone.pieces import with_backend
from unmask.backbone.structure import MODEL_ERRORS, first_line
from unmask.errors import ArtifactError
from unmask.text.promises import surround
from unmask.text.spans import special_affixes

_CONTROL, _USER_DEFINED = 3, 4  # types of tokens
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_QWEN35 = _QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class _Rule:
    """How a published tokenizer splits.

    Attributes:
        pattern: what the pieces of a text match; None for GPT-2's.
        digits: every digit is cut off first.
        whole: a piece that is a token is taken without merging.
        bos: BOS is put before texts where the file says neither.
        composed: characters are composed first (NFC).
    """

    pattern: str | None = None
    digits: bool = False
    whole: bool = False
    bos: bool = False
    composed: bool = False


# llama.cpp's table of these names (src/llama-vocab.cpp), as far as the tokenizer.json of the models is known to agree.
_DIGITS, _LLAMA = _Rule(digits=True), _Rule(_LLAMA3, whole=True, bos=True)
_RULES = {
    **dict.fromkeys(("gpt-2", "phi-2"), _Rule()),
    **dict.fromkeys(("smollm", "starcoder", "refact"), _DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "lfm2"), _LLAMA),
    "dbrx": _Rule(_LLAMA3),
    "qwen2": _Rule(_QWEN2, composed=True),
    "qwen35": _Rule(_QWEN35, composed=True),
    "tekken": _Rule(_TEKKEN, whole=True, bos=True),
}


def check_tokenizer(path: Path, values: Mapping[str, Any]) -> None:
    """Refuse a file whose tokenizer is missing, or is split by a rule that is not known.

    Raises:
        ArtifactError: names what is missing, or the rule.
    """
    kind, rule = values.get("tokenizer.ggml.model"), values.get("tokenizer.ggml.pre")
    needed = ("tokens", "token_type", "merges" if kind == "gpt2" else "scores")
    missing = [key for key in ("model", *needed) if f"tokenizer.ggml.{key}" not in values]
    if missing:
        raise ArtifactError(
            f"{path} is a GGUF file without a whole tokenizer (tokenizer.ggml.{missing[0]} is missing)."
        )
    if kind not in ("gpt2", "llama"):
        raise ArtifactError(f"{path} has a tokenizer of the kind {kind!r}, which is not read; gpt2 and llama are.")
    if values.get("tokenizer.ggml.remove_extra_whitespaces") or "tokenizer.ggml.precompiled_charsmap" in values:
        raise ArtifactError(f"{path} has a tokenizer that changes the characters of texts first, which is not read.")
    if kind == "gpt2" and rule not in _RULES:
        raise ArtifactError(
            f"{path} has the pre-tokenizer {rule!r} (tokenizer.ggml.pre), whose rule is not known here; known are "
            f"{', '.join(_RULES)}."
        )


def read_tokenizer(path: Path, folder: str, file: str, values: Mapping[str, Any]) -> Any:
    """The fast tokenizer of a GGUF file.

    Args:
        path: of the file as the user gave it.
        folder: where transformers finds it.
        file: its name there.
        values: its keys and values, which `check_tokenizer` passed.

    Raises:
        ArtifactError: it cannot be read, or would lose tokens.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        made = PreTrainedTokenizerFast.from_pretrained(folder, gguf_file=file)
        tokenizer = with_backend(made, made.backend_tokenizer)
    except MODEL_ERRORS as error:
        raise ArtifactError(f"{path}: no usable tokenizer ({first_line(error)}).") from error
    rule = _RULES[values["tokenizer.ggml.pre"]] if values["tokenizer.ggml.model"] == "gpt2" else None
    if rule is None:
        _follow_pieces(tokenizer.backend_tokenizer, prefix=values.get("tokenizer.ggml.add_space_prefix", True))
    else:
        _follow(tokenizer.backend_tokenizer, rule)
    _require_tokens(path, tokenizer, values)
    _put_around(path, tokenizer, values, bos=rule is None or rule.bos)
    return tokenizer


def _follow(backend: Any, rule: _Rule) -> None:
    from tokenizers import Regex, normalizers, pre_tokenizers

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule.pattern is None)
    before: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if rule.digits else []
    if rule.pattern is not None:
        before.append(pre_tokenizers.Split(Regex(rule.pattern), "isolated"))
    backend.pre_tokenizer = pre_tokenizers.Sequence([*before, level]) if before else level
    backend.normalizer = normalizers.NFC() if rule.composed else None
    backend.model.ignore_merges = rule.whole


def _follow_pieces(backend: Any, *, prefix: bool) -> None:
    """Space texts as sentencepiece does: transformers always puts a space before them, but not before another."""
    from tokenizers import normalizers

    front = [normalizers.Prepend("▁")] if prefix else []
    backend.normalizer = normalizers.Sequence([*front, normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = None


def _require_tokens(path: Path, tokenizer: Any, values: Mapping[str, Any]) -> None:
    """Refuse a tokenizer that has lost a control token, or one of the user's, or its number."""
    tokens, types = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    added = tokenizer.added_tokens_decoder
    for number, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind not in (_CONTROL, _USER_DEFINED) or str(added.get(number)) == token:
            continue
        if token.strip(" ") or tokenizer.convert_ids_to_tokens(number) != "▁" * len(token):  # Gemma's runs of spaces
            raise ArtifactError(f"{path}: the token {token!r} ({number}) is lost when its tokenizer is read.")


def _put_around(path: Path, tokenizer: Any, values: Mapping[str, Any], *, bos: bool) -> None:
    """Put BOS and EOS around texts as the file says; `bos` is what holds where it does not."""
    around = []
    for key, default, token in (("bos", bos, tokenizer.bos_token_id), ("eos", False, tokenizer.eos_token_id)):
        wanted = values.get(f"tokenizer.ggml.add_{key}_token", default)
        if wanted and token is None:
            raise ArtifactError(f"{path}: its tokenizer is to put {key.upper()} around texts, and has no such token.")
        around.append([token] if wanted else [])
    if special_affixes(tokenizer) != tuple(around) and not surround(tokenizer, *around):
        raise ArtifactError(f"{path}: its tokenizer cannot be made to put BOS and EOS around texts as the file says.")
