"""Turn any decoder-only language model into a text encoder by the LLM2Vec recipe (arXiv 2404.05961).

The public names are listed here and loaded on first use, so that `import unmask` and `unmask --help` stay fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from unmask.threads import wait_briefly

if TYPE_CHECKING:
    from unmask.backbone.families import Family, register_family
    from unmask.backbone.truth.convert import convert
    from unmask.backbone.truth.verify import VerificationReport, verify
    from unmask.corpus.encode import encode_files
    from unmask.corpus.plan import CorpusOptions
    from unmask.encoder import TextEncoder, TokenVectors
    from unmask.errors import (
        ArtifactError,
        ConversionError,
        CorpusError,
        DataError,
        EncodingError,
        RecipeError,
        ServerError,
        TrainingError,
        UnmaskError,
    )
    from unmask.evaluation.tasks import Measure, Task, register_task
    from unmask.objectives.losses import LossOutput
    from unmask.pooling import Pooling, register_pooling
    from unmask.runs.evaluate import evaluate
    from unmask.runs.recipe import load_recipe
    from unmask.runs.run import train
    from unmask.runs.schema import Recipe
    from unmask.settings import EncoderSettings
    from unmask.training.losses import LossSettings, register_loss

wait_briefly()  # before anything here loads torch

__version__ = "0.1.0"

_HOMES = {
    "ArtifactError": "unmask.errors",
    "ConversionError": "unmask.errors",
    "CorpusError": "unmask.errors",
    "CorpusOptions": "unmask.corpus.plan",
    "DataError": "unmask.errors",
    "EncoderSettings": "unmask.settings",
    "EncodingError": "unmask.errors",
    "Family": "unmask.backbone.families",
    "LossOutput": "unmask.objectives.losses",
    "LossSettings": "unmask.training.losses",
    "Measure": "unmask.evaluation.tasks",
    "Pooling": "unmask.pooling",
    "Recipe": "unmask.runs.schema",
    "RecipeError": "unmask.errors",
    "ServerError": "unmask.errors",
    "Task": "unmask.evaluation.tasks",
    "TextEncoder": "unmask.encoder",
    "TokenVectors": "unmask.encoder",
    "TrainingError": "unmask.errors",
    "UnmaskError": "unmask.errors",
    "VerificationReport": "unmask.backbone.truth.verify",
    "convert": "unmask.backbone.truth.convert",
    "encode_files": "unmask.corpus.encode",
    "evaluate": "unmask.runs.evaluate",
    "load_recipe": "unmask.runs.recipe",
    "register_family": "unmask.backbone.families",
    "register_loss": "unmask.training.losses",
    "register_pooling": "unmask.pooling",
    "register_task": "unmask.evaluation.tasks",
    "train": "unmask.runs.run",
    "verify": "unmask.backbone.truth.verify",
}

__all__ = [
    "ArtifactError",
    "ConversionError",
    "CorpusError",
    "CorpusOptions",
    "DataError",
    "EncoderSettings",
    "EncodingError",
    "Family",
    "LossOutput",
    "LossSettings",
    "Measure",
    "Pooling",
    "Recipe",
    "RecipeError",
    "ServerError",
    "Task",
    "TextEncoder",
    "TokenVectors",
    "TrainingError",
    "UnmaskError",
    "VerificationReport",
    "convert",
    "encode_files",
    "evaluate",
    "load_recipe",
    "register_family",
    "register_loss",
    "register_pooling",
    "register_task",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'unmask' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
