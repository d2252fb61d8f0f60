"""The demo as a newcomer runs it: real text, real training, a page, an encoder folder."""

import json
import re

import pytest

from unmask import TextEncoder
from unmask.cli.main import main
from unmask.demo.texts import chunk_sentences, collect_texts


def test_the_texts_are_there_and_held_out_is_held_out():
    texts = collect_texts(num_queries=300)
    assert sum(map(len, texts.documents)) > 500_000
    assert len(texts.sentences) > 3000
    assert len(texts.queries) == len(texts.answers) > 100
    assert not set(texts.held_out) & set(texts.documents)
    pairs = zip(texts.queries, texts.answers, strict=True)
    assert not {f"{query}\n\n{answer}" for query, answer in pairs} & set(texts.documents)
    assert texts == collect_texts(num_queries=300)


def test_the_labelled_set_is_whole():
    sentences = chunk_sentences()
    assert len(sentences) == 320
    for sentence in sentences:
        labels = sentence.labels["chunk"]
        assert len(sentence.words) == len(labels)
        assert not any("[" in word or "]" in word for word in sentence.words)
        for before, label in zip(("O", *labels), labels, strict=False):
            assert not label.startswith("I-") or before[2:] == label[2:]


@pytest.mark.slow
def test_the_demo_shows_the_ladder(tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [rung["name"] for rung in result["rungs"]] == ["Uni", "Bi", "Bi+MNTP", "Bi+MNTP+SimCSE"]
    uni, bi, mntp, simcse = result["rungs"]
    assert mntp["masked_accuracy"] > max(uni["masked_accuracy"], bi["masked_accuracy"]) + 5
    assert simcse["retrieval"] > uni["retrieval"] + 5
    assert simcse["retrieval"] > mntp["retrieval"]
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 3
    assert not re.search(r"""(src|href)=["']https?:""", page.split("<svg")[0])
    assert TextEncoder.load(result["encoder"]).encode("Hello").shape == (256,)
    assert main(["demo", "--out", str(tmp_path), "--json"]) == 2
