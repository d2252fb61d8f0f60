"""What a file holds, told by its content first and by the end of its name second; lines of text files."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from unmask.errors import DataError

Format = Literal["text", "csv", "tsv", "lines", "array", "parquet"]
FORMATS = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_JSON = (".jsonl", ".ndjson", ".json")
_PROBE = 8192  # bytes that tell what a file is
_BOM = b"\xef\xbb\xbf"
_NO_TEXT = {
    b"version https://git-lfs.github.com/spec/": "a Git LFS pointer, not the file itself; fetch that by `git lfs pull`",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it first",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
}
_NOT_UTF8 = re.compile("[\ud800-\udfff]")  # bytes that could not be decoded, as `surrogateescape` marks them


def find_format(path: Path) -> Format:
    """What a reader of rows makes of a file.

    A Parquet file and JSON are known by how they begin, whatever the case or the end of the name; csv and tsv by name.
    Anything else is text, a record a line.

    Raises:
        DataError: missing, a folder, empty, a Git LFS pointer, or binary; or another content than the name says.
    """
    head, suffix = read_head(path), path.suffix.lower()
    if head.startswith(b"PAR1"):
        return "parquet"
    if suffix == ".parquet":
        raise DataError(f"{path}: not a readable Parquet file (it does not begin as one).")
    if suffix in (".conll", ".conllu"):
        raise DataError(f"{path} holds a word a line; `unmask tag` and `unmask eval words` read such files.")
    if suffix in (".csv", ".tsv"):
        return "csv" if suffix == ".csv" else "tsv"
    begin = head.removeprefix(_BOM).lstrip()
    if suffix in _JSON:
        return "array" if begin.startswith(b"[") else "lines"
    if begin.startswith(b"{") and _is_object(begin):
        if suffix == ".txt":
            raise DataError(f"{path} holds JSON, an object a line; give it a name that ends in .jsonl.")
        return "lines"
    return "text"


def read_head(path: Path) -> bytes:
    """The first bytes of a file.

    Raises:
        DataError: missing, a folder, empty, a Git LFS pointer, or binary where text is expected.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file.")
    if path.is_dir():
        raise DataError(f"{path} is a folder; give files ({', '.join(FORMATS)}).")
    try:
        with path.open("rb") as file:
            head = file.read(_PROBE)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error
    if not head.removeprefix(_BOM):
        raise DataError(f"{path} is empty.")
    if len(head) < 3 and _BOM.startswith(head):  # which the decoder would pass over
        raise DataError(f"{path}:1: not UTF-8 text; save the file as UTF-8.")
    what = next((what for magic, what in _NO_TEXT.items() if head.startswith(magic)), None)
    if what is None and b"\0" in head and not head.startswith(b"PAR1") and path.suffix.lower() != ".parquet":
        what = "a binary file; expected UTF-8 text"
    if what is not None:
        raise DataError(f"{path} is {what}.")
    return head


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Numbered lines of a UTF-8 file, without their ends: `\n`, `\r\n`, or `\r`.

    Raises:
        DataError: a byte that is not UTF-8, with its line; a file that cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, line in enumerate(file, 1):
                if not line.isascii() and _NOT_UTF8.search(line):
                    raise DataError(f"{path}:{number}: not UTF-8 text; save the file as UTF-8.")
                yield number, line.removesuffix("\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error


def _is_object(begin: bytes) -> bool:
    """True for a first line that is a JSON object, or one too long to be seen whole that begins like one."""
    line, end, _ = begin.partition(b"\n")
    if not end and len(line) > _PROBE - 64:
        return re.match(rb'\{\s*"[^"]*"\s*:', line) is not None
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
