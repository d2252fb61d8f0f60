"""Texts of one row in buckets of like length, filled up to the longest of each, so that a few products do for all.

Text by text, or length by length, a batch of forty short texts costs a hundred small products a layer; what fills up is
less than a third, and sees and is seen by nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

_ALIKE = 0.75  # a text is in a bucket if it has this share of the longest one's tokens
_TOKENS = 8  # or lacks no more than so many
_FEW = 8  # texts, from which on one pass over all scores is cheaper than one over each text's filler
_COMMON = 64  # long texts are filled up to a multiple of so many tokens: oneDNN makes and keeps a kernel for each size
_LONG = 128


@dataclass(frozen=True)
class Bucket:
    """Some texts of a row.

    Attributes:
        texts: how many.
        length: of the longest, filled up.
        index: the row's token at each place, int64 [texts * length]; filler repeats its text's last token
            (the first is where trained decoders put huge values, which would weigh on the mean of a text's keys).
        sizes: tokens of each text.
        places: where tokens are, int64; None where all places are.
        masks: that were asked for, by window and direction.
    """

    texts: int
    length: int
    index: torch.Tensor
    sizes: tuple[int, ...]
    places: torch.Tensor | None
    masks: dict[tuple[int | None, bool], torch.Tensor] = field(default_factory=dict)

    @cached_property
    def tokens(self) -> torch.Tensor:
        """The row's tokens in this bucket, int64."""
        return self.index if self.places is None else self.index[self.places]

    @cached_property
    def filler(self) -> torch.Tensor:
        """Places that only fill up, bool [texts, length]."""
        return torch.arange(self.length) >= torch.tensor(self.sizes)[:, None]

    def take(self, row: torch.Tensor) -> torch.Tensor:
        """Texts [texts, heads, length, width] out of a row [tokens, heads, width]."""
        return self._by_texts(row.index_select(0, self.index))

    def take_zeros(self, row: torch.Tensor) -> torch.Tensor:
        """As `take`, with zeros where filler is."""
        if self.places is None:
            return self.take(row)
        filled = row.new_zeros(self.texts * self.length, *row.shape[1:])
        return self._by_texts(filled.index_copy_(0, self.places, row.index_select(0, self.tokens)))

    def _by_texts(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.unflatten(0, (self.texts, self.length)).transpose(1, 2)

    def give(self, states: torch.Tensor) -> torch.Tensor:
        """Tokens [tokens, heads, width], filler left out, of [texts, heads, length, width]."""
        flat = states.transpose(1, 2).flatten(0, 1)
        return flat if self.places is None else flat.index_select(0, self.places)

    def hide(self, scores: torch.Tensor, part: slice, window: int | None, causal: bool) -> None:
        """Put -inf where a key is not seen, in place. Filler is seen by filler at most, and sees: no row is empty.

        Args:
            scores: of some texts, [texts, key heads, heads that share one * length, length].
            part: which texts.
            window: how far a token sees, as transformers counts: to both sides and inclusive, or `window` - 1 back.
            causal: back only.
        """
        hidden = self._hidden(window, causal)
        if hidden is not None:
            hidden = hidden[part] if len(hidden) > 1 else hidden
            scores.unflatten(2, (-1, self.length)).masked_fill_(hidden[:, None, None], -torch.inf)
        elif self.places is not None and len(scores) <= _FEW:
            for text, size in zip(scores, self.sizes[part], strict=True):
                if size < self.length:
                    text[..., size:] = -torch.inf
        elif self.places is not None:
            scores.masked_fill_(self.filler[part][:, None, None], -torch.inf)

    def _hidden(self, window: int | None, causal: bool) -> torch.Tensor | None:
        """What tokens do not see, bool [texts or 1, length, length]; None where it is filler at most."""
        narrow = window is not None and window < self.length
        if not (narrow or causal):
            return None
        key = (window, causal)
        if key not in self.masks:
            hidden = ~band(self.length, window if narrow else None, causal)[None]
            if self.places is not None:
                hidden = (hidden | self.filler[:, None]) & ~self.filler[:, :, None]
            self.masks[key] = hidden
        return self.masks[key]


def band(length: int, window: int | None, causal: bool, device: torch.device | str = "cpu") -> torch.Tensor:
    """Who sees whom, bool [tokens, tokens]; `window` as in `Bucket.hide`."""
    at = torch.arange(length, device=device)
    ahead = at[None] - at[:, None]
    far = length if window is None else window
    return (ahead <= 0) & (ahead > -far) if causal else ahead.abs() <= far


def make_buckets(lengths: Sequence[int]) -> tuple[list[Bucket], torch.Tensor | None]:
    """The buckets of a row of texts, and where each token of the row is among theirs (None: in the row's order)."""
    sizes = np.asarray(lengths, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    order = np.argsort(-sizes, kind="stable")
    buckets, came, first = [], [], 0
    while first < len(order):
        longest = int(sizes[order[first]])
        alike = min(_ALIKE * longest, longest - _TOKENS)
        last = first + int(np.searchsorted(-sizes[order[first:]], -alike, side="right"))
        chosen = order[first:last]
        length = -(-longest // _COMMON) * _COMMON if longest > _LONG else longest
        steps = np.arange(length)
        real = (steps[None] < sizes[chosen, None]).ravel()
        index = (starts[chosen, None] + np.minimum(steps[None], sizes[chosen, None] - 1)).ravel()
        places = None if real.all() else torch.from_numpy(np.flatnonzero(real))
        own = tuple(sizes[chosen].tolist())
        buckets.append(Bucket(len(chosen), length, torch.from_numpy(index), own, places))
        came.append(index[real])
        first = last
    tokens = np.concatenate(came)
    if np.array_equal(tokens, np.arange(len(tokens))):
        return buckets, None
    back = np.empty_like(tokens)
    back[tokens] = np.arange(len(tokens))
    return buckets, torch.from_numpy(back)
