"""Evaluating one rung of the ladder on every task of a recipe."""

from collections.abc import Callable, Sequence
from typing import Any

from unmask.backbone.loading import load_model
from unmask.encoder import TextEncoder
from unmask.evaluation.masked import evaluate_masked
from unmask.runs.schema import MaskedTask, Recipe
from unmask.runs.sources import with_paths

Texts = Callable[[str], Sequence[str]]
Figures = dict[str, float]


def evaluate_rung(encoder: TextEncoder, recipe: Recipe, texts: Texts, *, progress: bool = False) -> Figures:
    """Every figure of one encoder: task name (with measure) -> percent, except the masked loss (nats)."""
    masked = recipe.evaluation.masked
    figures = _masked(encoder, recipe.model.name, masked, texts) if masked else {}
    for task, name, settings in recipe.evaluation.tasks():
        figures |= task.figures(encoder, name, with_paths(settings), progress=progress)
    return figures


def check_tasks(recipe: Recipe) -> None:
    """Read every file of the evaluation to its end, before anything is trained.

    Raises:
        DataError: what is wrong with one of them.
    """
    for task, _, settings in recipe.evaluation.tasks():
        task.read(with_paths(settings))


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
