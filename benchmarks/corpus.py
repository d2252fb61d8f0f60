"""`unmask encode` on a corpus: beside `TextEncoder.encode`, beside sentence-transformers and pyarrow, and after a kill.

    python benchmarks/corpus.py --texts sentences.txt --rows 20000 --shape 30m
    python benchmarks/corpus.py --rows 100000 1000000 --shape tiny

Each run is a process of its own; lines take turns, and medians count. Seconds are those of the work: reading, looking
at all rows, encoding, writing; a model is loaded and warm before. `encode in memory` is `TextEncoder.encode` on a list
and writes nothing: the share is that of its rate. Weights are random, which speed does not mind. What a billion such
rows take is reckoned from the same figures: looking at all rows, which one process does first, and encoding by many.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from race import Line, median, race
from report import Report, add_json
from shapes import SHAPES, make_model, workload

_LINES = {
    "encode in memory": "unmask.corpus_in_memory",
    "unmask encode": "unmask.corpus",
    "sentence-transformers": "sentence-transformers.corpus",
    "sentence-transformers, processes": "sentence-transformers.corpus_in_processes",
}
_SHARD_ROWS = 4096
_BILLION = 1_000_000_000


def main() -> None:
    """Measure and print a table for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="30m")
    parser.add_argument("--rows", nargs="+", type=int, default=[20_000])
    parser.add_argument("--texts", type=Path, help="a file of one text a line; prose that ships with Python by default")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--lines", nargs="+", choices=list(_LINES), default=list(_LINES)[:3])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=3, help="how often the command is killed (default: 3; 0: never)")
    add_json(parser)
    arguments = parser.parse_args()
    report = Report(arguments.json)
    with tempfile.TemporaryDirectory() as scratch:
        encoder = _encoder(arguments.shape, Path(scratch), arguments.dtype)
        for rows in arguments.rows:
            texts = _texts(arguments.texts, rows, Path(scratch))
            job = {"model": str(encoder), "file": str(texts), "dtype": arguments.dtype, "scratch": scratch}
            _compare(report, rows, job, arguments)
            if arguments.kills:
                _kill(report, rows, job, arguments.kills)


def _encoder(shape: str, scratch: Path, dtype: str) -> Path:
    from unmask import TextEncoder

    make_model(shape, scratch / "causal", dtype=dtype)
    TextEncoder.load(scratch / "causal", attention="bidirectional", dtype=dtype).save(scratch / "encoder")
    return scratch / "encoder"


def _texts(source: Path | None, rows: int, scratch: Path) -> Path:
    """A file of so many texts; where the source has fewer they come again."""
    found = workload("short", 2000, None) if source is None else source.read_text(encoding="utf-8").splitlines()
    path = scratch / f"{rows}.txt"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{text}\n" for text in islice(cycle(text for text in found if text.strip()), rows))
    return path


def _compare(report: Report, rows: int, job: dict[str, Any], arguments: argparse.Namespace) -> None:
    lines: dict[str, Line] = {name: (sys.executable, _LINES[name], job) for name in arguments.lines}
    found = {name: runs for name, runs in race(lines, arguments.rounds).items() if runs}
    base = next(iter(found.values()))
    title = f"{arguments.shape}, {arguments.dtype}: {rows:,} rows"
    report.table(title, "line", "seconds", "rows/s", "share", "peak MB")
    for name, runs in found.items():
        seconds = median(runs, "seconds")
        share = median(base, "seconds") / seconds
        report.row(name, f"{seconds:.2f}", f"{rows / seconds:,.0f}", f"{share:.1%}", f"{median(runs, 'peak_mb'):,.0f}")
    if runs := found.get("unmask encode"):
        _reckon(report, rows, runs)


def _reckon(report: Report, rows: int, runs: list[dict[str, Any]]) -> None:
    """A billion rows on as many workers as the one that was measured, from its medians."""
    more = _BILLION / rows
    looked, encoded = (median(runs, key) * more / 3600 for key in ("planned", "seconds"))
    worker = "GPUs" if runs[0]["device"] == "cuda" else "machines"
    title = f"a billion such rows, reckoned: {median(runs, 'tokens') / rows:.0f} tokens each, {worker} as this one"
    report.table(title, worker, "hours to look at all rows", "hours to encode them", "GB of vectors")
    for count in (8, 64):
        own = (encoded - looked) / count
        report.row(f"{count}", f"{looked:,.1f}", f"{own:,.1f}", f"{median(runs, 'bytes') * more / 1e9:,.0f}")


def _kill(report: Report, rows: int, job: dict[str, Any], kills: int) -> None:
    """Seconds of the whole command, imports and loading included, without and with kills at even distances."""
    shards = -(-rows // _SHARD_ROWS)
    report.table(f"{rows:,} rows in {shards} shards, whole commands", "command", "seconds", "starts")
    for count in (0, kills):
        out = Path(job["scratch"]) / f"killed-{rows}-{count}"
        command = ["encode", job["model"], job["file"], "--out", str(out), "--shard-rows", str(_SHARD_ROWS)]
        started = time.perf_counter()
        command += ["--dtype", job["dtype"]]
        killed = sum(_killed(out, shards * number // (count + 1), command) for number in range(1, count + 1))
        subprocess.run([sys.executable, "-m", "unmask", *command], check=True)
        name = f"killed {killed} times" if killed else "not killed"
        report.row(name, f"{time.perf_counter() - started:.1f}", str(count + 1))


def _killed(out: Path, shards: int, command: list[str]) -> bool:
    """Run a command and kill it when so many shards are there, and half the time of one has gone by since.

    False where it was done before.
    """
    process = subprocess.Popen([sys.executable, "-m", "unmask", *command], stderr=subprocess.DEVNULL)
    seen: list[float] = []
    while process.poll() is None and len(seen) < max(2, shards):
        time.sleep(0.02)
        seen += [time.perf_counter()] * (len(list(out.glob("part-*.parquet"))) - len(seen))
    time.sleep((seen[-1] - seen[0]) / len(seen) / 2 if len(seen) > 1 else 0.0)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


if __name__ == "__main__":
    main()
