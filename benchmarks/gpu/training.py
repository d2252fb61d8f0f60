"""Training: steps of each objective as `unmask train` makes them, and sentence-transformers' trainer beside them."""

import json
import statistics
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu.setup import Row, Setup, texts, with_peak
from benchmarks.peers import sentence_transformers
from benchmarks.shapes import SHAPES, body_weights

from unmask.training.rate import flops_of_a_token

_RELEASED = {"simcse": sentence_transformers.simcse, "supervised": sentence_transformers.supervised}


def train(setup: Setup, name: str, objective: str, tuning: str) -> Iterator[Row]:
    """Tokens a second of the median step, share of the products' rate, the peak beside the one that a plan gives."""
    folder = Path(tempfile.mkdtemp(dir=setup.scratch))
    shape, stage = setup.shape(name), _stage(setup, objective, tuning)
    pairs = _pairs(3 * stage.get("batch_size", 0) + 1)
    made = _recipe(setup, folder, shape, stage, pairs)
    yield {"line": "unmask", **_ours(setup, folder, shape, made)}
    if objective in _RELEASED:
        job = _job(setup, folder, shape, stage, pairs)
        found, peak = with_peak(setup.device, lambda: _RELEASED[objective](job))
        yield {"line": "sentence-transformers", "tokens_per_second": found["tokens_per_second"], "peak": peak}


def _stage(setup: Setup, objective: str, tuning: str) -> dict[str, Any]:
    length, rows = setup.some(32, 128), setup.some(4, 128)
    sizes = {
        "mntp": {"batch_tokens": setup.some(128, 32768), "block_size": setup.some(64, 512)},
        "simcse": {"batch_size": rows, "max_length": length},
        "supervised": {"batch_size": 2 * rows, "max_length": length, "grad_cache": True},
    }
    shared = {"steps": setup.some(3, 10), "micro_batch_tokens": setup.some(128, 8192), "log_every": 1, "lr": 1e-4}
    return {"objective": objective, "tuning": tuning, "data": objective, **shared, **sizes[objective]}


def _recipe(setup: Setup, folder: Path, shape: str, stage: dict[str, Any], pairs: list[dict[str, str]]) -> Any:
    from unmask.runs.recipe import load_recipe

    columns = {
        "mntp": [{"text": text} for text in texts("long", setup.some(8, 512))],
        "simcse": [{"text": pair["query"]} for pair in pairs],
        "supervised": [{"query": p["query"], "positive": p["positive"], "negatives": [p["negative"]]} for p in pairs],
    }
    objective = stage["objective"]
    path = folder / f"{objective}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in columns[objective]), encoding="utf-8")
    source = {"files": [str(path)], **({"kind": "pairs"} if objective == "supervised" else {})}
    model = {"name": str(setup.causal_model(shape)), "dtype": setup.dtype}
    precision = {"bfloat16": "bf16", "float32": "fp32"}[setup.dtype]
    recipe = {"name": "gpu", "precision": precision, "model": model, "data": {objective: source}, "stages": [stage]}
    return load_recipe(recipe)


def _pairs(count: int) -> list[dict[str, str]]:
    """Texts, what follows each of them and what follows that; speed does not mind what they mean."""
    found = texts("short", count + 2)
    return [
        {"query": a, "positive": f"{b} {c}", "negative": f"{c} {b} {a}"}
        for (a, b), (_, c) in zip(pairwise(found), pairwise(found[1:]), strict=False)
    ][:count]


def _ours(setup: Setup, folder: Path, shape: str, recipe: Any) -> Row:
    from unmask.runs.plan import make_plan

    stage, plan = recipe.stages[0], make_plan(recipe).stages[0]
    (rows, peak) = with_peak(setup.device, lambda: _steps(recipe, folder))
    rate = statistics.median(row["tokens_per_second"] for row in rows[2:])
    sizes = SHAPES[shape]
    flops = flops_of_a_token(
        body_weights(shape),
        trained="adapter" if stage.has_adapter else "all",
        adapter=plan.memory.trainable if stage.has_adapter else 0,
        again=_run_twice(stage, plan.tokens / stage.steps),
        head=stage.label_share * sizes["hidden_size"] * sizes["vocab_size"],
    )
    found = {"tokens_per_second": rate, "share": rate * flops / setup.rate, "peak": peak}
    return {**found, "estimate": plan.memory.peak, "note": f"loss {rows[0]['loss']:.2f} to {rows[-1]['loss']:.2f}"}


def _run_twice(stage: Any, tokens: float) -> float:
    """The share of a step's tokens whose forward pass GradCache makes twice."""
    parts = -(-tokens // stage.micro_batch_tokens)
    return max(0.0, 1 - stage.grad_cache_kept / parts) if stage.runs_again else 0.0


def _steps(recipe: Any, folder: Path) -> list[dict[str, float]]:
    """What a run does between loading and saving, and nothing after: an encoder folder is made on the CPU."""
    from unmask.backbone.devices import precision_here
    from unmask.runs.rungs import stage_origins
    from unmask.runs.sources import open_data
    from unmask.training.building import StageContext
    from unmask.training.loop import fit
    from unmask.training.monitor import read_metrics
    from unmask.training.processes import make_accelerator
    from unmask.training.stages.run import JOBS

    stage, (origin,) = recipe.stages[0], stage_origins(recipe, folder)
    accelerator = make_accelerator(precision_here(recipe.precision), folder)
    settings, data = recipe.model.encoder_settings(), open_data(recipe)
    context = StageContext(origin, settings, data, recipe.seed, accelerator=accelerator)
    torch.manual_seed(0)
    with JOBS[type(stage)](stage, context) as job:
        fit(job, stage, folder / "stage", accelerator, seed=0)
    return read_metrics(folder / "stage" / "metrics.jsonl")


def _job(setup: Setup, folder: Path, shape: str, stage: dict[str, Any], pairs: list[dict[str, str]]) -> dict[str, Any]:
    """The same for sentence-transformers' trainer."""
    return {
        "model": str(setup.encoder(shape)),
        "dtype": setup.dtype,
        "scratch": str(folder),
        "sentences": [pair["query"] for pair in pairs],
        "pairs": pairs,
        "rows": stage["batch_size"],
        "length": stage["max_length"],
        "steps": stage["steps"],
        "mini_batch": setup.some(8, 64),
    }
