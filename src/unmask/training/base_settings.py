"""What the settings of every stage share: its name and order, adapters, the optimizer, what a plan asks."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from unmask.settings import Settings

Schedule = Literal["linear", "cosine", "constant"]
Tuning = Literal["lora", "dora", "qlora", "full"]


class LoraSettings(Settings):
    """LoRA as in the paper: r=16, alpha=32, dropout 0.05, on all linear layers."""

    start: Literal["fresh", "previous"] = Field(
        "fresh", description="previous: continue the adapter of the stage before, on the weights it was trained on"
    )
    rank: int = Field(16, ge=1, description="r")
    alpha: float = Field(32, gt=0, description="the adapter is multiplied by alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="on the input of the adapter")
    targets: str | list[str] = Field("all-linear", description="layers with an adapter, as peft names them")


class OptimSettings(Settings):
    """AdamW and its learning rate over the steps of one stage."""

    lr: float = Field(gt=0, description="learning rate of AdamW, after the warm-up")
    warmup_steps: int = Field(0, ge=0, description="in which the rate rises from 0 to lr")
    schedule: Schedule = Field("linear", description="how the rate falls after the warm-up")
    schedule_steps: int | None = Field(None, ge=1, description="steps the schedule is made for; by default all")
    final_lr_share: float = Field(0.0, ge=0, le=1, description="the schedule ends at this share of lr")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    betas: tuple[float, float] = Field((0.9, 0.999), strict=False, description="of AdamW")
    epsilon: float = Field(1e-8, gt=0, description="of AdamW")
    clip_norm: float = Field(1.0, gt=0, description="longest gradient of a step")


class StageSettings(Settings):
    """What every stage has."""

    title: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ()  # kinds of data sources

    name: str | None = Field(None, pattern=r"^[\w.-]+$", description="folder and rung name; by default the objective")

    @property
    def label(self) -> str:
        """Its name in folders, logs and messages."""
        return self.name or str(getattr(self, "objective", "stage"))

    @property
    def sources(self) -> list[str]:
        """Names of the data sources it reads."""
        return []

    def order_mistakes(self, before: "StageSettings | None") -> list[str]:
        """What is wrong with the stage before it, as it follows the name of this one in a message."""
        return []


class TrainedStage(StageSettings, OptimSettings):
    """A stage that trains, whatever it minimises."""

    data: str = Field(description="name of a data source of the recipe")
    steps: int = Field(ge=1, description="updates of the weights")
    tuning: Tuning = Field(
        "lora", description="what is trained: an adapter (qlora: on weights in four bits), or all weights"
    )
    lora: LoraSettings = LoraSettings()
    gradient_checkpointing: bool | Literal["products"] = Field(
        False,
        description="layers compute again what they would keep; products: but for what products and attention give",
    )
    compile: bool = Field(
        False,
        description="compile the layers on a CPU: less memory a step, less time for short texts, a minute at the start",
    )
    micro_batch_tokens: int = Field(8192, ge=1, description="most tokens in one forward pass")
    log_every: int = Field(10, ge=1, description="steps between two lines of metrics.jsonl")
    save_every: int = Field(100, ge=1, description="steps between two checkpoints, from which a killed run resumes")
    keep_checkpoints: int = Field(1, ge=1, description="of the newest, so many")

    @property
    def sources(self) -> list[str]:
        """Names of the data sources it reads."""
        return [self.data] if isinstance(self.data, str) else list(self.data)

    @property
    def has_adapter(self) -> bool:
        """True if it trains an adapter on frozen weights."""
        return self.tuning != "full"

    @property
    def continues_adapter(self) -> bool:
        """True if it trains the adapter of the stage before, on the weights that adapter was trained on."""
        return self.has_adapter and self.lora.start == "previous"

    @property
    def label_share(self) -> float:
        """Share of the tokens whose logits are computed."""
        return 0.0

    @property
    def dropouts(self) -> tuple[float, float]:
        """Rates on attention weights and on what layers add to the residual stream."""
        return 0.0, 0.0

    @property
    def runs_again(self) -> bool:
        """True if forward passes are made twice."""
        return False

    def graphs(self, passes: int) -> int:
        """Of how many of a step's forward passes the graphs are held at once."""
        return 1

    def rehearsal(self) -> "TrainedStage":
        """The stage in steps that are no longer than their memory needs; its data stay as much."""
        return self

    def step_tokens(self, data: Any, lengths: Callable[[Sequence[str]], list[int]]) -> tuple[float, int]:
        """Tokens of a step and of one row, estimated from a sample where lengths vary.

        Args:
            data: the sources of the recipe, cut to a sample.
            lengths: texts -> tokens of each.
        """
        raise NotImplementedError

    def order_mistakes(self, before: StageSettings | None) -> list[str]:
        """An adapter to continue must be there, and of the same form."""
        if not self.continues_adapter:
            return []
        if not isinstance(before, TrainedStage) or not before.has_adapter:
            return [".lora.start: previous needs a stage with an adapter right before it"]
        if "dora" in (self.tuning, before.tuning):
            return [".lora.start: an adapter of DoRA cannot be continued"]
        alike = ("rank", "alpha", "targets")
        if any(getattr(self.lora, key) != getattr(before.lora, key) for key in alike):
            return [f".lora: to continue the adapter before, {', '.join(alike)} must be the same"]
        return []

    @model_validator(mode="after")
    def _passes_agree(self) -> "TrainedStage":
        if self.compile and (self.gradient_checkpointing or self.runs_again):
            other = "gradient_checkpointing" if self.gradient_checkpointing else "grad_cache"
            raise ValueError(f"compile: layers that run twice could draw other masks; leave compile or {other} off")
        return self

    @model_validator(mode="after")
    def _products_stay(self) -> "TrainedStage":
        if self.gradient_checkpointing == "products" and self.has_adapter:
            raise ValueError(
                "gradient_checkpointing: products is for tuning: full, because adapters add to what it keeps"
            )
        return self

    @model_validator(mode="after")
    def _warmup_fits(self) -> "TrainedStage":
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} is more than steps={self.steps}")
        last = self.schedule_steps
        if last is not None and last <= self.warmup_steps and self.schedule != "constant" and not self.final_lr_share:
            raise ValueError(f"schedule_steps={last} must be more than warmup_steps={self.warmup_steps}")
        return self
