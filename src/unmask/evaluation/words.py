"""Word-level tasks: linear probes on frozen word vectors, which are computed once (section 3.1 of the paper)."""

import logging
import statistics
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from unmask.data.words import Corpus, LabelledSentence
from unmask.encoder import TextEncoder, WordPosition
from unmask.errors import DataError
from unmask.evaluation.features import CorpusShape, LabelNumbers, View, WordFeatures, check_room, extract, look_over
from unmask.evaluation.probe import (
    PAPER_STEPS,
    LinearProbe,
    ProbeName,
    Rows,
    fit_converged,
    fit_paper,
    standardise,
)
from unmask.evaluation.spans import Scheme, span_f1, span_scheme
from unmask.settings import Position

logger = logging.getLogger(__name__)

_POSITIONS: tuple[WordPosition, ...] = ("same", "previous")
_EVERY = 5  # of the sentences that `auto` looks at, the last is held out
_CHOICE_BYTES = 64 << 20  # of word vectors that `auto` looks at: 29,000 words of width 576, 4,000 of width 4,096


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """Which probe is trained.

    Attributes:
        name: `converged`, a logistic regression, or `paper`: a fixed number of steps.
        steps: of the paper's probe.
        seeds: of the paper's probe, one after the other; the converged one has none.
    """

    name: ProbeName = "converged"
    steps: int = PAPER_STEPS
    seeds: Sequence[int] = (0,)


@dataclass(frozen=True, slots=True)
class WordsResult:
    """One probe's figures, in percent.

    Attributes:
        task: which labels.
        position: of a word's states.
        layer: 0 is the embedding output.
        accuracy: over words, mean over seeds; what the paper's Table 4 gives.
        f1: of whole entities or chunks, mean over seeds; None where labels mark no spans. Not to be compared with
            accuracy.
        words: that were scored.
        labels: different ones in the scored words.
        probe: converged or paper.
        accuracy_spread: half the range over seeds.
        f1_spread: half the range over seeds.
        seeds: how many.
        chosen: the position is what `auto` took.
    """

    task: str
    position: WordPosition
    layer: int
    accuracy: float
    f1: float | None
    words: int
    labels: int
    probe: ProbeName
    accuracy_spread: float = 0.0
    f1_spread: float = 0.0
    seeds: int = 1
    chosen: bool = False
    trained: LinearProbe | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {key: value for key, value in asdict(self).items() if key != "trained"}


@dataclass(frozen=True, slots=True)
class WordsData:
    """Two corpora that were looked over: what is needed before an encoder is loaded.

    Raises (when made):
        DataError: a broken line, an unknown label scheme, or fewer than two labels to tell apart.
    """

    train: Corpus
    test: Corpus
    scheme: Scheme = "auto"
    names: LabelNumbers = field(default_factory=dict)
    shapes: list[CorpusShape] = field(default_factory=list)
    schemes: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shapes.append(look_over(self.train, self.names))
        trained = {task: len(known) for task, known in self.names.items()}
        self.shapes.append(look_over(self.test, self.names))
        if self.shapes[0].tasks != self.shapes[1].tasks:
            raise DataError(f"Training tasks {self.shapes[0].tasks} and test tasks {self.shapes[1].tasks} differ.")
        for task in self.shapes[0].tasks:
            known = list(self.names[task])
            if trained[task] < 2:
                raise DataError(f"A probe needs at least two different labels; the training words have {known[:1]}.")
            unseen = known[trained[task] :]
            if unseen:
                logger.warning("%s: %s not in the training data; counted as missed.", task, ", ".join(unseen[:5]))
            self.schemes[task] = span_scheme(known) if self.scheme == "auto" else None


def evaluate_words(
    encoder: TextEncoder,
    data: WordsData,
    *,
    positions: Sequence[Position] = ("same",),
    layers: Sequence[int] | None = None,
    probe: ProbeSettings | None = None,
    progress: bool = False,
) -> list[WordsResult]:
    """Train linear probes on the words of a training corpus and score them on a test corpus.

    The encoder reads each corpus once, whatever the number of tasks, positions, layers and seeds. A test label that
    the training corpus does not have counts as missed.

    Args:
        encoder: frozen.
        data: the corpora.
        positions: a word's own states, those one token before, or `auto`: after MNTP, whose states say the next token,
            whichever of the two a part of the training words is read better from, task by task; else the own ones.
        layers: 0 is the embedding output; by default the last.
        probe: which probe, and its seeds.
        progress: show bars.

    Raises:
        DataError: a sentence longer than the encoder's `max_length`, or too little disk.
    """
    settings = probe or ProbeSettings()
    asked: set[WordPosition] = {position for position in positions if position != "auto"}
    open_choice = "auto" in positions and encoder.went_through_mntp
    chosen: WordPosition | None = "same" if "auto" in positions and not open_choice else None
    named = ["same", "previous"] if open_choice else [*asked, *([chosen] if chosen else [])]
    wanted = [position for position in _POSITIONS if position in asked or position in named]
    views = len(wanted) * (len(set(layers)) if layers is not None else 1)
    with tempfile.TemporaryDirectory(prefix="unmask-words-") as scratch:
        check_room(Path(scratch), sum(shape.words for shape in data.shapes) * encoder.dimension * 4 * views)
        features = []
        for name, corpus, shape in zip(("train", "test"), (data.train, data.test), data.shapes, strict=True):
            folder = Path(scratch) / name
            folder.mkdir()
            features.append(
                extract(encoder, corpus, shape, data.names, folder, positions=wanted, layers=layers, progress=progress)
            )
        train, test = features
        kept = {view: dict.fromkeys(train.shape.tasks, view[0] == chosen) for view in train.vectors}
        if open_choice:
            for task in train.shape.tasks:
                for layer in dict.fromkeys(layer for _, layer in train.vectors):
                    kept[_better_position(train, layer, task, len(data.names[task])), layer][task] = True
        return [
            result
            for view in tqdm(train.vectors, desc="probes", unit="layer", disable=not progress)
            for result in _score_view(train, test, view, data, settings, asked, kept[view])
        ]


