"""The settings of a stage. YAML maps onto these one to one; unknown keys are refused where the recipe is read."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from unmask.settings import Settings
from unmask.training.losses import AnyLoss, InfoNceSettings, LossSettings

Schedule = Literal["linear", "cosine", "constant"]
Tuning = Literal["lora", "dora", "qlora", "full"]


class LoraSettings(Settings):
    """LoRA as in the paper: r=16, alpha=32, dropout 0.05, on all linear layers."""

    start: Literal["fresh", "previous"] = Field(
        "fresh", description="previous: go on with the adapter of the stage before, on the weights it was trained on"
    )
    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: str | list[str] = "all-linear"


class OptimSettings(Settings):
    """AdamW and its learning rate over the steps of one stage."""

    lr: float = Field(gt=0)
    warmup_steps: int = Field(0, ge=0)
    schedule: Schedule = "linear"
    schedule_steps: int | None = Field(None, ge=1, description="steps the schedule is made for; by default all")
    final_lr_share: float = Field(0.0, ge=0, le=1, description="the schedule ends at this share of lr")
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = Field((0.9, 0.999), strict=False)
    epsilon: float = Field(1e-8, gt=0)
    clip_norm: float = Field(1.0, gt=0)


class StageSettings(Settings):
    """What every stage has."""

    name: str | None = Field(None, pattern=r"^[\w.-]+$", description="folder and rung name; by default the objective")

    @property
    def sources(self) -> list[str]:
        """Names of the data sources it reads."""
        return []


class TrainedStage(StageSettings, OptimSettings):
    """A stage that trains, whatever it minimises."""

    data: str = Field(description="name of a data source of the recipe")
    steps: int = Field(ge=1)
    tuning: Tuning = "lora"
    lora: LoraSettings = LoraSettings()
    gradient_checkpointing: bool = False
    micro_batch_tokens: int = Field(8192, ge=1, description="most tokens in one forward pass")
    log_every: int = Field(10, ge=1)
    save_every: int = Field(100, ge=1)
    keep_checkpoints: int = Field(1, ge=1)

    @property
    def sources(self) -> list[str]:
        """Names of the data sources it reads."""
        return [self.data]

    @property
    def has_adapter(self) -> bool:
        """True if it trains an adapter on frozen weights."""
        return self.tuning != "full"

    @model_validator(mode="after")
    def _warmup_fits(self) -> "TrainedStage":
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} is more than steps={self.steps}")
        return self


class MntpSettings(TrainedStage):
    """Masked next-token prediction; defaults as in the paper (section 2.2, appendix D.1.1)."""

    objective: Literal["mntp"] = "mntp"
    lr: float = Field(5e-5, gt=0)
    batch_tokens: int = Field(16384, ge=1, description="tokens a step: 32 blocks of 512 in the paper")
    block_size: int = Field(512, ge=24)
    mask_rate: float = Field(0.2, gt=0, lt=1)
    masking: Literal["bert", "roberta"] = "bert"
    mask_token: str = Field("_", description="a token of the vocabulary, or `own`: the tokenizer's mask token")
    held_out: str | None = Field(None, description="name of a data source to evaluate on while training")
    held_out_blocks: int = Field(64, ge=1)
    eval_every: int = Field(100, ge=1)

    @model_validator(mode="after")
    def _block_fits(self) -> "MntpSettings":
        if self.batch_tokens < self.block_size:
            raise ValueError(f"batch_tokens={self.batch_tokens} is less than one block_size={self.block_size}")
        return self

    @property
    def sources(self) -> list[str]:
        """Names of the data sources it reads."""
        return [self.data, *([self.held_out] if self.held_out else [])]

    @property
    def batch_size(self) -> int:
        """Blocks a step."""
        return self.batch_tokens // self.block_size


class ContrastiveSettings(TrainedStage):
    """What SimCSE and supervised training share. The batch is that of a step, of all processes together."""

    batch_size: int = Field(128, ge=2, description="texts (or pairs) a step")
    max_length: int = Field(128, ge=4)
    scale: float = Field(20.0, gt=0, description="factor on the cosine, 1 / temperature")
    both_directions: bool = Field(False, description="positives also look for their query")
    mask_duplicates: bool = Field(True, description="a text equal to the query or its positive is no negative")
    loss: AnyLoss | None = Field(None, description="another loss than InfoNCE with the keys of this stage")
    matryoshka: list[int] = Field([], description="also train the first so many dimensions")
    grad_cache: bool = Field(False, description="memory of one micro-batch for any batch, at a third more time")
    grad_cache_kept: int = Field(1, ge=0, description="micro-batches whose graph is kept even so, and not run again")
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    hidden_dropout: float = Field(0.0, ge=0, lt=1, description="on what each layer adds to the residual stream")

    @property
    def own_loss(self) -> LossSettings:
        """The loss that is named, or InfoNCE with this stage's keys."""
        return self.loss or InfoNceSettings(**{key: getattr(self, key) for key in self._loss_keys()})

    @classmethod
    def _loss_keys(cls) -> list[str]:
        return [key for key in InfoNceSettings.model_fields if key in cls.model_fields]

    @model_validator(mode="after")
    def _one_loss(self) -> "ContrastiveSettings":
        for key in self._loss_keys() if self.loss else ():
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} belongs to InfoNCE; with loss: {{kind: {self.loss.kind}}} say it there")  # type: ignore[union-attr]
        return self


