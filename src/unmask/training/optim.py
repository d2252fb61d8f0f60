"""The optimizer and the learning rate as a pure function of the step."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from unmask.training.base_settings import OptimSettings


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
