"""The folder of a run: one process at a time, what a failed start leaves, what may still change, broken checkpoints."""

import copy
import json
import os
import stat
from pathlib import Path

import pytest
import torch
from torch import nn

from unmask import TextEncoder
from unmask.errors import ArtifactError, DataError, RecipeError, TrainingError
from unmask.files import locked, new_folder, read_json, remove_folder
from unmask.runs.claim import claimed
from unmask.runs.inputs import RunInputs
from unmask.runs.recipe import load_recipe
from unmask.runs.run import train
from unmask.runs.rungs import open_rung
from unmask.training import checkpoint


@pytest.fixture
def recipe(tmp_path, tiny, tokenizer, articles):
    """Two steps of MNTP of a tiny model."""
    tiny("llama").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in articles))
    sizes = {"batch_tokens": 64, "block_size": 32, "save_every": 1, "log_every": 1}
    return {
        "name": "t",
        "precision": "fp32",
        "model": {"name": str(tmp_path / "base"), "dtype": "float32", "max_length": 64},
        "data": {"docs": {"files": [str(tmp_path / "docs.jsonl")]}},
        "stages": [{"objective": "mntp", "data": "docs", "steps": 2, **sizes}],
        "evaluation": {"masked": {"data": "docs", "blocks": 4, "block_size": 32}},
    }


def changed(recipe, **values):
    one = copy.deepcopy(recipe)
    one["stages"][0] |= values
    return load_recipe(one)


def never_finite(monkeypatch):
    def stop(*_):
        raise TrainingError("loss nan")

    monkeypatch.setattr("unmask.training.loop._check_finite", stop)


def test_two_processes_do_not_run_in_one_folder(recipe, tmp_path):
    with claimed(tmp_path / "run", load_recipe(recipe)):
        with pytest.raises(DataError, match="is being written by another process; wait for it, or stop it"):
            train(load_recipe(recipe), tmp_path / "run")
        assert (tmp_path / "run" / "recipe.yaml").is_file()
    assert train(load_recipe(recipe), tmp_path / "run").encoder.is_dir()


@pytest.mark.parametrize("linked", [False, True])
def test_a_start_that_fails_before_it_has_a_figure_leaves_nothing(recipe, tmp_path, monkeypatch, linked):
    out = tmp_path / "run"
    if linked:
        (tmp_path / "disk").mkdir()
        out.symlink_to(tmp_path / "disk")
    monkeypatch.setattr("unmask.runs.run._climb", lambda *_: (_ for _ in ()).throw(DataError("broken")))
    with pytest.raises(DataError, match="broken"):
        train(load_recipe(recipe), out)
    assert not out.exists() or not list(out.iterdir())


def test_figures_stay_when_a_stage_has_to_stop_and_the_recipe_may_be_corrected(recipe, tmp_path, monkeypatch, caplog):
    never_finite(monkeypatch)
    with pytest.raises(TrainingError, match="loss nan"):
        train(load_recipe(recipe), tmp_path / "run")
    before = read_json(tmp_path / "run" / "inputs.json")["scored"]
    assert sorted(before) == ["Bi", "Uni"]
    monkeypatch.undo()
    opened = []
    monkeypatch.setattr("unmask.runs.run.open_rung", lambda *given: opened.append(given[1].name) or open_rung(*given))
    with caplog.at_level("INFO", "unmask"):
        train(changed(recipe, lr=1e-4), tmp_path / "run")
    assert "Nothing was trained yet, so the run begins with the recipe as it is now." in caplog.text
    assert opened == ["Bi+MNTP"]  # the other two are known
    with pytest.raises(RecipeError, match=r"holds a run of another recipe(.|\n)*stages\.0\."):
        train(changed(recipe, lr=1e-5), tmp_path / "run")


