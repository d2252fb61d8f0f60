"""Encoding beside other libraries: same weights, same texts, same dtype, vectors compared.

    make bench
    python benchmarks/encode.py --shape 135m 0.6b --workload short mixed long latency --oracle .venv-oracle/bin/python

Each run is a process of its own; libraries take turns, and medians count. The ratio is how many times as
fast as a line unmask in bfloat16 is. Weights are random, which speed does not mind. Compiled lines are those of
work that goes on for minutes: compiling is part of the warm-up.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from race import machine, median, race
from shapes import SHAPES, WORKLOADS, body_weights, make_model, workload

from unmask.training.rate import flops_of_a_token, matrix_rate


def main() -> None:
    """Measure and print a table for each shape and workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=sorted(SHAPES), default=["135m"])
    parser.add_argument("--workload", nargs="+", choices=[*WORKLOADS, "latency"], default=["mixed"])
    parser.add_argument("--texts", type=int, default=256, help="texts of the mixed workload (default: 256)")
    parser.add_argument("--source", type=Path, help="jsonl of texts; prose that ships with Python by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--oracle", help="Python with the released llm2vec (make oracle)")
    parser.add_argument("--exports", help="Python with ONNX and OpenVINO under sentence-transformers")
    parser.add_argument("--peers", nargs="+", help="only these lines")
    arguments = parser.parse_args()
    print(machine())
    for shape in arguments.shape:
        with tempfile.TemporaryDirectory() as scratch:
            folders = _folders(shape, Path(scratch))
            for name in arguments.workload:
                _compare(shape, name, folders, arguments, scratch)


def _folders(shape: str, scratch: Path) -> dict[str, str]:
    """The same weights as an encoder and as a causal model."""
    from unmask import TextEncoder

    causal, encoder = scratch / "causal", scratch / "encoder"
    make_model(shape, causal)
    TextEncoder.load(causal, attention="bidirectional", dtype="bfloat16").save(encoder)
    return {"model": str(encoder), "llm2vec_model": str(causal)}


def _compare(shape: str, name: str, folders: dict[str, str], arguments: argparse.Namespace, scratch: str) -> None:
    count = {"short": 2 * arguments.texts, "long": arguments.texts // 8, "latency": 32}.get(name, arguments.texts)
    texts = workload("short" if name == "latency" else name, count, arguments.source)
    shared: dict[str, Any] = {**folders, "texts": texts, "scratch": scratch}
    shared["latency"] = name == "latency"
    lines = {}
    for dtype in ("bfloat16", "float32"):
        job = shared | {"dtype": dtype}
        short = {"bfloat16": "bf16", "float32": "fp32"}[dtype]
        for peer in ("unmask", "sentence-transformers", "transformers"):
            lines[f"{peer} {short}"] = (sys.executable, f"{peer}.encode", job)
        lines[f"unmask compiled {short}"] = (sys.executable, "unmask.encode", job | {"compile": True})
        for backend in ("onnx", "openvino") if arguments.exports else ():
            lines[f"{backend} {short}"] = (arguments.exports, f"{backend}.encode", job)
        if arguments.oracle and "family" not in SHAPES[shape]:  # it knows Qwen2, not Qwen3
            lines[f"llm2vec {short}"] = (arguments.oracle, "llm2vec.encode", job)
    if arguments.peers:
        lines = {line: value for line, value in lines.items() if line in arguments.peers}
    _table(shape, name, race(lines, arguments.rounds))


def _table(shape: str, name: str, found: dict[str, list[dict[str, Any]]]) -> None:
    ours = found["unmask bf16"]
    tokens = ours[0]["tokens"] / (32 if name == "latency" else 1)
    flops = flops_of_a_token(body_weights(shape)) * tokens
    expected = np.load(found.get("unmask fp32", ours)[0]["vectors"])
    print(f"\n{shape}, {name}: {tokens:,.0f} tokens a run")
    print(f"{'library':<28} {'seconds':>8} {'tokens/s':>9} {'unmask bf16 is':>14} {'of peak':>8} {'peak MB':>8} cosine")
    base = median(ours, "seconds")
    for line, runs in found.items():
        if not runs:
            continue
        seconds = median(runs, "seconds")
        rate = matrix_rate(torch.bfloat16 if line.endswith("bf16") else torch.float32, 0.3)
        share = flops / seconds / rate
        cosine = _cosine(np.load(runs[0]["vectors"]), expected)
        print(
            f"{line:<28} {seconds:>8.3f} {tokens / seconds:>9,.0f} {seconds / base:>13.2f}x {share:>8.0%} "
            f"{median(runs, 'peak_mb'):>8,.0f} {cosine:.5f}",
            flush=True,
        )


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The smallest over texts."""
    products = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(products.min())


if __name__ == "__main__":
    main()
