"""What a run reads, known by content: noted when the run begins, compared when it goes on, models while it is on, too.

`inputs.json` in the run folder holds size and SHA-256 of every file, revisions of what is on the hub, and for each rung
and task the figures, with a digest of what they were computed from. Times of change are never looked at.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from unmask.backbone.devices import precision_here
from unmask.backbone.locate import find_adapters, gguf_file, model_files, resolve_model, revision
from unmask.data.hub import HubSplit, cached_revisions, files_in
from unmask.encoder.saved import read_fingerprint
from unmask.errors import DataError, RecipeError
from unmask.evaluation.tasks import inputs as task_inputs
from unmask.files import content_change, file_fingerprint, read_json, write_json
from unmask.runs.claim import has_trained
from unmask.runs.schema import E5Source, Recipe
from unmask.runs.sources import local_source, on_hub, resolve_path

logger = logging.getLogger(__name__)

MODEL = "model"  # the place of the base model among the inputs
_DATA = "data."  # what the places of data begin with
Inputs = dict[str, dict[str, dict[str, Any]]]  # place in the recipe -> file or name -> its fingerprint
_Input = tuple[str, str, Path | dict[str, Any]]  # place, name, and the file or what else tells it
_Named = Iterator[_Input]
_Arithmetic = Literal["bf16", "fp32"]
_FILE, _TRAINING = "inputs.json", "training_precision"
_LONG = 4 * 2**30  # bytes that take more than some seconds


class RunInputs:
    """The inputs of a run; only its main process has them.

    Args:
        recipe: of the run.
        folder: of the run.
        fresh: the folder was made just now.

    Attributes:
        training: what the stages are made from: base model, data, teachers.
        precision: rungs are scored in it; where the recipe leaves it to the machine, that of the machine that began.

    Raises:
        RecipeError: something that was trained on is not what it was when the run began.
    """

    def __init__(self, recipe: Recipe, folder: Path, *, fresh: bool) -> None:
        self._recipe, self._path = recipe, folder / _FILE
        self._listed = list(_trained_on(recipe))
        self.training = _fingerprints(self._listed)
        self._masked = _fingerprints(_masked_texts(recipe))  # texts are read once, at the start
        self._scored: dict[str, dict[str, Any]] = {}  # rung -> task -> figures and what they were computed from
        known = read_json(self._path, missing={})
        self.precision = _pinned(recipe.evaluation.precision, known.get("precision"))
        self._training_precision = training_precision(recipe, folder)
        if known:
            self._scored = known.get("scored", {})
            changes = _changes(known["training"], self.training)
            if changes and has_trained(folder):
                heading = (
                    f"{folder} holds a run that was begun with other inputs; nothing was changed in it. Put back what "
                    "they were, or choose another --out."
                )
                raise RecipeError("\n  ".join([heading, *changes]))
            if changes:
                logger.info("Nothing was trained yet, so the run begins with its inputs as they are now.")
        elif not fresh:
            logger.info("%s has no %s: what its inputs are now is taken for what it began with.", folder, _FILE)
        self._write()

    def check(self) -> None:
        """See that files of models, which a run opens again and again, did not change since it began.

        Data are read once, at the start; what is on the hub is asked for then.

        Raises:
            RecipeError: one did.
        """
        models = [one for one in self._listed if isinstance(one[2], Path) and not one[0].startswith(_DATA)]
        now = _fingerprints(models)
        before = {place: {name: self.training[place][name] for name in files} for place, files in now.items()}
        if changes := _changes(before, now):
            heading = (
                f"A model was changed while the run in {self._path.parent} was on. Put back what it was, and start the "
                "same command again."
            )
            raise RecipeError("\n  ".join([heading, *changes]))

    def digests(self, encoder: str) -> dict[str, str]:
        """Of each task all that the figures of a rung follow from; the files of tasks are read anew.

        Args:
            encoder: the base model, or the folder of a stage, known by its fingerprint.
        """
        evaluation = self._recipe.evaluation
        read_by = self._recipe.model.model_dump(mode="json")
        shared: dict[str, Any] = {MODEL: self.training[MODEL], "precision": self.precision, "read by": read_by}
        if encoder != self._recipe.model.name:
            shared["encoder"] = read_fingerprint(Path(encoder))
        files = _fingerprints(_task_files(self._recipe))
        found: dict[str, dict[str, Any]] = {}
        if evaluation.masked:
            source = self._recipe.data[evaluation.masked.data].model_dump(mode="json")
            asked = evaluation.masked.model_dump(mode="json")
            found["masked"] = {"task": asked, "source": source, **self._masked, **shared}
        for task, name, settings in evaluation.tasks():
            label = f"{task.name}.{name}"
            asked = settings.model_dump(mode="json") | ({"revision": task.revision} if task.revision else {})
            found[label] = {"task": asked, "files": files.get(_place(label), {}), **shared}
        dumped = {label: json.dumps(one, sort_keys=True).encode() for label, one in found.items()}
        return {label: hashlib.sha256(one).hexdigest() for label, one in dumped.items()}

    def scored(self, rung: str, encoder: str) -> dict[str, dict[str, float]]:
        """The figures of a rung by task, of those that were computed from what the evaluation would read now."""
        now, known = self.digests(encoder), self._scored.get(rung, {})
        return {label: one["figures"] for label, one in known.items() if one["digest"] == now.get(label)}

    def note(self, rung: str, label: str, figures: Mapping[str, float], digest: str) -> None:
        """Remember the figures of a rung on a task, and what they were computed from."""
        self._scored.setdefault(rung, {})[label] = {"figures": dict(figures), "digest": digest}
        self._write()

    def _write(self) -> None:
        evaluation = {**self._masked, **_fingerprints(_task_files(self._recipe))}
        found = {"training": self.training, "evaluation": evaluation, "precision": self.precision}
        write_json(self._path, {**found, _TRAINING: self._training_precision, "scored": self._scored})


def training_precision(recipe: Recipe, folder: Path) -> _Arithmetic:
    """In which the stages of a run are trained: as what is there already was."""
    known = read_json(folder / _FILE, missing={}) if has_trained(folder) else {}
    return _pinned(recipe.precision, known.get(_TRAINING))


def _pinned(wanted: Literal["auto", "bf16", "fp32"], known: Any) -> _Arithmetic:
    """A run that moves to another machine goes on as it began, or its weights and rungs would be of two kinds."""
    return known if wanted == "auto" and known in ("bf16", "fp32") else precision_here(wanted)


def as_listed(files: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The fingerprints of one place as a lineage lists them: files by their own names, hub data sets as written."""
    return [
        {"file": Path(name).name, **one} if "sha256" in one else {"hub": name, **one} for name, one in files.items()
    ]


