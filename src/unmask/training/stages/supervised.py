"""Supervised contrastive training: queries, positives and hard negatives, each step from one data set."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from unmask.backbone.locate import find_adapters
from unmask.data.pairs import Pair, PairSet
from unmask.data.sampling import MixedSampler
from unmask.encoder import Floats, TextEncoder
from unmask.errors import DataError
from unmask.objectives.batch import ContrastiveBatch
from unmask.training.building import Data, StageContext
from unmask.training.config import SupervisedSettings, TeacherSettings
from unmask.training.loop import Job
from unmask.training.stages.contrastive import (
    Rows,
    Teach,
    check_contrastive,
    contrastive_job,
    encoder_to_train,
    make_batch,
)


@contextmanager
def supervised_job(settings: SupervisedSettings, context: StageContext) -> Iterator[Job]:
    """Queries, positives and hard negatives, each step from one data set."""
    sets = pair_sets(settings, context.data)
    sampler = mixed_sampler(settings, sets, context.draw("rows"))
    teach = _teacher(settings.teacher, context.accelerator.device) if settings.teacher else None
    with encoder_to_train(settings, context) as encoder:

        def batch(step: int) -> tuple[ContrastiveBatch, int]:
            name, rows = sampler.rows(step)
            chosen, pairs = sets[name], sets[name].take(rows)
            queries = [pair.query for pair in pairs]
            negatives = _negatives(pairs, settings, step)
            others = [pair.positive for pair in pairs] + [text for _, text in negatives]
            tokenized = [
                *encoder.tokenize(queries, chosen.query_prompt),
                *encoder.tokenize(others, chosen.document_prompt),
            ]
            step_rows = Rows(
                tokenized,
                queries + others,
                anchors=len(pairs),
                documents=[pair.document for pair in pairs],
                negatives_of=[number for number, _ in negatives],
            )
            return make_batch(encoder, step_rows, settings, context, teach)

        yield contrastive_job(settings, context, encoder, batch)


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


def _negatives(pairs: Sequence[Pair], settings: SupervisedSettings, step: int) -> list[tuple[int, str]]:
    """The hard negatives of all rows with the number of each one's row; of too many, other ones each time."""
    chosen = []
    for number, pair in enumerate(pairs):
        count = len(pair.negatives)
        wanted = count if settings.hard_negatives is None else min(settings.hard_negatives, count)
        chosen += [(number, pair.negatives[(step + i) % count]) for i in range(wanted)]
    return chosen


def check_supervised(settings: SupervisedSettings, data: Data, width: int, twin: Any | None) -> None:
    """Enough pairs for a step, a teacher that is there, and what every contrastive stage needs.

    Raises:
        UnmaskError: what is not so.
    """
    check_contrastive(settings, width, twin)
    if settings.teacher:
        find_adapters(settings.teacher.name, ())
    mixed_sampler(settings, pair_sets(settings, data), seed=0)
