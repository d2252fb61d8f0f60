"""SimCSE and supervised training: the encoder that is trained, the batch of a step, the loss, the check."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from unmask.backbone.dropout import attention_dropout, hidden_dropout, views_differ
from unmask.backbone.locate import find_adapters
from unmask.backbone.structure import family
from unmask.backbone.truth.opening import apply_attention
from unmask.data.pairs import Pair, PairSet
from unmask.data.sampling import EpochSampler, MixedSampler
from unmask.encoder import Floats, TextEncoder
from unmask.errors import DataError, RecipeError
from unmask.objectives.contrastive import Contrastive
from unmask.objectives.losses import NO_DOCUMENT, TEACHER, ContrastiveBatch, Distillation, Loss, Matryoshka, Part, Sum
from unmask.text.batching import deal
from unmask.text.spans import TokenizedText
from unmask.training.building import Data, StageContext, encoder_around, load_for_training, make_trainable
from unmask.training.config import ContrastiveSettings, SimcseSettings, SupervisedSettings, TeacherSettings
from unmask.training.loop import Job

Teach = Callable[[Sequence[tuple[bool, str]]], Floats]


def simcse_job(settings: SimcseSettings, context: StageContext) -> AbstractContextManager[Job]:
    """Unsupervised SimCSE (Gao et al. 2021, arXiv 2104.08821): two dropout views of each text, in-batch negatives."""
    texts = context.data.texts(settings.data)
    sampler = EpochSampler(len(texts), settings.batch_size, context.draw("rows"), "texts")

    def batch(encoder: TextEncoder, step: int) -> tuple[ContrastiveBatch, int]:
        chosen = [texts[i] for i in sampler.rows(step)]
        tokenized = encoder.tokenize(chosen)
        rows = Rows([*tokenized, *tokenized], chosen * 2, len(chosen), views=True)
        return make_batch(encoder, rows, settings, context)

    return _contrastive_job(settings, context, batch)


def supervised_job(settings: SupervisedSettings, context: StageContext) -> AbstractContextManager[Job]:
    """Queries, positives and hard negatives, each step from one data set."""
    sets = pair_sets(settings, context.data)
    sampler = mixed_sampler(settings, sets, context.draw("rows"))
    teach = _teacher(settings.teacher, context.accelerator.device) if settings.teacher else None

    def batch(encoder: TextEncoder, step: int) -> tuple[ContrastiveBatch, int]:
        name, rows, epoch = sampler.rows(step)
        chosen, pairs = sets[name], sets[name].take(rows)
        queries = [pair.query for pair in pairs]
        negatives = _negatives(pairs, settings, epoch)
        others = [pair.positive for pair in pairs] + [text for _, text in negatives]
        step_rows = Rows(
            [*encoder.tokenize(queries, chosen.query_prompt), *encoder.tokenize(others, chosen.document_prompt)],
            queries + others,
            anchors=len(pairs),
            documents=[pair.document for pair in pairs],
            negatives_of=[number for number, _ in negatives],
        )
        return make_batch(encoder, step_rows, settings, context, teach)

    return _contrastive_job(settings, context, batch)


@contextmanager
def _contrastive_job(
    settings: ContrastiveSettings,
    context: StageContext,
    batch: Callable[[TextEncoder, int], tuple[ContrastiveBatch, int]],
) -> Iterator[Job]:
    """The encoder that a stage trains, with the dropout it asks for; `batch` is a pure function of the step."""
    model = load_for_training(settings, context)
    apply_attention(model, context.origin.attention)
    make_trainable(model, settings, context.origin.adapter)
    with ExitStack() as dropout:
        set_dropout(model, settings, dropout)
        encoder = encoder_around(model, context.origin, context.encoder.changed(max_length=settings.max_length))
        objective = Contrastive(
            build_loss(settings), grad_cache=settings.grad_cache, kept_graphs=settings.grad_cache_kept
        )
        yield Job(encoder.module, objective, partial(batch, encoder))


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
    groups = encoder.reader.groups(lengths, budget, padded=not encoder.padding_free)
    own = deal([[read[i] for i in group] for group in groups], processes)[index]
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
        follow = Distillation(scale=getattr(settings.own_loss, "scale", settings.scale), teacher_scale=teacher.scale)
        loss = Sum(((loss, 1.0), (follow, teacher.weight)))
    return Matryoshka(loss, tuple(settings.matryoshka)) if settings.matryoshka else loss


def mixed_sampler(settings: SupervisedSettings, sets: Mapping[str, PairSet], seed: int) -> MixedSampler:
    """Which set and rows belong to which step."""
    sizes = {name: len(one) for name, one in sets.items()}
    return MixedSampler(sizes, {name: one.weight for name, one in sets.items()}, settings.batch_size, seed)


def pair_sets(settings: SupervisedSettings, data: Data) -> dict[str, PairSet]:
    """The data sets of a stage by name.

    Raises:
        DataError: two of one name.
    """
    listed = [one for source in settings.sources for one in data.pairs(source)]
    named = {one.name: one for one in listed}
    if len(named) < len(listed):
        raise DataError(
            f"Two data sets of this stage have one name; there are {', '.join(one.name for one in listed)}."
        )
    return named


def _teacher(settings: TeacherSettings, device: torch.device) -> Teach:
    """A frozen encoder with its own instructions."""
    encoder = TextEncoder.load(settings.name, device=device)

    def teach(texts: Sequence[tuple[bool, str]]) -> Floats:
        """Vectors of texts, each marked True if it is a query."""
        vectors = np.empty((len(texts), encoder.dimension), dtype=np.float32)
        for is_query, prompt in ((True, settings.query_prompt), (False, settings.document_prompt)):
            rows = [row for row, (query, _) in enumerate(texts) if query is is_query]
            if rows:
                vectors[rows] = encoder.encode([texts[row][1] for row in rows], prompt=prompt)
        return vectors

    return teach


def _negatives(pairs: Sequence[Pair], settings: SupervisedSettings, epoch: int) -> list[tuple[int, str]]:
    """The hard negatives of all rows with the number of each one's row; of too many, other ones each epoch."""
    chosen = []
    for number, pair in enumerate(pairs):
        count = len(pair.negatives)
        wanted = count if settings.hard_negatives is None else min(settings.hard_negatives, count)
        chosen += [(number, pair.negatives[(epoch * wanted + i) % count]) for i in range(wanted)]
    return chosen


