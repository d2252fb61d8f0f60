"""One process or many: the accelerate object of a run, whatever started it (python, accelerate launch, torchrun)."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from unmask.backbone.loading import default_device
from unmask.backbone.structure import decoder_layers
from unmask.errors import RecipeError

_PATIENCE = timedelta(hours=6)  # for the process that merges and saves, and for slow file systems


def check_launcher() -> None:
    """Refuse what a launcher may ask for and this package does not do.

    Raises:
        RecipeError: DeepSpeed.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        raise RecipeError(
            "DeepSpeed is not supported: a stopped run could not go on. FSDP2 shards weights, gradients and optimizer "
            "alike; `unmask recipes copy accelerate/fsdp2 .` writes its settings."
        )


def make_accelerator(precision: str, folder: Path) -> Any:
    """The accelerate object of a run; how weights are shared out is said by `accelerate launch` or its config.

    Args:
        precision: bf16 or fp32, of the arithmetic.
        folder: the run.

    Raises:
        RecipeError: FSDP1 was asked for.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState
    from accelerate.utils import ProjectConfiguration

    # accelerate keeps the precision of a process's first run for good; a run of its own starts from its own.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=default_device().type == "cpu",  # or several processes would not find each other there
        mixed_precision="bf16" if precision == "bf16" else "no",
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder)),
        # Buffers are constants here; sending them round between two passes would break the first one's graph.
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=_PATIENCE),
        ],
    )
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        _set_up_shards(accelerator, precision)
    return accelerator


def _set_up_shards(accelerator: Any, precision: str) -> None:
    """FSDP2 as training here needs it.

    Raises:
        RecipeError: FSDP1 was asked for.
    """
    import torch
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import MixedPrecisionPolicy

    state = accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU:  # accelerate shards on accelerators only; gloo can too
        state.distributed_type = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
    if state.fsdp_plugin.fsdp_version != 2:
        raise RecipeError("FSDP of version 1 is not supported; set fsdp_version: 2 (accelerate/fsdp2 does).")
    # Every process reads the weights itself: a head that shares them with the body would be left without.
    state.fsdp_plugin.cpu_ram_efficient_loading = False
    if precision == "bf16":  # gradients are summed in float32, and vectors leave in the precision they are pooled in
        state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)


def shard_by_layer(accelerator: Any, module: Any) -> None:
    """Tell FSDP2 that each layer of a model is a shard group of its own; other ways to share do not ask.

    Args:
        accelerator: of the run.
        module: what is trained; its body is called `model`.
    """
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        plugin.auto_wrap_policy = transformer_auto_wrap_policy
        plugin.transformer_cls_names_to_wrap = sorted({type(layer).__name__ for layer in decoder_layers(module.model)})


def agreed(accelerator: Any, value: Any) -> Any:
    """The main process's value in every process, so that a slow file system cannot make them part ways."""
    from accelerate.utils import broadcast_object_list

    if accelerator.num_processes == 1:
        return value
    values = [value]
    broadcast_object_list(values)
    return values[0]
