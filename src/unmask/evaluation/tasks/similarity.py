"""Sentence pairs: does the cosine of two vectors follow people's scores, or tell pairs that belong together?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from unmask.data.formats import find_format, read_lines
from unmask.data.records import Quoting, csv_lists
from unmask.data.sources import is_hub, open_rows
from unmask.errors import DataError
from unmask.evaluation.tasks.record import SOURCE, AskedQuoting, InputFile, Measure, Prompt, Task, scored_by
from unmask.settings import Settings

if TYPE_CHECKING:
    from unmask.encoder import Floats, TextEncoder

_NAMES = ("sentence1", "sentence2")


class PairsSettings(Settings):
    """Sentence pairs with scores, or with labels 0 and 1."""

    file: InputFile = Field(description=SOURCE)
    columns: tuple[str, str, str] | None = Field(
        None, strict=False, description="names of the columns or keys: first text, second text, score or label"
    )
    quoting: AskedQuoting = "standard"
    prompt: Prompt = None


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """Two lists of texts and the score of each pair, of equal length."""

    first: list[str]
    second: list[str]
    scores: list[float]


@dataclass(frozen=True, slots=True)
class SimilarityResult:
    """Rank and linear correlation of cosine and score, in percent, over so many pairs."""

    spearman: float
    pearson: float
    pairs: int


@dataclass(frozen=True, slots=True)
class PairResult:
    """Average precision of the cosine, in percent; the best accuracy and F1 that a threshold on it gives."""

    average_precision: float
    accuracy: float
    f1: float
    pairs: int
    positive: int


def read_pairs(
    source: str | Path,
    *,
    columns: tuple[str, str, str] | None = None,
    score: str = "score",
    quoting: Quoting = "standard",
) -> ScoredPairs:
    """Read sentence pairs with scores.

    Args:
        source: a csv, tsv, JSON or Parquet file, or a hub data set `name[:config]@split`.
        columns: names of first text, second text and score. By default sentence1, sentence2 and `score` where there
            is such a header or key; a csv or tsv without header is read as those three columns.
        score: default name of the third column.
        quoting: of csv and tsv.

    Raises:
        DataError: a line that does not hold two texts and a number (file and line), or no pair.
    """
    path = Path(source)
    names = columns or (*_NAMES, score)
    headless = columns is None and not is_hub(str(source)) and find_format(path) in ("csv", "tsv")
    headless = headless and not _has_header(path, names)
    pairs = ScoredPairs([], [], [])
    rows = _headless_rows(path, quoting) if headless else open_rows(str(source), names, quoting=quoting)
    for place, (first, second, value) in rows:
        try:
            number = float(value)
        except (TypeError, ValueError):
            hint = (
                "; if this line is a header, name its columns with --columns" if headless and not pairs.scores else ""
            )
            raise DataError(f"{place}: {names[2]} {value!r} is not a number{hint}.") from None
        if not np.isfinite(number):
            raise DataError(f"{place}: {names[2]} {value!r} is not finite.")
        if not isinstance(first, str) or not isinstance(second, str):
            raise DataError(f"{place}: {names[0]} and {names[1]} must be strings.")
        pairs.first.append(first)
        pairs.second.append(second)
        pairs.scores.append(number)
    if len(pairs.scores) < 2:
        raise DataError(f"{source}: {len(pairs.scores)} pairs are too few.")
    return pairs


def evaluate_similarity(
    encoder: "TextEncoder", pairs: ScoredPairs, *, prompt: str | None = None, progress: bool = False
) -> SimilarityResult:
    """Spearman and Pearson correlation (times 100) of cosine similarity with the scores.

    Raises:
        DataError: all scores are equal, so nothing can correlate with them.
    """
    from scipy.stats import pearsonr, spearmanr

    if len(set(pairs.scores)) < 2:
        raise DataError("All scores are equal; a correlation needs at least two different ones.")
    cosines = _cosines(encoder, pairs, prompt, progress)
    if np.ptp(cosines) == 0:
        raise DataError("The cosine is the same for every pair, so nothing correlates with it.")
    return SimilarityResult(
        100 * float(spearmanr(cosines, pairs.scores).statistic),
        100 * float(pearsonr(cosines, pairs.scores).statistic),
        len(pairs.scores),
    )


def evaluate_pairs(
    encoder: "TextEncoder", pairs: ScoredPairs, *, prompt: str | None = None, progress: bool = False
) -> PairResult:
    """Average precision of the cosine as a score for the label 1 against 0.

    Raises:
        DataError: other labels than 0 and 1, or one of them without a pair.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

    labels = np.asarray(pairs.scores)
    odd = sorted(set(pairs.scores) - {0.0, 1.0})
    if odd:
        raise DataError(f"Labels of pairs are 0 and 1, found {odd[0]:g}.")
    positive = int(labels.sum())
    if positive in (0, len(labels)):
        raise DataError(f"No pair has the label {int(not positive)}; both labels are needed.")
    cosines = _cosines(encoder, pairs, prompt, progress)
    false_rate, true_rate, _ = roc_curve(labels, cosines)
    right = true_rate * positive + (1 - false_rate) * (len(labels) - positive)
    precision, recall, _ = precision_recall_curve(labels, cosines)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return PairResult(
        100 * float(average_precision_score(labels, cosines)),
        100 * float(right.max()) / len(labels),
        100 * float(f1.max()),
        len(labels),
        positive,
    )


def _cosines(encoder: "TextEncoder", pairs: ScoredPairs, prompt: str | None, progress: bool) -> "Floats":
    """Cosine of every pair; a text that stands in several pairs is encoded once."""
    numbers: dict[str, int] = {}
    rows = [[numbers.setdefault(text, len(numbers)) for text in side] for side in (pairs.first, pairs.second)]
    vectors = encoder.encode(list(numbers), prompt=prompt, normalize=True, progress=progress)
    cosines: Floats = np.einsum("nd,nd->n", vectors[rows[0]], vectors[rows[1]])
    return cosines


def _has_header(path: Path, names: Sequence[str]) -> bool:
    _, first = next(iter(read_lines(path)), (0, ""))
    return all(name in first for name in names)


def _headless_rows(path: Path, quoting: Quoting) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for line, row in csv_lists(path, quoting):
        if len(row) != 3:
            raise DataError(
                f"{path}:{line}: {len(row)} columns, expected 3 (text, text, score). "
                "Name the columns with --columns if there are more."
            )
        yield f"{path}:{line}", tuple(row)


STS = Task(
    name="sts",
    help="sentence pairs with scores: Spearman and Pearson correlation of the cosine",
    settings=PairsSettings,
    read=lambda settings: read_pairs(settings.file, columns=settings.columns, quoting=settings.quoting),
    score=scored_by(evaluate_similarity, "prompt"),
    measures=(Measure("spearman", "Spearman correlation of the cosine, x 100"),),
    example="sts pocket-bi --data stsb-en-dev.csv",
)
PAIRS = Task(
    name="pairs",
    help="sentence pairs labelled 1 (belong together) or 0: average precision of the cosine",
    settings=PairsSettings,
    read=lambda settings: read_pairs(settings.file, columns=settings.columns, score="label", quoting=settings.quoting),
    score=scored_by(evaluate_pairs, "prompt"),
    measures=(Measure("average_precision", "average precision, %", " AP"),),
    example="pairs pocket-bi --data duplicates.csv --columns question1 question2 duplicate",
)
