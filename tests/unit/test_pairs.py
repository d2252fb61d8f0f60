"""Pairs from files, the layout of E5's data, and which set a step draws from."""

import json

import pytest

from unmask.data.e5 import _HALVES, _WHOLE, read_e5
from unmask.data.pairs import Pair, PairColumns, PairSet, read_pairs
from unmask.data.sampling import MixedSampler
from unmask.errors import DataError, RecipeError
from unmask.runs.recipe import load_recipe
from unmask.runs.sources import check_files, open_data


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_pairs_triples_and_lists_are_read_by_their_usual_names(tmp_path):
    rows = [
        {"query": "a", "positive": "b"},
        {"anchor": "c", "pos": "d", "neg": "e"},
        {"question": "f", "answer": ["g", "h"], "negatives": ["i", "j"], "doc": 7},
        {"anchor": "k", "positive": "l", **{f"negative_{n}": f"m{n}" for n in (10, 1, 2)}},
    ]
    assert list(read_pairs([write(tmp_path / "p.jsonl", rows)])) == [
        Pair("a", "b"),
        Pair("c", "d", ("e",)),
        Pair("f", "g", ("i", "j"), "7"),
        Pair("f", "h", ("i", "j"), "7"),
        Pair("k", "l", ("m1", "m2", "m10")),
    ]
    assert len(list(read_pairs([str(tmp_path / "p.jsonl")] * 2, limit=3))) == 3


@pytest.mark.parametrize("cell", ["", "  ", None, float("nan")])
def test_rows_of_unknown_documents_do_not_share_one(tmp_path, cell):
    rows = [{"query": "a", "positive": "b", "doc": cell}, {"query": "c", "positive": "d", "doc": 7.0}]
    assert [pair.document for pair in read_pairs([write(tmp_path / "p.jsonl", rows)])] == [None, "7"]
    (tmp_path / "p.csv").write_text("query,positive,document_id\na,b,\nc,d,7\n")
    assert [pair.document for pair in read_pairs([str(tmp_path / "p.csv")])] == [None, "7"]
    with pytest.raises(DataError, match="the document is a list; expected its name or number"):
        list(read_pairs([write(tmp_path / "l.jsonl", [{"query": "a", "positive": "b", "doc": ["x"]}])]))


def test_pairs_are_read_from_csv_parquet_and_data_sets(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "p.csv").write_text("text,title,bad1,bad2\nlong,short,x,y\n")
    columns = PairColumns("title", "text", ("bad1", "bad2"))
    assert list(read_pairs([str(tmp_path / "p.csv")], columns)) == [Pair("short", "long", ("x", "y"))]
    (tmp_path / "hub").mkdir()
    pq.write_table(
        pa.table({"anchor": ["a"], "positive": ["b"], "negative": ["c"]}), tmp_path / "hub" / "train.parquet"
    )
    for source in (f"{tmp_path / 'hub'}@train", str(tmp_path / "hub" / "train.parquet")):
        assert list(read_pairs([source])) == [Pair("a", "b", ("c",))]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "a"}, r"p.jsonl:2: no positive \(positive, pos, answer, sentence2\) here; found 'query'"),
        ({"query": "a", "positive": []}, r"p.jsonl:2: 'positive' is empty; every row needs a positive"),
        ({"query": "a", "positive": " "}, r"p.jsonl:2: 'positive' is empty"),
        ({"query": "", "positive": "b"}, r"p.jsonl:2: 'query' is empty"),
        ({"query": "a", "positive": "b", "negative": [3]}, r"p.jsonl:2: 'negative' is a int; expected a text"),
        ({"query": ["a"], "positive": "b"}, r"p.jsonl:2: 'query' is a list"),
        ({"query": "a", "positive": 3}, r"p.jsonl:2: 'positive' is a int"),
        ({"query": "a", "positive": "b", "negative": 2.5}, r"p.jsonl:2: 'negative' is a float"),
        ({"query": "a", "positive": {"_id": "x", "text": "b"}}, r"p.jsonl:2: 'positive' is a dict"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, row, message):
    path = write(tmp_path / "p.jsonl", [{"query": "a", "positive": "b"}, row])
    with pytest.raises(DataError, match=message):
        list(read_pairs([path]))


