"""Memory that one batch frees serves the next, instead of coming back from the system page by page."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told")
# What a layer does, at the heap's end.
FAULTS = """
import resource, sys, torch
from unmask import TextEncoder
encoder = TextEncoder.load(sys.argv[1])
encoder.encode(["a text"])

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
PAGES = 5 * 3 * ((30 << 20) + (20 << 20)) // os.sysconf("SC_PAGE_SIZE")  # touched


def faults(encoder, **variables):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, str(encoder)], env=os.environ | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.fixture
def folder(bidirectional, tmp_path):
    bidirectional.save(tmp_path / "encoder")
    return tmp_path / "encoder"


def test_what_a_batch_frees_serves_the_next(folder):
    assert faults(folder) < PAGES / 100


def test_the_environment_of_the_user_stands(folder):
    assert faults(folder, MALLOC_TRIM_THRESHOLD_="131072") > PAGES / 2
