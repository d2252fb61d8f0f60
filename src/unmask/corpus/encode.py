"""A corpus to vectors: planned, encoded shard by shard, safe to kill and to start again."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from unmask.corpus.inputs import kept_stdin, of_part
from unmask.corpus.join import join
from unmask.corpus.manifest import NAME, Addition, Manifest, own_file, read_manifest, refusal
from unmask.corpus.plan import CorpusOptions, Plan, make_plan
from unmask.corpus.shards import Job, encode_shards
from unmask.corpus.survey import Survey, packed
from unmask.corpus.table import Totals, read_said, told_of_disk
from unmask.encoder import TextEncoder
from unmask.encoder.stream import EncodeOptions, StreamOptions, with_saved_prompt
from unmask.errors import DataError
from unmask.files import locked

Engine = Callable[[TextEncoder, Job, list[int], Callable[[int], object]], Iterator[Totals]]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a command has done.

    Attributes:
        out: the output.
        texts: rows of this command's part that are there now.
        tokens: that the model read for them.
        cut: texts of them that were longer than the model reads.
        rejected: rows that could not be used.
        known: rows that were there before, in an addition.
        shards: of the part.
        new: rows that were encoded now.
        seconds: that took.
        new_tokens: that the model read now.
    """

    out: str
    texts: int
    tokens: int
    cut: int
    rejected: int
    known: int
    shards: int
    new: int
    seconds: float
    new_tokens: int

    def __str__(self) -> str:
        pace = ", all of them before" if self.texts else ""
        if self.new:
            rate = f"{self.new / self.seconds:,.0f} rows/s, {self.new_tokens / self.seconds:,.0f} tokens/s"
            now = "" if self.new == self.texts else f"{self.new:,} texts now, "
            pace = f", {now}{rate}"
        said = [f"{self.texts:,} vectors written to {self.out}: {self.tokens:,} tokens{pace}"]
        if self.cut:
            said.append(f"{self.cut:,} texts were longer than the model reads and were cut")
        if self.known:
            said.append(f"{self.known:,} rows were there already")
        if self.rejected:
            said.append(f"{self.rejected:,} rows were rejected")
        return "; ".join(said)


def encode_files(
    encoder: TextEncoder,
    inputs: Sequence[str | Path],
    out: str | Path,
    options: CorpusOptions | None = None,
    *,
    name: str = "",
    progress: bool = False,
) -> Encoded:
    """Encode all texts of `inputs` in order, in bounded memory; after a kill the same call goes on.

    Args:
        encoder: gives the vectors.
        inputs: files, folders, patterns, hub data sets, or `-` for standard input; see `unmask.corpus.inputs`.
        out: a folder of Parquet shards, or a name that ends in .parquet or .npy for one file.
        options: how rows are read, encoded and written.
        name: how the output calls the encoder.
        progress: show bars.

    Raises:
        DataError: inputs that cannot be used (file and line), or an output that was begun with something else.
        EncodingError: a vector that is not finite.
        CorpusError: a full disk, for example; what was written stays.
    """
    given = [str(one) for one in inputs]
    options = options or CorpusOptions()
    with kept_stdin(given, Path(out), options.part) as stdin:
        plan = make_plan(given, Path(out), options, stdin=stdin, progress=progress)
        return carry_out(plan, encoder, name=name, progress=progress)


def carry_out(
    plan: Plan, encoder: TextEncoder, *, name: str = "", engine: Engine = encode_shards, progress: bool = False
) -> Encoded:
    """Encode what a plan says is missing.

    Args:
        plan: see `make_plan`.
        encoder: gives the vectors.
        name: how the output calls the encoder.
        engine: encodes shards, and says of each when it is there.
        progress: show a bar.

    Raises:
        DataError: an output that was begun with another encoder or other settings, told one a line.
    """
    wanted = _manifest(plan, encoder, name)
    if plan.known is not None and (changes := plan.known.differences(wanted)):
        raise refusal(plan.output.path, changes)
    if plan.output.single and plan.output.path.exists():  # whole, and the same
        assert plan.known is not None
        said = read_said(plan.output.path)
        assert said is not None
        shutil.rmtree(plan.output.folder, ignore_errors=True)
        return _told(plan, Addition([], []), said[1], 1, Totals(), 0.0)
    with ExitStack() as stack:
        job = _begun(plan, wanted, stack)
        return _encoded(plan, job, encoder, engine, progress)


