"""What eight bits cost: STS-B and SciFact in float32, bfloat16 and int8, with the seconds that each took.

    python benchmarks/int8.py smollm2 --attention causal --data $UNMASK_DATA
    python benchmarks/int8.py ENCODER --data $UNMASK_DATA --documents 5183

SciFact's corpus is cut to the judged documents and as many others as fill `--documents`, and texts to `--max-length`
tokens: a difference between dtypes does not need all of it. Input channels are scaled on 64 sentences of STS-B.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from report import Report, add_json

from unmask.data.ranking import Beir, read_beir
from unmask.evaluation.tasks.retrieval import evaluate_beir
from unmask.evaluation.tasks.similarity import ScoredPairs, evaluate_similarity, read_pairs

if TYPE_CHECKING:
    from unmask import TextEncoder

DTYPES = ("float32", "bfloat16", "int8")


def main() -> None:
    """Score each dtype on both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", help="encoder folder, hub id, pocket or smollm2")
    parser.add_argument("--attention", choices=["causal", "bidirectional"], help="of a model that no encoder folder is")
    parser.add_argument("--data", type=Path, required=True, help="folder with stsb/ and scifact/")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--max-length", type=int, default=128)
    add_json(parser)
    arguments = parser.parse_args()
    report = Report(arguments.json)
    pairs = read_pairs(arguments.data / "stsb" / "stsb-en-test.csv")
    with tempfile.TemporaryDirectory() as scratch:
        beir = _cut(read_beir(arguments.data / "scifact"), arguments.documents, Path(scratch) / "corpus.jsonl")
        _score(report, arguments, pairs, beir)


def _score(report: Report, arguments: argparse.Namespace, pairs: ScoredPairs, beir: Beir) -> None:
    title = (
        f"{arguments.encoder}: {len(pairs.scores):,} pairs of STS-B test, {arguments.documents:,} documents of SciFact"
    )
    report.table(title, "dtype", "STS-B", "seconds", "nDCG@10", "seconds", "cosine")
    for dtype in arguments.dtype:
        encoder, cosine = _opened(arguments, dtype, [pairs.first[number] for number in range(64)])
        begun = time.perf_counter()
        similarity = evaluate_similarity(encoder, pairs).spearman
        middle = time.perf_counter()
        ranking = evaluate_beir(encoder, beir, max_length=arguments.max_length).ndcg_at_10
        ended = time.perf_counter()
        report.row(
            dtype, f"{similarity:.2f}", f"{middle - begun:.1f}", f"{ranking:.2f}", f"{ended - middle:.1f}", cosine
        )


def _opened(arguments: argparse.Namespace, dtype: str, sample: list[str]) -> "tuple[TextEncoder, str]":
    from unmask import TextEncoder
    from unmask.encoder import to_int8

    kept = "float32" if dtype == "int8" else dtype
    encoder = TextEncoder.load(arguments.encoder, dtype=kept, attention=arguments.attention)
    if dtype != "int8":
        return encoder, ""
    return encoder, f"{to_int8(encoder, sample).mean():.4f}"


def _cut(beir: Beir, documents: int, file: Path) -> Beir:
    """Its judged documents and the first of the others, written to a file."""
    judged = {document for grades in beir.judgements.values() for document in grades}
    others = documents - len(judged)
    with file.open("w", encoding="utf-8") as out:
        for name, text in beir.documents():
            others -= name not in judged
            if name in judged or others >= 0:
                out.write(json.dumps({"_id": name, "text": text}) + "\n")
    return replace(beir, corpus=str(file))


if __name__ == "__main__":
    main()
