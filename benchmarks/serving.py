"""Exports an encoder for each runtime, has the runtime answer, and writes the table of docs/serving.md.

    make serving
    python benchmarks/serving.py pocket smollm2 --write docs/serving.md

Every runtime runs in a process and an environment of its own. It is asked for the texts of the export's golden.json,
alone and in several ways, and `unmask check`'s comparison says how near its vectors are and names what is wrong. The
right vectors are those of what was exported: where a runtime cannot leave special tokens out of a mean, with them in
it, and the table says what that costs. What is only read is opened by transformers in the runtime's place.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from race import ENVIRONMENT, WORKER, race
from report import markdown_table

from unmask import TextEncoder, export_encoder
from unmask.certificate.cases import Case
from unmask.certificate.check import Report, check
from unmask.certificate.golden import read_certificate
from unmask.certificate.targets import Refused
from unmask.encoder import Floats
from unmask.errors import UnmaskError
from unmask.export.exporting import ExportReport
from unmask.files import write_text
from unmask.pooling import POOLINGS

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- by `make serving`: -->", "<!-- end of what `make serving` writes -->"
HEADS = ("runtime", "version", "run or read", "smallest cosine", "mean", "what differs", "date")
_PATIENCE = 900  # seconds that a runtime may take for all of it


@dataclass(frozen=True, slots=True)
class Runtime:
    """One line of the table.

    Attributes:
        target: that the encoder is exported for.
        function: of peers, that answers; empty where opening the export again must do.
        environment: folder of the Python that runs it; empty for this one.
        job: what it is told besides the folder.
        precision: of the export.
    """

    target: str
    function: str = ""
    environment: str = ""
    job: dict[str, Any] = field(default_factory=dict)
    precision: str = "fp32"


def _llama_cpp(kind: str, *, kv_unified: bool = True) -> Runtime:
    job = {"kind": kind, "kv_unified": kv_unified}
    return Runtime("llama.cpp", "llama-cpp.answers", ".venv-llama-cpp", job)


RUNTIMES = {
    "sentence-transformers": Runtime("sentence-transformers", "sentence-transformers.answers"),
    "transformers": Runtime("transformers"),
    "ONNX Runtime": Runtime("onnx", "exported.onnxruntime-answers"),
    "ONNX Runtime, int8": Runtime("onnx", "exported.onnxruntime-answers", precision="int8"),
    "OpenVINO, float32": Runtime("openvino", "exported.openvino-answers", job={"hint": "f32"}),
    "OpenVINO, bfloat16": Runtime("openvino", "exported.openvino-answers", job={"hint": "bf16"}),
    "llama.cpp, F16": _llama_cpp("f16"),
    "llama.cpp, Q8_0": _llama_cpp("q8_0"),
    "llama.cpp, F16, no --kv-unified": _llama_cpp("f16", kv_unified=False),
    "vLLM on a CPU": Runtime("vllm", "vllm.answers", ".venv-vllm"),
    "infinity": Runtime("sentence-transformers", "infinity.answers", ".venv-infinity"),
    "TEI": Runtime("tei"),
}


class Answering:
    """A runtime in a process of its own, as a target of `unmask check`."""

    def __init__(self, name: str, process: "subprocess.Popen[str]") -> None:
        self.name = name
        self._process = process
        self.version = str(self._answer()["version"])

    def embed(self, cases: Sequence[Case]) -> Floats:
        """See `unmask.certificate.targets.Target`."""
        assert self._process.stdin is not None
        request = {"texts": [case.text for case in cases], "prompt": cases[0].prompt}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        found = self._answer()
        if "refused" in found:
            raise Refused(found["refused"])
        return np.asarray(found["vectors"], dtype=np.float32)

    def _answer(self) -> dict[str, Any]:
        """The next line that is one, among what libraries print."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(('{"version"', '{"vectors"', '{"refused"')):
                return dict(json.loads(line))
        raise EOFError