def test_stages_go_on_in_the_arithmetic_that_the_run_began_with(recipe, tmp_path, monkeypatch):
    recipe["precision"], recipe["evaluation"] = "auto", {}
    asked = []
    monkeypatch.setattr(
        "unmask.runs.run.make_accelerator", lambda precision, _: asked.append(precision) or pytest.fail("enough")
    )
    for here in ("bf16", "fp32"):  # another machine
        monkeypatch.setattr("unmask.runs.inputs.precision_here", lambda _, here=here: here)
        with claimed(tmp_path / "run", load_recipe(recipe)) as fresh:
            RunInputs(load_recipe(recipe), tmp_path / "run", fresh=fresh)
        (tmp_path / "run" / "stages" / "1-mntp" / "encoder").mkdir(parents=True, exist_ok=True)  # as if it had trained
        with pytest.raises(pytest.fail.Exception):
            train(load_recipe(recipe), tmp_path / "run")
    assert asked == ["bf16", "bf16"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mask_token": "no such token"}, "it must be one known token"),
        ({"batch_tokens": 4096 * 32}, "blocks are fewer than one batch of 4096"),
        ({"block_size": 4}, "block_size"),
    ],
)
def test_what_mntp_cannot_read_is_said_before_weights_are_loaded(recipe, tmp_path, monkeypatch, values, said):
    monkeypatch.setattr("unmask.runs.run.open_rung", lambda *_: pytest.fail("a model was opened"))
    with pytest.raises((RecipeError, DataError), match=said):
        train(changed(recipe, **values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_mask_token_of_the_evaluation_is_looked_at_first(recipe, tmp_path):
    recipe["evaluation"]["masked"]["mask_token"] = "no such token"
    with pytest.raises(RecipeError, match="it must be one known token"):
        train(load_recipe(recipe), tmp_path / "run")


def test_the_masked_figures_of_other_texts_of_a_file_are_others(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    seen = set()
    for limit in (4, 6):
        recipe["data"]["docs"]["limit"] = limit
        inputs = RunInputs(load_recipe(recipe), tmp_path / "run", fresh=True)
        seen.add(inputs.digests(recipe["model"]["name"])["masked"])
    assert len(seen) == 2


def test_a_stage_that_starts_from_a_trained_encoder_knows_what_it_went_through(recipe, tmp_path):
    first = train(load_recipe(recipe), tmp_path / "first")
    recipe["model"]["name"], recipe["evaluation"] = str(first.encoder), {}
    recipe["stages"] = [{"objective": "simcse", "data": "docs", "steps": 1, "batch_size": 2, "max_length": 16}]
    second = TextEncoder.load(train(load_recipe(recipe), tmp_path / "second").encoder)
    assert [stage["name"] for stage in second.lineage["base_stages"]] == ["mntp"]
    assert [stage["name"] for stage in second.lineage["stages"]] == ["simcse"]
    recipe["model"]["name"] = str(tmp_path / "second" / "encoder")
    third = TextEncoder.load(train(load_recipe(recipe), tmp_path / "third").encoder)
    assert [stage["name"] for stage in third.lineage["base_stages"]] == ["mntp", "simcse"]
    assert third.went_through_mntp


class OneProcess:
    """Parameters that lie whole in this process."""

    def read(self, parameter, wanted):
        return {"weight": parameter.detach().clone()}

    def write(self, parameter, values, step):
        parameter.data.copy_(values["weight"])


def test_a_broken_checkpoint_is_named_and_the_one_before_goes_on(tmp_path):
    parameters = {"w": nn.Parameter(torch.ones(3))}
    for step in (1, 2):
        checkpoint.save(tmp_path, step, parameters, OneProcess(), keep=2)
    (tmp_path / "step-00000002" / "weights.safetensors").write_bytes(b"")  # a machine that was switched off
    with pytest.raises(ArtifactError, match=r"step-00000002 cannot be read .* goes on from the checkpoint before it"):
        checkpoint.restore(tmp_path / "step-00000002", parameters, OneProcess())
    remove_folder(tmp_path / "step-00000002")
    assert [path.name for path in checkpoint.kept(tmp_path)] == ["step-00000001"]
    assert checkpoint.restore(tmp_path / "step-00000001", parameters, OneProcess()) == 1


def test_a_checkpoint_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    parameters = {"w": nn.Parameter(torch.ones(3))}
    checkpoint.save(tmp_path, 1, parameters, OneProcess(), keep=1)
    monkeypatch.setattr("unmask.training.checkpoint.save_file", full)
    with pytest.raises(TrainingError, match=r"step-00000002 cannot be written .*No space left.* Make room"):
        checkpoint.save(tmp_path, 2, parameters, OneProcess(), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_new_folder_may_be_a_link_but_not_here(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with new_folder(tmp_path / "link") as partial:
        (partial / "a").write_text("b")
    assert (tmp_path / "disk" / "a").read_text() == "b"
    assert (tmp_path / "link" / "a").is_file()
    monkeypatch.chdir(tmp_path / "here")
    with (
        pytest.raises(ArtifactError, match=r"\. is where this command runs; choose a folder in it"),
        new_folder(Path(".")),
    ):
        pass


def test_folders_that_cannot_be_synced_are_written_all_the_same(tmp_path, monkeypatch):
    plain = os.fsync

    def fsync(number):
        if stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(22, "Invalid argument")
        plain(number)

    monkeypatch.setattr("os.fsync", fsync)
    with new_folder(tmp_path / "new") as partial:
        (partial / "a").write_text("b")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_run_that_begins_again_keeps_nothing_of_the_recipe_before(recipe, tmp_path):
    with claimed(tmp_path / "run", load_recipe(recipe)):
        (tmp_path / "run" / "chat.json").write_text("{}")
        (tmp_path / "run" / "stages" / "1-mntp" / "checkpoints" / "step-00000001.partial").mkdir(parents=True)  # killed
    with claimed(tmp_path / "run", changed(recipe, lr=1e-5)) as fresh:
        assert not fresh
        assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", "recipe.yaml"}


def test_a_lock_that_was_taken_away_is_not_held(tmp_path, monkeypatch):
    (tmp_path / ".lock").touch()

    def flock(*_):  # who held it until now takes it away at its end
        (tmp_path / ".lock").unlink()

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(DataError, match="was taken away"), locked(tmp_path / ".lock", tmp_path):
        pass
