"""What a command will do: the output as it is, the inputs as they are, and what follows; no model is loaded for it."""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from unmask.corpus.inputs import Input, Reading, find_inputs
from unmask.corpus.kinds import Kinds
from unmask.corpus.manifest import Addition, Manifest, input_changes, read_manifest, refusal
from unmask.corpus.survey import Place, Survey, pass_over, read_from, survey
from unmask.corpus.table import OWN_COLUMNS, Precision, companion, read_said, told_of_disk
from unmask.data.records import Columns, Quoting
from unmask.errors import DataError

SHARD_ROWS = 32768
_FILES = (".parquet", ".npy")  # names that end so are of one file
_NOT_WRITTEN = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt", ".npz", ".safetensors", ".gz", ".zst")


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusOptions:
    """How a corpus is read, encoded and written.

    Attributes:
        field: column or key of the text.
        id_field: column or key of the id; by default a row's id is its input and line.
        keep: columns that are written beside the vectors.
        quoting: of csv and tsv.
        on_error: what becomes of rows that cannot be used: an error, or a line in a file of rejects.
        prompt: instruction in front of every text; by default the encoder's for documents.
        prompt_name: one of the encoder's saved prompts instead.
        normalize: scale vectors to length 1; by default as saved.
        precision: of the numbers that are written.
        dimensions: how many of a vector's numbers are kept, scaled to length 1; None for all.
        shard_rows: most rows of a shard; None for some ten thousand, and for one file where the name says so.
        append: the output is there, and rows are added whose ids it does not have.
        part: this command's part of the shards, `(3, 16)` for the third of sixteen; None for all.
        batch_tokens: most tokens in a batch; None for what suits the device.
    """

    field: str = "text"
    id_field: str | None = None
    keep: tuple[str, ...] = ()
    quoting: Quoting = "standard"
    on_error: Literal["stop", "skip"] = "stop"
    prompt: str | None = None
    prompt_name: str | None = None
    normalize: bool | None = None
    precision: Precision = "float32"
    dimensions: int | None = None
    shard_rows: int | None = None
    append: bool = False
    part: tuple[int, int] | None = None
    batch_tokens: int | None = None

    @property
    def reading(self) -> Reading:
        """How rows are read."""
        return Reading(Columns(self.field, self.id_field, self.keep), self.quoting, self.on_error)

    def read_settings(self) -> dict[str, Any]:
        """Those of the manifest's settings that are known without an encoder."""
        names = ("field", "id_field", "quoting", "on_error", "precision", "dimensions")
        return {**{name: getattr(self, name) for name in names}, "keep": list(self.keep), "shard_rows": self.rows}

    @property
    def rows(self) -> int:
        """Most rows of a shard."""
        return self.shard_rows or SHARD_ROWS