def set_dropout(model: nn.Module, settings: ContrastiveSettings, stack: ExitStack) -> None:
    """Set dropout to what was asked for, which for attention replaces the config's, and see that two views differ.

    Raises:
        RecipeError: attention dropout was asked for and the family applies none.
    """
    taken = stack.enter_context(attention_dropout(model, settings.attention_dropout))
    if settings.attention_dropout and not (taken and views_differ(model)):
        raise RecipeError(
            f"{family(model)} applies no attention dropout, so attention_dropout={settings.attention_dropout} "
            "would do nothing. Set attention_dropout: 0 and hidden_dropout (for example 0.1) instead."
        )
    stack.enter_context(hidden_dropout(model, settings.hidden_dropout))


def check_contrastive(settings: ContrastiveSettings, data: Data, width: int, twin: Any | None) -> None:
    """Widths that the vectors have, dropout that the family applies, a teacher that is there, rows for a step.

    Raises:
        UnmaskError: one of them is not so.
    """
    if any(not 0 < dimension < width for dimension in settings.matryoshka):
        raise RecipeError(f"matryoshka: {settings.matryoshka} must lie between 0 and the vectors' width, {width}.")
    if twin is not None:
        with ExitStack() as stack:
            set_dropout(twin, settings, stack)
    if isinstance(settings, SupervisedSettings):
        if settings.teacher:
            find_adapters(settings.teacher.name, ())
        mixed_sampler(settings, pair_sets(settings, data), seed=0)
    else:
        EpochSampler(len(data.texts(settings.data)), settings.batch_size, seed=0, what="texts")