def teachers(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The stages that have a teacher, and its name."""
    for stage in recipe.stages:
        teacher = getattr(stage, "teacher", None)
        if teacher is not None:
            yield stage.label, teacher.name


def _trained_on(recipe: Recipe) -> _Named:
    """What stages are made from."""
    yield from _model(MODEL, recipe.model.name)
    for name in dict.fromkeys(name for stage in recipe.stages for name in stage.sources):
        yield from _data(recipe, name)
    for stage, name in teachers(recipe):
        yield from _teacher(f"stages.{stage}.teacher", name)


def _masked_texts(recipe: Recipe) -> _Named:
    """The texts of the masked-token task."""
    if recipe.evaluation.masked:
        yield from _data(recipe, recipe.evaluation.masked.data)


def _task_files(recipe: Recipe) -> _Named:
    """The files and folders of the other tasks."""
    for task, name, settings in recipe.evaluation.tasks():
        for key, _ in task_inputs(task.settings):
            yield from _path(_place(f"{task.name}.{name}"), getattr(settings, key))


def _place(label: str) -> str:
    return f"evaluation.{label}"


def _data(recipe: Recipe, name: str) -> _Named:
    source = recipe.data[name]
    if isinstance(source, E5Source):
        folder = resolve_path(source.folder)
        yield from ((f"{_DATA}{name}", f"{source.folder}/{p.name}", p) for p in sorted(folder.glob("*.jsonl")))
    else:
        for path in source.files:
            yield from _path(f"{_DATA}{name}", path)


def _path(place: str, path: str) -> _Named:
    """A file, every file of a folder, or the revisions of a hub data set that the cache has."""
    found = Path(local_source(path))
    if on_hub(path) and not found.is_file():
        found = Path(HubSplit.parse(str(found)).name)
        if not found.is_dir():
            yield place, path, {"revisions": cached_revisions(str(found))}
            return
    if found.is_dir():
        for file in files_in(found):
            yield place, f"{path}/{file.relative_to(found).as_posix()}", file
    else:
        yield place, path, found


def _model(place: str, name: str) -> _Named:
    """A GGUF file, the files of a model folder, or the revision of what is on the hub."""
    file = gguf_file(name)
    if file is not None:
        yield place, name if Path(name).is_file() else f"{name}/{file.name}", file
        return
    folder = Path(resolve_model(name))
    if folder.is_dir():
        yield from _folder(place, name, folder)
    else:
        yield place, name, {"revision": revision(name)}


def _teacher(place: str, name: str) -> _Named:
    """The files of an encoder, or of an adapter and its base."""
    base, adapters = find_adapters(name, ())
    for adapter in adapters:
        yield from _folder(place, name, adapter)
    yield from _model(place, base if adapters else name)


def _folder(place: str, name: str, folder: Path) -> _Named:
    yield from ((place, f"{name}/{file.relative_to(folder).as_posix()}", file) for file in model_files(folder))


def _fingerprints(named: Iterable[_Input]) -> Inputs:
    """Of each file its size and SHA-256; a file that is named twice is read once.

    Raises:
        DataError: a file that cannot be read.
    """
    known: dict[Path, dict[str, Any]] = {}
    inputs: Inputs = {}
    try:
        listed = list(named)
        total = sum(file.stat().st_size for file in {found for _, _, found in listed if isinstance(found, Path)})
        if total > _LONG:
            logger.info("Reading %.0f GiB of weights and data, to know them by content.", total / 2**30)
        for place, name, found in listed:
            if isinstance(found, Path) and found not in known:
                known[found] = file_fingerprint(found)
            inputs.setdefault(place, {})[name] = known[found] if isinstance(found, Path) else found
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}).") from error
    return inputs


def _changes(before: Inputs, now: Inputs) -> list[str]:
    """What is not as it was, one a line."""
    lines = []
    for place in dict.fromkeys([*before, *now]):
        old, new = before.get(place, {}), now.get(place, {})
        for name in dict.fromkeys([*old, *new]):
            if change := content_change(old.get(name), new.get(name)):
                lines.append(f"{place}: {name} {change}")
    return lines
