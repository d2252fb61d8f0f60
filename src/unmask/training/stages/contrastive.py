"""What the contrastive stages share: the encoder that is trained, the batch of a step, the loss, the check."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unmask.backbone.dropout import attention_dropout, hidden_dropout, views_differ
from unmask.backbone.structure import family
from unmask.backbone.truth.opening import apply_attention
from unmask.encoder import Floats, TextEncoder
from unmask.errors import RecipeError
from unmask.objectives.contrastive import Contrastive
from unmask.objectives.losses import NO_DOCUMENT, TEACHER, ContrastiveBatch, Distillation, Loss, Matryoshka, Part, Sum
from unmask.text.batching import deal, token_budget
from unmask.text.spans import TokenizedText
from unmask.training.building import StageContext, encoder_around, load_for_training, make_trainable
from unmask.training.config import ContrastiveSettings
from unmask.training.loop import Job

Teach = Callable[[Sequence[tuple[bool, str]]], Floats]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a step: anchors, the positive of each, hard negatives.

    Attributes:
        tokenized: as the model reads them.
        texts: without prompts.
        anchors: how many anchors.
        documents: of each positive, where it is known.
        negatives_of: for each hard negative the number of its anchor.
        views: equal rows are to differ by dropout; otherwise equal anchors are read once, and equal candidates.
    """

    tokenized: Sequence[TokenizedText]
    texts: Sequence[str]
    anchors: int
    documents: Sequence[str | None] = ()
    negatives_of: Sequence[int] = ()
    views: bool = False


def make_batch(
    encoder: TextEncoder,
    rows: Rows,
    settings: ContrastiveSettings,
    context: StageContext,
    teach: Teach | None = None,
) -> tuple[ContrastiveBatch, int]:
    """This process's share of a step, and the tokens of the whole step.

    Args:
        encoder: pads.
        rows: of the whole step.
        settings: of the stage.
        context: says which process this is.
        teach: a teacher, for this process's rows.
    """
    processes, index = context.accelerator.num_processes, context.accelerator.process_index
    sources = list(range(len(rows.tokenized))) if rows.views else _first_of_equals(rows)
    read = sorted(set(sources))
    lengths = [len(rows.tokenized[row]) for row in read]
    budget = settings.micro_batch_tokens
    if processes > 1:  # one process's share, even where a whole step would fit: all of them are to have work
        budget = min(budget, -(-len(lengths) // processes) * max(lengths))
    groups = [[read[i] for i in group] for group in token_budget(lengths, budget, padded=not encoder.padding_free)]
    own = deal(groups, processes)[index]
    device = context.accelerator.device
    parts = [
        Part(number, encoder.collate([rows.tokenized[i] for i in chosen], device), torch.tensor(chosen, device=device))
        for number, chosen in own
    ]
    taught = None
    if teach is not None:
        mine = [(i < rows.anchors, rows.texts[i]) for _, chosen in own for i in chosen]
        taught = torch.from_numpy(teach(mine)).to(device)
    known = rows.documents or [None] * rows.anchors
    documents = [*known, *known, *[None] * (len(sources) - 2 * rows.anchors)]
    made = ContrastiveBatch(
        parts,
        rows.anchors,
        texts=_numbers(rows.texts, device),
        documents=_numbers(documents, device),
        owners=torch.tensor([*range(rows.anchors), *range(rows.anchors), *rows.negatives_of], device=device),
        sources=torch.tensor(sources, device=device),
        extra={} if taught is None else {TEACHER: taught},
    )
    return made, sum(lengths)


def _first_of_equals(rows: Rows) -> list[int]:
    """For each row the first one that the model would read just so; anchors and candidates stay apart."""
    first: dict[tuple[bool, bytes, bytes], int] = {}
    read = ((row < rows.anchors, text.ids.tobytes(), text.pooled.tobytes()) for row, text in enumerate(rows.tokenized))
    return [first.setdefault(key, row) for row, key in enumerate(read)]


def _numbers(values: Sequence[str | None], device: torch.device) -> torch.Tensor:
    """Equal values, equal numbers."""
    known: dict[str | None, int] = {None: NO_DOCUMENT}
    return torch.tensor([known.setdefault(value, len(known)) for value in values], device=device)


def build_loss(settings: ContrastiveSettings) -> Loss:
    """The loss of a stage: its own, a teacher's beside it, at all widths asked for."""
    loss: Loss = settings.own_loss.build()
    teacher = getattr(settings, "teacher", None)
    if teacher is not None:
        follow = Distillation(scale=settings.scale, teacher_scale=teacher.scale)
        loss = Sum(((loss, 1.0), (follow, teacher.weight)))
    return Matryoshka(loss, tuple(settings.matryoshka)) if settings.matryoshka else loss


def contrastive_job(settings: ContrastiveSettings, context: StageContext, encoder: TextEncoder, batch: Any) -> Job:
    """The stage as the loop sees it; `batch` is its pure function of the step."""
    return Job(
        module=encoder.module,
        objective=Contrastive(
            build_loss(settings), grad_cache=settings.grad_cache, kept_graphs=settings.grad_cache_kept
        ),
        batch=batch,
    )


@contextmanager
def encoder_to_train(settings: ContrastiveSettings, context: StageContext) -> Iterator[TextEncoder]:
    """The encoder that a stage trains, with the dropout it asks for."""
    model = load_for_training(settings, context)
    apply_attention(model, context.origin.attention)
    make_trainable(model, settings, context.origin.adapter)
    with ExitStack() as dropout:
        set_dropout(model, settings, dropout)
        yield encoder_around(model, context.origin, context.encoder.changed(max_length=settings.max_length))


def set_dropout(model: nn.Module, settings: ContrastiveSettings, stack: ExitStack) -> None:
    """Turn on the dropout that makes two views of one text differ, and see that it does.

    Raises:
        RecipeError: attention dropout was asked for and the family applies none.
    """
    if settings.attention_dropout:
        taken = stack.enter_context(attention_dropout(model, settings.attention_dropout))
        if not taken or not views_differ(model):
            raise RecipeError(
                f"{family(model)} applies no attention dropout, so attention_dropout={settings.attention_dropout} "
                "would do nothing. Set attention_dropout: 0 and hidden_dropout (for example 0.1) instead."
            )
    stack.enter_context(hidden_dropout(model, settings.hidden_dropout))


def check_contrastive(settings: ContrastiveSettings, width: int, twin: Any | None) -> None:
    """Widths that the vectors have, and dropout that the family applies.

    Raises:
        RecipeError: one of them is not so.
    """
    if any(not 0 < dimension < width for dimension in settings.matryoshka):
        raise RecipeError(f"matryoshka: {settings.matryoshka} must lie between 0 and the vectors' width, {width}.")
    if twin is not None:
        with ExitStack() as stack:
            set_dropout(twin, settings, stack)
