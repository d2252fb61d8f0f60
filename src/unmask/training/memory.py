"""How much memory a stage will take at its peak, from the config alone.

The stage's own module is run once, forward, on tensors that have shapes and no data; what autograd would keep for the
backward pass is counted. That holds for every architecture, with adapters and gradient checkpointing as they are.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unmask.backbone.dropout import attention_dropout, hidden_dropout
from unmask.backbone.families.switches import set_attention_mode
from unmask.backbone.forward import flat_states, token_states
from unmask.backbone.loading import empty_model, load_twin, shapes_only
from unmask.backbone.structure import body, decoder_layers
from unmask.backbone.truth.flat import reads_flat
from unmask.errors import ArtifactError
from unmask.objectives.mntp import LABELS_AT_ONCE
from unmask.training.base_settings import TrainedStage
from unmask.training.building import make_trainable
from unmask.training.rate import training_flops

_FOUR_BITS = 0.5 + 1 / 16  # a 4-bit weight and its share of the scales, doubly quantised


@dataclass(frozen=True, slots=True)
class Shape:
    """One step in numbers.

    Attributes:
        rows: texts or blocks in a forward pass.
        length: tokens of each.
        passes: forward passes of one process in a step.
    """

    rows: int
    length: int
    passes: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device that holds all weights.

    Attributes:
        parameters: how many there are, the head of MNTP not counted.
        trainable: how many of them are trained.
        weights: of the model and, in MNTP, its head.
        optimizer: both moments.
        gradients: of what is trained.
        activations: what the backward pass needs, at their largest.
        peak: the most at any moment of a step.
        flops: floating-point operations of a token.
    """

    parameters: int
    trainable: int
    weights: int
    optimizer: int
    gradients: int
    activations: int
    peak: int
    flops: float


def estimate_memory(
    name: str, dtype: torch.dtype, settings: TrainedStage, shape: Shape, *, bf16: bool, causal: bool, process: int = 0
) -> Memory:
    """The peak of a stage.

    Args:
        name: of the model.
        dtype: of its weights.
        settings: of the stage.
        shape: of a step.
        bf16: the arithmetic is in bfloat16.
        causal: the attention stays causal.
        process: bytes that the process takes besides, where that counts: in main memory.

    Raises:
        ArtifactError: the model has no readable config.
    """
    causal_lm = empty_model(name, head=True).to(dtype)
    head, model = causal_lm.get_output_embeddings(), body(causal_lm)
    if not causal:
        set_attention_mode(model, "bidirectional")
    make_trainable(model, settings, None)
    own = 0
    if settings.label_share and head is not None:
        head.requires_grad_(False)
        tied = any(p is q for p in head.parameters() for q in model.parameters())
        own = 0 if tied else _bytes(list(head.parameters()))
    trained = [p for p in model.parameters() if p.requires_grad]
    weights = _bytes(list(model.parameters()), four_bit=settings.tuning == "qlora") + own
    flat = _reads_flat(name, causal)
    with shapes_only(model):
        kept = _saved(model, settings, shape, bf16=bf16, flat=flat)
    logits = _logits(model, settings, shape, causal_lm)
    count = sum(p.numel() for p in trained)
    graphs = settings.graphs(shape.passes)
    activations = kept * graphs + logits
    fixed = process + weights + 8 * count
    busy = activations + 4 * count if shape.passes > graphs else max(activations, 4 * count)
    peak = fixed + max(busy, 8 * count)  # the update itself holds one more copy of what is trained
    parameters = sum(p.numel() for p in model.parameters())
    return Memory(parameters, count, weights, 8 * count, 4 * count, activations, peak, training_flops(model, settings))


def _reads_flat(name: str, causal: bool) -> bool:
    """Whether batches will lie in a row; asked of a twin, because the model has no weights here."""
    try:
        twin = load_twin(name)
    except (ArtifactError, ValueError, ImportError):  # sizes that do not shrink together
        return False
    if not causal:
        set_attention_mode(twin, "bidirectional")
    return bool(reads_flat(twin))


def _saved(model: nn.Module, settings: TrainedStage, shape: Shape, *, bf16: bool, flat: bool) -> int:
    """Bytes that the backward pass of one forward pass needs."""
    rows = torch.zeros((shape.rows, shape.length), dtype=torch.long)
    lengths = [shape.length] * shape.rows
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    seen: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage  # held, so that no other storage takes its number
        return tensor

    products = 0

    def count(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal products
        products += output.nbytes

    def run() -> int:
        seen.clear()
        with _dropout(model, settings), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            model.train()
            if flat:
                flat_states(model, rows.view(1, -1), lengths)
            else:
                token_states(model, rows, torch.ones_like(rows))
        return sum(storage.nbytes() for storage in seen.values())

    linear = [m for layer in decoder_layers(model) for m in layer.modules() if isinstance(m, nn.Linear)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hooks = [module.register_forward_hook(count) for module in linear]
        saved = run()
        for hook in hooks:
            hook.remove()
        if settings.gradient_checkpointing:  # while one layer is run again, all that it keeps is there
            saved += products if settings.gradient_checkpointing == "products" else 0
            model.gradient_checkpointing_disable()  # type: ignore[operator]
            saved += run() // len(decoder_layers(model))
    return saved


@contextmanager
def _dropout(model: nn.Module, settings: TrainedStage) -> Iterator[None]:
    with ExitStack() as stack:
        on_attention, on_states = settings.dropouts
        if on_attention:
            stack.enter_context(attention_dropout(model, on_attention))
        stack.enter_context(hidden_dropout(model, on_states))
        yield


def _logits(model: nn.Module, settings: TrainedStage, shape: Shape, causal_lm: Any) -> int:
    """Logits, their float32 copy and their gradient, for the labels that are looked at together."""
    if not settings.label_share:
        return 0
    labels = min(LABELS_AT_ONCE, int(shape.rows * shape.length * settings.label_share))
    return 12 * labels * int(causal_lm.get_output_embeddings().weight.shape[0])


def _bytes(parameters: list[nn.Parameter], *, four_bit: bool = False) -> int:
    total = 0.0
    for p in parameters:
        packed = four_bit and p.ndim == 2 and not p.requires_grad
        total += p.numel() * (_FOUR_BITS if packed else p.element_size())
    return round(total)
