"""Encoding speed beside sentence-transformers: same weights, same texts, same dtype, vectors compared.

    make bench          or: python benchmarks/encode.py --rounds 5 --texts 512

The texts are prose that ships with Python, of mixed length. The two run by turns; the median of the rounds counts,
as a ratio, because a shared machine's seconds mean little.
"""

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers.utils import logging

from unmask import TextEncoder, __version__
from unmask.demo.texts import collect_texts


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    texts = collect_texts(num_queries=1).documents[: arguments.texts]
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, unmask {__version__}")
    print(f"{'dtype':<10} {'encoder':<22} {'seconds':>8} {'tokens/s':>10} {'ratio':>6} {'cosine':>9}")
    for dtype in ("float32", "bfloat16"):
        _compare(arguments, texts, dtype)


def _compare(arguments: argparse.Namespace, texts: list[str], dtype: str) -> None:
    """Both encoders by turns, in one dtype."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "encoder"
        TextEncoder.load(arguments.model, attention="bidirectional", dtype=dtype).save(folder)
        ours = TextEncoder.load(folder)
        theirs = SentenceTransformer(str(folder), device=str(ours.device))
        tokens = sum(len(text) for text in ours.tokenize(texts))
        runs = {"unmask": lambda: ours.encode(texts), "sentence-transformers": lambda: theirs.encode(texts)}
        vectors = {name: run() for name, run in runs.items()}  # also warms up
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(arguments.rounds):
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - started)
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors.values())
    slow = statistics.median(seconds["sentence-transformers"])
    for name, values in seconds.items():
        median = statistics.median(values)
        speed = f"{median:>8.2f} {tokens / median:>10,.0f} {slow / median:>5.2f}x"
        print(f"{dtype:<10} {name:<22} {speed} {(a * b).sum(1).min():>9.6f}")


if __name__ == "__main__":
    main()
