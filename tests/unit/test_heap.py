"""What glibc keeps of a process's memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from unmask.backbone.fast.operators import multiplies_bf16_on_cpu
from unmask.heap import glibc_of_a_cpu

pytestmark = pytest.mark.skipif(glibc_of_a_cpu() is None, reason="another C library, or a GPU")
HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")

# Blocks too small to be mapped by themselves; every tenth stays, so that the heap cannot shrink from its end.
FRAGMENTED = """
import psutil
from unmask.heap import trim_heap, use_one_heap
use_one_heap()
rss = lambda: psutil.Process().memory_info().rss
before = rss()
blocks = [bytearray(100_000) for _ in range(4000)]
blocks = blocks[::10]
kept = rss()
trim_heap()
assert kept - before > 350e6, (before, kept)
assert rss() - before < 100e6, (before, kept, rss())
"""
# What a layer does, at the heap's end.
LAYERS = """
import resource, sys, torch
from unmask import TextEncoder
TextEncoder.load(sys.argv[1]).encode(["a text"])

def work():
    for size in (30 << 20, 20 << 20):
        blocks = [torch.empty(size, dtype=torch.uint8).fill_(1) for _ in range(3)]
        del blocks

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

work()
before = faults()
for _ in range(5):
    work()
print(faults() - before)
"""
PAGES = 5 * 3 * (50 << 20) // os.sysconf("SC_PAGE_SIZE")  # that are written to
needs_small_pages = pytest.mark.skipif(HUGE.exists() and "[always]" in HUGE.read_text(), reason="a fault is 2 MB")


def faults(encoder, **variables):
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name and "TUNABLES" not in name}
    command = [sys.executable, "-c", LAYERS, str(encoder)]
    done = subprocess.run(command, env=environment | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.fixture
def folder(bidirectional, tmp_path):
    bidirectional.save(tmp_path / "encoder")
    return tmp_path / "encoder"


def test_trimming_gives_back_what_lies_between_what_is_used():
    subprocess.run([sys.executable, "-c", FRAGMENTED], check=True)


@needs_small_pages
def test_what_a_batch_frees_serves_the_next(folder):
    assert faults(folder) < PAGES / 10
    assert faults(folder, GLIBC_TUNABLES="glibc.malloc.check=0") < PAGES / 10


@needs_small_pages
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_the_environment_says_stands(folder, name):
    value = "131072" if name.startswith("MALLOC") else "glibc.malloc.trim_threshold=131072"
    assert faults(folder, **{name: value}) > PAGES / 2


KERNELS = """
import sys, psutil, torch
from unmask.heap import keep_few_kernels
if sys.argv[1] == "few":
    keep_few_kernels()
weights, rows = torch.randn(512, 512).bfloat16(), torch.randn(600, 512).bfloat16()
rows[:5] @ weights
before = psutil.Process().memory_info().rss
for count in range(6, 600):
    rows[:count] @ weights
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.skipif(not multiplies_bf16_on_cpu(), reason="no kernels of bfloat16")
def test_fewer_kernels_of_products_are_kept():
    def grown(kept):
        environment = {name: value for name, value in os.environ.items() if "PRIMITIVE_CACHE" not in name}
        done = subprocess.run([sys.executable, "-c", KERNELS, kept], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    everything = grown("all")
    if everything < 200e6:
        pytest.skip("this processor's kernels are small")
    assert grown("few") < 0.8 * everything
