"""What glibc keeps of a process's memory."""

import subprocess
import sys

import pytest

from unmask.training.heap import _glibc

pytestmark = pytest.mark.skipif(_glibc() is None, reason="another C library, or a GPU")

# Blocks too small to be mapped by themselves; every tenth stays, so that the heap cannot shrink from its end.
FRAGMENTED = """
import psutil
from unmask.training.heap import trim_heap, use_one_heap
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


def test_trimming_gives_back_what_lies_between_what_is_used():
    subprocess.run([sys.executable, "-c", FRAGMENTED], check=True)
