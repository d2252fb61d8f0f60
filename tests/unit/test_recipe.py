"""Recipes: every mistake at once, the nearest name, overrides, missing files."""

import copy

import pytest
import yaml

from unmask.errors import RecipeError
from unmask.runs.claim import claimed
from unmask.runs.raw import dump, shipped
from unmask.runs.recipe import load_recipe
from unmask.runs.sources import check_files

GOOD = {
    "name": "test",
    "model": {"name": "pocket"},
    "data": {"docs": {"files": ["docs.txt"]}},
    "stages": [
        {"objective": "mntp", "data": "docs", "steps": 10},
        {"objective": "simcse", "data": "docs", "steps": 10},
    ],
}


def broken(**changes):
    recipe = copy.deepcopy(GOOD)
    for path, value in changes.items():
        at = recipe
        *parents, last = path.split("__")
        for key in parents:
            at = at[int(key)] if isinstance(at, list) else at[key]
        at[last] = value
    return recipe


def test_a_good_recipe_has_the_papers_defaults():
    recipe = load_recipe(GOOD)
    mntp, simcse = recipe.stages
    assert (mntp.batch_size, mntp.block_size, mntp.mask_rate, mntp.mask_token) == (32, 512, 0.2, "_")
    assert (mntp.lora.rank, mntp.lora.alpha, mntp.lora.targets) == (16, 32, "all-linear")
    assert (simcse.batch_size, simcse.scale, simcse.attention_dropout) == (128, 20.0, 0.3)


def test_masked_tokens_are_scored_with_the_token_that_was_trained():
    def token(*overrides, **changes):
        recipe = load_recipe(broken(evaluation={"masked": {"data": "docs"}}, **changes), overrides)
        return recipe.evaluation.masked.mask_token

    assert token() == "_"
    assert token("stages.mntp.mask_token=<mask>") == "<mask>"
    assert token("stages.mntp.mask_token=<mask>", "evaluation.masked.mask_token=_") == "_"
    assert token(stages=[]) == "_"


