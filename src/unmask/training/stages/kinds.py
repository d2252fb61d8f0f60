"""The table of stages: what each does with its settings. Settings, order and plan are in training/config.py."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from unmask.errors import TrainingError
from unmask.training.base_settings import StageSettings
from unmask.training.config import AverageSettings, MergeSettings, MntpSettings, SimcseSettings, SupervisedSettings
from unmask.training.loop import Job
from unmask.training.stages.average import averaged
from unmask.training.stages.merge import merged
from unmask.training.stages.mntp import mntp_job
from unmask.training.stages.simcse import check_simcse, simcse_job
from unmask.training.stages.supervised import check_supervised, supervised_job


def _nothing(*_: Any) -> None:
    """No check of its own."""


def _missing(*_: Any) -> Any:
    raise TrainingError("This kind of stage does not do that.")


@dataclass(frozen=True, slots=True)
class StageKind:
    """What one kind of stage does.

    Attributes:
        job: (settings, context) -> what the loop trains; of stages that train.
        check: (settings, data, width, twin) -> None, or an error that is known before weights are loaded.
        weights: (settings, context, the trained stage before with its context) -> a model; of stages that only compute.
    """

    job: Callable[..., AbstractContextManager[Job]] = _missing
    check: Callable[..., None] = _nothing
    weights: Callable[..., Any] = _missing


KINDS: dict[type[StageSettings], StageKind] = {
    MntpSettings: StageKind(job=mntp_job),
    SimcseSettings: StageKind(job=simcse_job, check=check_simcse),
    SupervisedSettings: StageKind(job=supervised_job, check=check_supervised),
    MergeSettings: StageKind(weights=merged),
    AverageSettings: StageKind(weights=averaged),
}
