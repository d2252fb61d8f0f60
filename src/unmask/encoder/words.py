"""Word vectors: the mean of each word's token states, at one or more positions and layers, in one pass of the model."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from unmask.backbone.structure import num_layers
from unmask.encoder.stream import Floats, model_batches
from unmask.encoder.tokens import Parts
from unmask.errors import DataError, EncodingError
from unmask.text.checks import ordered
from unmask.text.words import checked_words, word_tokens

WordPosition = Literal["same", "previous"]
Index = tuple[torch.Tensor, torch.Tensor]


def word_vectors(
    encoder: Parts, texts: Iterable[Iterable[str]], *, position: WordPosition, batch_tokens: int | None = None
) -> list[Floats]:
    """The last layer's word vectors of each text, float32 [words, width]; errors as in `word_states`."""
    listed = [checked_words(words, index) for index, words in enumerate(ordered(texts))]
    found: list[Floats] = [np.empty((0, encoder.runner.dimension), dtype=np.float32)] * len(listed)
    for row, vectors in word_states(encoder, listed, positions=(position,), batch_tokens=batch_tokens):
        found[row] = vectors[0, 0]
    return found


def word_states(
    encoder: Parts,
    texts: Sequence[Sequence[str]],
    *,
    positions: Sequence[WordPosition] = ("same",),
    layers: Sequence[int] | None = None,
    batch_tokens: int | None = None,
    first: int = 0,
) -> Iterator[tuple[int, Floats]]:
    """The word vectors of each text, in the order in which batches come.

    Args:
        encoder: whose model reads the texts once.
        texts: each a list of words, read joined by single spaces.
        positions: `same` takes a token's own state; `previous` the state one token before, which is that of BOS for
            the first token of a text. Where a tokenizer puts nothing in front, the first token keeps its own state.
        layers: 0 is the embedding output, the number of layers the last state after the final norm (the default).
        batch_tokens: most tokens in a batch.
        first: what the first text is called in messages.

    Yields:
        Number of the text, and float32 [positions, layers, words, width].

    Raises:
        DataError: a text longer than `max_length` tokens, or not a list of words; a layer that is not there.
        EncodingError: a vector that is not finite.
    """
    reader, runner = encoder.reader, encoder.runner
    last = num_layers(runner.model)
    wanted = list(layers) if layers is not None else [last]
    for layer in wanted:
        if not 0 <= layer <= last:
            raise DataError(f"No layer {layer}; this model has 0 (embeddings) to {last}.")
    tokenized = reader.tokenize_words(texts)
    limit = reader.settings.max_length
    for rows, batch in model_batches(reader, runner, tokenized, batch_tokens):
        counts = [len(texts[row]) for row in rows]
        found = [word_tokens(tokenized[row], texts[row], first + row, limit) for row in rows]
        states = runner.states(batch, wanted)
        with torch.inference_mode():
            lengths = [len(tokenized[row]) for row in rows]
            means = [_means(states, _index(found, counts, lengths, position), sum(counts)) for position in positions]
        vectors = np.stack(means)
        start = 0
        for row, count in zip(rows, counts, strict=True):
            own = vectors[:, :, start : start + count]
            if not np.isfinite(own).all():
                start_of_text = " ".join(texts[row][:5])
                raise EncodingError(
                    f"Text {first + row} ({start_of_text} ...) has word vectors that are not finite. Try dtype float32."
                )
            yield row, own
            start += count


def _index(
    found: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    counts: Sequence[int],
    lengths: Sequence[int],
    position: WordPosition,
) -> Index:
    """For every token of every word of a batch: its place in the row of all texts, and the number of its word."""
    first_words = np.concatenate([[0], np.cumsum(counts)[:-1]])
    first_tokens = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    places, numbers = [], []
    for (tokens, words), first_token, first_word in zip(found, first_tokens, first_words, strict=True):
        places.append(first_token + (np.maximum(tokens - 1, 0) if position == "previous" else tokens))
        numbers.append(first_word + words)
    return torch.from_numpy(np.concatenate(places)), torch.from_numpy(np.concatenate(numbers))


def _means(states: Sequence[torch.Tensor], index: Index, num_words: int) -> Floats:
    """Mean state of each word, float32 [layers, words, width]."""
    places, words = (x.to(states[0].device) for x in index)
    counts = torch.bincount(words, minlength=num_words).clamp(min=1)[:, None]
    means = []
    for layer in states:
        sums = torch.zeros(num_words, layer.shape[-1], device=layer.device)
        means.append(sums.index_add_(0, words, layer[places].float()) / counts)
    result: Floats = torch.stack(means).cpu().numpy()
    return result
