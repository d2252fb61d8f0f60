"""A pooling with weights and a loss of one's own, from registration through training to the reloaded encoder."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from unmask import Pooling, RecipeError, TextEncoder, load_recipe, register_pooling, train
from unmask.objectives.losses import LossOutput
from unmask.pooling import POOLINGS
from unmask.pooling.modules import averaged
from unmask.training.losses import LOSSES, LossSettings, register_loss


class Gate(nn.Module):
    """A mean whose weights are learned from the states."""

    def __init__(self, width):
        super().__init__()
        self.score = nn.Linear(width, 1)

    def forward(self, states, lengths, pooled, real=None):
        """Vectors [texts, width]."""
        weights = self.score(states.float()).squeeze(1).sigmoid() * pooled
        text = torch.repeat_interleave(torch.arange(len(lengths)), lengths, output_size=states.shape[0])
        return averaged(states, weights, text, len(lengths))


class PullSettings(LossSettings):
    kind: str = "pull"
    strength: float = 1.0

    def build(self):
        """Draws positives to their anchors, and nothing else."""
        return self

    def backward(self, vectors, batch, weight=1.0):
        """Mean squared distance."""
        n = batch.anchors
        loss = (vectors[:n] - vectors[n : 2 * n]).pow(2).sum(1).mean() * self.strength
        (loss * weight).backward()
        return LossOutput(float(loss.detach()), metrics={"distance": float(loss.detach())})


@pytest.fixture(autouse=True)
def registered():
    register_pooling("gate", Pooling(Gate, averages=True))
    register_loss("pull", PullSettings)
    yield
    del POOLINGS["gate"], LOSSES["pull"]


@pytest.fixture
def recipe(tmp_path, articles):
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps({"text": text[:200]}) + "\n" for text in articles))

    def build(steps=4, pooling="gate", **stage):
        shared = {"data": "docs", "steps": steps, "batch_size": 8, "max_length": 32, "lr": 1e-2, "save_every": 2}
        return load_recipe(
            {
                "name": "own",
                "precision": "fp32",
                "model": {"name": "pocket", "dtype": "float32", "pooling": pooling, "max_length": 64},
                "data": {"docs": {"files": [str(path)]}},
                "stages": [
                    {"objective": "simcse", **shared, **stage},
                    {"objective": "simcse", "name": "again", **shared, **stage},
                ],
            }
        )

    return build


def test_a_pooling_with_weights_is_trained_carried_on_saved_and_reloaded(recipe, tmp_path):
    result = train(recipe(), tmp_path / "run", evaluate=lambda _: {})
    first, last = (
        load_file(tmp_path / f"run/stages/{name}/encoder/pooling.safetensors") for name in ("1-simcse", "2-again")
    )
    assert not torch.equal(first["score.weight"], last["score.weight"])
    step_two = load_file(tmp_path / "run/stages/2-again/checkpoints/step-00000004/weights.safetensors")
    assert torch.equal(step_two["pooling.score.weight"], last["score.weight"])
    encoder = TextEncoder.load(result.encoder)
    assert torch.equal(encoder.module.pooling.score.weight, last["score.weight"])
    texts = ["One text.", "Another, a longer one, to be read beside it."]
    alone = np.stack([encoder.encode(text) for text in texts])
    np.testing.assert_allclose(encoder.encode(texts), alone, atol=1e-5)
    mean = TextEncoder.load(result.encoder, pooling="mean")
    assert not np.allclose(mean.encode(texts), alone, atol=1e-4)
    adapter = TextEncoder.load(tmp_path / "run/stages/1-simcse/adapter")
    assert torch.equal(adapter.module.pooling.score.weight, first["score.weight"])
    further = load_recipe(
        {**recipe().model_dump(mode="json"), "model": {"name": str(result.encoder), "pooling": "gate"}}
    )
    onward = train(
        further, tmp_path / "further", evaluate=lambda encoder: {"w": float(encoder.module.pooling.score.bias)}
    )
    assert onward.rungs[1].figures["w"] == float(last["score.bias"])  # the base brings its pooling along
    assert onward.rungs[2].figures["w"] != onward.rungs[1].figures["w"]
    again = train(recipe(), tmp_path / "again", evaluate=lambda _: {})
    same = load_file(again.encoder / "pooling.safetensors")
    assert torch.equal(same["score.weight"], last["score.weight"])


def test_another_loss_is_named_in_the_recipe(recipe, tmp_path):
    made = recipe(pooling="mean", loss={"kind": "pull", "strength": 2.0})
    assert load_recipe(made.model_dump(mode="json")) == made
    train(made, tmp_path / "run", evaluate=lambda _: {})
    rows = [json.loads(line) for line in (tmp_path / "run/stages/1-simcse/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["distance"] == pytest.approx(rows[-1]["loss"])
    for wrong, message in [
        ({"loss": {"kind": "push"}}, "no loss of kind 'push'"),
        ({"loss": {"kind": "pull", "strenght": 1.0}}, "unknown key"),
        ({"loss": {"kind": "pull"}, "scale": 7.0}, "scale belongs to InfoNCE"),
    ]:
        with pytest.raises(RecipeError, match=message):
            recipe(pooling="mean", **wrong)
    with pytest.raises(RecipeError, match="pooling='gates' is not known"):
        recipe(pooling="gates")


def test_a_pooling_that_nothing_has_trained_yet_is_the_same_everywhere():
    first, second = (TextEncoder.load("pocket", pooling="gate") for _ in range(2))
    assert torch.equal(first.module.pooling.score.weight, second.module.pooling.score.weight)
