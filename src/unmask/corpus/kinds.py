"""The kinds of value that kept columns have: one a column, found by looking at every row."""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from unmask.data.records import BrokenRowError

_KINDS: dict[type, str] = {
    **{bool: "bool", int: "int64", float: "float64", str: "string", bytes: "binary"},
    **{datetime.datetime: "timestamp[us]", datetime.date: "date32"},
}  # as Arrow names them; anything else, such as a list, is kept as the JSON of it
_ZONED = "timestamp[us, tz=UTC]"
_NUMBERS = {"int64", "float64"}
_LARGEST = 2**63


class Kinds:
    """The kind of each kept column, as far as rows have shown it.

    Args:
        names: of the columns.
        known: kinds that are settled, as those of an output to which rows are added.
    """

    def __init__(self, names: Sequence[str], known: Mapping[str, str] | None = None) -> None:
        self._names = names
        self._kinds: list[str | None] = [None if known is None else known[name] for name in names]
        self._settled = known is not None

    def settled(self) -> dict[str, str]:
        """The kinds by column; one without any value holds strings."""
        return {name: kind or "string" for name, kind in zip(self._names, self._kinds, strict=True)}

    def look(self, values: Sequence[Any]) -> None:
        """Take notice of one row.

        Raises:
            BrokenRowError: a value of another kind than those before it.
        """
        found = [self._seen(number, value) for number, value in enumerate(values)]
        self._kinds = found

    def _seen(self, number: int, value: Any) -> str | None:
        before = self._kinds[number]
        if value is None:
            return before
        kind = _kind(value)
        if kind == "int64" and not -_LARGEST <= value < _LARGEST:
            raise BrokenRowError(f"{self._names[number]!r} is {value}, more than 64 bits hold.")
        if before is None or kind == before or (before == "float64" and kind in _NUMBERS):
            return before or kind
        if kind == "float64" and before == "int64" and (not self._settled or value.is_integer()):
            return before if self._settled else kind
        raise BrokenRowError(f"{self._names[number]!r} is a {kind} here and a {before} in rows before it.")


def as_kept(value: Any, kind: str) -> Any:
    """A value as its column holds it."""
    if value is None:
        return None
    if isinstance(value, datetime.datetime):  # pandas has one of its own, whose nanoseconds no date of Python's holds
        return value.to_pydatetime(warn=False) if hasattr(value, "to_pydatetime") else value
    if type(value) not in _KINDS:
        return json.dumps(value, ensure_ascii=False, default=str)
    return int(value) if kind == "int64" else float(value) if kind == "float64" else value


def arrow_type(kind: str) -> Any:
    """A kind as Arrow has it."""
    return pa.timestamp("us", tz="UTC") if kind == _ZONED else pa.type_for_alias(kind)


def _kind(value: Any) -> str:
    if isinstance(value, datetime.datetime):
        return _ZONED if value.tzinfo else _KINDS[datetime.datetime]
    return _KINDS.get(type(value), "string")
