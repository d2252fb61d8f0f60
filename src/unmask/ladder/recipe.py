"""The recipe: one YAML a run, typed; unknown keys are refused with the nearest name, all mistakes at once."""

import copy
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError

from unmask.artifact import EncoderSettings
from unmask.backbone.attention import AttentionMode, Window
from unmask.backbone.loading import Dtype
from unmask.backbone.opening import Sight
from unmask.backbone.recurrent import Recurrent
from unmask.data.records import FORMATS
from unmask.errors import RecipeError
from unmask.evaluation.words import Position
from unmask.pooling import Pooling
from unmask.training.config import STAGES, AnyStage, Settings, StageSettings

_VARIABLE = re.compile(r"\$\{?(\w+)\}?")


class _Yaml(yaml.SafeLoader):
    """YAML as people write it: `1e-4` is a number, as in YAML 1.2, not a string as in 1.1."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


class ModelSettings(Settings):
    """The decoder and how its encoder will read texts."""

    name: str = Field(description="hub id, folder, or `pocket`")
    dtype: Dtype = Field("auto", description="of the weights, in memory and saved; auto is the model's own")
    attention: AttentionMode = "bidirectional"
    recurrent: Recurrent | None = Field(
        None, description="layers that no mask turns: refuse, forward or two-way; by default as saved, else refuse"
    )
    window: Window | None = Field(
        None, description="sliding windows: keep (two-sided) or lift; by default as saved, else keep"
    )
    attention_implementation: str | None = None
    pooling: Pooling = "mean"
    max_length: int = Field(512, ge=1)
    prompts: dict[str, str] = Field(default_factory=dict)
    chat_template: bool = False
    include_special_tokens: bool = False

    def sight(self) -> Sight:
        """How the trained model looks at texts."""
        if self.attention == "causal":
            return Sight("causal")
        return Sight(self.attention, self.recurrent, self.window)

    def encoder_settings(self) -> EncoderSettings:
        """What is saved with the encoder."""
        names = ("pooling", "max_length", "prompts", "chat_template", "include_special_tokens")
        return EncoderSettings(**{name: getattr(self, name) for name in names})


class SourceSettings(Settings):
    """Texts from files; a $VARIABLE in a path is taken from the environment."""

    files: list[str] = Field(min_length=1)
    field: str = "text"
    limit: int | None = Field(None, ge=1, description="first so many texts only")


class MaskedTask(Settings):
    """Masked-token accuracy on held-out text, at every rung."""

    data: str
    block_size: int = Field(256, ge=24)
    blocks: int = Field(128, ge=1)
    mask_token: str = "_"


class StsTask(Settings):
    """Sentence pairs with scores, or (as `pairs`) with labels 0 and 1."""

    file: str
    columns: tuple[str, str, str] | None = Field(None, strict=False)
    prompt: str | None = Field(None, description="in front of both texts")


class WordsTask(Settings):
    """Labelled words for a linear probe."""

    train: str
    test: str
    word_column: int | None = None
    label_column: int | None = None
    limit: int | None = Field(None, ge=1, description="train the probe on the first so many sentences")
    positions: list[Position] = Field(["same"], min_length=1, description="same, previous or auto; the first names it")


class ClassificationTask(Settings):
    """Texts with labels for a logistic regression."""

    train: str
    test: str
    columns: tuple[str, str] = Field(("text", "label"), strict=False)
    shots: int | None = Field(None, ge=1, description="train on so many texts a class, drawn ten times (MTEB: 8)")
    prompt: str | None = None


class ClusteringTask(Settings):
    """Texts with labels for k-means."""

    file: str
    columns: tuple[str, str] = Field(("text", "label"), strict=False)
    prompt: str | None = None


class RetrievalTask(Settings):
    """A BEIR folder."""

    folder: str
    split: str = "test"
    prompt: str | None = Field(None, description="in front of queries")
    max_length: int | None = Field(None, ge=1, description="cut documents and queries shorter than the encoder does")


class RerankingTask(Settings):
    """Queries with candidates."""

    file: str
    prompt: str | None = Field(None, description="in front of queries")


class EvaluationSettings(Settings):
    """Tasks by name; each is run at every rung."""

    masked: MaskedTask | None = None
    sts: dict[str, StsTask] = Field(default_factory=dict)
    pairs: dict[str, StsTask] = Field(default_factory=dict)
    classification: dict[str, ClassificationTask] = Field(default_factory=dict)
    clustering: dict[str, ClusteringTask] = Field(default_factory=dict)
    retrieval: dict[str, RetrievalTask] = Field(default_factory=dict)
    reranking: dict[str, RerankingTask] = Field(default_factory=dict)
    words: dict[str, WordsTask] = Field(default_factory=dict)

    def paths(self) -> dict[str, list[str]]:
        """`kind.name` of every task -> the files and folders it reads."""
        found = {}
        for kind in ("sts", "pairs", "classification", "clustering", "retrieval", "reranking", "words"):
            for name, task in getattr(self, kind).items():
                places = [getattr(task, key, None) for key in ("file", "folder", "train", "test")]
                found[f"{kind}.{name}"] = [place for place in places if place]
        return found


class Recipe(Settings):
    """A run: model, data, stages, evaluation."""

    name: str = Field(pattern=r"^[\w.-]+$")
    description: str = ""
    seed: int = Field(0, ge=0)
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="of the arithmetic while training")
    model: ModelSettings
    data: dict[str, SourceSettings]
    stages: list[AnyStage]
    evaluation: EvaluationSettings = EvaluationSettings()


def stage_name(stage: StageSettings) -> str:
    """The name of a stage's folder."""
    return stage.name or str(getattr(stage, "objective", "stage"))


