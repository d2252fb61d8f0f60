"""The stages of the recipe: each takes an encoder (or the base model), trains, merges, and leaves an encoder folder.

stage folder:  encoder/ (plain weights, opens anywhere)  adapter/ (LoRA, if any)  metrics.jsonl  checkpoints/  logs/

An encoder folder is always made from the stage's last checkpoint, by one process, on the CPU: that holds for sharded
weights and for weights trained in four bits as well.
"""

import copy
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from unmask.backbone.devices import cast_weights, saved_dtype
from unmask.backbone.quantized import four_bit
from unmask.backbone.truth.opening import attention_of
from unmask.encoder.folder import POOLING_WEIGHTS
from unmask.encoder.saved import as_saved
from unmask.errors import TrainingError
from unmask.files import new_folder, write_json
from unmask.heap import trim_heap
from unmask.training import checkpoint
from unmask.training.base_settings import StageSettings, TrainedStage
from unmask.training.building import Data, StageContext, encoder_around, make_trainable, plain, pooling_weights, rebuild
from unmask.training.config import (
    AverageSettings,
    ContrastiveSettings,
    MergeSettings,
    MntpSettings,
    SimcseSettings,
    SupervisedSettings,
)
from unmask.training.loop import Job, fit
from unmask.training.processes import agreed
from unmask.training.rate import forget_peak
from unmask.training.rehearsal import heaviest
from unmask.training.stages.contrastive import check_contrastive, simcse_job, supervised_job
from unmask.training.stages.mntp import check_mntp, mntp_job
from unmask.training.stages.weights import averaged, merged

# What a stage that trains gives the loop, from its settings and its context.
JOBS: dict[type[StageSettings], Callable[..., AbstractContextManager[Job]]] = {
    MntpSettings: mntp_job,
    SimcseSettings: simcse_job,
    SupervisedSettings: supervised_job,
}
# The model of one that only computes, from these and the trained stage before with its context.
WEIGHTS: dict[type[StageSettings], Callable[..., Any]] = {MergeSettings: merged, AverageSettings: averaged}


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
    context.check_inputs()
    if isinstance(settings, TrainedStage):
        _train(settings, context, folder)
        trim_heap()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        context.check_inputs()
        if isinstance(settings, TrainedStage):
            _finish(settings, context, folder)
        else:
            _save(WEIGHTS[type(settings)](settings, context, before), context, finished)
    accelerator.wait_for_everyone()
    return finished


def _train(settings: TrainedStage, context: StageContext, folder: Path) -> None:
    forget_peak(context.accelerator.device)
    torch.manual_seed(context.draw("adapter"))  # fresh LoRA weights are drawn before the loop seeds its steps
    with JOBS[type(settings)](settings, context) as job:
        if context.rehearsal:
            job, settings = heaviest(job, settings)
        trim_heap()
        try:
            fit(job, settings, folder, context.accelerator, seed=context.draw("steps"), progress=context.progress)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{settings.label}: the device's memory is full ({str(error).splitlines()[0]}). Lower "
                "micro_batch_tokens, or set gradient_checkpointing: true. What was saved is untouched."
            ) from error


def _finish(settings: TrainedStage, context: StageContext, folder: Path) -> None:
    """The adapter and the encoder of the stage's last checkpoint."""
    path = checkpoint.kept(folder / "checkpoints")[-1]
    model, adapter = rebuild(settings, context.origin, path)
    if adapter is not None:
        shutil.rmtree(folder / "adapter", ignore_errors=True)  # of a try that was killed here
        with new_folder(folder / "adapter") as partial:
            adapter.save_pretrained(str(partial))
            seen = {key: value for key, value in asdict(attention_of(model)).items() if value}
            own = seen | as_saved(context.encoder, context.lineage, context.origin.chat)
            write_json(partial / "unmask.json", own)
            if weights := pooling_weights(context.origin, context.encoder.pooling, path):
                save_file(weights, partial / POOLING_WEIGHTS)
    _save(plain(model, adapter), context, folder / "encoder", path)


def _save(model: Any, context: StageContext, folder: Path, trained: Path | None = None) -> None:
    """The encoder folder; a learned pooling is that of a checkpoint, or of the stage before."""
    origin = context.origin
    cast_weights(model, saved_dtype(origin.base, origin.dtype))
    encoder = encoder_around(model, origin, context.encoder, trained)
    encoder.lineage = dict(context.lineage)
    encoder.save(folder)


def check_stage(stage: StageSettings, data: Data, tokenizer: Any, width: int, twin: Any | None) -> None:
    """See what can be known of a stage before any weight is loaded.

    Args:
        stage: its settings.
        data: its rows.
        tokenizer: of the model.
        width: of the model's vectors.
        twin: a small model of the same architecture, if there is one.

    Raises:
        UnmaskError: too few rows for a step, no such mask token, widths or LoRA targets that the model has not,
            dropout or a bias of attention that it does not apply, a teacher or a package that is not there.
    """
    if not isinstance(stage, TrainedStage):
        return
    if stage.tuning == "qlora":
        four_bit(torch.device("cpu"))
    if twin is not None and stage.has_adapter:
        make_trainable(copy.deepcopy(twin), stage, None)
    if isinstance(stage, MntpSettings):
        check_mntp(stage, data, tokenizer, twin)
    if isinstance(stage, ContrastiveSettings):
        check_contrastive(stage, data, width, twin)
