"""A run killed with SIGKILL at any moment resumes and ends with the weights of an uninterrupted one."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from safetensors.torch import load_file

from unmask.training.monitor import read_metrics

MEASURED = ("tokens_per_second", "share_of_products", "peak_gb")
STEPS = 8


@pytest.fixture
def recipe(tmp_path, articles):
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps({"text": a}) + "\n" for a in articles * 3))
    (tmp_path / "sentences.txt").write_text("\n".join(s for a in articles for s in a.split(". ") if len(s) > 20))
    shared = {"steps": STEPS, "save_every": 2, "log_every": 1, "micro_batch_tokens": 256}
    path = tmp_path / "recipe.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "resume",
                "model": {"name": "pocket", "dtype": "float32"},
                "data": {
                    "docs": {"files": [str(tmp_path / "docs.jsonl")]},
                    "sentences": {"files": [str(tmp_path / "sentences.txt")]},
                },
                "stages": [
                    {
                        "objective": "mntp",
                        "data": "docs",
                        "held_out": "docs",
                        "held_out_blocks": 4,
                        "eval_every": 4,
                        "batch_tokens": 512,
                        "block_size": 64,
                        "lr": 1e-3,
                        **shared,
                    },
                    {
                        "objective": "simcse",
                        "data": "sentences",
                        "batch_size": 8,
                        "max_length": 32,
                        "lr": 1e-3,
                        "hidden_dropout": 0.1,
                        **shared,
                    },
                ],
            }
        )
    )
    return path


def start(recipe, out):
    command = [sys.executable, "-m", "unmask.cli.main", "train", str(recipe), "--out", str(out), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ, text=True)


def wait_until(process, condition):
    """Poll until the condition holds, or the process ends by itself."""
    while process.poll() is None and not condition():
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_runs_end_with_the_same_weights(recipe, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(recipe, whole)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    stages = [killed / "stages" / name for name in ("1-mntp", "2-simcse")]
    moments = [
        lambda: len(read_metrics(stages[0] / "metrics.jsonl")) >= 3,  # between two checkpoints of the first stage
        lambda: any((stages[0] / "checkpoints").glob("*.partial")),  # while a checkpoint is written, if caught
        lambda: (stages[0] / "encoder").exists(),  # between the stages
        lambda: len(read_metrics(stages[1] / "metrics.jsonl")) >= 5,
    ]
    deaths = 0
    for moment in moments:
        process = start(recipe, killed)
        wait_until(process, moment)
        deaths += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert deaths >= 3
    process = start(recipe, killed)
    resumed, errors = process.communicate()
    assert process.returncode == 0, errors
    for place in ("stages/1-mntp/encoder", "encoder"):
        one, other = (load_file(run / place / "model.safetensors") for run in (whole, killed))
        assert one.keys() == other.keys()
        assert all(one[name].equal(other[name]) for name in one), place
    assert json.loads(resumed)["rungs"] == json.loads(output)["rungs"]
    for name in ("1-mntp", "2-simcse"):
        rows = [read_metrics(run / "stages" / name / "metrics.jsonl") for run in (whole, killed)]
        one, other = ([{k: v for k, v in r.items() if k not in MEASURED} for r in run] for run in rows)
        assert one == other
    assert not list(killed.rglob("*.partial"))


@pytest.mark.slow
def test_another_recipe_does_not_go_on_in_the_folder(recipe, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "recipe.yaml").write_text("name: other\n")
    process = start(recipe, out)
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "another recipe" in errors
    assert sorted(p.name for p in out.iterdir()) == ["recipe.yaml"]
