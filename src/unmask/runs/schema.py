"""What a recipe may say: one pydantic class for each part, on which the YAML maps one to one."""

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, SerializeAsAny, Tag, create_model

from unmask.backbone.truth.opening import AttentionSpec
from unmask.data.pairs import PairColumns
from unmask.data.records import Quoting
from unmask.evaluation.tasks import TASKS, Task
from unmask.settings import AttentionMode, Dtype, EncoderFields, Recurrent, Settings, Window
from unmask.training.config import AnyStage


class ModelSettings(EncoderFields):
    """The decoder and how its encoder will read texts."""

    name: str = Field(description="hub id, folder, GGUF file, `pocket` or `smollm2`")
    dtype: Dtype = Field("auto", description="of the weights, in memory and saved; auto is the model's own")
    attention: AttentionMode = Field("bidirectional", description="causal leaves the decoder as it is")
    recurrent: Recurrent | None = Field(
        None, description="layers that follow no mask: refuse, forward or two-way; by default as saved, else refuse"
    )
    window: Window | None = Field(
        None, description="sliding windows: keep (two-sided) or lift; by default as saved, else keep"
    )
    attention_implementation: str | None = Field(None, description="eager, sdpa ...; by default transformers' choice")

    def attention_spec(self) -> AttentionSpec:
        """How the trained model attends."""
        if self.attention == "causal":
            return AttentionSpec("causal")
        return AttentionSpec(self.attention, self.recurrent, self.window)


class TextSource(Settings):
    """Texts, for MNTP and SimCSE; a $VARIABLE in a path is taken from the environment."""

    kind: Literal["texts"] = "texts"
    files: list[str] = Field(min_length=1, description="files, hub data sets name[:config]@split, hf:// files")
    field: str = Field("text", description="column or key that holds the text")
    quoting: Quoting = Field("standard", description="of csv and tsv; none: quotation marks are ordinary characters")
    limit: int | None = Field(None, ge=1, description="first so many texts only")


class ColumnSettings(Settings):
    """Which columns of a pair source hold what; by default the usual names."""

    query: str | None = Field(None, description="by default query, anchor, question or sentence1")
    positive: str | None = Field(None, description="a text or a list; by default positive, pos, answer or sentence2")
    negatives: str | list[str] | None = Field(
        None, description="by default negatives, negative, neg, or negative_1, negative_2 ..."
    )
    document: str | None = Field(
        None, description="names the positive's document; by default document, doc, document_id"
    )
    where: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="keep rows with these values only, for example {label: 1}"
    )

    def columns(self) -> PairColumns:
        """As the reader wants them."""
        negatives = [self.negatives] if isinstance(self.negatives, str) else self.negatives
        return PairColumns(self.query, self.positive, negatives, self.document, self.where)


class PairSource(Settings):
    """Pairs, triples or more for supervised training: one data set."""

    kind: Literal["pairs"]
    files: list[str] = Field(min_length=1, description="files, hub data sets name[:config]@split, hf:// files")
    columns: ColumnSettings = ColumnSettings()
    instruction: str = Field("", description="in front of queries, as it stands, its last mark and space included")
    symmetric: bool = Field(False, description="positives and negatives get the instruction too")
    quoting: Quoting = Field("standard", description="of csv and tsv; none: quotation marks are ordinary characters")
    weight: float = Field(1.0, gt=0, description="how often it is drawn, relative to its size")
    limit: int | None = Field(None, ge=1, description="first so many pairs only")


class E5Source(Settings):
    """The public part of E5's data as Echo embeddings released it: a folder with a jsonl file for each data set."""

    kind: Literal["e5"]
    folder: str = Field(description="with a jsonl file for each data set")
    instructions: dict[str, str] = Field(default_factory=dict, description="other than the paper's, by data set")
    weights: dict[str, float] = Field(
        default_factory=dict, description="how often a set is drawn, relative to its size"
    )


def _kind(source: Any) -> str:
    kind = source.get("kind", "texts") if isinstance(source, dict) else getattr(source, "kind", "texts")
    return f"{KIND}{kind}"


KIND = "kind="  # marks the place of a source's kind in the location of a mistake
Source = Annotated[
    Annotated[TextSource, Tag(f"{KIND}texts")]
    | Annotated[PairSource, Tag(f"{KIND}pairs")]
    | Annotated[E5Source, Tag(f"{KIND}e5")],
    Discriminator(_kind),
]
SOURCES: dict[str, type[Settings]] = {f"{KIND}texts": TextSource, f"{KIND}pairs": PairSource, f"{KIND}e5": E5Source}


# `auto` is bfloat16 where the hardware multiplies it fast, else float32.
Precision = Literal["auto", "bf16", "fp32"]


class MaskedTask(Settings):
    """Masked-token accuracy on held-out text, at every rung."""

    data: str = Field(description="name of a data source of kind texts")
    block_size: int = Field(256, ge=24, description="tokens of a block")
    blocks: int = Field(128, ge=1, description="at most so many")
    mask_token: str = Field("_", description="as in the stage `mntp`; left away, that of the recipe's last one")


class EvaluationSettings(Settings):
    """Tasks by kind and name; each is run at every rung. `evaluation_class` adds a key for each kind in the table."""

    masked: MaskedTask | None = None
    precision: Precision = Field("fp32", description="of the arithmetic while scoring")

    @property
    def empty(self) -> bool:
        """True where there is nothing to score."""
        return self.masked is None and not any(True for _ in self.tasks())

    def tasks(self) -> Iterator[tuple[Task, str, Settings]]:
        """Every task but the masked tokens: its kind, its name, its settings."""
        for kind, task in TASKS.items():
            yield from ((task, name, settings) for name, settings in getattr(self, kind, {}).items())


def evaluation_class() -> type[EvaluationSettings]:
    """What `evaluation` may say, as of now: a class with the kinds of tasks that are registered as keys."""
    return _evaluation_class(tuple((task.name, task.settings) for task in TASKS.values()))


@cache
def _evaluation_class(kinds: tuple[tuple[str, type[Settings]], ...]) -> type[EvaluationSettings]:
    keys: dict[str, Any] = {name: (dict[str, settings], Field(default_factory=dict)) for name, settings in kinds}  # type: ignore[valid-type]
    return create_model("EvaluationSettings", __base__=EvaluationSettings, **keys)


def _evaluation(given: Any) -> EvaluationSettings:
    if isinstance(given, EvaluationSettings):
        return given
    return evaluation_class().model_validate(_without_nulls(given) if isinstance(given, dict) else given)


def _without_nulls(given: dict[str, Any]) -> dict[str, Any]:
    """Null takes out a task, or all tasks of a kind, that the recipe has from the one it extends."""
    kinds = {kind: tasks for kind, tasks in given.items() if kind not in TASKS or tasks is not None}
    return {
        kind: {name: task for name, task in tasks.items() if task is not None}
        if kind in TASKS and isinstance(tasks, dict)
        else tasks
        for kind, tasks in kinds.items()
    }


class Recipe(Settings):
    """A run: model, data, stages, evaluation."""

    name: str = Field(pattern=r"^[\w.-]+$", description="of the run, and of its folder under runs/")
    description: str = Field("", description="a line for people")
    seed: int = Field(0, ge=0, description="of everything random; the same seed ends with the same weights")
    precision: Precision = Field("auto", description="of the arithmetic while training")
    model: ModelSettings
    data: dict[str, Source]
    stages: list[AnyStage]
    evaluation: Annotated[SerializeAsAny[EvaluationSettings], BeforeValidator(_evaluation)] = Field(
        default_factory=lambda: evaluation_class()()
    )
