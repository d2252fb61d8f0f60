"""The work of `TextEncoder.encode`: batches through the model, tokenizing ahead, by whatever path is fastest here."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from unmask.encoder.words import Floats
from unmask.text.spans import TokenizedText

if TYPE_CHECKING:
    from unmask.encoder.text_encoder import TextEncoder

_WINDOW = 4096  # texts tokenized and sorted at a time, so that memory does not grow with the input


@torch.inference_mode()
def text_vectors(
    encoder: "TextEncoder",
    texts: Sequence[str],
    prompt: str,
    *,
    batch_tokens: int | None,
    compile: bool | None,
    progress: bool,
) -> Floats:
    """Vectors [texts, width] as the model gives them, not scaled; see `TextEncoder.encode`."""
    fast = encoder.fast_paths
    vectors = np.empty((len(texts), encoder.dimension), dtype=np.float32)
    if compile and encoder.padding_free:
        fast.compiled.compile()
    started, done = time.perf_counter(), 0
    with tqdm(total=len(texts), unit="text", disable=not progress, desc="encoding") as bar:
        for start, tokenized in _windows(encoder, texts, prompt):
            tokens = sum(len(text) for text in tokenized)
            later = tokens * (len(texts) - start - len(tokenized)) // len(tokenized)
            found: list[tuple[list[int], torch.Tensor]] = []
            for rows, batch in encoder.batches(tokenized, batch_tokens):
                found.append((rows, fast.compiled.run(encoder.module, batch)))
                bar.update(len(rows))
                done, tokens = done + batch.num_tokens, tokens - batch.num_tokens
                if compile is None and encoder.padding_free:
                    fast.compiled.compile_if_it_pays(time.perf_counter() - started, done, tokens + later)
            for rows, own in found:  # after all of them: a GPU is never waited for between two batches
                vectors[start + np.asarray(rows)] = own.cpu().numpy()
    return vectors


def _windows(encoder: "TextEncoder", texts: Sequence[str], prompt: str) -> Iterator[tuple[int, list[TokenizedText]]]:
    """Some thousand texts at a time with the number of the first; the next are tokenized in a thread meanwhile."""
    if len(texts) <= _WINDOW:
        if len(texts):
            yield 0, encoder.tokenize(texts, prompt)
        return
    starts = range(0, len(texts), _WINDOW)
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(encoder.tokenize, texts[:_WINDOW], prompt)
        for start in starts:
            ready, after = ahead.result(), start + _WINDOW
            if after < len(texts):
                ahead = pool.submit(encoder.tokenize, texts[after : after + _WINDOW], prompt)
            yield start, ready
