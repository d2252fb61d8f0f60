"""What is encoded: files, folders, patterns, hub data sets and standard input, each read from any row on."""

import glob
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unmask.data.formats import FORMATS, PACKED, find_format, plain_suffix
from unmask.data.hub import HubSplit, fetch_file, files_in
from unmask.data.records import BrokenRowError, Columns, Quoting, Record, as_record, read_columns
from unmask.errors import DataError
from unmask.files import file_fingerprint, locked

logger = logging.getLogger(__name__)

Rejected = Callable[[str, int, str], None]  # what becomes of a row that cannot be used: input, line, and why
Own = Callable[[Path], bool]  # whether a file belongs to the output
_HUB_FILE = "hf://datasets/"


@dataclass(frozen=True, slots=True)
class Reading:
    """How rows are read.

    Attributes:
        columns: that a row must have.
        quoting: of csv and tsv.
        on_error: what becomes of rows and files that cannot be used.
    """

    columns: Columns
    quoting: Quoting = "standard"
    on_error: Literal["stop", "skip"] = "stop"


@dataclass(frozen=True, slots=True)
class Input:
    """One file, or one split of a data set.

    Attributes:
        name: as it was given; ids begin with it where rows have none of their own.
        path: of the file.
        split: where it is no file.
    """

    name: str
    path: Path | None = None
    split: HubSplit | None = None

    def fingerprint(self) -> dict[str, Any]:
        """Its content.

        Raises:
            DataError: it cannot be read.
        """
        try:
            return self.split.fingerprint() if self.split else file_fingerprint(self.path or Path(self.name))
        except OSError as error:
            raise DataError(f"{self.name} cannot be read ({error.strerror}).") from error

    def stamp(self) -> tuple[int, int] | None:
        """Size and time of the last change, to see whether it changes while it is read; None where it is gone."""
        if self.split is not None:
            return 0, 0
        path = self.path or Path(self.name)
        return (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None

    def records(self, reading: Reading, rejected: Rejected, *, start: int = 1) -> Iterator[Record]:
        """Its rows in order, from the line `start` on (rows of Parquet files and data sets are counted from 1).

        Raises:
            DataError: it cannot be used as it is; where rows may be skipped, an empty or binary file may be, too.
        """
        if self.split is not None:
            yield from self._rows_of_split(self.split, reading.columns, rejected, start)
            return
        path = self.path or Path(self.name)
        try:
            find_format(path)
        except DataError as error:
            if reading.on_error == "stop":
                raise
            rejected(self.name, 0, str(error))
            return

        def broken(_: Path, line: int, reason: str) -> None:
            rejected(self.name, line, reason)

        options = {"quoting": reading.quoting, "start": start, "broken": broken}
        yield from read_columns(path, reading.columns, name=self.name, **options)  # type: ignore[arg-type]

    def _rows_of_split(self, split: HubSplit, columns: Columns, rejected: Rejected, start: int) -> Iterator[Record]:
        for number, row in enumerate(split.rows(needed=columns.names, start=start - 1), start):
            try:
                yield as_record(row, columns, f"{self.name}:{number}", number)
            except BrokenRowError as error:
                rejected(self.name, number, str(error))


def stop(name: str, line: int, reason: str) -> None:
    """The usual end of a row that cannot be used.

    Raises:
        DataError: always.
    """
    raise DataError(f"{name}:{line}: {reason}")


def _nothing(_: Path) -> bool:
    return False


def find_inputs(given: Sequence[str], stdin: Path | None = None, own: Own = _nothing) -> list[Input]:
    """The files and data sets that were asked for, in order; those of a folder or a pattern by name.

    Args:
        given: files, folders, patterns such as `texts/*.jsonl.gz`, hub data sets `name[:config]@split`, files of such
            `hf://datasets/OWNER/NAME/FILE`, and `-` for standard input.
        stdin: what was read from standard input.
        own: true for files of the output, which may lie in a folder of inputs and are none of them.

    Raises:
        DataError: something that is not there.
    """
    inputs: dict[str, Input] = {}
    for one in (found for name in given for found in _found(name, stdin, own)):
        place = os.path.abspath(one.path) if one.path else one.name  # links to one file may be rows of two names
        if place in inputs:  # its rows would stand in the output twice, under one id
            logger.info("%s is given more than once; it is read once.", one.name)
        inputs.setdefault(place, one)
    return list(inputs.values())


def _found(given: str, stdin: Path | None, own: Own) -> list[Input]:
    path = Path(given)
    if is_stdin(given):
        return [Input("stdin", stdin)]
    if given.startswith(_HUB_FILE):
        return [Input(given, fetch_file(given.removeprefix(_HUB_FILE)))]
    if path.is_dir():
        files = [file for file in files_in(path) if plain_suffix(file) in FORMATS and not own(file)]
        if not files:
            raise DataError(f"{given}: no file in this folder ends in {', '.join(FORMATS)}, or {' or '.join(PACKED)}.")
        return [Input(str(file), file) for file in files]
    if path.exists():
        return [Input(given, path)]
    if glob.has_magic(given):
        matches = map(Path, sorted(glob.glob(given, recursive=True)))
        files = [file for file in matches if file.is_file() and not own(file)]
        if not files:
            raise DataError(f"{given}: no file has such a name.")
        return [Input(str(file), file) for file in files]
    if "@" in given:
        split = HubSplit.parse(given)
        return [Input(given, split=split)]
    raise DataError(f"{given}: no such file.")


def is_stdin(given: str) -> bool:
    """True for `-`, and for `-.csv` and the like, which say what standard input holds where that cannot be seen."""
    return given == "-" or given.startswith("-.")


def of_part(part: tuple[int, int] | None) -> str:
    """How files end that one of several commands writes for itself."""
    return f"-{part[0]}-of-{part[1]}" if part else ""


@contextmanager
def kept_stdin(given: Sequence[str], beside: Path, part: tuple[int, int] | None = None) -> Iterator[Path | None]:
    """Standard input in a file beside the output while it is needed: it is read twice, and known by its content.

    Args:
        given: the inputs.
        beside: the output.
        part: of it that is written by this process.

    Raises:
        DataError: standard input is asked for twice, is empty, or there is no room for it; another process writes the
            same.
    """
    names = [one for one in given if is_stdin(one)]
    if not names:
        yield None
        return
    if len(names) > 1:
        raise DataError(f"Standard input ({' and '.join(names)}) can be read once.")
    path = beside.with_name(f"{beside.name}.stdin{of_part(part)}{names[0].removeprefix('-')}")
    with ExitStack() as stack:
        try:
            file = stack.enter_context(locked(path, beside))
            stack.callback(path.unlink)
            file.truncate(0)  # what a killed process has left
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.flush()
            if not file.tell():
                raise DataError("Standard input is empty.")
        except OSError as error:
            raise DataError(f"Standard input cannot be kept in {path} ({error.strerror}).") from error
        yield path
