"""`unmask index VECTORS --out DIR`: a LanceDB index for approximate search, with the recall that it has."""

import argparse
from dataclasses import asdict
from pathlib import Path

from unmask.cli.console import add_json, check_new, progress_wanted, show

HELP = "index a file of vectors with LanceDB, for more rows than exact search reads in the time there is"
EXAMPLE = "index vectors --out vectors-index"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("vectors", metavar="VECTORS", help="Parquet file, folder of them, or .npy")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder")
    parser.add_argument(
        "--recall",
        type=_share,
        default=0.95,
        metavar="X",
        help="share of the ten nearest rows that a search is to find; more takes longer (default: 0.95)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Build the index and say what it finds."""
    from unmask.corpus.index import build_index
    from unmask.corpus.vectors import open_vectors

    check_new(arguments.out, folder=True)
    vectors = open_vectors(Path(arguments.vectors))
    facts = build_index(vectors, Path(arguments.out), recall=arguments.recall, progress=progress_wanted())
    how = (
        f"{facts.probes} of {facts.partitions} partitions are searched"
        if facts.partitions
        else "too few rows to gain by partitions, so all of them are searched"
    )
    note = f"{facts.rows:,} rows indexed in {arguments.out}; recall@10 against exact search {facts.recall:.3f}: {how}"
    if facts.recall < arguments.recall:
        note += f"\nThat is less than {arguments.recall}; search {arguments.vectors} itself for exact results."
    show(arguments, asdict(facts) | {"out": arguments.out}, note=note)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and up to 1")
    return share
