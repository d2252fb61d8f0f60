"""Mined negatives against a plain computation, the filters, and the command."""

import json

import numpy as np
import pytest

from unmask.cli.main import main
from unmask.corpus.mine import Filters, mine
from unmask.data.pairs import Pair, read_pairs
from unmask.errors import DataError

CORPUS = [
    "A module is a file with definitions.",
    "The import statement finds a module.",
    "A class statement defines a class object.",
    "Rivers flood in spring.",
    "Bread is baked in an oven.",
    "A function is defined by def.",
    "Rivers flood in spring.",
]
PAIRS = [
    Pair("what is a module", CORPUS[0]),
    Pair("what is a module", CORPUS[1]),
    Pair("when do rivers flood", CORPUS[3]),
    Pair(CORPUS[4], "Ovens bake bread.", document="d"),
]


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def ranked(encoder, pair):
    """Documents by cosine, without query and positives; and the positive's own cosine."""
    documents = list(dict.fromkeys(CORPUS))
    vectors = encoder.encode([pair.query, pair.positive, *documents], normalize=True)
    cosines = vectors[2:] @ vectors[0]
    answers = {one.positive for one in PAIRS if one.query == pair.query} | {pair.query}
    found = [(documents[i], float(cosines[i])) for i in np.argsort(-cosines) if documents[i] not in answers]
    return found, float(vectors[1] @ vectors[0])


def test_negatives_are_the_best_that_are_no_answers(bidirectional, tmp_path, monkeypatch):
    import importlib

    monkeypatch.setattr(importlib.import_module("unmask.encoder.search"), "_DOCUMENTS_AT_ONCE", 2)
    found = mine(bidirectional, PAIRS, CORPUS, tmp_path / "out.jsonl", filters=Filters(count=2))
    assert (found.pairs, found.fewer, found.none) == (4, 0, 0)
    for pair, row in zip(PAIRS, rows(tmp_path / "out.jsonl"), strict=True):
        expected, positive = ranked(bidirectional, pair)
        assert row["negatives"] == [text for text, _ in expected[:2]]
        assert row["negative_cosines"] == pytest.approx([score for _, score in expected[:2]], abs=1e-3)
        assert row["positive_cosine"] == pytest.approx(positive, abs=1e-3)
    assert rows(tmp_path / "out.jsonl")[3]["document"] == "d"
    # a positive of the same document is no negative
    pairs = [Pair(PAIRS[0].query, CORPUS[0], document="x"), Pair("where", CORPUS[1], document="x")]
    mine(bidirectional, pairs, CORPUS, tmp_path / "docs.jsonl", filters=Filters(count=9))
    assert CORPUS[1] not in rows(tmp_path / "docs.jsonl")[0]["negatives"]
    read = list(read_pairs([str(tmp_path / "out.jsonl")]))
    assert [len(pair.negatives) for pair in read] == [2, 2, 2, 2]


def test_ranks_margins_and_shares_filter(bidirectional, tmp_path):
    for number, filters in enumerate(
        [Filters(count=9, first=1, last=3), Filters(count=9, margin=0.1), Filters(count=9, share=0.9)]
    ):
        out = tmp_path / f"{number}.jsonl"
        found = mine(bidirectional, PAIRS, CORPUS, out, filters=filters)
        kept = {(row["query"], row["positive"]): row["negatives"] for row in rows(out)}
        assert found.none == len(PAIRS) - len(kept)
        for pair in PAIRS:
            expected, positive = ranked(bidirectional, pair)
            bound = min(positive - (filters.margin or -9), positive * (filters.share or 9))
            wanted = [text for text, score in expected[filters.first : filters.last] if score < bound]
            assert kept.get((pair.query, pair.positive), []) == wanted


def test_random_negatives_follow_from_the_seed(bidirectional, tmp_path):
    filters = Filters(count=2, choice="random")
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        mine(bidirectional, PAIRS, CORPUS, tmp_path / name, filters=filters, seed=seed)
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1] != texts[2]


def test_the_command_writes_triples_that_training_reads(tmp_path, capsys):
    (tmp_path / "pairs.jsonl").write_text(
        "".join(json.dumps({"query": p.query, "positive": p.positive}) + "\n" for p in PAIRS)
    )
    (tmp_path / "corpus.txt").write_text("\n".join(CORPUS))
    out = tmp_path / "triples.jsonl"
    command = [
        "mine",
        "pocket",
        "--attention",
        "bidirectional",
        "--pairs",
        str(tmp_path / "pairs.jsonl"),
        "--out",
        str(out),
    ]
    assert main([*command, "--corpus", str(tmp_path / "corpus.txt"), "--negatives", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 4
    assert all(len(pair.negatives) == 2 for pair in read_pairs([str(out)]))
    assert main(command) == 2  # exists already
    capsys.readouterr()
    out.unlink()
    assert main(command) == 0  # the positives are the corpus
    assert main([*command[:-1], str(tmp_path / "b.jsonl"), "--first-rank", "5", "--last-rank", "4"]) == 2
    assert "there is none to choose" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "c.jsonl"), "--margin", "0.9"]) == 0  # no cosine is that far apart
    assert "had none and were left out" in capsys.readouterr().err


def test_nothing_to_mine_is_an_error(bidirectional, tmp_path):
    with pytest.raises(DataError, match="0 pairs and 7 documents"):
        mine(bidirectional, [], CORPUS, tmp_path / "o", filters=Filters())


def test_pairs_without_a_document_share_none(bidirectional, tmp_path):
    (tmp_path / "pairs.csv").write_text(f"query,positive,doc\nwhat,{CORPUS[0]},\nwhen,{CORPUS[3]},\n")
    pairs = list(read_pairs([str(tmp_path / "pairs.csv")]))
    mine(bidirectional, pairs, CORPUS, tmp_path / "out.jsonl", filters=Filters(count=9))
    assert CORPUS[3] in rows(tmp_path / "out.jsonl")[0]["negatives"]
    assert "document" not in rows(tmp_path / "out.jsonl")[0]
