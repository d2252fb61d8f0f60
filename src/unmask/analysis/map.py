"""Vectors as a picture: near ones lie near each other in a plane; one page with hover text, search and colours."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unmask.encoder import Floats
from unmask.errors import DataError, MissingExtraError
from unmask.files import write_text

Method = Literal["tsne", "umap"]
LEAST = 5  # rows that a plane can say something of
_PERPLEXITY = 30  # about so many neighbours are to stay near; fewer where there are few rows
_LONGEST = 400  # characters of a cell, which the page shows and searches


def lay_out(vectors: Floats, method: Method = "tsne", seed: int = 0) -> Floats:
    """A point of the plane for each vector, so that vectors of high cosine lie near each other.

    Distances between far points say little, in either method.

    Args:
        vectors: float32 [rows, width].
        method: t-SNE, or UMAP, which is faster for many rows.
        seed: of where points begin.

    Returns:
        float32 [rows, 2], the longer side of their box from 0 to 1.

    Raises:
        DataError: too few rows.
        MissingExtraError: umap-learn is not installed.
    """
    if len(vectors) < LEAST:
        raise DataError(f"{len(vectors)} vectors make no map; at least {LEAST} are needed.")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
    points: Floats = (_umap if method == "umap" else _tsne)(unit, seed)
    points = points - points.min(axis=0)
    size = points.max(axis=0)
    longer = max(float(size.max()), 1e-12)
    return ((points + (longer - size) / 2) / longer).astype(np.float32)


def _tsne(unit: Floats, seed: int) -> Floats:
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, (len(unit) - 1) / 3)
    found: Floats = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(unit)
    return found


def _umap(unit: Floats, seed: int) -> Floats:
    try:
        from umap import UMAP
    except ImportError as missing:
        raise MissingExtraError("UMAP needs the package umap-learn: pip install 'unmask[map]'") from missing
    neighbours = min(15, len(unit) - 1)
    found: Floats = UMAP(n_neighbors=neighbours, metric="cosine", random_state=seed, n_jobs=1).fit_transform(unit)
    return found


def write_map(path: Path, points: Floats, rows: Sequence[Mapping[str, Any]], *, title: str, lead: str) -> None:
    """Write the page; it fetches nothing.

    Args:
        path: HTML file, which appears when it is whole.
        points: [rows, 2], from 0 to 1.
        rows: what is known of each point: the columns to show, to search and to colour by.
        title: heading.
        lead: what the reader looks at.
    """
    from jinja2 import Environment, StrictUndefined

    names = dict.fromkeys(name for row in rows for name in row)
    data = {
        "x": [round(float(x), 5) for x in points[:, 0]],
        "y": [round(float(y), 5) for y in points[:, 1]],
        "columns": {name: [_cell(row.get(name)) for row in rows] for name in names},
    }
    inline = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    template = (files("unmask") / "analysis" / "map.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    write_text(path, environment.from_string(template).render(title=title, lead=lead, data=inline))


def _cell(value: Any) -> str | int | float | None:
    """A value as the page has it: numbers stay numbers, anything else is text."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
