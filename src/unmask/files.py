"""Files and folders that appear whole or not at all: written aside, renamed at the end."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any, TextIO

from unmask.errors import ArtifactError, DataError

_CHUNK = 2**22
_POINTER, _POINTER_SIZE = b"version https://git-lfs.github.com/spec/", 1024  # how it begins, and less than which it has


def is_pointer(path: Path) -> bool:
    """True for a Git LFS pointer: what a repository holds in place of a large file."""
    if not path.is_file() or path.stat().st_size > _POINTER_SIZE:
        return False
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def refuse_pointers(paths: Iterable[Path]) -> None:
    """Refuse Git LFS pointers.

    Raises:
        ArtifactError: the first of them, and how to get the file.
    """
    for path in filter(is_pointer, paths):
        raise ArtifactError(f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository.")


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def file_fingerprint(path: Path) -> dict[str, Any]:
    """A file by its content: size and SHA-256."""
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def content_change(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> str | None:
    """What became of an input between two looks at it, in words, by its fingerprints; None: nothing.

    Args:
        old: of a file, or the `revisions` of what is on the hub; None where it was not there.
        new: the same, now.
    """
    if old is None or new is None:
        return None if old is new else "was not there" if old is None else "is gone"
    if "revisions" in old and "revisions" in new:  # the cache may also have lost some
        return None if set(new["revisions"]) <= set(old["revisions"]) else "is of another revision"
    if old == new:
        return None
    if "sha256" in old and "sha256" in new:
        was, now = (f"{one['bytes']:,} bytes, SHA-256 {one['sha256'][:8]}" for one in (old, new))
        return f"had {was}, and has {now}"
    return "is of another revision"


def require_new_folder(folder: Path) -> None:
    """Refuse a place where a new folder could not be written.

    Raises:
        ArtifactError: the folder exists and is not empty, or is a file, or cannot be renamed to.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"{folder} exists already and is not empty; choose another folder or remove it.")
    if folder.resolve().is_mount() or folder.resolve() == Path.cwd():
        what = "where a disk is mounted" if folder.resolve().is_mount() else "where this command runs"
        raise ArtifactError(f"{folder} is {what}; choose a folder in it.")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder that appears whole or not at all: write into what is given, it is renamed at the end.

    Raises:
        ArtifactError: the folder exists and is not empty, or cannot be made.
    """
    require_new_folder(folder)
    folder = folder.resolve()  # a link cannot be renamed to; what it stands for can
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written ({error.strerror}).") from error
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            _to_disk(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)
    _to_disk(folder.parent)


def remove_folder(folder: Path) -> None:
    """Take a folder away, so that a half of it is never taken for the whole."""
    going = folder.with_name(folder.name + ".partial")
    shutil.rmtree(going, ignore_errors=True)
    folder.rename(going)
    shutil.rmtree(going)


def _to_disk(path: Path) -> None:
    """Else a machine that is switched off may keep the name of a file or folder and lose what is in it."""
    if path.is_symlink():
        return
    with suppress(OSError) if path.is_dir() else nullcontext():  # not every file system does it for folders
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@contextmanager
def new_file(path: Path, owner: str = "") -> Iterator[Path]:
    """A file that appears whole or not at all: write to the path that is given, it is renamed at the end.

    Args:
        path: where it appears.
        owner: of what is written until then, where several processes may write the same file.
    """
    partial = path.with_name(f"{path.name}{owner}.partial")
    try:
        yield partial
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _to_disk(partial)
    os.replace(partial, path)


@contextmanager
def locked(path: Path, written: Path) -> Iterator[IO[bytes]]:
    """A file that one process at a time holds open; a killed one holds it no longer.

    Args:
        path: the file; what it holds stays.
        written: what this process is about to write, for the message.

    Raises:
        DataError: another process holds it.
    """
    import fcntl

    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{written} is being written by another process; wait for it, or stop it.") from error
        except OSError:  # a file system without locks
            pass
        if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise DataError(f"{written} was taken away by the process that held it; start again.")
        yield file


@contextmanager
def write_whole(path: Path) -> Iterator[TextIO]:
    """A UTF-8 text file that appears whole or not at all."""
    with new_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with write_whole(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and programs (indented, UTF-8, newline at the end), whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, missing: Any = None) -> Any:
    """Read JSON.

    Args:
        path: file.
        missing: what is returned if there is no such file; by default that is an error.

    Raises:
        ArtifactError: missing or broken.
    """
    if missing is not None and not path.is_file():
        return missing
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON ({error}).") from error
