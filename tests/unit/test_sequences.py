"""Sequence-level tasks: figures that can be worked out by hand, and data that is refused by name."""

import importlib
import json

import numpy as np
import pytest

from unmask import TextEncoder
from unmask.data.ranking import Candidates, read_beir, read_candidates
from unmask.data.sources import LabelledTexts, read_labelled_texts
from unmask.errors import DataError
from unmask.evaluation.tasks.classification import _draw, check_classes, evaluate_classification
from unmask.evaluation.tasks.clustering import evaluate_clustering
from unmask.evaluation.tasks.retrieval import evaluate_beir, evaluate_candidates, rank_measures
from unmask.evaluation.tasks.similarity import ScoredPairs, evaluate_pairs, read_pairs

ANIMALS = ["The cat sleeps.", "A cat is asleep.", "The kitten naps.", "Cats like to sleep.", "A sleepy cat dozes."]
MARKETS = ["Stocks fell sharply.", "Share prices dropped.", "The market lost value.", "Bonds rose.", "Investors sold."]
TOPICS = LabelledTexts([*ANIMALS, *MARKETS], ["animals"] * 5 + ["markets"] * 5)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def beir(tmp_path):
    texts = [*ANIMALS, *MARKETS]
    write(tmp_path / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": t} for i, t in enumerate(texts)])
    write(tmp_path / "queries.jsonl", [{"_id": f"q{i}", "text": t} for i, t in enumerate(texts[:4])])
    write(
        tmp_path / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore\n", "q0\td0\t1\n", "q1\td1\t2\n", "q1\td0\t1\n"]
    )
    return tmp_path


def test_pairs_are_scored_by_average_precision(bidirectional):
    from sklearn.metrics import average_precision_score

    first, second = [*ANIMALS, *ANIMALS], [*ANIMALS[::-1], *MARKETS]
    pairs = ScoredPairs(first, second, [1.0] * 5 + [0.0] * 5)
    result = evaluate_pairs(bidirectional, pairs)
    one, other = (bidirectional.encode(texts, normalize=True) for texts in (first, second))
    expected = average_precision_score(pairs.scores, (one * other).sum(1))
    assert result.average_precision == pytest.approx(100 * expected)
    assert result.average_precision > 90
    assert (result.pairs, result.positive) == (10, 5)
    with pytest.raises(DataError, match="found 3"):
        evaluate_pairs(bidirectional, ScoredPairs(["a", "b"], ["c", "d"], [0.0, 3.0]))
    with pytest.raises(DataError, match="No pair has the label 0"):
        evaluate_pairs(bidirectional, ScoredPairs(["a", "b"], ["c", "d"], [1.0, 1.0]))


def test_classification_on_all_texts_and_on_few(bidirectional):
    assert evaluate_classification(bidirectional, TOPICS, TOPICS).accuracy == 100.0
    few = evaluate_classification(bidirectional, TOPICS, TOPICS, shots=2, draws=4)
    assert few.draws == 4
    assert few.accuracy >= 50
    again = evaluate_classification(bidirectional, TOPICS, TOPICS, shots=2, draws=4)
    assert few == again
    drawn = _draw(["a"] * 6 + ["b"] * 3, 2, np.random.default_rng(0))
    assert len(drawn) == 4
    assert sum(row >= 6 for row in drawn) == 2


def test_an_empty_class_and_an_empty_label_are_named(tmp_path):
    with pytest.raises(DataError, match="1 of the test's classes have no training text: 'sports'"):
        check_classes(TOPICS, LabelledTexts(["Goal!"], ["sports"]))
    write(tmp_path / "a.csv", ["text,label\n", "one,x\n", "two,\n"])
    with pytest.raises(DataError, match=r"a.csv:3: empty label"):
        read_labelled_texts(str(tmp_path / "a.csv"))
    write(tmp_path / "b.csv", ["text,label\n", "one,x\n"])
    with pytest.raises(DataError, match="1 different labels"):
        read_labelled_texts(str(tmp_path / "b.csv"))
    with pytest.raises(DataError, match="no 'topic' here; found 'text', 'label'"):
        read_labelled_texts(str(tmp_path / "b.csv"), ("text", "topic"))


def test_clusters_of_two_topics_are_found(bidirectional):
    result = evaluate_clustering(bidirectional, TOPICS, seeds=4)
    assert (result.clusters, result.texts, result.seeds) == (2, 10, 4)
    assert result.v_measure > 30


def test_a_beir_folder_is_searched_exactly_and_in_parts(bidirectional, beir, monkeypatch):
    data = read_beir(beir)
    assert list(data.queries) == ["q0", "q1"]
    assert data.left_out == 2
    whole = evaluate_beir(bidirectional, data)
    module = importlib.import_module("unmask.encoder.search")  # the package gives its function that name
    monkeypatch.setattr(module, "_DOCUMENTS_AT_ONCE", 3)
    monkeypatch.setattr(module, "_QUERIES_AT_ONCE", 1)
    assert evaluate_beir(bidirectional, data) == whole
    assert whole.mrr_at_10 == 100.0  # each query is one of its documents
    assert whole.documents == 10
    assert 50 < whole.ndcg_at_10 <= 100


def test_measures_are_trec_evals():
    run = {"a": {"x": 3.0, "y": 2.0, "z": 1.0}, "b": {"x": 1.0}}
    result = rank_measures(run, {"a": {"y": 1, "q": 1}, "b": {"z": 1}}, 3)
    assert result.mrr_at_10 == pytest.approx(25.0)  # 1/2 and nothing
    assert result.map == pytest.approx(100 * (0.5 / 2) / 2)
    assert result.ndcg_at_10 == pytest.approx(100 * (1 / np.log2(3)) / (1 + 1 / np.log2(3)) / 2)


def test_candidates_are_put_in_order(bidirectional, tmp_path):
    write(tmp_path / "c.jsonl", [{"query": ANIMALS[0], "positive": [ANIMALS[1]], "negative": MARKETS}])
    data = read_candidates(tmp_path / "c.jsonl")
    assert data == [Candidates(ANIMALS[0], [ANIMALS[1]], MARKETS)]
    assert evaluate_candidates(bidirectional, data).map == 100.0
    write(tmp_path / "d.jsonl", [{"query": "a", "positive": [], "negative": ["b"]}])
    with pytest.raises(DataError, match=r"d.jsonl:1: 'positive' must be a list of one or more"):
        read_candidates(tmp_path / "d.jsonl")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["q0\td0\t0\n"], "query 'q0' has no relevant document"),
        (["q9\td0\t1\n"], "judges query 'q9', which .*queries.jsonl does not have"),
        (["q0\td99\t1\n"], "1 judged documents are not in the corpus, 'd99'"),
        (["q0\td0\n"], r"test.tsv:2: expected query id"),
        (["q0\td0\t--1\n"], r"test.tsv:2: expected query id"),
        (["q0\td0\t²\n"], r"test.tsv:2: expected query id"),
        ([], "judges nothing"),
    ],
)
def test_judgements_that_lead_nowhere_are_named(beir, rows, message):
    write(beir / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore\n", *rows])
    with pytest.raises(DataError, match=message):
        read_beir(beir)


def test_judgements_may_come_without_a_header(beir):
    write(beir / "qrels" / "test.tsv", ["q0\td0\t1\n", "q1\td1\t1\n"])
    assert list(read_beir(beir).queries) == ["q0", "q1"]


def test_a_missing_split_names_those_that_are_there(beir):
    with pytest.raises(DataError, match="splits with judgements: test"):
        read_beir(beir, "dev")


def test_pairs_are_read_from_a_data_set_folder(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "pairs"
    folder.mkdir()
    table = pa.table({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [1.0, 2.0]})
    pq.write_table(table, folder / "test.parquet")
    assert read_pairs(f"{folder}@test") == ScoredPairs(["a", "b"], ["c", "d"], [1.0, 2.0])


def test_retrieval_and_reranking_read_data_sets_in_the_hubs_layout(bidirectional, beir, tmp_path):
    """A folder that the `datasets` library reads as it reads mteb's data sets on the hub: three configs."""
    folder = tmp_path / "hub"
    (folder / "qrels").mkdir(parents=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / name).write_text((beir / name).read_text())
    rows = [line.split("\t") for line in (beir / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    lines = [{"query-id": q, "corpus-id": d, "score": int(grade)} for q, d, grade in rows]
    write(folder / "qrels" / "test.jsonl", lines)
    configs = [("corpus", "corpus", "corpus.jsonl"), ("queries", "queries", "queries.jsonl")]
    configs.append(("default", "test", "qrels/test.jsonl"))
    named = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {path}\n" for name, split, path in configs
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{named}---\n")
    data = read_beir(f"{folder}@test")
    assert data.queries == read_beir(beir).queries
    assert evaluate_beir(bidirectional, data) == evaluate_beir(bidirectional, read_beir(beir))
    with pytest.raises(DataError, match="cannot be read"):
        read_beir(f"{folder}@dev")

    (tmp_path / "ranked").mkdir()
    write(tmp_path / "ranked" / "test.jsonl", [{"query": ANIMALS[0], "positive": [ANIMALS[1]], "negative": MARKETS}])
    assert read_candidates(f"{tmp_path / 'ranked'}@test") == [Candidates(ANIMALS[0], [ANIMALS[1]], MARKETS)]


def test_saved_prompts_are_read_as_by_search_unless_others_are_asked_for(bidirectional, beir, tmp_path, monkeypatch):
    own = bidirectional.settings.changed(prompts={"query": "QUERY: ", "passage": "PASSAGE: "})
    encoder = TextEncoder(bidirectional.model, bidirectional.tokenizer, own)
    write(tmp_path / "c.jsonl", [{"query": ANIMALS[0], "positive": [ANIMALS[1]], "negative": MARKETS}])
    seen = []
    plain = type(encoder.reader).prompt
    monkeypatch.setattr(type(encoder.reader), "prompt", lambda *given: seen.append(plain(*given)) or seen[-1])
    for score, data in (
        (evaluate_beir, read_beir(beir)),
        (evaluate_candidates, read_candidates(tmp_path / "c.jsonl")),
    ):
        score(encoder, data)
        assert set(seen) == {"QUERY: ", "PASSAGE: "}
        seen.clear()
        score(encoder, data, prompt="ask: ", document_prompt="")
        assert set(seen) == {"ask: ", ""}
        seen.clear()
