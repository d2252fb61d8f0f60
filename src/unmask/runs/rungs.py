"""The rungs of a run: where their encoders are, how they are opened, and what they were at each checkpoint."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from unmask.backbone.devices import cast_weights, default_device, saved_dtype
from unmask.backbone.locate import layout_folder, load_tokenizer
from unmask.encoder import TextEncoder
from unmask.encoder.opening import reader_for
from unmask.encoder.saved import read_chat, read_lineage
from unmask.errors import ArtifactError
from unmask.files import read_json, write_json
from unmask.runs.recipe import load_recipe
from unmask.runs.schema import Recipe
from unmask.settings import AttentionMode
from unmask.text.prompts import ChatWrapper
from unmask.training import checkpoint
from unmask.training.base_settings import TrainedStage
from unmask.training.building import Origin, encoder_around, plain, rebuild
from unmask.training.monitor import read_metrics

_CHAT = "chat.json"


@dataclass(frozen=True, slots=True)
class RungPlace:
    """A rung: its name (`Bi+MNTP`), the model or encoder folder it is opened from, how it attends, its run's `chat`."""

    name: str
    encoder: str
    attention: AttentionMode
    chat: ChatWrapper | None = None


def split_places(recipe: Recipe, folder: Path) -> tuple[list[RungPlace], list[RungPlace]]:
    """The rungs without training (Uni, and Bi if the recipe is bidirectional), and one for each stage."""
    attention: AttentionMode = recipe.model.attention
    chat = run_chat(folder)
    untrained = [RungPlace("Uni", recipe.model.name, "causal", chat)]
    if attention == "bidirectional":
        untrained.append(RungPlace("Bi", recipe.model.name, attention, chat))
    name, trained = untrained[-1].name, []
    for number, stage in enumerate(recipe.stages, 1):
        name += "+" + (stage.name or stage.title)
        encoder = folder / "stages" / f"{number}-{stage.label}" / "encoder"
        trained.append(RungPlace(name, str(encoder), attention, chat))
    return untrained, trained


def open_run(folder: Path) -> tuple[Recipe, list[RungPlace]]:
    """The recipe of a run folder and those of its rungs that are there.

    Raises:
        ArtifactError: the folder holds no run.
    """
    if not (folder / "recipe.yaml").is_file():
        raise ArtifactError(f"{folder} holds no run: there is no recipe.yaml in it.")
    recipe = load_recipe(folder / "recipe.yaml")
    untrained, trained = split_places(recipe, folder)
    return recipe, [*untrained, *(place for place in trained if Path(place.encoder).is_dir())]


def read_losses(folder: Path) -> dict[str, list[dict[str, float]]]:
    """What each stage of a run logged so far: name of its folder -> rows."""
    return {path.parent.name: read_metrics(path) for path in sorted(folder.glob("stages/*/metrics.jsonl"))}


def keep_chat(recipe: Recipe, folder: Path) -> None:
    """Write down what the model's chat template puts around texts: some write the date, and a run may take days."""
    if recipe.model.chat_template and not (folder / _CHAT).is_file():
        name = recipe.model.name
        chat = read_chat(layout_folder(name)) or ChatWrapper.from_tokenizer(load_tokenizer(name))
        write_json(folder / _CHAT, asdict(chat))


def run_chat(folder: Path) -> ChatWrapper | None:
    """What a run puts around texts; None without a chat template."""
    path = folder / _CHAT
    return ChatWrapper(**read_json(path)) if path.is_file() else None


def open_rung(recipe: Recipe, place: RungPlace, precision: Literal["bf16", "fp32"] = "fp32") -> TextEncoder:
    """The encoder of a rung; in float32 analyses do not depend on the processor."""
    model = recipe.model
    turned = place.encoder == model.name and place.attention == "bidirectional"  # a stage's folder says it itself
    encoder = TextEncoder.load(
        place.encoder,
        attention=place.attention,
        recurrent=model.recurrent if turned else None,
        window=model.window if turned else None,
        pooling=model.pooling,
        chat_template=model.chat_template,
        dtype="bfloat16" if precision == "bf16" else "float32",
        attention_implementation=model.attention_implementation,
    )
    # Every rung reads texts as the recipe says, whatever the folder of the base model says.
    chat = place.chat or encoder.reader.chat
    encoder.reader = reader_for(encoder.model, encoder.tokenizer, model.encoder_settings(), chat)
    return encoder


def stage_origins(recipe: Recipe, folder: Path) -> list[Origin]:
    """Where the weights of each stage come from; a pure function of the recipe and of what `keep_chat` wrote."""
    origins: list[Origin] = []
    model = recipe.model
    start, adapter, before = model.name, None, None
    for stage, place in zip(recipe.stages, split_places(recipe, folder)[1], strict=True):
        if isinstance(stage, TrainedStage) and stage.continues_adapter:
            assert before is not None
            start, adapter = origins[-1].start, before / "adapter"
        origins.append(
            Origin(
                base=model.name,
                start=start,
                adapter=adapter,
                before=before,
                attention=model.attention_spec(),
                dtype=model.dtype,
                attention_implementation=model.attention_implementation,
                chat=run_chat(folder),
            )
        )
        before, start, adapter = Path(place.encoder).parent, place.encoder, None
    return origins


def checkpoints(
    recipe: Recipe, folder: Path, precision: Literal["bf16", "fp32"] = "fp32"
) -> Iterator[tuple[RungPlace, int, TextEncoder]]:
    """Every kept checkpoint of every finished stage as an encoder, with the stage's rung and the step.

    A recipe keeps as many as `keep_checkpoints` says, one every `save_every` steps. Weights are rounded as the stage
    rounds those that it saves, so that the last checkpoint is the rung.
    """
    working = torch.bfloat16 if precision == "bf16" else torch.float32
    trained = split_places(recipe, folder)[1]
    for place, stage, origin in zip(trained, recipe.stages, stage_origins(recipe, folder), strict=True):
        if not isinstance(stage, TrainedStage) or not Path(place.encoder).is_dir():
            continue
        for path in checkpoint.kept(Path(place.encoder).parent / "checkpoints"):
            model = plain(*rebuild(stage, origin, path)).to(default_device())
            for dtype in (saved_dtype(origin.base, origin.dtype), working):
                cast_weights(model, dtype)
            encoder = encoder_around(model, origin, recipe.model.encoder_settings(), path)
            encoder.lineage = read_lineage(Path(place.encoder))
            yield place, checkpoint.step_of(path), encoder
