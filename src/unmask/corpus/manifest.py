"""What an output is made of and by what: written before the first shard, compared whenever a command goes on."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from unmask.corpus.survey import Shard
from unmask.encoder.fingerprint import same
from unmask.errors import DataError
from unmask.files import content_change, new_file, read_json

NAME = "manifest.json"
KEY = b"unmask"  # of the metadata of each Parquet file
_FORM = 1
_NUMBERS = re.compile(r"\[[\d,\s]+\]")


@dataclass(frozen=True, slots=True)
class Addition:
    """Rows that one command brought: the first, or one that added rows.

    Attributes:
        inputs: the name of each, and its fingerprint by content.
        shards: of its rows.
        rejected: rows that could not be used.
        known: rows that were there already.
    """

    inputs: list[dict[str, Any]]
    shards: list[Shard]
    rejected: int = 0
    known: int = 0

    @property
    def rows(self) -> int:
        """That are encoded."""
        return sum(shard.rows for shard in self.shards)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an output is made of.

    Attributes:
        encoder: how it was named by the first command; the whole path of a folder or file.
        fingerprint: of the encoder.
        settings: how rows are read and encoded.
        dimension: numbers of a vector, before they are packed.
        kinds: of kept columns.
        additions: at least one; their shards are numbered through.
    """

    encoder: str
    fingerprint: str
    settings: dict[str, Any]
    dimension: int
    kinds: dict[str, str]
    additions: list[Addition] = field(default_factory=list)

    @property
    def shards(self) -> list[Shard]:
        """Of all additions."""
        return [shard for addition in self.additions for shard in addition.shards]

    def metadata(self, number: int, *, whole: bool) -> bytes:
        """What a Parquet file says of itself under `KEY`: its encoder, its settings, and the inputs of its addition.

        Args:
            number: of the addition.
            whole: the file is the whole output, so that nothing else lists the inputs.
        """
        inputs = self.additions[number].inputs
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        said = {**self._head(), "inputs": inputs if whole else digest}
        return json.dumps(said, ensure_ascii=False).encode()

    def text(self) -> str:
        """As it is written."""
        additions = [
            {
                "rows": addition.rows,
                "rejected": addition.rejected,
                "known": addition.known,
                "inputs": addition.inputs,
                "shards": [shard.listed() for shard in addition.shards],
            }
            for addition in self.additions
        ]
        spread = json.dumps({"form": _FORM, **self._head(), "additions": additions}, indent=2, ensure_ascii=False)
        return _NUMBERS.sub(lambda found: re.sub(r"\s+", " ", found[0]), spread) + "\n"

    def _head(self) -> dict[str, Any]:
        own = ("encoder", "fingerprint", "settings", "dimension", "kinds")
        return {name: getattr(self, name) for name in own}

    def with_addition(self, addition: Addition) -> "Manifest":
        """The same with more rows."""
        return replace(self, additions=[*self.additions, addition])

    def differences(self, other: "Manifest") -> list[str]:
        """What another encoder or other settings would change, one a line."""
        lines = []
        if not same(self.fingerprint, other.fingerprint):
            lines.append(
                f"encoder: it was {self.encoder} ({self.fingerprint}), and is {other.encoder} ({other.fingerprint})"
            )
        for name in dict.fromkeys([*self.settings, *other.settings]):
            old, new = self.settings.get(name), other.settings.get(name)
            if old != new:
                lines.append(f"{name}: it was {old!r}, and is {new!r}")
        if self.dimension != other.dimension and not lines:
            lines.append(f"dimension: it was {self.dimension}, and is {other.dimension}")
        return lines


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, None where there is none.

    Raises:
        ArtifactError: it cannot be read.
        DataError: it is no manifest of this form.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or found.pop("form", None) != _FORM:
        raise DataError(f"{path} is no manifest that this version of unmask encode writes; choose another --out.")
    try:
        additions = [
            Addition(one["inputs"], [Shard.of(shard) for shard in one["shards"]], one["rejected"], one["known"])
            for one in found.pop("additions")
        ]
        return Manifest(**found, additions=additions)
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); choose another --out.") from error


def input_changes(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], *, by_name: bool) -> list[str]:
    """How inputs differ by content, one a line; `by_name`: names count, too, because ids are made of them."""
    lines = []
    if len(old) != len(new):
        lines.append(f"inputs: there were {len(old)}, and are {len(new)}")
    for one, other in zip(old, new, strict=False):
        if change := content_change(_content(one), _content(other)):
            lines.append(f"inputs: {other['name']} {change}")
        elif by_name and one["name"] != other["name"]:
            lines.append(f"inputs: {other['name']} was called {one['name']}, which its rows' ids begin with")
    return lines


def _content(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fingerprint.items() if key != "name"}


def refusal(out: Path, changes: Sequence[str], hint: str = "") -> DataError:
    """The error that says what is not as it was."""
    heading = f"{out} was begun otherwise; nothing was changed in it. Put back what it was, or choose another --out."
    return DataError("\n  ".join([heading + hint, *changes]))


def owner() -> str:
    """What files that this process writes are called until they are whole."""
    return f".{os.uname().nodename}-{os.getpid()}"


@contextmanager
def own_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears whole or not at all, where other processes may be writing the same."""
    with new_file(path, owner()) as partial, partial.open("wb") as file:
        yield file
