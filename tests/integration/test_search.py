"""`unmask search`, `unmask index`: from texts to rows, with the pocket decoder."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from unmask import TextEncoder
from unmask.cli.main import main

TEXTS = ["The cat sat on the mat.", "Stocks fell sharply on Friday.", "A dog slept on the rug.", "Bread needs flour."]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An encoder with a prompt for queries, and vectors of it."""
    folder = tmp_path_factory.mktemp("search")
    encoder = TextEncoder.load("pocket", attention="bidirectional", dtype="float32")
    encoder.reader.settings = encoder.settings.changed(prompts={"query": "Find what answers: "})
    encoder.save(folder / "encoder")
    rows = [json.dumps({"key": f"k{i}", "text": text, "kind": i % 2}) for i, text in enumerate(TEXTS)]
    (folder / "texts.jsonl").write_text("\n".join(rows))
    assert encode(folder, "encoder", "vectors.parquet") == 0
    return folder


def encode(folder, encoder, out, *options):
    files = [str(folder / encoder), str(folder / "texts.jsonl"), "--out", str(folder / out)]
    return main(["encode", *files, "--id-field", "key", "--keep", "text", "kind", *options])


def search(capsys, *arguments, code=0):
    assert main(["search", *map(str, arguments), "--json"]) == code
    printed = capsys.readouterr()
    return json.loads(printed.out) if code == 0 else printed.err


def test_queries_are_encoded_with_the_saved_prompt_by_the_encoder_that_the_file_names(place, capsys):
    found = search(capsys, place / "vectors.parquet", "Which animal slept?", "finance", "--top-k", 3)
    encoder = TextEncoder.load(place / "encoder")
    queries = encoder.encode(["Which animal slept?", "finance"], prompt="Find what answers: ", normalize=True)
    expected = queries @ encoder.encode(TEXTS, normalize=True).T
    for result, cosines in zip(found["results"], expected, strict=True):
        order = np.argsort(-cosines)[:3]
        assert [hit["columns"]["id"] for hit in result["hits"]] == [f"k{i}" for i in order]
        assert [hit["columns"]["text"] for hit in result["hits"]] == [TEXTS[i] for i in order]
        np.testing.assert_allclose([hit["cosine"] for hit in result["hits"]], cosines[order], atol=1e-4)
    assert found["results"][0]["query"] == "Which animal slept?"
    assert found["rows"] == 4
    other = search(capsys, place / "vectors.parquet", "finance", "--prompt", "Another: ")
    plain = search(capsys, place / "vectors.parquet", "finance", "--prompt", "")
    cosines = [one["results"][-1]["hits"][0]["cosine"] for one in (found, other, plain)]
    assert len({round(cosine, 5) for cosine in cosines}) == 3


@pytest.mark.parametrize(
    ("precision", "more"), [("float16", []), ("int8", []), ("binary", []), ("binary", ["--dimensions", "60"])]
)
def test_every_precision_finds_the_same_best_row(place, tmp_path, capsys, precision, more):
    assert encode(place, "encoder", tmp_path / "v.parquet", "--precision", precision, *more) == 0
    capsys.readouterr()
    found = search(capsys, tmp_path / "v.parquet", TEXTS[2], "--prompt", "")
    assert found["results"][0]["hits"][0]["columns"]["id"] == "k2"
    assert len(found["results"][0]["hits"]) == 4


def test_queries_from_a_file_and_more_rows_than_there_are(place, capsys):
    (place / "queries.csv").write_text("n,question\n1,Which animal slept?\n2,finance\n")
    options = ["--queries", str(place / "queries.csv"), "--field", "question", "--top-k", "99"]
    assert main(["search", str(place / "vectors.parquet"), *options]) == 0
    printed = capsys.readouterr()
    assert "holds 4 rows, so all of them are returned" in printed.err
    assert "exact search by cosine, float32" in printed.err
    first, second = printed.out.strip().split("\n\n")
    assert first.splitlines()[0] == "Which animal slept?"
    assert len(second.splitlines()) == 5
    assert TEXTS[1] in second


def test_an_encoder_that_moved_is_known_again_and_another_is_refused(place, tmp_path, capsys):
    shutil.copytree(place / "encoder", tmp_path / "moved")
    found = search(capsys, place / "vectors.parquet", "finance", "--encoder", tmp_path / "moved")
    assert found["encoder"] == str(tmp_path / "moved")
    said = search(capsys, place / "vectors.parquet", "finance", "--encoder", "pocket", code=2)
    assert f"{place}/vectors.parquet holds vectors of " in said
    assert "queries would be of pocket" in said
    assert len(said.strip().splitlines()) == 1


def test_an_encoder_that_is_gone_is_asked_for(place, tmp_path, capsys):
    shutil.copytree(place / "encoder", tmp_path / "encoder")
    shutil.copy(place / "texts.jsonl", tmp_path)
    assert encode(tmp_path, "encoder", "v.parquet") == 0
    shutil.rmtree(tmp_path / "encoder")
    capsys.readouterr()
    said = search(capsys, tmp_path / "v.parquet", "finance", code=2)
    assert "cannot be opened" in said
    assert "--encoder" in said