def _better_position(train: WordFeatures, layer: int, task: str, count: int) -> WordPosition:
    """The position from whose states every fifth sentence of the first training words is labelled better.

    Fewer than five sentences: `same`.
    """
    width = next(iter(train.vectors.values())).array.shape[1]
    rows = min(train.shape.words, _CHOICE_BYTES // (4 * width))
    labels = train.labels[task][:rows]
    sentence: NDArray[np.int64] = np.repeat(np.arange(len(train.shape.lengths)), train.shape.lengths)[:rows]
    held = sentence % _EVERY == _EVERY - 1
    if not held.any():
        return "same"
    right: dict[WordPosition, float] = {}
    for position in _POSITIONS:
        matrix = train.vectors[position, layer].array[:rows]
        own = Rows(matrix[~held].copy())
        moments = standardise(own)
        fitted = LinearProbe(*fit_converged(own, labels[~held], count), *moments)
        right[position] = float((fitted.predict(matrix[held]) == labels[held]).mean())
    best: WordPosition = max(_POSITIONS, key=lambda position: right[position])
    told = ", ".join(f"{position} {100 * share:.2f}%" for position, share in right.items())
    logger.info("%s, layer %d: words are read at position %s (held-out training words: %s)", task, layer, best, told)
    return best


def _score_view(
    train: WordFeatures,
    test: WordFeatures,
    view: View,
    data: WordsData,
    settings: ProbeSettings,
    asked: Collection[WordPosition],
    chosen: Mapping[str, bool],
) -> Iterator[WordsResult]:
    """Every task on the vectors of one position and layer, if the position was asked for or chosen for the task."""
    rows, lengths = train.vectors[view], train.shape.lengths
    tasks = [name for name in train.shape.tasks if view[0] in asked or chosen[name]]
    moments = standardise(rows) if settings.name == "converged" and tasks else None
    for name in tasks:
        labels, count = train.labels[name], len(data.names[name])
        if moments:
            probes = [LinearProbe(*fit_converged(rows, labels, count), *moments)]
        else:
            probes = [fit_paper(rows, labels, lengths, count, steps=settings.steps, seed=s) for s in settings.seeds]
        yield replace(_score(probes, test, view, name, data, settings), chosen=chosen[name])


def _score(
    probes: Sequence[LinearProbe], test: WordFeatures, view: View, name: str, data: WordsData, settings: ProbeSettings
) -> WordsResult:
    """One task's probes on the test words: mean and spread over seeds."""
    accuracies, f1s = [], []
    truth, names = test.labels[name], list(data.names[name])
    for fitted in probes:
        predicted = fitted.predict_all(test.vectors[view])
        accuracies.append(100 * float((predicted == truth).mean()))
        if data.schemes[name]:
            f1s.append(span_f1(test.shape.lengths, truth, predicted, names))
    return WordsResult(
        task=name,
        position=view[0],
        layer=view[1],
        accuracy=statistics.fmean(accuracies),
        f1=statistics.fmean(f1s) if f1s else None,
        words=len(truth),
        labels=len(np.unique(truth)),
        probe=settings.name,
        accuracy_spread=_half_range(accuracies),
        f1_spread=_half_range(f1s),
        seeds=len(probes),
        trained=fitted,
    )


def cross_validate(encoder: TextEncoder, sentences: Sequence[LabelledSentence], *, folds: int) -> float:
    """Accuracy in percent of a small set of one task: each fold is predicted by a probe trained on the others."""
    names: LabelNumbers = {}
    shape = look_over(sentences, names)
    (task,) = shape.tasks
    with tempfile.TemporaryDirectory(prefix="unmask-words-") as scratch:
        features = extract(encoder, sentences, shape, names, Path(scratch), positions=("same",))
        (matrix,) = features.vectors.values()
        labels = features.labels[task]
        sentence_of: NDArray[np.int64] = np.repeat(np.arange(len(shape.lengths)), shape.lengths)
        predicted = np.empty_like(labels)
        for fold in range(folds):
            held = sentence_of % folds == fold
            rows = Rows(matrix.array[~held])
            moments = standardise(rows)
            fitted = LinearProbe(*fit_converged(rows, labels[~held], len(names[task])), *moments)
            predicted[held] = fitted.predict(matrix.array[held])
    return 100 * float((predicted == labels).mean())


def _half_range(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / 2 if values else 0.0
