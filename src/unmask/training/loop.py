"""The one training loop, on accelerate. It knows steps, gradients and checkpoints, not what is minimised.

What is random in a step follows from (run seed, step, part of the step), so it depends neither on what ran before nor
on which process runs which part: a run that was killed resumes from its last checkpoint, also with another number of
processes, and ends with the weights of an uninterrupted one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from unmask.errors import TrainingError
from unmask.objectives.base import Objective
from unmask.training import checkpoint
from unmask.training.base_settings import TrainedStage
from unmask.training.engine import StepEngine
from unmask.training.monitor import Monitor
from unmask.training.optim import adamw, learning_rate, trainable
from unmask.training.processes import agreed, prepare


@dataclass(frozen=True, slots=True)
class Job:
    """One stage as the loop sees it.

    Attributes:
        name: for the bar and the log.
        module: what is trained and called; its frozen parameters stay.
        objective: turns a batch into gradients.
        batch: step number -> (this process's share, real tokens of the whole step); a pure function.
        evaluate: figures to log besides the loss, or None.
        evaluate_every: steps between two calls of it.
        seed: of the run.
    """

    name: str
    module: nn.Module
    objective: Objective
    batch: Callable[[int], tuple[Any, int]]
    evaluate: Callable[[Any], dict[str, float]] | None
    evaluate_every: int
    seed: int


def fit(job: Job, settings: TrainedStage, folder: Path, accelerator: Any, *, progress: bool = False) -> None:
    """Train until `settings.steps` are done, from the newest checkpoint in `folder` if there is one.

    Raises:
        TrainingError: a loss or gradient norm that is not finite; the update is not made and the last checkpoint
            stands.
    """
    optimizer = adamw(trainable(job.module), settings)
    model, prepared, shards = prepare(accelerator, job.module, optimizer, settings.clip_norm)
    parameters = trainable(job.module)  # sharding puts others in their place
    checkpoints = folder / "checkpoints"
    newest = agreed(accelerator, next(reversed(checkpoint.kept(checkpoints)), None))
    done = 0 if newest is None else checkpoint.restore(newest, parameters, shards)
    engine = StepEngine(accelerator, model, job.seed)
    monitor = Monitor(folder, job.name, settings.steps, done, accelerator, progress)
    try:
        if job.evaluate and done == 0:
            _evaluate(job, model, monitor, 0)
        for step in range(done, settings.steps):
            engine.step = step
            model.train()
            rate = learning_rate(step, settings.steps, settings)
            for group in prepared.param_groups:  # before the backward pass: DeepSpeed steps at its end
                group["lr"] = rate
            batch, tokens = job.batch(step)
            out = job.objective.step(model, batch, engine)
            norm = float(accelerator.clip_grad_norm_(parameters.values(), settings.clip_norm))
            _check_finite(job.name, step, out.loss, norm)
            prepared.step()
            prepared.zero_grad()
            monitor.step(tokens)
            finished = step + 1
            last = finished == settings.steps
            if last or finished % settings.log_every == 0:
                monitor.log(finished, {"loss": out.loss, **out.metrics, "grad_norm": norm, "lr": rate})
            if job.evaluate and (last or finished % job.evaluate_every == 0):
                _evaluate(job, model, monitor, finished)
            if last or finished % settings.save_every == 0:
                keep = settings.keep_checkpoints if accelerator.is_main_process else None
                checkpoint.save(checkpoints, finished, parameters, shards, keep)
    finally:
        monitor.close()
        optimizer.zero_grad()
        accelerator.free_memory()  # or it would hold this stage's model and moments through the next


def _evaluate(job: Job, model: Any, monitor: Monitor, step: int) -> None:
    assert job.evaluate is not None
    model.eval()
    monitor.log(step, job.evaluate(model))


def _check_finite(name: str, step: int, loss: float, norm: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingError(
            f"{name}: loss {loss} and gradient norm {norm} at step {step + 1}; stopped before the update. Lower lr, "
            "use float32, or look at the data of this step. The last checkpoint is untouched."
        )
