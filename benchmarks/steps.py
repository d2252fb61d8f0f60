"""Training steps beside other libraries: same weights, same texts, LoRA of rank 16 on every linear layer, same dtype.

python benchmarks/steps.py --oracle .venv-oracle/bin/python --source wiki.jsonl --sentences sentences.txt

MNTP: blocks of 512 tokens, beside the released run_mntp. SimCSE: beside the released run_simcse and the trainer of
sentence-transformers with MultipleNegativesRankingLoss on (a, a). Gradient checkpointing is off everywhere. Layers are
compiled in the line that says so. Each run is a process of its own; libraries take turns; tokens/s come from the median
step, the peak is the whole process's.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from race import median, race
from report import Report, add_json
from shapes import SHAPES, make_model, workload


def main() -> None:
    """Measure and print a table for each objective."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="135m")
    parser.add_argument("--objective", nargs="+", choices=["mntp", "simcse"], default=["mntp", "simcse"])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--blocks", type=int, default=8, help="blocks of 512 tokens a step of MNTP (default: 8)")
    parser.add_argument("--rows", type=int, default=32, help="texts a step of SimCSE (default: 32)")
    parser.add_argument("--micro-tokens", type=int, default=2048, help="tokens at a time, of ours (default: 2048)")
    parser.add_argument("--source", type=Path, help="jsonl of texts; prose that ships with Python by default")
    parser.add_argument("--sentences", type=Path, help="a text a line; the same prose by default")
    parser.add_argument("--oracle", help="Python with the released llm2vec (make oracle)")
    add_json(parser)
    arguments = parser.parse_args()
    report = Report(arguments.json)
    with tempfile.TemporaryDirectory() as scratch:
        job = _job(arguments, Path(scratch))
        sizes = {
            "mntp": {"rows": arguments.blocks, "length": 512},
            "simcse": {"rows": arguments.rows, "length": 128},
        }
        for objective in arguments.objective:
            own = f"unmask.{objective}"
            lines = {"unmask": (sys.executable, own, job | sizes[objective])}
            lines["unmask compiled"] = (sys.executable, own, job | sizes[objective] | {"compile": True})
            if objective == "simcse":
                peer = ("sentence-transformers.simcse", job | sizes[objective])
                lines["sentence-transformers"] = (sys.executable, *peer)
            if arguments.oracle:
                lines["llm2vec"] = (arguments.oracle, f"llm2vec.{objective}", job | sizes[objective])
            _table(report, f"{arguments.shape}, {objective}, {arguments.dtype}", race(lines, arguments.rounds))


def _job(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    causal, encoder = scratch / "causal", scratch / "encoder"
    make_model(arguments.shape, causal, dtype=arguments.dtype)
    make_model(arguments.shape, encoder, dtype=arguments.dtype, head=False, causal=False)
    if arguments.sentences:
        sentences = arguments.sentences.read_text(encoding="utf-8").splitlines()
    else:
        sentences = workload("short", 1000, None)
    needed = arguments.rows * (arguments.steps + 1)
    return {
        "causal_model": str(causal),
        "model": str(encoder),
        "documents": workload("long", 2 * arguments.blocks * (arguments.steps + 2), arguments.source),
        "sentences": sentences[:needed],
        "steps": arguments.steps,
        "dtype": arguments.dtype,
        "micro_tokens": arguments.micro_tokens,
        "scratch": str(scratch),
    }


def _table(report: Report, title: str, found: dict[str, list[dict[str, Any]]]) -> None:
    report.table(title, "library", "tokens/s", "unmask is", "peak MB")
    ours = median(found["unmask"], "tokens_per_second")
    for line, runs in found.items():
        if runs:
            rate = median(runs, "tokens_per_second")
            report.row(line, f"{rate:,.0f}", f"{ours / rate:.2f}x", f"{median(runs, 'peak_mb'):,.0f}")


if __name__ == "__main__":
    main()
