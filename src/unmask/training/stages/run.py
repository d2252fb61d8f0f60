"""The stages of the recipe: each takes an encoder (or the base model), trains, merges, and leaves an encoder folder.

stage folder:  encoder/ (plain weights, opens anywhere)  adapter/ (LoRA, if any)  metrics.jsonl  checkpoints/  logs/

An encoder folder is always made from the stage's last checkpoint, by one process, on the CPU: that holds for sharded
weights and for weights trained in four bits as well.
"""

import copy
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from unmask.backbone.devices import saved_dtype
from unmask.backbone.locate import load_tokenizer, resolve_model
from unmask.backbone.lora import save_lora
from unmask.backbone.quantized import four_bit
from unmask.backbone.truth.opening import apply_attention, attention_of
from unmask.data.sampling import EpochSampler
from unmask.encoder import TextEncoder
from unmask.errors import ArtifactError, RecipeError
from unmask.files import new_folder, write_json
from unmask.training import checkpoint
from unmask.training.building import Data, StageContext, make_trainable, plain, rebuild
from unmask.training.config import (
    AverageSettings,
    ContrastiveSettings,
    MergeSettings,
    MntpSettings,
    SimcseSettings,
    StageSettings,
    SupervisedSettings,
    TrainedStage,
)
from unmask.training.heap import trim_heap
from unmask.training.loop import Job, fit
from unmask.training.processes import agreed
from unmask.training.stages.contrastive import mixed_sampler, pair_sets, set_dropout, simcse_job, supervised_job
from unmask.training.stages.mntp import mntp_job

Builder = Callable[[Any, StageContext], AbstractContextManager[Job]]
_JOBS: dict[type[StageSettings], Builder] = {
    MntpSettings: mntp_job,
    SimcseSettings: simcse_job,
    SupervisedSettings: supervised_job,
}


def run_stage(
    settings: StageSettings, context: StageContext, folder: Path, before: tuple[TrainedStage, StageContext] | None
) -> Path:
    """Run one stage and return its encoder folder; a stage that is finished already is left alone.

    Args:
        settings: of the stage.
        context: what it is given.
        folder: of the stage.
        before: the trained stage before it, whose checkpoints an `average` stage reads.
    """
    finished, accelerator = folder / "encoder", context.accelerator
    if agreed(accelerator, finished.exists()):
        return finished
    if isinstance(settings, TrainedStage):
        _train(settings, context, folder)
        trim_heap()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if isinstance(settings, TrainedStage):
            _finish(settings, context, folder)
        elif isinstance(settings, MergeSettings):
            _save(_merged(settings, context), context, finished)
        elif isinstance(settings, AverageSettings):
            assert before is not None
            _save(_averaged(settings, context, *before), context, finished)
        else:
            raise RecipeError(f"No stage for {type(settings).__name__}.")
    accelerator.wait_for_everyone()
    return finished


def _train(settings: TrainedStage, context: StageContext, folder: Path) -> None:
    torch.manual_seed(context.draw("adapter"))  # fresh LoRA weights are drawn before the loop seeds its steps
    with _JOBS[type(settings)](settings, context) as job:
        trim_heap()
        fit(job, settings, folder, context.accelerator, progress=context.progress)


def _finish(settings: TrainedStage, context: StageContext, folder: Path) -> None:
    """The adapter and the encoder of the stage's last checkpoint."""
    model, adapter = rebuild(settings, context.origin, checkpoint.kept(folder / "checkpoints")[-1])
    if adapter is not None:
        shutil.rmtree(folder / "adapter", ignore_errors=True)  # of a try that was killed here
        with new_folder(folder / "adapter") as partial:
            save_lora(adapter, partial)
            seen = {key: value for key, value in asdict(attention_of(model)).items() if value}
            own = {**seen, "settings": context.encoder.model_dump(), "lineage": dict(context.lineage)}
            write_json(partial / "unmask.json", own)
    _save(plain(model, adapter), context, folder / "encoder")


def _save(model: Any, context: StageContext, folder: Path) -> None:
    base, dtype = context.origin.base, context.origin.dtype
    encoder = TextEncoder(model.to(saved_dtype(base, dtype)), load_tokenizer(base), context.encoder)
    encoder.lineage = dict(context.lineage)
    encoder.save(folder)


@torch.no_grad()
def _merged(settings: MergeSettings, context: StageContext) -> Any:
    """A share of the base model's weights in those so far."""
    origin = context.origin
    model = origin.load(head=False)
    apply_attention(model, origin.attention)
    base = dict(origin.load(head=False, name=origin.base).named_parameters())
    for name, parameter in model.named_parameters():
        if name not in base:
            raise ArtifactError(f"{origin.start} has {name!r}, which the base model {origin.base} has not.")
        parameter.copy_(torch.lerp(parameter.float(), base[name].float(), settings.base_share))
    return model


@torch.no_grad()
def _averaged(settings: AverageSettings, context: StageContext, before: TrainedStage, given: StageContext) -> Any:
    """The mean of the stage before at its last checkpoints, adapters folded in first."""
    origin = context.origin
    assert origin.before is not None
    paths = checkpoint.kept(origin.before / "checkpoints")[-settings.checkpoints :]
    if len(paths) < settings.checkpoints:
        raise ArtifactError(
            f"{origin.before} keeps {len(paths)} checkpoints; {settings.checkpoints} are to be averaged."
        )
    model: Any = None
    sums: dict[str, torch.Tensor] = {}
    for path in paths:
        model = plain(*rebuild(before, given.origin, path))
        for name, parameter in model.named_parameters():
            sums[name] = sums.get(name, 0.0) + parameter.float()
    for name, parameter in model.named_parameters():
        parameter.copy_(sums[name] / len(paths))
    return model


def check_stage(settings: TrainedStage, data: Data, width: int, twin: Any | None) -> None:
    """See what can be known of a stage before any weight is loaded.

    Args:
        settings: of the stage.
        data: its rows.
        width: of the model's vectors.
        twin: a small model of the same architecture, if there is one.

    Raises:
        UnmaskError: too few rows for a step, widths or LoRA targets that the model has not, dropout that it does not
            apply, a teacher or a package that is not there.
    """
    if settings.tuning == "qlora":
        four_bit(torch.device("cpu"))
    if twin is not None and settings.has_adapter and settings.lora.targets != "all-linear":
        make_trainable(copy.deepcopy(twin), settings, None)
    if isinstance(settings, ContrastiveSettings):
        if any(not 0 < dimension < width for dimension in settings.matryoshka):
            raise RecipeError(f"matryoshka: {settings.matryoshka} must lie between 0 and the vectors' width, {width}.")
        if twin is not None:
            with ExitStack() as stack:
                set_dropout(twin, settings, stack)
    if isinstance(settings, SupervisedSettings) and settings.teacher:
        resolve_model(settings.teacher.name)
    if isinstance(settings, SimcseSettings):
        EpochSampler(len(data.texts(settings.data)), settings.batch_size, seed=0, what="texts")
    elif isinstance(settings, SupervisedSettings):
        mixed_sampler(settings, pair_sets(settings, data), seed=0)
