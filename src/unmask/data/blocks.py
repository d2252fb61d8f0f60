"""Documents to packed blocks for MNTP: full rows of tokens in which documents do not see each other.

Each piece of a document looks like a text the encoder will read later: the tokenizer's special tokens around it,
positions from 0. A long document is cut into pieces; a short rest of a block is left to padding.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unmask.errors import DataError
from unmask.text.batching import Batch, FlatBatch, PaddedBatch, token_budget
from unmask.text.chunks import chunks
from unmask.text.spans import special_affixes

_SHORTEST = 16  # tokens of text; a shorter piece teaches little
_TOKENIZED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Block:
    """One row: token ids and the piece each belongs to (1, 2, ...), int64 [tokens]; `special` marks added tokens."""

    ids: NDArray[np.int64]
    pieces: NDArray[np.int64]
    special: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class BlockBatch:
    """Blocks as tensors, [rows, tokens].

    Attributes:
        input_ids: token ids; padding holds the pad id.
        pieces: 0 on padding, else the number of the piece within its row.
        position_ids: from 0 in every piece.
        maskable: True where a token may be masked and predicted: text, and not the first token of its piece.
        padded_tokens: for models that read padded batches, most tokens of one; None where pieces lie in a row.
        future: as in `FlatBatch`; less than 1 only where pieces lie in a row.
    """

    input_ids: torch.Tensor
    pieces: torch.Tensor
    position_ids: torch.Tensor
    maskable: torch.Tensor
    padded_tokens: int | None = None
    future: float = 1.0

    def to(self, device: torch.device | str) -> "BlockBatch":
        """The same batch on another device."""
        tensors = (self.input_ids, self.pieces, self.position_ids, self.maskable)
        ids, pieces, positions, maskable = (tensor.to(device, non_blocking=True) for tensor in tensors)
        return BlockBatch(ids, pieces, positions, maskable, self.padded_tokens, self.future)

    @property
    def num_tokens(self) -> int:
        """Real tokens, padding not counted."""
        return int((self.pieces > 0).sum())

    def read_by(self, model: Callable[[Batch], torch.Tensor], input_ids: torch.Tensor) -> torch.Tensor:
        """The states of every token, [rows, tokens, width], with zeros on padding.

        Args:
            model: batch -> states [tokens, width]; every piece is a text of its own to it.
            input_ids: those of this batch, perhaps masked, [rows, tokens].
        """
        if self.padded_tokens is None:
            inside = self.pieces > 0
            lengths = tuple(self._piece_lengths())
            batch: Batch = FlatBatch(input_ids[inside][None], inside[inside], lengths, self.future)
            parts = [(inside.flatten().nonzero()[:, 0], batch)]
        else:
            parts = list(self._padded(input_ids, self.padded_tokens))
        found = [(places, model(batch)) for places, batch in parts]
        everywhere = found[0][1].new_zeros(self.pieces.numel(), found[0][1].shape[-1])
        for places, states in found:
            everywhere[places] = states
        return everywhere.view(*self.pieces.shape, -1)

    def _piece_lengths(self) -> list[int]:
        row = torch.arange(len(self.pieces), device=self.pieces.device)[:, None]
        numbers = (self.pieces + row * (self.pieces.max() + 1))[self.pieces > 0]
        return torch.unique_consecutive(numbers, return_counts=True)[1].tolist()

    def _padded(self, input_ids: torch.Tensor, most: int) -> Iterator[tuple[torch.Tensor, Batch]]:
        """Batches of pieces of like length, a row each, and the places of their tokens in the flattened batch."""
        places = (self.pieces > 0).flatten().nonzero()[:, 0].split(self._piece_lengths())
        for group in token_budget([len(piece) for piece in places], most, padded=True):
            own = [places[i] for i in group]
            width = len(own[0])
            mask = torch.stack([torch.arange(width, device=input_ids.device) < len(piece) for piece in own])
            ids = torch.zeros_like(mask, dtype=torch.long)
            ids[mask] = input_ids.flatten()[torch.cat(own)]
            yield torch.cat(own), PaddedBatch(ids, mask.long(), mask)


def pack(texts: Iterable[str], tokenizer: Any, *, block_size: int, one_piece_a_block: bool = False) -> Iterator[Block]:
    """Pack texts into blocks of at most `block_size` tokens.

    Args:
        texts: documents.
        tokenizer: a fast tokenizer.
        block_size: tokens a row, special tokens included.
        one_piece_a_block: never put two pieces into a row.

    Raises:
        DataError: `block_size` leaves no room for text.
    """
    before, after = special_affixes(tokenizer)
    frame = len(before) + len(after)
    if block_size - frame < _SHORTEST:
        raise DataError(f"block_size={block_size} is too short; use at least {frame + _SHORTEST}.")
    pieces: list[list[int]] = []
    used = 0
    plain = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    parts = (tokenizer(part, **plain)["input_ids"] for part in chunks(texts, _TOKENIZED_AT_ONCE))
    for ids in chain.from_iterable(parts):
        start = 0
        while start < len(ids):
            room = block_size - used - frame
            if pieces and (room < _SHORTEST or one_piece_a_block):
                yield _block(pieces, len(before), len(after))
                pieces, used = [], 0
                continue
            piece = ids[start : start + room]
            start += len(piece)
            if len(piece) >= _SHORTEST or start == len(piece):  # a short tail is dropped, a short text is not
                pieces.append([*before, *piece, *after])
                used += len(pieces[-1])
    if pieces:
        yield _block(pieces, len(before), len(after))


def stack(blocks: Sequence[Block], *, pad_id: int, never_mask: int, padded_tokens: int | None = None) -> BlockBatch:
    """Stack blocks into a batch; tokens that already are the mask token (`never_mask`) are not predicted."""
    width = max(len(block.ids) for block in blocks)
    shape = (len(blocks), width)
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    pieces = np.zeros(shape, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    maskable = np.zeros(shape, dtype=bool)
    for row, block in enumerate(blocks):
        n = len(block.ids)
        input_ids[row, :n] = block.ids
        pieces[row, :n] = block.pieces
        first = np.flatnonzero(np.diff(block.pieces, prepend=0))
        positions[row, :n] = np.arange(n) - np.repeat(first, np.diff([*first, n]))
        maskable[row, :n] = ~block.special & (block.ids != never_mask) & (positions[row, :n] > 0)
    made = [torch.from_numpy(array) for array in (input_ids, pieces, positions, maskable)]
    return BlockBatch(made[0], made[1], made[2], made[3], padded_tokens)


def _block(pieces: list[list[int]], num_before: int, num_after: int) -> Block:
    ids = np.concatenate([np.asarray(piece, dtype=np.int64) for piece in pieces])
    numbers = np.repeat(np.arange(1, len(pieces) + 1), [len(piece) for piece in pieces])
    special = np.concatenate(
        [
            np.r_[np.ones(num_before), np.zeros(len(piece) - num_before - num_after), np.ones(num_after)]
            for piece in pieces
        ]
    ).astype(bool)
    return Block(ids, numbers, special)
