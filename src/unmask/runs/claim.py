"""The folder of a run: new, or one that was begun by the same recipe; one process at a time writes in it."""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unmask.errors import ArtifactError, RecipeError, UnmaskError
from unmask.files import locked, write_text
from unmask.runs.raw import dump
from unmask.runs.recipe import load_recipe
from unmask.runs.schema import Recipe

logger = logging.getLogger(__name__)

_RECIPE, _LOCK = "recipe.yaml", ".lock"
_TOLD = 10  # changed keys that are named
_OF_TASKS = "What is evaluated was changed; rungs are scored as the recipe asks now."
_OF_ALL = "Nothing was trained yet, so the run begins with the recipe as it is now."
_TRAINED = ("stages/*/checkpoints/step-*", "stages/*/encoder", "encoder")


@contextmanager
def claimed(folder: Path, recipe: Recipe) -> Iterator[bool]:
    """Hold a run folder: a new one (True), or one whose run was trained as this recipe asks (False).

    What is evaluated may change between two starts: figures are computed anew then, and nothing is trained again. All
    else may change as long as nothing was trained. A new run that fails before it has any figure leaves nothing behind.

    Raises:
        RecipeError: a run of another recipe.
        DataError: another process holds it.
        ArtifactError: something else is in the folder, or it cannot be written to.
    """
    _look(folder, recipe)  # what is refused is left untouched, without a lock
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = contextlib.ExitStack()
        lock.enter_context(locked(folder / _LOCK, folder))
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written ({error.strerror}).") from error
    with lock:
        begun, change = _look(folder, recipe)  # the holder before may have trained meanwhile
        if change:
            logger.info(change)
        if change == _OF_ALL:
            for made in ("stages", "rungs"):
                shutil.rmtree(folder / made, ignore_errors=True)
            for made in ("chat.json", "lineage.json", "results.json"):  # figures in inputs.json say what they are of
                (folder / made).unlink(missing_ok=True)
        if change or not begun:
            write_text(folder / _RECIPE, dump(recipe.model_dump(mode="json")))
        try:
            yield not begun
        except UnmaskError:
            if not begun:
                _leave_nothing(folder)
            raise


def has_trained(folder: Path) -> bool:
    """True if anything is left in a run folder that was made by training."""
    return any(path.suffix != ".partial" for pattern in _TRAINED for path in folder.glob(pattern))


def _look(folder: Path, recipe: Recipe) -> tuple[bool, str | None]:
    """Whether a folder holds a run, and what the recipe changes about it."""
    if (folder / _RECIPE).is_file():
        return True, _change(folder, recipe)
    strays = set(folder.iterdir()) if folder.is_dir() else set()
    if strays - {folder / _LOCK, folder / f"{_RECIPE}.partial"} or folder.is_file():
        raise ArtifactError(f"{folder} is there already and holds no run. Choose another --out.")
    return False, None


def _change(folder: Path, recipe: Recipe) -> str | None:
    """What is new in the recipe of a run that was begun, in words; None where it is the same."""
    begun = _read_recipe(folder / _RECIPE)
    if begun == recipe:
        return None
    if begun is not None and begun.model_copy(update={"evaluation": recipe.evaluation}) == recipe:
        return _OF_TASKS
    if begun is not None and not has_trained(folder):
        return _OF_ALL
    changes = [f"compare {folder / _RECIPE}"] if begun is None else _differences(begun, recipe)
    more = [f"and {len(changes) - _TOLD} more keys"] if len(changes) > _TOLD else []
    heading = f"{folder} holds a run of another recipe. Choose another --out, or remove the folder."
    raise RecipeError("\n  ".join([heading, *changes[:_TOLD], *more]))


def _differences(begun: Recipe, asked: Recipe) -> list[str]:
    """The keys that a recipe changes, one a line; those of the evaluation may."""
    before, now = (_flat(one.model_dump(mode="json", exclude={"evaluation"})) for one in (begun, asked))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return [f"{key}: it was {before.get(key)}, and is {now.get(key)}" for key in changed]


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    """Place of a key -> its value, for every key below a recipe's."""
    if not value or not isinstance(value, dict | list):
        return {place: value}
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    below = [_flat(part, f"{place}.{name}" if place else str(name)) for name, part in parts]
    return {key: one for found in below for key, one in found.items()}


def _leave_nothing(folder: Path) -> None:
    """Take away what a start writes; the folder itself may be a link or a mounted disk, which stays."""
    if any(folder.glob("rungs/*")) or any(folder.glob("stages/*/metrics.jsonl")):
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _read_recipe(path: Path) -> Recipe | None:
    try:
        return load_recipe(path)
    except RecipeError:
        return None
