"""What a file holds, told by its content first and by the end of its name second; lines of text files.

Files that gzip or zstd packed are read as what is in them, whatever their names.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

from unmask.errors import DataError

Format = Literal["text", "csv", "tsv", "lines", "array", "parquet", "words"]
FORMATS = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_JSON = (".jsonl", ".ndjson", ".json")
_WORDS = (".conll", ".conllu")
_PROBE = 8192  # bytes that tell what a file is
_BOM = b"\xef\xbb\xbf"
LONGEST_LINE = 2**26  # characters; what is longer is no text of a corpus, and would be held in memory whole
PACKED = (".gz", ".zst")
UNREADABLE = (OSError, EOFError, zlib.error)  # what reading a damaged file raises
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
POINTER = b"version https://git-lfs.github.com/spec/"
_NO_TEXT = {
    POINTER: "a Git LFS pointer, not the file itself; fetch that by `git lfs pull`",
    _GZIP: "packed twice; unpack it once",
    _ZSTD: "packed twice; unpack it once",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
}
_NOT_UTF8 = re.compile("[\ud800-\udfff]")  # bytes that could not be decoded, as `surrogateescape` marks them
_LONG_OBJECT = re.compile(r'\{\s*"[^"\n]*"\s*:')
_BEHIND = {"lines": re.compile(r"[^\S\r\n]*(?:[\r\n]|$)"), "array": re.compile(r"\s*[,\]]")}
_UNIVERSAL = re.compile(r"[0-9]+(?:[-.][0-9]+)?(?:\t[^\t\r\n]*){9}")  # a line of CoNLL-U or CoNLL-X

Broken = Callable[[Path, int, str], None]  # what becomes of a row that cannot be used: file, line, and why


def refuse(path: Path, line: int, reason: str) -> None:
    """The usual end of a row that cannot be used.

    Raises:
        DataError: always.
    """
    raise DataError(f"{path}:{line}: {reason}")


def plain_suffix(path: Path) -> str:
    """How a name ends, in small letters, without that of gzip or zstd: `.csv` of `a.CSV.gz`."""
    suffix = path.suffix.lower()
    return path.with_suffix("").suffix.lower() if suffix in PACKED else suffix


def is_packed(path: Path) -> bool:
    """True if a file begins as gzip or zstd begins."""
    with path.open("rb") as file:
        return file.read(4).startswith((_GZIP, _ZSTD))


def open_bytes(path: Path) -> IO[bytes]:
    """What a file holds, unpacked as it is read where gzip or zstd packed it."""
    if not is_packed(path):
        return path.open("rb")
    with path.open("rb") as file:
        if file.read(2) == _GZIP:
            unpacked: Any = gzip.open(path, "rb")  # noqa: SIM115  closed by whoever asked for it
            return unpacked
    import pyarrow

    raw: Any = pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
    return io.BufferedReader(raw)


def find_format(path: Path) -> Format:
    """What a file holds.

    A Parquet file, JSON, and CoNLL-U are known by how they begin, whatever the case or the end of the name; csv and tsv
    by name. Anything else is text, a record a line.

    Raises:
        DataError: missing, a folder, empty, a Git LFS pointer, or binary; or another content than the name says.
    """
    head, suffix = read_head(path), plain_suffix(path)
    if head.startswith(b"PAR1"):
        return "parquet"
    if suffix == ".parquet":
        raise DataError(f"{path}: not a readable Parquet file (it does not begin as one).")
    begin = head.removeprefix(_BOM).decode("utf-8", "replace").lstrip()
    if suffix in _WORDS or is_universal(begin.splitlines()):
        return "words"
    if suffix in (".csv", ".tsv"):
        return "csv" if suffix == ".csv" else "tsv"
    if suffix in _JSON:
        return "array" if begin.startswith("[") else "lines"
    found = _json_format(begin, whole=len(head) < _PROBE)
    if found and suffix == ".txt":
        raise DataError(f"{path} holds JSON; give it a name that ends in .jsonl or .json.")
    return found or "text"


def is_universal(lines: Iterable[str]) -> bool:
    """True for CoNLL-U and CoNLL-X: the first line that is no comment has ten columns, the number of a word first."""
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    return _UNIVERSAL.fullmatch(first) is not None


def read_head(path: Path) -> bytes:
    """The first bytes of a file.

    Raises:
        DataError: missing, a folder, a pipe, empty, a Git LFS pointer, or binary where text is expected.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file.")
    if path.is_dir():
        raise DataError(f"{path} is a folder; give files ({', '.join(FORMATS)}).")
    if not path.is_file():  # what its first look takes out of a pipe is gone
        raise DataError(f"{path} is a pipe or a device, which cannot be read twice; write it to a file first.")
    try:
        with open_bytes(path) as file:
            head = file.read(_PROBE)
    except UNREADABLE as error:
        raise DataError(_unreadable(path, error)) from error
    if not head.removeprefix(_BOM):
        raise DataError(f"{path} is empty.")
    if len(head) < 3 and _BOM.startswith(head):  # which the decoder would pass over
        raise DataError(f"{path}:1: not UTF-8 text; save the file as UTF-8.")
    what = next((what for magic, what in _NO_TEXT.items() if head.startswith(magic)), None)
    if what is None and b"\0" in head and not head.startswith(b"PAR1") and plain_suffix(path) != ".parquet":
        what = "a binary file; expected UTF-8 text"
    if what is not None:
        raise DataError(f"{path} is {what}.")
    return head


