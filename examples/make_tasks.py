"""Two more tasks out of public data: pair classification from NLI triples, reranking from Wikipedia's leads.

python examples/make_tasks.py --data $UNMASK_DATA --out $UNMASK_TASKS

nli_pairs.jsonl: 1 for a sentence and what follows from it, 0 for the same sentence and what contradicts it.
wiki_candidates.jsonl: an article's title, its lead, and the leads of nine other articles.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

QUERIES = 500
OTHERS = 9


def rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def nli_pairs(data: Path) -> Iterator[dict[str, Any]]:
    """Both pairs of every triple of the test file."""
    for triple in rows(data / "nli_triples" / "snli_test_triples.jsonl"):
        for label, key in ((1, "pos"), (0, "neg")):
            yield {"sentence1": triple["anchor"], "sentence2": triple[key], "label": label}


def wiki_candidates(data: Path) -> Iterator[dict[str, Any]]:
    """Titles with their own lead and others; titles are taken out of all leads, or they would give them away."""
    generator = random.Random(0)
    leads = [row for row in rows(data / "wiki_pairs" / "title_lead.jsonl") if len(row["pos"]) > 200]
    for row in generator.sample(leads, QUERIES):
        others = generator.sample([lead for lead in leads if lead is not row], OTHERS)
        own, *wrong = (one["pos"].replace(row["query"], "it")[:500] for one in (row, *others))
        yield {"query": row["query"], "positive": [own], "negative": wrong}


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, made in (("nli_pairs", nli_pairs), ("wiki_candidates", wiki_candidates)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made(arguments.data))
        (arguments.out / f"{name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
