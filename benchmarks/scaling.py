"""Encoding as the work grows: time a text and peak memory over the number of texts, tokens/s over their length.

python benchmarks/scaling.py --sentences sentences.txt --counts 1000 10000 100000 --lengths 64 512 4096 8192

Each line is a process of its own.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from race import machine, race
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
    arguments = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        _counts(arguments, scratch)
        _lengths(arguments, scratch)


def _counts(arguments: argparse.Namespace, scratch: str) -> None:
    if arguments.sentences:
        lines = arguments.sentences.read_text(encoding="utf-8").splitlines()
    else:
        lines = workload("short", 1000, None)
    shared = {"model": arguments.model, "dtype": "auto", "scratch": scratch, "attention": "bidirectional"}
    print(f"\n{'texts':>8} {'ms a text':>10} {'tokens/s':>9} {'peak MB':>8}")
    for count in arguments.counts:
        texts = (lines * (count // len(lines) + 1))[:count]
        (run,) = race({"": (sys.executable, "unmask.encode", shared | {"texts": texts})}, 1)[""]
        rate, each = run["tokens"] / run["seconds"], 1000 * run["seconds"] / count
        print(f"{count:>8,} {each:>10.3f} {rate:>9,.0f} {run['peak_mb']:>8,.0f}", flush=True)


def _lengths(arguments: argparse.Namespace, scratch: str) -> None:
    from unmask.backbone.locate import load_tokenizer

    folder = Path(scratch) / "model"
    make_model(arguments.shape, folder, head=False, causal=False)
    tokenizer = load_tokenizer("pocket")
    ids = tokenizer(" ".join(workload("long", 200, None)), add_special_tokens=False)["input_ids"]
    shared = {"model": str(folder), "dtype": "bfloat16", "scratch": scratch}
    print(f"\n{'length':>8} {'tokens/s':>9} {'peak MB':>8}")
    for length in arguments.lengths:
        count = max(1, arguments.tokens // length)
        starts = [i * length % (len(ids) - length) for i in range(count)]
        texts = [tokenizer.decode(ids[at : at + length - 8]) for at in starts]
        (run,) = race({"": (sys.executable, "unmask.encode", shared | {"texts": texts})}, 1)[""]
        print(f"{length:>8,} {run['tokens'] / run['seconds']:>9,.0f} {run['peak_mb']:>8,.0f}", flush=True)


if __name__ == "__main__":
    main()
