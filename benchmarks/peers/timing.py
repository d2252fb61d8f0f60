"""What all libraries are timed with."""

import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path


def peak_mb():
    """The most memory this process and those it started have had."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux `ru_maxrss` may be that of the process which started this one
        return sum(_peak_of(number) for number in _family(os.getpid()))
    unit = 2**20 if sys.platform == "darwin" else 1024  # bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _family(number):
    yield number
    for children in Path(f"/proc/{number}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _family(int(child))


def _peak_of(number):
    lines = Path(f"/proc/{number}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def reader(job):
    """Texts to token ids by the encoder's own tokenizer, cut where the encoder cuts: for libraries that take ids."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{job['model']}/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(job["max_length"])
    return lambda texts: [found.ids for found in tokenizer.encode_batch(texts)]


def timed_encoding(job, encode):
    """Seconds of a pass over all texts, the median of three, after a short one; with latency that over single texts."""
    texts = job["texts"]
    encode(texts[:4])
    if job.get("latency"):
        seconds = []
        for text in texts:
            started = time.perf_counter()
            encode([text])
            seconds.append(time.perf_counter() - started)
        vectors = encode(texts)
        return {"seconds": statistics.median(seconds), **kept(job, vectors)}
    passes = []
    for _ in range(3):  # in one process: starting one takes longer than a pass
        started = time.perf_counter()
        vectors = encode(texts)
        passes.append(time.perf_counter() - started)
    return {"seconds": statistics.median(passes), **kept(job, vectors)}


def kept(job, vectors):
    """Write the vectors for the comparison."""
    import numpy as np

    path = tempfile.mkstemp(suffix=".npy", dir=job["scratch"])[1]
    np.save(path, np.asarray(vectors, dtype=np.float32))
    return {"vectors": path}
