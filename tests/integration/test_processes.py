"""Two real processes, started as a user starts them, against one: the same weights, a clean end, a run that resumes."""

import json
import os
import shutil
import subprocess
import sys
import time

import psutil
import pytest
import yaml
from safetensors.torch import load_file

from tests.integration.small import write_small_encoder
from unmask.training.monitor import read_metrics

pytestmark = pytest.mark.slow
STEPS = 6
# Sums of gradients run in another order, which moves a gradient by some 1e-9. AdamW's first step divides a gradient by
# itself plus epsilon: with the usual 1e-8 one of the many that are close to nothing would be a sixth of a step off.
EPSILON = 1e-6
TOLERANCE = 3e-6
MEAN_TOLERANCE = 1e-7


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, articles):
    """MNTP, SimCSE and supervised training, 16 rows a step, dropout on."""
    tmp_path = tmp_path_factory.mktemp("recipe")
    model = write_small_encoder(tmp_path / "model")
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in articles))
    # All longer than max_length: four texts a part, an even number of parts, so that one process and two cut a step
    # alike and dropout is the same. Where the number is odd a part is cut in two, and dropout is another draw.
    sentences = [text[at : at + 240] for text in articles for at in range(0, len(text) - 240, 240)]
    (tmp_path / "sentences.txt").write_text("\n".join(sentences))
    triples = [
        {"query": a, "positive": b, "negatives": [c]}
        for a, b, c in zip(sentences[::3], sentences[1::3], sentences[2::3], strict=False)  # none twice: all are read
    ]
    (tmp_path / "triples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in triples))
    shared = {
        "steps": STEPS,
        "lr": 1e-3,
        "log_every": 1,
        "save_every": 2,
        "micro_batch_tokens": 128,
        "epsilon": EPSILON,
    }
    contrastive = {"batch_size": 16, "max_length": 32, "hidden_dropout": 0.1, **shared}
    path = tmp_path / "r.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "processes",
                "precision": "fp32",
                "model": {"name": model, "dtype": "float32", "max_length": 64},
                "data": {
                    "docs": {"files": [str(tmp_path / "docs.jsonl")]},
                    "sentences": {"files": [str(tmp_path / "sentences.txt")]},
                    "triples": {"kind": "pairs", "files": [str(tmp_path / "triples.jsonl")], "instruction": "Next: "},
                },
                "stages": [
                    {"objective": "mntp", "data": "docs", "batch_tokens": 1024, "block_size": 64, **shared},
                    {"objective": "simcse", "data": "sentences", "attention_dropout": 0.1, **contrastive},
                    {"objective": "supervised", "data": "triples", "grad_cache": True, **contrastive},
                ],
            }
        )
    )
    return path


def command(recipe, out, processes, *overrides):
    train = ["-m", "unmask", "train", str(recipe), "--out", str(out), "--json"]
    for override in overrides:
        train += ["--set", override]
    if processes == 1:
        return [sys.executable, *train]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *train]


def start(command, **extra):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **extra}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(command, **extra):
    process = start(command, **extra)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-4000:]
    return output


def assert_same_weights(one, other, stages):
    for stage in stages:
        first, second = (load_file(run / "stages" / stage / "encoder" / "model.safetensors") for run in (one, other))
        assert first.keys() == second.keys()
        for name, value in first.items():
            apart = (second[name] - value).abs()
            assert float(apart.max()) <= TOLERANCE, (stage, name)
            assert float(apart.mean()) <= MEAN_TOLERANCE, (stage, name)


STAGES = ("1-mntp", "2-simcse", "3-supervised")


@pytest.fixture(scope="module")
def alone(recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "one"
    run(command(recipe, out, 1))
    return out


def test_two_processes_end_with_the_weights_of_one(recipe, alone, tmp_path):
    output = run(command(recipe, tmp_path / "two", 2))
    assert len([line for line in output.splitlines() if line.startswith("{")]) == 1  # one process speaks
    assert json.loads((tmp_path / "two" / "lineage.json").read_text())["processes"] == 2
    assert_same_weights(alone, tmp_path / "two", STAGES)
    for stage in STAGES:
        one, two = (read_metrics(run / "stages" / stage / "metrics.jsonl") for run in (alone, tmp_path / "two"))
        assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-3)


SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}


def test_shards_end_with_the_weights_of_one(recipe, alone, tmp_path):
    run(command(recipe, tmp_path / "shards", 2), **SHARDED)
    assert_same_weights(alone, tmp_path / "shards", STAGES)


ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}


def test_deepspeed_ends_with_the_weights_of_one_and_goes_on_from_a_checkpoint(recipe, alone, tmp_path):
    kept = [f"stages.{stage}.keep_checkpoints=3" for stage in ("mntp", "simcse", "supervised")]
    out = tmp_path / "zero"
    run(command(recipe, out, 2, *kept), **ZERO)
    assert_same_weights(alone, out, STAGES)
    for processes, launcher in ((2, ZERO), (1, {})):
        stopped = tmp_path / f"stopped-{processes}"
        shutil.copytree(out, stopped)
        for gone in ("encoder", "results.json", "stages/3-supervised", "stages/2-simcse/encoder"):
            path = stopped / gone
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for step in (4, 6):
            shutil.rmtree(stopped / "stages" / "2-simcse" / "checkpoints" / f"step-{step:08d}")
        run(command(recipe, stopped, processes, *kept), **launcher)
        assert_same_weights(alone, stopped, STAGES)


GROUPS = """
import sys, torch
from pathlib import Path
from torch.distributed.fsdp import FSDPModule
from unmask.training import loop
from unmask.cli.main import main
plain = loop.StepEngine
def engine(accelerator, model, seed):
    groups = [type(m).__name__ for m in model.modules() if isinstance(m, FSDPModule)]
    if accelerator.is_main_process:
        print("GROUPS", sum(name.endswith("LlamaDecoderLayer") for name in groups), file=sys.stderr)
    return plain(accelerator, model, seed)
loop.StepEngine = engine
sys.exit(main(sys.argv[1:]))
"""


def test_each_layer_is_a_shard_group_of_its_own(recipe, tmp_path):
    (tmp_path / "look.py").write_text(GROUPS)
    train = ["train", str(recipe), "--out", str(tmp_path / "run"), "--set", "stages.simcse=null"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    quick = ["--set", "stages.supervised=null", "--set", "stages.mntp.steps=1"]
    process = start([*launcher, str(tmp_path / "look.py"), *train, *quick], **SHARDED)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    assert "GROUPS 2" in errors


def test_a_killed_process_ends_the_run_which_goes_on_with_another_number(recipe, alone, tmp_path):
    out = tmp_path / "killed"
    process = start(command(recipe, out, 2))
    metrics = out / "stages" / "2-simcse" / "metrics.jsonl"
    while process.poll() is None and len(read_metrics(metrics)) < 3:
        time.sleep(0.02)
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    children[1].kill()
    killed_at = time.monotonic()
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0, errors
    assert time.monotonic() - killed_at < 60
    assert not (out / "encoder").exists()
    run(command(recipe, out, 1))  # from the checkpoint of step 2 of SimCSE
    assert_same_weights(alone, out, STAGES)


def test_a_mistake_ends_all_processes(recipe, tmp_path):
    process = start(command(recipe, tmp_path / "bad", 2, "stages.simcse.batch_size=100000"))
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "fewer than one batch of 100000" in errors
    assert not (tmp_path / "bad").exists()
