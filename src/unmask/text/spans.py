"""Tokens and spans: which tokens of a rendered text count when it is pooled.

The span comes from the tokenizer's offset mapping of the whole string, in one call, so it is exact under prompts,
templates, truncation and empty input. Special tokens, instruction and template are outside unless asked for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmask.errors import ArtifactError, DataError
from unmask.text.chunks import chunks
from unmask.text.control import ControlTokens
from unmask.text.prompts import Rendered

_CHARACTERS = 16  # of a text that are tokenized for each token that the model may read, at first
_TEXTS_AT_ONCE = 256  # what a tokenizer says of a text takes a hundred bytes a token until it is in arrays
_MARGIN = 64  # tokens by which what is tokenized must exceed what is kept, so that no kept token shows where it was cut


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """One text as the model reads it.

    Attributes:
        ids: token ids, int64 [tokens].
        offsets: character span of each token, relative to the user's text, int64 [tokens, 2].
        pooled: True for the tokens that are averaged or picked, bool [tokens]. Never all False.
        in_text: True for the tokens of the user's own text, bool [tokens]; all False for an empty text.
        truncated: the text lost tokens, because it had too many.
    """

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    pooled: NDArray[np.bool_]
    in_text: NDArray[np.bool_]
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.ids)


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse a tokenizer that cannot say where its tokens come from.

    Raises:
        ArtifactError: the tokenizer is not one of the fast (offset-giving) kind.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ArtifactError(
            f"{type(tokenizer).__name__} gives no offsets, so spans cannot be exact. Save the tokenizer as "
            "tokenizer.json (a fast tokenizer) and load it again."
        )


def special_affixes(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after every text."""
    encoding = tokenizer("a", return_special_tokens_mask=True)
    ids, special = encoding["input_ids"], encoding["special_tokens_mask"]
    own = [i for i, is_special in enumerate(special) if not is_special]
    first, last = (own[0], own[-1]) if own else (len(ids), len(ids))
    return list(ids[:first]), list(ids[last + 1 :])


def tokenize(
    tokenizer: Any,
    texts: Sequence[Rendered],
    *,
    max_length: int,
    include_special_tokens: bool = False,
    include_prompt: bool = False,
    control: ControlTokens | None = None,
) -> list[TokenizedText]:
    """Tokenize rendered texts and mark their spans.

    A text that is too long loses tokens from the end of the user's own text; instruction, template and special
    tokens stay, so the model always sees the form it was trained on. Characters far beyond its last token are not
    tokenized at all. A text without any token of its own is pooled over whatever the model reads (its special
    tokens), so that every text has a vector.

    Args:
        tokenizer: a fast transformers tokenizer.
        texts: what `render` made.
        max_length: most tokens of one text, special tokens included.
        include_special_tokens: pool special tokens too (not those of a chat template: they are its text; nor those in
            front of a prompt that is not pooled).
        include_prompt: pool instruction and template too.
        control: keeps control tokens that a template did not write out of rendered texts that hold such tokens;
            without it their spelling in a user's text is one as well.

    Raises:
        DataError: the prompt and template alone fill `max_length`.
    """
    marked: list[TokenizedText | None] = [None] * len(texts)
    wanted, characters = list(range(len(texts))), _CHARACTERS * max_length
    while wanted:
        cut = [texts[row].cut(characters) for row in wanted]
        encoded = chain.from_iterable(_encode(tokenizer, some, control) for some in chunks(cut, _TEXTS_AT_ONCE))
        rows = zip(wanted, cut, encoded, strict=True)
        wanted, characters = [], 8 * characters
        for row, rendered, (ids, spans, own) in rows:
            spare = len(ids) - max_length
            if rendered is not texts[row] and spare < _MARGIN:  # the cut may be seen in what is kept: cut later
                wanted.append(row)
                continue
            text = _mark_span(rendered, ids, spans, own, max_length)
            # Special tokens in front of a prompt that is left out are left out with it, as sentence-transformers does.
            behind = rendered.start > 0 and not include_prompt
            marked[row] = _widen(text, include_special_tokens, include_prompt, behind=behind)
    return [text for text in marked if text is not None]


