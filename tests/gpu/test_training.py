"""Training on the device: gradients without padding, GradCache with dropout, every objective, four bits."""

import json
import math
from importlib.util import find_spec
from itertools import pairwise

import pytest
import torch

from tests.engine import LocalEngine
from unmask import TextEncoder, convert
from unmask.backbone.dropout import attention_dropout
from unmask.backbone.fast.varlen import keep_layout
from unmask.objectives.contrastive import Contrastive
from unmask.objectives.losses import NO_DOCUMENT, ContrastiveBatch, InfoNce, Part
from unmask.runs.recipe import load_recipe
from unmask.runs.run import train
from unmask.settings import EncoderSettings
from unmask.training.monitor import read_metrics

pytestmark = pytest.mark.gpu
TEXTS = ["A cat sleeps.", "The river flooded the town, and the bank closed for a week.", "No.", "Ice melts in May."]


@pytest.fixture
def encoder(tiny, tokenizer, device):
    """A tiny encoder with float32 weights, as they are while all of them are trained."""

    def build():
        model = tiny("llama", head=False, hidden_size=64, head_dim=16).to(device)
        convert(model)
        return TextEncoder(model, tokenizer, EncoderSettings(max_length=100))

    return build


def autocast(device):
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_without_padding_are_those_of_padded_batches(encoder, device, near, off, checkpointing):
    found = []
    for padding_free in (True, False):
        one = encoder()
        one.padding_free = padding_free
        if checkpointing:
            options = {"use_reentrant": False, "context_fn": keep_layout}
            one.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        one.model.train()
        with autocast(device):
            vectors = one.module(one.collate(one.tokenize(TEXTS)))
        (vectors * torch.linspace(-1, 1, vectors.numel(), device=device).view_as(vectors)).sum().backward()
        found.append(gradients(one.model))
    assert off(*found) < near


@pytest.mark.parametrize("padding_free", [True, False])
def test_gradcache_with_dropout_is_the_plain_step(encoder, device, near, off, padding_free):
    """The masks of the first pass must come again in the second: otherwise the gradient is another one."""
    found = []
    for again in (False, True):
        one = encoder()
        one.padding_free = padding_free
        one.model.train()
        tokenized = one.tokenize(TEXTS * 2)
        parts = [
            Part(n, one.collate([tokenized[i] for i in rows]), torch.tensor(rows, device=device))
            for n, rows in enumerate(([0, 1, 4], [2, 3], [5, 6, 7]))
        ]
        every, owners = torch.arange(8, device=device), torch.arange(4, device=device).repeat(2)
        unknown = torch.full((8,), NO_DOCUMENT, device=device)
        batch = ContrastiveBatch(parts, 4, every, unknown, owners, every)
        with attention_dropout(one.model, 0.3), autocast(device):
            out = Contrastive(InfoNce(), grad_cache=again).step(one.module, batch, LocalEngine())
        found.append((out.loss, gradients(one.model)))
    assert found[0][0] == pytest.approx(found[1][0], rel=near)
    assert off(found[1][1], found[0][1]) < near


@pytest.fixture
def losses(tmp_path, articles, tiny, tokenizer, dtype):
    """Stages -> the losses of each, as a run logs them; where training runs is the package's own choice."""
    model = tmp_path / "model"
    tiny("llama", hidden_size=64, head_dim=16).to(dtype).save_pretrained(model)
    tokenizer.save_pretrained(model)
    sentences = [s for text in articles for s in text.split(". ") if 30 < len(s) < 200]
    rows = {
        "mntp": [{"text": text} for text in articles],
        "simcse": [{"text": text} for text in sentences],
        "supervised": [{"query": a, "positive": b} for a, b in pairwise(sentences)],
    }
    for objective, data in rows.items():
        (tmp_path / f"{objective}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    sizes = {
        "mntp": {"batch_tokens": 512, "block_size": 64},
        "simcse": {"batch_size": 16, "max_length": 32},
        "supervised": {"batch_size": 16, "max_length": 32, "grad_cache": True},
    }
    shared = {"steps": 3, "micro_batch_tokens": 256, "log_every": 1, "lr": 1e-3}

    def run(*stages):
        sources = {name: {"files": [str(tmp_path / f"{name}.jsonl")]} for name in rows}
        sources["supervised"]["kind"] = "pairs"
        recipe = {
            "name": "t",
            "precision": "bf16" if dtype == torch.bfloat16 else "fp32",
            "model": {"name": str(model), "dtype": str(dtype).removeprefix("torch."), "max_length": 64},
            "data": {name: sources[name] for name in dict.fromkeys(stage["objective"] for stage in stages)},
            "stages": [{"data": s["objective"], **shared, **sizes[s["objective"]], **s} for s in stages],
        }
        train(load_recipe(recipe), tmp_path / "run", evaluate=lambda _: {})
        paths = sorted((tmp_path / "run" / "stages").glob("*/metrics.jsonl"))
        return [[row["loss"] for row in read_metrics(path)] for path in paths]

    return run


def test_every_objective_trains(losses):
    found = losses(
        {"objective": "mntp", "tuning": "full", "gradient_checkpointing": True},
        {"objective": "mntp", "tuning": "lora", "name": "again"},
        {"objective": "simcse", "tuning": "lora"},
        {"objective": "supervised", "tuning": "lora", "attention_dropout": 0.1},
    )
    assert [len(stage) for stage in found] == [3, 3, 3, 3]
    assert all(math.isfinite(loss) for stage in found for loss in stage)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_an_adapter_trains_on_four_bits(losses):
    (found,) = losses({"objective": "mntp", "tuning": "qlora"})
    assert len(found) == 3
    assert all(math.isfinite(loss) for loss in found)
