"""Runs beside the paper's figures: what belongs together shares a table, what does not never does."""

import json

import pytest

from unmask.errors import DataError
from unmask.evaluation.comparison import compare, read_published, read_run, read_runs, subset_tasks

TABLES = ("table1", "table2", "table4", "table5", "table11", "table12", "figure6")


def test_published_figures_are_the_papers():
    rows = {row.label: row.values for row in read_published("table4")}
    assert rows["Mistral-7B Bi+MNTP"] == {
        "chunking on CoNLL-2003": 91.17,
        "ner on CoNLL-2003": 97.18,
        "pos on CoNLL-2003": 92.35,
    }
    assert rows["S-LLaMA-1.3B Uni"]["chunking on CoNLL-2003"] == 86.10
    for table in TABLES:
        assert all(table.removeprefix("table") in row.source or table == "figure6" for row in read_published(table))
    with pytest.raises(DataError, match="No published table 'table3'"):
        read_published("table3")
    with pytest.raises(DataError, match="has no model 'GPT-2'"):
        read_published("table4", "GPT-2")


@pytest.mark.parametrize(
    ("per_task", "summary", "variant"), [("table11", "table1", "LLM2Vec"), ("table12", "table2", "LLM2Vec w/o SimCSE")]
)
def test_the_published_averages_follow_from_the_published_tasks(per_task, summary, variant):
    averages = {row.label: row.values["average"] for row in read_published(summary)}
    for row in read_published(per_task):
        tasks = [value for task, value in row.values.items() if task != "average"]
        assert len(tasks) == 56
        assert sum(tasks) / 56 == pytest.approx(row.values["average"], abs=0.006)
        assert averages[row.label] == row.values["average"]
        assert row.label.endswith(variant)


def test_accuracy_and_f1_never_share_a_table(tmp_path):
    rungs = [
        {"name": "Uni", "masked loss": 5.0, "ner": 93.0, "ner F1": 17.0, "STS-B": 30.0, "Banking77 accuracy": 48.0}
    ]
    (tmp_path / "results.json").write_text(json.dumps({"rungs": rungs}))
    evaluation = "{words: {ner: {train: a}}, sts: {STS-B: {file: c}}, classification: {Banking77: {train: d}}}"
    (tmp_path / "recipe.yaml").write_text(f"evaluation: {evaluation}\n")
    tables = {one.measure: one for one in compare([*read_run(tmp_path), *read_published("table4", "Mistral-7B")])}
    accuracy = tables["token accuracy, %"]
    assert [row.label for row in accuracy.rows][:2] == ["Uni", "Mistral-7B Uni"]
    assert accuracy.rows[0].values == {"ner": 93.0}
    # another corpus's entities have a column of their own
    assert accuracy.columns == ["ner", *(f"{task} on CoNLL-2003" for task in ("chunking", "ner", "pos"))]
    f1 = tables["F1 of whole spans, %"]
    assert [row.values for row in f1.rows] == [{"ner": 17.0}]
    assert len(tables) == 5


def test_figures_that_no_recipe_explains_are_not_called_something(tmp_path):
    rungs = [{"name": "Uni", "retrieval": 10.8, "words": 86.9, "masked accuracy": 17.2}]
    (tmp_path / "results.json").write_text(json.dumps({"rungs": rungs}))
    found = {row.measure: row.values for row in read_run(tmp_path)}
    assert found["other figures"] == {"retrieval": 10.8, "words": 86.9}
    assert len(found) == 2