def _encode(
    tokenizer: Any, texts: Sequence[Rendered], control: ControlTokens | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]]:
    """Ids, character spans, and False on special tokens, of each text."""
    encoding = tokenizer(
        [rendered.text for rendered in texts],
        add_special_tokens=not texts[0].has_special_tokens,
        split_special_tokens=tokenizer.split_special_tokens and not texts[0].has_special_tokens,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        truncation=False,
        verbose=False,
    )
    rows = zip(encoding["input_ids"], encoding["offset_mapping"], encoding["special_tokens_mask"], strict=True)
    filler = _filler_id(tokenizer)
    for rendered, (numbers, offsets, special) in zip(texts, rows, strict=True):
        if not numbers:  # an empty text and a tokenizer that adds nothing: the model must read something
            numbers, offsets, special = [filler], [(0, 0)], [1]
        ids, spans, own = np.asarray(numbers), np.asarray(offsets).reshape(-1, 2), np.asarray(special) == 0
        spans = _without_spaces(rendered, spans)
        if rendered.has_special_tokens and control is not None and control.among(rendered, ids, spans):
            ids, spans = control.encode(rendered)
            spans = _without_spaces(rendered, spans)
            own = np.ones(len(ids), dtype=bool)
        yield ids, spans, own


def _without_spaces(rendered: Rendered, spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """Spans where a token of prompt or template has nothing of the text, if all it takes of it is white space.

    Added tokens may take the spaces beside them (`rstrip`, `lstrip`), other tokens hold several line ends.
    """
    start, end = rendered.start, rendered.end
    if not start and end == len(rendered.text):
        return spans
    spans = spans.copy()
    for row in np.flatnonzero((spans[:, 0] < start) & (spans[:, 1] > start)):
        if rendered.text[start : min(end, spans[row, 1])].isspace():
            spans[row, 1] = start
    for row in np.flatnonzero((spans[:, 0] < end) & (spans[:, 1] > end)):
        if rendered.text[max(start, spans[row, 0]) : end].isspace():
            spans[row, 0] = end
    return spans


def _mark_span(
    rendered: Rendered,
    ids: NDArray[np.int64],
    spans: NDArray[np.int64],
    own: NDArray[np.bool_],
    max_length: int,
) -> tuple[TokenizedText, NDArray[np.bool_]]:
    """Find the span of one text and shorten it where it is too long; `own` is False on special tokens."""
    # The text's tokens run from the first that ends behind its start to the last that begins before its end.
    # Taken as a run, because some tokenizers report whitespace tokens with an empty span.
    inside = np.flatnonzero(own & (spans[:, 1] > rendered.start) & (spans[:, 0] < rendered.end))
    in_text = np.zeros(len(ids), dtype=bool)
    if len(inside):
        in_text[inside[0] : inside[-1] + 1] = own[inside[0] : inside[-1] + 1]
    excess = len(ids) - max_length
    if excess > 0:
        text_tokens = np.flatnonzero(in_text)
        if excess >= len(text_tokens):
            raise DataError(
                f"The prompt and template take {len(ids) - len(text_tokens)} tokens, which leaves no room for "
                f"the text in max_length={max_length}. Shorten the prompt or raise max_length."
            )
        keep = np.ones(len(ids), dtype=bool)
        keep[text_tokens[-excess:]] = False
        ids, spans, in_text, own = ids[keep], spans[keep], in_text[keep], own[keep]
    offsets = spans - rendered.start + rendered.trimmed
    return TokenizedText(ids, offsets, in_text, in_text, truncated=excess > 0), own


def _widen(
    marked: tuple[TokenizedText, NDArray[np.bool_]], include_special_tokens: bool, include_prompt: bool, *, behind: bool
) -> TokenizedText:
    """Decide what is pooled (`behind`: nothing in front of the text); one without tokens is pooled over everything."""
    text, own = marked
    pooled = text.in_text | (own if include_prompt else False) | (~own if include_special_tokens else False)
    if behind:
        pooled[: text.in_text.argmax()] = False
    if not text.in_text.any():
        pooled = np.ones_like(pooled)
    return replace(text, pooled=pooled)


def _filler_id(tokenizer: Any) -> int:
    """The token an empty text is made of where the tokenizer adds none of its own."""
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        if token_id is not None:
            return int(token_id)
    return 0
