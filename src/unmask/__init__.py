"""Turn any decoder-only language model into a text encoder by the LLM2Vec recipe (arXiv 2404.05961).

The public names are listed here and loaded on first use, so that `import unmask` and `unmask --help` stay fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask.backbone.truth.convert import convert
    from unmask.backbone.truth.verify import VerificationReport, verify
    from unmask.encoder import TextEncoder, TokenVectors
    from unmask.errors import (
        ArtifactError,
        ConversionError,
        DataError,
        EncodingError,
        RecipeError,
        TrainingError,
        UnmaskError,
    )
    from unmask.evaluation.tasks import Measure, Task, register_task
    from unmask.runs.run import train

__version__ = "0.1.0"

_HOMES = {
    "ArtifactError": "unmask.errors",
    "ConversionError": "unmask.errors",
    "DataError": "unmask.errors",
    "EncodingError": "unmask.errors",
    "Measure": "unmask.evaluation.tasks",
    "RecipeError": "unmask.errors",
    "Task": "unmask.evaluation.tasks",
    "TextEncoder": "unmask.encoder",
    "TokenVectors": "unmask.encoder",
    "TrainingError": "unmask.errors",
    "UnmaskError": "unmask.errors",
    "VerificationReport": "unmask.backbone.truth.verify",
    "convert": "unmask.backbone.truth.convert",
    "register_task": "unmask.evaluation.tasks",
    "train": "unmask.runs.run",
    "verify": "unmask.backbone.truth.verify",
}

__all__ = [
    "ArtifactError",
    "ConversionError",
    "DataError",
    "EncodingError",
    "Measure",
    "RecipeError",
    "Task",
    "TextEncoder",
    "TokenVectors",
    "TrainingError",
    "UnmaskError",
    "VerificationReport",
    "convert",
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
