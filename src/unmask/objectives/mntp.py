"""Masked next-token prediction (BehnamGhader et al. 2024, arXiv 2404.05961, section 2.1).

Some tokens are masked; each is predicted from the state one position before it. Logits are computed only where a
label is, in chunks, so that no [rows, tokens, vocabulary] tensor ever exists. The head is frozen.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from unmask.errors import RecipeError
from unmask.objectives.base import Engine, StepOutput

IGNORED = -100
MaskingStyle = Literal["bert", "roberta"]
Model = Callable[[Any], torch.Tensor]  # a batch of texts -> states [tokens, width]
LABELS_AT_ONCE = 2048  # whose logits exist at a time


class Blocks(Protocol):
    """Rows of tokens: ids, and True where one may be masked, [rows, tokens] each; and how a model reads them."""

    @property
    def input_ids(self) -> torch.Tensor:
        """Token ids."""
        ...

    @property
    def maskable(self) -> torch.Tensor:
        """True where a token may be masked and predicted."""
        ...

    def read_by(self, model: Model, input_ids: torch.Tensor) -> torch.Tensor:
        """States [rows, tokens, width] of other ids in the same places."""
        ...


@dataclass(frozen=True, slots=True)
class Masking:
    """How tokens are chosen and replaced.

    Attributes:
        mask_id: id of the mask token.
        random_ids: ids that a random replacement may be, int64 [ids]; no special tokens.
        rate: share of the maskable tokens that is chosen.
        style: `bert` replaces 80% of the chosen by the mask, 10% by a random token and keeps 10%; `roberta`
            (the paper's name) replaces all by the mask.
    """

    mask_id: int
    random_ids: torch.Tensor
    rate: float
    style: MaskingStyle


def mask_token_id(tokenizer: Any, wanted: str) -> int:
    """The id of the mask token.

    Args:
        tokenizer: a transformers tokenizer.
        wanted: a piece of the vocabulary (the paper takes `_`), or `own` for the tokenizer's own mask token.

    Raises:
        RecipeError: it is not one known token.
    """
    if wanted == "own":
        if tokenizer.mask_token_id is None:
            raise RecipeError("mask_token: own was asked for, but the tokenizer has no mask token; name one, or use _.")
        return int(tokenizer.mask_token_id)
    piece = tokenizer.convert_tokens_to_ids(wanted)
    if piece is not None and piece != tokenizer.unk_token_id:
        return int(piece)
    ids = tokenizer.encode(wanted, add_special_tokens=False)
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise RecipeError(f"mask_token {wanted!r} is {len(ids)} tokens here ({ids}); it must be one known token.")
    return int(ids[0])


def build_masking(tokenizer: Any, *, token: str, rate: float, style: MaskingStyle) -> Masking:
    """The masking of a stage; random replacements are never special or added tokens."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    allowed = [i for i in range(len(tokenizer)) if i not in special]
    return Masking(mask_token_id(tokenizer, token), torch.tensor(allowed), rate, style)


def mask_tokens(
    input_ids: torch.Tensor,
    maskable: torch.Tensor,
    masking: Masking,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose and replace tokens.

    Returns:
        Masked ids and labels (the original id where chosen, else -100), both [rows, tokens].
    """
    chosen = (torch.rand(input_ids.shape, generator=generator) < masking.rate) & maskable
    labels = torch.where(chosen, input_ids, IGNORED)
    if masking.style == "roberta":
        return torch.where(chosen, masking.mask_id, input_ids), labels
    fate = torch.rand(input_ids.shape, generator=generator)
    draw = torch.randint(len(masking.random_ids), input_ids.shape, generator=generator)
    masked = torch.where(chosen & (fate < 0.8), masking.mask_id, input_ids)
    return torch.where(chosen & (fate >= 0.9), masking.random_ids[draw], masked), labels


class MaskedNextToken:
    """The objective: mean cross-entropy in float32 over the labels of a whole step.

    Args:
        head: states [labels, width] -> logits [labels, vocabulary].
        masking: how tokens are chosen and replaced.
    """

    def __init__(self, head: nn.Module, masking: Masking) -> None:
        self.head = head
        self.masking = masking

    def step(self, model: Model, batch: Sequence[tuple[int, Blocks]], engine: Engine) -> StepOutput:
        """One process's numbered micro-batches; the loss is a mean over the labels of all processes."""
        masked = [self._mask(blocks, engine.generator(number)) for number, blocks in batch]
        own = sum(int((labels != IGNORED).sum()) for _, labels in masked)
        device = batch[0][1].input_ids.device
        count = max(1.0, float(engine.total(torch.tensor([float(own)], device=device))))
        total, correct = 0.0, 0
        for (number, blocks), (ids, labels) in zip(batch, masked, strict=True):
            with engine.part(number, last=number == batch[-1][0]):
                loss, right = self._loss(blocks.read_by(model, ids), labels)
                engine.backward(loss * (engine.processes / count))
            total += float(loss.detach())
            correct += right
        sums = engine.total(torch.tensor([total, float(correct)], device=device))
        return StepOutput(float(sums[0]) / count, int(count), {"accuracy": float(sums[1]) / count})

    @torch.no_grad()
    def evaluate(self, model: Model, batches: Iterable[Blocks], seed: int = 0) -> dict[str, float]:
        """Masked-token loss (nats) and accuracy on held-out blocks; the masks are the same for every model."""
        generator = torch.Generator().manual_seed(seed)
        total, correct, count = 0.0, 0, 0
        for blocks in batches:
            ids, labels = self._mask(blocks, generator)
            loss, right = self._loss(blocks.read_by(model, ids), labels)
            total += float(loss)
            correct += right
            count += int((labels != IGNORED).sum())
        count = max(1, count)
        return {
            "masked_loss": total / count,
            "masked_accuracy": correct / count,
            "masked_tokens": float(count),
        }

    def _mask(self, blocks: Blocks, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Masked ids and labels; drawn on the CPU, so that every device sees the same masks."""
        device = blocks.input_ids.device
        masked, labels = mask_tokens(blocks.input_ids.cpu(), blocks.maskable.cpu(), self.masking, generator)
        return masked.to(device), labels.to(device)

    def _loss(self, states: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Summed cross-entropy and number of right guesses; position i-1 answers for the label at i."""
        rows, columns = torch.nonzero(labels != IGNORED, as_tuple=True)
        before, targets = states[rows, columns - 1], labels[rows, columns]
        loss = states.new_zeros((), dtype=torch.float32)
        if not len(targets):
            loss = loss + 0.0 * states.sum()  # nothing was masked in these rows; backward still wants a graph
        correct = 0
        for start in range(0, len(targets), LABELS_AT_ONCE):
            part = slice(start, start + LABELS_AT_ONCE)
            if torch.is_grad_enabled() and len(targets) > LABELS_AT_ONCE:
                # More than a chunk: logits are computed again in the backward pass instead of being kept.
                chunk_loss, right = checkpoint(self._chunk, before[part], targets[part], use_reentrant=False)
            else:
                chunk_loss, right = self._chunk(before[part], targets[part])
            loss = loss + chunk_loss
            correct += int(right)
        return loss, correct

    def _chunk(self, states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.head(states).float()
        loss = nn.functional.cross_entropy(logits, targets, reduction="sum")
        return loss, (logits.detach().argmax(dim=-1) == targets).sum()
