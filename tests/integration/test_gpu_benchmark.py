"""`make gpu` on a CPU, with tiny models: the first minute on a GPU is not for typing errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.worker import Worker
from benchmarks.shapes import SHAPES, body_weights
from torch.utils.flop_counter import FlopCounterMode

from unmask.training.rate import flops_of_a_token

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def measure(out, *only, **environment):
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--tiny", "--out", str(out), "--only", *only]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    return done, json.loads((out / "gpu.json").read_text()), (out / "gpu.md").read_text()


def test_every_piece_runs(tmp_path):
    done, found, table = measure(tmp_path, "attention", "encode", "MNTP", "SimCSE", "supervised")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    pieces = {piece["name"]: piece["rows"] for piece in found["pieces"]}
    assert len(pieces) == 7
    assert found["machine"]["products"]["flops_per_second"] > 0
    for name, rows in pieces.items():
        assert f"| {name} | {rows[0]['line']} |" in table
        if name.startswith("attention"):
            assert all("milliseconds" in row for row in rows if row["line"].endswith("as the package does it"))
            continue
        assert all(row["tokens_per_second"] > 0 for row in rows)
        assert rows[0]["share"] > 0
        assert ("estimate" in rows[0]) == (not name.startswith("encode"))
    assert min(row["cosine"] for row in pieces["encode 135M"]) > 0.9999
    assert [len(pieces[name]) for name in ("encode 135M", "SimCSE, LoRA, 0.6B")] == [4, 2]


def test_its_tests_are_rows_and_a_failure_is_the_exit_code(tmp_path):
    done, found, table = measure(tmp_path, "tests", PYTEST_ADDOPTS="-k dropout_keeps")
    (piece,) = found["pieces"]
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert [row["note"] for row in piece["rows"]] == ["passed"]
    assert "test_dropout_keeps_the_mean_and_follows_the_seed" in table
    done, found, table = measure(tmp_path, "tests", PYTEST_ADDOPTS="--no-such-option")
    assert done.returncode == 1
    assert "**failed**" in table


def test_a_piece_that_fails_takes_nothing_with_it(tmp_path):
    worker = Worker(Setup("cpu", True, tmp_path))
    try:
        late = worker.run("attention, one layer", 0.0)
        unknown = worker.run("no such piece", 300)
        assert late["error"] == "took longer than 0 s"
        assert unknown["error"].startswith("KeyError")
        good = worker.run("attention, one layer", 300)
        assert "error" not in good
        assert len(good["rows"]) == 8
    finally:
        worker.stop()


def test_the_operations_of_a_token_are_those_that_torch_counts():
    config = transformers.LlamaConfig(**SHAPES["tiny"], tie_word_embeddings=True)
    model = transformers.LlamaModel(config)
    ids = torch.randint(0, 1000, (2, 16))
    for trained in ("nothing", "all"):
        with FlopCounterMode(display=False) as counter:
            states = model(ids).last_hidden_state
            if trained == "all":
                states.sum().backward()
        counted = sum(n for op, n in counter.get_flop_counts()["Global"].items() if "attention" not in str(op))
        expected = flops_of_a_token(body_weights("tiny"), trained=trained) * ids.numel()
        assert counted == pytest.approx(expected, rel=0.02)  # rotations are products to torch
