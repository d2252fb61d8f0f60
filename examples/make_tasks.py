"""Tasks out of public data: pair classification from NLI triples, reranking of Wikipedia's leads, chunks to develop on.

python examples/make_tasks.py --data $UNMASK_DATA --out $UNMASK_TASKS

nli_pairs.jsonl: 1 for a sentence and what follows from it, 0 for the same sentence and what contradicts it.
wiki_candidates.jsonl: an article's title, its lead, and the leads of nine other articles.
leads_train.jsonl: titles and leads of the articles that no candidate comes from, to train on.
chunking_dev.txt: the end of CoNLL-2000's training file, to choose settings on.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

QUERIES = 500
OTHERS = 9
HELD_OUT_SENTENCES = 500


def rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def nli_pairs(data: Path) -> Iterator[dict[str, Any]]:
    """Both pairs of every triple of the test file."""
    for triple in rows(data / "nli_triples" / "snli_test_triples.jsonl"):
        for label, key in ((1, "pos"), (0, "neg")):
            yield {"sentence1": triple["anchor"], "sentence2": triple[key], "label": label}


def groups_of_leads(leads: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """An article and nine others, for every query."""
    generator = random.Random(0)
    leads = [row for row in leads if len(row["pos"]) > 200]
    for row in generator.sample(leads, QUERIES):
        yield row, generator.sample([lead for lead in leads if lead is not row], OTHERS)


def wiki_candidates(data: Path) -> Iterator[dict[str, Any]]:
    """Titles with their own lead and others; titles are taken out of all leads, or they would give them away."""
    for row, others in groups_of_leads(rows(data / "wiki_pairs" / "title_lead.jsonl")):
        own, *wrong = (one["pos"].replace(row["query"], "it")[:500] for one in (row, *others))
        yield {"query": row["query"], "positive": [own], "negative": wrong}


def leads_train(data: Path) -> Iterator[dict[str, Any]]:
    """The rows of all other articles."""
    leads = rows(data / "wiki_pairs" / "title_lead.jsonl")
    tested = {one["doc"] for row, others in groups_of_leads(leads) for one in (row, *others)}
    yield from (row for row in leads if row["doc"] not in tested)


def chunking_dev(data: Path) -> str:
    """The last sentences of the file that probes are trained on the first of."""
    sentences = (data / "conll2000" / "train.txt").read_text(encoding="utf-8").strip().split("\n\n")
    return "\n\n".join(sentences[-HELD_OUT_SENTENCES:]) + "\n"


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for made in (nli_pairs, wiki_candidates, leads_train):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made(arguments.data))
        (arguments.out / f"{made.__name__}.jsonl").write_text(lines, encoding="utf-8")
    (arguments.out / "chunking_dev.txt").write_text(chunking_dev(arguments.data), encoding="utf-8")


if __name__ == "__main__":
    main()
