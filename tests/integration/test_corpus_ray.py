"""`unmask encode --engine ray` on a real Ray of two workers: the files of the local engine, though one is killed."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.integration.small import write_small_encoder

pytestmark = pytest.mark.slow
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    write_small_encoder(folder / "encoder")
    rows = (f"sentence number {n} of a text, with {n % 7 * 'some more '}words" for n in range(3000))
    (folder / "texts.txt").write_text("".join(f"{row}\n" for row in rows))

    def make(out, *options):
        inputs = ["encode", str(folder / "encoder"), str(folder / "texts.txt"), "--out", str(out)]
        return [sys.executable, "-m", "unmask", *inputs, "--shard-rows", "75", "--dtype", "float32", *options]

    return make


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """The shards that the local engine writes."""
    out = tmp_path_factory.mktemp("local") / "out"
    subprocess.run(command(out), check=True, env=ENVIRONMENT, capture_output=True)
    return shards(out)


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("part-*.parquet")}


def workers(process):
    """The processes of Ray's actors that encode."""
    found = psutil.Process(process.pid).children(recursive=True)
    return [one for one in found if one.is_running() and " ".join(one.cmdline()).startswith("ray::Map")]


def test_two_workers_of_which_one_is_killed_write_what_the_local_engine_writes(command, whole, tmp_path):
    out = tmp_path / "out"
    started = subprocess.Popen(
        command(out, "--engine", "ray", "--ray-workers", "2"), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    killed = None
    try:
        while started.poll() is None and killed is None:
            time.sleep(0.1)
            if len(shards(out)) >= 4 and len(found := workers(started)) == 2:
                killed = found[0].pid
                os.kill(killed, signal.SIGKILL)
        error = started.communicate()[1]
    finally:
        started.kill()  # Ray ends with its driver
    assert killed is not None, error
    assert started.returncode == 0, error
    assert shards(out) == whole
    assert not list(out.glob("*.partial"))
    assert "3,000 vectors written" in error


def test_either_engine_goes_on_where_the_other_stopped(command, whole, tmp_path):
    out = tmp_path / "out"
    begun = subprocess.Popen(command(out), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    while len(shards(out)) < 4:
        time.sleep(0.02)
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    assert len(shards(out)) < len(whole)
    ray = command(out, "--engine", "ray", "--ray-workers", "2")
    subprocess.run(ray, check=True, env=ENVIRONMENT, capture_output=True)
    assert shards(out) == whole
    for number in (0, 7, 39):
        (out / f"part-{number:05d}.parquet").unlink()
    subprocess.run(command(out), check=True, env=ENVIRONMENT, capture_output=True)
    assert shards(out) == whole