def test_all_mistakes_are_reported_at_once_with_the_nearest_name():
    wrong = broken(stages__0__step=5, stages__1__steps="ten", model__poolin="mean", stages__0__data="doc")
    with pytest.raises(RecipeError) as caught:
        load_recipe(wrong)
    message = str(caught.value)
    assert "4 mistakes" in message
    assert "stages.0.data: no data source 'doc'; did you mean 'docs'?" in message
    assert "stages.0.step: unknown key; did you mean 'steps'?" in message
    assert "model.poolin: unknown key; did you mean 'pooling'?" in message
    assert "stages.1.steps: " in message
    assert "found 'ten'" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages__0__data": "doc"}, "stages.0.data: no data source 'doc'; did you mean 'docs'"),
        ({"stages__0__objective": "mlm"}, "mlm"),
        ({"stages__0__warmup_steps": 20}, "warmup_steps=20 is more than steps=10"),
        ({"stages__0__warmup_steps": 4, "stages__0__schedule_steps": 4}, "schedule_steps=4 must be more than warmup"),
        ({"data": {2024: {"files": ["docs.txt"]}}}, "no data source 'docs'; known: 2024"),
        ({"stages__0__mask_rate": 1.5}, "mask_rate"),
        ({"stages__0__batch_tokens": 100}, "less than one block_size"),
        (
            {"stages__1__attention_dropout": 0.0, "stages__1__tuning": "full"},
            "views of a text would be identical",
        ),
        ({"name": "has a space"}, "name"),
        (
            {"data__p": {"kind": "pairs", "files": ["p.jsonl"]}, "evaluation": {"masked": {"data": "p"}}},
            "evaluation.masked: 'p' is of kind pairs, texts is needed",
        ),
        ({"stages__1__objective": "mntp", "stages__1__data": "docs"}, "two are named 'mntp'"),
    ],
)
def test_each_mistake_has_its_sentence(changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(broken(**changes))


def test_overrides_by_number_and_name():
    recipe = load_recipe(GOOD, ["stages.0.lr=1e-4", "stages.simcse.steps=3", "stages.mntp.lora.rank=4", "seed=7"])
    assert recipe.stages[0].lr == 1e-4
    assert recipe.stages[0].lora.rank == 4
    assert recipe.stages[1].steps == 3
    assert recipe.seed == 7
    with pytest.raises(RecipeError, match=r"expected key.path=value"):
        load_recipe(GOOD, ["steps"])
    with pytest.raises(RecipeError, match="no entry 'mnt'; there are mntp, simcse"):
        load_recipe(GOOD, ["stages.mnt.lr=1"])


def test_an_alias_is_changed_in_one_place(tmp_path):
    lora = {"rank": 16}
    shared = broken(stages__0__lora=lora, stages__1__lora=lora)
    (tmp_path / "shared.yaml").write_text(yaml.safe_dump(shared))
    assert "*id001" in (tmp_path / "shared.yaml").read_text()
    for source in (shared, tmp_path / "shared.yaml"):
        recipe = load_recipe(source, ["stages.0.lora.rank=4"])
        assert [stage.lora.rank for stage in recipe.stages] == [4, 16]


def test_files_that_are_not_yaml_recipes_are_named(tmp_path):
    for content, message in [("a: [", "is not YAML"), ("", "holds nothing"), ("- a", "holds list")]:
        path = tmp_path / "r.yaml"
        path.write_text(content)
        with pytest.raises(RecipeError, match=message):
            load_recipe(path)
    with pytest.raises(RecipeError, match="did you mean 'pocket-wiki'"):
        load_recipe("pocket-wik")


def test_missing_files_and_unset_variables_are_found_before_anything_heavy(monkeypatch):
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    wrong = broken(data={"docs": {"files": ["/nowhere/a.txt", "$NOT_SET_ANYWHERE/b.txt"]}})
    with pytest.raises(RecipeError) as caught:
        check_files(load_recipe(wrong))
    assert "no file '/nowhere/a.txt'" in str(caught.value)
    assert "NOT_SET_ANYWHERE" in str(caught.value)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_loads(name):
    assert load_recipe(name).name


def test_one_name_for_sts_and_words_is_refused_and_auto_is_a_position():
    words = {"ner": {"train": "a.txt", "test": "b.txt", "positions": ["auto"]}}
    assert load_recipe(broken(evaluation={"words": words})).evaluation.words["ner"].positions == ["auto"]
    with pytest.raises(RecipeError, match="sts and words both have 'ner'"):
        load_recipe(broken(evaluation={"words": words, "sts": {"ner": {"file": "c.csv"}}}))


def test_null_takes_out_a_task_and_a_kind_of_tasks():
    kept, other = {"file": "a.csv"}, {"train": "a.txt", "test": "b.txt"}
    evaluation = {"sts": {"dev": kept, "test": kept}, "words": {"ner": other}, "masked": {"data": "docs"}}
    raw = broken(evaluation=evaluation)
    found = load_recipe(raw, ["evaluation.sts.test=null", "evaluation.words=null"]).evaluation
    assert [name for _, name, _ in found.tasks()] == ["dev"]
    assert found.masked.data == "docs"
    assert load_recipe(raw, ["evaluation.masked=null", "evaluation.words=null", "evaluation.sts=null"]).evaluation.empty


def test_a_key_that_stands_there_twice_is_refused(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(GOOD) + "stages: []\n")
    with pytest.raises(RecipeError, match="'stages' stands there twice"):
        load_recipe(path)


@pytest.mark.parametrize("name", ["1e-4", "007", "2024-02-28", "no"])
def test_a_name_that_looks_like_something_else_stays_a_name(tmp_path, name):
    recipe = load_recipe(broken(name=name))
    (tmp_path / "run" / "encoder").mkdir(parents=True)  # as if it had trained
    (tmp_path / "run" / "recipe.yaml").write_text(dump(recipe.model_dump(mode="json")))
    with claimed(tmp_path / "run", recipe) as fresh:  # its own recipe is not another
        assert not fresh


def test_a_date_that_is_none_is_one_sentence(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(GOOD).replace("name: test", "name: 2024-02-30"))
    with pytest.raises(RecipeError, match="is not YAML: day"):
        load_recipe(path)
    with pytest.raises(RecipeError, match="is not a YAML value"):
        load_recipe(GOOD, ["name=2024-02-30"])