def shipped() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in (files("unmask") / "recipes").iterdir())


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a file, a shipped name or a mapping, and apply `key.path=value` overrides.

    Raises:
        RecipeError: every mistake, one a line.
    """
    where, raw = ("recipe", copy.deepcopy(dict(source))) if isinstance(source, Mapping) else _read(str(source))
    for override in overrides:
        _override(raw, override)
    mistakes = _reference_mistakes(raw)
    recipe = None
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        mistakes = [line for item in error.errors() for line in _explain(dict(item))] + mistakes
    if recipe is None or mistakes:
        heading = f"{where}: {len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}"
        raise RecipeError("\n  ".join([heading, *mistakes]))
    return recipe


def _reference_mistakes(raw: Mapping[str, Any]) -> list[str]:
    """Names in the raw recipe that lead nowhere, and stages of one name; what is not of the right type is left out."""
    sources, listed = raw.get("data"), raw.get("stages")
    sources = sources if isinstance(sources, dict) else {}
    stages = [s for s in listed if isinstance(s, dict)] if isinstance(listed, list) else []
    wanted = {f"stages.{i}.{key}": stage.get(key) for i, stage in enumerate(stages) for key in ("data", "held_out")}
    tasks = raw.get("evaluation")
    masked = tasks.get("masked") if isinstance(tasks, dict) else None
    if isinstance(masked, dict):
        wanted["evaluation.masked.data"] = masked.get("data")
    mistakes = [
        f"{place}: no data source {name!r}{_nearest(name, sources)}"
        for place, name in wanted.items()
        if isinstance(name, str) and name not in sources
    ]
    tasks = tasks if isinstance(tasks, dict) else {}
    named = [set(tasks.get(kind) or {}) for kind in ("sts", "words") if isinstance(tasks.get(kind) or {}, dict)]
    mistakes += [f"evaluation: sts and words both have {name!r}" for name in sorted(set.intersection(*named))]
    names = [str(stage.get("name") or stage.get("objective")) for stage in stages]
    twice = sorted({name for name in names if names.count(name) > 1})
    return mistakes + [f"stages: two are named {name!r}; give them names" for name in twice]


def check_files(recipe: Recipe) -> None:
    """Refuse a recipe whose files are missing, before anything heavy happens.

    Raises:
        RecipeError: every missing file and unset variable, one a line.
    """
    named = [(f"data.{name}", path) for name, source in recipe.data.items() for path in source.files]
    for name, places in recipe.evaluation.paths().items():
        named += [(f"evaluation.{name}", path) for path in places]
    mistakes = []
    for place, path in named:
        try:
            found = resolve_path(path)
        except RecipeError as error:
            mistakes.append(f"{place}: {error}")
            continue
        if not found.is_file() and not (found.is_dir() and place.startswith("evaluation.retrieval.")):
            mistakes.append(f"{place}: no file {str(found)!r}")
        elif place.startswith("data.") and found.suffix not in FORMATS:
            mistakes.append(f"{place}: {found.name} is not one of {', '.join(FORMATS)}")
    if mistakes:
        raise RecipeError("\n  ".join([f"recipe {recipe.name}: files", *dict.fromkeys(mistakes)]))


def resolve_path(path: str) -> Path:
    """A path of a recipe with its $VARIABLES filled in.

    Raises:
        RecipeError: a variable that is not set.
    """
    for variable in _VARIABLE.findall(path):
        if variable not in os.environ:
            raise RecipeError(f"{path!r} needs the environment variable {variable}, which is not set")
    return Path(os.path.expandvars(path)).expanduser()


def _read(source: str) -> tuple[str, dict[str, Any]]:
    path = Path(source)
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise RecipeError(f"{path} is a binary file; a recipe is YAML text.") from None
        where = str(path)
    else:
        name = path.name.removesuffix(".yaml")
        if name not in shipped():
            raise RecipeError(
                f"No recipe file {source!r}, and no shipped recipe of that name{_nearest(name, shipped())}."
            )
        where, text = name, (files("unmask") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    try:
        raw = yaml.load(text, _Yaml)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise RecipeError(
            f"{where} holds {'nothing' if raw is None else type(raw).__name__}; expected keys and values."
        )
    return where, raw


def _override(raw: dict[str, Any], override: str) -> None:
    """Apply `stages.mntp.steps=10` (a stage by number, name or objective) to the raw recipe.

    Raises:
        RecipeError: not of that form, or a path that leads nowhere.
    """
    path, equals, value = override.partition("=")
    if not equals or not path:
        raise RecipeError(f"--set {override!r}: expected key.path=value, for example stages.mntp.steps=100.")
    at: Any = raw
    *parents, last = path.split(".")
    for key in parents:
        at = _enter(at, key, override)
    try:
        parsed = yaml.load(value, _Yaml)
    except yaml.YAMLError:
        raise RecipeError(f"--set {override!r}: {value!r} is not a YAML value.") from None
    if isinstance(at, list):
        at[_index(at, last, override)] = parsed
    elif isinstance(at, dict):
        at[last] = parsed
    else:
        raise RecipeError(f"--set {override!r}: {parents[-1]!r} holds a value, not keys.")


def _enter(at: Any, key: str, override: str) -> Any:
    if isinstance(at, list):
        return at[_index(at, key, override)]
    if not isinstance(at, dict):
        raise RecipeError(f"--set {override!r}: nothing is called {key!r} there.")
    if at.get(key) is None:
        at[key] = {}
    if not isinstance(at[key], dict | list):
        raise RecipeError(f"--set {override!r}: {key!r} holds a value, not keys.")
    return at[key]


def _index(entries: list[Any], key: str, override: str) -> int:
    names = [str(e.get("name") or e.get("objective")) if isinstance(e, dict) else "" for e in entries]
    if key.isdigit() and int(key) < len(entries):
        return int(key)
    if key in names:
        return names.index(key)
    raise RecipeError(f"--set {override!r}: no entry {key!r}; there are {', '.join(names)}.")


def _explain(item: dict[str, Any]) -> list[str]:
    """One pydantic error as a line a person can act on."""
    location = [part for part in item["loc"] if part not in STAGES]
    place = ".".join(map(str, location)) or "recipe"
    if item["type"] == "extra_forbidden":
        known = _known_keys(Recipe, list(item["loc"])[:-1])
        return [f"{place}: unknown key{_nearest(str(location[-1]), known)}"]
    if item["type"] == "value_error":
        prefix = f"{place}: " if location else ""
        return [prefix + line for line in str(item["ctx"]["error"]).splitlines()]
    if item["type"] == "missing":
        return [f"{place}: missing"]
    message = str(item["msg"])
    return [f"{place}: {message[0].lower()}{message[1:]}, found {item['input']!r}"]


def _known_keys(model: Any, location: list[Any]) -> list[str]:
    """The keys that the settings class at a location knows."""
    for part in location:
        if part in STAGES:
            model = STAGES[part]
            continue
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = _inner_class(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _inner_class(annotation: Any) -> type[BaseModel] | None:
    """The settings class inside an annotation such as `dict[str, StsTask]` or `MaskedTask | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _inner_class(arg))), None)


def _nearest(name: str, known: Any) -> str:
    """`; did you mean X?`, or what there is."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(sorted(known))}" if known else ""
