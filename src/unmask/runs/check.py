"""What is looked at before a run loads any weight: data, tasks, tokenizer, lengths, whether the family converts."""

from collections.abc import Mapping
from typing import Any

from unmask.backbone.loading import check_vocabulary, empty_model, learned_positions, load_twin, short_positions
from unmask.backbone.locate import layout_folder, load_tokenizer
from unmask.backbone.structure import text_config
from unmask.backbone.truth.convert import convert
from unmask.encoder.layout import read_layout
from unmask.encoder.saved import is_foreign
from unmask.errors import ArtifactError, RecipeError
from unmask.evaluation.masked import check_mask_token
from unmask.runs.evaluate import check_tasks
from unmask.runs.schema import Recipe
from unmask.runs.sources import used
from unmask.training.building import Data
from unmask.training.stages.run import check_stage


def check_before(recipe: Recipe, data: Data) -> None:
    """Read everything a run will read except weights, so that what is wrong is said at once.

    Raises:
        UnmaskError: what is wrong.
    """
    tokenizer, shape = check_reading(recipe)
    twin = _check_conversion(recipe)
    for name, source in used(recipe).items():
        data.texts(name) if source.kind == "texts" else data.pairs(name)
    for stage in recipe.stages:
        check_stage(stage, data, tokenizer, int(text_config(shape).hidden_size), twin)
    if recipe.evaluation.masked:
        check_mask_token(tokenizer, recipe.evaluation.masked.mask_token)
    check_tasks(recipe)


def check_reading(recipe: Recipe) -> tuple[Any, Any]:
    """The tokenizer and the model without its weights, once it is sure that they can read what the recipe gives them.

    Raises:
        ArtifactError: one of them cannot be opened, or the tokenizer has tokens without an embedding.
        RecipeError: texts or blocks longer than the positions that the model learned; an encoder that reads otherwise.
    """
    _refuse_layout(recipe)
    tokenizer, shape = load_tokenizer(recipe.model.name), empty_model(recipe.model.name, head=True)
    check_vocabulary(shape, tokenizer)
    blocks = {f"stages.{one.label}.block_size": getattr(one, "block_size", 0) for one in recipe.stages}
    if recipe.evaluation.masked:
        blocks["evaluation.masked.block_size"] = recipe.evaluation.masked.block_size
    texts = {f"stages.{one.label}.max_length": getattr(one, "max_length", 0) for one in recipe.stages}
    texts["model.max_length"] = recipe.model.encoder_settings().max_length
    _refuse_longer(texts | blocks, learned_positions(shape), f"positions that {recipe.model.name} learned")
    _refuse_longer(blocks, short_positions(shape), "tokens up to which its rotary frequencies are the short ones")
    return tokenizer, shape


def _refuse_longer(asked: Mapping[str, int], most: int | None, what: str) -> None:
    """Refuse a length that is more than a model has for it."""
    for place, length in asked.items():
        if most is not None and length > most:
            raise RecipeError(f"{place}={length} is more than the {most} {what}; set it to {most} or less.")


def _refuse_layout(recipe: Recipe) -> None:
    """Refuse to train from an encoder that reads texts as stages do not, though rungs would."""
    folder = layout_folder(recipe.model.name)
    if not recipe.stages or not is_foreign(folder):
        return
    layout = read_layout(folder, default_length=1)
    for asked, what in ((layout.lower_case, "lowers letters"), (layout.message, "puts a chat template around texts")):
        if asked:
            raise RecipeError(
                f"{recipe.model.name} is a folder of sentence-transformers that {what}, which training does not; give "
                "the decoder it was made from, or the folder without modules.json."
            )


def _check_conversion(recipe: Recipe) -> Any | None:
    """Convert a tiny twin of the model, so that a refusal comes before any weight is loaded; the twin, if there is one.

    Raises:
        ConversionError: the family, or the options it needs.
    """
    spec = recipe.model.attention_spec()
    try:
        twin = load_twin(recipe.model.name)
        if recipe.model.attention_implementation:
            twin.set_attn_implementation(recipe.model.attention_implementation)
    except (ArtifactError, ValueError, ImportError):
        return None  # sizes that do not shrink together; the model itself will tell
    if spec.attention != "causal":
        convert(twin, recurrent=spec.recurrent, window=spec.window)
    return twin
