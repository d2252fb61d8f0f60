"""Every key of a recipe: where it stands, what it takes, its default, what it is for."""

import json
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from unmask.evaluation.tasks import TASKS
from unmask.runs.schema import KIND, SOURCES, EvaluationSettings, ModelSettings, Recipe
from unmask.training.base_settings import TrainedStage
from unmask.training.config import STAGES, ContrastiveSettings

_WORDS = {str: "text", int: "whole number", float: "number", bool: "true, false"}
_HEAD = (
    "# Which keys has a recipe?",
    "",
    "What `unmask recipes keys` prints. Keys below others are written with a dot, as `--set` takes them; `NAME` is "
    "yours. [How they go together](train.md).",
    "",
)


class Key(NamedTuple):
    """One key; `default` is None where it must be given."""

    name: str
    takes: str
    default: str | None
    about: str


class Section(NamedTuple):
    """The keys of one place in a recipe."""

    place: str
    about: str
    keys: list[Key]


def recipe_keys() -> list[Section]:
    """All keys, by their place in a recipe; keys that several stages share stand once, with their common default."""
    whole = ("model", "data", "stages", "evaluation")
    sections = [
        _section("(top)", Recipe, leave_out=whole),
        _section("model", ModelSettings),
        *(_section(f"data.NAME, kind: {tag.removeprefix(KIND)}", one) for tag, one in SOURCES.items()),
        _section("stages, every stage that trains", TrainedStage, leave_out=("lr",)),
        _section("stages, simcse and supervised", ContrastiveSettings, beside=TrainedStage),
    ]
    for objective, stage in STAGES.items():
        beside = next((base for base in (ContrastiveSettings, TrainedStage) if issubclass(stage, base)), None)
        sections.append(_section(f"stages, objective: {objective}", stage, beside=beside))
    about = "tasks by kind and name; each is run at every rung"
    sections.append(_section("evaluation", EvaluationSettings, about=about))
    sections += [_section(f"evaluation.{kind}.NAME", task.settings, about=task.help) for kind, task in TASKS.items()]
    return sections


def markdown(sections: Sequence[Section]) -> str:
    """A page with a table a section."""
    lines = [*_HEAD]
    for section in sections:
        lines += [
            f"## {section.place}",
            "",
            section.about,
            "",
            "| key | takes | default | |",
            "| --- | --- | --- | --- |",
        ]
        for key in section.keys:
            default = "required" if key.default is None else f"`{key.default}`" if key.default else ""
            lines.append(f"| `{key.name}` | {key.takes} | {default} | {key.about} |".replace("  ", " "))
        lines.append("")
    return "\n".join(lines)


def _section(
    place: str,
    settings: type[BaseModel],
    *,
    beside: type[BaseModel] | None = None,
    leave_out: Sequence[str] = (),
    about: str | None = None,
) -> Section:
    """The keys of a class, but for those that the class `beside` it has with the same default."""
    known = beside.model_fields if beside else {}
    fields = {
        name: field
        for name, field in settings.model_fields.items()
        if name not in leave_out and not (name in known and _default(known[name]) == _default(field))
    }
    said = (
        (settings.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        if about is None
        else f"{about[0].upper()}{about[1:]}."
    )
    keys = [key for name, field in fields.items() for key in _keys(name, field, known.get(name))]
    return Section(place, " ".join(said.split()), keys)


def _keys(name: str, field: FieldInfo, same: FieldInfo | None = None) -> Iterator[Key]:
    """A key, described as the `same` one elsewhere if not itself, or those below it where it holds keys of its own."""
    inner = [one for one in _parts(field.annotation) if isinstance(one, type) and issubclass(one, BaseModel)]
    if len(inner) == 1 and len(inner[0].model_fields) > 1:  # a lone `kind` stands for keys of many kinds
        for below, its in inner[0].model_fields.items():
            yield from _keys(f"{name}.{below}", its)
        return
    takes = ", ".join(dict.fromkeys(_word(one) for one in _parts(field.annotation) if one is not NoneType))
    yield Key(name, takes, _default(field), field.description or (same and same.description) or "")


def _parts(annotation: Any) -> list[Any]:
    """The members of a union, or the one type."""
    if get_origin(annotation) is Annotated:
        return _parts(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [part for one in get_args(annotation) for part in _parts(one)]
    return [annotation]


def _word(annotation: Any) -> str:
    """What a type is called."""
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (list, tuple):
        return "list"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "keys and values"
    return _WORDS.get(annotation, str(getattr(annotation, "__name__", annotation)))


def _default(field: FieldInfo) -> str | None:
    """As it would be written; empty where nothing is the default."""
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel) or value is None or value in ("", {}, [], ()):
        return ""
    return value if isinstance(value, str) else json.dumps(value)
