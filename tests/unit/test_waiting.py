"""OpenMP's threads sleep while they wait, so that a busy process beside them does not stop them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch  # noqa: F401  loads the OpenMP that is asked for below

from unmask import TextEncoder, threads

OPENMP = (*threads.WAITING, "OMP_WAIT_POLICY", "KMP_LIBRARY", "OMP_NUM_THREADS")
MAPS = Path("/proc/self/maps")
needs_libgomp = pytest.mark.skipif(not MAPS.exists() or "libgomp" not in MAPS.read_text(), reason="another OpenMP")
WORK = """
import os, time, torch
from unmask.threads import look_around
torch.set_num_threads(int(os.environ.get("THREADS", os.cpu_count())))
matrix = torch.ones(256, 256)
until = time.perf_counter() + 3.5
while time.perf_counter() < until:
    matrix @ matrix
    look_around("cpu")
"""


def run(*arguments, **variables):
    """A Python of its own, in which nobody has said yet how threads wait; what it wrote to stderr."""
    environment = {name: value for name, value in os.environ.items() if name not in OPENMP}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def spins(stderr):
    """What each OpenMP of a process says that it read (GNU's, with OMP_DISPLAY_ENV)."""
    return {int(count) for count in re.findall(r"GOMP_SPINCOUNT = '(\d+)'", stderr)}


@pytest.fixture
def busy_process():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield
    busy.kill()
    busy.wait()


def test_importing_the_package_says_it_without_loading_torch():
    code = "import os, sys, unmask; assert 'torch' not in sys.modules; print({n: os.environ[n] for n in %r})"
    run("-c", code % (tuple(threads.WAITING),))


@needs_libgomp
def test_openmp_is_told_by_the_package_and_by_a_command(tmp_path):
    told = {int(threads.WAITING["GOMP_SPINCOUNT"])}
    assert spins(run("-c", "import unmask, torch", OMP_DISPLAY_ENV="VERBOSE")) == told
    command = ("-m", "unmask", "convert", "pocket", "--out", str(tmp_path / "encoder"))
    assert spins(run(*command, OMP_DISPLAY_ENV="VERBOSE")) == told


@needs_libgomp
@pytest.mark.parametrize(
    ("variables", "count"), [({"GOMP_SPINCOUNT": "7"}, 7), ({"OMP_WAIT_POLICY": "ACTIVE"}, 30_000_000_000)]
)
def test_what_the_user_has_set_stands(variables, count):
    code = "import os, unmask, torch; assert 'KMP_BLOCKTIME' not in os.environ"
    assert spins(run("-c", code, OMP_DISPLAY_ENV="VERBOSE", **variables)) == {count}


@needs_libgomp
@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor")
def test_too_late_is_said_once_and_only_where_it_matters(busy_process):
    late, in_time = "import torch, unmask" + WORK, "import unmask" + WORK
    assert run("-c", late).count("Import unmask before torch") == 1
    assert "Import unmask" not in run("-c", late, GOMP_SPINCOUNT="0")
    assert "Import unmask" not in run("-c", late, THREADS="1")
    assert "Import unmask" not in run("-c", in_time)


def test_encoding_looks_for_busy_processes_where_threads_spin(monkeypatch):
    monkeypatch.setattr(threads, "_too_late", True)
    monkeypatch.setattr(threads, "_last", None)
    encoder = TextEncoder.load("pocket", attention="bidirectional", device="cpu")
    assert threads._last is None
    encoder.encode(["Ice melts in May."])
    assert threads._last is not None or sys.platform != "linux"
