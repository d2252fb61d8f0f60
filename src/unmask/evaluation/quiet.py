"""Silence for libraries whose notes a reader cannot act on."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings inside, such as those on convergence and on labels that mark no spans."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
