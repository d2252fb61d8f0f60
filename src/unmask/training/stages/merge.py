"""Weights between the base model's and those so far (BidirLM, arXiv 2604.02045); nothing is trained."""

from typing import Any

import torch

from unmask.backbone.truth.opening import apply_attention
from unmask.errors import ArtifactError
from unmask.training.building import StageContext
from unmask.training.config import MergeSettings


@torch.no_grad()
def merged(settings: MergeSettings, context: StageContext, _: Any) -> Any:
    """A share of the base model's weights in those so far."""
    origin = context.origin
    model = origin.load(head=False)
    apply_attention(model, origin.attention)
    base = dict(origin.load(head=False, name=origin.base).named_parameters())
    for name, parameter in model.named_parameters():
        if name not in base:
            raise ArtifactError(f"{origin.start} has {name!r}, which the base model {origin.base} has not.")
        parameter.copy_(torch.lerp(parameter.float(), base[name].float(), settings.base_share))
    return model
