"""Control tokens (`<s>`, `<|im_end|>`): never made from a user's text that happens to spell one, unless asked for.

A tokenizer that splits special tokens reads their spelling as text; transformers' `split_special_tokens` says so, in
memory and in tokenizer_config.json, so that every runtime that reads that file does the same. A chat template writes
real control tokens into the string that also holds the user's text. Where the text spells one too, the string is read
by a copy of the tokenizer in which all spellings are text, and the template's own tokens have stand-ins as long.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmask.errors import ArtifactError
from unmask.text.chunks import chunks
from unmask.text.prompts import Rendered

_PRIVATE = 0xF0000  # first character of a private plane of Unicode, from which stand-ins are made
_STAND_IN = re.compile("[\U000f0000-\U000ffffd]")
_AROUND = ("a{0}a {0} a", "{0}", "{0}{0}", "\n{0}\n", "<{0}>")  # texts in which a spelling is tried
_RARE = "\U00010380"  # a letter that vocabularies lack
_OTHER_PRIVATE = "\U00100000"  # what a text's own characters of that plane are read as, so that none is a stand-in


def special_tokens(tokenizer: Any) -> dict[int, Any]:
    """The added tokens that are special, by their ids."""
    return {number: token for number, token in tokenizer.added_tokens_decoder.items() if token.special}


def read_spellings_as_text(tokenizer: Any) -> None:
    """Let a tokenizer read the spelling of a special token as text, now and in every runtime that loads it saved.

    Raises:
        ArtifactError: it makes a control token of such a text in any case.
    """
    tokenizer.split_special_tokens = True
    tokenizer.init_kwargs["split_special_tokens"] = True
    if found := _found_whole(tokenizer):
        _cut_spellings(tokenizer, found)
        if found := _found_whole(tokenizer):
            raise ArtifactError(
                f"This tokenizer reads {found[0]!r} in a text as that control token, and cannot be kept from it; say "
                '"special": false of that token in tokenizer.json and tokenizer_config.json if texts are to hold it.'
            )


def _found_whole(tokenizer: Any) -> list[str]:
    """The special tokens that a tokenizer finds where their spelling is to be text."""
    special = special_tokens(tokenizer)
    if not special:
        return []
    texts = [around.format(token.content) for token in special.values() for around in _AROUND]
    rare, *encoded = tokenizer([_RARE, *texts], add_special_tokens=False)["input_ids"]
    # What a text has that the vocabulary lacks is the unknown token by rights.
    unknown = {*rare, tokenizer.unk_token_id}
    spelled = zip(special.items(), chunks(encoded, len(_AROUND)), strict=True)
    return [
        token.content
        for (number, token), some in spelled
        if number not in unknown and any(number in ids for ids in some)
    ]


@contextmanager
def spellings_as_tokens(tokenizer: Any) -> Iterator[None]:
    """For as long as the block lasts spellings are tokens, as what renders a chat template for a decoder needs them."""
    before = tokenizer.split_special_tokens
    tokenizer.split_special_tokens = False
    try:
        yield
    finally:
        tokenizer.split_special_tokens = before


def _cut_spellings(tokenizer: Any, tokens: list[str]) -> None:
    """Cut each spelling behind its first character before the model, which has the whole among its pieces, sees it."""
    from tokenizers import Regex, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    spelled = (f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in tokens if len(token) > 1)
    cut = pre_tokenizers.Split(Regex("|".join(spelled)), "isolated")
    before = [] if backend.pre_tokenizer is None else [backend.pre_tokenizer]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*before, cut])


def spelled_tokens(tokenizer: Any, text: str) -> list[str]:
    """The special tokens that a text spells."""
    return [token.content for token in special_tokens(tokenizer).values() if token.content in text]


class ControlTokens:
    """Reads strings in which a template's control tokens are real and those that a user's text spells are not.

    Args:
        tokenizer: a fast transformers tokenizer; safe to share between threads.
    """

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers import AddedToken, Tokenizer

        special = special_tokens(tokenizer)
        self._special = np.asarray(sorted(special), dtype=np.int64)
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        self._stand_ins: dict[str, str] = {}
        self._real: dict[int, int] = {}
        added = []
        for place, token in enumerate(special.values()):
            stand_in = chr(_PRIVATE + place) * len(token.content)
            flags = {"lstrip": token.lstrip, "rstrip": token.rstrip, "single_word": token.single_word}
            added.append(AddedToken(stand_in, normalized=False, special=False, **flags))
            self._stand_ins[token.content] = stand_in
        self._backend.add_tokens(added)  # all at once: every call takes time that grows with the tokens there are
        for number, token in special.items():
            self._real[int(self._backend.token_to_id(self._stand_ins[token.content]) or 0)] = number
        contents = sorted((token.content for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, contents)) or r"(?!)")

    def among(self, rendered: Rendered, ids: NDArray[np.int64], spans: NDArray[np.int64]) -> bool:
        """True where a token of the user's text is a control token."""
        inside = (spans[:, 1] > rendered.start) & (spans[:, 0] < rendered.end)
        return bool(np.isin(ids[inside], self._special).any())

    def encode(self, rendered: Rendered) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids and character spans of a rendered text, no special tokens added."""
        before, after = rendered.text[: rendered.start], rendered.text[rendered.end :]
        text = _STAND_IN.sub(_OTHER_PRIVATE, rendered.text[rendered.start : rendered.end])
        replaced = self._replace(before) + text + self._replace(after)
        encoding = self._backend.encode(replaced, add_special_tokens=False)
        ids = [self._real.get(number, number) for number in encoding.ids]
        return np.asarray(ids, dtype=np.int64), np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)

    def _replace(self, part: str) -> str:
        return self._any.sub(lambda found: self._stand_ins.get(found[0], found[0]), part)