@contextmanager
def answering(name: str, python: Path, function: str, job: dict[str, Any]) -> Iterator[Answering]:
    """Start a runtime.

    Raises:
        ChildProcessError: it died or took too long; its last words.
    """
    with tempfile.TemporaryFile("w+") as said, tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(job, file)
        file.flush()
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": said}
        command = [str(python), str(WORKER), function, file.name]
        with subprocess.Popen(command, text=True, env=ENVIRONMENT, start_new_session=True, **pipes) as process:
            late = threading.Timer(_PATIENCE, _end, (process,))
            late.start()
            try:
                yield Answering(name, process)
            except (EOFError, OSError) as error:
                _end(process)
                said.seek(0)
                raise ChildProcessError(_last_words(said.read())) from error
            finally:
                late.cancel()
                _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    """End a runtime and what it started: vLLM's engine outlives the process that asks it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _last_words(text: str) -> str:
    """The error that ended a process, not those that Python met as it cleaned up."""
    lines = text.partition("Exception ignored in")[0].strip().splitlines() or ["nothing"]
    return ([line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)] or lines)[-1]


def rows_of(encoder: TextEncoder, names: Sequence[str], environments: Path) -> Iterator[list[str]]:
    """A row for each runtime, by its name in `RUNTIMES`, whatever becomes of it."""
    with tempfile.TemporaryDirectory() as scratch:
        exports: dict[tuple[str, str], ExportReport | UnmaskError] = {}
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            runtime = RUNTIMES[name]
            own = environments / runtime.environment / "bin" / "python"
            python = own if runtime.environment else Path(sys.executable)
            cells = ["", "not installed", "", "", ""]
            if python.exists():
                key = (runtime.target, runtime.precision)
                if key not in exports:
                    exports[key] = _export(encoder, Path(scratch) / "-".join(key), runtime)
                cells = _row(name, runtime, encoder, exports[key], python)
            yield [name, *cells, time.strftime("%Y-%m-%d")]


def _export(encoder: TextEncoder, folder: Path, runtime: Runtime) -> ExportReport | UnmaskError:
    options: dict[str, Any] = {"pool_special_tokens": True, "pool_prompts": True, "gpu": True}
    try:
        return export_encoder(encoder, folder, runtime.target, precision=runtime.precision, **options)  # type: ignore[arg-type]
    except UnmaskError as error:
        return error


def _row(
    name: str, runtime: Runtime, encoder: TextEncoder, export: ExportReport | UnmaskError, python: Path
) -> list[str]:
    """All but name and date."""
    if isinstance(export, UnmaskError):
        return ["", "", "", "", f"not exported: {export}"]
    if not runtime.function:
        read = " in the place of " in export.read_with
        return [export.read_with, "read" if read else "run", _figure(export.cosine), "", _differs(export)]
    layout = POOLINGS[encoder.settings.pooling].layout
    job = runtime.job | {
        "model": export.folder,
        "max_length": encoder.settings.max_length,
        "pooling": {"lasttoken": "LAST", "cls": "CLS"}.get(layout[0] if layout else "", "MEAN"),
        "scratch": export.folder,
    }
    notes = _converted(job, python) if runtime.target == "llama.cpp" else []
    try:
        with answering(name, python, runtime.function, job) as target:
            found = check(target, read_certificate(export.folder))
        figures = [_figure(found.smallest), _figure(found.mean)]
        return [target.version, "run", *figures, _differs(export, found, notes)]
    except (UnmaskError, ChildProcessError) as error:
        return ["", "run", "", "", f"failed: {str(error)[:300]}"]


def _converted(job: dict[str, Any], python: Path) -> list[str]:
    """A GGUF file, by llama.cpp's own converter, which stands beside that Python and runs in this one."""
    job["file"] = f"{job['model']}/{job['kind']}.gguf"
    if Path(job["file"]).exists():
        return []
    path = {"environment": {"PYTHONPATH": str(python.parents[1] / "converter")}}
    runs = race({"the converter": (sys.executable, "llama-cpp.convert", job | path)}, 1)["the converter"]
    return ["its converter was told how the tokenizer splits"] if runs and runs[0]["unknown_splitting"] else []


def _figure(cosine: float | None) -> str:
    return "" if cosine is None else f"{cosine:.6f}"


def _differs(export: ExportReport, found: Report | None = None, notes: Sequence[str] = ()) -> str:
    """Faults by name, ways of asking that are refused, what pooling special tokens costs."""
    parts = [f"**{fault.fault}**: {fault.says}" for fault in found.faults] if found else []
    if found and found.refused:
        parts.append(f"refuses {len(found.refused)} of {found.texts + len(found.refused)} texts")
    if export.cost is not None:
        parts.append(f"special tokens pooled: {export.cost:.4f} to the encoder before")
    return "; ".join([*parts, *notes]).replace("|", "\\|").replace("\n", " ")


def tables_of(page: str) -> dict[str, dict[str, list[str]]]:
    """The rows of the tables between the two marks of a page, by encoder and runtime.

    Leaves the program where a mark is missing.
    """
    _, begin, rest = page.partition(BEGIN)
    inside, end, _ = rest.partition(END)
    if not (begin and end):
        sys.exit(f"The page does not hold the lines {BEGIN} and {END}, between which the tables go.")
    found: dict[str, dict[str, list[str]]] = {}
    for line in inside.splitlines():
        if line.startswith("**"):
            rows = found.setdefault(line.strip("*"), {})
            continue
        cells = line[2:-2].split(" | ")
        if cells[0] in RUNTIMES:
            rows[cells[0]] = cells
    return found


def written(page: str, encoder: str, row: list[str]) -> str:
    """The page with a row put in the place of the one of the same encoder and runtime; the others stay."""
    tables = tables_of(page)
    tables.setdefault(encoder, {})[row[0]] = row
    lines = [""]
    for name, rows in tables.items():
        ordered = [rows[runtime] for runtime in RUNTIMES if runtime in rows]
        lines += [f"**{name}**", "", *markdown_table(HEADS, ordered, names=3, notes=2), ""]
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return "\n".join([f"{before}{BEGIN}", *lines, f"{END}{after}"])


def main() -> None:
    """Measure, print, write row by row, so that a run that is stopped leaves what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", nargs="*", default=["pocket"], help="decoders or encoder folders (default: pocket)")
    parser.add_argument("--attention", choices=["bidirectional", "causal"], default="bidirectional")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES), metavar="NAME")
    parser.add_argument(
        "--environments", type=Path, default=ROOT, metavar="DIR", help="that holds .venv-vllm and others"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the rows between the two marks of a page")
    arguments = parser.parse_args()
    if arguments.write:
        tables_of(arguments.write.read_text(encoding="utf-8"))
    for name in arguments.encoder:
        encoder = TextEncoder.load(name, attention=arguments.attention, dtype="float32", device="cpu")
        title = f"{Path(name).name}, {arguments.attention}"
        for row in rows_of(encoder, arguments.runtimes, arguments.environments):
            print(f"{title}: {' | '.join(row)}", flush=True)
            if arguments.write:
                write_text(arguments.write, written(arguments.write.read_text(encoding="utf-8"), title, row))


if __name__ == "__main__":
    main()
