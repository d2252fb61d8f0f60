"""Every error that `unmask` raises on purpose.

UnmaskError
├── ConversionError   a model that cannot be made bidirectional (also a ValueError)
├── RecipeError       a recipe or option that is wrong (also a ValueError)
├── DataError         an input file or text that cannot be used (also a ValueError)
├── ArtifactError     a model or encoder folder that cannot be read or written (also a ValueError)
├── EncodingError     vectors that are not finite (also a ValueError)
└── TrainingError     a run that had to stop (also a RuntimeError)

The command line turns the first five into exit code 2 and a TrainingError into exit code 1.
"""


class UnmaskError(Exception):
    """Base of all errors of this package."""


class ConversionError(UnmaskError, ValueError):
    """The model cannot be converted to bidirectional attention; names family, layer and reason."""


class RecipeError(UnmaskError, ValueError):
    """A recipe, or a setting given on the command line, is wrong. Holds every mistake found, one a line."""


class DataError(UnmaskError, ValueError):
    """An input file or text cannot be used; names the file and, where there is one, the line."""


class ArtifactError(UnmaskError, ValueError):
    """A model or encoder folder cannot be read or written."""


class EncodingError(UnmaskError, ValueError):
    """A vector is not finite; names the rows."""


class TrainingError(UnmaskError, RuntimeError):
    """A training run had to stop, for example on a loss that is not finite."""
