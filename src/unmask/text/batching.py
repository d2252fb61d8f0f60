"""Batches filled to a token budget: texts of like length together, one after the other or padded, order remembered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch

from unmask.errors import DataError
from unmask.text.spans import TokenizedText

PaddingSide = Literal["left", "right"]
_SIZES = 64  # a filled batch has a multiple of so many tokens
_FILLED_FROM = 512  # tokens; what is smaller would lose more by it


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Texts as tensors, [rows, tokens] each; in every mask, True (or 1) means "this token is real/counts".

    Attributes:
        input_ids: token ids; padding holds the pad id.
        attention_mask: 1 where a text's own tokens are, 0 on padding.
        pooled: True where a token counts for the vector.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    pooled: torch.Tensor

    def to(self, device: torch.device | str) -> "PaddedBatch":
        """The same batch on another device."""
        return PaddedBatch(*(send(getattr(self, f.name), device) for f in fields(self)))

    @property
    def position_ids(self) -> torch.Tensor:
        """0, 1, 2 ... from each text's first token, [rows, tokens]."""
        return positions_of(self.attention_mask)

    @property
    def num_tokens(self) -> int:
        """Real tokens, padding not counted."""
        return int(self.attention_mask.sum())


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """Texts one after the other in a single row, without padding.

    Attributes:
        input_ids: token ids, [1, tokens]; those behind the last text belong to none.
        pooled: True where a token of the texts counts for the vector, [tokens].
        lengths: of the texts.
        future: what attention to later tokens is multiplied by before it is normalised; less than 1 in training only.
    """

    input_ids: torch.Tensor
    pooled: torch.Tensor
    lengths: tuple[int, ...]
    future: float = 1.0

    def to(self, device: torch.device | str) -> "FlatBatch":
        """The same batch on another device."""
        return FlatBatch(send(self.input_ids, device), send(self.pooled, device), self.lengths, self.future)

    @property
    def num_tokens(self) -> int:
        """Tokens of all texts."""
        return sum(self.lengths)


Batch = FlatBatch | PaddedBatch


def positions_of(attention_mask: torch.Tensor) -> torch.Tensor:
    """0, 1, 2 ... from each row's first real token, so that absolute positions survive left padding; 0 on padding."""
    return (attention_mask.cumsum(dim=1) - 1) * attention_mask


def send(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor on another device; a GPU fetches it from pinned memory when its turn comes, and nobody waits."""
    ready = tensor.pin_memory() if torch.device(device).type == "cuda" and tensor.device.type == "cpu" else tensor
    return ready.to(device, non_blocking=True)


def pad_token(tokenizer: Any) -> int:
    """The id that fills padding; any id will do, because padding is masked everywhere."""
    return int(tokenizer.pad_token_id or 0)


def token_budget(
    lengths: Sequence[int], max_tokens: int, *, padded: bool, short: int | None = None
) -> Iterator[list[int]]:
    """Group row numbers, longest first, so that a batch of them stays within `max_tokens`.

    A row longer than the budget is a batch of its own. Longest first: what runs out of memory does so at once.

    Args:
        lengths: of the rows.
        max_tokens: in a batch.
        padded: padding counts as well.
        short: rows of at most so many tokens share no batch with longer ones.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    group: list[int] = []
    used = 0
    for row in order.tolist():
        used = lengths[group[0] if padded and group else row] * (len(group) + 1) if padded else used + lengths[row]
        apart = short is not None and bool(group) and lengths[row] <= short < lengths[group[0]]
        if group and (used > max_tokens or apart):
            yield group
            group, used = [], lengths[row]
        group.append(row)
    if group:
        yield group


def deal(groups: Sequence[list[int]], processes: int) -> list[list[tuple[int, list[int]]]]:
    """Share the groups of one step out among processes, as many to each; every group keeps a number of its own.

    Where the number of groups is no multiple of `processes`, the largest are cut in two; where all are single rows, the
    last are put together, whatever their lengths. Every process must call this with the same groups.

    Args:
        groups: row numbers, as `token_budget` makes them.
        processes: how many share the step.

    Returns:
        For each process its groups with their numbers; longest texts first, next to each other.

    Raises:
        DataError: fewer rows than processes.
    """
    dealt = [list(group) for group in groups]
    if sum(map(len, dealt)) < processes:
        raise DataError(f"A step of {sum(map(len, dealt))} rows cannot be shared by {processes} processes.")
    while len(dealt) % processes and max(map(len, dealt)) > 1:
        largest = max(range(len(dealt)), key=lambda i: len(dealt[i]))
        half = (len(dealt[largest]) + 1) // 2
        dealt[largest : largest + 1] = [dealt[largest][:half], dealt[largest][half:]]
    # Single rows cannot be cut: the last, which are shortest, go to those before them.
    even = len(dealt) - len(dealt) % processes
    for number, group in enumerate(dealt[even:]):
        dealt[even - 1 - number] += group
    del dealt[even:]
    numbered = list(enumerate(dealt))
    return [numbered[process::processes] for process in range(processes)]


def join(texts: Sequence[TokenizedText], *, fill: bool = False) -> FlatBatch:
    """Put texts one after the other.

    Args:
        texts: of the batch.
        fill: let batches of several hundred tokens have a number of tokens that others have too: kernels that are made
            and kept for every size, as those of oneDNN are, would otherwise take a gigabyte in the end.
    """
    total = sum(len(text) for text in texts)
    filler = -total % _SIZES if fill and total >= _FILLED_FROM else 0
    ids = np.concatenate([*(text.ids for text in texts), np.zeros(filler, dtype=np.int64)])
    pooled = np.concatenate([text.pooled for text in texts])
    lengths = tuple(len(text) for text in texts)
    return FlatBatch(torch.from_numpy(ids)[None], torch.from_numpy(pooled), lengths)


def pad(texts: Sequence[TokenizedText], *, pad_id: int, padding_side: PaddingSide = "right") -> PaddedBatch:
    """Stack texts into one batch, padded to the longest."""
    width = max(len(text) for text in texts)
    shape = (len(texts), width)
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    pooled = np.zeros(shape, dtype=bool)
    for row, text in enumerate(texts):
        n = len(text)
        where = slice(0, n) if padding_side == "right" else slice(width - n, width)
        input_ids[row, where] = text.ids
        attention_mask[row, where] = 1
        pooled[row, where] = text.pooled
    return PaddedBatch(*(torch.from_numpy(a) for a in (input_ids, attention_mask, pooled)))
