"""What a caller hands over as texts: refused where it is no list of texts, or holds what no model can read."""

from collections.abc import Iterable, KeysView, Mapping, Set
from typing import TypeVar

from unmask.errors import DataError

Item = TypeVar("Item")


def ordered(texts: Iterable[Item], what: str = "Texts") -> Iterable[Item]:
    """Texts (or words) one after the other; a dict would be read by its keys, a set in no order, a string by letters.

    Raises:
        DataError: a dict, a set, a table, one string, bytes, or nothing that holds texts.
    """
    if isinstance(texts, str | bytes | bytearray | memoryview):
        raise DataError(f"{what} came as one {type(texts).__name__}; give a list of strings.")
    if hasattr(texts, "columns"):
        raise DataError(f"{what} came as a table, which would be read by its columns; give one of them as a list.")
    if not isinstance(texts, Iterable) or getattr(texts, "shape", None) == ():
        raise DataError(f"{what} came as a {type(texts).__name__}; give a list of strings.")
    if isinstance(texts, Mapping):
        raise DataError(
            f"{what} came as a dict, which has keys beside them; give a list, such as list(texts.values())."
        )
    if isinstance(texts, Set) and not isinstance(texts, KeysView):
        raise DataError(f"{what} came as a set, which has no order; give a list, such as sorted(texts).")
    return texts


def check_strings(texts: Iterable[object], *, first: int = 0) -> None:
    """Refuse what is not a string of whole characters; `first` is the number of the first text in messages.

    Raises:
        DataError: something that is not a string, or half a surrogate pair.
    """
    for index, text in enumerate(texts, first):
        check_characters(text, f"Text {index}")


def check_characters(text: object, what: str) -> None:
    """Refuse what is no string, and half a surrogate pair, which is no character and has no tokens.

    Raises:
        DataError: either.
    """
    if not isinstance(text, str):
        raise DataError(f"{what} is a {type(text).__name__}, not a string.")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{what} holds half a surrogate pair ({text[error.start]!a} at character {error.start}), which is no "
            "character; decode the text as UTF-8 or UTF-16, or replace it with text.encode(errors='replace').decode()."
        ) from error
