"""Encoding as the work grows: time a text and peak memory over the number of texts, tokens/s over their length.

python benchmarks/scaling.py --sentences sentences.txt --counts 1000 10000 100000 --lengths 64 512 4096 8192

Each line is a process of its own.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from race import race
from report import Report, add_json
from shapes import SHAPES, make_model, workload


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket", help="for the counts (default: pocket)")
    parser.add_argument("--counts", nargs="*", type=int, default=[1000, 10000])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="30m", help="for the lengths (default: 30m)")
    parser.add_argument("--lengths", nargs="*", type=int, default=[64, 128, 256, 512, 1024, 2048, 4096, 8192])
    parser.add_argument("--tokens", type=int, default=32768, help="of all texts of one length (default: 32768)")
    parser.add_argument("--sentences", type=Path, help="a text a line; prose that ships with Python by default")
    add_json(parser)
    arguments = parser.parse_args()
    report = Report(arguments.json)
    with tempfile.TemporaryDirectory() as scratch:
        _counts(report, arguments, scratch)
        _lengths(report, arguments, scratch)


def _counts(report: Report, arguments: argparse.Namespace, scratch: str) -> None:
    if arguments.sentences:
        lines = arguments.sentences.read_text(encoding="utf-8").splitlines()
    else:
        lines = workload("short", 1000, None)
    shared = {"model": arguments.model, "dtype": "auto", "scratch": scratch, "attention": "bidirectional"}
    report.table(f"{arguments.model}, by the number of texts", "texts", "ms a text", "tokens/s", "peak MB")
    for count in arguments.counts:
        texts = (lines * (count // len(lines) + 1))[:count]
        (run,) = race({"": (sys.executable, "unmask.encode", shared | {"texts": texts})}, 1)[""]
        rate, each = run["tokens"] / run["seconds"], 1000 * run["seconds"] / count
        report.row(f"{count:,}", f"{each:.3f}", f"{rate:,.0f}", f"{run['peak_mb']:,.0f}")


def _lengths(report: Report, arguments: argparse.Namespace, scratch: str) -> None:
    from unmask.backbone.locate import load_tokenizer

    folder = Path(scratch) / "model"
    make_model(arguments.shape, folder, head=False, causal=False)
    tokenizer = load_tokenizer("pocket")
    ids = tokenizer(" ".join(workload("long", 200, None)), add_special_tokens=False)["input_ids"]
    shared = {"model": str(folder), "dtype": "bfloat16", "scratch": scratch}
    report.table(f"{arguments.shape}, bfloat16, by length", "length", "tokens/s", "peak MB")
    for length in arguments.lengths:
        count = max(1, arguments.tokens // length)
        starts = [i * length % (len(ids) - length) for i in range(count)]
        texts = [tokenizer.decode(ids[at : at + length - 8]) for at in starts]
        (run,) = race({"": (sys.executable, "unmask.encode", shared | {"texts": texts})}, 1)[""]
        report.row(f"{length:,}", f"{run['tokens'] / run['seconds']:,.0f}", f"{run['peak_mb']:,.0f}")


if __name__ == "__main__":
    main()
