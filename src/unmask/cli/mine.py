"""`unmask mine ENCODER --pairs FILE --corpus FILE --out FILE`: hard negatives for supervised training."""

import argparse
from pathlib import Path

from unmask.cli.console import (
    MODEL_HELP,
    add_encoder_options,
    add_quoting,
    check_new,
    open_encoder,
    positive,
    progress_wanted,
    show,
)

HELP = "hard negatives: documents near a query that are not its answer"
EXAMPLE = "mine pocket-bi --pairs pairs.jsonl --corpus documents.jsonl --negatives 4 --share 0.95 --out triples.jsonl"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("encoder", metavar="ENCODER", help=MODEL_HELP)
    parser.add_argument(
        "--pairs", nargs="+", required=True, metavar="FILE", help="files or hub data sets with query and positive"
    )
    parser.add_argument(
        "--corpus", nargs="+", metavar="FILE", help="documents to search (default: the positives of all pairs)"
    )
    parser.add_argument(
        "--columns", nargs=2, metavar=("QUERY", "POSITIVE"), help="columns or keys of the pairs (default: usual names)"
    )
    parser.add_argument("--field", default="text", help="column or key of a document's text (default: text)")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="keep pairs with this value only, for example label=1; repeat for more conditions",
    )
    add_quoting(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="jsonl file to write")
    parser.add_argument("--negatives", type=positive, default=1, metavar="N", help="of each pair (default: 1)")
    parser.add_argument("--first-rank", type=positive, default=1, metavar="N", help="best rank to take (default: 1)")
    parser.add_argument("--last-rank", type=positive, default=100, metavar="N", help="worst rank (default: 100)")
    parser.add_argument("--margin", type=float, metavar="X", help="keep this far below the cosine of the positive")
    parser.add_argument("--share", type=float, metavar="X", help="stay below this share of the positive's cosine")
    parser.add_argument(
        "--choice", choices=("top", "random"), default="top", help="the best that pass, or any of them (default: top)"
    )
    parser.add_argument("--prompt", help="instruction in front of queries")
    parser.add_argument("--document-prompt", help="instruction in front of documents")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random (default: 0)")
    add_encoder_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Read the files before the model is loaded."""
    from unmask.corpus.mine import Filters, mine
    from unmask.data.pairs import PairColumns, read_pairs
    from unmask.data.sources import read_texts
    from unmask.errors import DataError

    check_new(arguments.out, folder=False)
    if Path(arguments.out).exists():
        raise DataError(f"{arguments.out} exists already; choose another --out or remove it.")
    filters = Filters(
        count=arguments.negatives,
        first=arguments.first_rank - 1,
        last=arguments.last_rank,
        margin=arguments.margin,
        share=arguments.share,
        choice=arguments.choice,
    )
    query, answer = arguments.columns or (None, None)
    columns = PairColumns(query, answer, where=_conditions(arguments.where))
    pairs = list(read_pairs(arguments.pairs, columns, quoting=arguments.quoting))
    if arguments.corpus:
        corpus = read_texts(arguments.corpus, field=arguments.field, quoting=arguments.quoting)
    else:
        corpus = [pair.positive for pair in pairs]
    found = mine(
        open_encoder(arguments),
        pairs,
        corpus,
        Path(arguments.out),
        filters=filters,
        prompt=arguments.prompt,
        document_prompt=arguments.document_prompt,
        seed=arguments.seed,
        progress=progress_wanted(),
    )
    note = f"{found.pairs:,} pairs with negatives written to {arguments.out}"
    if found.fewer or found.none:
        note += (
            f"\n{found.fewer:,} of them have fewer than {filters.count} negatives; {found.none:,} more had none and "
            "were left out: loosen --margin, --share or --last-rank."
        )
    counts = {"pairs": found.pairs, "fewer": found.fewer, "none": found.none}
    show(arguments, {**counts, "out": arguments.out}, note=note)


def _conditions(given: list[str]) -> dict[str, str]:
    """`label=1` to column and value."""
    from unmask.errors import DataError

    found = dict(entry.split("=", 1) for entry in given if "=" in entry)
    if len(found) < len(given):
        raise DataError(f"--where {' '.join(given)}: expected COLUMN=VALUE, each column once, for example label=1.")
    return found
