"""One table of evaluation tasks: what is registered there is known to recipes, runs, the command line and reports."""

import json
from pathlib import Path

import pytest
import yaml

from unmask import Measure, Task, register_task
from unmask.cli.main import main
from unmask.errors import DataError, RecipeError
from unmask.evaluation.comparison import read_run
from unmask.evaluation.tasks import TASKS, InputFile, Settings, inputs
from unmask.runs.evaluate import check_tasks, evaluate_rung
from unmask.runs.recipe import load_recipe
from unmask.runs.sources import check_files

LINES = "A cat sleeps.\tA cat is asleep.\tStocks fell.\nStocks fell sharply.\tStocks fell.\tThe kitten naps.\n"


class TripleSettings(Settings):
    file: InputFile
    prompt: str | None = None
    margin: float = 0.0


def read(settings):
    rows = [line.split("\t") for line in Path(settings.file).read_text().splitlines()]
    if any(len(row) != 3 for row in rows):
        raise DataError(f"{settings.file}: three texts a line, please.")
    return rows


def score(encoder, data, settings, progress):
    vectors = encoder.encode([text for row in data for text in row], prompt=settings.prompt, normalize=True)
    near, far = ((vectors[0::3] * vectors[side::3]).sum(1) for side in (1, 2))
    return {"accuracy": 100 * float((near > far + settings.margin).mean()), "triples": len(data)}


TRIPLES = Task(
    name="triples",
    help="which of two texts is nearer to a third, 100% at best",
    settings=TripleSettings,
    read=read,
    score=score,
    measures=(Measure("accuracy", "accuracy on triples, %", " accuracy"),),
    note=lambda data: f"{len(data)} triples",
)


@pytest.fixture
def triples(tmp_path):
    """A file for the toy task, which is registered as long as the test takes."""
    register_task(TRIPLES)
    path = tmp_path / "triples.tsv"
    path.write_text(LINES)
    yield str(path)
    TASKS.pop("triples", None)


def recipe(**evaluation):
    return {"name": "toy", "model": {"name": "pocket"}, "data": {}, "stages": [], "evaluation": evaluation}


def test_a_recipe_knows_a_registered_task_and_no_other(triples):
    found = load_recipe(recipe(triples={"animals": {"file": triples}}, sts={"s": {"file": "s.csv"}}))
    assert found.evaluation.triples["animals"] == TripleSettings(file=triples)
    assert found.evaluation.clustering == {}
    assert [(task.name, name) for task, name, _ in found.evaluation.tasks()] == [("sts", "s"), ("triples", "animals")]
    again = yaml.safe_load(yaml.safe_dump(found.model_dump(mode="json")))
    assert again["evaluation"]["triples"] == {"animals": {"file": triples, "prompt": None, "margin": 0.0}}
    assert load_recipe(again) == found
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe(tripels={}, triples={"a": {"fil": 1}}, sts={"s": {"file": 3}}))
    lines = str(caught.value).splitlines()
    assert lines[0] == "recipe: 4 mistakes"
    assert set(map(str.strip, lines[1:])) == {
        "evaluation.tripels: unknown key; did you mean 'triples'?",
        "evaluation.triples.a.fil: unknown key; did you mean 'file'?",
        "evaluation.triples.a.file: missing",
        "evaluation.sts.s.file: input should be a valid string, found 3",
    }
    del TASKS["triples"]
    with pytest.raises(RecipeError, match=r"evaluation.triples: unknown key"):
        load_recipe(recipe(triples={"animals": {"file": triples}}))


def test_figures_of_one_name_are_refused(triples):
    with pytest.raises(RecipeError, match="classification and triples both have 'x accuracy'"):
        load_recipe(recipe(triples={"x": {"file": "a"}}, classification={"x": {"train": "a", "test": "b"}}))


def test_a_run_finds_reads_and_scores_it(triples, bidirectional, tmp_path, monkeypatch):
    monkeypatch.setenv("HERE", str(tmp_path))
    own = load_recipe(recipe(triples={"animals": {"file": "$HERE/triples.tsv"}}))
    check_files(own)
    check_tasks(own)
    figures = evaluate_rung(bidirectional, own, lambda name: [])
    assert figures == {"animals accuracy": 100.0}
    far = load_recipe(recipe(triples={"animals": {"file": triples, "margin": 3.0}}))
    assert evaluate_rung(bidirectional, far, lambda name: []) == {"animals accuracy": 0.0}
    (tmp_path / "triples.tsv").write_text("one\ttwo\n")
    with pytest.raises(DataError, match="three texts a line"):
        check_tasks(own)
    (tmp_path / "triples.tsv").unlink()
    with pytest.raises(RecipeError, match=r"evaluation.triples.animals: no file '.*triples.tsv'"):
        check_files(own)


