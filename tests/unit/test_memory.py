"""The memory that is estimated: what autograd saves of a model without data is what it saves of the model itself."""

import copy

import psutil
import pytest
import torch

from unmask.backbone.families.switches import set_attention_mode
from unmask.backbone.loading import empty_model, load_model, shapes_only
from unmask.backbone.structure import body
from unmask.heap import glibc_of_a_cpu
from unmask.runs.main_memory import main_memory
from unmask.training.building import make_trainable
from unmask.training.config import MntpSettings, SimcseSettings
from unmask.training.loop import Job
from unmask.training.memory import Shape, _saved, estimate_memory
from unmask.training.rate import _largest_set, forget_peak, peak_bytes
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
    products = estimate(settings(tuning="full", gradient_checkpointing="products"))
    assert checkpointed.activations * 1.2 < products.activations < full.activations * 0.9
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


@pytest.mark.skipif(glibc_of_a_cpu() is None, reason="another system, or a GPU")
def test_a_peak_can_be_forgotten():
    device = torch.device("cpu")
    block = torch.ones(75_000_000)  # 300 MB, mapped by itself
    del block
    before = peak_bytes(device)
    forget_peak(device)
    assert peak_bytes(device) < before - 200e6


def test_the_largest_set_is_in_bytes_on_macos_and_in_units_of_1024_elsewhere():
    assert _largest_set(7_000_000, "darwin") == 7_000_000
    assert _largest_set(7_000, "linux") == _largest_set(7_000, "freebsd14") == 7_168_000


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_the_limit_of_a_container_counts_where_it_is_below_what_the_machine_has(tmp_path):
    machine = psutil.virtual_memory().total
    assert main_memory(tmp_path).total == machine  # a system without control groups
    group = tmp_path / "sys/fs/cgroup"
    write(tmp_path / "proc/self", cgroup="0::/user/job")
    write(group / "user/job", memory__max="max", memory__current=10**6)
    assert main_memory(tmp_path).total == machine
    write(group / "user/job", memory__max=10**15)
    assert main_memory(tmp_path).total == machine
    write(group / "user", memory__max=10**7, memory__current=6 * 10**6, memory__stat="anon 1\ninactive_file 2000000")
    assert main_memory(tmp_path).total == 10**7  # of the group around it
    assert main_memory(tmp_path).free == 6 * 10**6  # 4 are in use, and 2 hold files
    write(group, memory__max=4 * 10**6, memory__current=5 * 10**6)
    assert main_memory(tmp_path).total == 4 * 10**6
    assert main_memory(tmp_path).free == 0


def test_the_limit_of_the_first_version_of_control_groups_also_as_a_container_sees_it(tmp_path):
    write(tmp_path / "proc/self", cgroup="5:cpu,cpuacct:/x\n4:memory:/docker/a1\n0::/")
    group = tmp_path / "sys/fs/cgroup/memory"  # where the group itself lies, under another name
    write(group, memory__limit_in_bytes=9 * 10**6, memory__usage_in_bytes=5 * 10**6)
    assert (main_memory(tmp_path).total, main_memory(tmp_path).free) == (9 * 10**6, 4 * 10**6)
    write(group / "docker/a1", memory__limit_in_bytes=8 * 10**6, memory__usage_in_bytes=10**6)
    write(group / "docker/a1", memory__stat="total_inactive_file 500000")
    assert (main_memory(tmp_path).total, main_memory(tmp_path).free) == (8 * 10**6, 4 * 10**6)