@dataclass(frozen=True, slots=True)
class Output:
    """Where vectors go: a folder of shards, or one file that is made of such a folder when all shards are there."""

    path: Path
    single: bool

    @classmethod
    def of(cls, path: Path, options: CorpusOptions) -> "Output":
        """Where a command writes.

        Raises:
            DataError: it cannot be written there, or options do not fit.
        """
        single = path.suffix in _FILES and not path.is_dir() and options.shard_rows is None
        if not path.exists() and (path.name == "-" or path.suffix in _NOT_WRITTEN):
            raise DataError(
                f"{path}: vectors are written as .parquet, .npy or a folder of shards; give --out such a name."
            )
        if not path.parent.is_dir():
            raise DataError(f"{path.parent} is not a folder, so {path.name} cannot be written there.")
        if not os.access(path if path.is_dir() else path.parent, os.W_OK):
            raise DataError(f"{path} cannot be written: the folder lets nobody write, or not you.")
        if path.suffix == ".npy" and (not single or options.keep):
            what = "shards" if not single else "kept columns"
            raise DataError(f"{path}: an array has no {what}; name a folder or a Parquet file.")
        if single and (options.append or options.part):
            what = "--append" if options.append else "--shard"
            raise DataError(f"{path}: {what} is for folders of shards; give --out a name without {path.suffix}.")
        if not single and path.exists() and not path.is_dir():
            raise DataError(f"{path} exists already and is no folder; choose another --out or remove it.")
        if path.is_dir() and not (path / "manifest.json").exists() and _visible(path):
            raise DataError(f"{path} exists already and holds something else; choose another --out.")
        return cls(path, single)

    @property
    def folder(self) -> Path:
        """Of the shards."""
        return self.path.with_name(self.path.name + ".partial") if self.single else self.path

    def holds(self, file: Path) -> bool:
        """True for what is written: the output, what is in it, and what lies beside a single file."""
        own, whole = self.path.resolve(), file.resolve()
        names = {own.name, self.folder.name, companion(own).name, self.rejects().name if self.single else own.name}
        return any(
            one.parent == own.parent and (one.name in names or one.name.startswith(f"{own.name}.stdin"))
            for one in (whole, *whole.parents)
        )

    def rejects(self, addition: int = 0) -> Path:
        """The file of rows of an addition that could not be used."""
        if self.single:
            return self.path.with_name(f"{self.path.name}.rejects.jsonl")
        return self.path / (f"rejects-{addition}.jsonl" if addition else "rejects.jsonl")

    def manifest(self) -> Manifest | None:
        """What the output was begun with, None where it was not.

        Raises:
            DataError: a file is there that was not written by this command.
        """
        if self.single and self.path.exists():
            found = _manifest_of(self.path)
            if found is None:
                raise DataError(f"{self.path} exists already; choose another --out or remove it.")
            return found
        return read_manifest(self.folder)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Attributes:
        output: where.
        options: how.
        inputs: of the addition.
        stamps: their sizes and times, taken before they were read.
        fingerprints: their names and contents.
        known: what the output was begun with; None for a new one.
        addition: number of the addition in the manifest.
        found: by the survey, where the addition is new.
    """

    output: Output
    options: CorpusOptions
    inputs: tuple[Input, ...]
    stamps: list[tuple[int, int] | None]
    fingerprints: list[dict[str, Any]]
    known: Manifest | None
    addition: int
    found: Survey | None

    def check_unchanged(self) -> None:
        """Refuse inputs that were written to since the plan was made.

        Raises:
            DataError: the first of them.
        """
        for source, stamp in zip(self.inputs, self.stamps, strict=True):
            if source.stamp() != stamp:
                raise DataError(
                    f"{source.name} changed while it was read; {self.output.path} may hold rows of both. Remove "
                    "that, and start again."
                )

    def sample(self, count: int) -> list[str]:
        """The first texts."""
        kinds = Kinds(self.options.keep)
        rows = read_from(self.inputs, self.options.reading, kinds, pass_over, Place())
        return [record.text for _, record in islice(rows, count)]


def make_plan(
    given: Sequence[str], out: Path, options: CorpusOptions, *, stdin: Path | None = None, progress: bool = False
) -> Plan:
    """Look at the output and at all inputs.

    Args:
        given: see `find_inputs`.
        out: a folder, or a name that ends in .parquet or .npy for one file.
        options: see there.
        stdin: what was read from standard input.
        progress: show a bar.

    Raises:
        DataError: an input, a row or an output that cannot be used; inputs or settings that are not those with which
            the output was begun, told one a line.
    """
    _check(options)
    output = Output.of(out, options)
    inputs = find_inputs(given, stdin, output.holds)
    known = output.manifest()
    stamps = [source.stamp() for source in inputs]
    fingerprints = [{"name": source.name, **source.fingerprint()} for source in inputs]
    plan = Plan(output, options, tuple(inputs), stamps, fingerprints, known, 0, None)
    if known is None:
        return _surveyed(plan, progress)
    _check_settings(plan, known)
    changes = [
        input_changes(addition.inputs, fingerprints, by_name=options.id_field is None) for addition in known.additions
    ]
    if [] in changes:
        return replace(plan, addition=changes.index([]))
    if not options.append:
        hint = "" if output.single else " New rows are added by --append."
        raise refusal(out, changes[0], hint)
    return _surveyed(plan, progress)


def _check(options: CorpusOptions) -> None:
    taken = next((name for name in options.keep if name in OWN_COLUMNS), None)
    if taken:
        raise DataError(f"--keep {taken}: the output has a column of that name by itself; rename yours.")
    if options.part is not None and not 1 <= options.part[0] <= options.part[1]:
        raise DataError(f"--shard {options.part[0]}/{options.part[1]}: parts are counted from 1, as in 1/16 to 16/16.")
    if len(set(options.keep)) < len(options.keep):
        raise DataError(f"--keep {' '.join(options.keep)}: a column is named twice.")


def _check_settings(plan: Plan, known: Manifest) -> None:
    asked = plan.options.read_settings()
    changes = [
        f"{name}: it was {known.settings.get(name)!r}, and is {value!r}"
        for name, value in asked.items()
        if known.settings.get(name) != value
    ]
    if changes:
        raise refusal(plan.output.path, changes)


def _surveyed(plan: Plan, progress: bool) -> Plan:
    known, options = plan.known, plan.options
    done: Iterator[str] | None = None
    if known is not None:
        left = [path for path in _shard_paths(plan.output.folder, known) if not path.exists()]
        if left:
            raise DataError(
                f"{plan.output.path} is not whole yet ({len(left)} shards are missing); finish it by the command that "
                "began it, then add rows."
            )
        done = _ids(_shard_paths(plan.output.folder, known))
    kinds = None if known is None else known.kinds
    with told_of_disk(Path(tempfile.gettempdir())):
        found = survey(plan.inputs, options.reading, options.rows, known=done, kinds=kinds, progress=progress)
    return replace(plan, addition=len(known.additions) if known else 0, found=found)


def _shard_paths(folder: Path, manifest: Manifest) -> list[Path]:
    return [folder / f"part-{number:05d}.parquet" for number in range(len(manifest.shards))]


def _ids(paths: Sequence[Path]) -> Iterator[str]:
    """The ids of shards that are there."""
    import pyarrow.parquet as pq

    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(columns=["id"]):
            yield from batch.column(0).to_pylist()


def _visible(folder: Path) -> bool:
    """True if a folder holds anything but what a command leaves that was killed before it wrote its manifest."""
    ours = (".partial", "rejects.jsonl")
    return any(not path.name.startswith(".") and not path.name.endswith(ours) for path in folder.iterdir())


def _manifest_of(path: Path) -> Manifest | None:
    """What a whole file says it was made of."""
    try:
        said = json.loads((read_said(path) or (b"{}",))[0])
        inputs = said.pop("inputs")
        return Manifest(**said, additions=[Addition(inputs, [])])
    except (ValueError, KeyError, TypeError):  # none of ours
        return None
