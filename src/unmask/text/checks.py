"""What a caller hands over as texts: refused where it is no list of texts, or holds what no model can read."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TypeVar

from unmask.errors import DataError

Texts = TypeVar("Texts", bound=Iterable[object])


def ordered(texts: Texts) -> Texts:
    """Texts in an order; a dict would be read by its keys, a set in no order.

    Raises:
        DataError: a dict or a set.
    """
    if isinstance(texts, Mapping):
        raise DataError("Texts came as a dict, which has keys beside them; give a list, such as list(texts.values()).")
    if isinstance(texts, Set) and not isinstance(texts, Sequence):
        raise DataError("Texts came as a set, which has no order; give a list, such as sorted(texts).")
    return texts


def check_strings(texts: Sequence[object], *, first: int = 0) -> None:
    """Refuse what is not a string of whole characters; `first` is the number of the first text in messages.

    Raises:
        DataError: something that is not a string, or half a surrogate pair.
    """
    for index, text in enumerate(texts, first):
        if not isinstance(text, str):
            raise DataError(f"Text {index} is a {type(text).__name__}, not a string.")
        check_characters(text, f"Text {index}")


def check_characters(text: str, what: str) -> None:
    """Refuse half a surrogate pair, which is no character and has no tokens.

    Raises:
        DataError: there is one.
    """
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{what} holds half a surrogate pair ({text[error.start]!a} at character {error.start}), which is no "
            "character; decode the text as UTF-8 or UTF-16, or replace it with text.encode(errors='replace').decode()."
        ) from error
