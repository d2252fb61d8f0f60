"""Sample efficiency: a run's tasks at every checkpoint that it kept (section 5.2 of the paper, Figure 6)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unmask.errors import RecipeError
from unmask.runs.evaluate import evaluate_rung
from unmask.runs.rungs import checkpoints, open_rung, split_places
from unmask.runs.schema import EvaluationSettings, Recipe
from unmask.runs.sources import open_data


def score_checkpoints(
    recipe: Recipe, folder: Path, tasks: Sequence[str], *, progress: bool = False
) -> list[dict[str, Any]]:
    """One row a checkpoint: rung, `step` since the start of the run, `stage_step` since that of its stage, figures.

    The untrained model comes first, at step 0.

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
    figures = evaluate_rung(open_rung(recipe, start), chosen, texts)
    rows: list[dict[str, Any]] = [{"rung": start.name, "step": 0, "stage_step": 0, **figures}]
    done, last, rung = 0, 0, start.name
    for place, step, encoder in tqdm(
        checkpoints(recipe, folder), desc="checkpoints", unit="checkpoint", disable=not progress
    ):
        if place.name != rung:
            done, rung = done + last, place.name
        last = step
        figures = evaluate_rung(encoder, chosen, texts)
        rows.append({"rung": place.name, "step": done + step, "stage_step": step, **figures})
    return rows


def _only(evaluation: EvaluationSettings, tasks: Sequence[str]) -> EvaluationSettings:
    """The evaluation cut down to some of its tasks."""
    kinds = {key: value for key, value in evaluation if isinstance(value, dict)}
    known = {name for named in kinds.values() for name in named} | ({"masked"} if evaluation.masked else set())
    unknown = sorted(set(tasks) - known)
    if unknown:
        raise RecipeError(f"The recipe evaluates no {unknown[0]!r}; it has {', '.join(sorted(known)) or 'no task'}.")
    kept = {key: {name: task for name, task in named.items() if name in tasks} for key, named in kinds.items()}
    return evaluation.model_copy(update={**kept, "masked": evaluation.masked if "masked" in tasks else None})
