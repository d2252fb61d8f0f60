"""Analyses: what must come out of a causal model, of equal models, and of vectors whose shape is known."""

import json

import numpy as np
import pytest

from unmask import TextEncoder
from unmask.analysis.future_tokens import read_triples, separation
from unmask.analysis.geometry import geometry
from unmask.analysis.layers import layer_similarity
from unmask.analysis.report import TEXT
from unmask.errors import DataError


@pytest.fixture(scope="module")
def causal():
    return TextEncoder.load("pocket", attention="causal", dtype="float32")


def test_layers_are_counted_as_in_the_paper(causal, bidirectional):
    found = layer_similarity(causal, bidirectional, TEXT)
    assert found.cosines.shape == (7, len(found.tokens))
    np.testing.assert_allclose(found.cosines[0], 1, atol=1e-5)  # embeddings do not attend
    assert found.cosines[1:].mean() < 0.98
    assert len(found.means()) == 7
    same = layer_similarity(causal, causal, TEXT)
    np.testing.assert_allclose(same.cosines, 1, atol=1e-5)
    # the last token of a causal model sees everything already, in the first layer; later layers differ
    np.testing.assert_allclose(found.cosines[1, -1], 1, atol=1e-4)


def test_models_of_another_depth_are_refused(causal, tiny, tokenizer):
    with pytest.raises(DataError, match="same depth and width"):
        layer_similarity(causal, TextEncoder(tiny("llama", head=False), tokenizer), "Hello there.")


def test_a_causal_prefix_knows_nothing_of_the_future(causal, bidirectional):
    triples = read_triples()
    assert len(triples) == 35
    blind = separation(causal, triples)
    assert blind.auc == 0.5
    assert blind.right == 0.5
    np.testing.assert_allclose(blind.positive, 1, atol=1e-5)
    seeing = separation(bidirectional, triples)
    assert seeing.positive.max() < 0.99999
    assert seeing.auc != 0.5
    assert seeing.right == pytest.approx(np.mean(seeing.positive > seeing.negative), abs=1e-9)


def test_our_triples_have_the_papers_form_and_favour_no_side():
    triples = read_triples()
    assert len({triple.prefix for triple in triples}) == 35
    shared = {"positive": 0, "negative": 0}
    for triple in triples:
        rest = {key: getattr(triple, key)[len(triple.prefix) :] for key in ("query", "positive", "negative")}
        assert len({text[0] for text in rest.values()}) == 1  # the prefix is tokenized alike
        words = {key: {w.strip(".,;").lower() for w in text.split() if len(w) > 4} for key, text in rest.items()}
        for key in shared:
            shared[key] += len(words["query"] & words[key])
    assert abs(shared["positive"] - shared["negative"]) <= 12


def test_a_users_triples_are_read_and_wrong_ones_named(tmp_path):
    good = {"prefix": "She left", "query": "She left early.", "positive": "She left soon.", "negative": "She left it."}
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(good) + "\n")
    assert read_triples(path)[0].prefix == "She left"
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, "query": "He left."}) + "\n")
    with pytest.raises(DataError, match=r"t.jsonl:2: 'He left.' does not begin with the prefix"):
        read_triples(path)
    path.write_text('{"prefix": "x"}\n')
    with pytest.raises(DataError, match=r"t.jsonl:1: expected an object with prefix"):
        read_triples(path)
    with pytest.raises(DataError, match="no such file"):
        read_triples(tmp_path / "none.jsonl")


def test_geometry_is_what_its_formulas_say(bidirectional):
    pairs = [
        ("The cat sleeps.", "A cat is asleep."),
        ("Stocks fell.", "Share prices dropped."),
        ("It rained.", "Rain."),
    ]
    found = geometry(bidirectional, pairs)
    texts = [text for pair in pairs for text in pair]
    vectors = bidirectional.encode(texts, normalize=True).astype(np.float64)
    cosines = [vectors[i] @ vectors[j] for i in range(6) for j in range(i)]
    assert found.anisotropy == pytest.approx(np.mean(cosines))
    distances = [np.sum((vectors[2 * i] - vectors[2 * i + 1]) ** 2) for i in range(3)]
    assert found.alignment == pytest.approx(np.mean(distances))
    assert found.uniformity == pytest.approx(np.log(np.mean([np.exp(-2 * (2 - 2 * c)) for c in cosines])))
    assert 1 <= found.dimensions <= 5
    with pytest.raises(DataError, match="too few"):
        geometry(bidirectional, pairs[:1])
