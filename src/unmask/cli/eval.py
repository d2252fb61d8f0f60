"""`unmask eval sts|words ENCODER ...`: what an encoder is worth on local files."""

import argparse
from pathlib import Path
from typing import Any

from unmask.cli.console import add_encoder_options, add_json, open_encoder, print_json, progress_wanted, table


def add_parser(commands: Any) -> None:
    """Add the command and its tasks."""
    parser = commands.add_parser("eval", help="evaluate an encoder on local files: sts, words")
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    sts = tasks.add_parser(
        "sts",
        help="sentence pairs with scores: Spearman and Pearson correlation of the cosine",
        epilog="example: unmask eval sts pocket-bi --data stsb-en-dev.csv",
    )
    sts.add_argument("encoder", metavar="ENCODER")
    sts.add_argument("--data", required=True, metavar="FILE", help="csv, tsv or jsonl")
    sts.add_argument("--columns", nargs=3, metavar=("FIRST", "SECOND", "SCORE"), help="names of the columns or keys")
    sts.add_argument("--prompt", help="instruction put in front of both texts")
    sts.set_defaults(run=run_sts)
    words = tasks.add_parser(
        "words",
        help="labelled words: accuracy of a linear probe, and entity F1 for BIO labels",
        epilog="example: unmask eval words pocket-bi --train train.conll --test test.conll --label-column 2",
    )
    words.add_argument("encoder", metavar="ENCODER")
    words.add_argument("--train", required=True, metavar="FILE", help="CoNLL columns or CoNLL-U")
    words.add_argument("--test", required=True, metavar="FILE")
    words.add_argument("--word-column", type=int, metavar="N", help="from 0 (default: 0; CoNLL-U: 1)")
    words.add_argument(
        "--label-column",
        type=int,
        metavar="N",
        help="from 0, negative from the end (default: the last; CoNLL-U: 3)",
    )
    words.add_argument(
        "--position",
        choices=("same", "previous"),
        default="same",
        help="a word's own states, or those one token before",
    )
    words.add_argument("--limit", type=int, metavar="N", help="train on the first N sentences")
    words.set_defaults(run=run_words)
    for task in (sts, words):
        add_encoder_options(task)
        add_json(task)


def run_sts(arguments: argparse.Namespace) -> int:
    """Read the pairs, then load the encoder."""
    from unmask.evaluation.similarity import evaluate_similarity, read_pairs

    columns = tuple(arguments.columns) if arguments.columns else None
    pairs = read_pairs(Path(arguments.data), columns=columns)
    result = evaluate_similarity(open_encoder(arguments), pairs, prompt=arguments.prompt, progress=progress_wanted())
    _show(arguments, result.to_dict())
    return 0


def run_words(arguments: argparse.Namespace) -> int:
    """Read the labelled sentences, then load the encoder."""
    from unmask.data.words import read_labelled
    from unmask.evaluation.words import evaluate_words

    columns = {"word_column": arguments.word_column, "label_column": arguments.label_column}
    train = read_labelled(Path(arguments.train), limit=arguments.limit, **columns)
    test = read_labelled(Path(arguments.test), **columns)
    result = evaluate_words(
        open_encoder(arguments), train, test, position=arguments.position, progress=progress_wanted()
    )
    _show(arguments, result.to_dict())
    return 0


def _show(arguments: argparse.Namespace, figures: dict[str, Any]) -> None:
    if arguments.json:
        print_json({"encoder": arguments.encoder, "task": arguments.task, **figures})
        return
    rows = [[k, f"{v:.2f}" if isinstance(v, float) else str(v)] for k, v in figures.items() if v is not None]
    print(table([arguments.task, ""], rows))