def test_a_set_of_pairs_gives_its_rows_by_number():
    pairs = [Pair(f"q{i}", f"p{i}", (f"n{i}",) * (i % 3), None if i % 2 else f"d{i}") for i in range(9000)]
    own = PairSet("s", iter(pairs))
    assert len(own) == 9000
    assert own.take([8999, 3, 3]) == [pairs[8999], pairs[3], pairs[3]]
    with pytest.raises(DataError, match="s: no pair found"):
        PairSet("s", iter([]))


@pytest.fixture
def e5(tmp_path):
    folder = tmp_path / "echo-data"
    folder.mkdir()
    for name in set(_WHOLE) | {file for file, _, _ in _HALVES}:
        rows = [{"query": f"{name} {i}", "positive": "p", "negative": "n"} for i in range(6)]
        write(folder / f"{name}.jsonl", rows)
    return folder


def test_e5_data_has_the_papers_instructions_on_the_papers_sides(e5):
    sets = {one.name: one for one in read_e5(e5)}
    assert len(sets) == 16  # 14 files, two of them halved
    assert sets["fever"].query_prompt == "Given a claim, retrieve documents that support or refute the claim; "
    assert {name for name, one in sets.items() if one.document_prompt} == {
        "allnli_split2",
        "quora_duplicates_split1",
        "quora_duplicates_split2",
    }
    assert sets["allnli_split2"].document_prompt == sets["allnli_split2"].query_prompt
    assert sets["allnli_split2"].query_prompt == "Retrieve semantically similar text; "
    halves = [[pair.query for pair in sets[f"allnli_split{i}"].take(range(3))] for i in (1, 2)]
    assert halves == [["allnli 0", "allnli 2", "allnli 4"], ["allnli 1", "allnli 3", "allnli 5"]]
    assert sum(len(one) for one in sets.values()) == 14 * 6


def test_e5_data_may_have_nli_in_two_files_and_other_instructions(e5):
    (e5 / "allnli.jsonl").rename(e5 / "allnli_split1.jsonl")
    write(e5 / "allnli_split2.jsonl", [{"query": "x", "positive": "p", "negative": "n"}])
    sets = {one.name: one for one in read_e5(e5, instructions={"nq": "Find"}, weights={"nq": 0.5})}
    assert (len(sets["allnli_split1"]), len(sets["allnli_split2"])) == (6, 1)
    assert (sets["nq"].query_prompt, sets["nq"].weight) == ("Find; ", 0.5)
    with pytest.raises(DataError, match="has no set 'nqq', whose instruction is given; the sets are allnli_split1"):
        read_e5(e5, instructions={"nqq": "x"})
    with pytest.raises(DataError, match="has no set 'nqq', whose weight is given"):
        read_e5(e5, weights={"nqq": 2.0})
    write(e5 / "mine.jsonl", [{}])
    with pytest.raises(DataError, match=r"mine.jsonl is no set of this layout"):
        read_e5(e5)
    (e5 / "mine.jsonl").unlink()
    (e5 / "squad.jsonl").unlink()
    with pytest.raises(DataError, match=r"1 of the data sets are missing: squad.jsonl"):
        read_e5(e5)


def test_each_step_is_of_one_set_and_no_set_or_row_is_left_out():
    sampler = MixedSampler({"a": 20, "b": 9, "c": 40}, {"c": 0.5}, 4, seed=1)
    assert sampler.turns == {"a": 5, "b": 2, "c": 5}
    drawn = [sampler.rows(step) for step in range(2 * sum(sampler.turns.values()))]
    assert all(len(rows) == 4 == len(set(rows)) for _, rows, _ in drawn)
    for epoch in (drawn[:12], drawn[12:]):
        assert {name: sum(one == name for one, _, _ in epoch) for name in "abc"} == sampler.turns
    assert sorted(row for name, rows, _ in drawn[:12] for row in rows if name == "a") == list(range(20))
    # half of the large set an epoch: after two, every row had its turn
    assert sorted(row for name, rows, _ in drawn for row in rows if name == "c") == list(range(40))
    assert [name for name, _, _ in drawn[:12]] != [name for name, _, _ in drawn[12:]]
    assert MixedSampler({"a": 20, "b": 9, "c": 40}, {"c": 0.5}, 4, seed=1).rows(17) == drawn[17]
    # a set of half its rows an epoch is gone through once in two
    assert {n: {epoch for name, _, epoch in drawn if name == n} for n in "abc"} == {"a": {0, 1}, "b": {0, 1}, "c": {0}}
    with pytest.raises(DataError, match=r"b: 9 rows at weight 0.3 are fewer than one batch of 4"):
        MixedSampler({"a": 20, "b": 9}, {"b": 0.3}, 4, seed=1)
    with pytest.raises(DataError, match="3 rows of b are fewer than one batch of 4"):
        MixedSampler({"a": 20, "b": 3}, {}, 4, seed=1)