def test_the_command_line_and_the_report_know_it(triples, capsys, tmp_path):
    command = ["eval", "triples", "pocket", "--attention", "bidirectional", "--data", triples]
    assert main([*command, "--json"]) == 0
    printed = capsys.readouterr()
    assert "2 triples" in printed.err
    found = json.loads(printed.out)
    head = {"encoder": "pocket", "task": "triples", "data": triples}
    assert found == {**head, "accuracy": 100.0, "triples": 2}
    (tmp_path / "saved.json").write_text(printed.out)
    (row,) = read_run(tmp_path / "saved.json")
    assert (row.measure, row.values) == ("accuracy on triples, %", {f"triples on {triples}": 100.0})
    assert main([*command, "--margin", "3"]) == 0
    assert "0.00" in capsys.readouterr().out
    assert main([*command, "--margin", "wide"]) == 2
    assert "margin='wide': input should be a valid number" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["eval", "triples", "--help"])
    assert "--prompt PROMPT" in capsys.readouterr().out


def test_a_report_of_a_run_names_its_measure(triples, tmp_path):
    rungs = [{"name": "Uni", "animals accuracy": 50.0, "ner": 90.0, "ner (previous) F1": 40.0}]
    (tmp_path / "results.json").write_text(json.dumps({"rungs": rungs}))
    words = {"ner": {"train": "a", "test": "b", "positions": ["same", "previous"]}}
    (tmp_path / "recipe.yaml").write_text(json.dumps({"evaluation": {"triples": {"animals": {}}, "words": words}}))
    rows = {row.measure: row.values for row in read_run(tmp_path)}
    assert rows["accuracy on triples, %"] == {"animals": 50.0}
    assert rows["token accuracy, %"] == {"ner": 90.0}
    assert rows["F1 of whole spans, %"] == {"ner (previous)": 40.0}


@pytest.mark.parametrize("name", ["sts", "masked", "mteb", "two words", "_hidden", "model_dump"])
def test_names_that_cannot_be_are_refused(name):
    with pytest.raises(RecipeError, match="cannot be called"):
        register_task(Task(name, "", TripleSettings, read, score, ()))
    assert name not in TASKS or name == "sts"


def test_every_task_reads_a_path_and_has_a_headline():
    for task in TASKS.values():
        assert list(inputs(task.settings))
        assert task.measures[0].title
    titles = [task.measures[0].title for task in TASKS.values()]
    assert len(set(titles)) == len(titles)


def test_settings_of_words_say_which_figures_a_run_keeps(bidirectional, tmp_path):
    (tmp_path / "w.txt").write_text("The B-NP\ncat I-NP\nsat B-VP\n. O\n\nA B-NP\ndog I-NP\nran B-VP\n. O\n")
    data = {"train": str(tmp_path / "w.txt"), "test": str(tmp_path / "w.txt"), "positions": ["auto", "previous"]}
    found = evaluate_rung(bidirectional, load_recipe(recipe(words={"np": data})), lambda name: [])
    assert list(found) == ["np", "np F1", "np (previous)", "np (previous) F1"]
    assert found["np"] == 100.0


def test_an_encoder_is_scored_on_tasks_as_a_recipe_says_them(bidirectional, tmp_path):
    from unmask import evaluate

    path = tmp_path / "pairs.csv"
    path.write_text("sentence1,sentence2,score\nA cat.,A kitten.,5\nA cat.,Stocks fell.,0\nIt rains.,Rain falls.,4\n")
    found = evaluate(bidirectional, {"sts": {"own": {"file": str(path)}}})
    assert set(found) == {"own"}
    assert -100 <= found["own"] <= 100
    with pytest.raises(RecipeError, match="stz"):
        evaluate(bidirectional, {"stz": {"own": {"file": str(path)}}})
    with pytest.raises(RecipeError, match="masked needs the base model"):
        evaluate(bidirectional, {"masked": {"data": "x"}})
