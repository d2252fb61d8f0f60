"""The memory that a dry run measures is what the run takes."""

import json
import subprocess
import sys

import pytest

from unmask.cli.main import main
from unmask.heap import glibc_of_a_cpu
from unmask.training.monitor import read_metrics

pytestmark = pytest.mark.skipif(glibc_of_a_cpu() is None, reason="peaks are measured on a CPU")


def recipe(folder, stages, **model):
    """A recipe over texts of one to a hundred words."""
    words = ["museum", "old", "town", "merchant", "who", "had", "sailed"] * 15
    texts = [" ".join(words[number % 5 :][: 1 + number * 37 % 100]) for number in range(600)]
    (folder / "docs.txt").write_text("\n".join(texts))
    made = {
        "name": "r",
        "precision": "fp32",
        "model": {"name": "pocket", "dtype": "float32", **model},
        "data": {"docs": {"files": [str(folder / "docs.txt")]}},
        "stages": [{"data": "docs", "log_every": 1, **stage} for stage in stages],
    }
    (folder / "recipe.yaml").write_text(json.dumps(made))
    return str(folder / "recipe.yaml")


def plan(path, capsys):
    assert main(["train", path, "--dry-run", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_dry_run_measures_what_a_run_takes(tmp_path, capsys):
    mntp = {"objective": "mntp", "steps": 3, "batch_tokens": 8192, "block_size": 256, "micro_batch_tokens": 2048}
    simcse = {"objective": "simcse", "steps": 8, "batch_size": 24, "max_length": 128, "tuning": "full"}
    path = recipe(tmp_path, [mntp, simcse])
    stages = plan(path, capsys)["stages"]
    command = [sys.executable, "-m", "unmask", "train", path, "--out", str(tmp_path / "run")]
    subprocess.run(command, check=True, capture_output=True)
    for number, stage in enumerate(stages, 1):
        rows = read_metrics(tmp_path / "run" / "stages" / f"{number}-{stage['name']}" / "metrics.jsonl")
        peak = 1e9 * max(row["peak_gb"] for row in rows)
        assert stage["measured"] == pytest.approx(peak, rel=0.15), stage["name"]


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ({"objective": "simcse", "batch_size": 200_000}, "GiB are free, and a CPU may take twice the estimate"),
        ({"objective": "simcse", "batch_size": 200_000, "grad_cache": True}, "a few steps would take"),
        ({"objective": "simcse", "batch_size": 601, "grad_cache": True}, "600 texts are fewer than one batch of 601"),
    ],
)
def test_a_dry_run_says_why_it_did_not_measure(tmp_path, capsys, stage, reason):
    path = recipe(tmp_path, [{"steps": 2, "max_length": 16, **stage}])
    found = plan(path, capsys)
    assert reason in found["unmeasured"]
    assert found["stages"][0]["measured"] is None
    assert found["stages"][0]["memory"]["peak"] > 0
    assert main(["train", path, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "Memory was not measured: " in said
    assert reason in said