def _manifest(plan: Plan, encoder: TextEncoder, name: str) -> Manifest:
    """What the encoder and the options make of the output."""
    options = plan.options
    if options.dimensions is not None and not 1 <= options.dimensions <= encoder.dimension:
        raise DataError(f"--dimensions {options.dimensions}: the vectors of this encoder have {encoder.dimension}.")
    asked: EncodeOptions = {"prompt": options.prompt, "prompt_name": options.prompt_name}
    asked["normalize"] = options.normalize
    stream = StreamOptions.of(encoder.reader, with_saved_prompt(encoder.settings, "document", asked))
    settings = {
        **options.read_settings(),
        "prompt": stream.prompt,
        "normalize": stream.normalize,
        "max_length": encoder.settings.max_length,
        "dtype": str(encoder.model.dtype).removeprefix("torch."),
        "eight_bits": encoder.quantized,
    }
    kinds = plan.known.kinds if plan.known is not None else plan.found.kinds if plan.found is not None else {}
    if name and Path(name).exists():
        name = str(Path(name).absolute())  # for who reads the vectors from another folder
    return Manifest(name, encoder.fingerprint(), settings, options.dimensions or encoder.dimension, kinds)


def _begun(plan: Plan, wanted: Manifest, stack: ExitStack) -> Job:
    """The output with its manifest written, and nobody else at work on this part of it."""
    folder, part, options = plan.output.folder, plan.options.part, plan.options
    if not folder.exists() and part is None:
        stack.callback(_leave_nothing, folder)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made ({error.strerror}).") from error
    with told_of_disk(folder):
        stack.enter_context(locked(folder / f".lock{of_part(part)}", folder))
        manifest = plan.known or wanted
        if plan.found is not None:
            found = plan.found
            manifest = manifest.with_addition(Addition(plan.fingerprints, found.shards, found.rejected, found.known))
        metadata = manifest.metadata(plan.addition, whole=plan.output.single)
        job = Job(folder, plan.inputs, options.reading, manifest, plan.addition, metadata, options.batch_tokens)
        if plan.found is not None:
            _write(plan, plan.found, job)
    return job


def _write(plan: Plan, found: Survey, job: Job) -> None:
    """What was found of a new addition; the manifest last, because whoever sees it takes the rest to be there."""
    before, there = plan.known, read_manifest(job.folder)
    if there is not None and there.text() not in (before and before.text(), job.manifest.text()):
        raise DataError(f"{plan.output.path} was begun by another command meanwhile; start this one again.")
    if found.rejected:
        with own_file(plan.output.rejects(plan.addition)) as file:
            file.writelines(line.encode() for line in found.rejects.lines())
    if found.marks is not None:
        with own_file(job.marks_path()) as file:
            np.save(file, packed(found.marks))
    with own_file(job.folder / NAME) as file:
        file.write(job.manifest.text().encode())


def _encoded(plan: Plan, job: Job, encoder: TextEncoder, engine: Engine, progress: bool) -> Encoded:
    """Encode the shards that are missing, and put them into one file where one was asked for."""
    own, shards = _own_part(job.numbers(), plan.options.part), job.manifest.shards
    job.tidy(own)
    missing = job.missing(own)
    left = set(missing)
    rows = sum(shards[number].rows for number in own)
    before = job.totals(number for number in own if number not in left)
    now, started = Totals(), time.perf_counter()
    with tqdm(total=rows, initial=before.rows, unit="row", desc="encoding", disable=not progress) as bar:
        for totals in engine(encoder, job, missing, bar.update) if missing else ():
            now += totals
            bar.set_postfix_str(f"{now.tokens / (time.perf_counter() - started):,.0f} tokens/s")
    seconds = time.perf_counter() - started
    plan.check_unchanged()
    job.tidy(own)
    now = job.totals(missing)  # of all, also those that a worker has written which died then
    every = before + now
    if plan.output.single:
        with told_of_disk(plan.output.path):
            join([job.path(number) for number in own], plan.output.path, job.layout, every)
            shutil.rmtree(job.folder)
    return _told(plan, job.manifest.additions[plan.addition], every, len(own), now, seconds)


def _told(plan: Plan, addition: Addition, totals: Totals, shards: int, now: Totals, seconds: float) -> Encoded:
    return Encoded(
        out=str(plan.output.path),
        texts=totals.rows,
        tokens=totals.tokens,
        cut=totals.cut,
        rejected=addition.rejected,
        known=addition.known,
        shards=shards,
        new=now.rows,
        seconds=seconds,
        new_tokens=now.tokens,
    )


def _own_part(numbers: range, part: tuple[int, int] | None) -> range:
    """The shards of one of several commands that share an addition out: runs, so that each reads its inputs once."""
    if part is None:
        return numbers
    own, parts = part
    return numbers[len(numbers) * (own - 1) // parts : len(numbers) * own // parts]


def _leave_nothing(folder: Path) -> None:
    """Remove a folder that was made for shards of which none was written."""
    if not any(folder.glob("part-*.parquet")):
        shutil.rmtree(folder, ignore_errors=True)
