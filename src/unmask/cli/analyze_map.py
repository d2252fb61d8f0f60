"""`unmask analyze VECTORS --map --out DIR`: vectors as a picture on one page; how Embedding Atlas opens them."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.cli.console import opening, positive, show
from unmask.errors import ArtifactError, RecipeError

if TYPE_CHECKING:
    from unmask.corpus.vectors import Vectors

_OF_MODELS = ("text", "context", "triples", "pairs", "checkpoints")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--map",
        action="store_true",
        help="TARGET is a Parquet file of vectors, a folder of them, or .npy: draw it on map.html",
    )
    parser.add_argument(
        "--method",
        choices=("tsne", "umap"),
        help="of the map: t-SNE, or UMAP, which needs umap-learn and is faster for many rows (default: tsne)",
    )
    parser.add_argument(
        "--rows", type=positive, metavar="N", help="most rows on the map, drawn at random (default: 10000)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Draw a sample of the rows."""
    from unmask.analysis.map import Method, lay_out, write_map
    from unmask.corpus.vectors import open_vectors

    given = [name for name in _OF_MODELS if getattr(arguments, name)] + sorted(opening(arguments))
    if given:
        raise RecipeError(f"--map draws vectors that are there already; leave out {', '.join(given)}.")
    path, page = Path(arguments.target), Path(arguments.out) / "map.html"
    vectors = open_vectors(path)
    rows = vectors.sample(arguments.rows or 10_000)
    method: Method = arguments.method or "tsne"
    points = lay_out(vectors.floats(vectors.take(rows)), method)
    columns = vectors.columns(rows)
    name = {"tsne": "t-SNE", "umap": "UMAP"}[method]
    drawn = f"All {len(rows):,} rows" if len(rows) == vectors.rows else f"{len(rows):,} of {vectors.rows:,} rows"
    lead = f"{drawn} by {name}: near points have vectors of high cosine; distances between far ones say little."
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_map(page, points, columns, title=path.name, lead=lead)
    except OSError as error:
        raise ArtifactError(f"{page} cannot be written ({error.strerror}).") from error
    atlas = _atlas(vectors, columns[0])
    found = {"map": str(page), "rows": len(rows), "of": vectors.rows, "method": method, "embedding_atlas": atlas}
    show(arguments, found, atlas or "", f"map: {page}" + ("; in Embedding Atlas:" if atlas else ""))


def _atlas(vectors: "Vectors", columns: dict[str, Any]) -> str | None:
    """The command that opens the same files in Embedding Atlas, which reads Parquet, and numbers but no bits."""
    from unmask.corpus.vectors import COLUMN

    if vectors.precision == "binary" or any(path.suffix == ".npy" for path in vectors.paths):
        return None
    texts = [name for name, value in columns.items() if isinstance(value, str) and name != "id"]
    text = "text" if "text" in texts else next(iter(texts), None)
    files = shlex.quote(str(vectors.path)) + ("/*.parquet" if vectors.path.is_dir() else "")
    return " ".join(
        ["uvx embedding-atlas", files, "--vector", COLUMN, *(["--text", shlex.quote(text)] if text else [])]
    )
