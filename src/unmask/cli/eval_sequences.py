"""`unmask eval sts|pairs|classification|clustering|retrieval|reranking ENCODER ...`: sequence-level tasks."""

import argparse
import sys
from typing import Any

from unmask.cli.console import (
    add_encoder_options,
    add_json,
    open_encoder,
    positive,
    print_json,
    progress_wanted,
    table,
)

_SOURCE = "csv, tsv, jsonl or parquet, or a hub data set name[:config]@split"
_BEIR = "folder with corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv; or a hub data set name@split"
_CANDIDATES = "jsonl, or a hub data set name[:config]@split, with query, positive[], negative[]"


def add_tasks(tasks: Any) -> None:
    """Add the tasks; each has the same options for the encoder, the prompt and the output."""
    sts = tasks.add_parser(
        "sts",
        help="sentence pairs with scores: Spearman and Pearson correlation of the cosine",
        epilog="example: unmask eval sts pocket-bi --data stsb-en-dev.csv",
    )
    sts.add_argument("--data", required=True, metavar="FILE", help=_SOURCE)
    sts.add_argument("--columns", nargs=3, metavar=("FIRST", "SECOND", "SCORE"), help="names of the columns or keys")
    pairs = tasks.add_parser(
        "pairs",
        help="sentence pairs labelled 1 (belong together) or 0: average precision of the cosine",
        epilog="example: unmask eval pairs pocket-bi --data duplicates.csv --columns question1 question2 duplicate",
    )
    pairs.add_argument("--data", required=True, metavar="FILE", help=_SOURCE)
    pairs.add_argument("--columns", nargs=3, metavar=("FIRST", "SECOND", "LABEL"), help="default: sentence1 ... label")
    classification = tasks.add_parser(
        "classification",
        help="texts with labels: accuracy of a logistic regression",
        epilog="example: unmask eval classification pocket-bi --train train.csv --test test.csv --shots 8",
    )
    classification.add_argument("--train", required=True, metavar="FILE", help=_SOURCE)
    classification.add_argument("--test", required=True, metavar="FILE")
    classification.add_argument("--shots", type=positive, metavar="N", help="train on N texts a class (MTEB: 8)")
    classification.add_argument("--draws", type=positive, default=10, metavar="N", help="of those texts (default: 10)")
    clustering = tasks.add_parser(
        "clustering",
        help="texts with labels: V-measure of k-means",
        epilog="example: unmask eval clustering pocket-bi --data topics.csv",
    )
    clustering.add_argument("--data", required=True, metavar="FILE", help=_SOURCE)
    clustering.add_argument("--seeds", type=positive, default=10, metavar="N", help="of k-means (default: 10)")
    for task in (classification, clustering):
        task.add_argument("--columns", nargs=2, metavar=("TEXT", "LABEL"), default=("text", "label"))
    retrieval = tasks.add_parser(
        "retrieval",
        help="a BEIR folder: nDCG@10, MAP, MRR@10, recall@100 of exact search",
        epilog="example: unmask eval retrieval pocket-bi --data scifact --prompt 'Given a claim, find its source: '",
    )
    retrieval.add_argument("--data", required=True, metavar="DIR", help=_BEIR)
    retrieval.add_argument("--split", default="test")
    retrieval.add_argument("--ignore-identical-ids", action="store_true", help="ArguAna, Quora: a query is a document")
    reranking = tasks.add_parser(
        "reranking",
        help="queries with candidates: MAP, MRR@10, nDCG@10",
        epilog="example: unmask eval reranking pocket-bi --data candidates.jsonl",
    )
    reranking.add_argument("--data", required=True, metavar="FILE", help=_CANDIDATES)
    for task in (sts, pairs, classification, clustering, retrieval, reranking):
        asymmetric = task in (retrieval, reranking)
        task.add_argument("encoder", metavar="ENCODER")
        task.add_argument("--prompt", help=f"instruction put in front of {'queries' if asymmetric else 'every text'}")
        if asymmetric:
            task.add_argument("--document-prompt", help="instruction put in front of documents")
        task.set_defaults(run=run)
        add_encoder_options(task)
        add_json(task)


def run(arguments: argparse.Namespace) -> int:
    """Read the data, then load the encoder."""
    result = _TASKS[arguments.task](arguments)
    figures = result.to_dict()
    if arguments.json:
        data = getattr(arguments, "data", None) or arguments.test
        print_json({"encoder": arguments.encoder, "task": arguments.task, "data": data, **figures})
        return 0
    rows = [[key, f"{value:.2f}" if isinstance(value, float) else f"{value:,}"] for key, value in figures.items()]
    print(table([arguments.task, ""], rows))
    return 0


def _shared(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"prompt": arguments.prompt, "progress": progress_wanted()}


def _sts(arguments: argparse.Namespace) -> Any:
    from unmask.evaluation.similarity import evaluate_similarity, read_pairs

    pairs = read_pairs(arguments.data, columns=_three(arguments.columns))
    return evaluate_similarity(open_encoder(arguments), pairs, **_shared(arguments))


def _pairs(arguments: argparse.Namespace) -> Any:
    from unmask.evaluation.similarity import evaluate_pairs, read_pairs

    pairs = read_pairs(arguments.data, columns=_three(arguments.columns), score="label")
    return evaluate_pairs(open_encoder(arguments), pairs, **_shared(arguments))


def _classification(arguments: argparse.Namespace) -> Any:
    from unmask.data.sources import read_labelled_texts
    from unmask.evaluation.classification import check_classes, evaluate_classification

    columns = tuple(arguments.columns)
    train, test = (read_labelled_texts(source, columns) for source in (arguments.train, arguments.test))
    check_classes(train, test)
    encoder = open_encoder(arguments)
    return evaluate_classification(
        encoder, train, test, shots=arguments.shots, draws=arguments.draws, **_shared(arguments)
    )


def _clustering(arguments: argparse.Namespace) -> Any:
    from unmask.data.sources import read_labelled_texts
    from unmask.evaluation.clustering import evaluate_clustering

    data = read_labelled_texts(arguments.data, tuple(arguments.columns))
    return evaluate_clustering(open_encoder(arguments), data, seeds=arguments.seeds, **_shared(arguments))


def _retrieval(arguments: argparse.Namespace) -> Any:
    from unmask.data.ranking import read_beir
    from unmask.evaluation.retrieval import evaluate_beir

    data = read_beir(arguments.data, arguments.split)
    if data.left_out:
        note = f"{data.left_out} queries without judgements in this split are left out; {len(data.queries)} are scored."
        print(note, file=sys.stderr)
    return evaluate_beir(
        open_encoder(arguments),
        data,
        document_prompt=arguments.document_prompt,
        ignore_identical=arguments.ignore_identical_ids,
        **_shared(arguments),
    )


def _reranking(arguments: argparse.Namespace) -> Any:
    from unmask.data.ranking import read_candidates
    from unmask.evaluation.retrieval import evaluate_candidates

    data = read_candidates(arguments.data)
    prompts = {"document_prompt": arguments.document_prompt}
    return evaluate_candidates(open_encoder(arguments), data, **prompts, **_shared(arguments))


def _three(columns: list[str] | None) -> tuple[str, str, str] | None:
    return (columns[0], columns[1], columns[2]) if columns else None


_TASKS = {
    "sts": _sts,
    "pairs": _pairs,
    "classification": _classification,
    "clustering": _clustering,
    "retrieval": _retrieval,
    "reranking": _reranking,
}
