"""Weights and optimizer moments of single parameters, whole, however a run shares them out.

Reading takes all processes, for it takes all to put shards together.
"""

from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

MOMENTS = ("exp_avg", "exp_avg_sq")


class TorchShards:
    """Parameters that are whole in each process, or DTensors (FSDP2).

    Args:
        optimizer: torch's own.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def read(self, parameter: nn.Parameter, wanted: bool) -> dict[str, torch.Tensor]:
        """`weight` and, after a first step, the moments; in main memory where they were sharded.

        Args:
            parameter: one that is trained.
            wanted: this process will use them; the others may get something empty.
        """
        state = self._optimizer.state.get(parameter, {})
        values = {"weight": parameter.detach(), **{name: state[name] for name in MOMENTS if name in state}}
        return {name: _whole(value, wanted) for name, value in values.items()}

    @torch.no_grad()
    def write(self, parameter: nn.Parameter, values: dict[str, torch.Tensor], step: int) -> None:
        """Put back what `read` gave, after `step` finished steps; each cut into shards as the parameter is."""
        own = {name: _like(value, parameter) for name, value in values.items()}
        parameter.copy_(own.pop("weight"))
        if own:
            self._optimizer.state[parameter] = {"step": torch.tensor(float(step)), **own}


class ZeroShards:
    """Parameters whose float32 weights and moments lie in DeepSpeed's flat partitions (ZeRO 2).

    Args:
        optimizer: DeepSpeed's, around torch's AdamW.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def read(self, parameter: nn.Parameter, wanted: bool) -> dict[str, torch.Tensor]:
        """Weight and moments in float32, put together over all processes."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        self._link()
        values = {name: safe_get_full_optimizer_state(parameter, name) for name in MOMENTS}
        return {"weight": safe_get_full_fp32_param(parameter), **values}

    @torch.no_grad()
    def write(self, parameter: nn.Parameter, values: dict[str, torch.Tensor], step: int) -> None:
        """This process's partition of each."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        self._link()
        own = {name: value.to(parameter.device) for name, value in values.items()}
        parameter.copy_(own["weight"])
        safe_set_full_fp32_param(parameter, own.pop("weight"))
        for name, value in own.items():
            safe_set_full_optimizer_state(parameter, value, name)
        for partition in self._optimizer.single_partition_of_fp32_groups:
            self._optimizer.optimizer.state[partition]["step"].fill_(step)

    def _link(self) -> None:
        """Let every parameter know its piece of the moments.

        DeepSpeed does so after the first step of its first group only, when the other groups have no moments yet,
        and not at all before a step, when a stopped run wants its moments back.
        """
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        zero = self._optimizer
        for partition, parameters in zip(zero.single_partition_of_fp32_groups, zero.bit16_groups, strict=True):
            state = zero.optimizer.state[partition]
            if not state:
                state["step"] = torch.zeros(())
                state.update({name: torch.zeros_like(partition) for name in MOMENTS})
            lazy_init_hp_params_optimizer_state(parameters, partition, zero.optimizer.state)


Shards = TorchShards | ZeroShards


def _whole(value: torch.Tensor, wanted: bool) -> torch.Tensor:
    """A tensor put together from its shards, by all processes; in main memory where it was sharded."""
    if not isinstance(value, DTensor):
        return value.contiguous()
    full = value.full_tensor()
    return full.cpu().contiguous() if wanted else full.new_empty(0)


def _like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor on a parameter's device, cut into shards as the parameter is."""
    if not isinstance(parameter, DTensor):
        return value.to(parameter.device)
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
