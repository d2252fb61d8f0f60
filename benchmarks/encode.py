"""Encoding beside other libraries: same weights, same texts, same dtype, vectors compared.

    make bench
    python benchmarks/encode.py --shape 135m 0.6b --workload short mixed long latency --oracle .venv-oracle/bin/python
    python benchmarks/encode.py --shape smollm2 --exports .venv-exports/bin/python --vllm .venv-vllm/bin/python

Each run is a process of its own; libraries take turns, and medians count. The ratio is how many times as fast as a line
unmask is, uncompiled, in that of bfloat16 and float32 that is faster here. Weights are random, which speed does not
mind, those of smollm2 real. The cosine is the smallest over texts, against unmask in float32. Compiled lines are those
of work that goes on for minutes: compiling is part of the warm-up. All libraries are given the same number of threads.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from race import Line, median, race
from report import Report, add_json
from shapes import SHAPES, WORKLOADS, body_weights, make_model, workload

from unmask.training.rate import flops_of_a_token

_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


def main() -> None:
    """Measure and print a table for each shape and workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=sorted(SHAPES), default=["135m"])
    parser.add_argument("--workload", nargs="+", choices=[*WORKLOADS, "latency"], default=["mixed"])
    parser.add_argument("--texts", type=int, default=256, help="texts of the mixed workload (default: 256)")
    parser.add_argument("--source", type=Path, help="jsonl of texts; prose that ships with Python by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--oracle", help="Python with the released llm2vec (make oracle)")
    parser.add_argument("--exports", help="Python with ONNX Runtime and OpenVINO (make exports)")
    parser.add_argument("--llama-cpp", help="Python with llama.cpp (make llama-cpp)")
    parser.add_argument("--vllm", help="Python with vLLM (make vllm)")
    parser.add_argument("--peers", nargs="+", help="only these lines")
    add_json(parser)
    arguments = parser.parse_args()
    report = Report(arguments.json)
    for shape in arguments.shape:
        with tempfile.TemporaryDirectory() as scratch:
            job = _prepared(shape, scratch, arguments) | {"threads": report.machine["threads"]}
            for name in arguments.workload:
                _compare(report, shape, name, job, arguments)


def _prepared(shape: str, scratch: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The same weights as an encoder, as a causal model, and in the files that other runtimes read."""
    from unmask import TextEncoder

    causal, folder = Path(scratch) / "causal", Path(scratch) / "encoder"
    make_model(shape, causal)
    encoder = TextEncoder.load(causal, attention="bidirectional", dtype="bfloat16")
    encoder.save(folder)
    job = {"model": str(folder), "causal_model": str(causal), "scratch": scratch}
    job["max_length"] = encoder.settings.max_length
    writers: dict[str, Line] = {}
    if arguments.exports:
        writers["export"] = (sys.executable, "exported.write", job)
    if arguments.llama_cpp:
        writers["GGUF"] = (sys.executable, "llama-cpp.write", job)
    race(writers, 1)
    return job


def _compare(report: Report, shape: str, name: str, job: dict[str, Any], arguments: argparse.Namespace) -> None:
    count = {"short": 2 * arguments.texts, "long": arguments.texts // 8, "latency": 32}.get(name, arguments.texts)
    texts = workload("short" if name == "latency" else name, count, arguments.source)
    lines = _lines(shape, job | {"texts": texts, "latency": name == "latency"}, arguments)
    if arguments.peers:
        lines = {line: value for line, value in lines.items() if line in arguments.peers}
    found = {line: runs for line, runs in race(lines, arguments.rounds).items() if runs}
    _table(report, shape, name, found)


def _lines(shape: str, job: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Line]:
    """Name to show -> what is run."""
    own, lines = sys.executable, {}
    for short, dtype in _DTYPES.items():
        typed = job | {"dtype": dtype}
        for peer in ("unmask", "sentence-transformers", "transformers"):
            lines[f"{peer} {short}"] = (own, f"{peer}.encode", typed)
        lines[f"unmask compiled {short}"] = (own, "unmask.encode", typed | {"compile": True})
        if arguments.exports:
            lines[f"openvino {short}"] = (arguments.exports, "exported.openvino", typed)
        if arguments.vllm:
            lines[f"vllm {short}"] = (arguments.vllm, "vllm.encode", typed)
        if arguments.oracle and "family" not in SHAPES[shape]:  # it knows Qwen2, not Qwen3
            lines[f"llm2vec {short}"] = (arguments.oracle, "llm2vec.encode", typed)
    eight = job | {"dtype": "auto", "int8": True}
    lines["unmask int8"] = (own, "unmask.encode", eight)
    lines["unmask int8 compiled"] = (own, "unmask.encode", eight | {"compile": True})
    if arguments.exports:
        for short, dtype in (("fp32", "float32"), ("int8", "int8")):
            lines[f"onnxruntime {short}"] = (arguments.exports, "exported.onnxruntime", job | {"dtype": dtype})
    if arguments.llama_cpp:
        for kind in ("F16", "Q8_0"):
            lines[f"llama.cpp {kind}"] = (arguments.llama_cpp, "llama-cpp.encode", job | {"dtype": kind})
    return lines


def _table(report: Report, shape: str, name: str, found: dict[str, list[dict[str, Any]]]) -> None:
    ours = {line: runs for line, runs in found.items() if line.startswith("unmask ")}
    plain = {line: runs for line, runs in ours.items() if line in ("unmask bf16", "unmask fp32")} or ours
    if not ours:
        sys.exit("No line of unmask has run, so there is nothing to compare with.")
    best = min(plain, key=lambda line: median(plain[line], "seconds"))
    base = median(plain[best], "seconds")
    tokens = plain[best][0]["tokens"] / (32 if name == "latency" else 1)
    flops = flops_of_a_token(body_weights(shape)) * tokens
    expected = np.load(found.get("unmask fp32", plain[best])[0]["vectors"])
    heads = ("library", "seconds", "tokens/s", f"{best} is", "of peak", "peak MB", "cosine")
    report.table(f"{shape}, {name}: {tokens:,.0f} tokens a run", *heads)
    for line, runs in found.items():
        seconds = median(runs, "seconds")
        rate = report.machine["products"].get(_DTYPES.get(line.split()[-1], ""))
        report.row(
            line,
            f"{seconds:.3f}",
            f"{tokens / seconds:,.0f}",
            f"{seconds / base:.2f}x",
            f"{flops / seconds / rate:.0%}" if rate else "",
            f"{median(runs, 'peak_mb'):,.0f}",
            f"{cosine(np.load(runs[0]['vectors']), expected):.5f}",
        )


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The smallest over texts."""
    products = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(products.min())


if __name__ == "__main__":
    main()
