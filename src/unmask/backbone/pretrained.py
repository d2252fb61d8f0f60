"""Encoders that come with the package unmask-pretrained: LoRA folders over `smollm2`, opened by their names."""

from importlib.util import find_spec
from pathlib import Path

from unmask.errors import MissingExtraError

PRETRAINED = ("smollm2-mntp", "smollm2-unsupervised", "smollm2-supervised")
_PACKAGE = "unmask_pretrained"


def pretrained_folder(name: str) -> Path | None:
    """The folder of an encoder that comes along; None for other names.

    Raises:
        MissingExtraError: the package that holds it is not installed.
    """
    if name not in PRETRAINED or Path(name).exists():
        return None
    found = find_spec(_PACKAGE)
    folder = Path(found.origin).parent / name if found and found.origin else None
    if folder is None or not folder.is_dir():
        raise MissingExtraError(
            f"`{name}` is in the package unmask-pretrained, which is not installed; in a copy of unmask's repository: "
            "pip install ./pretrained."
        )
    return folder
