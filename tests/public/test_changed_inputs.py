"""A run goes on with the inputs it began with, or not at all; figures follow the evaluation's files."""

import itertools
import json
import logging
import os
import shutil

import pytest
import yaml
from safetensors.torch import load_file, save_file

from unmask import EncoderSettings, RecipeError, TextEncoder
from unmask.backbone.loading import load_model
from unmask.backbone.lora import add_lora
from unmask.cli.main import main
from unmask.files import read_json
from unmask.objectives.contrastive import Contrastive
from unmask.runs import evaluate
from unmask.runs.inputs import RunInputs
from unmask.runs.recipe import load_recipe
from unmask.runs.run import train
from unmask.runs.rungs import open_run, open_rung

STEPS = 4


class Killed(BaseException):
    """Stands for a signal: nothing in the package catches it."""


@pytest.fixture
def place(tmp_path, articles, tiny, tokenizer):
    """Inputs of every kind: a base model, a teacher, training pairs, pairs with scores."""
    sentences = [s for text in articles for s in text.split(". ") if 30 < len(s) < 200][:60]
    tiny("llama").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    shutil.copytree(tmp_path / "base", tmp_path / "teacher")
    rows = [{"query": a, "positive": b} for a, b in itertools.pairwise(sentences)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scored = [{"sentence1": a, "sentence2": a[::-1] if i % 2 else a[:-9], "score": i} for i, a in enumerate(sentences)]
    (tmp_path / "scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scored))
    return tmp_path


@pytest.fixture
def recipe(place):
    stage = {"objective": "supervised", "data": "pairs", "teacher": {"name": str(place / "teacher")}}
    sizes = {"steps": STEPS, "save_every": 1, "batch_size": 8, "max_length": 32, "log_every": 1, "lr": 1e-3}
    return {
        "name": "t",
        "precision": "fp32",
        "model": {"name": str(place / "base"), "dtype": "float32", "max_length": 64},
        "data": {"pairs": {"kind": "pairs", "files": [str(place / "pairs.jsonl")]}},
        "stages": [{**stage, **sizes}],
        "evaluation": {"sts": {"own": {"file": str(place / "scored.jsonl")}}},
    }


def run(recipe, folder, monkeypatch, kill_at=None):
    """The run, or what is left of it when it is killed in the step of this number."""
    plain, steps = Contrastive.step, []

    def step(*given):
        steps.append(1)
        if len(steps) == kill_at:
            raise Killed
        return plain(*given)

    with monkeypatch.context() as patch:
        patch.setattr(Contrastive, "step", step)
        if kill_at is None:
            return train(load_recipe(recipe), folder), len(steps)
        with pytest.raises(Killed):
            train(load_recipe(recipe), folder)
    return None, len(steps)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change_row(path):
    """A file of the same size and the same time of change with one other letter."""
    before = path.stat()
    text = path.read_text()
    letter = ("\n", " ") if path.suffix == ".json" else (" the ", " thE ")
    path.write_text(text.replace(*letter, 1))
    assert path.read_text() != text
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    return text


def change_weights(folder):
    weights = load_file(folder / "model.safetensors")
    before = (folder / "model.safetensors").read_bytes()
    name = next(name for name in weights if "up_proj" in name)
    save_file({**weights, name: weights[name] * 1.5}, folder / "model.safetensors", metadata={"format": "pt"})
    return before


def test_an_untouched_run_goes_on_and_ends_as_one_that_was_not_stopped(recipe, tmp_path, monkeypatch):
    whole, _ = run(recipe, tmp_path / "whole", monkeypatch)
    run(recipe, tmp_path / "run", monkeypatch, kill_at=3)
    resumed, steps = run(recipe, tmp_path / "run", monkeypatch)
    assert steps == STEPS - 2
    one, other = (load_file(result.encoder / "model.safetensors") for result in (whole, resumed))
    assert all(one[name].equal(other[name]) for name in one)
    assert whole.to_dict()["rungs"] == resumed.to_dict()["rungs"]
    before = contents(tmp_path / "run")
    again, steps = run(recipe, tmp_path / "run", monkeypatch)
    assert steps == 0
    assert again.to_dict()["rungs"] == resumed.to_dict()["rungs"]
    changed = {name for name, content in contents(tmp_path / "run").items() if before.get(name) != content}
    assert changed <= {"results.json"}  # the seconds


@pytest.mark.parametrize(
    ("what", "named", "finished"),
    [
        ("pairs.jsonl", r"data.pairs: \S+pairs.jsonl had", False),
        ("pairs.jsonl", r"data.pairs: \S+pairs.jsonl had", True),
        ("base", r"model: \S+base/model.safetensors had", False),
        ("base/tokenizer.json", r"model: \S+base/tokenizer.json had", True),
        ("teacher", r"stages.supervised.teacher: \S+teacher/model.safetensors had", False),
    ],
)
def test_what_was_trained_on_must_not_change(recipe, place, tmp_path, monkeypatch, what, named, finished):
    folder = tmp_path / "run"
    run(recipe, folder, monkeypatch, kill_at=None if finished else 3)
    before = contents(folder)
    old = change_weights(place / what) if (place / what).is_dir() else change_row(place / what)
    with pytest.raises(RecipeError, match=f"begun with other inputs.* choose another --out(.|\n)*{named}"):
        run(recipe, folder, monkeypatch)
    assert contents(folder) == before
    if isinstance(old, bytes):
        (place / what / "model.safetensors").write_bytes(old)
    else:
        (place / what).write_text(old)
    _, steps = run(recipe, folder, monkeypatch)
    assert steps == (0 if finished else STEPS - 2)


def test_the_command_line_says_it_and_ends_with_2(recipe, place, tmp_path, monkeypatch, capsys):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run(recipe, tmp_path / "run", monkeypatch, kill_at=3)
    change_row(place / "pairs.jsonl")
    assert main(["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]) == 2
    assert "pairs.jsonl had" in capsys.readouterr().err


def test_before_anything_is_trained_an_input_may_be_corrected(recipe, place, tmp_path, monkeypatch):
    run(recipe, tmp_path / "run", monkeypatch, kill_at=1)
    change_row(place / "pairs.jsonl")
    change_weights(place / "base")
    result, steps = run(recipe, tmp_path / "run", monkeypatch)
    assert steps == STEPS
    fresh, _ = run(recipe, tmp_path / "fresh", monkeypatch)
    assert result.to_dict()["rungs"] == fresh.to_dict()["rungs"]  # the untrained ones were scored before


@pytest.mark.parametrize("kill_at", [3, None])
def test_a_corrected_evaluation_file_is_scored_again_on_every_rung(recipe, place, tmp_path, monkeypatch, kill_at):
    result, _ = run(recipe, tmp_path / "run", monkeypatch, kill_at=kill_at)
    path = place / "scored.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"score": row["score"] % 7}) + "\n" for row in rows))
    again, steps = run(recipe, tmp_path / "run", monkeypatch)
    assert steps == (0 if kill_at is None else STEPS - 2)
    fresh, _ = run(recipe, tmp_path / "fresh", monkeypatch)
    assert again.to_dict()["rungs"] == fresh.to_dict()["rungs"]
    for one in result.rungs if result else ():
        assert all(one.figures != other.figures for other in again.rungs if other.name == one.name)
    opened = []
    monkeypatch.setattr("unmask.runs.run.open_rung", lambda *given: opened.append(given))
    run(recipe, tmp_path / "run", monkeypatch)
    assert not opened


def test_what_is_evaluated_may_change_between_two_starts(recipe, tmp_path, monkeypatch):
    asked = load_recipe(recipe)
    bare = asked.model_copy(update={"evaluation": type(asked.evaluation)()})
    assert not any(rung.figures for rung in train(bare, tmp_path / "run").rungs)
    result, steps = run(recipe, tmp_path / "run", monkeypatch)
    assert steps == 0
    assert all(rung.figures for rung in result.rungs)
    with pytest.raises(RecipeError, match="another recipe"):
        train(asked.model_copy(update={"seed": asked.seed + 1}), tmp_path / "run")


def test_a_task_is_scored_once_whatever_is_added_and_wherever_scoring_was_killed(recipe, tmp_path, monkeypatch):
    plain, scored, kill_at = evaluate._figures, [], 2

    def figures(task, name, *given):
        if len(scored) == kill_at:
            raise Killed
        scored.append(name)
        return plain(task, name, *given)

    monkeypatch.setattr(evaluate, "_figures", figures)
    recipe["stages"] = []
    recipe["evaluation"]["sts"]["again"] = dict(recipe["evaluation"]["sts"]["own"])
    with pytest.raises(Killed):
        train(load_recipe(recipe), tmp_path / "run")
    kill_at = None
    train(load_recipe(recipe), tmp_path / "run")
    assert scored == ["own", "again"] * 2  # Uni and Bi
    recipe["evaluation"]["sts"]["added"] = dict(recipe["evaluation"]["sts"]["own"], prompt="Read: ")
    del recipe["evaluation"]["sts"]["again"]
    found = train(load_recipe(recipe), tmp_path / "run").to_dict()["rungs"]
    assert scored[4:] == ["added"] * 2
    assert found == train(load_recipe(recipe), tmp_path / "fresh").to_dict()["rungs"]


def test_a_callers_own_score_is_asked_every_time(recipe, tmp_path):
    recipe["stages"] = []
    for wanted in (1.0, 2.0):
        asked = []
        score = lambda _, wanted=wanted, asked=asked: asked.append(1) or {"own": wanted}  # noqa: E731
        found = train(load_recipe(recipe), tmp_path / "run", evaluate=score)
        assert [rung.figures for rung in found.rungs] == [{"own": wanted}] * 2
        assert len(asked) == 2  # once a rung


def test_a_stage_that_was_trained_again_is_scored_again(recipe, tmp_path):
    first = train(load_recipe(recipe), tmp_path / "run").rungs
    encoder = tmp_path / "run" / "stages" / "1-supervised" / "encoder"
    fingerprint = read_json(encoder / "unmask.json")["fingerprint"]
    shutil.rmtree(encoder)
    shutil.rmtree(tmp_path / "run" / "encoder")
    last = tmp_path / "run" / "stages" / "1-supervised" / "checkpoints" / f"step-{STEPS:08}"
    weights = load_file(last / "weights.safetensors")
    save_file({name: value * 1.5 for name, value in weights.items()}, last / "weights.safetensors")
    again = train(load_recipe(recipe), tmp_path / "run").rungs
    assert read_json(encoder / "unmask.json")["fingerprint"] != fingerprint
    assert [one == other for one, other in zip(first, again, strict=True)] == [True, True, False]


def test_a_run_is_scored_in_the_arithmetic_that_it_began_with(recipe, tmp_path, monkeypatch):
    recipe["stages"], recipe["evaluation"]["precision"] = [], "auto"
    opened = []
    monkeypatch.setattr(
        "unmask.runs.run.open_rung", lambda *given: opened.append(given[2]) or open_rung(*given[:2], "fp32")
    )
    for here in ("bf16", "fp32"):  # another machine
        monkeypatch.setattr("unmask.runs.inputs.precision_here", lambda asked, here=here: here)
        train(load_recipe(recipe), tmp_path / "run")
        recipe["evaluation"]["sts"]["added"] = dict(recipe["evaluation"]["sts"]["own"], prompt="Read: ")
    assert opened == ["bf16"] * 4


def test_every_rung_reads_texts_alike(recipe, place, tmp_path):
    """Whatever the folder of the base model says, here an encoder's own prompt and length."""
    base = TextEncoder.load(place / "base", attention="causal")
    own = EncoderSettings(max_length=32, prompts={"q": "query: "}, default_prompt_name="q", normalize=True)
    TextEncoder(base.model, base.tokenizer, own).save(tmp_path / "encoder")
    recipe["model"] |= {"name": str(tmp_path / "encoder"), "prompts": {"d": "text: "}, "include_prompt": True}
    asked = load_recipe(recipe)
    result = train(asked, tmp_path / "run", evaluate=lambda _: {})
    _, places = open_run(tmp_path / "run")
    assert len(places) == len(result.rungs) == 3
    for one in places:
        assert open_rung(asked, one).settings == asked.model.encoder_settings()


def test_a_file_corrected_while_the_run_is_on_leaves_no_mixed_table(recipe, place, tmp_path, monkeypatch):
    plain, steps, path = Contrastive.step, [], place / "scored.jsonl"

    def step(*given):
        if not steps:  # Uni and Bi are scored
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            path.write_text("".join(json.dumps(row | {"score": row["score"] % 7}) + "\n" for row in rows))
        steps.append(1)
        return plain(*given)

    monkeypatch.setattr(Contrastive, "step", step)
    found = train(load_recipe(recipe), tmp_path / "run").to_dict()["rungs"]
    assert found == train(load_recipe(recipe), tmp_path / "fresh").to_dict()["rungs"]


def test_models_changed_while_the_run_is_on_make_no_encoder(recipe, place, tmp_path, monkeypatch):
    plain, kept, rows = Contrastive.step, {}, []

    def step(*given):
        if not kept:
            kept.update({what: change_weights(place / what) for what in ("base", "teacher")})
            rows.append(change_row(place / "pairs.jsonl"))
        return plain(*given)

    with monkeypatch.context() as patch:
        patch.setattr(Contrastive, "step", step)
        with pytest.raises(RecipeError, match=r"changed while the run in \S+run was on") as caught:
            train(load_recipe(recipe), tmp_path / "run")
    assert all(f"{place / what}/model.safetensors had" in str(caught.value) for what in kept)
    assert "pairs.jsonl" not in str(caught.value)  # which was read at the start
    assert not (tmp_path / "run" / "stages" / "1-supervised" / "encoder").exists()
    for what, weights in kept.items():
        (place / what / "model.safetensors").write_bytes(weights)
    with pytest.raises(RecipeError, match=r"begun with other inputs(.|\n)*pairs.jsonl had"):
        train(load_recipe(recipe), tmp_path / "run")
    (place / "pairs.jsonl").write_text(rows[0])
    result, steps = run(recipe, tmp_path / "run", monkeypatch)
    assert (steps, result.encoder.is_dir()) == (0, True)


def test_a_model_changed_between_two_rungs_is_not_scored(recipe, place, tmp_path):
    recipe["stages"], scored = [], []

    def score(encoder):
        scored.append(encoder)
        change_weights(place / "base")
        return {"figure": 1.0}

    with pytest.raises(RecipeError, match="changed while the run"):
        train(load_recipe(recipe), tmp_path / "run", evaluate=score)
    assert len(scored) == 1


def test_a_run_of_an_earlier_version_takes_its_inputs_as_they_are(recipe, place, tmp_path, monkeypatch, caplog):
    run(recipe, tmp_path / "run", monkeypatch, kill_at=3)
    (tmp_path / "run" / "inputs.json").unlink()
    opened = []
    monkeypatch.setattr(
        "unmask.runs.run.open_rung",
        lambda recipe, place, *how: opened.append(place.name) or open_rung(recipe, place, *how),
    )
    with caplog.at_level(logging.INFO, "unmask"):
        _, steps = run(recipe, tmp_path / "run", monkeypatch)
    assert steps == STEPS - 2
    assert opened == ["Uni", "Bi", "Bi+Supervised"]  # which file the figures were of, nobody noted
    assert [message for message in caplog.messages if "has no inputs.json" in message]
    change_row(place / "pairs.jsonl")
    with pytest.raises(RecipeError, match="begun with other inputs"):
        run(recipe, tmp_path / "run", monkeypatch)


def test_files_of_folders_and_the_revisions_of_hub_data_sets_are_inputs(place, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshots = tmp_path / "cache" / "datasets--owner--name" / "snapshots"
    (snapshots / "a1").mkdir(parents=True)
    (place / "set" / ".git").mkdir(parents=True)
    (place / "set" / ".git" / "index").write_text("x")
    (place / "set" / "train.csv").write_text("text\none\n")
    files = ["owner/name@train", f"{place / 'set'}@train"]
    recipe = load_recipe(
        {
            "name": "t",
            "model": {"name": str(place / "base")},
            "data": {"texts": {"files": files}},
            "stages": [{"objective": "mntp", "data": "texts", "steps": 1}],
        }
    )
    out = tmp_path / "run"
    (out / "stages" / "1-mntp" / "encoder").mkdir(parents=True)
    found = RunInputs(recipe, out, fresh=True).training["data.texts"]
    assert found["owner/name@train"] == {"revisions": ["a1"]}
    assert list(found)[1:] == [f"{files[1]}/train.csv"]
    RunInputs(recipe, out, fresh=False)
    (snapshots / "b2").mkdir()
    with pytest.raises(RecipeError, match=r"data.texts: owner/name@train is of another revision"):
        RunInputs(recipe, out, fresh=False)
    (snapshots / "b2").rmdir()
    (snapshots / "a1").rmdir()  # the cache was cleaned
    RunInputs(recipe, out, fresh=False)


def test_a_teacher_that_is_an_adapter_is_known_with_its_base(recipe, place, tmp_path, monkeypatch):
    wrapped = add_lora(load_model(str(place / "teacher"), head=False), rank=2, alpha=4, dropout=0.0)
    wrapped.save_pretrained(str(tmp_path / "adapter"))
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(place / "teacher")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    recipe["stages"][0]["teacher"]["name"] = str(tmp_path / "adapter")
    run(recipe, tmp_path / "run", monkeypatch)
    known = json.loads((tmp_path / "run" / "inputs.json").read_text())["training"]["stages.supervised.teacher"]
    named = {f"{place / 'teacher'}/model.safetensors", f"{tmp_path / 'adapter'}/adapter_model.safetensors"}
    assert named <= set(known)
    change_weights(place / "teacher")
    with pytest.raises(RecipeError, match=r"stages.supervised.teacher: \S+teacher/model.safetensors had"):
        run(recipe, tmp_path / "run", monkeypatch)


def test_a_plan_looks_for_the_teacher(recipe, tmp_path, capsys):
    recipe["stages"][0]["teacher"]["name"] = "./nowhere"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["train", str(tmp_path / "recipe.yaml"), "--dry-run"]) == 2
    assert "No folder './nowhere'" in capsys.readouterr().err
