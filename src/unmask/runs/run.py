"""Running a recipe from end to end: every stage, every rung evaluated, one encoder folder, one results file.

run folder:  recipe.yaml (resolved)  inputs.json  stages/N-NAME/  rungs/NAME.json  lineage.json  results.json  encoder/
(and chat.json, what a chat template puts around every text, where there is one).
Every part appears whole or not at all, so the same command resumes a run that was killed. It goes on with the inputs it
began with, or not at all (inputs.py).
"""

import contextlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unmask import __version__
from unmask.backbone.locate import SCORES, layout_folder, revision
from unmask.encoder import TextEncoder
from unmask.encoder.card import with_scores
from unmask.encoder.saved import all_stages, read_lineage, read_scores
from unmask.files import new_folder, write_json, write_text
from unmask.heap import keep_few_kernels, use_one_heap
from unmask.runs.check import check_before
from unmask.runs.claim import claimed
from unmask.runs.evaluate import Score, scorers
from unmask.runs.inputs import MODEL, RunInputs, as_listed, training_precision
from unmask.runs.rungs import RungPlace, keep_chat, open_rung, run_chat, split_places, stage_origins
from unmask.runs.schema import Recipe
from unmask.runs.sources import check_files, open_data
from unmask.settings import AttentionMode
from unmask.training.base_settings import StageSettings, TrainedStage
from unmask.training.building import Data, Origin, StageContext
from unmask.training.processes import check_launcher, make_accelerator
from unmask.training.stages.run import run_stage

logger = logging.getLogger(__name__)

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers")


