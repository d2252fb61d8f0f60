"""The rungs of a run: where their encoders are, how they are opened, and what they were at each checkpoint."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unmask.backbone.devices import default_device
from unmask.encoder import TextEncoder
from unmask.encoder.saved import read_lineage
from unmask.errors import ArtifactError
from unmask.runs.recipe import load_recipe
from unmask.runs.schema import Recipe
from unmask.settings import AttentionMode
from unmask.training import checkpoint
from unmask.training.base_settings import TrainedStage
from unmask.training.building import Origin, encoder_around, plain, rebuild
from unmask.training.monitor import read_metrics


@dataclass(frozen=True, slots=True)
class RungPlace:
    """A rung: its name (`Bi+MNTP`), the model or encoder folder it is opened from, and how it attends."""

    name: str
    encoder: str
    attention: AttentionMode


def split_places(recipe: Recipe, folder: Path) -> tuple[list[RungPlace], list[RungPlace]]:
    """The rungs without training (Uni, and Bi if the recipe is bidirectional), and one for each stage."""
    attention: AttentionMode = recipe.model.attention
    untrained = [RungPlace("Uni", recipe.model.name, "causal")]
    if attention == "bidirectional":
        untrained.append(RungPlace("Bi", recipe.model.name, attention))
    name, trained = untrained[-1].name, []
    for number, stage in enumerate(recipe.stages, 1):
        name += "+" + (stage.name or stage.title)
        encoder = folder / "stages" / f"{number}-{stage.label}" / "encoder"
        trained.append(RungPlace(name, str(encoder), attention))
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


def open_rung(recipe: Recipe, place: RungPlace) -> TextEncoder:
    """The encoder of a rung, in float32 so that figures do not depend on the processor."""
    model = recipe.model
    turned = place.encoder == model.name and place.attention == "bidirectional"  # a stage's folder says it itself
    return TextEncoder.load(
        place.encoder,
        attention=place.attention,
        recurrent=model.recurrent if turned else None,
        window=model.window if turned else None,
        pooling=model.pooling,
        max_length=model.max_length,
        chat_template=model.chat_template,
        include_special_tokens=model.include_special_tokens,
        dtype="float32",
        attention_implementation=model.attention_implementation,
    )


def stage_origins(recipe: Recipe, folder: Path) -> list[Origin]:
    """Where the weights of each stage come from; a pure function of the recipe."""
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
            )
        )
        before, start, adapter = Path(place.encoder).parent, place.encoder, None
    return origins


def checkpoints(recipe: Recipe, folder: Path) -> Iterator[tuple[RungPlace, int, TextEncoder]]:
    """Every kept checkpoint of every finished stage as an encoder, with the stage's rung and the step.

    A recipe keeps as many as `keep_checkpoints` says, one every `save_every` steps.
    """
    trained = split_places(recipe, folder)[1]
    for place, stage, origin in zip(trained, recipe.stages, stage_origins(recipe, folder), strict=True):
        if not isinstance(stage, TrainedStage) or not Path(place.encoder).is_dir():
            continue
        for path in checkpoint.kept(Path(place.encoder).parent / "checkpoints"):
            model = plain(*rebuild(stage, origin, path)).to(default_device())
            encoder = encoder_around(model, origin, recipe.model.encoder_settings(), path)
            encoder.lineage = read_lineage(Path(place.encoder))
            yield place, checkpoint.step_of(path), encoder
