"""A run looked at from inside: its checkpoints are what they were, its page shows every rung."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from unmask.cli.main import main
from unmask.errors import RecipeError
from unmask.runs.evaluate import score_checkpoints
from unmask.runs.recipe import load_recipe
from unmask.runs.rungs import checkpoints, open_run


@pytest.fixture(scope="module", params=[("lora", "bfloat16"), ("full", "float32")])
def run_folder(request, tmp_path_factory):
    """Two short stages with every checkpoint kept, and a task that costs nothing."""
    from pydoc_data.topics import topics

    folder = tmp_path_factory.mktemp("run")
    texts = [" ".join(topics[name].split())[:800] for name in sorted(topics)][:40]
    (folder / "docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "pairs.csv").write_text(
        "A cat sleeps.,A cat naps.,5\nStocks fell.,It rained.,0\nRain fell.,It rained.,4\n"
    )
    tuning, dtype = request.param
    stage = {"data": "docs", "steps": 4, "save_every": 2, "keep_checkpoints": 9, "tuning": tuning, "lr": 1e-3}
    recipe = {
        "name": "t",
        "precision": "fp32",
        "model": {"name": "pocket", "dtype": dtype},
        "data": {"docs": {"files": [str(folder / "docs.jsonl")]}},
        "stages": [
            {"objective": "mntp", "batch_tokens": 512, "block_size": 64, "micro_batch_tokens": 512, **stage},
            {"objective": "simcse", "batch_size": 8, "max_length": 32, "micro_batch_tokens": 512, **stage},
        ],
        "evaluation": {"sts": {"pairs": {"file": str(folder / "pairs.csv")}}},
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))  # JSON is YAML
    assert main(["train", str(folder / "recipe.json"), "--out", str(folder / "run"), "--json"]) == 0
    return folder / "run"


def test_checkpoints_are_opened_as_they_were(run_folder):
    recipe, places = open_run(run_folder)
    assert [place.name for place in places] == ["Uni", "Bi", "Bi+MNTP", "Bi+MNTP+SimCSE"]
    found = [(place, step, encoder) for place, step, encoder in checkpoints(recipe, run_folder)]
    assert [(place.name, step) for place, step, _ in found] == [
        *(("Bi+MNTP", 2), ("Bi+MNTP", 4), ("Bi+MNTP+SimCSE", 2), ("Bi+MNTP+SimCSE", 4)),
    ]
    for place, step, encoder in found:
        final = load_file(f"{place.encoder}/model.safetensors")
        own = encoder.model.state_dict()
        assert encoder.model.dtype == torch.float32
        same = all(np.allclose(own[name], value.float(), atol=1e-6) for name, value in final.items())
        assert same == (step == 4)


def test_the_last_checkpoint_scores_as_its_rung(run_folder):
    recipe = load_recipe(run_folder / "recipe.yaml")
    rows = score_checkpoints(recipe, run_folder, ["pairs"])
    assert [(row["rung"], row["step"], row["stage_step"]) for row in rows] == [
        ("Bi", 0, 0),
        *(("Bi+MNTP", 2, 2), ("Bi+MNTP", 4, 4), ("Bi+MNTP+SimCSE", 6, 2), ("Bi+MNTP+SimCSE", 8, 4)),
    ]
    for row in (rows[0], rows[2], rows[4]):
        figures = json.loads((run_folder / "rungs" / f"{row['rung']}.json").read_text())
        assert row["pairs"] == pytest.approx(figures["pairs"], abs=1e-4)
    with pytest.raises(RecipeError, match="evaluates no 'paris'; it has pairs"):
        score_checkpoints(recipe, run_folder, ["paris"])


@pytest.mark.slow
def test_the_report_of_a_run_has_everything(run_folder, tmp_path, capsys):
    arguments = ["analyze", str(run_folder), "--out", str(tmp_path / "out"), "--checkpoints", "pairs", "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["geometry"]) == ["Uni", "Bi", "Bi+MNTP", "Bi+MNTP+SimCSE"]
    assert list(found["layers"]) == ["Bi", "Bi+MNTP", "Bi+MNTP+SimCSE"]
    page = (tmp_path / "out" / "report.html").read_text()
    for heading in ("Sample efficiency", "Stage 1-mntp", "Stage 2-simcse", "What the beginning knows", "The shape of"):
        assert heading in page
    saved = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert len(saved["checkpoints"]) == 5
    assert main(["report", str(run_folder), "--json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    assert [row["label"] for row in table["rows"]] == ["Uni", "Bi", "Bi+MNTP", "Bi+MNTP+SimCSE"]
