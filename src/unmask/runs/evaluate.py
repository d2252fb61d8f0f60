"""Evaluating one rung of the ladder on every task of a recipe."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unmask.backbone.loading import load_model
from unmask.data.ranking import read_beir, read_candidates
from unmask.data.sources import read_labelled_texts
from unmask.data.words import ColumnFile
from unmask.encoder import TextEncoder
from unmask.evaluation.classification import check_classes, evaluate_classification
from unmask.evaluation.clustering import evaluate_clustering
from unmask.evaluation.masked import evaluate_masked
from unmask.evaluation.retrieval import evaluate_beir, evaluate_candidates
from unmask.evaluation.similarity import ScoredPairs, evaluate_pairs, evaluate_similarity, read_pairs
from unmask.evaluation.words import WordsData, evaluate_words, resolve_position
from unmask.runs.schema import (
    ClassificationTask,
    ClusteringTask,
    MaskedTask,
    Recipe,
    RerankingTask,
    RetrievalTask,
    StsTask,
    WordsTask,
)
from unmask.runs.sources import local_source, resolve_path

Texts = Callable[[str], Sequence[str]]
Figures = dict[str, float]


def evaluate_rung(encoder: TextEncoder, recipe: Recipe, texts: Texts, *, progress: bool = False) -> Figures:
    """Every figure of one encoder: task name (with measure) -> percent, except the masked loss (nats)."""
    tasks = recipe.evaluation
    figures: Figures = {}
    if tasks.masked:
        figures |= _masked(encoder, recipe.model.name, tasks.masked, texts)
    for kind, run in _RUN.items():
        for name, task in getattr(tasks, kind).items():
            figures |= run(encoder, name, task, progress)
    return figures


def check_tasks(recipe: Recipe) -> None:
    """Read every file of the evaluation to its end, before anything is trained.

    Raises:
        DataError: what is wrong with one of them.
    """
    for kind in _RUN:
        for task in getattr(recipe.evaluation, kind).values():
            _CHECK[kind](task)


def _masked(encoder: TextEncoder, base: str, task: MaskedTask, texts: Texts) -> Figures:
    head: Any = load_model(base, head=True, dtype="float32")
    found = evaluate_masked(
        encoder,
        head,
        texts(task.data),
        block_size=task.block_size,
        num_blocks=task.blocks,
        mask_token=task.mask_token,
    )
    return {"masked loss": found["masked_loss"], "masked accuracy": 100 * found["masked_accuracy"]}


def _sts(encoder: TextEncoder, name: str, task: StsTask, progress: bool) -> Figures:
    result = evaluate_similarity(encoder, _read_pairs(task, "score"), prompt=task.prompt, progress=progress)
    return {name: result.spearman}


def _pairs(encoder: TextEncoder, name: str, task: StsTask, progress: bool) -> Figures:
    result = evaluate_pairs(encoder, _read_pairs(task, "label"), prompt=task.prompt, progress=progress)
    return {f"{name} AP": result.average_precision}


def _classification(encoder: TextEncoder, name: str, task: ClassificationTask, progress: bool) -> Figures:
    train, test = (read_labelled_texts(_place(source), task.columns) for source in (task.train, task.test))
    result = evaluate_classification(encoder, train, test, shots=task.shots, prompt=task.prompt, progress=progress)
    return {f"{name} accuracy": result.accuracy}


def _clustering(encoder: TextEncoder, name: str, task: ClusteringTask, progress: bool) -> Figures:
    data = read_labelled_texts(_place(task.file), task.columns)
    return {f"{name} V-measure": evaluate_clustering(encoder, data, prompt=task.prompt, progress=progress).v_measure}


def _retrieval(encoder: TextEncoder, name: str, task: RetrievalTask, progress: bool) -> Figures:
    data = read_beir(local_source(task.folder), task.split)
    result = evaluate_beir(encoder, data, prompt=task.prompt, max_length=task.max_length, progress=progress)
    return {f"{name} nDCG@10": result.ndcg_at_10}


def _reranking(encoder: TextEncoder, name: str, task: RerankingTask, progress: bool) -> Figures:
    data = read_candidates(resolve_path(task.file))
    return {f"{name} MAP": evaluate_candidates(encoder, data, prompt=task.prompt, progress=progress).map}


def _words(encoder: TextEncoder, name: str, task: WordsTask, progress: bool) -> Figures:
    figures: Figures = {}
    results = evaluate_words(encoder, _words_data(task), positions=task.positions, progress=progress)
    by_position = {result.position: result for result in results}
    for asked in task.positions:
        result = by_position[resolve_position(encoder, asked)]
        label = name if asked == task.positions[0] else f"{name} ({asked})"
        figures[label] = result.accuracy
        if result.f1 is not None:
            figures[f"{label} F1"] = result.f1
    return figures


def _words_data(task: WordsTask) -> WordsData:
    labels = None if task.label_column is None else {"label": task.label_column}
    train = ColumnFile(resolve_path(task.train), labels, task.word_column, task.limit)
    return WordsData(train, ColumnFile(resolve_path(task.test), labels, task.word_column))


def _read_pairs(task: StsTask, score: str) -> ScoredPairs:
    return read_pairs(resolve_path(task.file), columns=task.columns, score=score)


def _check_classification(task: ClassificationTask) -> None:
    train, test = (read_labelled_texts(_place(source), task.columns) for source in (task.train, task.test))
    check_classes(train, test)


def _place(path: str) -> str:
    return str(Path(resolve_path(path)))


_RUN: dict[str, Callable[[TextEncoder, str, Any, bool], Figures]] = {
    "sts": _sts,
    "pairs": _pairs,
    "classification": _classification,
    "clustering": _clustering,
    "retrieval": _retrieval,
    "reranking": _reranking,
    "words": _words,
}
_CHECK: dict[str, Callable[[Any], object]] = {
    "sts": lambda task: _read_pairs(task, "score"),
    "pairs": lambda task: _read_pairs(task, "label"),
    "classification": _check_classification,
    "clustering": lambda task: read_labelled_texts(_place(task.file), task.columns),
    "retrieval": lambda task: read_beir(local_source(task.folder), task.split),
    "reranking": lambda task: read_candidates(resolve_path(task.file)),
    "words": _words_data,
}
