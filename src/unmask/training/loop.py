"""The one training loop, on accelerate. It knows steps, gradients and checkpoints, not what is minimised.

What is random in a step follows from (run seed, step, part of the step), so it depends neither on what ran before nor
on which process runs which part: a run that was killed resumes from its last checkpoint, also with another number of
processes, and ends with the weights of an uninterrupted one.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import DistributedType
from torch import nn

from unmask.backbone.fast.compiling import CompiledTraining
from unmask.backbone.truth.flat import reads_flat
from unmask.errors import TrainingError
from unmask.objectives.base import Objective
from unmask.threads import look_around
from unmask.training import checkpoint
from unmask.training.base_settings import OptimSettings, TrainedStage
from unmask.training.monitor import Monitor
from unmask.training.processes import agreed, prepare
from unmask.training.rate import training_flops


@dataclass(frozen=True, slots=True)
class Job:
    """One stage as the loop sees it.

    Attributes:
        module: what is trained and called; its frozen parameters stay.
        objective: turns a batch into gradients.
        batch: step number -> (this process's share, real tokens of the whole step); a pure function.
        evaluate: figures to log besides the loss, or None.
        evaluate_every: steps between two calls of it.
    """

    module: nn.Module
    objective: Objective
    batch: Callable[[int], tuple[Any, int]]
    evaluate: Callable[[Any], dict[str, float]] | None = None
    evaluate_every: int = 1


class StepEngine:
    """The objectives' engine on accelerate; what is random follows from (seed, step, number of the part).

    Args:
        accelerator: of the run.
        model: as accelerate prepared it.
        seed: of the stage.
    """

    def __init__(self, accelerator: Any, model: Any, seed: int) -> None:
        self.processes = int(accelerator.num_processes)
        self.step = 0
        self._accelerator = accelerator
        self._model = model
        self._seed = seed

    @contextmanager
    def part(self, number: int, *, last: bool) -> Iterator[None]:
        """Seed torch on every device; keep gradients at home until the last part."""
        torch.manual_seed(draw(self._seed, 0, self.step, number))
        self._accelerator.sync_gradients = last  # DeepSpeed is told so, and has no other way to wait
        waits = not last and self._accelerator.distributed_type != DistributedType.DEEPSPEED
        with self._accelerator.no_sync(self._model) if waits else nullcontext():
            yield

    def generator(self, number: int) -> torch.Generator:
        """A CPU generator with a stream of its own."""
        return torch.Generator().manual_seed(draw(self._seed, 1, self.step, number))

    def backward(self, loss: torch.Tensor) -> None:
        """Backward under the precision and distribution of the run."""
        self._accelerator.backward(loss)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over all processes."""
        summed: torch.Tensor = self._accelerator.reduce(values.detach().clone(), reduction="sum")
        return summed


def draw(*numbers: int) -> int:
    """A seed that follows from some numbers, from their order and from how many there are."""
    return int(np.random.SeedSequence((len(numbers), *numbers)).generate_state(1, np.uint64)[0] >> 1)


def learning_rate(step: int, steps: int, settings: OptimSettings) -> float:
    """Learning rate of a step (from 0): linear warm-up to `lr`, then decay to `final_lr_share` of it.

    The decay ends at `schedule_steps`, which may lie beyond the last step (as in the paper's runs) or before it.
    """
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    steps = settings.schedule_steps or steps
    progress = min(1.0, (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps))
    shape = 1 - progress if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return settings.lr * (settings.final_lr_share + (1 - settings.final_lr_share) * shape)


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def adamw(parameters: Mapping[str, nn.Parameter], settings: OptimSettings) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019); norms and biases (one-dimensional) are not decayed."""
    matrices = [p for p in parameters.values() if p.ndim > 1]
    vectors = [p for p in parameters.values() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}]
    if vectors:
        groups.append({"params": vectors, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.epsilon)


def fit(job: Job, settings: TrainedStage, folder: Path, accelerator: Any, *, seed: int, progress: bool = False) -> None:
    """Train until `settings.steps` are done, from the newest checkpoint in `folder` if there is one.

    Args:
        job: what is trained, and on what.
        settings: of the stage.
        folder: of the stage.
        accelerator: of the run.
        seed: of the stage's steps.
        progress: show a bar.

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
    engine = StepEngine(accelerator, model, seed)
    body = cast(nn.Module, job.module.model)
    layers = CompiledTraining(body)
    if settings.compile:
        flat = reads_flat(body)
        layers.attach(body) if flat else accelerator.print(f"Layers are not compiled: {flat.reason}.")
    flops = training_flops(body, settings)
    monitor = Monitor(folder, settings.label, settings.steps, done, accelerator, progress, flops)
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
            # Not `prepared.zero_grad`, which leaves gradients where parts of a step are still to come.
            out = layers.run(partial(job.objective.step, model, batch, engine), optimizer.zero_grad)
            norm = float(accelerator.clip_grad_norm_(parameters.values(), settings.clip_norm))
            _check_finite(settings.label, step, out.loss, norm)
            prepared.step()
            prepared.zero_grad()
            monitor.step(tokens)
            look_around(accelerator.device.type)
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
        layers.detach(body)
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