class SimcseSettings(ContrastiveSettings):
    """Unsupervised SimCSE; defaults as in the paper (section 2.2, appendix D.1.2) and its released code."""

    objective: Literal["simcse"] = "simcse"
    lr: float = Field(3e-5, gt=0)
    attention_dropout: float = Field(0.3, ge=0, lt=1)

    @model_validator(mode="after")
    def _views_can_differ(self) -> "SimcseSettings":
        lora_dropout = self.lora.dropout if self.has_adapter else 0.0
        if not (self.attention_dropout or self.hidden_dropout or lora_dropout):
            raise ValueError(
                "the two views of a text would be identical: set attention_dropout, hidden_dropout or lora.dropout"
            )
        return self


Sources = str | Annotated[list[str], Field(min_length=1)]


class TeacherSettings(Settings):
    """A frozen encoder whose ranking of the candidates is learned beside the pairs."""

    name: str = Field(description="encoder folder or hub id")
    weight: float = Field(1.0, gt=0)
    scale: float = Field(20.0, gt=0, description="factor on the teacher's cosines")
    query_prompt: str = Field("", description="in front of queries, for the teacher")
    document_prompt: str = Field("", description="in front of positives and negatives, for the teacher")


class SupervisedSettings(ContrastiveSettings):
    """Pairs with hard negatives; defaults as in the paper (section 5.1, appendix G) and its released code."""

    objective: Literal["supervised"] = "supervised"
    data: Sources = Field(  # type: ignore[assignment]
        description="names of data sources of kind pairs or e5; each batch is from one set"
    )
    lr: float = Field(2e-4, gt=0)
    batch_size: int = Field(512, ge=2)
    max_length: int = Field(512, ge=4)
    scale: float = Field(50.0, gt=0)
    hard_negatives: int | None = Field(None, ge=0, description="at most so many of a row; by default all")
    mask_same_document: bool = Field(True, description="positives of one document are no negatives of each other")
    false_negative_margin: float | None = Field(
        None, description="a candidate whose cosine exceeds the positive's by more than this does not count"
    )
    teacher: TeacherSettings | None = None

    @property
    def sources(self) -> list[str]:
        """Names of the data sources it reads."""
        return [self.data] if isinstance(self.data, str) else list(self.data)


class MergeSettings(StageSettings):
    """Weights between the base model's and those so far (BidirLM, arXiv 2604.02045); nothing is trained."""

    objective: Literal["merge"] = "merge"
    base_share: float = Field(0.5, gt=0, lt=1, description="share of the base model's weights")


class AverageSettings(StageSettings):
    """The mean weights of the last checkpoints of the stage before; nothing is trained."""

    objective: Literal["average"] = "average"
    checkpoints: int = Field(ge=2)


STAGES: dict[str, type[StageSettings]] = {
    "mntp": MntpSettings,
    "simcse": SimcseSettings,
    "supervised": SupervisedSettings,
    "merge": MergeSettings,
    "average": AverageSettings,
}
AnyStage = Annotated[
    MntpSettings | SimcseSettings | SupervisedSettings | MergeSettings | AverageSettings,
    Field(discriminator="objective"),
]