@dataclass(frozen=True, slots=True)
class Rung:
    """One rung of the ladder.

    Attributes:
        name: for example `Bi+MNTP`.
        encoder: model name or encoder folder.
        attention: how it is opened.
        figures: task -> figure.
    """

    name: str
    encoder: str
    attention: AttentionMode
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run left behind: its rungs, the final encoder folder and the seconds this call took."""

    rungs: list[Rung]
    encoder: Path
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        rungs = [{"name": rung.name, **rung.figures} for rung in self.rungs]
        return {"rungs": rungs, "encoder": str(self.encoder), "seconds": round(self.seconds, 1)}


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    progress: bool = False,
    evaluate: Score | None = None,
    rehearsal: bool = False,
) -> RunResult:
    """Run a recipe in a folder; a folder with the same recipe is resumed.

    Args:
        recipe: what `load_recipe` made.
        out: run folder.
        progress: show bars.
        evaluate: scores an encoder, instead of the recipe's own evaluation; called for every rung, every time.
        rehearsal: do only the few steps of each stage that take the most memory.

    Raises:
        RecipeError: missing files, or a folder that holds a run of another recipe or one begun with other inputs.
        DataError: another process runs in the folder.
        TrainingError: a stage had to stop.
    """
    started = time.perf_counter()
    check_launcher()
    use_one_heap()
    keep_few_kernels()
    check_files(recipe)
    data = open_data(recipe)
    check_before(recipe, data)
    folder = Path(out)
    accelerator = make_accelerator(training_precision(recipe, folder), folder) if recipe.stages else None
    main = accelerator is None or bool(accelerator.is_main_process)
    with claimed(folder, recipe) if main else nullcontext(False) as fresh:
        if main:
            keep_chat(recipe, folder)
        inputs = RunInputs(recipe, folder, fresh=fresh) if main else None  # hashing is work for one process
        if accelerator is not None:
            accelerator.wait_for_everyone()
        tasks = {"": evaluate} if evaluate else scorers(recipe, data.texts, progress=progress)
        rungs, encoder = _climb(recipe, Run(recipe, folder, data, accelerator, progress, tasks, inputs, rehearsal))
        result = RunResult(rungs, encoder, time.perf_counter() - started)
        if main:
            write_json(folder / "results.json", result.to_dict())
            if evaluate is None:  # else nobody else can find them
                _tell_scores(recipe, result)
        if accelerator is not None:
            accelerator.end_training()
    return result


def _tell_scores(recipe: Recipe, result: RunResult) -> None:
    """Put the figures of all rungs beside the final encoder, which is the last, and into its card."""
    figures = {rung.name: rung.figures for rung in result.rungs if rung.figures}
    scores = {"found_by": f"`unmask train`, recipe {recipe.name}, seed {recipe.seed}", "figures": figures}
    known = read_scores(result.encoder)
    if not figures or {key: known.get(key) for key in scores} == scores:
        return
    scores["fingerprint"] = TextEncoder.load(result.encoder).fingerprint()
    write_json(result.encoder / SCORES, scores)
    card = result.encoder / "README.md"
    if card.is_file():
        write_text(card, with_scores(card.read_text(encoding="utf-8"), scores))


def _climb(recipe: Recipe, run: "Run") -> tuple[list[Rung], Path]:
    """Every stage and every rung; what an earlier call finished is read, not done again.

    One process scores a rung as soon as it is there. Several train to the end first: they would wait for the one that
    scores, and give up waiting.
    """
    untrained, trained = split_places(recipe, run.folder)
    places = [*untrained, *trained]
    alone = run.accelerator is None or run.accelerator.num_processes == 1
    for place in untrained if alone else []:
        run.rung(place)
    start = recipe.model.name
    lineage = {"stages": []} if run.inputs is None else _origin(recipe, run.inputs)
    lineage["processes"] = 1 if run.accelerator is None else run.accelerator.num_processes
    before: tuple[TrainedStage, StageContext] | None = None
    stages = zip(trained, recipe.stages, stage_origins(recipe, run.folder), strict=True)
    for number, (place, stage, origin) in enumerate(stages, 1):
        if run.inputs is not None:
            lineage = {**lineage, "stages": [*lineage["stages"], _stage_lineage(stage, run.inputs)]}
        context = run.context(number, Path(place.encoder).parent, origin, lineage)
        start = str(run_stage(stage, context, Path(place.encoder).parent, before))
        before = (stage, context) if isinstance(stage, TrainedStage) else None
        if alone:
            run.rung(place)
    if run.inputs is None:
        return [], run.folder / "encoder"
    write_json(run.folder / "lineage.json", lineage)
    encoder = _final_encoder(run.folder, start, recipe, lineage)
    return [run.rung(place) for place in places], encoder


@dataclass(frozen=True, slots=True)
class Run:
    """What the parts of one run share.

    `inputs` is None in every process but the one that writes; `own` has what a caller's function found in this call.
    """

    recipe: Recipe
    folder: Path
    data: Data
    accelerator: Any
    progress: bool
    tasks: Mapping[str, Score]
    inputs: RunInputs | None
    rehearsal: bool = False
    own: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def context(self, number: int, stage_folder: Path, origin: Origin, lineage: dict[str, Any]) -> StageContext:
        """What one stage is given."""
        self.accelerator.project_configuration.logging_dir = str(stage_folder / "logs")
        return StageContext(
            origin=origin,
            encoder=self.recipe.model.encoder_settings(),
            data=self.data,
            seed=self.recipe.seed,
            number=number,
            lineage=lineage,
            accelerator=self.accelerator,
            progress=self.progress,
            rehearsal=self.rehearsal,
            check_inputs=self.inputs.check if self.inputs is not None else lambda: None,
        )

    def rung(self, place: RungPlace) -> Rung:
        """Evaluate a rung; figures that an earlier call computed from what would be read now are read."""
        assert self.inputs is not None
        known = self.inputs.scored(place.name, place.encoder) | self.own.get(place.name, {})
        missing = [label for label in self.tasks if label not in known]
        if missing:  # else there is nothing to open
            which = f" ({len(missing)} of {len(self.tasks)} tasks)" if known else ""
            logger.info("%s: evaluating%s", place.name, which)
            self.inputs.check()
            encoder = open_rung(self.recipe, place, self.inputs.precision)
        for label in missing:
            seen = self.inputs.digests(place.encoder).get(label)
            known[label] = self.tasks[label](encoder)
            if seen is not None:
                self.inputs.note(place.name, label, known[label], seen)
            else:  # a caller's own function, which may be another one next time
                self.own[place.name] = {label: known[label]}
        figures = {name: value for label in self.tasks for name, value in known[label].items()}
        if self.tasks:
            (self.folder / "rungs").mkdir(exist_ok=True)
            write_json(self.folder / "rungs" / f"{place.name}.json", figures)
        if missing:
            logger.info("%s: %s", place.name, ", ".join(f"{key} {value:.2f}" for key, value in figures.items()))
        return Rung(place.name, place.encoder, place.attention, figures)


def _origin(recipe: Recipe, inputs: RunInputs) -> dict[str, Any]:
    """Where a run starts: the base model, the code, the machine's libraries."""
    files = as_listed(inputs.training[MODEL])
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "base": recipe.model.name,
        "base_revision": revision(recipe.model.name),
        "base_weights": [one for one in files if str(one.get("file")).endswith((".safetensors", ".gguf"))],
        "attention": recipe.model.attention,
        "code": {"unmask": __version__, **{name: version(name) for name in _PACKAGES}},
        "python": sys.version.split()[0],
        "base_stages": all_stages(read_lineage(layout_folder(recipe.model.name))),
        "stages": [],
    }


def _stage_lineage(stage: StageSettings, inputs: RunInputs) -> dict[str, Any]:
    """A stage's settings and the files it reads."""
    data = {name: as_listed(inputs.training[f"data.{name}"]) for name in stage.sources}
    return {"name": stage.label, "settings": stage.model_dump(mode="json"), "data": data}


def _final_encoder(folder: Path, start: str, recipe: Recipe, lineage: dict[str, Any]) -> Path:
    """The last stage's encoder as `encoder/`; hard links where the file system has them."""
    target = folder / "encoder"
    if target.exists():
        return target
    if not recipe.stages:
        model = recipe.model
        spec = model.attention_spec()
        opened = TextEncoder.load(
            model.name,
            attention=spec.attention,
            recurrent=spec.recurrent,
            window=spec.window,
            dtype=model.dtype,
        )
        encoder = TextEncoder(opened.model, opened.tokenizer, model.encoder_settings(), chat=run_chat(folder))
        encoder.lineage = lineage
        encoder.save(target)
        return target
    with new_folder(target) as partial:
        shutil.copytree(start, partial, dirs_exist_ok=True, copy_function=_link)
    return target


def _link(source: str, target: str) -> str:
    with contextlib.suppress(OSError):
        os.link(source, target)
        return target
    return str(shutil.copy2(source, target))
