"""LoRA (Hu et al. 2021, arXiv 2106.09685) through peft: attach, save, merge."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from unmask.errors import RecipeError


def add_lora(
    base: nn.Module, *, rank: int, alpha: float, dropout: float, targets: str | Sequence[str] = "all-linear"
) -> Any:
    """Attach fresh LoRA weights to a model body, in place, and freeze everything else.

    Args:
        base: the model without its head.
        rank: r of the low-rank update.
        alpha: the update is scaled by alpha / rank.
        dropout: on the input of the LoRA branch.
        targets: module names, or `all-linear`.

    Returns:
        The peft wrapper, which shares its modules with `base`.

    Raises:
        RecipeError: no module has one of the target names.
    """
    import peft  # 4 s to import; only training needs it

    wanted = targets if isinstance(targets, str) else list(targets)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=wanted, bias="none")
    try:
        return peft.get_peft_model(base, config)
    except ValueError as error:
        names = sorted({name.rpartition(".")[2] for name, m in base.named_modules() if isinstance(m, nn.Linear)})
        raise RecipeError(f"LoRA targets {wanted!r} fit no layer; linear layers here: {names}.") from error


def merge_lora(wrapped: Any) -> nn.Module:
    """Fold the LoRA weights into the base and give the plain model back.

    Raises:
        ValueError: merging gives weights that are not finite.
    """
    merged: nn.Module = wrapped.merge_and_unload(safe_merge=True)
    return merged


def save_lora(wrapped: Any, folder: Path) -> None:
    """Write the adapter in peft's own format."""
    wrapped.save_pretrained(str(folder))
