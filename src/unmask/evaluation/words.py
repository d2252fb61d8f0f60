"""Word-level tasks: a linear probe on frozen word vectors, which are computed once.

Section 3.1 of the paper, with a probe trained to convergence (multinomial logistic regression) by default, so that
its figure is a property of the vectors and not of a step count.
"""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from unmask.data.words import LabelledSentence
from unmask.encoder import Floats, TextEncoder, WordPosition
from unmask.errors import DataError

_SENTENCES_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class WordsResult:
    """Word accuracy in percent and, for BIO labels, the F1 of whole entities (or chunks) in percent."""

    accuracy: float
    f1: float | None
    words: int
    labels: int
    position: WordPosition

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def evaluate_words(
    encoder: TextEncoder,
    train: Sequence[LabelledSentence],
    test: Sequence[LabelledSentence],
    *,
    position: WordPosition = "same",
    progress: bool = False,
) -> WordsResult:
    """Train a linear probe on the words of `train` and score it on those of `test`.

    Args:
        encoder: frozen.
        train: labelled sentences.
        test: labelled sentences; a label that `train` does not have counts as missed.
        position: take a word's own states, or those one token before.
        progress: show bars.

    Raises:
        DataError: fewer than two different labels to tell apart.
    """
    with tempfile.TemporaryDirectory(prefix="unmask-words-") as folder:
        features = [
            word_vectors(encoder, sentences, Path(folder) / name, position=position, progress=progress)
            for name, sentences in (("train.npy", train), ("test.npy", test))
        ]
        predicted = fit_predict(features[0], _flat(train), features[1])
    return score_words(test, predicted, position)


def word_vectors(
    encoder: TextEncoder,
    sentences: Sequence[LabelledSentence],
    path: Path,
    *,
    position: WordPosition,
    progress: bool = False,
) -> Floats:
    """Word vectors of all sentences, float32 [words, width], in a memory-mapped file: encoded once, probed often."""
    total = sum(len(sentence.words) for sentence in sentences)
    shape = (total, encoder.dimension)
    vectors: Floats = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    at = 0
    with tqdm(total=total, unit="word", desc=path.stem, disable=not progress) as bar:
        for start in range(0, len(sentences), _SENTENCES_AT_ONCE):
            words = [sentence.words for sentence in sentences[start : start + _SENTENCES_AT_ONCE]]
            for rows in encoder.encode_words(words, position=position):
                vectors[at : at + len(rows)] = rows
                at += len(rows)
                bar.update(len(rows))
    return vectors


def fit_predict(train: Floats, labels: Sequence[str], test: Floats) -> list[str]:
    """Predicted labels of `test` by logistic regression on standardised features.

    Raises:
        DataError: fewer than two different labels.
    """
    from sklearn.linear_model import LogisticRegression

    classes = sorted(set(labels))
    if len(classes) < 2:
        raise DataError(f"A probe needs at least two different labels; the training words have {classes}.")
    mean, scale = train.mean(axis=0), train.std(axis=0) + 1e-6
    # Fixed strength and tolerance: 200 iterations are past convergence of the accuracy on the sets of the docs.
    probe = LogisticRegression(C=0.1, max_iter=200, tol=1e-3)
    with _quiet():
        probe.fit((train - mean) / scale, np.asarray(labels))
    predicted: list[str] = probe.predict((test - mean) / scale).tolist()
    return predicted


def score_words(sentences: Sequence[LabelledSentence], predicted: Sequence[str], position: WordPosition) -> WordsResult:
    """Accuracy over words; for BIO labels also entity F1 as conlleval and seqeval define it."""
    truth = _flat(sentences)
    right = sum(a == b for a, b in zip(truth, predicted, strict=True))
    f1 = None
    if is_bio(truth):
        from seqeval.metrics import f1_score

        with _quiet():
            f1 = 100 * float(f1_score([list(s.labels) for s in sentences], list(_unflat(sentences, predicted))))
    return WordsResult(100 * right / len(truth), f1, len(truth), len(set(truth)), position)


def is_bio(labels: Sequence[str]) -> bool:
    """True for labels that mark spans: O, B-x, I-x."""
    kinds = set(labels)
    return any(label.startswith("B-") for label in kinds) and all(
        label == "O" or label[:2] in ("B-", "I-") for label in kinds
    )


def _flat(sentences: Sequence[LabelledSentence]) -> list[str]:
    return [label for sentence in sentences for label in sentence.labels]


def _unflat(sentences: Sequence[LabelledSentence], flat: Sequence[str]) -> Iterator[list[str]]:
    at = 0
    for sentence in sentences:
        yield list(flat[at : at + len(sentence.labels)])
        at += len(sentence.labels)


def cross_validate(
    vectors: Floats, sentences: Sequence[LabelledSentence], *, folds: int, position: WordPosition
) -> WordsResult:
    """Score a small set by itself: each fold of sentences is predicted by a probe trained on the others."""
    sentence_of: NDArray[np.int64] = np.repeat(np.arange(len(sentences)), [len(s.words) for s in sentences])
    labels = np.asarray(_flat(sentences))
    predicted = np.empty(len(labels), dtype=object)
    for fold in range(folds):
        held = sentence_of % folds == fold
        predicted[held] = fit_predict(vectors[~held], labels[~held].tolist(), vectors[held])
    return score_words(sentences, predicted.tolist(), position)


@contextmanager
def _quiet() -> Iterator[None]:
    """Convergence and zero-division notes of the libraries say nothing a reader can act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
