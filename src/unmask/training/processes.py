"""One process or many: the accelerate object of a run, whatever started it (python, accelerate launch, torchrun)."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from unmask.backbone.loading import default_device
from unmask.errors import RecipeError

_PATIENCE = timedelta(hours=6)  # for the process that merges and saves, and for slow file systems


def make_accelerator(precision: str, folder: Path) -> Any:
    """The accelerate object of a run; how weights are shared out is said by `accelerate launch` or its config.

    Args:
        precision: bf16 or fp32, of the arithmetic.
        folder: the run.

    Raises:
        RecipeError: DeepSpeed was asked for.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, ProjectConfiguration

    # accelerate keeps the precision of a process's first run for good; a run of its own starts from its own.
    AcceleratorState._reset_state()
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        raise RecipeError(
            "DeepSpeed is not supported: checkpoints could not be gone on with. FSDP2 shards weights, gradients and "
            "optimizer alike; `unmask recipes copy accelerate/fsdp2 .` writes its settings."
        )
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
        state = accelerator.state
        if state.distributed_type == DistributedType.MULTI_CPU:  # accelerate shards on accelerators only; gloo can too
            state.distributed_type = DistributedType.FSDP
            state.fsdp_plugin = FullyShardedDataParallelPlugin()
        # Every process reads the weights itself: a head that shares them with the body would be left without.
        state.fsdp_plugin.cpu_ram_efficient_loading = False
    return accelerator