def test_a_file_without_a_fingerprint_is_searched_with_a_warning(place, tmp_path, capsys):
    old = pq.read_table(place / "vectors.parquet").select(["id", "vector"]).replace_schema_metadata(None)
    pq.write_table(old, tmp_path / "old.parquet")
    assert "name it with --encoder" in search(capsys, tmp_path / "old.parquet", "finance", code=2)
    assert main(["search", str(tmp_path / "old.parquet"), "finance", "--encoder", str(place / "encoder")]) == 0
    printed = capsys.readouterr()
    assert "does not say which encoder" in printed.err
    assert len(printed.out.splitlines()) == 5


def test_a_folder_that_is_not_whole_yet_is_searched_as_far_as_it_is(place, tmp_path, capsys):
    assert encode(place, "encoder", tmp_path / "shards", "--shard-rows", "2", "--shard", "1/2") == 0
    assert main(["search", str(tmp_path / "shards"), "finance", "--json"]) == 0
    printed = capsys.readouterr()
    assert "is not whole yet: 1 of 2 shards are there" in printed.err
    assert json.loads(printed.out)["rows"] == 2


def test_two_encoders_in_one_folder_are_refused_by_name(place, tmp_path, capsys):
    TextEncoder.load("pocket").save(tmp_path / "causal")
    shutil.copy(place / "texts.jsonl", tmp_path)
    assert encode(tmp_path, "causal", "b.parquet") == 0
    shutil.copy(place / "vectors.parquet", tmp_path / "a.parquet")
    capsys.readouterr()
    said = search(capsys, tmp_path, "finance", code=2)
    assert "a.parquet holds vectors of " in said
    assert "causal" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "one of the two"),
        (["q", "--queries", "{}/texts.jsonl"], "one of the two"),
        ([" "], "query 1 is empty"),
        (["--queries", "{}/none.txt"], "no such file"),
        (["--queries", "{}/texts.jsonl", "--field", "nothing"], "no 'nothing' here"),
    ],
)
def test_queries_that_are_none_are_said_before_a_model_is_loaded(place, capsys, arguments, said):
    given = [argument.format(place) for argument in arguments]
    printed = search(capsys, place / "vectors.parquet", *given, code=2)
    assert said in printed
    assert len(printed.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """More rows than are compared one by one in an index, in heaps."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(200, 32))
    numbers = centres[random.integers(200, size=20_000)] + 0.4 * random.normal(size=(20_000, 32))
    path = tmp_path_factory.mktemp("many") / "v.npy"
    np.save(path, numbers.astype(np.float32))
    return path


@pytest.mark.slow
def test_an_index_finds_what_it_says_it_finds(many, capsys):
    from unmask.corpus.index import Index
    from unmask.corpus.search import nearest
    from unmask.corpus.vectors import open_vectors

    out = many.parent / "index"
    assert main(["index", str(many), "--out", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["partitions"] == 2
    assert facts["recall"] >= 0.95
    queries = np.load(many)[::500]
    _, rows = nearest(open_vectors(many), queries, 10)
    found = Index(out).search(queries, 10)
    ids = [[int(hit.columns["id"]) for hit in own] for own in found]
    shared = [len(set(own) & set(best)) for own, best in zip(ids, rows.tolist(), strict=True)]
    assert np.mean(shared) / 10 > 0.93
    unit = np.load(many) / np.linalg.norm(np.load(many), axis=1, keepdims=True)
    cosines = np.einsum("qd,qkd->qk", unit[::500], unit[ids])
    np.testing.assert_allclose([[hit.cosine for hit in own] for own in found], cosines, atol=1e-5)
    assert list(found[0][0].columns) == ["id"]


def test_search_works_on_an_index(place, tmp_path, capsys):
    assert main(["index", str(place / "vectors.parquet"), "--out", str(tmp_path / "index")]) == 0
    assert "recall@10 against exact search 1.000" in capsys.readouterr().err
    exact = search(capsys, place / "vectors.parquet", "finance")
    found = search(capsys, tmp_path / "index", "finance")
    assert found["method"] == "exact search by LanceDB"
    assert [hit["columns"] for hit in found["results"][0]["hits"]] == [
        hit["columns"] for hit in exact["results"][0]["hits"]
    ]
    assert "another encoder" in search(capsys, tmp_path / "index", "finance", "--encoder", "pocket", code=2)


def test_bits_and_a_folder_that_is_there_are_refused(place, tmp_path, capsys):
    assert encode(place, "encoder", "bits.parquet", "--precision", "binary") == 0
    assert main(["index", str(place / "bits.parquet"), "--out", str(tmp_path / "index")]) == 2
    assert "without an index" in capsys.readouterr().err
    assert not (tmp_path / "index").exists()
    assert main(["index", str(place / "vectors.parquet"), "--out", str(place)]) == 2
    assert "not an empty folder" in capsys.readouterr().err
