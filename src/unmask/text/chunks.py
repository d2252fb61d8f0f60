"""A long run of anything in pieces of equal number."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items in order, the last perhaps shorter; read as they are asked for."""
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk
