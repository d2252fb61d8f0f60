"""Evaluating one rung of the ladder on every task of a recipe."""

from collections.abc import Callable, Sequence
from typing import Any

from unmask.backbone.loading import load_model
from unmask.data.words import ColumnFile
from unmask.encoder import TextEncoder
from unmask.evaluation.masked import evaluate_masked
from unmask.evaluation.similarity import evaluate_similarity, read_pairs
from unmask.evaluation.words import WordsData, evaluate_words
from unmask.ladder.recipe import Recipe, WordsTask, resolve_path


def evaluate_rung(
    encoder: TextEncoder, recipe: Recipe, texts: Callable[[str], Sequence[str]], *, progress: bool = False
) -> dict[str, float]:
    """Every figure of one encoder: task name (with measure) -> percent, except the masked loss (nats)."""
    figures: dict[str, float] = {}
    tasks = recipe.evaluation
    if tasks.masked:
        base: Any = load_model(recipe.model.name, head=True, dtype="float32")
        found = evaluate_masked(
            encoder,
            base,
            texts(tasks.masked.data),
            block_size=tasks.masked.block_size,
            num_blocks=tasks.masked.blocks,
            mask_token=tasks.masked.mask_token,
        )
        figures["masked loss"] = found["masked_loss"]
        figures["masked accuracy"] = 100 * found["masked_accuracy"]
    for name, sts in tasks.sts.items():
        pairs = read_pairs(resolve_path(sts.file), columns=sts.columns)
        figures[name] = evaluate_similarity(encoder, pairs, progress=progress).spearman
    for name, words in tasks.words.items():
        for result in evaluate_words(encoder, words_data(words), positions=words.positions, progress=progress):
            label = name if result.position == "same" else f"{name} (previous)"
            figures[label] = result.accuracy
            if result.f1 is not None:
                figures[f"{label} F1"] = result.f1
    return figures


def words_data(task: WordsTask) -> WordsData:
    """The labelled sentences of a recipe's task, looked over.

    Raises:
        DataError: a broken line, or labels that no probe can be trained on.
    """
    labels = None if task.label_column is None else {"label": task.label_column}
    train = ColumnFile(resolve_path(task.train), labels, task.word_column, task.limit)
    return WordsData(train, ColumnFile(resolve_path(task.test), labels, task.word_column))
