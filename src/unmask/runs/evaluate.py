"""Evaluating one rung of the ladder on every task of a recipe."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from unmask.backbone.loading import load_model
from unmask.encoder import TextEncoder
from unmask.errors import RecipeError
from unmask.evaluation.masked import evaluate_masked
from unmask.runs.schema import MaskedTask, Recipe, evaluation_class
from unmask.runs.sources import with_paths
from unmask.settings import explained

Texts = Callable[[str], Sequence[str]]
Figures = dict[str, float]


def evaluate(encoder: TextEncoder, tasks: Mapping[str, Mapping[str, Any]], *, progress: bool = False) -> Figures:
    """Score one encoder on tasks as a recipe's `evaluation` says them, for example `{"sts": {"dev": {"file": ...}}}`.

    Args:
        encoder: frozen.
        tasks: kind of task -> name -> settings; every file is read before the encoder runs.
        progress: show bars.

    Returns:
        Name of the task (with the measure) -> percent.

    Raises:
        RecipeError: an unknown kind or key.
        DataError: data that cannot be used.
    """
    try:
        evaluation = evaluation_class().model_validate(tasks)
    except ValidationError as error:
        raise RecipeError("; ".join(explained(item) for item in error.errors())) from error
    if evaluation.masked:
        raise RecipeError("masked needs the base model of a run; leave it out, or put it into a recipe.")
    asked = [(task, name, with_paths(settings)) for task, name, settings in evaluation.tasks()]
    read = [(*one, one[0].read(one[2])) for one in asked]
    figures: Figures = {}
    for task, name, settings, data in read:
        figures |= task.figures(encoder, name, settings, data=data, progress=progress)
    return figures


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
