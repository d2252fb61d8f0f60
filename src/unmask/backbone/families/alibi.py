"""ALiBi (Press et al. 2022, arXiv 2108.12409) for attention that sees both sides.

transformers adds `slope x position of the key` to the scores. Under a causal mask that is the distance to the query but
for a constant; without one it makes every token look at the end of the text, whatever its own place is.
"""

import inspect
from typing import Any

import torch
from torch import nn

_BIAS = "alibi"
_SYMMETRIC = "_unmask_symmetric_alibi"


class LinearBias:
    """The bias of attention modules whose `forward` is given it: minus the distance, to either side."""

    def find(self, model: nn.Module) -> bool:
        """True if some module takes it."""
        return any(map(_takes_bias, model.modules()))

    def set(self, model: nn.Module) -> None:
        """Count distances in both directions."""
        for module in filter(_takes_bias, model.modules()):
            if not hasattr(module, _SYMMETRIC):
                module.register_forward_pre_hook(_make_symmetric, with_kwargs=True)
            setattr(module, _SYMMETRIC, True)

    def restore(self, model: nn.Module) -> None:
        """As transformers has it."""
        for module in model.modules():
            if hasattr(module, _SYMMETRIC):
                setattr(module, _SYMMETRIC, False)


def _takes_bias(module: nn.Module) -> bool:
    """Whether a module is the innermost that is given the bias."""
    inner = [one for one in module.modules() if _BIAS in inspect.signature(one.forward).parameters]
    return inner == [module]


def _make_symmetric(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    bias = kwargs.get(_BIAS)
    if bias is not None and getattr(module, _SYMMETRIC):  # [texts x heads, 1, keys], slope x position
        # Positions are counted, because sixteen bits do not hold their products with the slope exactly.
        ahead = bias > 0
        positions = ahead.cumsum(-1).float()
        slope = bias.float().masked_fill(~ahead, torch.inf).amin(-1, keepdim=True)
        slope = slope.masked_fill(slope.isinf(), 0.0)
        kwargs[_BIAS] = (-slope * (positions.transpose(1, 2) - positions).abs()).to(bias.dtype)
    return args, kwargs