def recipe(tmp_path, *stages, **data):
    write(tmp_path / "p.jsonl", [{"query": f"q{i}", "positive": f"p{i}"} for i in range(20)])
    (tmp_path / "t.txt").write_text("one\ntwo\n")
    sources = {
        "texts": {"files": [str(tmp_path / "t.txt")]},
        "pairs": {"kind": "pairs", "files": [str(tmp_path / "p.jsonl")]},
    }
    defaults = {"mntp": {"data": "texts"}, "simcse": {"data": "texts"}, "supervised": {"data": "pairs"}}
    filled = [
        {"steps": 4, **defaults.get(s["objective"], {}), **s} if s["objective"] in defaults else s for s in stages
    ]
    return {"name": "r", "model": {"name": "pocket"}, "data": {**sources, **data}, "stages": filled}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"objective": "supervised", "data": "texts"}], "'texts' is of kind texts, pairs or e5 is needed"),
        ([{"objective": "mntp", "data": "pairs"}], "'pairs' is of kind pairs, texts is needed"),
        ([{"objective": "supervised", "data": ["pears", "pairs"]}], "no data source 'pears'; did you mean 'pairs'"),
        ([{"objective": "supervised", "data": []}], "at least 1 item"),
        ([{"objective": "supervised", "lora": {"start": "previous"}}], "previous needs a stage with an adapter"),
        (
            [{"objective": "simcse", "lora": {"rank": 8}}, {"objective": "supervised", "lora": {"start": "previous"}}],
            "rank, alpha, targets must be the same",
        ),
        ([{"objective": "merge"}], "nothing to merge"),
        (
            [
                {"objective": "simcse", "keep_checkpoints": 5, "save_every": 2},
                {"objective": "average", "checkpoints": 3},
            ],
            "leaves 2 checkpoints, 3 are to be averaged",
        ),
        ([{"objective": "supervised", "hard_negative": 2}], "unknown key; did you mean 'hard_negatives'"),
        ([{"objective": "supervised", "teacher": {"nam": "x"}}], "unknown key; did you mean 'name'"),
    ],
)
def test_stages_that_do_not_fit_together_are_mistakes(tmp_path, stages, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe(tmp_path, *stages))


def test_mistakes_in_data_sources_are_named(tmp_path):
    with pytest.raises(RecipeError, match=r"data.p.symetric: unknown key; did you mean 'symmetric'"):
        load_recipe(recipe(tmp_path, p={"kind": "pairs", "files": ["x"], "symetric": True}))
    with pytest.raises(RecipeError, match=r"data.p.kind: 'pears' is none; did you mean 'pairs'"):
        load_recipe(recipe(tmp_path, p={"kind": "pears", "files": ["x"]}))
    bad = load_recipe(
        recipe(tmp_path, e={"kind": "e5", "folder": str(tmp_path / "none")}, p={"kind": "pairs", "files": ["no.jsonl"]})
    )
    check_files(bad)  # nothing reads them
    stage = {"objective": "supervised", "data": ["e", "p"]}
    bad = load_recipe({**bad.model_dump(), "stages": [{"steps": 4, **stage}]})
    with pytest.raises(RecipeError, match=r"(?s)data.e: .*none is no folder.*data.p: no file 'no.jsonl'"):
        check_files(bad)


def test_sources_on_the_hub_are_not_looked_for_on_disk(tmp_path):
    named = ["hf://datasets/owner/name/file.jsonl", "owner/name:config@train"]
    stage = {"objective": "supervised", "data": "p"}
    found = load_recipe(recipe(tmp_path, stage, p={"kind": "pairs", "files": named}))
    check_files(found)
    with pytest.raises(DataError, match=r"file.jsonl cannot be fetched"):
        open_data(found).pairs("p")
    other = load_recipe(recipe(tmp_path, p={"kind": "pairs", "files": named[1:]}))
    with pytest.raises(DataError, match="owner/name:config@train cannot be read"):
        open_data(other).pairs("p")
    only = load_recipe(recipe(tmp_path, p={"files": ["hf://datasets/owner/name/file.txt"]}))
    with pytest.raises(DataError, match=r"file.txt cannot be fetched"):
        open_data(only).texts("p")
