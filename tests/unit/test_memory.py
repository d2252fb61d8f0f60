"""The memory that is estimated: what autograd saves of a model without data is what it saves of the model itself."""

import copy

import pytest
import torch

from unmask.backbone.families.switches import set_attention_mode
from unmask.backbone.loading import empty_model, load_model, shapes_only
from unmask.backbone.structure import body
from unmask.training.building import make_trainable
from unmask.training.config import MntpSettings, SimcseSettings
from unmask.training.heap import _glibc
from unmask.training.loop import Job
from unmask.training.memory import Shape, _saved, estimate_memory
from unmask.training.rate import forget_peak, peak_bytes
from unmask.training.rehearsal import STEPS, heaviest

SHAPE = Shape(4, 128, 2)


def settings(kind=MntpSettings, **extra):
    return kind(**{"data": "x", "steps": 1, **extra})


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    "extra", [{"tuning": "full"}, {"tuning": "lora"}, {"tuning": "full", "gradient_checkpointing": True}]
)
def test_what_is_saved_without_data_is_what_is_saved(extra, bf16, flat):
    real = load_model("pocket", head=False, dtype="float32")
    empty = body(empty_model("pocket", head=True).float())
    found = []
    for model in (real, empty):
        set_attention_mode(model, "bidirectional")
        make_trainable(model, settings(**extra), None)
        if model is empty:
            with shapes_only(model):
                found.append(_saved(model, settings(**extra), SHAPE, bf16=bf16, flat=flat))
        else:
            found.append(_saved(copy.deepcopy(model), settings(**extra), SHAPE, bf16=bf16, flat=flat))
    assert found[1] == pytest.approx(found[0], rel=0.15)


def test_the_estimate_knows_adapters_checkpointing_four_bits_and_grad_cache():
    def estimate(stage, **options):
        return estimate_memory("pocket", torch.float32, stage, SHAPE, **{"bf16": False, "causal": False, **options})

    full, lora = estimate(settings(tuning="full")), estimate(settings(tuning="lora"))
    assert full.optimizer == 8 * full.trainable == 2 * full.gradients
    assert full.weights == 4 * 6843648
    assert lora.optimizer < full.optimizer / 5
    checkpointed = estimate(settings(tuning="full", gradient_checkpointing=True))
    assert checkpointed.activations < full.activations / 2
    assert estimate(settings(tuning="qlora")).weights < lora.weights / 1.5
    simcse = settings(SimcseSettings)
    cached = estimate(settings(SimcseSettings, grad_cache=True))
    assert estimate(simcse).activations == pytest.approx(2 * cached.activations)


def test_a_rehearsal_takes_the_steps_with_the_most_tokens_and_the_data_of_all():
    tokens = [30, 50, 20, 90, 40]
    job = Job(torch.nn.Linear(1, 1), None, lambda step: (f"batch {step}", tokens[step]))
    short, cut = heaviest(job, settings(SimcseSettings, steps=5))
    assert [short.batch(step) for step in range(STEPS)] == [("batch 3", 90), ("batch 1", 50)]
    assert cut.steps == STEPS
    stage = settings(steps=7, batch_tokens=16384, block_size=512, micro_batch_tokens=1024)
    again = stage.rehearsal()
    assert (again.batch_size, again.steps * again.batch_size) == (4, 7 * stage.batch_size)


@pytest.mark.skipif(_glibc() is None, reason="another system, or a GPU")
def test_a_peak_can_be_forgotten():
    device = torch.device("cpu")
    block = torch.ones(75_000_000)  # 300 MB, mapped by itself
    del block
    before = peak_bytes(device)
    forget_peak(device)
    assert peak_bytes(device) < before - 200e6
