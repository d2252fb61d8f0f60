"""Rows of hub data sets, or of local folders in the same layout, through the `datasets` library."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.data.formats import POINTER, plain_suffix
from unmask.data.records import read_rows
from unmask.errors import DataError
from unmask.files import file_digest

_SOURCE = re.compile(r"^(?P<name>[^:@]+)(?::(?P<config>[^@]+))?(?:@(?P<split>[\w.\[\]:%+-]+))?$")


@dataclass(frozen=True, slots=True)
class HubSplit:
    """One split of a data set, written `name[:config]@split`."""

    name: str
    config: str | None
    split: str

    def __str__(self) -> str:
        return f"{self.name}{':' + self.config if self.config else ''}@{self.split}"

    @classmethod
    def parse(cls, source: str, names: Mapping[str, str] | None = None) -> "HubSplit":
        """Read `name[:config]@split`; `names` are short names for full ones.

        Raises:
            DataError: not of that form.
        """
        found = _SOURCE.match(source)
        if found is None:
            raise DataError(f"{source!r} is neither a file nor a data set of the form name[:config]@split.")
        if not found["split"]:
            raise DataError(f"{source!r}: say which split, for example {source}@test.")
        name = (names or {}).get(found["name"], found["name"])
        return cls(name, found["config"], found["split"])

    def rows(
        self, *, labelled: Sequence[str] = (), needed: Sequence[str] = (), start: int = 0
    ) -> Iterator[dict[str, Any]]:
        """The rows in order, read from the memory-mapped table.

        Args:
            labelled: columns whose class numbers are turned into their names.
            needed: further columns that must be there.
            start: number of the first row that is wanted.

        Raises:
            DataError: the data set, its split or a column is not there.
        """
        table = self._load()
        missing = [column for column in [*needed, *labelled] if column not in table.column_names]
        if missing:
            raise DataError(f"{self}: no column {missing[0]!r}; found {', '.join(table.column_names)}.")
        names = {column: _class_names(table.features[column]) for column in labelled}
        table = table.select(range(start, len(table))) if start else table
        for number, row in enumerate(
            table.select_columns([*needed, *labelled]) if needed or labelled else table, start
        ):
            for column, known in names.items():
                if known:
                    row[column] = self._named(row[column], known, f"{self} row {number}: {column}")
            yield row

    def _named(self, value: Any, names: list[str], place: str) -> Any:
        """Class names for class numbers, one or a list; -1 and null stand for labels that are not told."""
        if isinstance(value, list):
            return [self._named(one, names, place) for one in value]
        if value is None or not 0 <= value < len(names):
            raise DataError(f"{place} is {value}, which is no label; is this a split whose labels are kept back?")
        return names[value]

    def fingerprint(self) -> dict[str, Any]:
        """The data set by its content: a digest of a local folder, or the revisions that the hub's cache has."""
        if not Path(self.name).is_dir():
            self._load()  # what is not in the cache yet has no revision there
            return {"revisions": cached_revisions(self.name)}
        files = files_in(Path(self.name))
        return {"bytes": sum(file.stat().st_size for file in files), "sha256": _checked_folder(Path(self.name))}

    def label_columns(self, word_column: str) -> list[str]:
        """Columns that hold a list of class numbers, beside the column of words."""
        features = self._load().features
        return [name for name, feature in features.items() if name != word_column and hasattr(_inner(feature), "names")]

    def _load(self) -> Any:
        import datasets

        datasets.disable_progress_bars()
        cache = None
        try:
            if Path(self.name).is_dir():  # the library looks at times of change alone
                cache = Path(datasets.config.HF_DATASETS_CACHE) / "folders" / _checked_folder(Path(self.name))
            return datasets.load_dataset(self.name, self.config, split=self.split, cache_dir=cache)
        except DataError:
            raise
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            what = "folder" if Path(self.name).is_dir() else "hub data set"
            cause: BaseException = error
            while cause.__cause__ is not None:  # the outermost only says that something went wrong
                cause = cause.__cause__
            reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
            raise DataError(f"{what} {self} cannot be read: {reason}") from error


def cached_revisions(name: str) -> list[str]:
    """The commits of a hub data set in huggingface_hub's cache; the newest is what is read next."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="dataset") / "snapshots"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def files_in(folder: Path) -> list[Path]:
    """Every file of a data folder but for hidden ones, sorted."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def _checked_folder(folder: Path) -> str:
    """A digest of all that is in a folder, whose csv and tsv files are read as strictly as they are alone.

    Raises:
        DataError: a file that cannot be read right; a Git LFS pointer.
    """
    found = hashlib.sha256()
    for path in files_in(folder):
        with path.open("rb") as file:
            head = file.read(len(POINTER))
        if head == POINTER:
            raise DataError(f"{path} is a Git LFS pointer, not the file itself; fetch that by `git lfs pull`.")
        if plain_suffix(path) in (".csv", ".tsv"):
            for _ in read_rows(path):
                pass
        found.update(f"{path.relative_to(folder).as_posix()} {file_digest(path)}\n".encode())
    return found.hexdigest()[:32]


def _inner(feature: Any) -> Any:
    """What a list column's lists hold; None for other columns."""
    inner = getattr(feature, "feature", None)
    return feature[0] if isinstance(feature, list) else inner


def _class_names(feature: Any) -> list[str] | None:
    inner = _inner(feature)
    names = getattr(inner if inner is not None else feature, "names", None)
    return list(names) if names else None


def fetch_file(path: str) -> Path:
    """One file of a data set repository, written `owner/name/path/in/it`, from the hub or its cache.

    Raises:
        DataError: not of that form, or not available.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    parts = path.split("/", 2)
    if len(parts) < 3:
        raise DataError(f"hf://datasets/{path}: expected hf://datasets/OWNER/NAME/FILE.")
    try:
        return Path(hf_hub_download("/".join(parts[:2]), parts[2], repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"hf://datasets/{path} cannot be fetched: {reason}") from error
