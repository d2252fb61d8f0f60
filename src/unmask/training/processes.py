"""One process or many: the accelerate object of a run, whatever started it (python, accelerate launch, torchrun)."""

import importlib.util
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from unmask.backbone.devices import default_device
from unmask.backbone.structure import decoder_layers
from unmask.errors import MissingExtraError, RecipeError
from unmask.training.shards import Shards, TorchShards, ZeroShards

_PATIENCE = timedelta(hours=6)  # for the process that merges and saves, and for slow file systems


def check_launcher() -> None:
    """Refuse what a launcher may ask for and this package does not do.

    Raises:
        RecipeError: another kind of DeepSpeed than ZeRO 2, FSDP of version 1, or its own checkpointing of activations.
        MissingExtraError: DeepSpeed is not installed.
    """
    if _asked_for("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION", "2") != "2":
        raise RecipeError("FSDP of version 1 is not supported; set fsdp_version: 2 (accelerate/fsdp2 does).")
    if _asked_for("ACCELERATE_USE_FSDP") and _asked_for("FSDP_ACTIVATION_CHECKPOINTING"):
        raise RecipeError(
            "fsdp_activation_checkpointing would run layers again with other dropout; set it to false, and "
            "gradient_checkpointing: true in the stage."
        )
    if not _asked_for("ACCELERATE_USE_DEEPSPEED"):
        return
    if importlib.util.find_spec("deepspeed") is None:
        raise MissingExtraError("DeepSpeed was asked for and is not installed: pip install deepspeed.")
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage != "2" or os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none") != "none":
        raise RecipeError(
            f"DeepSpeed is supported as ZeRO 2 with accelerate's own keys (accelerate/deepspeed.yaml); asked for was "
            f"stage {stage} or a file of DeepSpeed's own settings. To share out weights too, use accelerate/fsdp2."
        )
    places = [os.environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{what}_DEVICE", "none") for what in ("OPTIMIZER", "PARAM")]
    if set(places) != {"none"}:
        raise RecipeError("DeepSpeed's offloading is not supported: a run could not be resumed. Set it to none.")


def _asked_for(variable: str) -> bool:
    """What a launcher says to its processes."""
    return os.environ.get(variable, "").lower() == "true"


def make_accelerator(precision: str, folder: Path) -> Any:
    """The accelerate object of a run; how weights are shared out is said by `accelerate launch` or its config.

    Args:
        precision: bf16 or fp32, of the arithmetic.
        folder: the run.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState
    from accelerate.utils import GradientAccumulationPlugin, ProjectConfiguration

    # accelerate keeps the precision of a process's first run for good; a run of its own starts from its own.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=default_device().type == "cpu",  # or several processes would not find each other there
        mixed_precision="bf16" if precision == "bf16" else "no",
        log_with="tensorboard",
        # Said outright, because a number left in the environment would divide every gradient.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder)),
        # Buffers are constants here; sending them round between two passes would break the first one's graph.
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=_PATIENCE),
        ],
    )
    if _asked_for("ACCELERATE_USE_FSDP"):
        _set_up_fsdp(accelerator, precision)
    if _asked_for("ACCELERATE_USE_DEEPSPEED"):
        _set_up_deepspeed(accelerator, precision)
    return accelerator


def _set_up_fsdp(accelerator: Any, precision: str) -> None:
    """FSDP2 as training here needs it."""
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import MixedPrecisionPolicy

    state = accelerator.state
    if _on_cpus(accelerator):
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
        _call_it(accelerator, DistributedType.FSDP)
    # Every process reads the weights itself: a head that shares them with the body would be left without.
    state.fsdp_plugin.cpu_ram_efficient_loading = False
    if precision == "bf16":  # gradients are summed in float32, and vectors leave in the precision they are pooled in
        state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)


def _set_up_deepspeed(accelerator: Any, precision: str) -> None:
    """DeepSpeed as training here needs it: its own step follows the last part of each of ours."""
    from accelerate.utils import DeepSpeedPlugin, DistributedType

    state = accelerator.state
    if _on_cpus(accelerator):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        plugin = DeepSpeedPlugin()
        plugin.set_mixed_precision("bf16" if precision == "bf16" else "no")
        plugin.select(_from_accelerator_state=True)
        state.deepspeed_plugins = plugin
        _call_it(accelerator, DistributedType.DEEPSPEED)
    # Batches are cut here, so these say nothing; DeepSpeed wants them in agreement.
    counts = {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
    state.deepspeed_plugin.deepspeed_config.update(counts, train_batch_size=accelerator.num_processes)


def _on_cpus(accelerator: Any) -> bool:
    """Several processes without accelerators: accelerate shares out nothing there, though gloo can."""
    return bool(accelerator.device.type == "cpu" and accelerator.num_processes > 1)


def _call_it(accelerator: Any, kind: Any) -> None:
    """Name the way of sharing out; accelerate keeps the name in two places and copies one over the other."""
    from accelerate.state import PartialState

    accelerator.state.distributed_type = kind
    PartialState._shared_state["distributed_type"] = kind


def prepare(
    accelerator: Any, module: Any, optimizer: torch.optim.Optimizer, clip_norm: float
) -> tuple[Any, Any, Shards]:
    """Share out a module and its optimizer as the launcher asked.

    Args:
        accelerator: of the run.
        module: what is trained; its body is called `model`.
        optimizer: of its parameters.
        clip_norm: of the gradients; DeepSpeed clips in its own step.

    Returns:
        Module and optimizer to train with, and where their weights and moments are.
    """
    from accelerate.utils import DistributedType
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    kind = accelerator.distributed_type
    if kind == DistributedType.FSDP:  # each layer is a shard group of its own
        plugin = accelerator.state.fsdp_plugin
        plugin.auto_wrap_policy = transformer_auto_wrap_policy
        plugin.transformer_cls_names_to_wrap = sorted({type(layer).__name__ for layer in decoder_layers(module.model)})
    if kind == DistributedType.DEEPSPEED:
        accelerator.state.deepspeed_plugin.deepspeed_config["gradient_clipping"] = clip_norm
    model, prepared = accelerator.prepare(module, optimizer)
    zero = kind == DistributedType.DEEPSPEED
    return model, prepared, ZeroShards(prepared.optimizer) if zero else TorchShards(optimizer)


def agreed(accelerator: Any, value: Any) -> Any:
    """The main process's value in every process, so that a slow file system cannot make them part ways."""
    from accelerate.utils import broadcast_object_list

    if accelerator.num_processes == 1:
        return value
    values = [value]
    broadcast_object_list(values)
    return values[0]
