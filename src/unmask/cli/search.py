"""`unmask search VECTORS QUERY...`: the rows nearest to queries, with what is kept of them."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.cli.console import add_encoder_options, add_quoting, open_encoder, positive, progress_wanted, show
from unmask.errors import ArtifactError, DataError, UnmaskError

if TYPE_CHECKING:
    from unmask.corpus.index import Index
    from unmask.corpus.search import Hit
    from unmask.corpus.vectors import Vectors

HELP = "find the rows of a file of vectors that are nearest to queries"
EXAMPLE = "search vectors.parquet 'how do I reset my password?' --top-k 5"
_WIDEST = 100  # characters of a cell that a terminal shows


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "vectors", metavar="VECTORS", help="Parquet file, folder of them, .npy, or a folder of `unmask index`"
    )
    parser.add_argument("queries", nargs="*", metavar="QUERY", help="a text")
    parser.add_argument("--queries", dest="file", metavar="FILE", help="txt, csv, tsv, JSON or Parquet file of queries")
    parser.add_argument("--field", default="text", help="column or key of a query in the file (default: text)")
    add_quoting(parser)
    parser.add_argument("--top-k", type=positive, default=10, metavar="K", help="rows a query (default: 10)")
    parser.add_argument("--encoder", metavar="ENCODER", help="of the queries (default: the one that the file names)")
    parser.add_argument("--prompt", help="instruction in front of queries (default: the saved prompt `query`)")
    parser.add_argument("--prompt-name", metavar="NAME", help="another of the encoder's saved prompts")
    add_encoder_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Look at queries and vectors before the model is loaded."""
    from unmask.corpus.origin import check_encoder

    path = Path(arguments.vectors)
    queries = _queries(arguments)
    source = _open(path)
    encoder = _encoder(arguments, source)
    check_encoder(encoder, arguments.encoder, path, source.origin, source.dimension)
    asked = encoder.encode_query(queries, prompt=arguments.prompt, prompt_name=arguments.prompt_name)
    if arguments.top_k > source.rows:
        print(f"{path} holds {source.rows:,} rows, so all of them are returned.", file=sys.stderr)
    hits, how = _search(source, asked[:, : source.dimension], arguments.top_k)
    found = {
        "vectors": str(path),
        "rows": source.rows,
        "encoder": arguments.encoder,
        "method": how,
        "results": [
            {"query": query, "hits": [{"cosine": hit.cosine, "columns": _plain(hit.columns)} for hit in own]}
            for query, own in zip(queries, hits, strict=True)
        ],
    }
    text = "\n\n".join(_shown(query, own) for query, own in zip(queries, hits, strict=True))
    show(arguments, found, text, f"{source.rows:,} rows: {how}")


def _queries(arguments: argparse.Namespace) -> list[str]:
    from unmask.data.records import read_records

    if bool(arguments.queries) == bool(arguments.file):
        raise DataError("Give queries behind VECTORS, or a file of them with --queries; one of the two.")
    if not arguments.file:
        queries = list(arguments.queries)
    else:
        records = read_records(Path(arguments.file), field=arguments.field, quoting=arguments.quoting)
        queries = [record.text for record in records]
    empty = next((number for number, query in enumerate(queries, 1) if not query.strip()), None)
    if empty is not None:
        raise DataError(f"{arguments.file or 'The command line'}: query {empty} is empty.")
    if not queries:
        raise DataError(f"{arguments.file}: no query found.")
    return queries


def _open(path: Path) -> "Vectors | Index":
    from unmask.corpus.index import FACTS, Index
    from unmask.corpus.vectors import open_vectors

    return Index(path) if (path / FACTS).is_file() else open_vectors(path)


def _encoder(arguments: argparse.Namespace, source: "Vectors | Index") -> Any:
    """The one that is asked for, or the one that made the vectors."""
    if arguments.encoder is not None:
        return open_encoder(arguments)
    arguments.encoder = source.origin.encoder
    if arguments.encoder is None:
        raise DataError(f"{source.path} does not say which encoder its vectors are from; name it with --encoder.")
    try:
        return open_encoder(arguments)
    except (UnmaskError, OSError) as error:
        raise ArtifactError(
            f"{source.path} holds vectors of {arguments.encoder}, which cannot be opened ({error}); "
            "name where it is now with --encoder."
        ) from error


def _search(source: "Vectors | Index", queries: Any, count: int) -> tuple[list[list["Hit"]], str]:
    """What is found, and how it was looked for, in words."""
    from unmask.corpus.index import Index
    from unmask.corpus.search import method, search_vectors

    if isinstance(source, Index):
        return source.search(queries, count), source.method
    return search_vectors(source, queries, count, progress=progress_wanted()), method(source, count)


def _plain(columns: dict[str, Any]) -> Any:
    """Dates, bytes and the like as text, for JSON."""
    return json.loads(json.dumps(columns, default=str))


def _shown(query: str, hits: list["Hit"]) -> str:
    """A query and its rows for a terminal, a line each."""
    lines = [" ".join(query.split())]
    for hit in hits:
        cells = [" ".join(str(value).split()) for value in hit.columns.values() if value is not None]
        short = [cell if len(cell) <= _WIDEST else cell[: _WIDEST - 1] + "…" for cell in cells]
        lines.append("  ".join([f"{hit.cosine:7.4f}", *short]))
    return "\n".join(lines)
