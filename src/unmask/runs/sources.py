"""The files, folders and hub data sets of a recipe: found before anything heavy happens, read once."""

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from unmask.data.e5 import e5_parts, read_e5
from unmask.data.formats import FORMATS, plain_suffix
from unmask.data.hub import fetch_file
from unmask.data.pairs import PairSet, read_pairs
from unmask.data.sources import is_hub, read_texts
from unmask.errors import DataError, RecipeError
from unmask.evaluation.tasks import inputs
from unmask.files import is_pointer
from unmask.runs.schema import E5Source, PairSource, Recipe, TextSource
from unmask.settings import Settings
from unmask.training.building import Data

_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
_HUB_FILE = "hf://datasets/"


def check_files(recipe: Recipe) -> None:
    """Refuse a recipe whose files are missing, before anything heavy happens.

    Raises:
        RecipeError: every missing file and unset variable, one a line.
    """
    mistakes = []
    for place, path, kind in _named(recipe):
        try:
            mistakes += [f"{place}: {line}" for line in _mistakes(path, kind)]
        except (RecipeError, DataError) as error:
            mistakes.append(f"{place}: {error}")
    if mistakes:
        raise RecipeError("\n  ".join([f"recipe {recipe.name}: files", *dict.fromkeys(mistakes)]))


def used(recipe: Recipe) -> dict[str, TextSource | PairSource | E5Source]:
    """The data sources that a stage or the evaluation reads; a variant may leave others idle."""
    names = {name for stage in recipe.stages for name in stage.sources}
    if recipe.evaluation.masked:
        names.add(recipe.evaluation.masked.data)
    return {name: source for name, source in recipe.data.items() if name in names}


def _named(recipe: Recipe) -> list[tuple[str, str, str]]:
    """Where each path of a recipe stands, the path, and what it should be: data, e5, folder or file."""
    named = []
    for name, source in used(recipe).items():
        if isinstance(source, E5Source):
            named.append((f"data.{name}", source.folder, "e5"))
        else:
            named += [(f"data.{name}", path, "data") for path in source.files]
    for task, name, settings in recipe.evaluation.tasks():
        for key, kind in inputs(task.settings):
            named.append((f"evaluation.{task.name}.{name}", getattr(settings, key), kind))
    return named


def with_paths(task: Settings) -> Settings:
    """The settings of an evaluation task with its files and folders found."""
    read = {"file": lambda path: str(resolve_path(path)), "folder": local_source}
    return task.model_copy(update={key: read[kind](getattr(task, key)) for key, kind in inputs(type(task))})


def _mistakes(path: str, kind: str) -> list[str]:
    if kind in ("data", "folder") and on_hub(path):
        return []  # looked up where it is read
    found = resolve_path(path)
    if is_pointer(found):
        return [f"{found} is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository"]
    if kind == "e5":
        e5_parts(found)
    elif found.is_dir() if kind == "folder" else found.is_file():
        return (
            []
            if kind != "data" or plain_suffix(found) in FORMATS
            else [f"{found.name} is not one of {', '.join(FORMATS)}"]
        )
    elif not (kind == "data" and found.is_dir()):  # a folder in the layout of a data set needs no @split checked here
        return [f"no {kind if kind == 'folder' else 'file'} {str(found)!r}"]
    return []


def on_hub(path: str) -> bool:
    """True for a hub data set or a file of one."""
    return path.startswith(_HUB_FILE) or (is_hub(path) and "@" in path)


def resolve_path(path: str) -> Path:
    """A path of a recipe with its $VARIABLES filled in.

    Raises:
        RecipeError: a variable that is not set.
    """
    for variable in _VARIABLE.findall(path):
        if variable not in os.environ:
            raise RecipeError(f"{path!r} needs the environment variable {variable}, which is not set")
    return Path(os.path.expandvars(path)).expanduser()


def open_data(recipe: Recipe, most: int | None = None) -> Data:
    """The data sources by name, each read when it is first asked for; the first `most` rows of each only."""

    def least(limit: int | None) -> int | None:
        return min((number for number in (limit, most) if number is not None), default=None)

    @cache
    def texts(name: str) -> Sequence[str]:
        source = recipe.data[name]
        assert isinstance(source, TextSource)
        files = [local_source(path) for path in source.files]
        return read_texts(files, field=source.field, limit=least(source.limit), quoting=source.quoting)

    @cache
    def pairs(name: str) -> Sequence[PairSet]:
        source = recipe.data[name]
        if isinstance(source, E5Source):
            return read_e5(
                resolve_path(source.folder), instructions=source.instructions, weights=source.weights, limit=most
            )
        assert isinstance(source, PairSource)
        rows = read_pairs(
            [str(local_source(path)) for path in source.files],
            source.columns.columns(),
            least(source.limit),
            quoting=source.quoting,
        )
        documents = source.instruction if source.symmetric else ""
        return [PairSet(name, rows, query_prompt=source.instruction, document_prompt=documents, weight=source.weight)]

    return Data(texts, pairs)


def local_source(path: str) -> str:
    """A path or data set as the readers take it; single files of hub data sets are fetched."""
    if path.startswith(_HUB_FILE):
        return str(fetch_file(path.removeprefix(_HUB_FILE)))
    return os.path.expandvars(path) if on_hub(path) else str(resolve_path(path))
