"""A tokenizer beside the sentencepiece file that it was made from: it must split texts alike, and is mended if not."""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unmask.errors import ArtifactError

logger = logging.getLogger(__name__)

# Where tokenizers part: spaces, line ends, digits, case, accents, scripts, emoji, marks, characters nobody has.
SAMPLES = (
    *("word", " word", "  word", "word ", "word  ", "two  words", "three   words", "\tword", "a\tb", "\n", "a\nb"),
    *("a\n\nb", "a\r\nb", " ", "   ", "\u00a0word", "a\u3000b", "a\u200bb", "0", "7", "42", "1234567890", "3.14159"),
    *(
        "1,000,000",
        "2024-02-29",
        "Hello, world!",
        "HELLO",
        "iPhone",
        "don't",
        "it's 5 o'clock",
        "naïve café",
        "nai\u0308ve",
    ),
    *("Größe", "İstanbul", "ﬁne ligature", "½ Å ™", "Ελληνικά", "Русский", "日本語のテキスト", "中文 测试", "한국어"),
    *(
        "العربية",
        "עברית",
        "हिन्दी",
        "ไทย",
        "😀",
        "a 😀 b",
        "👩\u200d👩\u200d👧",
        "🇫🇷",
        "x_y __init__",
        "a/b\\c",
        "#tag @name",
    ),
    *("http://a.b/c?d=e&f", "<p>text</p>", '{"key": [1, 2]}', "def f(x):\n    return x", "\u2581word", "\ufffd"),
)


def is_sentencepiece(path: Path) -> bool:
    """True unless the file is a list of tokens in base64, as those of tiktoken are."""
    with path.open("rb") as file:
        return re.match(rb"[A-Za-z0-9+/=]+ \d+\s", file.read(200)) is None


def require_sentencepiece(path: Path) -> None:
    """Refuse a sentencepiece file that nothing else stands beside, where it could not be compared.

    Raises:
        ArtifactError: the package is not installed.
    """
    if find_spec("sentencepiece") is None:
        raise ArtifactError(
            f"{path} is a tokenizer of sentencepiece, and what is converted from it must be compared with it; "
            "pip install sentencepiece, or save the tokenizer as tokenizer.json."
        )


def as_sentencepiece(tokenizer: Any, path: Path, serialized: Path | None) -> Any:
    """A tokenizer that splits as a sentencepiece file does: the one given, or one mended.

    Without the package nothing is compared.

    Args:
        tokenizer: that transformers made of the folder.
        path: of the sentencepiece file.
        serialized: a tokenizer.json beside it.

    Raises:
        ArtifactError: none splits alike; names the first text that is split otherwise.
    """
    if find_spec("sentencepiece") is None:
        return tokenizer
    from sentencepiece import SentencePieceProcessor

    original = SentencePieceProcessor(model_file=str(path))
    difference = _difference(tokenizer, original)
    if difference is None:
        return tokenizer
    text, theirs, ours = difference
    for backend in _others(tokenizer, original, serialized):
        mended = with_backend(tokenizer, backend)
        if _difference(mended, original) is None:
            logger.warning(
                f"{path} splits {text!r} into {theirs}, and the tokenizer that transformers makes of this folder into "
                f"{ours}; the file is followed, here and where the tokenizer is saved."
            )
            return mended
    cure = (
        f"in a copy of the folder, remove {path.name} to follow {serialized.name}, or {serialized.name} to follow "
        f"{path.name}, whichever is not the one the model was trained with."
        if serialized
        else f"in a copy of the folder, put the tokenizer.json of the model's authors in the place of {path.name}."
    )
    raise ArtifactError(
        f"{path} splits {text!r} into {theirs}, but the tokenizer that transformers makes of this folder into {ours}; "
        + cure
    )


def _difference(tokenizer: Any, original: Any) -> tuple[str, list[str], list[str]] | None:
    """The first sample that two tokenizers split otherwise, and how."""
    unknown = str(tokenizer.unk_token)
    later = [t.content for i, t in tokenizer.added_tokens_decoder.items() if i >= original.get_piece_size()]
    for text in (text for text in SAMPLES if not any(token in text for token in later)):
        ids = original.encode(text)
        theirs = _joined([unknown if i == original.unk_id() else original.id_to_piece(i) for i in ids], unknown)
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        ours = _joined(tokenizer.convert_ids_to_tokens(found), unknown)
        if ours != theirs:
            return text, theirs, ours
    return None


def _joined(pieces: Sequence[str], unknown: str) -> list[str]:
    """Pieces, with several unknown ones in a row as one."""
    return [p for i, p in enumerate(pieces) if p != unknown or i == 0 or pieces[i - 1] != unknown]


def _others(tokenizer: Any, original: Any, serialized: Path | None) -> Iterator[Any]:
    """Backends that may split alike: tokenizer.json as it is; the pieces merged and spaced as in sentencepiece."""
    from tokenizers import Tokenizer

    if serialized is not None:
        yield Tokenizer.from_file(str(serialized))
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    if backend["model"]["type"] == "BPE":
        backend["model"]["merges"] = _merges(original, backend["model"]["vocab"])
    for front in ([{"type": "Prepend", "prepend": "▁"}], []):
        made = {**backend, "normalizer": {"type": "Sequence", "normalizers": [*front, spaces]}, "pre_tokenizer": None}
        yield Tokenizer.from_str(json.dumps(made))


def _merges(original: Any, vocabulary: dict[str, int]) -> list[list[str]]:
    """Pairs of pieces in the order in which sentencepiece merges them: that of their scores, not of their numbers."""
    scored = []
    for number in range(original.get_piece_size()):
        piece, score = original.id_to_piece(number), original.get_score(number)
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        pairs = [pair for pair in halves if piece in vocabulary and pair[0] in vocabulary and pair[1] in vocabulary]
        pairs.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        scored += [(score, pair) for pair in pairs]
    scored.sort(key=lambda one: (one[0], len(one[1][0]), len(one[1][1])), reverse=True)
    return [list(pair) for _, pair in scored]


def with_backend(tokenizer: Any, backend: Any) -> Any:
    """A tokenizer on another backend; of the general class, which saves and loads its backend as it is."""
    from transformers import PreTrainedTokenizerFast

    backend.post_processor = tokenizer.backend_tokenizer.post_processor
    kept = ("model_max_length", "padding_side", "model_input_names", "chat_template", "clean_up_tokenization_spaces")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        name_or_path=tokenizer.name_or_path,
        added_tokens_decoder=tokenizer.added_tokens_decoder,
        **tokenizer.special_tokens_map,
        **{key: getattr(tokenizer, key) for key in kept if getattr(tokenizer, key, None) is not None},
    )
