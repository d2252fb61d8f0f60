"""What training changed in a body, as LoRA: the difference of each weight matrix to the base, cut to a rank.

The best approximation of a matrix by one of lower rank is its truncated singular value decomposition (Eckart and
Young 1936). What counts is not the matrix but what a layer gives, so it is taken of the difference times a root of the
second moments of the layer's inputs (truncation-aware whitening of SVD-LLM, arXiv 2403.07378). A difference that has
that rank or a lower one already, as after LoRA, is exact to rounding either way.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unmask.errors import ArtifactError

Matrices = tuple[torch.Tensor, torch.Tensor]
Moments = Mapping[str, torch.Tensor]
# Of the mean second moment, added to all of them: directions that few texts show count a little, too.
_UNSEEN = 1e-2


@dataclass(frozen=True, slots=True)
class LowRank:
    """An adapter on a base, and how much of the difference it holds.

    Attributes:
        wrapper: the base in peft's wrapper.
        kept: share of the squared norm of all matrices' differences, as the inputs weigh them, 0 to 1.
        matrices: how many weights differ.
    """

    wrapper: Any
    kept: float
    matrices: int


@contextmanager
def input_moments(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Second moments [in, in], float64, of what every linear layer is given inside, by its name."""
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def look(name: str, given: torch.Tensor) -> None:
        rows = given.detach().flatten(0, -2).float()
        sums[name] = sums.get(name, 0) + (rows.T @ rows).double()
        counts[name] = counts.get(name, 0) + len(rows)

    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: look(name, given[0]))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()
        for name, count in counts.items():
            sums[name] = sums[name] / count  # not in place: they were made in inference mode


def as_low_rank(
    base: nn.Module, trained: nn.Module, rank: int, alike: float = 0.0, moments: Moments | None = None
) -> LowRank:
    """Put on a base, in place, what makes it a trained model.

    Args:
        base: the body that training began with.
        trained: of the same architecture and dtype.
        rank: of each difference.
        alike: a difference whose norm is below this share of the weight's is rounding, and left away.
        moments: of `input_moments`; a layer that is not among them is weighed evenly.

    Returns:
        The base with its adapter. Vectors of other shape than a matrix (norms, biases) are kept whole.

    Raises:
        ArtifactError: other names or shapes; nothing differs; a parameter that peft has no place for.
    """
    import peft

    changed = _differences(base, trained, alike)
    matrices = {name: module for name, module in changed.items() if isinstance(module, nn.Linear | nn.Embedding)}
    whole = [name for name in changed if name not in matrices]
    if not matrices:
        raise ArtifactError("No weight matrix differs from the base model's, so there is no adapter to make of it.")
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, lora_dropout=0.0, bias="none", target_modules=list(matrices), inference_mode=True
    )
    config.modules_to_save = whole or None
    factors = {name: _factors(base, trained, name, rank, (moments or {}).get(name)) for name in matrices}
    wrapper = peft.get_peft_model(base, config)
    for name, ((down, up), _, _) in factors.items():
        _fill(wrapper.get_base_model().get_submodule(name), down, up)
    for name in whole:
        kept = wrapper.get_base_model().get_submodule(name).modules_to_save["default"]
        kept.load_state_dict(trained.get_submodule(name).state_dict())
    lost, total = sum(one[1] for one in factors.values()), sum(one[2] for one in factors.values())
    return LowRank(wrapper, 1 - lost / total, len(matrices))


def _differences(base: nn.Module, trained: nn.Module, alike: float) -> dict[str, nn.Module]:
    """The modules of the base whose own parameters differ in the trained model."""
    theirs = dict(trained.named_parameters())
    if _shapes(base) != _shapes(trained):
        raise ArtifactError("The encoder's weights have other names or shapes than the base model's; name its base.")
    found: dict[str, nn.Module] = {}
    for path, own in base.named_parameters():
        if (theirs[path] - own).norm() <= alike * own.norm():
            continue
        module, _, name = path.rpartition(".")
        parent = base.get_submodule(module)
        if isinstance(parent, nn.Linear | nn.Embedding) and name != "weight":
            raise ArtifactError(f"Training changed {path}, which LoRA has no place for; keep the encoder folder whole.")
        found[module] = parent
    return found


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Name -> shape of a model's parameters."""
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def _factors(
    base: nn.Module, trained: nn.Module, name: str, rank: int, moments: torch.Tensor | None
) -> tuple[Matrices, float, float]:
    """Down (rank, in) and up (out, rank) of one weight's difference; the squared norm lost, and the whole one."""
    before, after = (model.get_parameter(f"{name}.weight").detach().double() for model in (base, trained))
    change = after - before
    root = None if moments is None else _root(moments)
    left, values, right = torch.linalg.svd(change if root is None else change @ root, full_matrices=False)
    right = right[:rank]
    if root is not None:
        right = torch.linalg.solve_triangular(root.T, right.T, upper=True).T  # right @ root.inverse()
    share = values[:rank].sqrt()
    factors = (share[:, None] * right).float(), (left[:, :rank] * share).float()
    squares = values.square()
    return factors, float(squares[rank:].sum()), float(squares.sum())


def _root(moments: torch.Tensor) -> torch.Tensor:
    """A lower triangle that times its transpose gives the moments, scaled to a mean of 1, with none at zero."""
    scaled = moments / moments.diagonal().mean()
    scaled.diagonal().add_(_UNSEEN)
    return torch.linalg.cholesky(scaled)


def _fill(layer: Any, down: torch.Tensor, up: torch.Tensor) -> None:
    """Write factors into peft's layer; those of embeddings (tokens, width) lie the other way round."""
    rank = len(down)
    with torch.no_grad():
        if "default" in layer.lora_embedding_A:
            layer.lora_embedding_A["default"].zero_()[:rank] = up.T
            layer.lora_embedding_B["default"].zero_()[:, :rank] = down.T
        else:
            layer.lora_A["default"].weight.zero_()[:rank] = down
            layer.lora_B["default"].weight.zero_()[:, :rank] = up


def in_dtype(wrapper: Any, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """The adapter's weights by peft's names, rounded to what the file should hold."""
    import peft

    for name, weight in peft.get_peft_model_state_dict(wrapper, save_embedding_layers=False).items():
        yield name, weight.detach().to(dtype).contiguous()
