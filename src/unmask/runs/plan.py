"""What a run will do, before it does it: stages, trainable parameters, tokens, memory, time."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from unmask.backbone.devices import default_device, precision_here, saved_dtype
from unmask.backbone.locate import find_adapters
from unmask.errors import ArtifactError
from unmask.runs.check import check_reading
from unmask.runs.inputs import teachers
from unmask.runs.main_memory import main_memory
from unmask.runs.schema import Recipe
from unmask.runs.sources import open_data
from unmask.training.base_settings import TrainedStage
from unmask.training.building import Data
from unmask.training.memory import Memory, Shape, estimate_memory
from unmask.training.rate import matrix_rate, peak_bytes

_SAMPLED_TEXTS = 1000
_USUAL_SHARE = 0.4  # of the measured rate of matrix products that training reaches
GIB = 2**30


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One trained stage in numbers.

    Attributes:
        name: of the stage.
        steps: of the stage.
        tokens: of the whole stage.
        memory: of one device, worked out.
        seconds: on this machine, worked out.
        measured: bytes that a few of its steps took at their peak; None where that was not tried.
    """

    name: str
    steps: int
    tokens: int
    memory: Memory
    seconds: float
    measured: int | None = None

    @property
    def peak(self) -> int:
        """Bytes, measured if they were."""
        return self.memory.peak if self.measured is None else self.measured


@dataclass(frozen=True, slots=True)
class Plan:
    """A resolved recipe and its stages in numbers.

    Attributes:
        recipe: as resolved.
        stages: those that train.
        device: what was looked at.
        available: its memory in bytes.
        unmeasured: why no stage's memory was measured.
    """

    recipe: dict[str, Any]
    stages: list[StagePlan]
    device: str
    available: int
    unmeasured: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For `--json`; it fits if every stage's peak is below the device's memory."""
        return {**asdict(self), "fits": all(stage.peak < self.available for stage in self.stages)}

    def text(self) -> str:
        """As a table under the resolved recipe."""
        import yaml

        lines = [yaml.safe_dump(self.recipe, sort_keys=False).rstrip(), ""]
        heads = ("steps", "tokens", "trainable parameters", "estimated", "measured", "time")
        lines.append("stage        " + " ".join(f"{h:>{w}}" for h, w in zip(heads, (7, 14, 30, 9, 9, 9), strict=True)))
        for stage in self.stages:
            share = f"{stage.memory.trainable:,} of {stage.memory.parameters:,}"
            peaks = " ".join(f"{_size(peak):>9}" for peak in (stage.memory.peak, stage.measured))
            numbers = f"{stage.steps:>7,} {stage.tokens:>14,} {share:>30} {peaks} {duration(stage.seconds):>9}"
            lines.append(f"{stage.name:<12} {numbers}")
        lines.append(f"(peak memory of one process, {self.device}, estimated and measured; the time is an estimate)")
        if self.unmeasured:
            lines.append(f"Memory was not measured: {self.unmeasured}.")
        for stage in self.stages:
            lines += _advice(stage, self.available)
        return "\n".join(lines)


def _size(count: int | None) -> str:
    return "-" if count is None else f"{count / GIB:.2f} G"


def _advice(stage: StagePlan, available: int) -> list[str]:
    how = "estimated" if stage.measured is None else "measured"
    if stage.peak < available:
        return [f"{stage.name} fits: {stage.peak / GIB:.1f} GiB {how}, of {available / GIB:.1f}"]
    over = stage.peak - available
    cure = (
        "lower micro_batch_tokens, or set gradient_checkpointing (contrastive stages also grad_cache)"
        if stage.memory.activations > over
        else "tune an adapter (tuning: lora or qlora), or share the weights out (FSDP2)"
    )
    return [f"{stage.name} DOES NOT FIT: {stage.peak / GIB:.1f} GiB {how}, of {available / GIB:.1f}; {cure}"]


def make_plan(recipe: Recipe) -> Plan:
    """Work out the plan from the configs and a sample of the data; no weights are loaded.

    Raises:
        ArtifactError: the model's config or tokenizer cannot be read, or a teacher is not there.
        RecipeError: texts longer than the model can read.
    """
    tokenizer, _ = check_reading(recipe)
    for _, teacher in teachers(recipe):
        find_adapters(teacher, ())
    device = default_device()
    bf16 = precision_here(recipe.precision) == "bf16"
    rate = matrix_rate(torch.bfloat16 if bf16 else torch.float32, 0.2, device)
    dtype = saved_dtype(recipe.model.name, recipe.model.dtype)
    data = open_data(recipe, _SAMPLED_TEXTS)
    stages = []
    process = peak_bytes(device) if device.type == "cpu" else 0  # libraries and the sample of the data
    for stage in (one for one in recipe.stages if isinstance(one, TrainedStage)):
        tokens, shape = _shape(stage, data, tokenizer)
        causal = recipe.model.attention == "causal"
        try:
            memory = estimate_memory(recipe.model.name, dtype, stage, shape, bf16=bf16, causal=causal, process=process)
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            raise ArtifactError(f"{recipe.model.name}: its memory cannot be estimated ({error}).") from error
        seconds = tokens * stage.steps * memory.flops / (rate * _USUAL_SHARE)
        stages.append(StagePlan(stage.label, stage.steps, tokens * stage.steps, memory, seconds))
    return Plan(recipe.model_dump(mode="json"), stages, str(device), device_memory(device))


def _shape(stage: TrainedStage, data: Data, tokenizer: Any) -> tuple[int, Shape]:
    """Tokens of a step, and its forward passes in one of the processes that a launcher started."""

    def lengths(texts: Sequence[str]) -> list[int]:  # of the texts with their prompts
        return [len(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]]

    exact, length = stage.step_tokens(data, lengths)
    tokens = round(exact)
    rows = max(1, min(stage.micro_batch_tokens, tokens) // length)
    passes = -(-tokens // (rows * length))
    return tokens, Shape(rows, length, -(-passes // int(os.environ.get("WORLD_SIZE", "1"))))


def device_memory(device: torch.device) -> int:
    """Bytes that a device has in all; of main memory what a container leaves to this process."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return main_memory().total


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
