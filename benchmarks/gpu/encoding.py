"""Encoding: this package and sentence-transformers on one encoder folder, their vectors compared."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from benchmarks.gpu.setup import Row, Setup, seconds_of, smallest_cosine, texts, total_tokens, with_peak
from benchmarks.shapes import body_weights

from unmask.training.rate import flops_of_a_token

_TEXTS = {"135m": 8192, "0.6b": 4096, "1b": 2048}


def encode(setup: Setup, name: str) -> Iterator[Row]:
    """One row a way to encode paragraphs: tokens a second, share of the products' rate, peak memory.

    The peak is that of the whole call with weights; the cosine is the smallest to the first row's vectors.
    """
    from unmask import TextEncoder

    shape = setup.shape(name)
    folder, documents = setup.encoder(shape), texts("mixed", setup.some(24, _TEXTS[name]))
    kept: dict[str, Any] = {}

    def load() -> TextEncoder:
        return TextEncoder.load(folder, dtype=setup.dtype, device=setup.device)

    def row(line: str, make: Callable[[], Callable[[list[str]], np.ndarray]], repeats: int) -> Row:
        def measure() -> float:
            run = make()
            run(documents[: len(documents) // 8])  # kernels are chosen and layers compiled
            found = seconds_of(lambda: kept.update(vectors=run(documents)), setup.device, repeats)
            kept.setdefault("expected", kept["vectors"])
            return found

        seconds, peak = with_peak(setup.device, measure)
        rate = kept["tokens"] / seconds
        share = rate * flops_of_a_token(body_weights(shape)) / setup.rate
        cosine = smallest_cosine(kept["vectors"], kept["expected"])
        return {"line": line, "tokens_per_second": rate, "share": share, "peak": peak, "cosine": cosine}

    tokenized = load().tokenize(documents)
    kept["tokens"] = total_tokens(tokenized)
    yield row("unmask", lambda: load().encode, 3)
    yield row("unmask, tokenized before", lambda: _tokenized_before(load(), tokenized, documents), 3)
    if not setup.tiny:  # a CPU compiles longer than all the rest takes; tests/gpu compiles there too
        yield row("unmask, compiled", lambda: _compiled(load()), 3)
    for rows in (32, 256):
        yield row(f"sentence-transformers, batches of {rows}", lambda rows=rows: _released(setup, folder, rows), 1)


def _tokenized_before(encoder: Any, tokenized: Any, documents: list[str]) -> Callable[[list[str]], np.ndarray]:
    """What the device alone takes: nothing is tokenized while it runs."""

    def run(wanted: list[str]) -> np.ndarray:
        vectors = np.empty((len(wanted), encoder.dimension), dtype=np.float32)
        found = [(rows, encoder.runner.vectors(b)) for rows, b in encoder.batches(tokenized[: len(wanted)])]
        for rows, own in found:
            vectors[np.asarray(rows)] = own.cpu().numpy()
        return vectors

    return run


def _compiled(encoder: Any) -> Callable[[list[str]], np.ndarray]:
    def run(wanted: list[str]) -> np.ndarray:
        vectors = encoder.encode(wanted, compile=True)
        possible = encoder.runner.compiled.available(encoder.model)
        if not possible:  # the package warns and goes on; a figure under this name would be another one's
            raise RuntimeError(possible.reason)
        return np.asarray(vectors)

    return run


def _released(setup: Setup, folder: Any, rows: int) -> Callable[[list[str]], np.ndarray]:
    from sentence_transformers import SentenceTransformer

    options = {"dtype": setup.dtype}
    model = SentenceTransformer(str(folder), device=setup.device, model_kwargs=options)
    return lambda wanted: np.asarray(model.encode(wanted, batch_size=rows), dtype=np.float32)
