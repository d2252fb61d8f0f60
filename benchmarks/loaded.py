"""Encoding and training steps beside one other busy process, against the same with the machine to themselves.

python benchmarks/loaded.py
python benchmarks/loaded.py --model MODEL_FOLDER --texts 64 --spins 300000 1000 100

On the machine nothing else may run. Each run is a process of its own; idle and loaded runs of all lines take turns, and
medians count. `unmask` is as installed; `unmask, N spins` has GOMP_SPINCOUNT=N in the environment, 300000 being what
libgomp takes by itself. `loaded` is the time beside a process that never sleeps over the idle time of the same line,
`cost` the idle time over that of the first count of spins: what it costs an idle machine that threads sleep.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from race import Line, median, race
from report import Report, add_json
from shapes import workload

_WORK = ["encode", "query", "mntp", "simcse"]

Lines = dict[str, Line]
Runs = list[dict[str, Any]]


def main() -> None:
    """Measure and print a table for each kind of work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket", help="a causal model's folder (default: pocket)")
    parser.add_argument("--work", nargs="+", choices=_WORK, default=_WORK)
    parser.add_argument("--spins", nargs="+", type=int, default=[300_000], help="counts to compare with")
    parser.add_argument("--texts", type=int, default=160, help="texts to encode (default: 160)")
    parser.add_argument("--steps", type=int, default=6, help="steps of training, 4 or more (default: 6)")
    parser.add_argument("--rows", type=int, default=16, help="texts a step of SimCSE, blocks of MNTP times 4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="float32")
    add_json(parser)
    arguments = parser.parse_args()
    report = Report(arguments.json)
    with tempfile.TemporaryDirectory() as scratch:
        job = _job(arguments, Path(scratch))
        for work in arguments.work:
            lines = _lines(work, job, arguments.spins)
            _table(report, work, lines, *_idle_and_loaded(lines, arguments.rounds), spinning=arguments.spins[0])


def _job(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """What all lines are given: the model as it is and as an encoder folder, texts, sizes."""
    from unmask import TextEncoder

    encoder = scratch / "encoder"
    TextEncoder.load(arguments.model, attention="bidirectional", dtype=arguments.dtype).save(encoder)
    return {
        "model": str(encoder),
        "causal_model": arguments.model,
        "texts": workload("mixed", arguments.texts, None),
        "documents": workload("long", 2 * arguments.rows * (arguments.steps + 2), None),
        "sentences": workload("short", arguments.rows * (arguments.steps + 1), None),
        "steps": arguments.steps,
        "rows": arguments.rows,
        "length": 128,
        "micro_tokens": 2048,
        "dtype": arguments.dtype,
        "scratch": str(scratch),
    }


def _lines(work: str, job: dict[str, Any], spins: Sequence[int]) -> Lines:
    """The same work by each library and count of spins; a query is a text encoded alone."""
    if work == "query":
        work, job = "encode", job | {"latency": True, "texts": job["sentences"][:40]}
    own = f"unmask.{work}"
    lines: Lines = {"unmask": (sys.executable, own, job)}
    for count in spins:
        environment = {"environment": {"GOMP_SPINCOUNT": str(count)}}
        lines[f"unmask, {count} spins"] = (sys.executable, own, job | environment)
    if work != "mntp":  # it has no such objective
        lines["sentence-transformers"] = (sys.executable, f"sentence-transformers.{work}", job)
    return lines


def _idle_and_loaded(lines: Lines, rounds: int) -> tuple[dict[str, Runs], dict[str, Runs]]:
    """Runs of all lines alone, and beside a busy process, by turns."""
    idle: dict[str, Runs] = {line: [] for line in lines}
    loaded: dict[str, Runs] = {line: [] for line in lines}
    for _ in range(rounds):
        for line, runs in race(lines, 1).items():
            idle[line] += runs
        with _busy_process():
            for line, runs in race(lines, 1).items():
                loaded[line] += runs
    return idle, loaded


@contextmanager
def _busy_process() -> Iterator[None]:
    """Another process that never sleeps, on whichever processor the system gives it."""
    endless = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # so that none outlives a kill
    busy = subprocess.Popen([sys.executable, "-c", endless])
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


def _table(
    report: Report, work: str, lines: Lines, idle: dict[str, Runs], loaded: dict[str, Runs], *, spinning: int
) -> None:
    """Seconds of all texts, of one, or of 1000 tokens of training."""
    unit = {"encode": "seconds", "query": "seconds of one"}.get(work, "seconds of 1000 tokens")
    report.table(f"{work}, {unit}", "library", "idle", "busy", "loaded", "cost")
    base = idle[f"unmask, {spinning} spins"]
    for line in lines:
        if not (idle[line] and loaded[line]):
            continue
        alone, beside = (_seconds(runs) for runs in (idle[line], loaded[line]))
        cost = f"{alone / _seconds(base):.2f}x" if base and line.startswith("unmask") else ""
        report.row(line, f"{alone:.3f}", f"{beside:.3f}", f"{beside / alone:.2f}x", cost)


def _seconds(runs: Runs) -> float:
    return median(runs, "seconds") if "seconds" in runs[0] else 1000 / median(runs, "tokens_per_second")


if __name__ == "__main__":
    main()
