"""Unsupervised SimCSE (Gao et al. 2021, arXiv 2104.08821): a text is its own positive, by another dropout."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unmask.data.sampling import EpochSampler
from unmask.objectives.losses import ContrastiveBatch
from unmask.training.building import Data, StageContext
from unmask.training.config import SimcseSettings
from unmask.training.loop import Job
from unmask.training.stages.contrastive import (
    Rows,
    check_contrastive,
    contrastive_job,
    encoder_to_train,
    make_batch,
)


@contextmanager
def simcse_job(settings: SimcseSettings, context: StageContext) -> Iterator[Job]:
    """Two dropout views of each text, in-batch negatives."""
    with encoder_to_train(settings, context) as encoder:
        texts = context.data.texts(settings.data)
        sampler = EpochSampler(len(texts), settings.batch_size, context.draw("rows"), "texts")

        def batch(step: int) -> tuple[ContrastiveBatch, int]:
            chosen = [texts[i] for i in sampler.rows(step)]
            tokenized = encoder.tokenize(chosen)
            rows = Rows([*tokenized, *tokenized], chosen * 2, len(chosen), views=True)
            return make_batch(encoder, rows, settings, context)

        yield contrastive_job(settings, context, encoder, batch)


def check_simcse(settings: SimcseSettings, data: Data, width: int, twin: Any | None) -> None:
    """Enough texts for a step, and what every contrastive stage needs.

    Raises:
        UnmaskError: what is not so.
    """
    check_contrastive(settings, width, twin)
    EpochSampler(len(data.texts(settings.data)), settings.batch_size, seed=0, what="texts")