def test_an_mteb_folder_stands_beside_the_papers_tables(tmp_path):
    tasks = {row.label: row.values for row in read_published("table11")}["Mistral-7B LLM2Vec"]
    scores = [{"task": task, "score": value} for task, value in tasks.items() if task != "average"]
    summary = {
        "scores": scores,
        "average": 56.8,
        "categories": {"Retrieval": 38.05, "STS": 78.5},
        "settings": {"encoder": "mine", "settings": {"pooling": "mean"}},
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    tables = {one.measure: one for one in compare([*read_run(tmp_path), *read_published("table11")])}
    own, *published = tables["MTEB main scores, %"].rows
    assert own.values == published[2].values
    means = next(one for one in compare([*read_run(tmp_path), *read_published("table1")]) if "category" in one.measure)
    assert means.rows[0].values == {"retrieval": 38.05, "sts": 78.5, "average": 56.8}
    assert len(means.rows) == 21
    few = [score for score in scores if score["task"] in subset_tasks()]
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "scores": few}))
    rows = [row for row in read_run(tmp_path) if row.measure == read_published("table5")[0].measure]
    assert [row.values for row in rows] == [{"mean": 56.8}]


def test_saved_outputs_are_read_and_others_refused(tmp_path):
    words = [{"task": "ner", "layer": 6, "position": "same", "accuracy": 93.0, "f1": 17.0}]
    (tmp_path / "words.json").write_text(json.dumps({"encoder": "mine", "task": "words", "results": words}))
    assert [row.measure for row in read_run(tmp_path / "words.json")] == ["token accuracy, %", "F1 of whole spans, %"]
    (tmp_path / "sts.json").write_text(json.dumps({"encoder": "mine", "task": "sts", "spearman": 50.0}))
    (row,) = read_run(tmp_path / "sts.json")
    assert row.values == {"sts": 50.0}
    saved = {"encoder": "mine", "task": "sts", "data": "test.csv", "spearman": 50.0}
    (tmp_path / "sts.json").write_text(json.dumps(saved))
    (row,) = read_run(tmp_path / "sts.json")
    assert row.values == {"sts on test.csv": 50.0}
    words[0]["task"] = "ner"
    conll = {"encoder": "mine", "task": "words", "data": "conll2003", "results": words}
    (tmp_path / "words.json").write_text(json.dumps(conll))
    assert set(read_run(tmp_path / "words.json")[0].values) <= set(read_published("table4")[0].values)
    (tmp_path / "words.json").write_text(json.dumps(conll | {"data": "conll2003/valid.txt"}))
    assert set(read_run(tmp_path / "words.json")[0].values) == {"ner on conll2003/valid.txt"}
    words[0]["probe"] = "paper"
    (tmp_path / "words.json").write_text(json.dumps(conll))
    assert read_run(tmp_path / "words.json")[0].label == "mine (layer 6, same, the paper's probe)"
    (tmp_path / "other.json").write_text("[]")
    for path, message in [(tmp_path / "other.json", "is not what this version writes"), (tmp_path, "holds no results")]:
        with pytest.raises(DataError, match=message):
            list(read_run(path))
    with pytest.raises(DataError, match="Nothing to compare"):
        compare([])


def test_averages_over_other_tasks_have_a_column_of_their_own(tmp_path):
    summary = {
        "scores": [{"task": "STSBenchmark", "score": 62.0}],
        "average": 62.0,
        "categories": {"STS": 62.0},
        "settings": {"encoder": "mine", "settings": {"pooling": "mean"}},
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (table,) = compare([*read_run(tmp_path), *read_published("table11")])
    assert table.rows[0].values == {"STSBenchmark": 62.0, "average of these 1": 62.0}
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "scores": [], "average": None}))
    with pytest.raises(DataError, match="no run given has a figure"):
        compare(read_run(tmp_path))


def test_runs_of_one_name_are_told_apart_and_columns_keep_the_tables_order(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "run").mkdir(parents=True)
        (tmp_path / name / "run" / "results.json").write_text(json.dumps({"rungs": [{"name": "Uni", "x": 1.0}]}))
    rows = read_runs([tmp_path / "a" / "run", tmp_path / "b" / "run"])
    assert [row.source for row in rows] == ["a/run", "b/run"]
    assert [row.source for row in read_runs([tmp_path / "a" / "run"])] == ["run"]
    (table,) = compare(read_published("figure6", "Mistral-7B"))
    assert table.columns == ["25", "50", "75", "100"]
    assert table.rows[1].approximate == ("25",)
