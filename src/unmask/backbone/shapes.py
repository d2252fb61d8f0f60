"""Models without their weights: their shapes alone, or a small random one with all their layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unmask.backbone.families.switches import lift_windows
from unmask.backbone.fast.operators import fake_tensors
from unmask.backbone.forward import token_states
from unmask.backbone.loading import UNREADABLE
from unmask.backbone.locate import resolve_model
from unmask.backbone.structure import LIFTED_KEY, RECURRENT_KEY, first_line, text_part
from unmask.backbone.truth.recurrent import install_reading
from unmask.backbone.truth.twins import tiny_config, tiny_model
from unmask.errors import ArtifactError


@contextmanager
def shapes_only(model: nn.Module) -> Iterator[None]:
    """Run an empty model on tensors that have shapes and no data, for as long as the block lasts; it costs nothing.

    Unlike those of the meta device, such tensors are treated as the CPU's: kernels and precision are chosen as there.

    Args:
        model: what `empty_model` made, in place.
    """
    with fake_tensors():
        known: dict[int, torch.Tensor] = {}
        for module in model.modules():
            for own in (module._parameters, module._buffers):
                for name, tensor in own.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in known:  # tied weights stay one
                        empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                        is_weight = isinstance(tensor, nn.Parameter)
                        known[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_weight else empty
                    own[name] = known[id(tensor)]  # type: ignore[assignment]
        yield


def load_twin(name: str) -> Any:
    """A small random model without head, with all its layers, from a model's config alone.

    Windows are lifted and mixers read as the config says. A folder needs no more than its config.json.

    Raises:
        ArtifactError: there is no readable config, or its sizes do not shrink together.
    """
    import transformers

    source = name if (Path(name) / "config.json").is_file() else resolve_model(name)
    try:
        config = text_part(transformers.AutoConfig.from_pretrained(source, trust_remote_code=False))
        twin = tiny_model(tiny_config(config, layers=config.num_hidden_layers), head=False)
        token_states(twin, torch.arange(20, 28)[None])
    except UNREADABLE as error:
        raise ArtifactError(f"{name}: no small model can be made from its config ({first_line(error)})") from error
    if getattr(config, LIFTED_KEY, None) is not None:
        lift_windows(twin)
    reading = getattr(config, RECURRENT_KEY, None)
    if reading:
        install_reading(twin, reading["mixers"], reading["mode"])
    return twin
