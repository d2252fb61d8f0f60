"""The folder of a run: new, or one that was begun by the same recipe."""

import logging
from pathlib import Path

import yaml

from unmask.errors import ArtifactError, RecipeError
from unmask.files import write_text
from unmask.runs.recipe import load_recipe
from unmask.runs.schema import Recipe

logger = logging.getLogger(__name__)


def claim_folder(folder: Path, recipe: Recipe) -> bool:
    """Make the run folder (True), or see that it holds a run that was trained as this recipe asks (False).

    What is evaluated may change between two starts: figures are computed anew then, and nothing is trained again.

    Raises:
        RecipeError: a run of another recipe.
        ArtifactError: something else is in the folder.
    """
    path = folder / "recipe.yaml"
    if path.is_file():
        begun = _read_recipe(path)
        if begun is None or begun.model_copy(update={"evaluation": recipe.evaluation}) != recipe:
            raise RecipeError(
                f"{folder} holds a run of another recipe (compare {path}). Choose another --out, or remove the folder."
            )
        if begun != recipe:
            logger.info("What is evaluated was changed; rungs are scored as the recipe asks now.")
            _write_recipe(path, recipe)
        return False
    if folder.exists() and (not folder.is_dir() or set(folder.iterdir()) - {path.with_name("recipe.yaml.partial")}):
        raise ArtifactError(f"{folder} is there already and holds no run. Choose another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    _write_recipe(path, recipe)
    return True


def _read_recipe(path: Path) -> Recipe | None:
    try:
        return load_recipe(path)
    except RecipeError:
        return None


def _write_recipe(path: Path, recipe: Recipe) -> None:
    write_text(path, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
