"""Evaluating one rung of the ladder on every task of a recipe, and every checkpoint of a run on some of them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from unmask.backbone.devices import precision_here
from unmask.backbone.loading import load_model
from unmask.encoder import TextEncoder
from unmask.errors import RecipeError
from unmask.evaluation.masked import evaluate_masked
from unmask.evaluation.tasks import Settings, Task
from unmask.runs.rungs import checkpoints, open_rung, split_places
from unmask.runs.schema import EvaluationSettings, MaskedTask, Recipe, evaluation_class
from unmask.runs.sources import open_data, with_paths
from unmask.settings import checked

Texts = Callable[[str], Sequence[str]]
Figures = dict[str, float]
Score = Callable[[TextEncoder], Figures]


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
    evaluation = checked(evaluation_class(), tasks)
    if evaluation.masked:
        raise RecipeError("masked needs the base model of a run; leave it out, or put it into a recipe.")
    asked = [(task, name, with_paths(settings)) for task, name, settings in evaluation.tasks()]
    read = [(*one, one[0].read(one[2])) for one in asked]
    figures: Figures = {}
    for task, name, settings, data in read:
        figures |= task.figures(encoder, name, settings, data=data, progress=progress)
    return figures


def scorers(recipe: Recipe, texts: Texts, *, progress: bool = False) -> dict[str, Score]:
    """What scores an encoder on each task of a recipe: place of the task below `evaluation` -> figures of an encoder.

    A figure is the name of its task (with the measure) -> percent, except the masked loss (nats).
    """
    masked = recipe.evaluation.masked
    found: dict[str, Score] = {}
    if masked:
        found["masked"] = lambda encoder: _masked(encoder, recipe.model.name, masked, texts)
    for task, name, settings in recipe.evaluation.tasks():
        found[f"{task.name}.{name}"] = partial(_figures, task, name, with_paths(settings), progress)
    return found


def _figures(task: Task, name: str, settings: Settings, progress: bool, encoder: TextEncoder) -> Figures:
    return task.figures(encoder, name, settings, progress=progress)


def evaluate_rung(encoder: TextEncoder, recipe: Recipe, texts: Texts) -> Figures:
    """Every figure of one encoder, of all tasks of a recipe; see `scorers`."""
    figures: Figures = {}
    for score in scorers(recipe, texts).values():
        figures |= score(encoder)
    return figures


def check_tasks(recipe: Recipe) -> None:
    """Read every file of the evaluation to its end, before anything is trained.

    Raises:
        DataError: what is wrong with one of them.
    """
    for task, _, settings in recipe.evaluation.tasks():
        task.read(with_paths(settings))


def score_checkpoints(
    recipe: Recipe, folder: Path, tasks: Sequence[str], *, progress: bool = False
) -> list[dict[str, Any]]:
    """One row a checkpoint: rung, `step` since the start of the run, `stage_step` since that of its stage, figures.

    This is sample efficiency (section 5.2 of the paper, Figure 6). The untrained model comes first, at step 0.

    Args:
        recipe: of the run.
        folder: the run.
        tasks: names of tasks in the recipe's evaluation, or `masked`.
        progress: show a bar.

    Raises:
        RecipeError: a task that the recipe does not have.
    """
    chosen = recipe.model_copy(update={"evaluation": _only(recipe.evaluation, tasks)})
    texts = open_data(recipe).texts
    start = split_places(recipe, folder)[0][-1]
    precision = precision_here(chosen.evaluation.precision)
    figures = evaluate_rung(open_rung(recipe, start, precision), chosen, texts)
    rows: list[dict[str, Any]] = [{"rung": start.name, "step": 0, "stage_step": 0, **figures}]
    done, last, rung = 0, 0, start.name
    for place, step, encoder in tqdm(
        checkpoints(recipe, folder, precision), desc="checkpoints", unit="checkpoint", disable=not progress
    ):
        if place.name != rung:
            done, rung = done + last, place.name
        last = step
        figures = evaluate_rung(encoder, chosen, texts)
        rows.append({"rung": place.name, "step": done + step, "stage_step": step, **figures})
    return rows


def _only(evaluation: EvaluationSettings, tasks: Sequence[str]) -> EvaluationSettings:
    kinds = {key: value for key, value in evaluation if isinstance(value, dict)}
    known = {name for named in kinds.values() for name in named} | ({"masked"} if evaluation.masked else set())
    unknown = sorted(set(tasks) - known)
    if unknown:
        raise RecipeError(f"The recipe evaluates no {unknown[0]!r}; it has {', '.join(sorted(known)) or 'no task'}.")
    kept = {key: {name: task for name, task in named.items() if name in tasks} for key, named in kinds.items()}
    return evaluation.model_copy(update={**kept, "masked": evaluation.masked if "masked" in tasks else None})


def head_beside(encoder: TextEncoder, base: str) -> Any:
    """The base model, for its language-model head, in the arithmetic of an encoder."""
    return load_model(base, head=True, dtype="bfloat16" if encoder.model.dtype == torch.bfloat16 else "float32")


def _masked(encoder: TextEncoder, base: str, task: MaskedTask, texts: Texts) -> Figures:
    head = head_beside(encoder, base)
    found = evaluate_masked(
        encoder,
        head,
        texts(task.data),
        block_size=task.block_size,
        num_blocks=task.blocks,
        mask_token=task.mask_token,
    )
    return {"masked loss": found["masked_loss"], "masked accuracy": 100 * found["masked_accuracy"]}
