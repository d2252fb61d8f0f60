"""The record of an evaluation task: all that recipes, runs, the command line and reports know of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from unmask.data.records import Quoting
from unmask.settings import Settings

if TYPE_CHECKING:
    from unmask.encoder import TextEncoder  # torch would make `unmask eval --help` slow

InputFile = Annotated[str, "file"]
InputFolder = Annotated[str, "folder"]
AskedQuoting = Annotated[
    Quoting, Field(description="of csv and tsv: standard, or none where quotation marks are ordinary characters")
]
Prompt = Annotated[str | None, Field(description="instruction put in front of every text")]
Score = Callable[["TextEncoder", Any, Any, bool], Mapping[str, float | None]]
SOURCE = "csv, tsv, JSON or Parquet; on the command line also a hub data set name[:config]@split"


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a task's result that a run keeps and a report compares.

    Attributes:
        key: of the result, without the variant.
        title: measure and unit, above the report's table.
        ending: what a run adds to the name that a recipe gives the task.
        variant: tells figures of one measure apart where a task is scored in several ways; each has its own column.
    """

    key: str
    title: str
    ending: str = ""
    variant: str = ""

    def figure(self, name: str) -> str:
        """How a run calls it for the task of this name."""
        return f"{name}{self.variant}{self.ending}"


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of evaluation.

    Attributes:
        name: key under a recipe's `evaluation:`, and word after `unmask eval`.
        help: what it measures, in a line.
        settings: what a recipe says of one task of this kind. Each field is an option of the command line too (`file`
            and `folder` are its `--data`). Fields of the type `InputFile` or `InputFolder` are looked for before
            anything is trained.
        read: settings -> data, every file read to its end; raises DataError. Called before any encoder is loaded.
        score: encoder, data, settings, whether to show a bar -> the result: key -> figure, None where it has none.
        measures: the figures that a run keeps; the first is the headline.
        example: what stands after `unmask eval` in its help.
        note: what a person should know of the data, if anything.
        revision: raised when the same settings give other figures than before, so that runs score them anew.
    """

    name: str
    help: str
    settings: type[Settings]
    read: Callable[[Any], Any]
    score: Score
    measures: tuple[Measure, ...]
    example: str = ""
    note: Callable[[Any], str | None] = lambda data: None
    revision: int = 0

    def figures(
        self, encoder: "TextEncoder", name: str, settings: Settings, *, data: Any = None, progress: bool = False
    ) -> dict[str, float]:
        """Score one task of a recipe, and read its data if it is not given: the figures that its run keeps, by name."""
        found = self.score(encoder, self.read(settings) if data is None else data, settings, progress)
        values = {one.figure(name): found.get(f"{one.key}{one.variant}") for one in self.measures}
        return {figure: value for figure, value in values.items() if value is not None}


def scored_by(evaluate: Callable[..., Any], *options: str) -> Score:
    """The `score` of a task whose function takes settings by their names and returns a dataclass."""

    def score(encoder: "TextEncoder", data: Any, settings: Any, progress: bool) -> dict[str, float | None]:
        given = {name: getattr(settings, name) for name in options}
        return asdict(evaluate(encoder, data, progress=progress, **given))

    return score


def inputs(settings: type[Settings]) -> Iterator[tuple[str, str]]:
    """The fields that hold a path, each with `file` or `folder`."""
    for name, field in settings.model_fields.items():
        yield from ((name, kind) for kind in ("file", "folder") if kind in field.metadata)
