"""Semantic textual similarity: does the cosine of two vectors follow people's scores?"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from unmask.data.records import check_file, csv_lists, read_lines, read_rows
from unmask.encoder import TextEncoder
from unmask.errors import DataError


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

    def to_dict(self) -> dict[str, float]:
        """For `--json`."""
        return asdict(self)


def read_pairs(path: Path, *, columns: tuple[str, str, str] | None = None) -> ScoredPairs:
    """Read sentence pairs with scores.

    Args:
        path: .csv, .tsv or .jsonl.
        columns: names of first text, second text and score. By default sentence1, sentence2, score where there
            is such a header or key; a csv or tsv without header is read as those three columns.

    Raises:
        DataError: a line that does not hold two texts and a number (file and line), or no pair.
    """
    names = columns or ("sentence1", "sentence2", "score")
    headless = columns is None and path.suffix in (".csv", ".tsv") and not _has_header(path, names)
    pairs = ScoredPairs([], [], [])
    for line, row in _headless_rows(path) if headless else read_rows(path):
        if isinstance(row, str):
            raise DataError(f"{path}: pairs are read from .csv, .tsv or .jsonl, not {path.suffix or 'this'}.")
        missing = [name for name in names if name not in row]
        if missing:
            raise DataError(f"{path}:{line}: no {missing[0]!r} here; found {', '.join(map(repr, row))}.")
        first, second, score = (row[name] for name in names)
        try:
            number = float(score)
        except (TypeError, ValueError):
            raise DataError(f"{path}:{line}: score {score!r} is not a number.") from None
        if not np.isfinite(number):
            raise DataError(f"{path}:{line}: score {score!r} is not finite.")
        if not isinstance(first, str) or not isinstance(second, str):
            raise DataError(f"{path}:{line}: {names[0]} and {names[1]} must be strings.")
        pairs.first.append(first)
        pairs.second.append(second)
        pairs.scores.append(number)
    if len(pairs.scores) < 2:
        raise DataError(f"{path}: {len(pairs.scores)} pairs are too few for a correlation.")
    return pairs


def evaluate_similarity(
    encoder: TextEncoder, pairs: ScoredPairs, *, prompt: str | None = None, progress: bool = False
) -> SimilarityResult:
    """Spearman and Pearson correlation (times 100) of cosine similarity with the scores.

    Raises:
        DataError: all scores are equal, so nothing can correlate with them.
    """
    from scipy.stats import pearsonr, spearmanr

    if len(set(pairs.scores)) < 2:
        raise DataError("All scores are equal; a correlation needs at least two different ones.")
    vectors = encoder.encode([*pairs.first, *pairs.second], prompt=prompt, normalize=True, progress=progress)
    first, second = np.split(vectors, 2)
    cosines = (first * second).sum(axis=1)
    return SimilarityResult(
        100 * float(spearmanr(cosines, pairs.scores).statistic),
        100 * float(pearsonr(cosines, pairs.scores).statistic),
        len(pairs.scores),
    )


def _has_header(path: Path, names: tuple[str, str, str]) -> bool:
    check_file(path)
    first = next(iter(read_lines(path)))[1]
    return all(name in first for name in names)


def _headless_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for line, row in csv_lists(path):
        if len(row) != 3:
            raise DataError(
                f"{path}:{line}: {len(row)} columns, expected 3 (text, text, score). "
                "Name the columns with --columns if there are more."
            )
        yield line, dict(zip(("sentence1", "sentence2", "score"), row, strict=True))
