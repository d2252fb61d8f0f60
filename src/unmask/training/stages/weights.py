"""Stages that train nothing: they compute weights from weights that are there."""

from typing import Any

import torch

from unmask.backbone.truth.opening import apply_attention
from unmask.errors import ArtifactError
from unmask.training import checkpoint
from unmask.training.base_settings import TrainedStage
from unmask.training.building import StageContext, plain, rebuild
from unmask.training.config import AverageSettings, MergeSettings


@torch.no_grad()
def merged(settings: MergeSettings, context: StageContext, _: Any) -> Any:
    """A share of the base model's weights in those so far (BidirLM, arXiv 2604.02045)."""
    origin = context.origin
    model = origin.load(head=False)
    apply_attention(model, origin.attention)
    base = dict(origin.load(head=False, name=origin.base).named_parameters())
    for name, parameter in model.named_parameters():
        if name not in base:
            raise ArtifactError(f"{origin.start} has {name!r}, which the base model {origin.base} has not.")
        parameter.copy_(torch.lerp(parameter.float(), base[name].float(), settings.base_share))
    return model


@torch.no_grad()
def averaged(settings: AverageSettings, context: StageContext, before: tuple[TrainedStage, StageContext] | None) -> Any:
    """The mean of the stage before at its last checkpoints, adapters folded in first."""
    origin = context.origin
    assert origin.before is not None
    assert before is not None
    trained, given = before
    paths = checkpoint.kept(origin.before / "checkpoints")[-settings.checkpoints :]
    if len(paths) < settings.checkpoints:
        raise ArtifactError(
            f"{origin.before} keeps {len(paths)} checkpoints; {settings.checkpoints} are to be averaged."
        )
    model: Any = None
    sums: dict[str, torch.Tensor] = {}
    for path in paths:
        model = plain(*rebuild(trained, given.origin, path))
        for name, parameter in model.named_parameters():
            sums[name] = sums.get(name, 0.0) + parameter.float()
    for name, parameter in model.named_parameters():
        parameter.copy_(sums[name] / len(paths))
    return model
