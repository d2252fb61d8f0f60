"""LoRA (Hu et al. 2021, arXiv 2106.09685) through peft: made anew or read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from unmask.backbone.fast.lora_branch import LoraBranch
from unmask.errors import ArtifactError, RecipeError


def add_lora(
    base: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: str | Sequence[str] = "all-linear",
    dora: bool = False,
) -> Any:
    """Attach fresh LoRA weights to a model body, in place, and freeze everything else.

    Args:
        base: the model without its head.
        rank: r of the low-rank update.
        alpha: the update is scaled by alpha / rank.
        dropout: on the input of the LoRA branch.
        targets: module names, or `all-linear`.
        dora: also learn the length of each weight row (DoRA, Liu et al. 2024, arXiv 2402.09353).

    Returns:
        The peft wrapper, which shares its modules with `base`.

    Raises:
        RecipeError: no module has one of the target names.
    """
    import peft  # 4 s to import; only training needs it

    wanted = targets if isinstance(targets, str) else list(targets)
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=wanted, bias="none", use_dora=dora
    )
    try:
        wrapped = peft.get_peft_model(base, config)
    except ValueError as error:
        names = sorted({name.rpartition(".")[2] for name, m in base.named_modules() if isinstance(m, nn.Linear)})
        raise RecipeError(f"LoRA targets {wanted!r} fit no layer; linear layers here: {names}.") from error
    LoraBranch().attach(wrapped)
    return wrapped


def load_lora(
    model: nn.Module, folder: Path, *, name: str, onto: Any | None = None, dropout: float | None = None
) -> Any:
    """Attach saved LoRA weights to a model body, in place.

    Args:
        model: the body.
        folder: in peft's format, whether trained around the body or around the model with its head.
        name: of the adapter within the model.
        onto: the peft wrapper that holds earlier adapters of the same model, if they were not merged.
        dropout: train it further, with this dropout; None leaves it frozen.

    Returns:
        The peft wrapper.

    Raises:
        ArtifactError: no readable adapter, pickled weights, or weights that do not fit this model.
    """
    import peft
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        weights = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ArtifactError(f"{folder} holds no readable adapter in safetensors ({error}).") from error
    config.task_type = None  # the head is not here
    if dropout is not None:
        config.inference_mode, config.lora_dropout = False, dropout
    try:
        if onto is None:
            onto = peft.get_peft_model(model, config, adapter_name=name)
        else:
            onto.add_adapter(name, config)
    except ValueError as error:
        raise ArtifactError(f"{folder} does not fit this model ({error}).") from error
    expected = set(peft.get_peft_model_state_dict(onto, adapter_name=name))
    found = {_of_the_body(key, expected): value for key, value in weights.items()}
    if missing := sorted(expected ^ set(found)):
        raise ArtifactError(
            f"{folder} does not fit this model: {len(missing)} of its weights have no place or are lacking "
            f"({missing[0]}). Is the base model the one it was trained on?"
        )
    peft.set_peft_model_state_dict(onto, found, adapter_name=name)
    if dropout is not None:
        LoraBranch().attach(onto)
    return onto


def _of_the_body(key: str, expected: set[str]) -> str:
    """The name of a weight that may have been saved around the whole causal model (one more `model.`)."""
    prefix = "base_model.model."
    inner = prefix + key.removeprefix(prefix).partition(".")[2]
    return inner if key not in expected and inner in expected else key
