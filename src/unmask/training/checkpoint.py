"""Checkpoints that are whole or not there: written aside, renamed at the end; safetensors and JSON only.

Random state is not kept, because every step seeds its own (see loop.py): weights, optimizer and step number are all
that a resumed run needs to end where an uninterrupted one does. Sharded parameters are written whole, so a run may go
on with another number of processes.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from unmask.errors import ArtifactError, TrainingError
from unmask.files import new_folder, read_json, remove_folder, write_json
from unmask.training.shards import MOMENTS, Shards

_POOLING = "pooling."  # what a trained encoder calls its pooling


def save(folder: Path, step: int, parameters: Mapping[str, nn.Parameter], shards: Shards, keep: int | None) -> None:
    """Write `folder/step-N` for N finished steps and remove all but the newest `keep`.

    Every process must call this, for it takes all to put shards together; only one writes, the others say None.

    Raises:
        TrainingError: it cannot be written.
    """
    target = folder / f"step-{step:08d}"
    weights, moments = {}, {}
    for name, parameter in parameters.items():
        values = shards.read(parameter, keep is not None)
        weights[name] = values.pop("weight")
        moments.update({f"{moment}/{name}": value for moment, value in values.items()})
    if keep is None or target.exists():
        return
    try:
        with new_folder(target) as partial:
            save_file(weights, partial / "weights.safetensors")
            save_file(moments, partial / "optimizer.safetensors")
            write_json(partial / "state.json", {"step": step})
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{target} cannot be written ({error}); what was saved before is untouched. Make room, and start the same "
            "command again."
        ) from error
    for old in kept(folder)[:-keep]:
        remove_folder(old)


def restore(newest: Path, parameters: Mapping[str, nn.Parameter], shards: Shards) -> int:
    """Load a checkpoint. Returns how many steps are done.

    Raises:
        ArtifactError: the checkpoint belongs to other parameters, or is broken.
    """
    try:
        weights, moments = (load_file(newest / f"{name}.safetensors") for name in ("weights", "optimizer"))
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"{newest} cannot be read ({error}). Remove this folder: the stage goes on from the checkpoint before it, "
            "or from its start."
        ) from error
    step = step_of(newest)
    if set(weights) != set(parameters):
        raise ArtifactError(f"{newest} belongs to other parameters than this recipe trains; use a new run folder.")
    for name, parameter in parameters.items():
        kept_moments = {m: moments[f"{m}/{name}"] for m in MOMENTS if f"{m}/{name}" in moments}
        shards.write(parameter, {"weight": weights[name], **kept_moments}, step)
    return step


def load_weights(path: Path, model: nn.Module) -> None:
    """Put a checkpoint's weights into a body of the same shape.

    Raises:
        ArtifactError: the checkpoint has weights that the model has not, or of other shapes.
    """
    weights = {n: w for n, w in load_file(path / "weights.safetensors").items() if not n.startswith(_POOLING)}
    try:  # every trained module calls the body `model`
        strange = nn.ModuleDict({"model": model}).load_state_dict(weights, strict=False).unexpected_keys
    except RuntimeError as error:
        raise ArtifactError(f"{path} does not fit this model: {str(error).splitlines()[-1].strip()}") from error
    if strange:
        raise ArtifactError(f"{path} does not fit this model, which has no {min(strange)!r}.")


def pooling_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a learned pooling at a checkpoint; empty where the pooling has none."""
    weights = load_file(path / "weights.safetensors")
    return {name.removeprefix(_POOLING): value for name, value in weights.items() if name.startswith(_POOLING)}


def step_of(path: Path) -> int:
    """How many steps were done at a checkpoint."""
    return int(read_json(path / "state.json")["step"])


def kept(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step-*") if p.is_dir() and not p.name.endswith(".partial"))
