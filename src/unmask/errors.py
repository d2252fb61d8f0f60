"""Every error that `unmask` raises on purpose.

UnmaskError
├── ConversionError   a model that cannot be made bidirectional (also a ValueError)
├── RecipeError       a recipe or option that is wrong (also a ValueError)
├── DataError         an input file or text that cannot be used (also a ValueError)
├── ArtifactError     a model or encoder folder that cannot be read or written (also a ValueError)
├── EncodingError     vectors that are not finite (also a ValueError)
├── RequestError      a request that the server does not answer (also a ValueError)
├── CorpusError       encoding a corpus had to stop (also a RuntimeError)
├── ServerError       an address that is no embeddings server, or answers late or half (also a ConnectionError)
├── MissingExtraError an optional package is not installed (also an ImportError)
├── ExportError       an exported folder gives other vectors (also a RuntimeError)
├── PushError         an upload to the hub that failed, or of what is not right (also a RuntimeError)
└── TrainingError     a run that had to stop (also a RuntimeError)

The command line turns a CorpusError, ExportError, PushError and TrainingError into exit code 1, all others into 2.
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


class RequestError(UnmaskError, ValueError):
    """A request that the server does not answer with vectors.

    Attributes:
        status: HTTP's.
        code: a word for programs.
        param: the field that is wrong, if one is.
        headers: of the answer.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, headers


class ServerError(UnmaskError, ConnectionError):
    """An address that is no embeddings server, or one that answers late, half, or not at all."""


class MissingExtraError(UnmaskError, ImportError):
    """An optional dependency is not there; says how to install it."""


class CorpusError(UnmaskError, RuntimeError):
    """Encoding a corpus had to stop, for example on a full disk; what was written stays, and the command goes on."""


class ExportError(UnmaskError, RuntimeError):
    """What was written for another runtime gives other vectors than the encoder; names the text and the cosine."""


class PushError(UnmaskError, RuntimeError):
    """An upload to the hub failed, or the folder does not compute what its certificate says; nothing half is there."""


class TrainingError(UnmaskError, RuntimeError):
    """A training run had to stop, for example on a loss that is not finite."""
