"""The states of a text's own tokens, with the characters that each stands for."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from unmask.encoder.runner import Runner
from unmask.encoder.stream import Floats, check_finite, model_batches
from unmask.text.checks import ordered
from unmask.text.reader import Reader


class Parts(Protocol):
    """What reads texts and what runs them, as an encoder has both."""

    reader: Reader
    runner: Runner


@dataclass(frozen=True, slots=True)
class TokenVectors:
    """The states of one text's own tokens: vectors float32 [tokens, width], offsets int64 [tokens, 2] (characters)."""

    vectors: Floats
    offsets: NDArray[np.int64]


def token_vectors(encoder: Parts, texts: Iterable[str], *, batch_tokens: int | None = None) -> list[TokenVectors]:
    """See `TextEncoder.encode_tokens`."""
    texts = list(ordered(texts))
    tokenized = encoder.reader.tokenize(texts)
    found: dict[int, TokenVectors] = {}
    for rows, batch in model_batches(encoder.reader, encoder.runner, tokenized, batch_tokens):
        states = encoder.runner.states(batch)[0].float().cpu()
        for row, own in zip(rows, states.split([len(tokenized[row]) for row in rows]), strict=True):
            text = tokenized[row]
            found[row] = TokenVectors(own[torch.from_numpy(text.in_text)].numpy(), text.offsets[text.in_text])
    for row, own_vectors in sorted(found.items()):
        repeated = [texts[row]] * len(own_vectors.vectors)
        check_finite(own_vectors.vectors, repeated, f"tokens of text {row}, rows")
    return [found[row] for row in range(len(texts))]