def read_lines(
    path: Path, *, start: int = 1, longest: int = LONGEST_LINE, broken: Broken = refuse
) -> Iterator[tuple[int, str]]:
    r"""Numbered lines of a UTF-8 file, without their ends: `\n`, `\r\n`, or `\r`.

    Args:
        path: the file, which gzip or zstd may have packed.
        start: the first line that is wanted.
        longest: characters of a line that is refused.
        broken: what becomes of a line with a byte that is zero or not UTF-8, or with `longest` characters; where it
            returns, the line is left out.

    Raises:
        DataError: a broken line, by default; a file that cannot be read.
    """
    number = 0
    try:
        with io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", errors="surrogateescape") as file:
            while line := file.readline(longest):
                number += 1
                reason = None
                if len(line) == longest and not line.endswith("\n"):
                    reason = f"a line of {longest:,} characters or more; is this a file of one text a line?"
                    while (more := file.readline(longest)) and not more.endswith("\n"):
                        pass
                if number < start:
                    continue
                if (reason := reason or _no_text(line)) is not None:
                    broken(path, number, reason)
                else:
                    yield number, line.removesuffix("\n")
    except UNREADABLE as error:
        raise DataError(_unreadable(path, error)) from error


def _no_text(line: str) -> str | None:
    """Why a line is no text."""
    if not line.isascii() and _NOT_UTF8.search(line):
        return "not UTF-8 text; save the file as UTF-8."
    return "a zero byte, which no text holds." if "\0" in line else None


def _unreadable(path: Path, error: BaseException) -> str:
    """What is said of a file that the system or its packing does not let one read."""
    reason = getattr(error, "strerror", None) or str(error).split("\n")[0] or type(error).__name__
    return f"{path} cannot be read ({reason})."


def _json_format(begin: str, *, whole: bool) -> Literal["lines", "array"] | None:
    """What a file without a name of its own holds, if its first object is JSON: objects or an array of them."""
    kind: Literal["lines", "array"] = "array" if begin.startswith("[") else "lines"
    at = begin.find("{", 0, 64)
    if at < 0 or begin[:at].strip() != ("[" if kind == "array" else ""):
        return None
    try:
        _, end = json.JSONDecoder().raw_decode(begin, at)
    except (ValueError, RecursionError):
        return kind if not whole and _LONG_OBJECT.match(begin, at) else None
    return kind if _BEHIND[kind].match(begin, end) else None
