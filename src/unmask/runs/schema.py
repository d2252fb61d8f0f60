"""What a recipe may say: one pydantic class for each part, on which the YAML maps one to one."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from unmask.backbone.truth.opening import AttentionSpec
from unmask.data.pairs import PairColumns
from unmask.evaluation.words import Position
from unmask.settings import AttentionMode, Dtype, EncoderFields, Recurrent, Settings, Window
from unmask.training.config import AnyStage, StageSettings


class ModelSettings(EncoderFields):
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

    def attention_spec(self) -> AttentionSpec:
        """How the trained model attends."""
        if self.attention == "causal":
            return AttentionSpec("causal")
        return AttentionSpec(self.attention, self.recurrent, self.window)


class TextSource(Settings):
    """Texts, for MNTP and SimCSE; a $VARIABLE in a path is taken from the environment."""

    kind: Literal["texts"] = "texts"
    files: list[str] = Field(min_length=1, description="files, hub data sets name[:config]@split, hf:// files")
    field: str = "text"
    limit: int | None = Field(None, ge=1, description="first so many texts only")


class ColumnSettings(Settings):
    """Which columns of a pair source hold what; by default the usual names."""

    query: str | None = None
    positive: str | None = None
    negatives: str | list[str] | None = None
    document: str | None = None

    def columns(self) -> PairColumns:
        """As the reader wants them."""
        negatives = [self.negatives] if isinstance(self.negatives, str) else self.negatives
        return PairColumns(self.query, self.positive, negatives, self.document)


class PairSource(Settings):
    """Pairs, triples or more for supervised training: one data set."""

    kind: Literal["pairs"]
    files: list[str] = Field(min_length=1, description="files, hub data sets name[:config]@split, hf:// files")
    columns: ColumnSettings = ColumnSettings()
    instruction: str = Field("", description="in front of queries, as it stands, its last mark and space included")
    symmetric: bool = Field(False, description="positives and negatives get the instruction too")
    weight: float = Field(1.0, gt=0, description="how often it is drawn, relative to its size")
    limit: int | None = Field(None, ge=1, description="first so many pairs only")


class E5Source(Settings):
    """The public part of E5's data as Echo embeddings released it: a folder with a jsonl file for each data set."""

    kind: Literal["e5"]
    folder: str
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
    data: dict[str, Source]
    stages: list[AnyStage]
    evaluation: EvaluationSettings = EvaluationSettings()


def stage_name(stage: StageSettings) -> str:
    """The name of a stage's folder."""
    return stage.name or str(getattr(stage, "objective", "stage"))
