"""Exact search by cosine over a corpus that is read as it comes."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from tqdm import tqdm

from unmask.encoder.stream import EncodeOptions, Floats, with_saved_prompt
from unmask.encoder.text_encoder import TextEncoder
from unmask.text.chunks import chunks

_DOCUMENTS_AT_ONCE = 1024
_QUERIES_AT_ONCE = 2048  # whose scores against a block of documents exist at a time


def search(
    encoder: TextEncoder,
    queries: Floats,
    documents: Iterable[tuple[Any, str]],
    *,
    depth: int,
    prompt: str | None = None,
    max_length: int | None = None,
    total: int | None = None,
    progress: bool = False,
) -> tuple[Floats, np.ndarray[Any, Any], int]:
    """The best documents of each query; memory holds those, not the corpus.

    Args:
        encoder: encodes the documents.
        queries: vectors of length 1, float32 [queries, width].
        documents: id and text of each.
        depth: how many to keep.
        prompt: instruction in front of documents; by default the one that is saved for them.
        max_length: most tokens of a document; None for the encoder's.
        total: how many documents will come, if that is known.
        progress: show a bar.

    Returns:
        Cosines and ids, best first, [queries, at most depth] each, and how many documents there are.
    """
    best: Floats = np.empty((len(queries), 0), dtype=np.float32)
    ids = np.empty((len(queries), 0), dtype=object)
    count = 0
    asked = EncodeOptions(prompt=prompt, normalize=True, max_length=max_length)
    options = with_saved_prompt(encoder.settings, "document", asked)
    with tqdm(desc="documents", unit="text", disable=not progress) as bar:
        for names, vectors in encoder.stream_keyed(documents, total=total, **options):
            for part in chunks(range(len(names)), _DOCUMENTS_AT_ONCE):
                where = slice(part[0], part[-1] + 1)
                own = np.empty(len(part), dtype=object)
                own[:] = names[where]
                kept = min(depth, best.shape[1] + len(part))
                rows = [slice(at, at + _QUERIES_AT_ONCE) for at in range(0, len(queries), _QUERIES_AT_ONCE)]
                merged = [_keep(best[one], queries[one] @ vectors[where].T, ids[one], own, kept) for one in rows]
                best, ids = (np.concatenate(columns) for columns in zip(*merged, strict=True))
            count += len(names)
            bar.update(len(names))
    order = np.argsort(-best, axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(ids, order, axis=1), count


def _keep(best: Floats, scores: Floats, ids: Any, own: Any, kept: int) -> tuple[Floats, Any]:
    """The best of those so far and of a block of new ones, in no order."""
    together = np.concatenate([best, scores], axis=1)
    names = np.concatenate([ids, np.broadcast_to(own, scores.shape)], axis=1)
    top = np.argpartition(-together, kept - 1, axis=1)[:, :kept]
    return np.take_along_axis(together, top, axis=1), np.take_along_axis(names, top, axis=1)
