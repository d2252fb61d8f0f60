"""The model of a stage: loaded, converted, made trainable; built again from a checkpoint, merged to plain weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file
from torch import nn

from unmask.backbone.loading import load_model
from unmask.backbone.locate import layout_folder, load_tokenizer
from unmask.backbone.lora import add_lora, load_lora, merge_lora
from unmask.backbone.quantized import four_bit, let_gradients_through
from unmask.backbone.recomputing import compute_again
from unmask.backbone.truth.opening import AttentionSpec, apply_attention
from unmask.data.pairs import PairSet
from unmask.encoder import TextEncoder
from unmask.encoder.folder import POOLING_WEIGHTS
from unmask.encoder.saved import read_settings
from unmask.settings import Dtype, EncoderSettings
from unmask.text.prompts import ChatWrapper
from unmask.training import checkpoint
from unmask.training.base_settings import TrainedStage
from unmask.training.loop import draw

Purpose = Literal["adapter", "rows", "packing", "steps"]


@dataclass(frozen=True, slots=True)
class Data:
    """The data sources of a recipe: name -> texts, name -> sets of pairs; each is read once."""

    texts: Callable[[str], Sequence[str]]
    pairs: Callable[[str], Sequence[PairSet]]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a stage's weights come from.

    Attributes:
        base: the model the run started from (its head predicts in MNTP).
        start: the plain weights under the stage: `base`, or the encoder folder of an earlier stage.
        adapter: the adapter that the stage continues, trained on `start`; None for a fresh one.
        before: folder of the stage before, if there was one.
        attention: how the model attends while it trains and after.
        dtype: of the weights, in memory and saved.
        attention_implementation: for example sdpa, or None for transformers' choice.
        chat: what the run puts around every text; None without a chat template.
    """

    base: str
    start: str
    adapter: Path | None
    before: Path | None
    attention: AttentionSpec
    dtype: Dtype
    attention_implementation: str | None
    chat: ChatWrapper | None = None

    def load(self, *, head: bool, name: str | None = None, **options: Any) -> Any:
        """A model with the run's dtype and attention; `start` unless another name is given, on the CPU by default."""
        return load_model(
            name or self.start,
            head=head,
            dtype=self.dtype,
            attention_implementation=self.attention_implementation,
            **options,
        )


@dataclass(frozen=True, slots=True)
class StageContext:
    """What a stage is given.

    Attributes:
        origin: where its weights come from.
        encoder: settings saved with the encoder.
        data: data sources by name.
        seed: of the run.
        number: of the stage, from 1.
        lineage: where everything came from so far.
        accelerator: the one accelerate object of the run.
        progress: show bars.
        rehearsal: only the heaviest steps are done.
        check_inputs: raises an error if the weights that a stage reads are not those that the run began with.
    """

    origin: Origin
    encoder: EncoderSettings
    data: Data
    seed: int
    number: int = 1
    lineage: Mapping[str, Any] = field(default_factory=dict)
    accelerator: Any = None
    progress: bool = False
    rehearsal: bool = False
    check_inputs: Callable[[], None] = lambda: None

    def draw(self, purpose: Purpose) -> int:
        """A seed of this stage for one purpose; no two are alike."""
        return draw(self.seed, self.number, get_args(Purpose).index(purpose))

    @property
    def device(self) -> torch.device:
        """Where a stage's model is loaded; shards are cut from weights in main memory."""
        sharded = str(self.accelerator.distributed_type).endswith(("FSDP", "DEEPSPEED"))
        return torch.device("cpu") if sharded else self.accelerator.device


def load_for_training(settings: TrainedStage, context: StageContext) -> Any:
    """The body that a stage trains on, in four bits for QLoRA."""
    device = context.device
    if settings.tuning != "qlora":
        return context.origin.load(head=False, device=device)
    model = context.origin.load(head=False, **four_bit(device))
    let_gradients_through(model)
    return model


def make_trainable(model: Any, settings: TrainedStage, previous: Path | None) -> Any | None:
    """An adapter on a frozen model, or all of it; what is trained is kept in float32.

    Args:
        model: the body, in place.
        settings: of the stage.
        previous: an adapter to continue.

    Returns:
        The peft wrapper, or None.
    """
    adapter, lora = None, settings.lora
    if settings.has_adapter and previous is not None:
        adapter = load_lora(model, previous, name="default", dropout=lora.dropout)
    elif settings.has_adapter:
        adapter = add_lora(
            model,
            rank=lora.rank,
            alpha=lora.alpha,
            dropout=lora.dropout,
            targets=lora.targets,
            dora=settings.tuning == "dora",
        )
    else:
        model.requires_grad_(True)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if settings.gradient_checkpointing:
        compute_again(model, keep_products=settings.gradient_checkpointing == "products")
    return adapter


def rebuild(settings: TrainedStage, origin: Origin, path: Path) -> tuple[nn.Module, Any | None]:
    """A stage's model as it was at a checkpoint, on the CPU, from plain weights (also where four bits were trained on).

    Args:
        settings: of the stage.
        origin: of the stage.
        path: the checkpoint.

    Returns:
        The body and its peft wrapper, or None where all of it was trained.
    """
    model = origin.load(head=False)
    apply_attention(model, origin.attention)
    adapter = make_trainable(model, settings, origin.adapter)
    checkpoint.load_weights(path, model)
    return model, adapter


def pooling_weights(origin: Origin, pooling: str, path: Path | None = None) -> dict[str, torch.Tensor]:
    """The weights of a learned pooling: those of a checkpoint, or else of the stage before, or of the base.

    Args:
        origin: of the stage.
        pooling: its name; a base folder's weights are of use only if its pooling is the same.
        path: the checkpoint, if one is asked for.

    Returns:
        Empty for poolings without weights, and where none have been trained.
    """
    weights = {} if path is None else checkpoint.pooling_weights(path)
    folder = layout_folder(origin.start) if origin.before is None else origin.before / "encoder"
    if weights or not (folder / POOLING_WEIGHTS).is_file():
        return weights
    saved = read_settings(folder, default_length=1)
    return load_file(folder / POOLING_WEIGHTS) if saved is not None and saved.pooling == pooling else {}


def encoder_around(model: Any, origin: Origin, settings: EncoderSettings, path: Path | None = None) -> TextEncoder:
    """An encoder of a stage's model; a learned pooling is that of a checkpoint, or of the stage before."""
    encoder = TextEncoder(model, load_tokenizer(origin.base), settings, chat=origin.chat)
    if weights := pooling_weights(origin, settings.pooling, path):
        encoder.module.pooling.load_state_dict(weights)
    return encoder


def plain(model: nn.Module, adapter: Any | None) -> nn.Module:
    """The body with its adapter folded into its weights."""
    return model if adapter is None else merge_lora(adapter)
