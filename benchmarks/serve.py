"""Serving: the throughput of `unmask serve` as a share of `encode` on the same texts, and how long clients wait.

    python benchmarks/serve.py
    python benchmarks/serve.py --shape smollm2 --workload short --texts 1024 --per-request 8

Beside it sentence-transformers behind FastAPI, the usual twenty lines (fastapi_server.py), on the same folder, and
llama.cpp's server on what its own converter makes of that folder, in 16 bits. It cuts no text, so its vector of one
that the others cut is another. Each run is a server in a process of its own and its clients in another, on the same
processors; runs take turns, and medians count. A client sends its next request when it has the answer to the last. The
cosine is the smallest over texts, against `encode`.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from encode import cosine
from race import Line, median, race
from report import Report, add_json
from shapes import SHAPES, WORKLOADS, make_model, workload


def main() -> None:
    """Measure and print a table for each shape and workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=sorted(SHAPES), default=["135m"])
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=["mixed"])
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--per-request", type=int, default=4, help="texts of a request (default: 4)")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="float32")
    parser.add_argument("--source", type=Path, help="jsonl of texts; prose that ships with Python by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--llama-cpp", help="Python with llama.cpp (make llama-cpp)")
    add_json(parser)
    arguments = parser.parse_args()
    report = Report(arguments.json)
    for shape in arguments.shape:
        with tempfile.TemporaryDirectory() as scratch:
            job = _prepared(shape, scratch, arguments.llama_cpp)
            job |= {"clients": arguments.clients, "dtype": arguments.dtype}
            for name in arguments.workload:
                texts = workload(name, arguments.texts, arguments.source)
                _compare(report, f"{shape}, {name}", job | {"texts": texts}, arguments)


def _prepared(shape: str, scratch: str, llama_cpp: str | None) -> dict[str, Any]:
    """An encoder folder of a shape, and a GGUF file of it."""
    from unmask import TextEncoder

    causal, folder = Path(scratch) / "causal", Path(scratch) / "encoder"
    make_model(shape, causal)
    encoder = TextEncoder.load(causal, attention="bidirectional", dtype="bfloat16")
    encoder.save(folder)
    job: dict[str, Any] = {"model": str(folder), "scratch": scratch}
    if llama_cpp:
        job |= {"file": f"{folder}.gguf", "kind": "f16", "pooling": "MEAN", "kv_unified": True}
        job["max_length"] = 4 * encoder.settings.max_length
        path = {"environment": {"PYTHONPATH": str(Path(llama_cpp).absolute().parents[1] / "converter")}}
        race({"the converter": (sys.executable, "llama-cpp.convert", job | path)}, 1)
    return job


def _compare(report: Report, title: str, job: dict[str, Any], arguments: argparse.Namespace) -> None:
    job |= {"per_request": arguments.per_request}
    lines: dict[str, Line] = {
        "unmask, encode": (sys.executable, "unmask.encode", job),
        "unmask serve": (sys.executable, "unmask.serve", job),
        "sentence-transformers + FastAPI": (sys.executable, "sentence-transformers.serve", job),
    }
    if arguments.llama_cpp:
        lines["llama.cpp F16"] = (arguments.llama_cpp, "llama-cpp.serve", job)
    found = {line: runs for line, runs in race(lines, arguments.rounds).items() if runs}
    if "unmask, encode" not in found:
        sys.exit("encode has not run, so there is nothing to compare with.")
    plain = found["unmask, encode"]
    base, expected = median(plain, "seconds"), np.load(plain[0]["vectors"])
    title += f", {arguments.dtype}: {len(job['texts'])} texts, {plain[0]['tokens']:,} tokens"
    title += f", {arguments.clients} clients, {arguments.per_request} texts a request"
    report.table(title, "", "seconds", "texts/s", "of encode", "p50 s", "p99 s", "cosine")
    for line, runs in found.items():
        seconds = median(runs, "seconds")
        waits = [f"{median(runs, key):.3f}" if key in runs[0] else "" for key in ("p50", "p99")]
        nearest = f"{cosine(np.load(runs[0]['vectors']), expected):.5f}"
        report.row(
            line, f"{seconds:.3f}", f"{len(job['texts']) / seconds:,.1f}", f"{base / seconds:.0%}", *waits, nearest
        )


if __name__ == "__main__":
    main()
