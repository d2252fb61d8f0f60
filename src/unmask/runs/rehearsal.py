"""The peak memory of a run's stages, measured: the run itself, a few steps a stage, in a process of its own.

What the C library and oneDNN keep beside the tensors cannot be worked out. On a CPU it is much, so there it is tried.
"""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from unmask.errors import UnmaskError
from unmask.files import read_json, write_json
from unmask.runs.main_memory import main_memory
from unmask.runs.plan import GIB, Plan, duration
from unmask.runs.recipe import load_recipe
from unmask.runs.run import train
from unmask.runs.rungs import split_places
from unmask.runs.schema import Recipe
from unmask.training.base_settings import TrainedStage
from unmask.training.monitor import read_metrics
from unmask.training.rehearsal import STEPS

logger = logging.getLogger(__name__)

_MARGIN = 2  # times the estimate must be free; peaks of 1.7 times the estimate have been seen
_LONGEST = 180.0  # seconds that the steps may take by their estimate
_PATIENCE = 600.0  # seconds after which it is given up, whatever the estimate was
_BEFORE = 15.0  # seconds of imports, reading and saving
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}  # a plan is no reason to fetch weights and data


def measured(plan: Plan, recipe: Recipe) -> Plan:
    """The plan with the measured peak of every stage, or with the reason why there is none.

    It is measured on a CPU, where twice the estimate is free and the steps take no more than some minutes.

    Args:
        plan: of the recipe.
        recipe: that is planned.
    """
    stages = [stage.rehearsal() for stage in recipe.stages if isinstance(stage, TrainedStage)]
    if not stages:
        return plan
    pairs = zip(plan.stages, stages, strict=True)
    seconds = _BEFORE + STEPS * sum(planned.seconds / stage.steps for planned, stage in pairs)
    if reason := _too_much(plan, seconds):
        return replace(plan, unmeasured=reason)
    logger.info("Measuring the memory of %d steps a stage: about %s.", STEPS, duration(seconds))
    short = recipe.model_copy(update={"stages": stages, "evaluation": type(recipe.evaluation)()})
    with TemporaryDirectory(prefix="unmask-") as scratch:
        folder = Path(scratch) / "run"
        if failed := _run_apart(short, folder):
            return replace(plan, unmeasured=f"the run of a few steps failed ({failed})")
        logs = [Path(place.encoder).parent / "metrics.jsonl" for place in split_places(short, folder)[1]]
        peaks = [round(1e9 * read_metrics(path)[-1]["peak_gb"]) for path in logs]
    found = [replace(planned, measured=peak) for planned, peak in zip(plan.stages, peaks, strict=True)]
    return replace(plan, stages=found)


def _too_much(plan: Plan, seconds: float) -> str | None:
    """Why measuring would not be cheap, or could do harm."""
    if plan.device != "cpu":
        return f"{plan.device} is no CPU"
    if "WORLD_SIZE" in os.environ:
        return "a launcher started this process"
    most, free = max(stage.memory.peak for stage in plan.stages), main_memory().free
    if _MARGIN * most > free:
        return f"only {free / GIB:.1f} GiB are free, and a CPU may take twice the estimate"
    return f"a few steps would take {duration(seconds)}" if seconds > _LONGEST else None


def _run_apart(recipe: Recipe, folder: Path) -> str | None:
    """Rehearse a recipe in another process, so that the peaks are its own; what went wrong, in a line.

    Args:
        recipe: as it is rehearsed.
        folder: of the run.
    """
    written = folder.with_name("recipe.json")
    write_json(written, recipe.model_dump(mode="json"))
    command = [sys.executable, "-m", "unmask.runs.rehearsal", str(written), str(folder)]
    try:
        done = subprocess.run(
            command, env=os.environ | _OFFLINE, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {duration(_PATIENCE)}"
    if done.returncode < 0:
        return f"killed by signal {-done.returncode}"
    return (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else None


if __name__ == "__main__":
    try:
        train(load_recipe(read_json(Path(sys.argv[1]))), sys.argv[2], rehearsal=True)
    except UnmaskError as error:
        sys.exit(" ".join(str(error).split()))
