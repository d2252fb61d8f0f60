"""From token states and spans to one vector a text, in float32 whatever the states are.

Texts lie one after the other: states [tokens, width]; pooled and real bool [tokens]; lengths int64 [texts]; vectors
[texts, width]. In rows with padding every text has the length of its row, and `real` is False on padding.
"""

from typing import Literal, assert_never

import torch
from torch import nn

Plain = Literal["mean", "weighted_mean", "last", "eos", "first"]


class PlainPooling(nn.Module):
    """One of the poolings that have no weights of their own.

    Args:
        how: `mean` and `weighted_mean` average the span, the latter with weights that grow by one a token, counted from
            the first token the model reads (Muennighoff 2022, arXiv 2202.08904; as sentence-transformers does); `last`
            takes the last token of the span; `first` and `eos` the first and last token that the model reads.
    """

    def __init__(self, how: Plain) -> None:
        super().__init__()
        self.how = how

    def forward(
        self, states: torch.Tensor, lengths: torch.Tensor, pooled: torch.Tensor, real: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Pool token states into vectors.

        Args:
            states: [tokens, width].
            lengths: of the texts, padding included.
            pooled: True where a token is averaged or may be picked; never on padding.
            real: False on padding; None where there is none.
        """
        ends = lengths.cumsum(0)
        if self.how == "first":
            return states[ends - lengths if real is None else _one_each(real, lengths, last=False)].float()
        if self.how == "eos":
            return states[ends - 1 if real is None else _one_each(real, lengths, last=True)].float()
        if self.how == "last":
            return states[_one_each(pooled, lengths, last=True)].float()
        weights = pooled.float()
        text = _text_of_token(states, lengths)
        if self.how == "weighted_mean":
            weights = weights * _counted(text, lengths, real)
        elif self.how != "mean":
            assert_never(self.how)
        return averaged(states, weights, text, lengths.shape[0])


def averaged(states: torch.Tensor, weights: torch.Tensor, text: torch.Tensor, texts: int) -> torch.Tensor:
    """The weighted mean of each text's tokens, summed in float32; weights [tokens], text (numbers) [tokens]."""
    weighted = states.float() * weights[:, None]
    sums = weighted.new_zeros(texts, states.shape[1]).index_add_(0, text, weighted)
    return sums / weights.new_zeros(texts).index_add_(0, text, weights)[:, None]


def _text_of_token(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Number of the text that each token belongs to, int64 [tokens]."""
    texts = torch.arange(lengths.shape[0], device=states.device)
    return torch.repeat_interleave(texts, lengths, output_size=states.shape[0])


def _counted(text: torch.Tensor, lengths: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    """1, 2, 3 ... from the first token of each text that the model reads, [tokens]."""
    starts = lengths.cumsum(0) - lengths
    if real is None:
        return torch.arange(text.shape[0], device=text.device) - starts[text] + 1
    counts = real.cumsum(0)
    return counts - (counts - real.long())[starts][text]


def _one_each(marked: torch.Tensor, lengths: torch.Tensor, *, last: bool) -> torch.Tensor:
    """The first or last marked token of each text, int64 [texts]."""
    tokens = torch.arange(marked.shape[0], device=marked.device)
    found = torch.where(marked, tokens, -1 if last else marked.shape[0])
    start = torch.zeros(lengths.shape[0], dtype=torch.int64, device=marked.device)
    text = _text_of_token(marked, lengths)
    return start.scatter_reduce(0, text, found, "amax" if last else "amin", include_self=False)
