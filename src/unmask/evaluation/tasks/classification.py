"""Classification of texts: logistic regression on frozen vectors."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unmask.data.sources import LabelledTexts, read_labelled_texts
from unmask.errors import DataError
from unmask.evaluation.quiet import quiet
from unmask.evaluation.tasks.record import SOURCE, AskedQuoting, InputFile, Measure, Prompt, Task, scored_by
from unmask.settings import Settings

if TYPE_CHECKING:
    from unmask.encoder import Floats, TextEncoder

_MAX_ITERATIONS = 100  # as MTEB does


class ClassificationSettings(Settings):
    """Texts with labels for a logistic regression."""

    train: InputFile = Field(description=SOURCE)
    test: InputFile = Field(description="of the same form")
    columns: tuple[str, str] = Field(("text", "label"), strict=False, description="names of the text and of the label")
    shots: int | None = Field(None, ge=1, description="train on so many texts a class, drawn anew each time (MTEB: 8)")
    draws: int = Field(10, ge=1, description="of those texts (default: 10)")
    quoting: AskedQuoting = "standard"
    prompt: Prompt = None


@dataclass(frozen=True, slots=True)
class ClassificationResult:
    """Accuracy and macro F1 in percent, means over draws of training texts, with half their range."""

    accuracy: float
    f1: float
    accuracy_spread: float
    f1_spread: float
    texts: int
    classes: int
    draws: int


def check_classes(train: LabelledTexts, test: LabelledTexts) -> None:
    """Refuse test labels that nothing was trained on.

    Raises:
        DataError: classes without a training text, named.
    """
    empty = sorted(set(test.labels) - set(train.labels))
    if empty:
        shown = ", ".join(map(repr, empty[:5])) + (" ..." if len(empty) > 5 else "")
        raise DataError(f"{len(empty)} of the test's classes have no training text: {shown}.")


def evaluate_classification(
    encoder: "TextEncoder",
    train: LabelledTexts,
    test: LabelledTexts,
    *,
    shots: int | None = None,
    draws: int = 10,
    seed: int = 42,
    prompt: str | None = None,
    progress: bool = False,
) -> ClassificationResult:
    """Train on the vectors of `train`, score on those of `test`.

    Args:
        encoder: frozen.
        train: texts and labels.
        test: texts and labels.
        shots: train on so many texts of each class, drawn anew `draws` times, as MTEB does (8 there); by default
            on all, once.
        draws: how often.
        seed: of the draws.
        prompt: instruction put in front of every text.
        progress: show a bar.

    Raises:
        DataError: a class of the test without a training text.
    """
    check_classes(train, test)
    chosen = [np.arange(len(train.labels))]
    if shots is not None:
        generator = np.random.default_rng(seed)
        chosen = [_draw(train.labels, shots, generator) for _ in range(draws)]
    needed = np.unique(np.concatenate(chosen))
    texts = [train.texts[i] for i in needed.tolist()]
    vectors = encoder.encode([*texts, *test.texts], prompt=prompt, progress=progress)
    labels = np.asarray(train.labels)
    scores = [
        _fit_and_score(vectors[np.searchsorted(needed, rows)], labels[rows], vectors[len(texts) :], test.labels)
        for rows in chosen
    ]
    accuracies, f1s = ([100 * score[i] for score in scores] for i in (0, 1))
    return ClassificationResult(
        statistics.fmean(accuracies),
        statistics.fmean(f1s),
        (max(accuracies) - min(accuracies)) / 2,
        (max(f1s) - min(f1s)) / 2,
        len(test.texts),
        len(set(train.labels)),
        len(chosen),
    )


def _draw(labels: Sequence[str], shots: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Numbers of at most `shots` texts of each class."""
    order = generator.permutation(len(labels))
    taken: dict[str, list[int]] = {}
    for row in order.tolist():
        own = taken.setdefault(labels[row], [])
        if len(own) < shots:
            own.append(row)
    return np.asarray(sorted(row for own in taken.values() for row in own))


def _fit_and_score(
    train: "Floats", labels: NDArray[np.str_], test: "Floats", truth: Sequence[str]
) -> tuple[float, float]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score

    with quiet():
        predicted = LogisticRegression(max_iter=_MAX_ITERATIONS).fit(train, labels).predict(test)
    return float(accuracy_score(truth, predicted)), float(f1_score(truth, predicted, average="macro"))


def _read(settings: ClassificationSettings) -> tuple[LabelledTexts, LabelledTexts]:
    train, test = (
        read_labelled_texts(source, settings.columns, quoting=settings.quoting)
        for source in (settings.train, settings.test)
    )
    check_classes(train, test)
    return train, test


CLASSIFICATION = Task(
    name="classification",
    help="texts with labels: accuracy of a logistic regression",
    settings=ClassificationSettings,
    read=_read,
    score=scored_by(
        lambda encoder, data, **rest: evaluate_classification(encoder, *data, **rest), "shots", "draws", "prompt"
    ),
    measures=(Measure("accuracy", "classification accuracy, %", " accuracy"),),
    example="classification pocket-bi --train train.csv --test test.csv --shots 8",
)
