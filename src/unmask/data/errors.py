"""What the libraries that read data sets and the hub raise beside Python's own errors."""

from datasets.exceptions import DatasetsError
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, XetDownloadError

# The hub's HTTP library has another name in each of its major versions; its errors are the base of the hub's own.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
LIBRARY_ERRORS: tuple[type[Exception], ...] = (DatasetsError, EntryNotFoundError, XetDownloadError, _HTTP_ERROR)
