"""A stage rehearsed: the few of its steps that take the most memory, by the loop that trains it."""

import time
from dataclasses import replace

from unmask.training.base_settings import TrainedStage
from unmask.training.loop import Job

STEPS = 2  # in the second the moments of the optimizer are there
_LOOKED_AT = 100  # steps of a stage among which those with the most tokens are found
_SECONDS = 10.0  # for looking; a teacher reads every step that is looked at


def heaviest(job: Job, settings: TrainedStage) -> tuple[Job, TrainedStage]:
    """The job and the settings of a stage, cut to its few steps with the most tokens."""
    found: list[tuple[int, int]] = []
    until = time.perf_counter() + _SECONDS
    for step in range(min(settings.steps, _LOOKED_AT)):
        found.append((job.batch(step)[1], step))
        if len(found) >= STEPS and time.perf_counter() > until:
            break
    steps = [step for _, step in sorted(found, reverse=True)[:STEPS]]
    return replace(job, batch=lambda number: job.batch(steps[number])), settings.model_copy(
        update={"steps": len(steps)}
    )
