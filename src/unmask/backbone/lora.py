"""LoRA (Hu et al. 2021, arXiv 2106.09685) through peft: made anew or read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from unmask.backbone.adapters import PREFIX, Around, fit_embeddings, read_lora
from unmask.backbone.fast.lora_branch import LoraBranch
from unmask.backbone.structure import first_line
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
        RecipeError: no module has one of the target names; peft cannot adapt one of them so.
    """
    import peft  # 4 s to import; only training needs it

    wanted = targets if isinstance(targets, str) else list(targets)
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=wanted, bias="none", use_dora=dora
    )
    try:
        wrapped = peft.get_peft_model(base, config)
    except ValueError as error:
        if "target" not in str(error).lower():  # e.g. dropout, which peft has not for the experts of a layer
            hint = "; lora: {dropout: 0} takes it away" if "dropout" in str(error) else ""
            raise RecipeError(f"peft cannot add LoRA here: {first_line(error)}{hint}.") from error
        names = sorted({name.rpartition(".")[2] for name, m in base.named_modules() if isinstance(m, nn.Linear)})
        raise RecipeError(f"LoRA targets {wanted!r} fit no layer; linear layers here: {names}.") from error
    LoraBranch().attach(wrapped)
    return wrapped


def load_lora(
    model: nn.Module,
    folder: Path,
    *,
    name: str,
    onto: Any | None = None,
    dropout: float | None = None,
    place: str | None = None,
) -> Any:
    """Attach saved LoRA weights to a model body, in place.

    Args:
        model: the body.
        folder: in peft's format, whether trained around the body or around the model with its head.
        name: of the adapter within the model.
        onto: the peft wrapper that holds earlier adapters of the same model, if they were not merged.
        dropout: train it further, with this dropout; None leaves it frozen.
        place: where the body is in the model that peft is shown; by default where it was when this one was trained.

    Returns:
        The peft wrapper.

    Raises:
        ArtifactError: no readable LoRA adapter, pickled weights, or weights that do not fit this model.
    """
    import peft

    saved = read_lora(folder, model)
    fit_embeddings(model, saved, alone=onto is None)
    if dropout is not None:
        saved.config.inference_mode, saved.config.lora_dropout = False, dropout
    try:
        if onto is None:
            place = saved.place if place is None else place
            root = Around(model, place) if place else model
            onto = peft.get_peft_model(root, saved.config, adapter_name=name)
        else:
            onto.add_adapter(name, saved.config)
    except ValueError as error:
        raise ArtifactError(f"{folder} does not fit this model ({first_line(error)}).") from error
    root = onto.get_base_model()
    before = PREFIX + (f"{root.place}." if isinstance(root, Around) else "")
    found = {before + key: value for key, value in saved.weights.items()}
    expected = set(peft.get_peft_model_state_dict(onto, adapter_name=name, save_embedding_layers=False))
    try:  # peft also renames the experts of older transformers
        result = peft.set_peft_model_state_dict(onto, found, adapter_name=name)
    except (RuntimeError, KeyError, ValueError) as error:  # sizes that differ; modules that are lacking
        raise ArtifactError(f"{folder} does not fit this model ({' '.join(str(error).split())[:300]}).") from error
    lacking = {key for key in result.missing_keys if name in key.split(".")}
    of_base = {key for key in found if ".lora_" not in key} - expected
    if wrong := sorted({*result.unexpected_keys, *lacking, *of_base}):
        raise ArtifactError(
            f"{folder} does not fit this model: {len(wrong)} of its weights have no place or are lacking "
            f"({wrong[0]}). Is the base model the one it was trained on?"
        )
    if dropout is not None:
        LoraBranch().attach(onto)
    return onto


def merge_lora(wrapped: Any) -> nn.Module:
    """Fold the LoRA weights into the base and give the plain body back.

    Raises:
        ValueError: merging gives weights that are not finite.
    """
    merged: nn.Module = wrapped.merge_and_unload(safe_merge=True)
    return merged.inner if isinstance(merged, Around) else merged
