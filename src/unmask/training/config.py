"""The settings of a stage. YAML maps onto these one to one; unknown keys are refused where the recipe is read."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from unmask.settings import Settings
from unmask.training.base_settings import StageSettings, TrainedStage
from unmask.training.losses import AnyLoss, InfoNceSettings, LossSettings

_SAMPLED_ROWS = 1000  # rows whose lengths a plan is made from


class MntpSettings(TrainedStage):
    """Masked next-token prediction; defaults as in the paper (section 2.2, appendix D.1.1)."""

    title: ClassVar[str] = "MNTP"
    reads: ClassVar[tuple[str, ...]] = ("texts",)

    objective: Literal["mntp"] = "mntp"
    lr: float = Field(5e-5, gt=0)
    batch_tokens: int = Field(16384, ge=1, description="tokens a step: 32 blocks of 512 in the paper")
    block_size: int = Field(512, ge=24, description="tokens of a block; documents in one block do not see each other")
    mask_rate: float = Field(0.2, gt=0, lt=1, description="share of the tokens that are to be guessed")
    masking: Literal["bert", "roberta"] = Field(
        "bert", description="bert: of those, 80% are masked, 10% random, 10% as they are; roberta: all masked"
    )
    mask_token: str = Field("_", description="a token of the vocabulary, or `own`: the tokenizer's mask token")
    held_out: str | None = Field(None, description="name of a data source to evaluate on while training")
    held_out_blocks: int = Field(64, ge=1, description="blocks to evaluate on")
    eval_every: int = Field(100, ge=1, description="steps between two evaluations on held_out")
    future_steps: int = Field(0, ge=0, description="steps in which tokens come to see those behind them; 0: at once")

    @model_validator(mode="after")
    def _future_opens(self) -> "MntpSettings":
        if self.future_steps >= self.steps:
            raise ValueError(f"future_steps={self.future_steps} must end before the stage does, in steps={self.steps}")
        if self.future_steps and self.compile:
            raise ValueError("future_steps: compiled layers give attention no bias; leave compile or future_steps off")
        return self

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

    @property
    def label_share(self) -> float:
        """Share of the tokens whose logits are computed."""
        return self.mask_rate

    def future(self, step: int) -> float:
        """What attention to later tokens is multiplied by in a step (from 0): it rises from 0 to 1 in a line."""
        return step / self.future_steps if step < self.future_steps else 1.0

    def rehearsal(self) -> TrainedStage:
        """Two passes a step: in the second the gradients of the first are there, and a third adds nothing."""
        blocks = min(self.batch_size, 2 * max(1, self.micro_batch_tokens // self.block_size))
        steps = -(-self.steps * self.batch_size // blocks)
        changed = {"batch_tokens": blocks * self.block_size, "steps": steps, "held_out_blocks": 1}
        return self.model_copy(update=changed)

    def step_tokens(self, data: Any, lengths: Callable[[Sequence[str]], list[int]]) -> tuple[float, int]:
        """Full blocks."""
        return self.batch_size * self.block_size, self.block_size


class ContrastiveSettings(TrainedStage):
    """What SimCSE and supervised training share. The batch is that of a step, of all processes together."""

    batch_size: int = Field(128, ge=2, description="texts (or pairs) a step")
    max_length: int = Field(128, ge=4, description="most tokens of a text while training")
    scale: float = Field(20.0, gt=0, description="factor on the cosine, 1 / temperature")
    both_directions: bool = Field(False, description="positives also look for their query")
    mask_duplicates: bool = Field(True, description="a text equal to the query or its positive is no negative")
    loss: AnyLoss | None = Field(None, description="another loss than InfoNCE with the keys of this stage")
    matryoshka: list[int] = Field([], description="also train the first so many dimensions")
    grad_cache: bool = Field(False, description="memory of one micro-batch for any batch, at a third more time")
    grad_cache_kept: int = Field(1, ge=0, description="micro-batches whose graph is kept even so, and not run again")
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="on attention weights; instead of the model's own")
    hidden_dropout: float = Field(0.0, ge=0, lt=1, description="on what each layer adds to the residual stream")

    @property
    def dropouts(self) -> tuple[float, float]:
        """Rates on attention weights and on what layers add to the residual stream."""
        return self.attention_dropout, self.hidden_dropout

    @property
    def runs_again(self) -> bool:
        """True if forward passes are made twice."""
        return self.grad_cache

    def graphs(self, passes: int) -> int:
        """All of them, but for GradCache."""
        return min(passes, max(1, self.grad_cache_kept)) if self.grad_cache else passes

    def sample(self, data: Any) -> tuple[Sequence[str], float]:
        """Some texts as the model reads them, and how many texts a row of a batch has."""
        raise NotImplementedError

    def step_tokens(self, data: Any, lengths: Callable[[Sequence[str]], list[int]]) -> tuple[float, int]:
        """By the mean length of a sample."""
        texts, columns = self.sample(data)
        found = [min(length, self.max_length) for length in lengths(texts)]
        mean = sum(found) / len(found)
        return self.batch_size * columns * mean, max(1, round(mean))

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

    title: ClassVar[str] = "SimCSE"
    reads: ClassVar[tuple[str, ...]] = ("texts",)

    objective: Literal["simcse"] = "simcse"
    lr: float = Field(3e-5, gt=0)
    attention_dropout: float = Field(0.3, ge=0, lt=1, description="on attention weights; instead of the model's own")

    def sample(self, data: Any) -> tuple[Sequence[str], float]:
        """A text and the same again."""
        return data.texts(self.data), 2.0

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
    weight: float = Field(1.0, gt=0, description="of its loss beside that of the pairs")
    scale: float = Field(20.0, gt=0, description="factor on the teacher's cosines")
    query_prompt: str = Field("", description="in front of queries, for the teacher")
    document_prompt: str = Field("", description="in front of positives and negatives, for the teacher")


class SupervisedSettings(ContrastiveSettings):
    """Pairs with hard negatives; defaults as in the paper (section 5.1, appendix G) and its released code."""

    title: ClassVar[str] = "Supervised"
    reads: ClassVar[tuple[str, ...]] = ("pairs", "e5")

    objective: Literal["supervised"] = "supervised"
    data: Sources = Field(  # type: ignore[assignment]
        description="names of data sources of kind pairs or e5; each batch is from one set"
    )
    lr: float = Field(2e-4, gt=0)
    batch_size: int = Field(512, ge=2, description="pairs a step")
    max_length: int = Field(512, ge=4, description="most tokens of a text while training")
    scale: float = Field(50.0, gt=0, description="factor on the cosine, 1 / temperature")
    hard_negatives: int | None = Field(None, ge=0, description="at most so many of a row; by default all")
    mask_same_document: bool = Field(True, description="positives of one document are no negatives of each other")
    false_negative_margin: float | None = Field(
        None, description="a candidate whose cosine exceeds the positive's by more than this does not count"
    )
    teacher: TeacherSettings | None = None

    def sample(self, data: Any) -> tuple[Sequence[str], float]:
        """Queries with their positives and hard negatives, as many rows of each data set."""
        sets = [one for source in self.sources for one in data.pairs(source)]
        texts: list[str] = []
        count = 0
        for one in sets:
            rows = one.take(range(min(len(one), _SAMPLED_ROWS // len(sets) + 1)))
            count += len(rows)
            for pair in rows:
                others = (pair.positive, *pair.negatives[: self.hard_negatives])
                texts += [one.query_prompt + pair.query, *(one.document_prompt + text for text in others)]
        return texts, len(texts) / count


class MergeSettings(StageSettings):
    """Weights between the base model's and those so far (BidirLM, arXiv 2604.02045); nothing is trained."""

    title: ClassVar[str] = "merged"

    objective: Literal["merge"] = "merge"
    base_share: float = Field(0.5, gt=0, lt=1, description="share of the base model's weights")

    def order_mistakes(self, before: StageSettings | None) -> list[str]:
        """Something must have been trained."""
        return [] if before else [": there is nothing to merge with the base model before the first stage"]


class AverageSettings(StageSettings):
    """The mean weights of the last checkpoints of the stage before; nothing is trained."""

    title: ClassVar[str] = "averaged"

    objective: Literal["average"] = "average"
    checkpoints: int = Field(ge=2, description="of the stage before, so many; it must keep them")

    def order_mistakes(self, before: StageSettings | None) -> list[str]:
        """The stage before must leave as many checkpoints."""
        kept = 0
        if isinstance(before, TrainedStage):
            kept = min(before.keep_checkpoints, -(-before.steps // before.save_every))
        if kept >= self.checkpoints:
            return []
        return [
            f": the stage before it leaves {kept} checkpoints, {self.checkpoints} are to be averaged; "
            "see its keep_checkpoints and save_every"
        ]


AnyStage = Annotated[
    MntpSettings | SimcseSettings | SupervisedSettings | MergeSettings | AverageSettings,
    Field(discriminator="objective"),
]
STAGES: dict[str, type[StageSettings]] = {
    stage.model_fields["objective"].default: stage for stage in get_args(get_args(AnyStage)[0])
}
