"""Reading recipes: one YAML a run, typed; unknown keys are refused with the nearest name, all mistakes at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from unmask.errors import RecipeError
from unmask.evaluation.tasks import TASKS
from unmask.runs.raw import nearest, override, read_raw, separate
from unmask.runs.schema import (
    KIND,
    SOURCES,
    EvaluationSettings,
    Recipe,
    evaluation_class,
)
from unmask.training.config import STAGES


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a file, a shipped name (with `:variant`) or a mapping, and apply `key.path=value` overrides.

    Raises:
        RecipeError: every mistake, one a line.
    """
    where = "recipe" if isinstance(source, Mapping) else str(source)
    raw = separate(dict(source)) if isinstance(source, Mapping) else read_raw(where)
    for change in overrides:
        override(raw, change)
    mistakes = _reference_mistakes(raw)
    recipe = None
    try:
        recipe = _same_mask(Recipe.model_validate(raw))
    except ValidationError as error:
        mistakes = [line for item in error.errors() for line in _explain(dict(item))] + mistakes
    if recipe is not None:
        mistakes += _stage_mistakes(recipe)
    if recipe is None or mistakes:
        heading = f"{where}: {len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}"
        raise RecipeError("\n  ".join([heading, *mistakes]))
    return recipe


def _same_mask(recipe: Recipe) -> Recipe:
    """The recipe, its masked-token task with the token that it trains: another piece would be a word to the model."""
    masked = recipe.evaluation.masked
    trained = [token for stage in recipe.stages if (token := getattr(stage, "mask_token", None))]
    if masked is None or not trained or "mask_token" in masked.model_fields_set:
        return recipe
    masked = masked.model_copy(update={"mask_token": trained[-1]})
    return recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"masked": masked})})


def _reference_mistakes(raw: Mapping[str, Any]) -> list[str]:
    """Names in the raw recipe that lead nowhere, and stages of one name; what is not of the right type is left out."""
    sources, listed = raw.get("data"), raw.get("stages")
    sources = sources if isinstance(sources, dict) else {}
    stages = [s for s in listed if isinstance(s, dict)] if isinstance(listed, list) else []
    wanted = [
        (f"stages.{i}.{key}", name)
        for i, stage in enumerate(stages)
        for key in ("data", "held_out")
        for name in (stage[key] if isinstance(stage.get(key), list) else [stage.get(key)])
    ]
    tasks = raw.get("evaluation")
    masked = tasks.get("masked") if isinstance(tasks, dict) else None
    if isinstance(masked, dict):
        wanted.append(("evaluation.masked.data", masked.get("data")))
    mistakes = [
        f"{place}: no data source {name!r}{nearest(name, sources)}"
        for place, name in wanted
        if isinstance(name, str) and name not in sources
    ]
    tasks = tasks if isinstance(tasks, dict) else {}
    mistakes += _figure_mistakes({kind: named for kind, named in tasks.items() if isinstance(named, dict)})
    names = [str(stage.get("name") or stage.get("objective")) for stage in stages]
    twice = sorted({name for name in names if names.count(name) > 1})
    return mistakes + [f"stages: two are named {name!r}; give them names" for name in twice]


def _figure_mistakes(tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tasks whose figures would have one name in a run's results."""
    owner: dict[str, str] = {}
    mistakes = []
    for kind, task in TASKS.items():
        for figure in [one.figure(name) for name in tasks.get(kind, {}) for one in task.measures if not one.variant]:
            before = owner.setdefault(figure, kind)
            if before != kind:
                mistakes.append(f"evaluation: {before} and {kind} both have {figure!r}")
    return mistakes


def _stage_mistakes(recipe: Recipe) -> list[str]:
    """Stages that need another one before them, or are given a data source of the wrong kind."""
    mistakes = []
    for before, stage in zip([None, *recipe.stages], recipe.stages, strict=False):
        kinds = [(name, recipe.data[name].kind) for name in stage.sources if name in recipe.data]
        needed = f"{' or '.join(stage.reads)} is needed"
        found = [f": {name!r} is of kind {kind}, {needed}" for name, kind in kinds if kind not in stage.reads]
        mistakes += [f"stages.{stage.label}{one}" for one in [*stage.order_mistakes(before), *found]]
    masked = recipe.evaluation.masked
    kind = recipe.data[masked.data].kind if masked and masked.data in recipe.data else "texts"
    if masked and kind != "texts":
        mistakes.append(f"evaluation.masked: {masked.data!r} is of kind {kind}, texts is needed")
    return mistakes


def _explain(item: dict[str, Any]) -> list[str]:
    """One pydantic error as a line a person can act on."""
    location = [part for part in item["loc"] if part not in STAGES and part not in SOURCES]
    place = ".".join(map(str, location)) or "recipe"
    if item["type"] == "extra_forbidden":
        known = _known_keys(Recipe, list(item["loc"])[:-1])
        return [f"{place}: unknown key{nearest(str(location[-1]), known)}"]
    if item["type"] == "value_error":
        prefix = f"{place}: " if location else ""
        return [prefix + line for line in str(item["ctx"]["error"]).splitlines()]
    if item["type"] == "union_tag_invalid":
        kinds = [tag.removeprefix(KIND) for tag in SOURCES]
        kind = str(item["ctx"]["tag"]).removeprefix(KIND)
        return [f"{place}.kind: {kind!r} is none{nearest(kind, kinds)}"]
    if item["type"] == "missing":
        return [f"{place}: missing"]
    message = str(item["msg"])
    return [f"{place}: {message[0].lower()}{message[1:]}, found {item['input']!r}"]


def _known_keys(model: Any, location: list[Any]) -> list[str]:
    """The keys that the settings class at a location knows."""
    for part in location:
        if part in STAGES or part in SOURCES:
            model = STAGES.get(part) or SOURCES[part]
            continue
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = _inner_class(model.model_fields[part].annotation) or model
            model = evaluation_class() if model is EvaluationSettings else model
    return list(model.model_fields)


def _inner_class(annotation: Any) -> type[BaseModel] | None:
    """The settings class inside an annotation such as `dict[str, PairsSettings]` or `MaskedTask | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _inner_class(arg))), None)
